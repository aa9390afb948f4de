"""Feast's DuckDB offline store with point-in-time joins done by DuckDB's own ASOF JOIN.

Use it with one line of `feature_store.yaml`, `type: hindcast.offline_store.DuckDBOfflineStore`
under `offline_store:`; every Parquet `FileSource` stays as it is. It reads: training sets,
and what materialization loads. It is not for writing features (Feast's store does that,
unchanged) and not for sources other than Parquet files.

What a retrieval promises:

- n rows in, n rows out, in the caller's order; duplicates and extra columns are kept and the
  caller's frame is not touched. A NULL key or a NULL time gives NULL features.
- Each feature view gives the latest row of the entity with `T - ttl <= event time <= T`, both
  ends included, in microseconds; a TTL of 0 or None is unlimited. If that row holds a NULL, the
  answer is NULL: an older value is never used in its place.
- Equal event times: the latest created timestamp wins (NULL last), then the row that comes
  last in its file, then the file whose path sorts last. The features asked for play no part.
- `filter_by_created_timestamp=True`: the same among the rows created at or before T. A row
  without a created timestamp is left out: nothing shows that it was there.
- A time without a zone is UTC. A time finer than a microsecond is floored to it.
- One query reads one snapshot: the `published` link is resolved once, when the job is made.
- Columns come out as: the caller's, then each view's features in the order the view declares
  them, then the on-demand features.
"""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore as FeastDuckDBOfflineStore
from feast.infra.offline_stores.duckdb import (
    DuckDBOfflineStoreConfig as FeastDuckDBOfflineStoreConfig,
)
from feast.infra.offline_stores.file_source import FileSource, SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from pydantic import StrictInt, StrictStr

from hindcast.errors import MissingInputError, RetrievalError
from hindcast.snapshot import CURRENT

logger = logging.getLogger(__name__)

DEFAULT_TIMESTAMP = "event_timestamp"
EXACT_IN_DOUBLE = 2**53
INTEGERS = {
    f"{sign}{size}INT" for sign in ("", "U") for size in ("TINY", "SMALL", "BIG", "HUGE", "")
} | {"INTEGER", "UINTEGER"}
FLOATS = {"FLOAT", "DOUBLE"}
TIMESTAMPTZ = "TIMESTAMP WITH TIME ZONE"


class DuckDBOfflineStoreConfig(FeastDuckDBOfflineStoreConfig):  # type: ignore[misc]
    """The `offline_store:` section of `feature_store.yaml`; paths are relative to that file."""

    type: StrictStr = "hindcast.offline_store.DuckDBOfflineStore"
    published: StrictStr = "../data/published/current"
    """Directory (or link to one) whose `*.parquet` files an `entity_df` in SQL sees as tables."""
    memory_limit: StrictStr | None = None
    """DuckDB's limit for one query, for example `2GB`. Default: DuckDB's own."""
    threads: StrictInt | None = None
    """DuckDB's threads for one query. Default: one for each core."""
    temp_directory: StrictStr | None = None
    """Where a query that outgrows `memory_limit` spills to. Default: DuckDB's own."""


