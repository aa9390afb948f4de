"""The model in use: which one it is, how another takes its place, and how the last one comes back.

`artifacts/champion` is a link to a run's folder, replaced by a rename, so a reader sees the old
model or the new one. The table `promotions` of Hindcast's records says what became champion when
and why. Models that were replaced stay where they are. Not for judging a model: that is
`retrain`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from hindcast import lock, records
from hindcast.config import ProjectConfig, load_config
from hindcast.errors import HindcastError, MissingInputError

CHAMPION, LATEST, MANIFEST = "champion", "latest", "manifest.json"
ADOPTED, PROMOTED, ROLLED_BACK = "adopted", "promoted", "rolled back"
KEPT, CHECKED = "kept", "checked"
CHANGES = (ADOPTED, PROMOTED, ROLLED_BACK)
"""What changes the model in use; the others say that a challenger lost, or none was needed."""
DECIDED = (PROMOTED, KEPT, ROLLED_BACK)
"""What was decided between two models, by the rule or by hand."""

_TABLE = """
create table if not exists promotions (
    recorded_at timestamptz not null,
    as_of timestamptz not null,
    action varchar not null,
    run varchar not null,
    previous varchar,
    reason varchar not null,
    figures json,
    is_done boolean not null
)
"""


@dataclass(frozen=True)
class Model:
    """A trained model: a run's folder and what its manifest says."""

    run: str
    path: Path
    trained_until: datetime
    """The end of the days it was fitted and tuned on: later ones may judge it."""
    threshold: float
    snapshot: str | None
    created_at: datetime | None


@dataclass(frozen=True)
class Promotion:
    """One line of the history."""

    recorded_at: datetime
    at: datetime
    action: str
    run: str
    previous: str | None
    reason: str
    figures: dict[str, Any] | None


@dataclass(frozen=True)
class Champion:
    """The model in use, and how it came to be; `promotion` is None if nobody recorded it."""

    model: Model
    promotion: Promotion | None


def in_use(artifacts: Path) -> Path:
    """The run that scoring reads by default: the champion if there is one, else the newest."""
    link = artifacts / CHAMPION
    return link if link.is_symlink() else artifacts / LATEST


def followed(project_dir: Path, config: ProjectConfig, path: Path) -> Path:
    """A path below `model` of hindcast.yml, of the champion instead once there is one.

    Relative to the project, as it was; one that is elsewhere stays as it is.
    """
    link = config.artifacts / CHAMPION
    if config.model is None or not path.is_relative_to(config.model):
        return path
    return link / path.relative_to(config.model) if (project_dir / link).is_symlink() else path


def current(project_dir: Path, artifacts: Path | None = None) -> Champion | None:
    """The model in use, or None where none was ever put in use.

    `artifacts` is relative to the project; left out, it is that of hindcast.yml.

    Raises:
        MissingInputError: the champion's folder is gone, or is not a complete run.
    """
    folder = _artifacts(project_dir, artifacts)
    run = _linked(folder)
    if run is None:
        return None
    model = read(folder / run)
    made = [
        each
        for each in history(project_dir, artifacts)
        if each.action in CHANGES and each.run == run
    ]
    return Champion(model, made[-1] if made else None)


