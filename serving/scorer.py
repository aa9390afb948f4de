"""From decoded flights to answers: schedule, features, score, reasons.

One call reads the online store once for all flights of a request. Not for HTTP (`app`), and not
for what a request may hold (`requests`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from hindcast.errors import HindcastError, OnlineStoreUnavailableError
from hindcast.online import OnlineReader, OnlineRows
from hindcast.online_store import Status
from serving.bundle import KEYS, Bundle
from serving.intime import OutOfTime, micros, only, out_of_time
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
NOTHING_READ = OnlineRows({}, {}, {}, {}, {})


def _any_present(statuses: Sequence[Status]) -> bool:
    return Status.PRESENT in statuses


def minutes_since(event_us: Sequence[int | None], now_us: int) -> list[float | None]:
    """Whole tenths of minutes; None stays None."""
    return [None if at is None else (now_us - at) // 6_000_000 / 10 for at in event_us]


class StoreAwayError(HindcastError):
    """The online store cannot be read now. What is told outside names no path."""


@dataclass(frozen=True)
class Answered:
    """What is logged of an answer: flights, what was served of each, and what a model said."""

    flights: list[Flight]
    rows: OnlineRows
    p: list[float]
    flags: list[bool]
    model: str


@dataclass(frozen=True)
class Scored:
    """Flights with their features and scores: columns, all of one length.

    `flights` are complete: nothing of them is left out any more. `places`: where each stood
    among those that were asked for. `errors`: the others, by place.
    """

    flights: list[Flight]
    places: list[int]
    errors: Mapping[int, RowError]
    values: Mapping[str, Sequence[Any]]
    """What the model saw: its keys, and all features served."""
    rows: OnlineRows
    p: list[float]
    flags: list[bool]
    log_odds: list[float]
    leaves: Any
    by: Scorer
    """Whose model scored: it alone may tell of the answer, another may be in use by then."""

    @property
    def answered(self) -> Answered:
        """What of it is logged."""
        return Answered(self.flights, self.rows, self.p, self.flags, self.by.bundle.id)


class Clock:
    """The service's now: the machine's, or an instant at which it stands."""

    def __init__(self, stands_at: datetime | None = None) -> None:
        """Stand still at `stands_at`, if one is given."""
        self.stands_at = stands_at

    def now(self) -> datetime:
        """Now, in UTC."""
        return self.stands_at or datetime.now(UTC)


class Scorer:
    """Answers for one model, always the same. The schedule and the reader may be replaced.

    Thread-safe.
    """

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
        self.stands = NOTHING_READ
        """Where the views stood and what they came from at the last read; no rows of it."""

    # --- completing a flight ------------------------------------------------------------

    @property
    def as_of(self) -> dict[str, datetime | None]:
        """The instant up to which each view was materialized, as of the last read."""
        return self.stands.as_of

    @property
    def known_until(self) -> datetime | None:
        """The latest instant up to which a view was materialized, as of the last read."""
        return max((at for at in self.as_of.values() if at is not None), default=None)

    def complete(self, flight: Flight) -> Flight | RowError:
        """Fill in what was left out, or say why that cannot be.

        What T may be is seen again once the features are read: they may be newer by then.
        """
        until = self.known_until
        at = flight.predict_at or flight.sched_dep_at - self.bundle.horizon
        if until is not None and at < until:
            if flight.predict_at is not None:
                return _too_early(until)
            if flight.sched_dep_at < until:
                return _departed(until)
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

    def score(self, asked: Sequence[Flight | RowError], reader: OnlineReader) -> Scored:
        """Complete flights, read their features and score them; one that cannot be fails alone.

        No flight is answered with a feature that became known after its T, or that training
        would have held for too old at T. Where T was left out, it is moved once to the instant
        its features are known up to.

        Raises:
            StoreAwayError: the online store cannot be read now, or holds nothing.
        """
        complete, errors = _parted(
            {i: f if isinstance(f, RowError) else self.complete(f) for i, f in enumerate(asked)}
        )
        rows, late = self._read_in_time(reader, complete)
        if late:
            moved, refused = _parted(
                {i: _moved(asked[i], complete[i], fault) for i, fault in late.items()}
            )
            errors |= refused
            if moved:
                complete = {i: moved.get(i, complete[i]) for i in complete if i not in refused}
                rows, late = self._read_in_time(reader, complete)
                errors |= {i: _refused(fault) for i, fault in late.items()}
            rows = only(rows, [n for n, i in enumerate(complete) if i not in errors])
            complete = {i: flight for i, flight in complete.items() if i not in errors}
        return self._scored(complete, errors, rows)

    def _read_in_time(
        self, reader: OnlineReader, complete: Mapping[int, Flight]
    ) -> tuple[OnlineRows, dict[int, OutOfTime]]:
        """The features of flights by place, and the flights that may not be answered with them."""
        if not complete:
            return self.stands, {}
        rows = self._read(reader, list(complete.values()))
        if not any(rows.as_of.values()) and not any(map(_any_present, rows.statuses.values())):
            raise StoreAwayError(EMPTY)
        at = [flight.predict_at for flight in complete.values() if flight.predict_at is not None]
        places = list(complete)
        found = out_of_time(rows, at, reader.ttls)
        return rows, {places[n]: fault for n, fault in found.items()}

    def _scored(
        self, complete: Mapping[int, Flight], errors: Mapping[int, RowError], rows: OnlineRows
    ) -> Scored:
        flights = list(complete.values())
        if not flights:
            return Scored([], [], errors, {}, rows, [], [], [], None, self)
        keys = {name: [getattr(f, name) for f in flights] for name in self._keys}
        values = keys | rows.values
        scores = self.bundle.trees.score(values)
        return Scored(
            flights,
            list(complete),
            errors,
            values,
            rows,
            scores.p.tolist(),
            (scores.p >= self.bundle.threshold).tolist(),
            self.bundle.trees.log_odds(scores.raw).tolist(),
            scores.leaves,
            self,
        )

    def look(self) -> None:
        """Read a flight that nobody flies: is the store there, and where does it stand?

        Raises:
            StoreAwayError: the store cannot be read now.
        """
        now = self.clock.now()
        self._read(
            self.reader,
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
            ],
        )

    def _read(self, reader: OnlineReader, flights: list[Flight]) -> OnlineRows:
        """The features of complete flights. A store that failed is not asked again at once."""
        if time.monotonic() < self._away_until:
            raise StoreAwayError(UNAVAILABLE)
        asked = (*reader.keys, *reader.request)
        try:
            rows = reader.read({name: [getattr(f, name) for f in flights] for name in asked})
        except OnlineStoreUnavailableError as fault:
            if not self._away_until:
                self._tell(str(fault))
            self._away_until = time.monotonic() + PAUSE
            raise StoreAwayError(UNAVAILABLE) from None
        if self._away_until:
            self._tell("the online store can be read again")
            self._away_until = 0.0
        self.stands = replace(rows, values={}, statuses={}, event_us={})
        return rows

    # --- telling ------------------------------------------------------------------------

    def results(self, scored: Scored, features: bool, reasons: bool) -> list[dict[str, Any]]:
        """One answer for each flight, ready for JSON."""
        now_us = micros(self.clock.now())
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

    def header(self, scored: Scored) -> dict[str, Any]:
        """What an answer says of the model and of the features it used."""
        oldest = min((at for at in scored.rows.as_of.values() if at is not None), default=None)
        return {
            "model": self.bundle.id,
            "snapshot": scored.rows.snapshot,
            "as_of": oldest,
            "threshold": self.bundle.threshold,
            "base_rate": self.bundle.base_rate,
        }


def _parted(
    found: Mapping[int, Flight | RowError],
) -> tuple[dict[int, Flight], dict[int, RowError]]:
    """Flights and errors, by place."""
    flights = {i: each for i, each in found.items() if isinstance(each, Flight)}
    return flights, {i: each for i, each in found.items() if isinstance(each, RowError)}


def _moved(asked: Flight | RowError, complete: Flight, fault: OutOfTime) -> Flight | RowError:
    """A flight at the T at which its features are known, if its T was ours to choose."""
    if isinstance(asked, RowError) or asked.predict_at is not None:
        return _refused(fault)
    if complete.sched_dep_at < fault.known_until:
        return _departed(fault.known_until)
    return msgspec.structs.replace(complete, predict_at=fault.known_until)


def _refused(fault: OutOfTime) -> RowError:
    if fault.expired is None:
        return _too_early(fault.known_until)
    return RowError(
        "features_expired",
        f"at predict_at the features of {fault.expired} are past their TTL, and training would "
        f"not have them; leave predict_at out, give one nearer to {fault.known_until.isoformat()}, "
        "or ask again once the features are newer",
    )


def _too_early(until: datetime) -> RowError:
    return RowError(
        "predict_at_too_early",
        f"the features are known up to {until.isoformat()}, which is after predict_at; "
        "leave predict_at out, or give a later one",
    )


def _departed(until: datetime) -> RowError:
    return RowError(
        "departed",
        f"sched_dep_at is before {until.isoformat()}, the instant the features "
        "stand at; there is nothing to predict any more",
    )