class DuckDBOfflineStore(FeastDuckDBOfflineStore):  # type: ignore[misc]
    """Reads Parquet file sources with DuckDB. See the module for what it promises."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> DuckDBRetrievalJob:
        """Join the features known at each row's time to the rows of `entity_df`.

        `entity_df` is a pandas frame, anything that offers Arrow data, or a SELECT over the
        published tables. Its time column is `event_timestamp` if it has one, else its only
        timestamp column.

        Raises MissingInputError if data is not there, RetrievalError if it cannot be joined.
        """
        if entity_df is None:
            raise RetrievalError(
                "no entity_df was given, only dates. Expected the rows to join features to: "
                "a frame, or a SELECT over the published tables with your dates in its WHERE."
            )
        snapshot = _Snapshot.of(config)
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        session = _Session.of(config)
        with session.run() as connection:
            spine = _Spine.of(entity_df, snapshot, connection)
            views = [
                _View.of(view, feature_refs, full_feature_names, config, snapshot, connection)
                for view in feature_views
            ]
        _check_names(spine, views, on_demand, feature_refs, full_feature_names)
        join = _PointInTimeJoin(spine, views, filter_by_created_timestamp)
        return DuckDBRetrievalJob(
            join.session(session),
            join.query(),
            snapshot=snapshot,
            config=config,
            join=join,
            on_demand_feature_views=on_demand,
            feature_refs=feature_refs,
            full_feature_names=full_feature_names,
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> DuckDBRetrievalJob:
        """The newest row of each key with `start_date <= event time <= end_date`.

        Rows with a NULL join key belong to no entity: they are left out and counted in a
        warning. A start after the end is no start: see `_in_period`.
        """
        return _pull(
            config,
            data_source,
            join_key_columns,
            feature_name_columns,
            (timestamp_field, created_timestamp_column),
            (start_date, end_date),
            latest=True,
        )

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> DuckDBRetrievalJob:
        """Every row with `start_date <= event time <= end_date`, NULL keys included."""
        return _pull(
            config,
            data_source,
            join_key_columns,
            feature_name_columns,
            (timestamp_field, created_timestamp_column),
            (start_date, end_date),
            latest=False,
        )


class DuckDBRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """A query that runs when its result is asked for, each time on a fresh DuckDB connection.

    `snapshot_path` is the published snapshot it reads, None if nothing is published.
    """

    def __init__(
        self,
        session: _Session,
        query: str,
        *,
        snapshot: _Snapshot,
        config: RepoConfig,
        join: _PointInTimeJoin | None = None,
        on_demand_feature_views: Sequence[OnDemandFeatureView] = (),
        feature_refs: Sequence[str] = (),
        full_feature_names: bool = False,
        before: Callable[[duckdb.DuckDBPyConnection], None] | None = None,
    ) -> None:
        """Keep what is needed to run; nothing is read yet."""
        self.snapshot_path = str(snapshot.path) if snapshot.path else None
        self._session = session
        self._query = query
        self._config = config
        self._join = join
        self._times: pa.Table | None = None
        self._on_demand_feature_views = list(on_demand_feature_views)
        self._feature_refs = list(feature_refs)
        self._full_feature_names = full_feature_names
        self._before = before

    def to_df(self, validation_reference: Any = None, timeout: int | None = None) -> pd.DataFrame:
        """The result in pandas.

        Integers with missing values become float64, as everywhere in pandas, unless a value
        is too large to be exact in it: then the column becomes nullable `Int64` or `UInt64`.
        """
        table = self.to_arrow(validation_reference=validation_reference, timeout=timeout)
        frame: pd.DataFrame = table.to_pandas()
        for name in table.column_names:
            column = table[name]
            if pa.types.is_integer(column.type) and column.null_count:
                extremes = pc.min_max(column).as_py()
                if max(abs(extremes["min"] or 0), abs(extremes["max"] or 0)) > EXACT_IN_DOUBLE:
                    frame[name] = column.to_pandas(
                        types_mapper={
                            pa.int64(): pd.Int64Dtype(),
                            pa.uint64(): pd.UInt64Dtype(),
                        }.get
                    )
        return frame

    def to_sql(self) -> str:
        """Every statement that is run. By hand, register the frame that a comment names."""
        statements = [*self._session.prelude, self._query]
        return self._session.comment + ";\n\n".join(statements)

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool = False,
        timeout: int | None = None,
    ) -> None:
        """Write the result, on-demand features included, to one Parquet file."""
        if not isinstance(storage, SavedDatasetFileStorage):
            raise RetrievalError(
                f"cannot save to {type(storage).__name__}. Expected a SavedDatasetFileStorage."
            )
        path = _absolute(storage.file_options.uri, self._config)
        if path.exists() and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.unfinished")
        pq.write_table(self.to_arrow(timeout=timeout), unfinished)
        os.replace(unfinished, path)

    @property
    def full_feature_names(self) -> bool:
        """Whether features are named `view__feature`."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """The on-demand views that Feast computes on the joined rows."""
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What was asked for. The range of times costs one reading of the spine."""
        if self._join is None:
            return None
        if self._times is None:
            with self._session.run() as connection:
                self._times = connection.execute(self._join.range_query()).to_arrow_table()
        (times,) = self._times.to_pylist()
        spine = self._join.spine
        return RetrievalMetadata(
            features=self._feature_refs,
            keys=[name for name in spine.columns if name != spine.timestamp],
            min_event_timestamp=times["first"],
            max_event_timestamp=times["last"],
        )

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        with self._session.run() as connection:
            if self._before is not None:
                self._before(connection)
            if self._join is not None:
                self._times = connection.execute(self._join.range_query()).to_arrow_table()
            result = connection.execute(self._query).to_arrow_table()
        if self._join is None or self._join.spine.frame is None:
            return result
        table = self._join.spine.frame
        for name in (name for view in self._join.views for name in view.features):
            table = table.append_column(result.schema.field(name), result[name])
        return table