def read(path: Path) -> Model:
    """The model of a run's folder.

    Raises:
        MissingInputError: it is not there, or its manifest lacks what is needed.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        created = manifest.get("created_at")
        return Model(
            run=path.name,
            path=path,
            trained_until=datetime.fromisoformat(manifest["trained_until"]),
            threshold=float(manifest["threshold"]),
            snapshot=manifest.get("snapshot"),
            created_at=datetime.fromisoformat(created) if created else None,
        )
    except FileNotFoundError:
        raise MissingInputError(
            f"no trained model in {path}; train one, or name another run"
        ) from None
    except (KeyError, TypeError, ValueError) as fault:
        raise MissingInputError(
            f"{path / MANIFEST} does not say what is needed ({fault!r}: trained_until, threshold); "
            "train again with this version"
        ) from None


def install(
    project_dir: Path,
    run: str,
    *,
    action: str,
    at: datetime,
    reason: str,
    figures: dict[str, Any] | None = None,
    artifacts: Path | None = None,
) -> Champion:
    """Put a run in use, in one step for every reader, and record it.

    Raises:
        MissingInputError: there is no complete run of that name.
    """
    folder = _artifacts(project_dir, artifacts)
    read(folder / run)
    with _promotions(project_dir, folder) as table:
        _insert(table, at, action, run, _linked(folder), reason, figures, is_done=False)
        _point(folder, run)
        table.execute("update promotions set is_done = true where not is_done")
    made = current(project_dir, artifacts)
    assert made is not None
    return made


def note(
    project_dir: Path,
    run: str,
    *,
    action: str,
    at: datetime,
    reason: str,
    figures: dict[str, Any] | None = None,
    artifacts: Path | None = None,
) -> None:
    """Record what did not change the model in use: a challenger that lost, a look at the champion.

    `run` is the challenger, or the champion that was looked at.
    """
    folder = _artifacts(project_dir, artifacts)
    with _promotions(project_dir, folder) as table:
        _insert(table, at, action, run, _linked(folder), reason, figures, is_done=True)


def roll_back(
    project_dir: Path,
    *,
    at: datetime,
    to: str | None = None,
    artifacts: Path | None = None,
) -> Champion:
    """Bring back the model that the champion took the place of, or the run `to`.

    Raises:
        LockedError: a retraining is at work, which could put its own in use right after.
        HindcastError: there is no champion, none before it, or `to` is the champion already.
        MissingInputError: the run to go back to is gone.
    """
    folder = _artifacts(project_dir, artifacts)
    with lock.held(project_dir, at, what="rollback", which=lock.MODEL):
        run = _linked(folder)
        if run is None:
            raise HindcastError(
                f"no model is in use in {folder}, so there is none to go back from; "
                "`hindcast retrain` puts one in use"
            )
        to = to or _before(project_dir, folder, run, artifacts)
        if to == run:
            raise HindcastError(f"{run} is in use already")
        return install(
            project_dir,
            to,
            action=ROLLED_BACK,
            at=at,
            reason=f"asked for, instead of {run}",
            artifacts=artifacts,
        )


def _before(project_dir: Path, folder: Path, run: str, artifacts: Path | None) -> str:
    """The run that a champion took the place of."""
    entered = [
        each
        for each in history(project_dir, artifacts)
        if each.action in (ADOPTED, PROMOTED) and each.run == run
    ]
    before = entered[-1].previous if entered else None
    if before is None:
        raise HindcastError(
            f"no model was in use before {run}; name one with --to: "
            f"{', '.join(sorted(runs(folder) - {run})) or 'there is no other run'}"
        )
    return before


def runs(folder: Path) -> set[str]:
    """The runs of an artifacts folder."""
    return {
        file.parent.name
        for file in folder.glob(f"[!.]*/{MANIFEST}")
        if not file.parent.is_symlink()
    }


def history(project_dir: Path, artifacts: Path | None = None) -> list[Promotion]:
    """All that was recorded, oldest first. Nothing is made where there are no records yet."""
    if not (project_dir / records.FILE).exists():
        return []
    with _promotions(project_dir, _artifacts(project_dir, artifacts)) as table:
        rows = table.execute(
            "select recorded_at, as_of, action, run, previous, reason, figures from promotions "
            "order by recorded_at, rowid"
        ).fetchall()
    return [
        Promotion(
            recorded_at.astimezone(UTC),
            at.astimezone(UTC),
            action,
            run,
            previous,
            reason,
            json.loads(figures) if figures else None,
        )
        for recorded_at, at, action, run, previous, reason, figures in rows
    ]


def _artifacts(project_dir: Path, artifacts: Path | None) -> Path:
    if artifacts is None:
        artifacts = load_config(project_dir).artifacts
    return project_dir / artifacts


def _linked(folder: Path) -> str | None:
    link = folder / CHAMPION
    return os.readlink(link) if link.is_symlink() else None


def _point(folder: Path, run: str) -> None:
    link = folder / f".{CHAMPION}-{run}"
    link.unlink(missing_ok=True)
    link.symlink_to(run)
    os.replace(link, folder / CHAMPION)


@contextmanager
def _promotions(project_dir: Path, folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The table, held alone by this process, with what a killed one left unfinished settled.

    A line is written before the link is switched and marked as done after it. The link is the
    truth: a line whose switch never came is taken out.
    """
    with records.opened(project_dir) as table:
        table.execute(_TABLE)
        table.execute(
            "update promotions set is_done = true where not is_done and run = ?", [_linked(folder)]
        )
        table.execute("delete from promotions where not is_done")
        yield table


def _insert(
    table: duckdb.DuckDBPyConnection,
    at: datetime,
    action: str,
    run: str,
    previous: str | None,
    reason: str,
    figures: dict[str, Any] | None,
    *,
    is_done: bool,
) -> None:
    table.execute(
        "insert into promotions values (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            datetime.now(UTC),
            at,
            action,
            run,
            previous,
            reason,
            None if figures is None else json.dumps(figures),
            is_done,
        ],
    )
