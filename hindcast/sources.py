"""What a retrieval reads: connection, snapshot, Parquet sources, and the caller's rows.

Each knows how SQL gets at it and what columns it has, and refuses what cannot be read, by name.
Not for the join (see `asof`) and not for Feast's interface (see `offline_store`).
"""

from __future__ import annotations

import glob
import os
import re
import urllib.parse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast.data_format import DeltaFormat, ParquetFormat
from feast.data_source import DataSource
from feast.infra.offline_stores.file_source import FileSource
from feast.repo_config import RepoConfig

from hindcast.errors import MissingInputError, RetrievalError
from hindcast.snapshot import CURRENT
from hindcast.sql import literal, quote, select

DEFAULT_TIMESTAMP = "event_timestamp"
TIMESTAMP = "TIMESTAMP"
TIMESTAMP_NS = "TIMESTAMP_NS"
TIMESTAMPTZ = "TIMESTAMP WITH TIME ZONE"
PLACES_OF_A_FILE = 2**40
"""More than any file has rows."""
AS_OF = "_as_of"
"""What `published_path()` of macros/as_of.sql puts behind the name of the published folder."""


@dataclass(frozen=True)
class Session:
    """How a connection is set up: fresh and in memory, the same each time."""

    settings: dict[str, Any]
    prelude: tuple[str, ...] = ("set timezone = 'UTC'",)
    frames: dict[str, pa.Table] = field(default_factory=dict)

    @classmethod
    def of(cls, config: RepoConfig) -> Session:
        """The limits that `offline_store:` sets."""
        options = config.offline_store
        settings: dict[str, Any] = {
            "memory_limit": options.memory_limit,
            "threads": options.threads,
            "temp_directory": options.temp_directory
            and str(absolute(options.temp_directory, config)),
        }
        return cls({name: value for name, value in settings.items() if value is not None})

    @property
    def comment(self) -> str:
        """What to register before running the statements by hand."""
        return "".join(
            f"-- {quote(name)}: the {table.num_rows} rows of entity_df, registered as a table\n"
            for name, table in self.frames.items()
        )

    @contextmanager
    def run(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection with the prelude executed; DuckDB's errors become RetrievalErrors."""
        try:
            connection = duckdb.connect(":memory:", config=self.settings)
        except duckdb.Error as error:
            raise RetrievalError(
                f"DuckDB refused the settings {self.settings} of `offline_store:` in "
                f"feature_store.yaml: {error}"
            ) from error
        try:
            with connection:
                for name, table in self.frames.items():
                    connection.register(name, table)
                for statement in self.prelude:
                    connection.execute(statement)
                yield connection
        except duckdb.Error as error:
            raise RetrievalError(f"DuckDB could not run the query: {error}") from error


def _describe(
    connection: duckdb.DuckDBPyConnection, query: str, failure: str
) -> list[tuple[str, str]]:
    """The columns of a query and their DuckDB types, in order. No row is read."""
    try:
        rows = connection.execute(f"describe {query}").fetchall()
    except duckdb.Error as error:
        raise RetrievalError(f"{failure}: {error}") from error
    return [(name, kind) for name, kind, *_ in rows]


@dataclass(frozen=True)
class Snapshot:
    """The published directory as it was when the query began.

    `link` is the configured path with its parent resolved; `path` is where it led to, None if
    it led nowhere.
    """

    link: Path
    path: Path | None

    @classmethod
    def of(cls, config: RepoConfig) -> Snapshot:
        """Resolve `published` of `offline_store:`."""
        configured = absolute(config.offline_store.published, config)
        resolved = Path(os.path.realpath(configured))
        link = Path(os.path.realpath(configured.parent)) / configured.name
        return cls(link, resolved if resolved.is_dir() else None)

    def pin(self, path: Path) -> Path:
        """The same file inside this snapshot, if it lies under the link.

        Where `published` is one snapshot's directory and not the link, what lies under the link
        beside it is meant: so a store can be opened on an older snapshot. Likewise where it is in
        `<published>_as_of/<instant>`, where dbt puts the world as it stood at an instant.
        """
        homes = {str(self.link.parent)}
        if self.link.parent.parent.name.endswith(AS_OF):
            homes.add(str(self.link.parent.parent).removesuffix(AS_OF))
        if self.path is not None:
            for parent in path.parents:
                named = parent.name in (self.link.name, CURRENT) and (
                    os.path.realpath(parent.parent) in homes
                )
                if named or os.path.realpath(parent) == str(self.path):
                    return self.path / path.relative_to(parent)
        return path

    def tables(self) -> dict[str, Path]:
        """The published tables by name; none where nothing is published."""
        return {file.stem: file for file in sorted((self.path or self.link).glob("*.parquet"))}


Key = TypeVar("Key", int, str)


class RowGroup(NamedTuple, Generic[Key]):
    """A row group of a Parquet file, with the first and last value of a column (a time is in
    microseconds since 1970), None where the footer does not say."""

    rows: int
    first: Key | None
    last: Key | None


@dataclass(frozen=True)
class Source:
    """A Parquet file source: how SQL reads it and what columns it has."""

    label: str
    reader: str
    columns: dict[str, str]
    files: str
    """SQL for the path or paths that `reader` reads."""
    paths: tuple[str, ...]
    """The paths themselves, in the order in which ties are decided."""

    @classmethod
    def of(
        cls,
        source: DataSource,
        config: RepoConfig,
        snapshot: Snapshot,
        connection: duckdb.DuckDBPyConnection,
    ) -> Source:
        """Find the files of a Feast source and read their columns.

        Raises MissingInputError where there is no file, RetrievalError where it is not Parquet
        (or a Delta table of Parquet) that DuckDB can read.
        """
        format_ = getattr(source, "file_format", None)
        if not isinstance(source, FileSource) or not isinstance(
            format_, ParquetFormat | DeltaFormat | None
        ):
            raise RetrievalError(
                f"{source.name} is a {type(source).__name__} of format {type(format_).__name__}. "
                "Expected a FileSource of Parquet files or of a Delta table."
            )
        path = source.path
        failure = f"{source.name}: {path} cannot be read"
        if "://" in path and not isinstance(format_, DeltaFormat):
            paths, options = [path], []
            failure += (
                f". {path.partition(':')[0]}:// needs a DuckDB extension (httpfs, azure): "
                "where DuckDB cannot load it, install it once with `install httpfs`"
            )
            if source.s3_endpoint_override:
                failure += (
                    f". DuckDB takes no s3_endpoint_override ({source.s3_endpoint_override}): say "
                    "it once with `create persistent secret (type s3, endpoint ...)`"
                )
            files = f"[{literal(path)}]"
        else:
            if "://" not in path:
                path = str(snapshot.pin(absolute(path, config)))
            failure = f"{source.name}: {path} cannot be read"
            if isinstance(format_, DeltaFormat):
                paths, hive = _delta_files(source, path), True
            else:
                paths, hive = _parquet_files(source, path)
            # by name: tables grow columns; partitions only below the source, not above it
            options = ["union_by_name = true"] * (len(paths) > 1)
            options.append(f"hive_partitioning = {str(hive).lower()}")
            files = f"[{', '.join(literal(_without_wildcards(file)) for file in paths)}]"
            try:
                names = pq.read_schema(paths[0]).names
            except (pa.ArrowException, OSError) as error:
                raise RetrievalError(f"{failure}: {error}") from error
            refuse_duplicates(names, f"{source.name} ({paths[0]}) has")
            if hive:
                _refuse_partitions_above(source.name, path, paths[0], names)
        reader = f"read_parquet({', '.join([files, *options])}) as source"
        columns = dict(_describe(connection, f"from {reader}", failure))
        for taken in ("file_index", "file_row_number"):
            if taken in map(str.lower, columns):
                raise RetrievalError(
                    f"{source.name} has a column {taken!r}, a name that DuckDB uses itself to "
                    "tell the rows of a file apart. Rename the column."
                )
        return cls(source.name, reader, columns, files, tuple(paths))

    def times(self, column: str, connection: duckdb.DuckDBPyConnection) -> list[RowGroup[int]]:
        """The row groups of the files and the times of a column in each, by the files' footers.

        Those that have none are left out.
        """
        return self._row_groups(column, "epoch_us(try_cast({} as timestamptz))", connection)

    def integers(self, column: str, connection: duckdb.DuckDBPyConnection) -> list[RowGroup[int]]:
        """Likewise the values of a column of integers."""
        return self._row_groups(column, "try_cast({} as hugeint)", connection)

    def strings(self, column: str, connection: duckdb.DuckDBPyConnection) -> list[RowGroup[str]]:
        """Likewise the values of a column of strings, or what lies before and behind them.

        One with the character NUL, which cannot stand in SQL, is left out.
        """
        groups = self._row_groups(column, "{}", connection)
        return [
            RowGroup(rows, *(None if end and "\0" in end else end for end in ends))
            for rows, *ends in groups
        ]

    def _row_groups(
        self, column: str, value: str, connection: duckdb.DuckDBPyConnection
    ) -> list[RowGroup[Any]]:
        mine = f"filter (path_in_schema = {literal(column)})"
        ends = [
            value.format(
                f"coalesce(any_value(stats_{end}_value) {mine}, any_value(stats_{end}) {mine})"
            )
            for end in ("min", "max")
        ]
        rows = "any_value(row_group_num_rows)"
        groups = select(
            [rows, *ends],
            f"parquet_metadata({self.files})",
            tail="group by file_name, row_group_id\n"
            f"having coalesce(any_value(stats_null_count) {mine}, 0) < {rows}",
        )
        return [RowGroup(*group) for group in connection.execute(groups).fetchall()]

    def skips_by(self, column: str) -> bool:
        """Whether DuckDB leaves out row groups by a condition on `moment` of a column."""
        return self._time(column)[1] in (TIMESTAMP, TIMESTAMPTZ)

    def may_leave_out_files(self, columns: Iterable[str]) -> bool:
        """Whether a query with conditions on these columns may number the files anew.

        DuckDB leaves out partitions by conditions on their columns, those of a join too, and
        counts the files that are left. What lies elsewhere may be others at the next query.
        """
        partitions = {
            urllib.parse.unquote(part.partition("=")[0]).lower()
            for path in self.paths
            for part in path.split("/")
            if "=" in part
        }
        elsewhere = any("://" in path for path in self.paths)
        return elsewhere or not partitions.isdisjoint(column.lower() for column in columns)

    @property
    def place(self) -> str:
        """SQL for where a row is: unique, and in the order of files and of rows in them.

        The same in every query, unless `may_leave_out_files`.
        """
        if len(self.paths) == 1:
            return "source.file_row_number"
        return f"(source.file_index::bigint * {PLACES_OF_A_FILE} + source.file_row_number)"

    def column(self, name: str) -> str:
        """SQL for a column."""
        self.require(name)
        return f"source.{quote(name)}"

    def require(self, column: str) -> str:
        """The type of a column, or an error that names what there is."""
        if column not in self.columns:
            raise RetrievalError(
                f"{self.label} has no column {column!r}. It has {', '.join(self.columns)}."
            )
        return self.columns[column]

    def utc(self, column: str) -> str:
        """SQL for a time column as timestamptz."""
        sql, kind = self._time(column)
        return sql if kind == TIMESTAMPTZ else f"make_timestamptz({self.micros(column)})"

    def micros(self, column: str) -> str:
        """SQL for a time column as microseconds since 1970 in UTC; NULL for the infinities.

        Nanoseconds are rounded up: a row is known once its microsecond is over, never before.
        """
        sql, kind = self._time(column)
        if kind == TIMESTAMP_NS:
            return f"epoch_ns({sql}) // 1000 + (epoch_ns({sql}) % 1000 > 0)::bigint"
        return f"epoch_us({sql})"

    def moment(self, column: str) -> str:
        """SQL for a time column as it is compared: as it is, so that DuckDB can skip by it."""
        sql, kind = self._time(column)
        return sql if kind in (TIMESTAMP, TIMESTAMPTZ) else self.micros(column)

    def as_moment(self, column: str, micros: str) -> str:
        """SQL for microseconds since 1970 to compare with `moment` of a column."""
        _, kind = self._time(column)
        makers = {TIMESTAMP: "make_timestamp", TIMESTAMPTZ: "make_timestamptz"}
        return f"{makers.get(kind, '')}({micros})"

    def _time(self, column: str) -> tuple[str, str]:
        kind = self.require(column)
        if not kind.startswith(("TIMESTAMP", "DATE")):
            raise RetrievalError(f"{self.label}: {column} is {kind}. Expected a timestamp.")
        return self.column(column), kind

    def tie_break(self, created: str | None) -> list[str]:
        """SQL that ranks rows of equal event time: the greatest wins, NULL is least.

        DuckDB numbers files in the order of their paths.
        """
        by_created = [self.micros(created)] if created else []
        return [*by_created, "source.file_index", "source.file_row_number"]


def _attach(warehouse: Path, connection: duckdb.DuckDBPyConnection) -> str:
    """Attach the warehouse, read-only; the statement that did it."""
    if not warehouse.exists():
        raise MissingInputError(
            f"{warehouse} is not there, so the SQL in entity_df has no `warehouse` to read. "
            "`dbt build` makes it."
        )
    statement = f"attach {literal(str(warehouse))} as warehouse (read_only)"
    try:
        connection.execute(statement)
    except duckdb.IOException as error:
        raise RetrievalError(
            f"{warehouse} is in use: dbt is writing it. Wait until it has finished, or read the "
            f"published tables, which are never locked ({error})"
        ) from error
    return statement


def _parquet_files(source: FileSource, path: str) -> tuple[list[str], bool]:
    """The files of a path (a file, a directory, or a pattern), and whether they are partitioned.

    Names that start with a dot or an underscore are not data, as everywhere.
    """
    if os.path.isfile(path):
        return [path], False
    if os.path.isdir(path):
        root, found = (
            path,
            glob.glob(os.path.join(glob.escape(path), "**", "*.parquet"), recursive=True),
        )
    else:
        root = _before_wildcards(path)
        found = glob.glob(path, recursive=True)
    below = {file: Path(file).relative_to(root).parts for file in found}
    paths = sorted(
        file for file, parts in below.items() if not any(part[0] in "._" for part in parts)
    )
    if not paths:
        raise MissingInputError(f"{source.name}: {path} is not there. `dbt build` publishes it.")
    return paths, any("=" in part for file in paths for part in below[file][:-1])


def _refuse_partitions_above(label: str, path: str, file: str, columns: list[str]) -> None:
    """Raise RetrievalError if a directory above a source passes for one of its columns.

    DuckDB takes every `name=value` of a file's path for a partition, those above the source too.
    """
    root = path.rstrip("/")
    if not file.startswith(f"{root}/"):
        root = _before_wildcards(path)
    inside = [part.partition("=")[0] for part in file.removeprefix(root).split("/") if "=" in part]
    own = {name.lower() for name in (*columns, *inside)}
    for part in root.split("/"):
        if "=" in part and part.partition("=")[0].lower() in own:
            raise RetrievalError(
                f"{label} lies below a directory {part!r}, which DuckDB would read as its column "
                "of that name. Move the source, or rename that directory."
            )


def _before_wildcards(path: str) -> str:
    """The directory in which a pattern begins."""
    return re.split(r"[*?\[]", path)[0].rpartition("/")[0]


def _without_wildcards(path: str) -> str:
    """A path as DuckDB must be given it, so that it means this file and no pattern."""
    return re.sub(r"([\[*?])", r"[\1]", path)


def stamps(paths: Iterable[str]) -> list[tuple[int, int, int] | None]:
    """What changes when a local file is replaced or rewritten; None for one that is not there."""
    found = list[tuple[int, int, int] | None]()
    for path in paths:
        if "://" not in path:
            try:
                stat = os.stat(path)
                found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
            except FileNotFoundError:
                found.append(None)
    return found


def _delta_files(source: FileSource, path: str) -> list[str]:
    """The Parquet files of a Delta table's current version."""
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError
    except ImportError as error:
        raise RetrievalError(
            f"{source.name} is a Delta table, which needs the package deltalake: "
            "pip install deltalake"
        ) from error
    try:
        table = DeltaTable(path)
        used = set(table.protocol().reader_features or [])
        files = sorted(table.file_uris())
    except TableNotFoundError as error:
        raise MissingInputError(f"{source.name}: {path} holds no Delta table.") from error
    except DeltaError as error:
        raise RetrievalError(f"{source.name}: {path} cannot be read: {error}") from error
    unread = used & {"deletionVectors", "columnMapping"}
    if unread:
        raise RetrievalError(
            f"{source.name}: {path} uses Delta's {' and '.join(sorted(unread))}, which cannot be "
            "read file by file. Rewrite the table without, or read it with another store."
        )
    if not files:
        raise MissingInputError(f"{source.name}: {path} has no rows.")
    # deltalake quotes the table's own path as a URL, and leaves the files' as they are
    quoted = urllib.parse.quote(path)
    return [path + file.removeprefix(quoted) if file.startswith(quoted) else file for file in files]


@dataclass(frozen=True)
class Spine:
    """The rows to join features to: SQL over the snapshot, or an Arrow table."""

    columns: dict[str, str]
    timestamp: str
    sql: str | None
    frame: pa.Table | None
    tables: dict[str, Path]
    attached: tuple[str, ...]
    """Statements that attach what the SQL reads besides."""

    @classmethod
    def of(
        cls,
        entity_df: Any,
        config: RepoConfig,
        snapshot: Snapshot,
        connection: duckdb.DuckDBPyConnection,
    ) -> Spine:
        """Read what the caller gave: its columns and which of them is the time.

        Raises RetrievalError if it is no table or has no time.
        """
        if isinstance(entity_df, str):
            return cls.of_sql(entity_df, connection, snapshot, config)
        frame = _to_arrow(entity_df)
        refuse_duplicates(frame.column_names, "entity_df has")
        connection.register("entity_rows", frame)
        columns = dict(_describe(connection, "from entity_rows", "entity_df cannot be read"))
        return cls(columns, _timestamp_column(columns, frame), None, frame, {}, ())

    @classmethod
    def of_sql(
        cls,
        entity_df: str,
        connection: duckdb.DuckDBPyConnection,
        snapshot: Snapshot | None = None,
        config: RepoConfig | None = None,
    ) -> Spine:
        """A SELECT; over the tables of a snapshot and the warehouse, if those are given.

        A name that is nowhere in the text cannot be a table of the query.
        """
        sql = entity_df.strip().rstrip(";")
        tables: dict[str, Path] = {}
        attached: tuple[str, ...] = ()
        known = "the SQL does not run"
        if snapshot is not None and config is not None:
            warehouse = config.offline_store.warehouse
            if warehouse is not None and "warehouse" in sql.lower():
                attached = (_attach(absolute(warehouse, config), connection),)
            published = snapshot.tables()
            tables = {
                name: path
                for name, path in published.items()
                if name.lower() in sql.lower().replace('""', '"')
            }
            known = f"the SQL in entity_df does not run (tables: {', '.join(published) or 'none'})"
        for statement in published_views(tables):
            connection.execute(statement)
        try:
            described = _describe(connection, f"(\n{sql}\n)", known)
        except RetrievalError as error:
            if snapshot is not None and snapshot.path is None:
                raise MissingInputError(
                    f"{snapshot.link} is not there, so the SQL in entity_df has no tables to "
                    f"read. `dbt build` publishes it. ({error})"
                ) from error
            raise
        refuse_duplicates((name for name, _ in described), "entity_df has")
        columns = dict(described)
        return cls(columns, _timestamp_column(columns, None), sql, None, tables, attached)

    def has_no_value(self, column: str) -> bool:
        """A column of a frame with nothing in it, whose type therefore says nothing."""
        return self.frame is not None and self.frame[column].null_count == self.frame.num_rows

    def time(self) -> str:
        """SQL for T as timestamptz."""
        if self.has_no_value(self.timestamp):
            return "cast(null as timestamptz)"
        column = quote(self.timestamp)
        if self.columns[self.timestamp] == TIMESTAMP_NS:  # floored, before 1970 too
            floored = f"epoch_ns({column}) // 1000 - (epoch_ns({column}) % 1000 < 0)::bigint"
            return f"make_timestamptz({floored})"
        return f"cast({column} as timestamptz)"

    def narrow(self, keys: Iterable[str]) -> pa.Table:
        """The frame's time, floored to the microsecond, and its join keys."""
        assert self.frame is not None
        table = self.frame.select(list(dict.fromkeys([self.timestamp, *keys])))
        times = table[self.timestamp]
        if pa.types.is_timestamp(times.type) and times.type.unit == "ns":
            # in UTC: an hour that a zone has twice cannot be rounded in it
            utc = times.cast(pa.timestamp("ns", "UTC")) if times.type.tz else times
            floored = pc.floor_temporal(utc, unit="microsecond")
            table = table.set_column(0, self.timestamp, floored)
        return table


def published_views(tables: dict[str, Path]) -> list[str]:
    """Statements that make Parquet files tables of a connection."""
    return [
        f"create temp view {quote(name)} as from "
        f"read_parquet({literal(_without_wildcards(str(path)))}, hive_partitioning = false)"
        for name, path in tables.items()
    ]


def absolute(path: str, config: RepoConfig) -> Path:
    """A path of the feature repository. `..` is left to the file system: links may be crossed."""
    return Path.cwd() / (config.repo_path or "") / path


def _to_arrow(entity_df: Any) -> pa.Table:
    if not isinstance(entity_df, pd.DataFrame) and not hasattr(entity_df, "__arrow_c_stream__"):
        raise RetrievalError(
            f"entity_df is a {type(entity_df).__name__}. "
            "Expected a pandas frame, an Arrow table, or a SELECT over the published tables."
        )
    try:
        if isinstance(entity_df, pd.DataFrame):
            names = [str(name) for name in entity_df.columns]
            refuse_duplicates(names, "entity_df has")
            # a copy: the job runs later, and the caller may change the frame until then
            return pa.Table.from_pandas(entity_df.copy(), preserve_index=False)
        return pa.table(entity_df)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise RetrievalError(
            f"entity_df has values that do not fit one type: {error}. "
            "Give each column one type, or leave the column out."
        ) from error


def _timestamp_column(columns: dict[str, str], frame: pa.Table | None) -> str:
    """The name of the column that holds T."""
    times = [name for name, kind in columns.items() if kind.startswith("TIMESTAMP")]
    if DEFAULT_TIMESTAMP in columns:
        kind = columns[DEFAULT_TIMESTAMP]
        empty = frame is not None and frame[DEFAULT_TIMESTAMP].null_count == frame.num_rows
        if not (kind.startswith(("TIMESTAMP", "DATE", "VARCHAR")) or empty):
            raise RetrievalError(
                f"{DEFAULT_TIMESTAMP!r} is {kind} in entity_df. Expected a timestamp in UTC."
            )
        return DEFAULT_TIMESTAMP
    if len(times) != 1:
        raise RetrievalError(
            f"entity_df has no column {DEFAULT_TIMESTAMP!r}, and "
            f"{' and '.join(times) or 'none'} of its columns {', '.join(columns)} are timestamps. "
            f"Name the time of prediction {DEFAULT_TIMESTAMP!r}."
        )
    return times[0]


def refuse_duplicates(names: Iterable[str], where: str) -> None:
    """Raise RetrievalError if two names differ in case only, or not at all."""
    seen: dict[str, str] = {}
    for name in names:
        if name.lower() in seen:
            raise RetrievalError(
                f"{where} both {seen[name.lower()]!r} and {name!r}. Names must differ in more "
                "than case: rename or drop the column, or ask with full_feature_names=True."
            )
        seen[name.lower()] = name
