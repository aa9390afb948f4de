"""The loop: tick after tick the project's steps, then parity over what was just served, and the
outcomes that arrived.

A tick is done, or it is tried again from its first step; every step is such that doing it again
does no harm. What is done is written down after each tick, so a replay that was killed goes on
where it was. Not for what comes of it: that is `figures`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from hindcast import records
from hindcast.config import Step
from hindcast.errors import HindcastError
from hindcast.parity import AS_OF, LOG_TIME, Parity, compare_rows
from hindcast.replay.commands import Inside, filled
from hindcast.replay.outcomes import Outcomes, log_files
from hindcast.replay.room import Plan, Room

PARITY, OUTCOMES, YARDSTICK = "parity", "outcomes", "yardstick"
OWN = (PARITY, OUTCOMES, YARDSTICK)
"""The steps that are the replay's own; their seconds are not the tick's."""
ATTEMPTS = 15
_TABLES = """
create table if not exists replay_steps (
    tick_at timestamptz, attempt integer, step varchar, started_at timestamptz, seconds double,
    cpu_seconds double, is_ok boolean, message varchar
);
create table if not exists replay_ticks (
    tick_at timestamptz primary key, finished_at timestamptz, seconds double, cpu_seconds double,
    attempts integer, snapshot varchar, predictions bigint, compared bigint, wrong bigint,
    raw_bytes bigint, elapsed_seconds double, is_first boolean, outcomes bigint
);
create table if not exists replay_prepared (prepared_at timestamptz);
"""


@dataclass(frozen=True)
class Ran:
    """One step of one attempt: wall and CPU seconds, and what it said when it failed."""

    step: str
    started_at: datetime
    seconds: float
    cpu_seconds: float
    message: str | None = None


@dataclass
class Tick:
    """One tick that is done. `seconds`: of the attempt that succeeded, without parity.

    `elapsed` counts from the first attempt. `is_first`: of its process, so that starting up is in.
    """

    at: datetime
    attempts: int
    is_first: bool = False
    elapsed: float = 0.0
    steps: list[Ran] = field(default_factory=list)
    predictions: int = 0
    compared: int = 0
    wrong: int = 0
    outcomes: int = 0
    snapshot: str | None = None
    raw_bytes: int = 0
    parity: Parity | None = None

    @property
    def timed(self) -> list[Ran]:
        """The steps that a tick would have in production."""
        return [ran for ran in self.steps if ran.step not in OWN]

    @property
    def seconds(self) -> float:
        """Wall seconds of those."""
        return sum(ran.seconds for ran in self.timed)

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of those, all threads together."""
        return sum(ran.cpu_seconds for ran in self.timed)


class Gate(Protocol):
    """Somebody who looks on, and may hold the loop up before each step."""

    def before(self, at: datetime, attempt: int, step: str) -> None:
        """A step is about to begin."""

    def after(self, at: datetime, attempt: int, ran: Ran) -> None:
        """A step has ended, well or not."""

    def done(self, tick: Tick) -> None:
        """A tick is done, and written down."""


class Notebook:
    """What is written down of a replay, in Hindcast's records below the replay's folder."""

    def __init__(self, room: Room) -> None:
        """Make the tables where they are not there yet."""
        self._folder = room.folder
        with records.opened(self._folder) as connection:
            connection.execute(_TABLES)

    def is_prepared(self) -> bool:
        """Whether all was done that comes before the first tick."""
        return bool(self.rows("select 1 from replay_prepared"))

    def prepared(self, at: datetime) -> None:
        """All was done that comes before the first tick."""
        with records.opened(self._folder) as connection:
            connection.execute("insert into replay_prepared values (?)", [at])

    def done(self) -> set[datetime]:
        """The ticks that are done."""
        return {at.astimezone(UTC) for (at,) in self.rows("select tick_at from replay_ticks")}

    def rows(self, sql: str) -> list[Any]:
        """The rows of a query."""
        with records.opened(self._folder) as connection:
            return connection.execute(sql).fetchall()

    def table(self, sql: str) -> pa.Table:
        """The same as an Arrow table."""
        with records.opened(self._folder) as connection:
            return connection.execute(sql).to_arrow_table()

    def steps(self, at: datetime, attempt: int, ran: list[Ran]) -> None:
        """Keep the steps of an attempt that failed."""
        with records.opened(self._folder) as connection:
            _keep_steps(connection, at, attempt, ran)

    def tick(self, tick: Tick) -> None:
        """Keep a tick that is done."""
        with records.opened(self._folder) as connection:
            connection.execute("begin")
            _keep_steps(connection, tick.at, tick.attempts, tick.steps)
            connection.execute(
                "insert into replay_ticks values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    *(tick.at, datetime.now(UTC), tick.seconds, tick.cpu_seconds, tick.attempts),
                    *(tick.snapshot, tick.predictions, tick.compared, tick.wrong, tick.raw_bytes),
                    *(tick.elapsed, tick.is_first, tick.outcomes),
                ],
            )
            connection.execute("commit")


def _keep_steps(
    connection: duckdb.DuckDBPyConnection, at: datetime, attempt: int, ran: list[Ran]
) -> None:
    connection.executemany(
        "insert into replay_steps values (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (at, attempt, r.step, r.started_at, r.seconds, r.cpu_seconds, not r.message, r.message)
            for r in ran
        ],
    )


