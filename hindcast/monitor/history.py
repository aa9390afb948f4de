"""What `hindcast monitor` found so far, in Hindcast's own records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb

from hindcast import records
from hindcast.monitor.checks import Check, Verdict, worst_first

_CHECKS = """
create table if not exists monitor_checks (
    run_at timestamptz not null,
    "at" timestamptz not null,
    days integer not null,
    model varchar not null,
    subject varchar not null,
    check_name varchar not null,
    value double,
    noise double,
    warn double,
    fail double,
    verdict varchar not null,
    baseline double,
    now double,
    low double,
    high double,
    detail varchar
)
"""
_COLUMNS = (
    'run_at, "at", days, model, subject, check_name, value, noise, warn, fail, verdict, baseline, '
    "now, low, high, detail"
)


@dataclass(frozen=True)
class Latest:
    """One run of the monitor: when it ran, the instant it stood at, and its checks, worst first."""

    run_at: datetime
    at: datetime
    days: int
    model: str
    checks: tuple[Check, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many checks have each verdict."""
        return {it.value: sum(c.verdict is it for c in self.checks) for it in Verdict}


def save(
    project_dir: Path,
    run_at: datetime,
    at: datetime,
    days: int,
    model: str,
    checks: Sequence[Check],
) -> None:
    """Keep one run's checks."""
    rows = [
        {
            "run_at": run_at,
            "at": at,
            "days": days,
            "model": model,
            "subject": check.subject,
            "check_name": check.name,
            "value": check.value,
            "noise": check.noise,
            "warn": check.limits[0],
            "fail": check.limits[1],
            "verdict": check.verdict.value,
            "baseline": check.baseline,
            "now": check.now,
            "low": check.low,
            "high": check.high,
            "detail": check.detail,
        }
        for check in checks
    ]
    with records.opened(project_dir) as connection:
        connection.execute(_CHECKS)
        connection.execute(
            f"insert into monitor_checks ({_COLUMNS}) select {_COLUMNS} from (select "
            "unnest(from_json($1, $2), recursive := true))",
            [json.dumps(rows, default=str), _shape()],
        )


def latest(project_dir: Path) -> Latest | None:
    """The newest run; None where the monitor never ran. Makes no file."""
    runs = history(project_dir, newest=1)
    return runs[0] if runs else None


def history(project_dir: Path, newest: int = 12) -> list[Latest]:
    """The newest runs, the newest first: of those at one instant only the last."""
    if not (project_dir / records.FILE).exists():
        return []
    with records.opened(project_dir) as connection:
        if not _exists(connection):
            return []
        runs = connection.execute(
            'select run_at, "at", days, model from '
            '(select distinct run_at, "at", days, model from monitor_checks) '
            'qualify row_number() over (partition by "at" order by run_at desc) = 1 '
            "order by run_at desc limit ?",
            [newest],
        ).fetchall()
        return [
            Latest(run_at, at, days, model, tuple(worst_first(_checks(connection, run_at))))
            for run_at, at, days, model in runs
        ]


def _checks(connection: duckdb.DuckDBPyConnection, run_at: datetime) -> list[Check]:
    found = connection.execute(
        "select subject, check_name, value, warn, fail, noise, baseline, now, low, high, detail "
        "from monitor_checks where run_at = ?",
        [run_at],
    ).fetchall()
    return [
        Check(subject, name, value, (warn, fail), noise, *rest)
        for subject, name, value, warn, fail, noise, *rest in found
    ]


def _exists(connection: duckdb.DuckDBPyConnection) -> bool:
    return bool(
        connection.execute(
            "select 1 from duckdb_tables() where table_name = 'monitor_checks'"
        ).fetchone()
    )


def _shape() -> str:
    times = dict.fromkeys(("run_at", "at"), "TIMESTAMPTZ")
    texts = dict.fromkeys(("model", "subject", "check_name", "verdict", "detail"), "VARCHAR")
    kinds = times | texts | {"days": "INTEGER"}
    return json.dumps(
        [{name: kinds.get(name, "DOUBLE") for name in _COLUMNS.replace('"', "").split(", ")}]
    )
