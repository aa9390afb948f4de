"""The feed as files: one CSV per source and UTC day of loading.

A file appears under its name whole or not at all, and one that already holds what it should is
not touched. Not for what the records say: `landing.feed` decides that.
"""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from hindcast.errors import HindcastError
from landing.feed import Records

AS_IT_IS = pa.csv.WriteOptions(include_header=False, quoting_style="none")


@dataclass(frozen=True)
class DayFile:
    """One file of the feed. `table` holds what has been delivered; None: nothing yet."""

    path: Path
    table: pa.Table | None
    records: Records | None = None
    """The feed it is cut from."""


Stamp = tuple[int, int, int]
_right: dict[Path, tuple[Records, int, Stamp]] = {}
"""Files that this process found right or made so: what they hold, and their stamp since. A
replay lands every hour, and should not make and compare all of the past again each time."""


def day_files(records: Records, out: Path, until: np.datetime64 | None) -> list[DayFile]:
    """Every file that a source's whole feed consists of, as it stands at `until` (None: ever)."""
    days, starts = np.unique(records.loaded_at.astype("datetime64[D]"), return_index=True)
    whole = len(records.table)
    delivered = whole if until is None else int(np.sum(records.loaded_at <= until))
    ends = np.append(starts[1:], whole)
    return [
        DayFile(
            out / records.source / f"{records.source}_{day}.csv",
            records.table.slice(start, min(end, delivered) - start) if start < delivered else None,
            records,
        )
        for day, start, end in zip(days, starts.tolist(), ends.tolist(), strict=True)
    ]


def write(files: Iterable[DayFile]) -> Iterator[str]:
    """Bring each file to what it should be; yields 'written', 'unchanged', 'removed' or 'absent'.

    Only the files named are ever written or removed.
    """
    for file in files:
        if file.table is None:
            yield remove(file.path)
        elif _is_right(file):
            yield "unchanged"
        else:
            done = replace(file.path, csv_bytes(file.table))
            stamp = _stamp(file.path)
            if file.records is not None and stamp is not None:
                _right[file.path.absolute()] = file.records, len(file.table), stamp
            yield done


def _is_right(file: DayFile) -> bool:
    """Whether the file was right when last looked at, should hold the same, and is untouched."""
    records, rows, stamp = _right.get(file.path.absolute(), (None, 0, None))
    return (
        file.table is not None
        and records is not None
        and records is file.records
        and rows == len(file.table)
        and stamp == _stamp(file.path)
    )


def _stamp(path: Path) -> Stamp | None:
    """What changes when a file is replaced or written to; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def csv_bytes(table: pa.Table) -> bytes:
    """The table as CSV text, its values exactly as they are."""
    content = io.BytesIO()
    content.write(",".join(table.column_names).encode() + b"\n")
    pa.csv.write_csv(table, content, AS_IT_IS)
    return content.getvalue()


def replace(path: Path, content: bytes) -> str:
    """Put a file in place in one step, unless it holds the same bytes already."""
    if path.is_file() and path.read_bytes() == content:
        return "unchanged"
    path.parent.mkdir(parents=True, exist_ok=True)
    half_written = path.with_name(f".{path.name}.part")
    half_written.write_bytes(content)
    os.replace(half_written, path)
    return "written"


def remove(path: Path) -> str:
    """Take a file away, if it is there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return "absent"
    return "removed"


@contextmanager
def sole_writer(out: Path) -> Iterator[None]:
    """Make the folder and keep other landings out of it for as long as this one writes.

    Raises HindcastError when another one is at it, or when the folder cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder = os.open(out, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(folder)
    except BlockingIOError as error:
        raise HindcastError(f"another landing is writing into {out}: wait until it ends") from error
    except OSError as error:
        raise HindcastError(
            f"the feed cannot be written into {out} ({error}): give another folder with --out"
        ) from error
