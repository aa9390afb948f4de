"""Where a replay works: a copy of the project whose data is its own.

What dbt reads and the Feast repository are copied, so a replay keeps the definitions it began
with, and their relative paths lead into the copy. Code is linked. The folders that the commands
write (`replay.own`) and dbt's are new. Not for running anything: that is `commands`.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

from hindcast.config import FILE, ProjectConfig, utc_text
from hindcast.dbt import PROJECT_FILE
from hindcast.errors import HindcastError

CORNER = Path("target/replay")
PROJECT = "project"
_PLAN = "plan.json"
_NEVER = {"target", "logs", "dbt_packages"}


@dataclass(frozen=True)
class Plan:
    """Which ticks a replay has. `seed`: of its faults, None where there are none."""

    start: datetime
    tick: timedelta
    count: int
    seed: int | None = None

    @property
    def end(self) -> datetime:
        """When the last tick's predictions end."""
        return self.start + self.tick * self.count

    @property
    def ticks(self) -> list[datetime]:
        """The instants, in order."""
        return [self.start + self.tick * i for i in range(self.count)]

    @property
    def name(self) -> str:
        """A folder's name: the same plan has the same."""
        faults = "" if self.seed is None else f"-faults-{self.seed}"
        minutes = self.tick // timedelta(minutes=1)
        return f"{self.start.astimezone(UTC):%Y%m%dT%H%MZ}-{self.count}x{minutes}min{faults}"

    def placeholders(self, at: datetime, out: Path | None = None) -> dict[str, str]:
        """What stands for what in a command."""
        return {
            "at": utc_text(at),
            "previous": utc_text(at - self.tick),
            "next": utc_text(at + self.tick),
            "start": utc_text(self.start),
            "end": utc_text(self.end),
            "out": str(out),
        }


@dataclass(frozen=True)
class Places:
    """The warehouse's file, the folder of snapshots, and that of the online store."""

    warehouse: Path
    published: Path
    online: Path


class Room:
    """A replay's folder: `project` (the copy), and what it found."""

    def __init__(self, project_dir: Path, config: ProjectConfig, folder: Path) -> None:
        """Say where; nothing is made yet."""
        self.origin, self.config = project_dir.resolve(), config
        self.folder = folder.resolve()
        self.project = self.folder / PROJECT

    def make(self, plan: Plan | None = None) -> None:
        """Make it anew; what was there goes."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.project.mkdir(parents=True)
        assert self.config.replay is not None
        own = {*self.config.replay.own, *_NEVER}
        copied = {self.config.feature_repo.parts[0], *_dbt_folders(self.origin)}
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        for entry in sorted(self.origin.iterdir()):
            if entry.name in own or entry.name.startswith("."):
                continue
            if entry.name in copied and entry.is_dir():
                shutil.copytree(entry, self.project / entry.name, ignore=ignored)
            elif entry.name == FILE:
                shutil.copy(entry, self.project / entry.name)
            else:
                (self.project / entry.name).symlink_to(entry)
        if plan is not None:
            self.keep(plan)

    def keep(self, plan: Plan) -> None:
        """Write down for which plan it is."""
        (self.folder / _PLAN).write_text(_written(plan))

    def places(self) -> Places:
        """Where the copy keeps what it makes, by its feature_store.yaml.

        Raises HindcastError where that does not say it.
        """
        repo = self.project / self.config.feature_repo
        settings = yaml.safe_load((repo / "feature_store.yaml").read_text())
        try:
            offline, online = settings["offline_store"], settings["online_store"]
            found = offline["warehouse"], offline["published"], online["path"]
        except (KeyError, TypeError) as error:
            raise HindcastError(
                f"feature_store.yaml does not say {error}; faults need the paths of "
                "`offline_store: {warehouse, published}` and `online_store: {path}`"
            ) from None
        warehouse, published, kept = (Path(os.path.normpath(repo / path)) for path in found)
        return Places(warehouse, published.parent, kept)

    def holds(self, plan: Plan) -> bool:
        """Whether it was made for this plan."""
        file = self.folder / _PLAN
        return file.exists() and file.read_text() == _written(plan)


def _dbt_folders(project_dir: Path) -> set[str]:
    """What dbt reads of a project, by the first part of each path."""
    project = yaml.safe_load((project_dir / PROJECT_FILE).read_text()) or {}
    kinds = {"model": "models", "macro": "macros", "seed": "seeds", "test": "tests"}
    kinds |= {"snapshot": "snapshots", "analysis": "analyses"}
    paths = [project.get(f"{kind}-paths", [default]) for kind, default in kinds.items()]
    return {Path(path).parts[0] for some in paths for path in some}


def _written(plan: Plan) -> str:
    return json.dumps(asdict(plan), default=str, indent=2) + "\n"
