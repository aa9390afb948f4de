"""Writing the Parquet files and Delta tables that Feast sources, logs and saved sets are kept in.

Readers see a new file whole or not at all. Not for publishing snapshots: dbt does that.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from feast.data_format import DeltaFormat, ParquetFormat
from feast.feature_view import FeatureView
from feast.infra.offline_stores.file_source import FileLoggingDestination, FileSource
from feast.repo_config import RepoConfig

from hindcast.errors import RetrievalError
from hindcast.sources import Snapshot, absolute

_HIDDEN = re.compile(r"\.[0-9a-f]{32}")
NEW_S = 60.0
"""Seconds for which a hidden folder is left alone, whoever holds it."""


def append(config: RepoConfig, view: FeatureView, table: pa.Table) -> None:
    """Append rows to a view's source. See `DuckDBOfflineStore.offline_write_batch`."""
    source = view.batch_source
    if not isinstance(source, FileSource):
        raise RetrievalError(
            f"{view.name} cannot be written to: its source is a {type(source).__name__}. "
            "Expected a FileSource."
        )
    path = writable(source.path, config, view.name)
    if isinstance(source.file_format, DeltaFormat):
        from deltalake import DeltaTable, write_deltalake

        schema = pa.schema(DeltaTable(str(path)).schema().to_arrow())
        write_deltalake(str(path), _fitting(table, schema, view.name), mode="append")
    elif not isinstance(source.file_format, ParquetFormat | None):
        raise RetrievalError(
            f"{view.name} cannot be written to: its files are {source.file_format}, not Parquet."
        )
    elif path.is_dir():
        _append_file(path, table, view.name)
    elif path.is_file():
        with _alone_in(path.parent):
            _write(path, _fitting(table, pq.read_schema(path), view.name), before=path)
    else:
        raise RetrievalError(
            f"{view.name} cannot be written to: {path} is no file and no directory. "
            "Make it, with the columns of the source."
        )


def writable(path: str, config: RepoConfig, what: str) -> Path:
    """A path of this machine outside of the published snapshots.

    Raises RetrievalError if it is another.
    """
    if "://" in path:
        raise RetrievalError(
            f"{what} cannot be written to {path}. Expected a path of this machine."
        )
    snapshot, absolute_path = Snapshot.of(config), absolute(path, config)
    real = Path(os.path.realpath(absolute_path))
    if snapshot.pin(absolute_path) != absolute_path or (
        snapshot.path is not None and real.is_relative_to(snapshot.path)
    ):
        raise RetrievalError(
            f"{what} cannot be written: {absolute_path} belongs to a published snapshot, which "
            "never changes. Feature rows come from the raw files by `dbt build`."
        )
    return absolute_path


def _append_file(directory: Path, table: pa.Table, name: str) -> None:
    """One more file in a directory, or in the partitions that it has.

    Its name sorts after others, so that it wins where rows tie.
    """
    files = sorted(directory.rglob("*.parquet"))
    if not files:
        raise RetrievalError(f"{name} cannot be written to: {directory} holds no Parquet file yet.")
    parts = [part for part in files[0].relative_to(directory).parts[:-1] if "=" in part]
    schema = ds.dataset(directory, format="parquet", partitioning="hive").schema
    partitions = [part.partition("=")[0] for part in parts]
    _add(directory, _fitting(table, schema, name), f"zzz-{_new_name()}", partitions)


def _new_name() -> str:
    """A name that sorts after those given before."""
    return f"{time.time_ns():020}-{uuid4().hex}"


def _add(directory: Path, rows: pa.Table | ds.Dataset, name: str, partitions: list[str]) -> None:
    """Files beside those of a directory. They are written hidden, and seen once all are whole.

    What fails leaves nothing; what is killed leaves a hidden folder that nobody reads, and that
    the next one removes.
    """
    _remove_remains(directory)
    unfinished, placed = directory / f".{uuid4().hex}", []
    unfinished.mkdir(parents=True)
    handle = os.open(unfinished, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: what is killed stays
            fcntl.flock(handle, fcntl.LOCK_EX)  # the system takes it off when we die
        ds.write_dataset(
            rows,
            unfinished,
            format="parquet",
            basename_template=f"{name}-{{i}}.unfinished",
            partitioning=partitions or None,
            partitioning_flavor="hive" if partitions else None,
        )
        for file in sorted(unfinished.rglob("*.unfinished")):
            place = (directory / file.relative_to(unfinished)).with_suffix(".parquet")
            place.parent.mkdir(parents=True, exist_ok=True)
            file.rename(place)
            placed.append(place)
    except BaseException:
        for place in placed:
            place.unlink()
        raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        os.close(handle)


def _remove_remains(directory: Path) -> None:
    """Remove the hidden folders of writers that were killed: those that nobody holds locked.

    One that was made just now may be locked only in a moment.
    """
    for folder in directory.glob(".*"):
        if not _HIDDEN.fullmatch(folder.name):
            continue
        with suppress(OSError):  # its writer is alive, or has just ended, or cannot be asked for
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.fstat(handle).st_mtime > NEW_S:
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Hold a lock on a directory: two that rewrite a file there do it one after the other."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def replace(path: Path, table: pa.Table, format_: Any) -> None:
    """Put a table in the place of what is at a path. See `DuckDBRetrievalJob.persist`."""
    if isinstance(format_, DeltaFormat):
        from deltalake import write_deltalake

        write_deltalake(str(path), table, mode="overwrite", schema_mode="overwrite")
    elif path.is_dir():
        before = list(path.glob("**/*.parquet"))
        _write(path / f"{uuid4().hex}.parquet", table)
        for file in before:
            file.unlink()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, table)


def log(config: RepoConfig, data: pa.Table | Path, destination: Any) -> None:
    """Add rows to a log. See `DuckDBOfflineStore.write_logged_features`."""
    if not isinstance(destination, FileLoggingDestination):
        raise RetrievalError(
            f"cannot log to a {type(destination).__name__}. Expected a FileLoggingDestination."
        )
    rows = ds.dataset(data, format="parquet") if isinstance(data, Path) else data
    directory = writable(destination.path, config, "the log")
    _add(directory, rows, _new_name(), list(destination.partition_by or []))


def _fitting(table: pa.Table, schema: pa.Schema, name: str) -> pa.Table:
    """The rows in the columns, order and types of a source."""
    missing = [column for column in schema.names if column not in table.column_names]
    extra = [column for column in table.column_names if column not in schema.names]
    if missing or extra:
        raise RetrievalError(
            f"{name} has the columns {', '.join(schema.names)}; the rows to write lack "
            f"{', '.join(missing) or 'none'} and have besides {', '.join(extra) or 'none'}."
        )
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise RetrievalError(
            f"the rows to write do not fit the types of {name}: {error}"
        ) from error


def _write(path: Path, table: pa.Table, before: Path | None = None) -> None:
    """Write a file that comes into being whole: the rows of `before`, if given, and the table."""
    path = Path(os.path.realpath(path))
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with pq.ParquetWriter(unfinished, table.schema) as writer:
            for batch in _batches(before):
                writer.write_batch(batch)
            writer.write_table(table)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _batches(path: Path | None) -> Iterator[pa.RecordBatch]:
    if path is not None:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches()
