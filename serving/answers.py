"""The log of what was answered: the features served, T, the score, the model and the snapshot.

Written by a thread through Feast's feature logging, so the service's own `logging_config` says
where, and Feast's names say what each column is. Times are kept to the microsecond; Feast's
schema would cut them to seconds. Beside Feast's columns stand those of `ASKED` and `OWN`.
Not for reading the log: `hindcast parity` does.

Nothing is answered that cannot be logged: where the log cannot be written, what waits is
bounded, and a request beyond it is refused. `close` writes all that waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import pyarrow as pa
from feast import FeatureService, FeatureStore
from feast.feature_logging import (
    LOG_DATE_FIELD,
    LOG_TIMESTAMP_FIELD,
    REQUEST_ID_FIELD,
    FeatureServiceLoggingSource,
)

from hindcast.errors import HindcastError
from hindcast.online import OnlineReader
from serving.requests import Flight
from serving.scorer import Answered

MOST_WAITING = 20_000  # answers; at most about 10 kB each
WRITE_AT = 5_000
WRITE_EVERY = 10.0  # seconds
WAIT_FOR_ROOM = 1.0
YIELD = 0.001  # seconds left to requests after each column that is made for the log
GIVE_UP_CLOSING_AFTER = 10.0
INSTANT = pa.timestamp("us", tz="UTC")
ASKED = {
    "carrier": pa.string(),
    "flight": pa.int64(),
    "origin": pa.string(),
    "dest": pa.string(),
    "tailnum": pa.string(),
    "sched_dep_at": INSTANT,
    "predict_at": INSTANT,
    "distance_mi": pa.float64(),
    "block_min": pa.float64(),
}
"""The flight as it was scored, with nothing left out; those that are keys have Feast's types."""
OWN = {
    "score": pa.float64(),
    "flag": pa.bool_(),
    "model": pa.string(),
    "as_of": INSTANT,
    "snapshot": pa.string(),
}
"""Columns beside those of Feast's logging schema. `as_of` and `snapshot` are what all views stood
at and came from, NULL if they differ."""


class LogFullError(HindcastError):
    """The log takes no answer: it cannot be written and no more can wait, or it is closed."""


class LogClosedError(LogFullError):
    """The log was closed; another may have taken its place."""


