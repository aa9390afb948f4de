"""Writing the Parquet files and Delta tables that Feast sources, logs and saved sets are kept in.

Readers see a new file whole or not at all. Not for publishing snapshots: dbt does that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
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


def append(config: RepoConfig, view: FeatureView, table: pa.Table) -> None:
    """Append rows to a view's source. See `DuckDBOfflineStore.offline_write_batch`."""
    source = view.batch_source
    if not isinstance(source, FileSource) or "://" in source.path:
        raise RetrievalError(
            f"{view.name} cannot be written to: its source is {type(source).__name__} "
            f"{getattr(source, 'path', '')}. Expected a FileSource with a path of this machine."
        )
    path = absolute(source.path, config)
    if Snapshot.of(config).pin(path) != path:
        raise RetrievalError(
            f"{view.name} cannot be written to: {path} belongs to a published snapshot, which "
            "never changes. Add the records to the raw files and run `dbt build`."
        )
    if isinstance(source.file_format, DeltaFormat):
        from deltalake import DeltaTable, write_deltalake

        schema = pa.schema(DeltaTable(str(path)).schema().to_arrow())
        write_deltalake(str(path), _fitting(table, schema, view.name), mode="append")
    elif not isinstance(source.file_format, ParquetFormat | None):
        raise RetrievalError(
            f"{view.name} cannot be written to: its files are {source.file_format}, not Parquet."
        )
    elif path.is_dir():
        schema = ds.dataset(path, format="parquet", partitioning="hive").schema
        _write(
            path / f"{time.time_ns():020}-{uuid4().hex}.parquet", _fitting(table, schema, view.name)
        )
    else:
        schema = pq.read_schema(path)
        _write(path, _fitting(table, schema, view.name), before=path)


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
    if not isinstance(destination, FileLoggingDestination) or "://" in destination.path:
        raise RetrievalError(
            f"cannot log to {type(destination).__name__} {getattr(destination, 'path', '')}. "
            "Expected a FileLoggingDestination with a path of this machine."
        )
    rows = ds.dataset(data, format="parquet") if isinstance(data, Path) else data
    ds.write_dataset(
        rows,
        absolute(destination.path, config),
        format="parquet",
        basename_template=f"{time.time_ns():020}-{uuid4().hex}-{{i}}.parquet",
        partitioning=destination.partition_by or None,
        partitioning_flavor="hive" if destination.partition_by else None,
        existing_data_behavior="overwrite_or_ignore",
    )


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
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}")
    with pq.ParquetWriter(unfinished, table.schema) as writer:
        for batch in _batches(before):
            writer.write_batch(batch)
        writer.write_table(table)
    os.replace(unfinished, path)


def _batches(path: Path | None) -> Iterator[pa.RecordBatch]:
    if path is not None:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches()
