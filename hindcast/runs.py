"""The record of runs: what `hindcast run` did, when, for which instant, and what it took.

Two tables of Hindcast's records: `runs`, one row a run, and `run_steps`, one row for each time a
step was run. A row is written when its step begins and completed when it ends, so what was killed
is there too, without an end. Not for doing anything: `hindcast.loop` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hindcast import lock, records

if TYPE_CHECKING:
    import duckdb

TABLES = """
create table if not exists runs (
    run_id integer not null,
    "at" timestamptz not null,        -- the instant the run stands at
    steps varchar[] not null,         -- what it was asked to do, in order
    is_whole boolean not null,        -- the whole loop, not some steps of it
    started_at timestamptz not null,
    ended_at timestamptz,             -- NULL: it is at work, or was killed
    exit_code integer,
    pid integer not null,
    attempts integer not null,        -- 1, and one more for each --resume
    snapshot varchar                  -- the one published when it ended
);
create table if not exists run_steps (
    run_id integer not null,
    attempt integer not null,
    position integer not null,
    step varchar not null,
    command varchar not null,
    started_at timestamptz not null,
    ended_at timestamptz,             -- NULL: it is at work, or was killed
    seconds double,
    peak_mb double,                   -- of memory, of its largest process
    exit_code integer,
    is_verdict boolean not null,      -- exit code 1 is what it found, not a failure
    snapshot varchar,                 -- the one published when the step ended
    dbt_invocation_id varchar         -- where the step ran dbt
);
"""


@dataclass(frozen=True)
class StepRun:
    """One time that a step was run. Without an exit code it has not ended."""

    attempt: int
    position: int
    step: str
    command: str
    started_at: datetime
    ended_at: datetime | None = None
    seconds: float | None = None
    peak_mb: float | None = None
    exit_code: int | None = None
    is_verdict: bool = False
    snapshot: str | None = None
    dbt_invocation_id: str | None = None

    @property
    def is_done(self) -> bool:
        """Ended well; a verdict ends well whatever it says."""
        return self.exit_code == 0 or (self.is_verdict and self.exit_code == 1)


@dataclass(frozen=True)
class Run:
    """One run and its steps, in the order they were run."""

    run_id: int
    at: datetime
    steps: tuple[str, ...]
    is_whole: bool
    started_at: datetime
    pid: int
    attempts: int = 1
    ended_at: datetime | None = None
    exit_code: int | None = None
    snapshot: str | None = None
    is_at_work: bool = False
    ran: tuple[StepRun, ...] = field(default=())

    @property
    def outcome(self) -> str:
        """`done`, `failed`, `running` or `killed`."""
        if self.exit_code is not None:
            return "done" if self.exit_code == 0 else "failed"
        return "running" if self.is_at_work else "killed"

    @property
    def stopped_at(self) -> str | None:
        """The step at which a run failed or was killed, or is now."""
        if self.outcome == "done":
            return None
        return next((s.step for s in reversed(self.ran) if not s.is_done), None)

    @property
    def seconds(self) -> float:
        """What its steps took together, of all attempts."""
        return sum(step.seconds or 0.0 for step in self.ran)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        mine = {k: v for k, v in vars(self).items() if k not in ("ran", "is_at_work")}
        more = {"outcome": self.outcome, "stopped_at": self.stopped_at}
        return mine | more | {"ran": [vars(step) for step in self.ran]}


def begin(project_dir: Path, at: datetime, steps: Sequence[str], is_whole: bool, pid: int) -> Run:
    """Write down that a run begins."""
    with records.opened(project_dir) as con:
        con.execute(TABLES)
        (run_id,) = con.execute("select coalesce(max(run_id), 0) + 1 from runs").fetchone() or (1,)
        run = Run(run_id, at, tuple(steps), is_whole, now(), pid)
        con.execute(
            'insert into runs (run_id, "at", steps, is_whole, started_at, pid, attempts) '
            "values (?, ?, ?, ?, ?, ?, 1)",
            [run.run_id, run.at, list(run.steps), run.is_whole, run.started_at, run.pid],
        )
    return run


def go_on(project_dir: Path, run: Run, steps: Sequence[str], pid: int) -> int:
    """Write down that a run is taken up again. Returns the number of the attempt."""
    with records.opened(project_dir) as con:
        con.execute(
            "update runs set attempts = attempts + 1, ended_at = null, exit_code = null, pid = ?, "
            "steps = ? where run_id = ?",
            [pid, list(steps), run.run_id],
        )
    return run.attempts + 1


def step_begins(project_dir: Path, run_id: int, step: StepRun) -> None:
    """Write down that a step begins."""
    with records.opened(project_dir) as con:
        con.execute(
            "insert into run_steps "
            "(run_id, attempt, position, step, command, started_at, is_verdict) "
            "values (?, ?, ?, ?, ?, ?, ?)",
            [
                run_id,
                step.attempt,
                step.position,
                step.step,
                step.command,
                step.started_at,
                step.is_verdict,
            ],
        )


def step_ends(project_dir: Path, run_id: int, step: StepRun) -> None:
    """Complete the row of a step."""
    with records.opened(project_dir) as con:
        con.execute(
            "update run_steps set ended_at = ?, seconds = ?, peak_mb = ?, exit_code = ?, "
            "snapshot = ?, dbt_invocation_id = ? "
            "where run_id = ? and attempt = ? and position = ?",
            [
                step.ended_at,
                step.seconds,
                step.peak_mb,
                step.exit_code,
                step.snapshot,
                step.dbt_invocation_id,
                run_id,
                step.attempt,
                step.position,
            ],
        )


def end(project_dir: Path, run_id: int, exit_code: int, snapshot: str | None) -> None:
    """Complete the row of a run."""
    with records.opened(project_dir) as con:
        con.execute(
            "update runs set ended_at = ?, exit_code = ?, snapshot = ? where run_id = ?",
            [now(), exit_code, snapshot, run_id],
        )


def last(project_dir: Path, count: int) -> list[Run]:
    """The newest runs, newest first, by when they were begun."""
    return _runs(project_dir, "true", [], count)


def last_whole(project_dir: Path, at: datetime | None) -> Run | None:
    """The newest run of the whole loop for an instant; None for the instant: of any."""
    where = "is_whole" if at is None else 'is_whole and "at" = ?'
    found = _runs(project_dir, where, [] if at is None else [at], 1)
    return found[0] if found else None


def usual_seconds(project_dir: Path) -> dict[str, float]:
    """What each step took when it last ended well."""
    if not (project_dir / records.FILE).exists():
        return {}
    with records.opened(project_dir) as con:
        con.execute(TABLES)
        return dict(
            con.execute(
                "select step, arg_max(seconds, started_at) from run_steps "
                "where exit_code = 0 group by step"
            ).fetchall()
        )


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)


def _runs(project_dir: Path, where: str, values: list[Any], count: int) -> list[Run]:
    if not (project_dir / records.FILE).exists():
        return []
    holder = lock.holder(project_dir)
    with records.opened(project_dir) as con:
        con.execute(TABLES)
        found = _rows(
            con, f"select * from runs where {where} order by run_id desc limit {count}", values
        )
        return [
            Run(
                **(row | {"steps": tuple(row["steps"])}),
                is_at_work=holder is not None and holder.pid == row["pid"] and holder.is_alive,
                ran=tuple(
                    StepRun(**step)
                    for step in _rows(
                        con,
                        "select * exclude (run_id) from run_steps where run_id = ? "
                        "order by attempt, position",
                        [row["run_id"]],
                    )
                ),
            )
            for row in found
        ]


def _rows(con: duckdb.DuckDBPyConnection, query: str, values: list[Any]) -> list[dict[str, Any]]:
    asked = con.execute(query, values)
    names = [column[0] for column in asked.description or ()]
    return [dict(zip(names, row, strict=True)) for row in asked.fetchall()]
