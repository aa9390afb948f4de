"""From decoded flights to answers: schedule, features, score, reasons.

One call reads the online store once for all flights of a request. Not for HTTP (`app`), and not
for what a request may hold (`requests`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from hindcast.errors import HindcastError, OnlineStoreUnavailableError
from hindcast.online import OnlineReader, OnlineRows
from hindcast.online_store import Status
from serving.bundle import KEYS, Bundle
from serving.requests import Flight, RowError
from serving.schedule import Schedule
from serving.words import Explainer

PAUSE = 0.25  # seconds for which a store that failed is not asked again
UNAVAILABLE = (
    "the online store cannot be read now; scoring goes on by itself once it is back "
    "(the service's own log has the details)"
)
EMPTY = (
    "the online store holds nothing of these features: nothing was materialized, or it was "
    "emptied; scoring goes on by itself once it is filled"
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _any_present(statuses: Sequence[Status]) -> bool:
    return Status.PRESENT in statuses


def minutes_since(event_us: Sequence[int | None], now_us: int) -> list[float | None]:
    """Whole tenths of minutes; None stays None."""
    return [None if at is None else (now_us - at) // 6_000_000 / 10 for at in event_us]


class StoreAwayError(HindcastError):
    """The online store cannot be read now. What is told outside names no path."""


@dataclass(frozen=True)
class Scored:
    """Flights with their features and scores: columns, all of one length.

    `flights` are complete: nothing of them is left out any more.
    """

    flights: list[Flight]
    values: Mapping[str, Sequence[Any]]
    """What the model saw: its keys, and all features served."""
    rows: OnlineRows
    p: list[float]
    flags: list[bool]
    log_odds: list[float]
    leaves: Any


class Clock:
    """The service's now: the machine's, or an instant at which it stands."""

    def __init__(self, stands_at: datetime | None = None) -> None:
        """Stand still at `stands_at`, if one is given."""
        self.stands_at = stands_at

    def now(self) -> datetime:
        """Now, in UTC."""
        return self.stands_at or datetime.now(UTC)


class Scorer:
    """Answers for one model. Thread-safe; the schedule and the reader may be replaced."""

    def __init__(
        self,
        bundle: Bundle,
        reader: OnlineReader,
        schedule: Schedule,
        clock: Clock,
        explainer: Explainer,
        tell: Callable[[str], None],
    ) -> None:
        """Check that the model fits the reader and a request holds what the reader needs.

        Raises:
            MisfitError: it does not.
        """
        bundle.refuse_misfit(reader)
        self.bundle, self.schedule, self.clock = bundle, schedule, clock
        self.explainer = explainer
        self.reader = reader
        self._tell = tell
        self._keys = [column.name for column in bundle.columns if column.view == KEYS]
        self._away_until = 0.0
        self.as_of: dict[str, datetime | None] = {}
        self.snapshot: str | None = None

    # --- completing a flight ------------------------------------------------------------

    @property
    def known_until(self) -> datetime | None:
        """The latest instant up to which a view was materialized, as of the last read."""
        return max((at for at in self.as_of.values() if at is not None), default=None)

    def complete(self, flight: Flight) -> Flight | RowError:
        """Fill in what was left out, or say why that cannot be."""
        until = self.known_until
        at = flight.predict_at or flight.sched_dep_at - self.bundle.horizon
        if until is not None and at < until:
            if flight.predict_at is not None:
                return RowError(
                    "predict_at_too_early",
                    f"the features are known up to {until.isoformat()}, which is after predict_at; "
                    "leave predict_at out, or give a later one",
                )
            if flight.sched_dep_at < until:
                return RowError(
                    "departed",
                    f"sched_dep_at is before {until.isoformat()}, the instant the features "
                    "stand at; there is nothing to predict any more",
                )
            at = until
        distance, block = flight.distance_mi, flight.block_min
        if distance is None or block is None:
            found = self.schedule.find(
                flight.carrier, flight.flight, flight.origin, flight.dest, flight.sched_dep_at
            )
            if found is None:
                return RowError(
                    "not_in_schedule",
                    "the published schedule has no such flight at sched_dep_at; give distance_mi "
                    "and block_min, or correct the flight",
                )
            distance = found.distance_mi if distance is None else distance
            block = found.block_min if block is None else block
        return msgspec.structs.replace(flight, predict_at=at, distance_mi=distance, block_min=block)

    # --- scoring ------------------------------------------------------------------------

    def score(self, flights: list[Flight]) -> Scored:
        """Read the features of complete flights and score them.

        Raises:
            StoreAwayError: the online store cannot be read now, or holds nothing.
        """
        rows = self._read(flights)
        if not any(rows.as_of.values()) and not any(map(_any_present, rows.statuses.values())):
            raise StoreAwayError(EMPTY)
        keys = {name: [getattr(f, name) for f in flights] for name in self._keys}
        values = keys | rows.values
        scores = self.bundle.trees.score(values)
        return Scored(
            flights,
            values,
            rows,
            scores.p.tolist(),
            (scores.p >= self.bundle.threshold).tolist(),
            self.bundle.trees.log_odds(scores.raw).tolist(),
            scores.leaves,
        )

    def look(self) -> None:
        """Read a flight that nobody flies: is the store there, and where does it stand?

        Raises:
            StoreAwayError: the store cannot be read now.
        """
        now = self.clock.now()
        self._read(
            [
                Flight(
                    carrier="XX",
                    flight=1,
                    origin="XXX",
                    dest="XXX",
                    tailnum=None,
                    sched_dep_at=now,
                    predict_at=now,
                    distance_mi=1.0,
                    block_min=1.0,
                )
            ]
        )

    def _read(self, flights: list[Flight]) -> OnlineRows:
        """The features of complete flights. A store that failed is not asked again at once."""
        if time.monotonic() < self._away_until:
            raise StoreAwayError(UNAVAILABLE)
        asked = (*self.reader.keys, *self.reader.request)
        try:
            rows = self.reader.read({name: [getattr(f, name) for f in flights] for name in asked})
        except OnlineStoreUnavailableError as fault:
            if not self._away_until:
                self._tell(str(fault))
            self._away_until = time.monotonic() + PAUSE
            raise StoreAwayError(UNAVAILABLE) from None
        if self._away_until:
            self._tell("the online store can be read again")
            self._away_until = 0.0
        self.as_of, self.snapshot = rows.as_of, rows.snapshot
        return rows

    # --- telling ------------------------------------------------------------------------

    def results(self, scored: Scored, features: bool, reasons: bool) -> list[dict[str, Any]]:
        """One answer for each flight, ready for JSON."""
        now_us = (self.clock.now() - EPOCH) // timedelta(microseconds=1)
        ages = {view: minutes_since(at, now_us) for view, at in scored.rows.event_us.items()}
        answers = []
        for i, (flight, p, flag) in enumerate(
            zip(scored.flights, scored.p, scored.flags, strict=True)
        ):
            answer: dict[str, Any] = {
                "probability": p,
                "flag": flag,
                "predict_at": flight.predict_at,
                "ages_min": {view: minutes[i] for view, minutes in ages.items()},
            }
            if features:
                answer["features"] = self.features(scored, i)
            if reasons:
                answer["reasons"] = self.reasons(scored, i, answer["ages_min"])
            answers.append(answer)
        return answers

    def features(self, scored: Scored, i: int) -> dict[str, Any]:
        """What the model saw of a flight, keys included."""
        return {name: column[i] for name, column in scored.values.items()}

    def reasons(self, scored: Scored, i: int, ages: Mapping[str, float | None]) -> dict[str, Any]:
        """Why a flight has its score: log odds by group of features, adding up to its own."""
        trees = self.bundle.trees
        added = trees.slope * trees.contributions(scored.leaves[i])
        return self.explainer.explain(
            self.features(scored, i), added, trees.base_log_odds, scored.log_odds[i], ages
        )

    def header(self) -> dict[str, Any]:
        """What every answer says of the model and the features it used."""
        oldest = min((at for at in self.as_of.values() if at is not None), default=None)
        return {
            "model": self.bundle.id,
            "snapshot": self.snapshot,
            "as_of": oldest,
            "threshold": self.bundle.threshold,
            "base_rate": self.bundle.base_rate,
        }