# --- what a query reads -------------------------------------------------------------------


def query(config: RepoConfig, sql: str) -> pa.Table:
    """The answer of SQL over the published tables alone, for example rows of the spine.

    Raises MissingInputError if nothing is published, RetrievalError if the SQL does not run.
    """
    with _Session.of(config).run() as connection:
        for statement in _published_views(_Snapshot.of(config).tables()):
            connection.execute(statement)
        return connection.execute(sql).to_arrow_table()


@dataclass(frozen=True)
class _Session:
    """How a connection is set up: fresh and in memory, the same each time."""

    settings: dict[str, Any]
    prelude: tuple[str, ...] = ("set timezone = 'UTC'",)
    frames: dict[str, pa.Table] = field(default_factory=dict)

    @classmethod
    def of(cls, config: RepoConfig) -> _Session:
        options = config.offline_store
        settings: dict[str, Any] = {
            "memory_limit": options.memory_limit,
            "threads": options.threads,
            "temp_directory": options.temp_directory
            and str(_absolute(options.temp_directory, config)),
        }
        return cls({name: value for name, value in settings.items() if value is not None})

    @property
    def comment(self) -> str:
        return "".join(
            f"-- {_quote(name)}: the {table.num_rows} rows of entity_df, registered as a table\n"
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
class _Snapshot:
    """The published directory as it was when the query began.

    `link` is the configured path with its parent resolved; `path` is where it led to, None if
    it led nowhere.
    """

    link: Path
    path: Path | None

    @classmethod
    def of(cls, config: RepoConfig) -> _Snapshot:
        configured = _absolute(config.offline_store.published, config)
        resolved = Path(os.path.realpath(configured))
        link = Path(os.path.realpath(configured.parent)) / configured.name
        return cls(link, resolved if resolved.is_dir() else None)

    def pin(self, path: Path) -> Path:
        """The same file inside this snapshot, if it lies under the link.

        Where `published` is one snapshot's directory and not the link, what lies under the link
        beside it is meant: so a store can be opened on an older snapshot.
        """
        if self.path is not None:
            for parent in path.parents:
                if parent.name in (self.link.name, CURRENT) and (
                    os.path.realpath(parent.parent) == str(self.link.parent)
                ):
                    return self.path / path.relative_to(parent)
        return path

    def tables(self) -> dict[str, Path]:
        """The published tables by name."""
        if self.path is None:
            raise MissingInputError(
                f"{self.link} is not there, so the SQL in entity_df has no tables to read. "
                "`dbt build` publishes it."
            )
        return {file.stem: file for file in sorted(self.path.glob("*.parquet"))}


@dataclass(frozen=True)
class _Source:
    """A Parquet file source: how SQL reads it and what columns it has."""

    label: str
    reader: str
    columns: dict[str, str]

    @classmethod
    def of(
        cls,
        source: DataSource,
        config: RepoConfig,
        snapshot: _Snapshot,
        connection: duckdb.DuckDBPyConnection,
    ) -> _Source:
        if not isinstance(source, FileSource) or not isinstance(
            source.file_format, ParquetFormat | None
        ):
            raise RetrievalError(
                f"{source.name} is a {type(source).__name__} of format "
                f"{type(getattr(source, 'file_format', None)).__name__}. "
                "Expected a FileSource of Parquet files."
            )
        path = source.path
        if "://" not in path:
            file = snapshot.pin(_absolute(path, config))
            path = str(file / "**" / "*.parquet" if file.is_dir() else file)
            if not os.path.exists(path) and not glob.glob(path, recursive=True):
                raise MissingInputError(
                    f"{source.name}: {path} is not there. `dbt build` publishes it."
                )
        reader = f"read_parquet({_literal(path)}) as source"
        columns = _describe(connection, f"from {reader}", f"{source.name}: {path} cannot be read")
        return cls(source.name, reader, dict(columns))

    def column(self, name: str) -> str:
        """SQL for a column."""
        self.require(name)
        return f"source.{_quote(name)}"

    def require(self, column: str) -> str:
        """The type of a column, or an error that names what there is."""
        if column not in self.columns:
            raise RetrievalError(
                f"{self.label} has no column {column!r}. It has {', '.join(self.columns)}."
            )
        return self.columns[column]

    def utc(self, column: str) -> str:
        """SQL for a time column as timestamptz."""
        kind = self.require(column)
        if not kind.startswith(("TIMESTAMP", "DATE")):
            raise RetrievalError(f"{self.label}: {column} is {kind}. Expected a timestamp.")
        sql = self.column(column)
        return sql if kind == TIMESTAMPTZ else f"cast({sql} as timestamptz)"

    def tie_break(self, created: str | None) -> list[str]:
        """SQL that ranks rows of equal event time: the greatest wins, NULL is least."""
        by_created = [self.utc(created)] if created else []
        return [*by_created, "source.filename", "source.file_row_number"]


@dataclass(frozen=True)
class _Spine:
    """The rows to join features to: SQL over the snapshot, or an Arrow table."""

    columns: dict[str, str]
    timestamp: str
    sql: str | None
    frame: pa.Table | None
    tables: dict[str, Path]

    @classmethod
    def of(
        cls, entity_df: Any, snapshot: _Snapshot, connection: duckdb.DuckDBPyConnection
    ) -> _Spine:
        if isinstance(entity_df, str):
            sql, frame, published = entity_df.strip().rstrip(";"), None, snapshot.tables()
            # A name that is nowhere in the text cannot be a table of the query.
            tables = {name: path for name, path in published.items() if name.lower() in sql.lower()}
            for statement in _published_views(tables):
                connection.execute(statement)
            known = f"the SQL in entity_df does not run (tables: {', '.join(published) or 'none'})"
            described = _describe(connection, f"(\n{sql}\n)", known)
            _refuse_duplicates((name for name, _ in described), "entity_df has")
        else:
            sql, frame, tables = None, _to_arrow(entity_df), {}
            _refuse_duplicates(frame.column_names, "entity_df has")
            connection.register("entity_rows", frame)
            described = _describe(connection, "from entity_rows", "entity_df cannot be read")
        columns = dict(described)
        return cls(columns, _timestamp_column(columns, frame), sql, frame, tables)

    def has_no_value(self, column: str) -> bool:
        """A column of a frame with nothing in it, whose type therefore says nothing."""
        return self.frame is not None and self.frame[column].null_count == self.frame.num_rows

    def time(self) -> str:
        """SQL for T as timestamptz."""
        if self.has_no_value(self.timestamp):
            return "cast(null as timestamptz)"
        return f"cast({_quote(self.timestamp)} as timestamptz)"

    def narrow(self, keys: Iterable[str]) -> pa.Table:
        """The frame's time, floored to the microsecond, and its join keys."""
        assert self.frame is not None
        table = self.frame.select(list(dict.fromkeys([self.timestamp, *keys])))
        times = table[self.timestamp]
        if pa.types.is_timestamp(times.type) and times.type.unit == "ns":
            table = table.set_column(
                0, self.timestamp, pc.floor_temporal(times, unit="microsecond")
            )
        return table


@dataclass(frozen=True)
class _View:
    """What one feature view adds: the columns to match, to take, and the rows that count."""

    name: str
    source: _Source
    keys: tuple[tuple[str, str], ...]
    """(spine column, source column)."""
    features: dict[str, str]
    """Output name -> source column."""
    timestamp: str
    created: str | None
    ttl: timedelta

    @classmethod
    def of(
        cls,
        view: FeatureView,
        feature_refs: Iterable[str],
        full_feature_names: bool,
        config: RepoConfig,
        snapshot: _Snapshot,
        connection: duckdb.DuckDBPyConnection,
    ) -> _View:
        if view.batch_source is None:
            raise RetrievalError(f"feature view {view.name} has no source to read history from.")
        source = _Source.of(view.batch_source, config, snapshot, connection)
        in_source = {mapped: raw for raw, mapped in view.batch_source.field_mapping.items()}
        projection = view.projection
        prefix = f"{projection.name_to_use()}:"
        asked = {ref.removeprefix(prefix) for ref in feature_refs if ref.startswith(prefix)}
        shown = f"{projection.name_alias or view.name}__" if full_feature_names else ""
        names = [feature.name for feature in view.features if feature.name in asked]
        keys = [key.name for key in view.entity_columns if key.name != DUMMY_ENTITY_ID]
        created = view.batch_source.created_timestamp_column
        plan = cls(
            name=projection.name_to_use(),
            source=source,
            keys=tuple(
                (projection.join_key_map.get(key, key), in_source.get(key, key)) for key in keys
            ),
            features={f"{shown}{name}": in_source.get(name, name) for name in names},
            timestamp=in_source.get(
                view.batch_source.timestamp_field, view.batch_source.timestamp_field
            ),
            created=in_source.get(created, created) if created else None,
            ttl=view.ttl or timedelta(0),
        )
        for column in [*(column for _, column in plan.keys), *plan.features.values()]:
            source.require(column)
        return plan

    def match(self, spine: _Spine, spine_key: str, column: str) -> str:
        """SQL for a key of the spine in the type of this view's key.

        Integers of every width match each other, and a float that holds a whole number (what
        pandas makes of integers with missing values) matches that integer. Other differences
        of type are refused: `1` and `'1'` may be the same entity, but we do not guess.
        """
        theirs = self.source.require(column)
        ours = spine.columns[spine_key]
        key = f"spine.{_quote(spine_key)}"
        if spine.has_no_value(spine_key):
            return f"try_cast({key} as {theirs})"
        if ours in FLOATS and theirs in INTEGERS:
            return f"case when {key} = trunc({key}) then try_cast({key} as {theirs}) end"
        if _kind(ours) != _kind(theirs):
            raise RetrievalError(
                f"{spine_key!r} is {ours} in entity_df, but {column!r} is {theirs} in feature "
                f"view {self.name} ({self.source.label}). Cast one of them: they must be alike."
            )
        return key


# --- the SQL ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _PointInTimeJoin:
    """The statements of one point-in-time join.

    The spine becomes a temporary table with a row number. Each view is read to a history with
    one row per key and instant, and ASOF-joined to the spine. The last step puts the views
    side by side in the spine's order.
    """

    spine: _Spine
    views: list[_View]
    filter_by_created_timestamp: bool

    @property
    def prefix(self) -> str:
        """What internal names start with: more underscores than any other name here."""
        names = [*self.spine.columns, *self.spine.tables]
        names += [feature for view in self.views for feature in view.features]
        return "_" * (1 + max(len(name) - len(name.lstrip("_")) for name in names))

    def session(self, base: _Session) -> _Session:
        """The connection with the spine in place and the range of its times in variables."""
        p, spine = self.prefix, self.spine
        columns = [f"row_number() over () as {p}row", f"{spine.time()} as {p}at"]
        if spine.sql is not None:
            frames = {}
            columns.append("*")
            rows = f"(\n{spine.sql}\n)"
        else:
            keys = list(dict.fromkeys(key for view in self.views for key, _ in view.keys))
            frames = {f"{p}entity_rows": spine.narrow(keys)}
            columns += [_quote(key) for key in keys]
            rows = f"{p}entity_rows"
        prelude = (
            *base.prelude,
            *_published_views(spine.tables),
            f"create temp table {p}spine as\n{_select(columns, rows)}",
            f"set variable {p}first = (select min({p}at) from {p}spine)",
            f"set variable {p}last = (select max({p}at) from {p}spine)",
        )
        return replace(base, prelude=prelude, frames=frames)

    def range_query(self) -> str:
        """The first and the last time of the spine."""
        p = self.prefix
        return f"select getvariable('{p}first') as first, getvariable('{p}last') as last"

    def query(self) -> str:
        """The join itself: for SQL all columns, for a frame only those it does not have."""
        p = self.prefix
        own = self.spine.columns if self.spine.sql is not None else []
        columns = [f"spine.{_quote(name)}" for name in own]
        steps, tables = [], [f"{p}spine as spine"]
        for number, view in enumerate(self.views, 1):
            name, alias = _quote(f"{p}{number} {view.name}"), f"view_{number}"
            history = _quote(f"{p}{number} {view.name}, history")
            steps.append(f"{history} as (\n{self._history(view)}\n)")
            steps.append(f"{name} as (\n{self._seen(view, history)}\n)")
            tables.append(f"left join {name} as {alias} on {alias}.{p}row = spine.{p}row")
            columns += [f"{alias}.{_quote(feature)}" for feature in view.features]
        ctes = "with " + ",\n".join(steps) + "\n" if steps else ""
        return ctes + _select(
            columns or [f"spine.{p}row"], "\n".join(tables), tail=f"order by spine.{p}row"
        )

    def _seen(self, view: _View, history: str) -> str:
        """The row of the view that each row of the spine sees, for those that see one."""
        p = self.prefix
        match = [
            f"{view.match(self.spine, key, column)} = history.{p}key_{number}"
            for number, (key, column) in enumerate(view.keys, 1)
        ]
        match.append(f"spine.{p}at >= history.{p}known_at")
        oldest = f"history.{p}event_at >= spine.{p}at - {_interval(view.ttl)}"
        # In an ASOF join of 64 rows or more, DuckDB 1.5 matches a NULL time on the left to
        # anything, and NULL to NULL in every key but the first.
        names = [f"{p}at", *(_quote(key) for key, _ in view.keys)]
        known = " and ".join(f"{name} is not null" for name in names)
        joined = (
            f"(from {p}spine where {known}) as spine\n"
            f"asof join {history} as history\n    on {' and '.join(match)}"
        )
        return _select(
            [f"spine.{p}row", *(f"history.{_quote(name)}" for name in view.features)],
            joined,
            [oldest] if view.ttl else [],
        )

    def _history(self, view: _View) -> str:
        """At most one row for each key and instant: the one to use from that instant on."""
        p, source, event_at = self.prefix, view.source, view.source.utc(view.timestamp)
        keys = [source.column(column) for _, column in view.keys]
        ties = source.tie_break(view.created)
        columns = [f"{key} as {p}key_{number}" for number, key in enumerate(keys, 1)]
        columns += [
            f"{source.column(column)} as {_quote(name)}" for name, column in view.features.items()
        ]
        columns.append(f"{event_at} as {p}event_at")
        wanted = [f"{event_at} <= getvariable('{p}last')", *(f"{key} is not null" for key in keys)]
        if view.ttl:
            wanted.append(f"{event_at} >= getvariable('{p}first') - {_interval(view.ttl)}")
        if not (self.filter_by_created_timestamp and view.created):
            columns.append(f"{event_at} as {p}known_at")
            latest = f"row_number() over ({_best_first([*keys, event_at], ties)}) = 1"
            return _select(columns, source.reader, wanted, f"qualify {latest}")
        # A row can be seen from the later of its two times on. It counts if, of all rows that
        # can be seen by then, it is the best: the latest event, then the tie rule.
        created = source.utc(view.created)
        columns.append(f"greatest({event_at}, {created}) as {p}known_at")
        columns.append(f"row_number() over ({_best_first(keys, [event_at, *ties])}) as {p}rank")
        wanted.append(f"{created} <= getvariable('{p}last')")
        ranked = _select(columns, source.reader, wanted)
        by_key = _window(
            [f"{p}key_{number}" for number in range(1, len(keys) + 1)], [f"{p}known_at"]
        )
        return _select(
            ["*"], f"(\n{ranked}\n)", tail=f"qualify {p}rank = min({p}rank) over ({by_key})"
        )


def _pull(
    config: RepoConfig,
    data_source: DataSource,
    keys: list[str],
    features: list[str],
    times: tuple[str, str | None],
    period: tuple[datetime | None, datetime | None],
    *,
    latest: bool,
) -> DuckDBRetrievalJob:
    """The rows of a source in a period: all, or the latest of each key that is not NULL."""
    snapshot, session = _Snapshot.of(config), _Session.of(config)
    with session.run() as connection:
        source = _Source.of(data_source, config, snapshot, connection)
    terms = {column: source.column(column) for column in [*keys, *features]}
    terms |= {column: source.utc(column) for column in times if column}
    if not keys:  # Feast keeps the rows of a view without entities under this key
        terms[DUMMY_ENTITY_ID] = _literal(DUMMY_ENTITY_VAL)
    columns = [f"{term} as {_quote(column)}" for column, term in terms.items()]
    at = source.utc(times[0])
    conditions = _in_period(at, *period)
    rank = [at, *source.tie_break(times[1])]
    if not latest:
        # Oldest first: whoever keeps the last row it sees of an entity keeps the right one.
        oldest_first = ", ".join(f"{term} nulls first" for term in rank)
        query = _select(columns, source.reader, conditions, tail=f"order by {oldest_first}")
        return DuckDBRetrievalJob(session, query, snapshot=snapshot, config=config)
    keyless = " or ".join(f"{source.column(key)} is null" for key in keys) or "false"
    query = _select(
        columns,
        source.reader,
        [*conditions, f"not ({keyless})"],
        f"qualify row_number() over ({_best_first(map(source.column, keys), rank)}) = 1",
    )
    count = _select(["count(*)"], source.reader, [*conditions, f"({keyless})"])

    def warn_of_keyless_rows(connection: duckdb.DuckDBPyConnection) -> None:
        (rows,) = connection.execute(count).fetchone() or (0,)
        if rows:
            names = " or ".join(keys)
            logger.warning("%s: %s rows left out, their %s is NULL", source.label, rows, names)

    return DuckDBRetrievalJob(
        session, query, snapshot=snapshot, config=config, before=warn_of_keyless_rows
    )


def _in_period(at: str, start: datetime | None, end: datetime | None) -> list[str]:
    """Conditions for `start <= at <= end`.

    `feast materialize-incremental T` starts a view that was never materialized at now - ttl,
    which for a T in the past is after T. Nothing else asks for a start after the end, so it is
    taken for what it means: from the beginning.
    """
    start, end = (time and time.replace(tzinfo=time.tzinfo or UTC) for time in (start, end))
    if start and end and start > end:
        start = None
    bounds = [(">=", start), ("<=", end)]
    return [f"{at} {sign} timestamptz '{time.astimezone(UTC)}'" for sign, time in bounds if time]


def _select(columns: Sequence[str], source: str, where: Sequence[str] = (), tail: str = "") -> str:
    """One SELECT, laid out to be read."""
    listed = ",\n".join(f"    {column}" for column in columns)
    conditions = "\n    and ".join(where)
    lines = [f"select\n{listed}", f"from {source}", f"where {conditions}" if where else "", tail]
    return "\n".join(line for line in lines if line)


def _best_first(partition: Iterable[str], rank: Iterable[str]) -> str:
    """A window in which the row of the greatest rank comes first."""
    return _window(partition, [f"{term} desc nulls last" for term in rank])


def _window(partition: Iterable[str], order: Iterable[str]) -> str:
    by = f"partition by {', '.join(keys)} " if (keys := list(partition)) else ""
    return f"{by}order by {', '.join(order)}"


def _published_views(tables: dict[str, Path]) -> list[str]:
    return [
        f"create temp view {_quote(name)} as from read_parquet({_literal(str(path))})"
        for name, path in tables.items()
    ]


def _interval(span: timedelta) -> str:
    return f"to_microseconds({span // timedelta(microseconds=1)})"


def _quote(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def _literal(text: str) -> str:
    escaped = text.replace("'", "''")
    return f"'{escaped}'"


# --- what the caller gave -----------------------------------------------------------------


def _absolute(path: str, config: RepoConfig) -> Path:
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
            return pa.Table.from_pandas(entity_df, preserve_index=False)
        return pa.table(entity_df)
    except (pa.ArrowException, ValueError) as error:
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


def _kind(duckdb_type: str) -> str:
    """Types that can be compared without loss or surprise share a kind."""
    if duckdb_type in INTEGERS:
        return "integer"
    if duckdb_type.startswith("DECIMAL"):
        return "decimal"
    return "VARCHAR" if duckdb_type.startswith("ENUM") else duckdb_type


def _check_names(
    spine: _Spine,
    views: Iterable[_View],
    on_demand: Iterable[OnDemandFeatureView],
    feature_refs: Iterable[str],
    full_feature_names: bool,
) -> None:
    """Refuse names that the result could not keep apart, and a spine that lacks something."""
    needed = [(key, f"feature view {view.name}") for view in views for key, _ in view.keys]
    needed += [
        (name, f"on-demand feature view {view.name}")
        for view in on_demand
        for name in view.get_request_data_schema()
    ]
    for name, who in needed:
        if name not in spine.columns:
            raise RetrievalError(
                f"{who} needs {name!r}, which entity_df does not have. "
                f"It has {', '.join(spine.columns)}."
            )
    names = [*spine.columns, *(name for view in views for name in view.features)]
    for view in on_demand:
        prefix = view.projection.name_to_use()
        asked = [
            name for ref in feature_refs for at, _, name in [ref.partition(":")] if at == prefix
        ]
        names += [f"{prefix}__{name}" if full_feature_names else name for name in asked]
    _refuse_duplicates(names, "entity_df and the features asked for have")


def _refuse_duplicates(names: Iterable[str], where: str) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if name.lower() in seen:
            raise RetrievalError(
                f"{where} both {seen[name.lower()]!r} and {name!r}. Names must differ in more "
                "than case: rename or drop the column, or ask with full_feature_names=True."
            )
        seen[name.lower()] = name
