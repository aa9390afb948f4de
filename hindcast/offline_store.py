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
from dataclasses import dataclass, field
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
        spine = _Spine.of(entity_df, snapshot, session)
        views = [
            _View.of(view, feature_refs, full_feature_names, config, snapshot, session)
            for view in feature_views
        ]
        _check_names(spine, views, on_demand, feature_refs, full_feature_names)
        plan = _PointInTimePlan(spine, views, filter_by_created_timestamp)
        return DuckDBRetrievalJob(
            plan.session(session),
            plan.query(),
            snapshot=snapshot,
            config=config,
            on_demand_feature_views=on_demand,
            full_feature_names=full_feature_names,
            spine=spine,
            features=[name for view in views for name in view.features],
            bounds=plan.bounds_query(),
            refs=feature_refs,
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
        warning. A start after the end is no start: see `_time_range`.
        """
        snapshot, session = _Snapshot.of(config), _Session.of(config)
        source = _Source.of(data_source, config, snapshot, session)
        columns = _pulled(
            source,
            [*join_key_columns, *feature_name_columns],
            [timestamp_field, created_timestamp_column],
        )
        if not join_key_columns:  # an entity-less view: Feast keeps its one row under this key
            columns.append(f"{_literal(DUMMY_ENTITY_VAL)} as {_quote(DUMMY_ENTITY_ID)}")
        in_range = _time_range(source, timestamp_field, start_date, end_date)
        keyless = [f"{_quote(key)} is null" for key in join_key_columns]
        conditions = [*in_range, *(f"not ({test})" for test in keyless)]
        latest = _first_row(
            [_quote(key) for key in join_key_columns],
            [
                f"{source.utc(timestamp_field)} desc",
                *source.tie_break(created_timestamp_column),
            ],
        )
        query = _select(columns, source.reader, conditions, f"qualify {latest}")
        count = _select(["count(*)"], source.reader, [*in_range, f"({' or '.join(keyless)})"])

        def warn_of_keyless_rows(connection: duckdb.DuckDBPyConnection) -> None:
            (rows,) = connection.execute(count).fetchone() or (0,)
            if rows:
                logger.warning(
                    "%s: %s rows left out because %s is NULL",
                    source.label,
                    rows,
                    " or ".join(join_key_columns),
                )

        return DuckDBRetrievalJob(
            session,
            query,
            snapshot=snapshot,
            config=config,
            before=warn_of_keyless_rows if keyless else None,
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
        snapshot, session = _Snapshot.of(config), _Session.of(config)
        source = _Source.of(data_source, config, snapshot, session)
        columns = _pulled(
            source,
            [*join_key_columns, *feature_name_columns],
            [timestamp_field, created_timestamp_column],
        )
        if not join_key_columns:
            columns.append(f"{_literal(DUMMY_ENTITY_VAL)} as {_quote(DUMMY_ENTITY_ID)}")
        in_range = _time_range(source, timestamp_field, start_date, end_date)
        query = _select(columns, source.reader, in_range)
        return DuckDBRetrievalJob(session, query, snapshot=snapshot, config=config)


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
        on_demand_feature_views: Sequence[OnDemandFeatureView] = (),
        full_feature_names: bool = False,
        spine: _Spine | None = None,
        features: Sequence[str] = (),
        bounds: str | None = None,
        refs: Sequence[str] = (),
        before: Callable[[duckdb.DuckDBPyConnection], None] | None = None,
    ) -> None:
        """Keep what is needed to run; nothing is read yet."""
        self.snapshot_path = str(snapshot.path) if snapshot.path else None
        self._session = session
        self._query = query
        self._config = config
        self._on_demand_feature_views = list(on_demand_feature_views)
        self._full_feature_names = full_feature_names
        self._spine = spine
        self._features = list(features)
        self._bounds_query = bounds
        self._bounds: tuple[datetime | None, datetime | None] | None = None
        self._refs = list(refs)
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
        """What was asked for. The range of times costs a reading of the spine, once."""
        if self._spine is None:
            return None
        if self._bounds is None:
            with self._session.run() as connection:
                self._bounds = self._read_bounds(connection)
        return RetrievalMetadata(
            features=self._refs,
            keys=[name for name in self._spine.columns if name != self._spine.timestamp],
            min_event_timestamp=self._bounds[0],
            max_event_timestamp=self._bounds[1],
        )

    def _read_bounds(
        self, connection: duckdb.DuckDBPyConnection
    ) -> tuple[datetime | None, datetime | None]:
        assert self._bounds_query is not None
        first, last = connection.execute(self._bounds_query).fetchone() or (None, None)
        return tuple(time and time.astimezone(UTC) for time in (first, last))  # type: ignore[return-value]

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        with self._session.run() as connection:
            if self._before is not None:
                self._before(connection)
            if self._bounds_query is not None:
                self._bounds = self._read_bounds(connection)
            joined = connection.execute(self._query).to_arrow_table()
        if self._spine is None or self._spine.frame is None:
            return joined
        result = self._spine.frame
        for name in self._features:
            result = result.append_column(joined.schema.field(name), joined[name])
        return result


# --- what a query reads -------------------------------------------------------------------


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
            with duckdb.connect(":memory:", config=self.settings) as connection:
                for name, table in self.frames.items():
                    connection.register(name, table)
                for statement in self.prelude:
                    connection.execute(statement)
                yield connection
        except duckdb.Error as error:
            raise RetrievalError(f"DuckDB could not run the query: {error}") from error

    def describe(self, relation: str, prelude: Iterable[str] = ()) -> dict[str, str]:
        """The columns of a relation and their DuckDB types, in order. No row is read."""
        with duckdb.connect(":memory:", config=self.settings) as connection:
            for name, table in self.frames.items():
                connection.register(name, table)
            for statement in (*self.prelude, *prelude):
                connection.execute(statement)
            rows = connection.execute(f"describe from {relation}").fetchall()
        return {name: kind for name, kind, *_ in rows}


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
        """The same file inside this snapshot, if it lies under the link."""
        if self.path is not None:
            for parent in path.parents:
                if parent.name == self.link.name and (
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
        cls, source: DataSource, config: RepoConfig, snapshot: _Snapshot, session: _Session
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
        reader = f"read_parquet({_literal(path)})"
        try:
            return cls(source.name, reader, session.describe(reader))
        except duckdb.Error as error:
            raise RetrievalError(f"{source.name}: {path} cannot be read: {error}") from error

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
        return _quote(column) if kind == TIMESTAMPTZ else f"cast({_quote(column)} as timestamptz)"

    def tie_break(self, created: str | None) -> list[str]:
        """ORDER BY terms that choose among rows of equal event time: the first row wins."""
        by_created = [f"{self.utc(created)} desc nulls last"] if created else []
        return [*by_created, "filename desc", "file_row_number desc"]


@dataclass(frozen=True)
class _Spine:
    """The rows to join features to: SQL over the snapshot, or an Arrow table."""

    columns: dict[str, str]
    timestamp: str
    sql: str | None
    frame: pa.Table | None
    tables: dict[str, Path]

    @classmethod
    def of(cls, entity_df: Any, snapshot: _Snapshot, session: _Session) -> _Spine:
        if isinstance(entity_df, str):
            sql, frame, published = entity_df.strip().rstrip(";"), None, snapshot.tables()
            # A name that is nowhere in the text cannot be a table of the query.
            tables = {name: path for name, path in published.items() if name.lower() in sql.lower()}
            try:
                columns = session.describe(f"(\n{sql}\n)", _views_of(tables))
            except duckdb.Error as error:
                raise RetrievalError(
                    f"the SQL in entity_df does not run: {error}\n"
                    f"Published tables: {', '.join(published) or 'none'}."
                ) from error
        else:
            sql, frame, tables = None, _to_arrow(entity_df), {}
            with_frame = _Session(session.settings, session.prelude, {"entity_rows": frame})
            try:
                columns = with_frame.describe("entity_rows")
            except duckdb.Error as error:
                raise RetrievalError(f"entity_df cannot be read: {error}") from error
            _refuse_duplicates(frame.column_names, "entity_df has")
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
    keys: dict[str, str]
    """Spine column -> source column."""
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
        session: _Session,
    ) -> _View:
        if view.batch_source is None:
            raise RetrievalError(f"feature view {view.name} has no source to read history from.")
        source = _Source.of(view.batch_source, config, snapshot, session)
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
            keys={projection.join_key_map.get(key, key): in_source.get(key, key) for key in keys},
            features={f"{shown}{name}": in_source.get(name, name) for name in names},
            timestamp=in_source.get(
                view.batch_source.timestamp_field, view.batch_source.timestamp_field
            ),
            created=in_source.get(created, created) if created else None,
            ttl=view.ttl or timedelta(0),
        )
        for column in [*plan.keys.values(), *plan.features.values()]:
            source.require(column)
        return plan

    def match(self, spine: _Spine, spine_key: str) -> str:
        """SQL for a key of the spine in the type of this view's key.

        Integers of every width match each other, and a float that holds a whole number (what
        pandas makes of integers with missing values) matches that integer. Other differences
        of type are refused: `1` and `'1'` may be the same airport, but we do not guess.
        """
        column = self.keys[spine_key]
        theirs = self.source.require(column)
        if spine_key not in spine.columns:
            raise RetrievalError(
                f"feature view {self.name} is joined on {spine_key!r}, which entity_df does not "
                f"have. It has {', '.join(spine.columns)}."
            )
        ours = spine.columns[spine_key]
        key = f"{_quote(spine_key)}"
        if spine.has_no_value(spine_key):
            return f"cast(null as {theirs})"
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
class _PointInTimePlan:
    """The statements of one point-in-time join.

    The spine becomes a temporary table with a row number; each view is one CTE that ASOF-joins
    it to the view's history; the last step puts the views side by side in the spine's order.
    Internal names start with underscores, as many as no other name here starts with.
    """

    spine: _Spine
    views: list[_View]
    filter_by_created_timestamp: bool

    @property
    def _(self) -> str:
        names = [*self.spine.columns, *self.spine.tables]
        for view in self.views:
            names += [view.name, *view.features]
        depth = 1
        while any(name.startswith("_" * depth) for name in names):
            depth += 1
        return "_" * depth

    def session(self, base: _Session) -> _Session:
        """The connection with the spine in place."""
        keys = {
            f"{self._}key_{number}_{position}": view.match(self.spine, key)
            for number, view in enumerate(self.views, 1)
            for position, key in enumerate(view.keys, 1)
        }
        columns = [
            f"row_number() over () as {self._}row",
            f"{self.spine.time()} as {self._}at",
            *(f"{expression} as {name}" for name, expression in keys.items()),
        ]
        if self.spine.sql is not None:
            frames = {}
            columns.append("*")
            rows = f"(\n    {self.spine.sql}\n)"
        else:
            wanted = [key for view in self.views for key in view.keys]
            rows = f"{self._}entity_rows"
            frames = {rows: self.spine.narrow(wanted)}
        return _Session(
            base.settings,
            (
                *base.prelude,
                *_views_of(self.spine.tables),
                f"create temp table {self._}spine as\n{_select(columns, rows)}",
                f"set variable {self._}first = (select min({self._}at) from {self._}spine)",
                f"set variable {self._}last = (select max({self._}at) from {self._}spine)",
            ),
            frames,
        )

    def bounds_query(self) -> str:
        return f"select getvariable('{self._}first'), getvariable('{self._}last')"

    def query(self) -> str:
        ctes: dict[str, str] = {}
        columns = []
        if self.spine.sql is not None:
            columns += [f"{self._}spine.{_quote(name)}" for name in self.spine.columns]
        joins = [f"{self._}spine"]
        for number, view in enumerate(self.views, 1):
            name = view.name
            while name.lower() in {other.lower() for other in ctes}:
                name += "_"
            ctes[name] = self._joined(view, number)
            columns += [f"{_quote(name)}.{_quote(feature)}" for feature in view.features]
            joins.append(f"left join {_quote(name)} on {_quote(name)}.{self._}row = "
                         f"{self._}spine.{self._}row")
        steps = ",\n\n".join(f"{_quote(name)} as (\n{_indent(cte)}\n)" for name, cte in ctes.items())
        final = _select(
            columns or [f"{self._}spine.{self._}row"],
            "\n".join(joins),
            [],
            f"order by {self._}spine.{self._}row",
        )
        return f"with {steps}\n\n{final}" if steps else final

    def _joined(self, view: _View, number: int) -> str:
        """The row of the view that each row of the spine sees, for those that see one."""
        equal = [
            f"{self._}spine.{self._}key_{number}_{position} = {self._}history.{self._}key_{position}"
            for position in range(1, len(view.keys) + 1)
        ]
        fresh = (
            [f"{self._}history.{self._}event_at >= {self._}spine.{self._}at - {_interval(view.ttl)}"]
            if view.ttl
            else []
        )
        history = _indent(self._history(view))
        on = " and ".join([*equal, f"{self._}spine.{self._}at >= {self._}history.{self._}known_at"])
        return _select(
            [
                f"{self._}spine.{self._}row",
                *(f"{self._}history.{_quote(name)}" for name in view.features),
            ],
            f"{self._}spine\nasof join (\n{history}\n) as {self._}history\non {on}",
            fresh,
        )

    def _history(self, view: _View) -> str:
        """At most one row for each key and instant: the one to use from that instant on."""
        source, event_at = view.source, view.source.utc(view.timestamp)
        keys = [_quote(column) for column in view.keys.values()]
        first, last = f"getvariable('{self._}first')", f"getvariable('{self._}last')"
        wanted = [f"{event_at} <= {last}"]
        if view.ttl:
            wanted.append(f"{event_at} >= {first} - {_interval(view.ttl)}")
        columns = [
            *(f"{key} as {self._}key_{position}" for position, key in enumerate(keys, 1)),
            f"{event_at} as {self._}event_at",
            *(f"{_quote(column)} as {_quote(name)}" for name, column in view.features.items()),
        ]
        ties = source.tie_break(view.created)
        if not (self.filter_by_created_timestamp and view.created):
            columns.append(f"{event_at} as {self._}known_at")
            once = _first_row([*keys, event_at], ties)
            return _select(columns, source.reader, wanted, f"qualify {once}")
        # A row can be seen from the later of its two times on. It matters only if no row seen
        # by then is better, better meaning a later event, then the tie rule.
        created = source.utc(view.created)
        best_first = ", ".join([f"{event_at} desc", *ties])
        partition = f"partition by {', '.join(keys)} " if keys else ""
        columns += [
            f"greatest({event_at}, {created}) as {self._}known_at",
            f"row_number() over ({partition}order by {best_first}) as {self._}rank",
        ]
        ranked = _indent(_select(columns, source.reader, [*wanted, f"{created} <= {last}"]))
        inner = [f"{self._}key_{position}" for position in range(1, len(keys) + 1)]
        partition = f"partition by {', '.join(inner)} " if inner else ""
        return _select(
            ["*"],
            f"(\n{ranked}\n)",
            [],
            f"qualify {self._}rank = min({self._}rank) over ({partition}order by {self._}known_at)",
        )


def _pulled(source: _Source, columns: Iterable[str], times: Iterable[str | None]) -> list[str]:
    """SELECT terms for materialization: every column once, its times as timestamptz."""
    terms = {column: _quote(column) for column in columns if source.require(column)}
    for column in filter(None, times):
        terms[column] = f"{source.utc(column)} as {_quote(column)}"
    return list(terms.values())


def _time_range(
    source: _Source, column: str, start: datetime | None, end: datetime | None
) -> list[str]:
    """Conditions for `start <= column <= end`.

    `feast materialize-incremental T` starts a view that was never materialized at now - ttl,
    which for a T in the past is after T. Nothing else asks for a start after the end, so it is
    taken for what it means: from the beginning.
    """
    start, end = (time and time.replace(tzinfo=time.tzinfo or UTC) for time in (start, end))
    if start and end and start > end:
        start = None
    bounds = [(">=", start), ("<=", end)]
    at = source.utc(column)
    return [f"{at} {sign} timestamptz '{time.astimezone(UTC)}'" for sign, time in bounds if time]


def _select(columns: Sequence[str], source: str, where: Sequence[str] = (), tail: str = "") -> str:
    """One SELECT, laid out to be read."""
    listed = ",\n".join(f"    {column}" for column in columns)
    conditions = "\n    and ".join(where)
    lines = [f"select\n{listed}", f"from {source}", f"where {conditions}" if where else "", tail]
    return "\n".join(line for line in lines if line)


def _first_row(partition: Sequence[str], order: Sequence[str]) -> str:
    """A condition that keeps the first row of each partition."""
    by = f"partition by {', '.join(partition)} " if partition else ""
    return f"row_number() over ({by}order by {', '.join(order)}) = 1"


def _views_of(tables: dict[str, Path]) -> list[str]:
    return [
        f"create temp view {_quote(name)} as from read_parquet({_literal(str(path))})"
        for name, path in tables.items()
    ]


def _interval(span: timedelta) -> str:
    return f"to_microseconds({span // timedelta(microseconds=1)})"


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


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
    """Refuse names that the result could not keep apart, and requests it could not serve."""
    names = [*spine.columns, *(name for view in views for name in view.features)]
    for view in on_demand:
        prefix = view.projection.name_to_use()
        asked = [name for ref in feature_refs for at, _, name in [ref.partition(":")] if at == prefix]
        names += [f"{prefix}__{name}" if full_feature_names else name for name in asked]
        for name in view.get_request_data_schema():
            if name not in spine.columns:
                raise RetrievalError(
                    f"on-demand feature view {view.name} needs {name!r} of each request, which "
                    f"entity_df does not have. It has {', '.join(spine.columns)}."
                )
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
