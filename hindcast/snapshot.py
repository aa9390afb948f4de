"""Publish, find and prune snapshots: consistent sets of Parquet files, a directory per table.

Layout under the published directory: one directory per snapshot named by its id, each with a
`snapshot.json`, and the symbolic link `current` to the newest. The link is replaced by a
rename, so a reader sees the old snapshot or the new one, never a mix; it resolves the link once
and may finish reading the old one, which stays until `keep` newer ones exist. Not for writing
the tables themselves: dbt does that, in SQL.

A file never changes once it is published, so snapshots share those that are the same in both (hard
links): what one costs is what changed. `snapshot.json` says from which instant on each table may
be other than in the `previous` snapshot.
"""

import json
import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hindcast.errors import MissingInputError

CURRENT = "current"
PUBLISHED = Path("data/published") / CURRENT
"""Where a project's current snapshot is, from its root."""
BEGINNING = datetime.min.replace(tzinfo=UTC)
END = datetime.max.replace(tzinfo=UTC)
_DESCRIPTION = "snapshot.json"
_UNFINISHED = ".unfinished-"
_PRUNED = ".pruned-"


@dataclass(frozen=True)
class Snapshot:
    """One published snapshot: its id, its directory and what it holds."""

    id: str
    path: Path
    created_at: datetime
    tables: dict[str, int]
    previous: str | None
    """The id of the snapshot that `changed_from` compares with."""
    changed_from: dict[str, datetime | None]
    """By table, the instant (of `known_at`, in the spine of `predict_at`) before which its rows are
    those of `previous`; None: all are."""

    @property
    def row_count(self) -> int:
        """Rows of all tables together."""
        return sum(self.tables.values())


def begin(published: Path, snapshot_id: str) -> Path:
    """Make the directory that dbt writes a new snapshot's tables to, invisible to readers."""
    published.mkdir(parents=True, exist_ok=True)
    for kind in (_UNFINISHED, _PRUNED):
        for leftover in published.glob(f"{kind}*"):
            shutil.rmtree(leftover)  # of a build that died: dbt holds the warehouse, so no other
    staging = published / f"{_UNFINISHED}{snapshot_id}"
    staging.mkdir()
    return staging


def reuse(table: Path, previous_id: str, before: str) -> int | None:
    """Begin a table of an unfinished snapshot with the files of an earlier one.

    Taken are those whose names sort before `before`. Returns how many, None if there is no earlier
    snapshot to begin with; the directory is then empty.
    """
    table.mkdir()
    earlier = table.parent.parent / previous_id / table.name
    if not previous_id or not before or not earlier.is_dir():
        return None
    files = [file for file in sorted(earlier.iterdir()) if file.name < before]
    for file in files:
        try:
            os.link(file, table / file.name)
        except OSError:  # the file system has no links, or no more of them
            shutil.copy2(file, table / file.name)
    return len(files)


def changed_since(path: Path, earlier_id: str, table: str) -> datetime | None:
    """The instant before which a snapshot's table has the rows that it had in an earlier one.

    `path` is the snapshot's directory, `earlier_id` the other's name; that one may be pruned, those
    between may not. END if no row changed; None if it cannot be told.
    """
    least = END
    while path.name != earlier_id:
        try:
            now = read(path)
        except FileNotFoundError:  # pruned, or never a snapshot
            return None
        changed = now.changed_from.get(table, BEGINNING)
        least = min(least, END if changed is None else changed)
        if now.previous is None:
            return None
        path = path.parent / now.previous
    return least


def publish(staging: Path, description: dict[str, Any], *, keep: int) -> Path:
    """Make a finished staging directory the current snapshot, and prune the oldest.

    `description` holds `tables` (name to row count) and whatever else is to be kept of the
    build. Returns the snapshot's directory.
    """
    published = staging.parent
    snapshot_id = staging.name.removeprefix(_UNFINISHED)
    stamp = {"id": snapshot_id, "created_at": datetime.now(UTC).isoformat(timespec="seconds")}
    (staging / _DESCRIPTION).write_text(json.dumps(stamp | description, indent=2) + "\n")
    final = published / snapshot_id
    staging.rename(final)

    link = published / f"{CURRENT}.new"
    link.unlink(missing_ok=True)
    link.symlink_to(snapshot_id)
    os.replace(link, published / CURRENT)

    for old in list_snapshots(published)[max(keep, 1) :]:
        if old.path != final.resolve():  # the clock may have been set back
            # first out of sight, in one step: what is listed is whole, also if this is killed
            pruned = old.path.rename(published / f"{_PRUNED}{old.id}")
            shutil.rmtree(pruned)
    return final


def list_snapshots(published: Path) -> list[Snapshot]:
    """Every published snapshot, newest first."""
    found = [read(file.parent) for file in published.glob(f"[!.]*/{_DESCRIPTION}")]
    unique = {item.id: item for item in found}
    return sorted(unique.values(), key=lambda item: (item.created_at, item.id), reverse=True)


def current(published: Path) -> Snapshot:
    """The snapshot that readers get now. Raises MissingInputError where none is published."""
    if not (published / CURRENT).exists():
        raise MissingInputError(
            f"no snapshot is published in {published}: run `dbt build`, which publishes one."
        )
    return read(published / CURRENT)


def read(path: Path) -> Snapshot:
    """The snapshot in a directory (or behind a link to one)."""
    path = path.resolve()
    stored = json.loads((path / _DESCRIPTION).read_text())
    return Snapshot(
        id=stored["id"],
        path=path,
        created_at=datetime.fromisoformat(stored["created_at"]),
        tables={name: int(rows) for name, rows in stored["tables"].items()},
        previous=stored.get("previous"),
        changed_from={
            name: None if text is None else _instant(text)
            for name, text in stored.get("changed_from", {}).items()
        },
    )


def _instant(text: str) -> datetime:
    return BEGINNING if text == "-infinity" else datetime.fromisoformat(text).astimezone(UTC)
