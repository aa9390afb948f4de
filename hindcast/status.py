"""How a project stands, at a glance: its last runs, features, verdicts, model and snapshot.

Read from the records, the registry, the online store and the published snapshot; nothing is
computed anew and nothing is judged except age against TTL. Not for finding what is wrong with an
installation: that is `hindcast.doctor`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from hindcast import lock, runs, snapshot
from hindcast.champion import CHAMPION
from hindcast.config import ProjectConfig, utc_text
from hindcast.errors import HindcastError, MissingInputError
from hindcast.lock import Holder
from hindcast.runs import Run
from hindcast.snapshot import Snapshot
from hindcast.sql import literal, quote

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

RUNS_SHOWN = 5
WORST_SHOWN = 5


@dataclass(frozen=True)
class ViewAge:
    """How old the newest row of a feature view is that the online store can serve.

    `stands_at`: the instant up to which the online store was filled, None if it never was.
    `newest_at`: the `known_at` of the newest row by then. A `ttl` of zero is unlimited.
    """

    view: str
    stands_at: datetime | None
    newest_at: datetime | None
    age: timedelta | None
    ttl: timedelta

    @property
    def state(self) -> str:
        """`fresh`, `stale` (older than the TTL: nothing is served), or `unfilled`."""
        if self.stands_at is None:
            return "unfilled"
        if self.age is None:
            return "empty"
        return "stale" if self.ttl and self.age > self.ttl else "fresh"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; durations in seconds."""
        return {
            "view": self.view,
            "state": self.state,
            "stands_at": _text(self.stands_at),
            "newest_at": _text(self.newest_at),
            "age_s": None if self.age is None else self.age.total_seconds(),
            "ttl_s": self.ttl.total_seconds() or None,
        }


@dataclass(frozen=True)
class Model:
    """The model in use, as its bundle's manifest tells."""

    id: str
    path: str
    created_at: datetime | None
    snapshot: str | None
    """The published snapshot it was trained on."""
    feature_service: str | None


@dataclass(frozen=True)
class Verdicts:
    """What `hindcast monitor` found last: how many checks said what, and the worst of them.

    `model` is the one it judged, which need not be the one in use any more.
    """

    run_at: datetime
    at: datetime
    model: str
    counts: dict[str, int]
    worst: list[dict[str, Any]]


@dataclass(frozen=True)
class Status:
    """Everything `hindcast status` shows, as of the instant `at`."""

    at: datetime
    runs: list[Run] = field(default_factory=list)
    at_work: Holder | None = None
    snapshot: Snapshot | None = None
    model: Model | None = None
    verdicts: Verdicts | None = None
    views: list[ViewAge] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "at": utc_text(self.at),
            "runs": [_plain(run.as_dict()) for run in self.runs],
            "at_work": self.at_work and _plain(vars(self.at_work)),
            "snapshot": self.snapshot
            and {
                "id": self.snapshot.id,
                "created_at": utc_text(self.snapshot.created_at),
                "rows": self.snapshot.row_count,
                "tables": self.snapshot.tables,
            },
            "model": self.model and _plain(vars(self.model)),
            "verdicts": self.verdicts and _plain(vars(self.verdicts)),
            "views": [view.as_dict() for view in self.views],
            "notes": self.notes,
        }


def look(project_dir: Path, config: ProjectConfig, at: datetime) -> Status:
    """How the project stands at an instant. What cannot be read is noted, not raised."""
    notes: list[str] = []
    current: Snapshot | None = None
    views: list[ViewAge] = []
    try:
        current = snapshot.current(project_dir / snapshot.PUBLISHED.parent)
        views = view_ages(open_store(project_dir, config), project_dir, at)
    except (HindcastError, duckdb.Error) as fault:
        notes.append(f"{fault}; see `hindcast doctor`")
    model: Model | None = None
    try:
        model = current_model(project_dir, config)
    except HindcastError as fault:
        notes.append(str(fault))
    return Status(
        at=at,
        runs=runs.last(project_dir, RUNS_SHOWN),
        at_work=lock.holder(project_dir),
        snapshot=current,
        model=model,
        verdicts=last_verdicts(project_dir),
        views=views,
        notes=notes,
    )


def open_store(project_dir: Path, config: ProjectConfig) -> FeatureStore:
    """The project's Feast store.

    Raises:
        MissingInputError: nothing is registered yet.
    """
    from feast import FeatureStore

    store = FeatureStore(repo_path=str((project_dir / config.feature_repo).resolve()))
    if not store.list_feature_views():
        raise MissingInputError(
            f"nothing is registered: run `feast -c {config.feature_repo} apply` first"
        )
    return store


def current_model(project_dir: Path, config: ProjectConfig) -> Model | None:
    """The model in use; None where `hindcast.yml` names none.

    Raises:
        MissingInputError: there is none yet.
        HindcastError: its manifest cannot be read.
    """
    if config.model is None:
        return None
    champion = config.artifacts / CHAMPION  # `model` where none was ever put in use
    model = champion if (project_dir / champion).exists() else config.model
    file = project_dir / model / "manifest.json"
    if not file.exists():
        raise MissingInputError(
            f"there is no model in {model} (no {file.name}): the step that trains makes one"
        )
    try:
        stored = json.loads(file.read_text())
        created = stored.get("created_at")
        return Model(
            id=stored["run"],
            path=str(model),
            created_at=created and datetime.fromisoformat(created),
            snapshot=stored.get("snapshot"),
            feature_service=stored.get("feature_service"),
        )
    except (ValueError, KeyError, AttributeError) as fault:
        raise HindcastError(
            f"{file} does not describe a model ({fault!r}); expected at least its `run`. "
            "Train again"
        ) from fault


def last_verdicts(project_dir: Path) -> Verdicts | None:
    """What the last monitoring found; None where there was none."""
    from hindcast.monitor import Verdict, latest

    found = latest(project_dir)
    if found is None:
        return None
    bad = [check for check in found.checks if check.verdict is not Verdict.OK]  # worst first
    return Verdicts(
        run_at=found.run_at,
        at=found.at,
        model=found.model,
        counts=found.counts,
        worst=[
            {
                "subject": check.subject,
                "check": check.name,
                "value": check.value,
                "verdict": check.verdict.value,
            }
            for check in bad[:WORST_SHOWN]
        ],
    )


def view_ages(store: FeatureStore, project_dir: Path, at: datetime) -> list[ViewAge]:
    """The age of every registered feature view that is served online, at an instant."""
    with duckdb.connect() as con:
        con.execute("set TimeZone = 'UTC'")
        return [
            _age(con, view, project_dir / snapshot.PUBLISHED, at)
            for view in sorted(store.list_feature_views(), key=lambda view: str(view.name))
            if view.online
        ]


def _age(
    con: duckdb.DuckDBPyConnection, view: FeatureView, published: Path, at: datetime
) -> ViewAge:
    ends = [end for _, end in view.materialization_intervals]
    stands_at = max(ends, default=None)
    newest: datetime | None = None
    file = published / f"{view.name}.parquet"
    if stands_at is not None and file.exists():
        time = view.batch_source.timestamp_field
        (newest,) = con.execute(
            f"select max({quote(time)}) from read_parquet({literal(str(file))}) "
            f"where {quote(time)} <= ?",
            [min(stands_at, at)],
        ).fetchone() or (None,)
    age = None if newest is None else at - newest
    return ViewAge(view.name, stands_at, newest, age, view.ttl or timedelta(0))


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else utc_text(moment)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return utc_text(value)
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