Columns = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer that waits. In tuples, which Python's garbage collector leaves alone.

    `values` by feature of the reader, `statuses` and `event_us` by view.
    """

    request_id: str
    at: datetime
    model: str
    flights: Sequence[Flight]
    values: Columns
    statuses: Columns
    event_us: Columns
    scores: Sequence[float]
    flags: Sequence[bool]
    as_of: datetime | None
    snapshot: str | None


class AnswerLog:
    """Takes answers at once and writes them soon after, in a thread of its own."""

    def __init__(
        self,
        store: FeatureStore,
        service: FeatureService,
        reader: OnlineReader,
        tell: Callable[[str], None],
    ) -> None:
        """Log answers with the features of a service, which says where to."""
        self._store, self._service = store, service
        self._reader, self._tell = reader, tell
        on_demand = {view.name for view in store.list_on_demand_feature_views()}
        views = dict.fromkeys(spec.view for spec in reader.features.values())
        self._views = [view for view in views if view not in on_demand]
        source = FeatureServiceLoggingSource(service, store.project)
        self._schema = pa.schema(
            [
                pa.field(f.name, INSTANT if pa.types.is_timestamp(f.type) else f.type)
                for f in source.get_schema(store.registry)
            ]
        )
        for name, kind in (ASKED | OWN).items():
            if name not in self._schema.names:
                self._schema = self._schema.append(pa.field(name, kind))
        self._changed = threading.Condition()
        self._answers: list[_Answer] = []
        self._waiting = 0
        self._closing: float | None = None
        self.written = 0
        self.failing = False
        self._thread = threading.Thread(target=self._run, name="answer-log", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Answers that are not written yet."""
        return self._waiting

    def require_room(self, rows: int) -> None:
        """Wait a moment for room for so many answers.

        Raises:
            LogFullError: there is none.
        """
        with self._changed:
            self._require_open()
            if self._waiting + rows > MOST_WAITING:
                self._changed.notify_all()
                self._changed.wait_for(
                    lambda: self._waiting + rows <= MOST_WAITING or self.failing, WAIT_FOR_ROOM
                )
            if self._waiting + rows > MOST_WAITING:
                raise LogFullError(
                    "the log of answers cannot be written, and no answer is given that is not "
                    "logged; it goes on once there is room (the service's own log has the details)"
                )

    def _require_open(self) -> None:
        if self._closing is not None:
            raise LogClosedError(
                "the log of answers is closed, and no answer is given that is not logged; ask again"
            )

    def append(self, answered: Answered, request_id: str, at: datetime) -> None:
        """Take an answer. Returns at once.

        Raises:
            LogFullError: the log was closed meanwhile.
        """
        rows = answered.rows
        instants = set(rows.as_of.values())
        answer = _Answer(
            request_id,
            at,
            answered.model,
            answered.flights,
            tuple(tuple(rows.values[name]) for name in self._reader.features),
            tuple(tuple(rows.statuses[view]) for view in self._views),
            tuple(tuple(rows.event_us[view]) for view in self._views),
            answered.p,
            answered.flags,
            instants.pop() if len(instants) == 1 else None,
            rows.snapshot,
        )
        with self._changed:
            self._require_open()
            self._answers.append(answer)
            self._waiting += len(answered.p)
            if self._waiting >= WRITE_AT:
                self._changed.notify_all()

    def close(self) -> None:
        """Write all that waits, and stop. What cannot be written is told to the operator."""
        with self._changed:
            self._closing = time.monotonic()
            self._changed.notify_all()
        self._thread.join()
        if self._waiting:
            self._tell(f"{self._waiting} answers could not be logged and are lost")

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closing is not None or self._waiting >= WRITE_AT, WRITE_EVERY
                )
                taken = self._answers[:]
            if taken and not self._write(taken):
                time.sleep(0.5)
                closing = self._closing
                if closing and time.monotonic() - closing > GIVE_UP_CLOSING_AFTER:
                    return
                continue
            with self._changed:
                if self._closing is not None and not self._answers:
                    return

    def _write(self, answers: list[_Answer]) -> bool:
        rows = sum(len(answer.scores) for answer in answers)
        try:
            self._store.write_logged_features(self._table(answers), self._service)
        except Exception as fault:  # whatever it is, the answers stay and are tried again
            if not self.failing:
                self._tell(f"the log of answers cannot be written: {fault!r}; trying again")
            self.failing = True
            return False
        with self._changed:
            del self._answers[: len(answers)]
            self._waiting -= rows
            self.written += rows
            self.failing = False
            self._changed.notify_all()
        return True

    def _table(self, answers: list[_Answer]) -> pa.Table:
        """The answers in the schema of the log."""
        counts = [len(answer.scores) for answer in answers]
        places: dict[str, pa.Array] = {}

        def column(name: str, parts: list[Sequence[Any]]) -> None:
            values = list(chain.from_iterable(parts))
            places[name] = pa.array(values, self._schema.field(name).type)
            time.sleep(YIELD)

        def each(name: str, values: list[Any]) -> None:
            """One value an answer, repeated for its flights."""
            column(name, [[v] * n for v, n in zip(values, counts, strict=True)])

        for name in ASKED:
            column(name, [[getattr(f, name) for f in answer.flights] for answer in answers])
        for i, (name, spec) in enumerate(self._reader.features.items()):
            column(f"{spec.view}__{name}", [answer.values[i] for answer in answers])
        nothing = pa.nulls(sum(counts), INSTANT)
        present = pa.array([1] * sum(counts), pa.int32())
        times: dict[str, pa.Array] = {}
        statuses: dict[str, pa.Array] = {}
        for i, view in enumerate(self._views):
            stamps = chain.from_iterable(answer.event_us[i] for answer in answers)
            times[view] = pa.array(stamps, pa.int64()).cast(INSTANT)
            states = chain.from_iterable(answer.statuses[i] for answer in answers)
            statuses[view] = pa.array(map(int, states), pa.int32())
        for name, spec in self._reader.features.items():
            log_name = f"{spec.view}__{name}"
            places[f"{log_name}__timestamp"] = times.get(spec.view, nothing)
            places[f"{log_name}__status"] = statuses.get(spec.view, present)
        each(LOG_TIMESTAMP_FIELD, [answer.at for answer in answers])
        each(LOG_DATE_FIELD, [answer.at.astimezone(UTC).date() for answer in answers])
        each(REQUEST_ID_FIELD, [answer.request_id for answer in answers])
        column("score", [answer.scores for answer in answers])
        column("flag", [answer.flags for answer in answers])
        each("model", [answer.model for answer in answers])
        each("as_of", [answer.as_of for answer in answers])
        each("snapshot", [answer.snapshot for answer in answers])
        return pa.table([places[name] for name in self._schema.names], self._schema)