class Loop:
    """The ticks of a plan, in a room, with commands that run inside this process."""

    def __init__(
        self, room: Room, plan: Plan, inside: Inside, notebook: Notebook, gate: Gate
    ) -> None:
        """Nothing is run yet."""
        assert room.config.replay is not None
        self.room, self.plan, self.inside = room, plan, inside
        self.notebook, self.gate, self.section = notebook, gate, room.config.replay
        self.outcomes = Outcomes(room, plan)
        self._read: set[Path] = set()
        self._is_first = True

    def prepare(self, steps: tuple[Step, ...], tell: Callable[[Ran], None]) -> None:
        """What comes before the first tick, unless it was done already."""
        if self.notebook.is_prepared():
            return
        values = self.plan.placeholders(self.plan.start)
        for step in steps:
            ran = self._run(step.name, lambda step=step: self.inside.run(filled(step.run, values)))  # type: ignore[misc]
            if ran.message:
                raise HindcastError(f"the replay cannot begin: {ran.message}")
            tell(ran)
        self.notebook.prepared(self.plan.start)

    def catch_up(self, now: datetime) -> list[Tick]:
        """Do every tick that is due by `now` and not done, in order.

        A clock that was set back makes nothing due, and undoes nothing; one that was set ahead
        makes several due, each of which is done as of its own instant.

        Raises HindcastError for a tick that fails as often as it may be tried.
        """
        done = self.notebook.done()
        return [self.tick(at) for at in self.plan.ticks if at <= now and at not in done]

    def tick(self, at: datetime) -> Tick:
        """Do one tick, trying again from its first step where one fails."""
        began, is_first, self._is_first = time.perf_counter(), self._is_first, False
        for attempt in range(1, ATTEMPTS + 1):
            tick = Tick(at, attempt, is_first)
            if self._attempt(tick):
                own = sum(ran.seconds for ran in tick.steps) - tick.seconds
                tick.elapsed = time.perf_counter() - began - own
                self.notebook.tick(tick)
                self.gate.done(tick)
                return tick
            self.notebook.steps(at, attempt, tick.steps)
            time.sleep(min(0.2 * 2**attempt, 10.0))
        raise HindcastError(
            f"the tick of {at.isoformat()} failed {ATTEMPTS} times, at last with: "
            f"{tick.steps[-1].message}. Mend it and give the same command again: it goes on there"
        )

    def _attempt(self, tick: Tick) -> bool:
        values = self.plan.placeholders(tick.at)
        for step in self.section.steps:
            command = filled(step.run, values)
            if not self._step(tick, step.name, lambda command=command: self.inside.run(command)):  # type: ignore[misc]
                return False
        own = {
            PARITY: lambda: self._compare(tick),
            OUTCOMES: lambda: self._arrive(tick),
            YARDSTICK: yardstick,
        }
        return all(self._step(tick, name, work) for name, work in own.items())

    def _step(self, tick: Tick, name: str, work: Callable[[], None]) -> bool:
        self.gate.before(tick.at, tick.attempts, name)
        ran = self._run(name, work)
        tick.steps.append(ran)
        self.gate.after(tick.at, tick.attempts, ran)
        return ran.message is None

    def _run(self, name: str, work: Callable[[], None]) -> Ran:
        started_at, wall, cpu = datetime.now(UTC), time.perf_counter(), time.process_time()
        message = None
        try:
            work()
        except HindcastError as error:
            message = error.format_message()
        return Ran(name, started_at, time.perf_counter() - wall, time.process_time() - cpu, message)

    def _compare(self, tick: Tick) -> None:
        """Hold what was served at this tick against the join at its instant."""
        from hindcast import snapshot

        store = self._store()
        served = self._served(store, tick.at)
        published = Path(str(store.config.offline_store.published))
        here = self.room.project / self.room.config.feature_repo / published.parent
        tick.snapshot = snapshot.current(here).id
        tick.raw_bytes = sum(
            file.stat().st_size for file in (self.room.project / self.section.raw).rglob("*.csv")
        )
        if not served.num_rows:
            return
        at_others = [at for at in served[AS_OF].unique().to_pylist() if at != tick.at]
        if at_others:
            raise HindcastError(
                f"answers of {tick.at.isoformat()} were logged with features of {at_others[0]}: "
                "something else than what stands at the tick was served as fresh"
            )
        tick.parity = compare_rows(store, self.room.config.feature_service, served)
        tick.predictions = served.num_rows
        tick.compared, tick.wrong = tick.parity.values, tick.parity.wrong

    def _arrive(self, tick: Tick) -> None:
        """Score what was predicted, where its outcome is known by now."""
        tick.outcomes = self.outcomes.arrive(self._store(), tick.at)

    def _store(self) -> Any:
        from feast import FeatureStore

        return FeatureStore(repo_path=str(self.room.config.feature_repo))

    def _served(self, store: Any, at: datetime) -> pa.Table:
        """What the log has of a tick. Files are read once: each holds rows of one tick."""
        parts = []
        for file in log_files(store, self.room.config):
            if file in self._read:
                continue
            rows = pq.read_table(file)
            times = rows[LOG_TIME].unique().to_pylist()
            if at in times:
                parts.append(rows.filter(pa.compute.equal(rows[LOG_TIME], at)))
            elif all(time < at for time in times):
                self._read.add(file)
        return pa.concat_tables(parts) if parts else pa.table({AS_OF: pa.array([], pa.null())})


def yardstick() -> None:
    """A piece of work that is always the same: its CPU seconds say how fast the machine is now.

    Beside other work they vary by a third and more, which would hide a growth, or look like one.
    """
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("select sum(hash(i) % 1000) from range(10_000_000) as t (i)").fetchall()
    for _ in range(6_000):
        json.loads(json.dumps({str(i): [i, i / 3] for i in range(25)}))
