"""Feast's DuckDB offline store with point-in-time joins that read history once.

Use it with one line of `feature_store.yaml`, `type: hindcast.offline_store.DuckDBOfflineStore`
under `offline_store:`; every Parquet or Delta `FileSource` stays as it is. It reads training
sets and what materialization loads, and appends what is pushed or logged. It is not for sources
other than files; how a join is planned is in `asof`, what it reads in `sources`.

What a retrieval promises:

- n rows in, n rows out, in the caller's order; duplicates and extra columns are kept and the
  caller's frame is not touched. A NULL key or a NULL time gives NULL features.
- Each feature view gives the latest row of the entity with `T - ttl <= event time <= T`, both
  ends included, in microseconds; a TTL of 0 or None is unlimited. If that row holds a NULL, the
  answer is NULL: an older value is never used in its place.
- Equal event times: the latest created timestamp wins (NULL last), then the file whose path
  sorts last, then the row that comes last in it. The features asked for play no part.
- `filter_by_created_timestamp=True`: the same among the rows created at or before T. A row
  without a created timestamp is left out: nothing shows that it was there.
- A time without a zone is UTC. Finer than a microsecond, the time of a prediction is rounded down
  and that of a feature row up, so that nothing from the future is joined. (Nanoseconds with a zone
  in a Parquet file are cut by DuckDB itself; there a row may be up to one microsecond early.)
- One query reads one snapshot: the `published` link is resolved once, when the job is made.
- Columns come out as: the caller's, then each view's features in the order the view declares
  them, then the on-demand features.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast.data_source import DataSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore as FeastDuckDBOfflineStore
from feast.infra.offline_stores.duckdb import (
    DuckDBOfflineStoreConfig as FeastDuckDBOfflineStoreConfig,
)
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from feast.types import from_feast_to_pyarrow_type
from feast.utils import compute_non_entity_date_range
from pydantic import StrictInt, StrictStr

from hindcast import write
from hindcast.asof import PointInTimeJoin
from hindcast.errors import MissingInputError, ReplacedError, RetrievalError
from hindcast.sources import (
    Session,
    Snapshot,
    Source,
    Spine,
    absolute,
    published_views,
    refuse_duplicates,
    stamps,
)
from hindcast.sql import best_first, instant, literal, quote, select
from hindcast.statistics import column_metrics
from hindcast.view import View

logger = logging.getLogger(__name__)

EXACT_IN_DOUBLE = 2**53
ATTEMPTS = 3


class DuckDBOfflineStoreConfig(FeastDuckDBOfflineStoreConfig):  # type: ignore[misc]
    """The `offline_store:` section of `feature_store.yaml`; paths are relative to that file."""

    type: StrictStr = "hindcast.offline_store.DuckDBOfflineStore"
    published: StrictStr = "../data/published/current"
    """Directory (or link to one) whose `*.parquet` files an `entity_df` in SQL sees as tables."""
    memory_limit: StrictStr | None = None
    """DuckDB's limit for one query, for example `2GB`. Default: DuckDB's own. Arrow and numpy hold
    the rows asked for and a piece of history outside of it."""
    threads: StrictInt | None = None
    """Threads for one query, in DuckDB and beside it. Default: one for each core."""
    temp_directory: StrictStr | None = None
    """Where a query that outgrows `memory_limit` spills to. Default: DuckDB's own."""
    warehouse: StrictStr | None = None
    """A DuckDB file that an `entity_df` in SQL sees, read-only, as the catalog `warehouse`."""


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

        Without `entity_df`, the rows are the entities that have a feature row from `start_date`
        to `end_date` (both included), each once, at `end_date`. The dates default to Feast's:
        now, and the longest TTL (or 30 days) before.

        Raises MissingInputError if data is not there, RetrievalError if it cannot be joined.
        """
        snapshot = Snapshot.of(config)
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        session = Session.of(config)
        period = None
        with session.run() as connection:
            views = [
                View.of(view, feature_refs, full_feature_names, config, snapshot, connection)
                for view in feature_views
            ]
            if entity_df is None:
                period = compute_non_entity_date_range(feature_views, start_date, end_date)
                spine = _everyone(views, period, connection)
            else:
                spine = Spine.of(entity_df, config, snapshot, connection)
        _check_names(spine, views, on_demand, feature_refs, full_feature_names)
        join = PointInTimeJoin(spine, views, filter_by_created_timestamp)
        return PointInTimeJob(
            session,
            join,
            snapshot=snapshot,
            config=config,
            period=period,
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
        snapshot, session = Snapshot.of(config), Session.of(config)
        with session.run() as connection:
            source = Source.of(data_source, config, snapshot, connection)
        times = (timestamp_field, created_timestamp_column or None)
        return LatestRowsJob(
            session,
            source,
            _pulled(source, join_key_columns, feature_name_columns, times),
            join_key_columns,
            times,
            _in_period(source.utc(timestamp_field), start_date, end_date),
            snapshot=snapshot,
            config=config,
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
        snapshot, session = Snapshot.of(config), Session.of(config)
        with session.run() as connection:
            source = Source.of(data_source, config, snapshot, connection)
        times = (timestamp_field, created_timestamp_column or None)
        at = source.utc(timestamp_field)
        # Oldest first: whoever keeps the last row it sees of an entity keeps the right one.
        oldest_first = [f"{term} nulls first" for term in (at, *source.tie_break(times[1]))]
        query = select(
            _pulled(source, join_key_columns, feature_name_columns, times),
            source.reader,
            _in_period(at, start_date, end_date),
            f"order by {', '.join(oldest_first)}",
        )
        return QueryJob(session, query, snapshot=snapshot, config=config)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Append rows to the Parquet file, the directory of them, or the Delta table of a view.

        `table` has the columns of the source, in any order; its values are cast to their types
        where nothing is lost. Readers see all of the new rows or none. What dbt publishes is
        refused: a snapshot never changes.

        Raises RetrievalError if the rows do not fit the source or it cannot be written.
        """
        write.append(config, feature_view, table)
        if progress is not None:
            progress(table.num_rows)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> None:
        """Add served features to the log's directory, as new Parquet files.

        `data` is a table, or the path of Parquet files. Raises RetrievalError if the log is not
        one of files.
        """
        write.log(config, data, logging_config.destination)

    @staticmethod
    def compute_monitoring_metrics(
        config: RepoConfig,
        data_source: DataSource,
        feature_columns: list[tuple[str, str]],
        timestamp_field: str,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        histogram_bins: int = 20,
        top_n: int = 10,
    ) -> list[dict[str, Any]]:
        """Feast's statistics of the rows with `start_date <= event time <= end_date`.

        Over one snapshot, in UTC, files and directories alike; see `hindcast.statistics`.
        """
        snapshot = Snapshot.of(config)
        with Session.of(config).run() as connection:
            source = Source.of(data_source, config, snapshot, connection)
            where = _in_period(source.utc(timestamp_field), start_date, end_date)
            return column_metrics(connection, source, feature_columns, where, histogram_bins, top_n)

    @staticmethod
    def get_monitoring_max_timestamp(
        config: RepoConfig, data_source: DataSource, timestamp_field: str
    ) -> datetime | None:
        """The newest event time of a source, in UTC; None where there is none."""
        snapshot = Snapshot.of(config)
        with Session.of(config).run() as connection:
            source = Source.of(data_source, config, snapshot, connection)
            newest = select([f"max({source.utc(timestamp_field)})"], source.reader)
            (at,) = connection.execute(newest).fetchone() or (None,)
        return None if at is None else at.astimezone(UTC)


class DuckDBRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """A query that runs when its result is asked for, each time on a fresh DuckDB connection.

    `snapshot_path` is the published snapshot it reads, None if nothing is published. The query
    itself is what the classes below differ in.
    """

    def __init__(self, session: Session, *, snapshot: Snapshot, config: RepoConfig) -> None:
        """Keep what is needed to run; nothing is read yet."""
        self.snapshot_path = str(snapshot.path) if snapshot.path else None
        self._session = session
        self._config = config

    def to_df(self, validation_reference: Any = None, timeout: int | None = None) -> pd.DataFrame:
        """The result in pandas.

        Integers with missing values become float64, as everywhere in pandas, unless a value
        is too large to be exact in it: then the column becomes nullable `Int64` or `UInt64`.
        Lists, structs and maps that hold integers come as Python's own.
        """
        table = self.to_arrow(validation_reference=validation_reference, timeout=timeout)
        frame: pd.DataFrame = table.to_pandas()
        for name in table.column_names:
            column = table[name]
            if pa.types.is_nested(column.type) and _holds_integers(column.type):
                frame[name] = pd.Series(column.to_pylist(), dtype=object)
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
        """The statements that give the result. By hand, register the frame that a comment names.

        The spine is read once, to choose the plan by its size. Where a comment says that a view
        is swept, the job itself finds its rows with numpy instead.
        """
        with self._session.run() as connection:
            statements = [*self._session.prelude, *self._planned(connection)]
        return self._session.comment + ";\n\n".join(statements)

    def to_record_batches(self, rows: int = 65_536) -> pa.RecordBatchReader:
        """The result in batches of at most `rows`, for what is larger than memory.

        On-demand features are computed batch by batch. The reader holds a DuckDB connection,
        which ends with it.
        """
        if rows < 1:
            raise RetrievalError(f"a batch cannot have {rows} rows. Ask for one or more.")
        batches = self._batches(rows)
        first = next(batches)
        return pa.RecordBatchReader.from_batches(
            first.schema,
            (batch for table in _chain(first, batches) for batch in table.to_batches()),
        )

    def _batches(self, rows: int) -> Iterator[pa.Table]:
        """The result as tables of at most `rows`, at least one.

        Raises ReplacedError if a file was replaced meanwhile: it is not read again here.
        """
        with self._session.run() as connection:
            at, empty = 0, True
            before = self._stamps()
            try:
                executed = self._executed(connection)
            except (duckdb.Error, RetrievalError) as error:
                if self._stamps() != before:
                    raise ReplacedError from error
                raise
            with executed.to_arrow_reader(rows) as reader:
                schema = reader.schema
                for batch in reader:
                    if at == 0 and self._stamps() != before:  # all files are read by now
                        raise ReplacedError
                    yield self._complete(pa.Table.from_batches([batch]), at)
                    at, empty = at + batch.num_rows, False
            if empty:
                yield self._complete(schema.empty_table(), 0)

    def _complete(self, table: pa.Table, at: int) -> pa.Table:
        """A part of the query's result, from row `at` on, as the caller gets it."""
        return table

    def supports_remote_storage_export(self) -> bool:
        """Whether `staging_location` is set in `offline_store:`."""
        return self._config.offline_store.staging_location is not None

    def to_remote_storage(self) -> list[str]:
        """Write the result to Parquet files under `staging_location`; the files' paths."""
        location = self._config.offline_store.staging_location
        if location is None:
            raise RetrievalError(
                "there is nowhere to write to. Set `staging_location` under `offline_store:` in "
                "feature_store.yaml to a directory."
            )
        if "://" in location:
            raise RetrievalError(
                f"staging_location is {location}. Expected a directory: only those are written."
            )
        directory = absolute(location, self._config) / uuid4().hex
        directory.mkdir(parents=True)
        files = []
        for number, table in enumerate(self._batches(1_000_000)):
            files.append(str(directory / f"{number:05}.parquet"))
            pq.write_table(table, files[-1])
        return files

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool = False,
        timeout: int | None = None,
    ) -> None:
        """Write the result, on-demand features included, as Parquet or as a Delta table.

        A path that is a directory gets one Parquet file in it. What was there is replaced, if
        `allow_overwrite` says so.
        """
        if not isinstance(storage, SavedDatasetFileStorage):
            raise RetrievalError(
                f"cannot save to {type(storage).__name__}. Expected a SavedDatasetFileStorage."
            )
        path = write.writable(storage.file_options.uri, self._config, "a result")
        if path.exists() and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=str(path))
        write.replace(path, self.to_arrow(timeout=timeout), storage.file_options.file_format)

    @property
    def full_feature_names(self) -> bool:
        """Whether features are named `view__feature`."""
        return False

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """The on-demand views that Feast computes on the result's rows."""
        return []

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What was asked for, if it was features."""
        return None

    def _planned(self, connection: duckdb.DuckDBPyConnection) -> list[str]:
        """The statements to run on a connection that is set up."""
        raise NotImplementedError

    def _executed(self, connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
        """The connection after the last statement, its result ready to be fetched."""
        for statement in self._planned(connection):
            connection.execute(statement)
        return connection

    def _result(self, connection: duckdb.DuckDBPyConnection) -> pa.Table:
        """The whole result of the last statement."""
        return self._executed(connection).to_arrow_table()

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        """What files look like that are read more than once, and must be the same each time."""
        return []

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        reason = None
        for _ in range(ATTEMPTS):
            before = self._stamps()
            try:
                with self._session.run() as connection:
                    result = self._result(connection)
            except RetrievalError as error:
                if self._stamps() == before:
                    raise
                reason = error
                continue
            if self._stamps() == before:
                return self._beside_frame(result, 0)
        raise ReplacedError from reason

    def _beside_frame(self, result: pa.Table, at: int) -> pa.Table:
        """The result beside what the caller gave, from row `at` on."""
        return result


class QueryJob(DuckDBRetrievalJob):
    """One statement."""

    def __init__(
        self, session: Session, query: str, *, snapshot: Snapshot, config: RepoConfig
    ) -> None:
        """`query` is the statement."""
        super().__init__(session, snapshot=snapshot, config=config)
        self._query = query

    def _planned(self, connection: duckdb.DuckDBPyConnection) -> list[str]:
        return [self._query]


class PointInTimeJob(DuckDBRetrievalJob):
    """Features beside the rows of a spine; the query is planned each time it runs."""

    def __init__(
        self,
        session: Session,
        join: PointInTimeJoin,
        *,
        snapshot: Snapshot,
        config: RepoConfig,
        period: tuple[datetime, datetime] | None,
        on_demand_feature_views: Sequence[OnDemandFeatureView],
        feature_refs: Sequence[str],
        full_feature_names: bool,
    ) -> None:
        """`period` is the one asked for, where no rows were given."""
        super().__init__(join.session(session), snapshot=snapshot, config=config)
        self._join = join
        self._dated: PointInTimeJoin | None = None
        self._period = period
        self._on_demand_feature_views = list(on_demand_feature_views)
        self._feature_refs = list(feature_refs)
        self._full_feature_names = full_feature_names

    @property
    def full_feature_names(self) -> bool:
        """Whether features are named `view__feature`."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """The on-demand views that Feast computes on the joined rows."""
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata:
        """What was asked for. The range of times costs one reading of the spine, if it was not
        read yet."""
        first, last = self._period or (None, None)
        if self._period is None:
            if self._dated is None:
                with self._session.run() as connection:
                    self._dated = self._join.dated(connection)
            times = self._dated.period
            first, last = map(_datetime, times) if times else (None, None)
        spine = self._join.spine
        return RetrievalMetadata(
            features=self._feature_refs,
            keys=[name for name in spine.columns if name != spine.timestamp],
            min_event_timestamp=first,
            max_event_timestamp=last,
        )

    def _planned(self, connection: duckdb.DuckDBPyConnection) -> list[str]:
        """The statements in SQL alone, by the spine that is in place on the connection."""
        swept = self._join.planned(connection).swept
        first, *rest = self._join.planned(connection, only_sql=True).statements()
        named = ", ".join(self._join.views[number - 1].name for number in swept)
        note = f"-- {named}: Hindcast sweeps, which finds the same as this SQL\n" if named else ""
        return [note + first, *rest]

    def _executed(self, connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
        """The quickest plan, in SQL or not."""
        self._dated = join = self._join.planned(connection)
        join.sweep(connection)
        for statement in join.statements():
            connection.execute(statement)
        return connection

    def _result(self, connection: duckdb.DuckDBPyConnection) -> pa.Table:
        """The whole result by the quickest plan: values of features need not come by SQL."""
        self._dated = join = self._join.planned(connection)
        return join.table(connection)

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        """What the files look like: a join reads them several times, and all must be the same."""
        return stamps(path for view in self._join.views for path in view.source.paths)

    def _complete(self, table: pa.Table, at: int) -> pa.Table:
        """A part of the query's result with the frame's columns from row `at` on, and on demand
        features."""
        whole = _Part(self, self._beside_frame(table, at)).to_arrow()
        for view in self._on_demand_feature_views:
            for field in view.features:
                named = f"{view.projection.name_to_use()}__{field.name}"
                name = named if self._full_feature_names else field.name
                if name in whole.column_names:  # what pandas made of a part is not always the type
                    place = whole.column_names.index(name)
                    kind = from_feast_to_pyarrow_type(field.dtype)
                    whole = whole.set_column(place, name, whole[name].cast(kind))
        return whole

    def _beside_frame(self, result: pa.Table, at: int) -> pa.Table:
        """Features beside the rows of the caller's frame that they belong to, from `at` on."""
        if self._join.spine.frame is None:
            return result
        table = self._join.spine.frame.slice(at, result.num_rows)
        for name in (name for view in self._join.views for name in view.features):
            table = table.append_column(result.schema.field(name), result[name])
        return table


class LatestRowsJob(DuckDBRetrievalJob):
    """The newest row of each entity in a period: what materialization loads.

    In two steps, since only the second reads the features: when is each entity's newest row, then
    those rows. Where one entity has several rows of that time, a third decides among them.
    """

    def __init__(
        self,
        session: Session,
        source: Source,
        columns: list[str],
        keys: list[str],
        times: tuple[str, str | None],
        period: list[str],
        *,
        snapshot: Snapshot,
        config: RepoConfig,
    ) -> None:
        """`columns` is what is asked for, `period` the conditions on the event time."""
        super().__init__(session, snapshot=snapshot, config=config)
        self._source, self._columns, self._keys, self._times = source, columns, keys, times
        self._period_conditions = period
        self.stamp = self._stamped()
        """Another text when the files that the job reads are others."""

    def during(self, start: datetime, end: datetime) -> LatestRowsJob:
        """The same of another period: of the very files that this job reads."""
        other = copy(self)
        other._period_conditions = _in_period(self._source.utc(self._times[0]), start, end)
        return other

    def check_unchanged(self) -> None:
        """Raise ReplacedError if the files are no more those that the job was made for."""
        if self._stamped() != self.stamp:
            raise ReplacedError

    def _stamped(self) -> str:
        found = self._stamps()
        if None in found:  # a snapshot that was pruned meanwhile
            raise ReplacedError
        return repr((self._source.paths, found))

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        """What the files look like: each step reads them."""
        return stamps(self._source.paths)

    @property
    def published_table(self) -> str | None:
        """The name of the snapshot's table that the job reads, None if it reads anything else."""
        if self.snapshot_path is None:
            return None
        paths = [Path(path) for path in self._source.paths]
        if not all(path.is_relative_to(self.snapshot_path) for path in paths):
            return None
        names = {path.relative_to(self.snapshot_path).parts[0] for path in paths}
        return names.pop().removesuffix(".parquet") if len(names) == 1 else None

    @property
    def without_key(self) -> list[str]:
        """The condition on rows that belong to no entity, beside that on the period."""
        keyless = " or ".join(f"{self._source.column(key)} is null" for key in self._keys)
        return [*self._period_conditions, f"({keyless or 'false'})"]

    def keyless_rows(self, most: int) -> tuple[int, pa.Table]:
        """How many rows have a NULL join key, and the first `most` of them."""
        with self._session.run() as connection:
            rows = self._count_keyless(connection)
            listed = select(self._columns, self._source.reader, self.without_key, f"limit {most}")
            return rows, connection.execute(listed).to_arrow_table()

    @contextmanager
    def in_batches(self, rows: int, ties: bool) -> Iterator[tuple[int, pa.RecordBatchReader]]:
        """How many entities there are, and their rows in batches of at most `rows`.

        Without `ties`, no row is weighed against another of the same entity and time, which is
        quicker: if more rows come than there are entities, ask again with it.
        """
        with self._session.run() as connection:
            latest, answer = self._statements(ties)
            connection.execute(latest)
            (entities,) = connection.execute("select count(*) from latest").fetchone() or (0,)
            with connection.execute(answer).to_arrow_reader(rows) as reader:
                yield int(entities), reader

    def _statements(self, ties: bool) -> list[str]:
        source = self._source
        at = source.moment(self._times[0])
        named = {f"key_{number}": source.column(key) for number, key in enumerate(self._keys)}
        newest = select(
            [*(f"{column} as {name}" for name, column in named.items()), f"max({at}) as moment"],
            source.reader,
            [*self._period_conditions, *(f"{column} is not null" for column in named.values())],
            "group by all having moment is not null",
        )
        same = [f"{column} = latest.{name}" for name, column in named.items()]
        same.append(f"{at} = latest.moment")
        rank = best_first(map(source.column, self._keys), source.tie_break(self._times[1]))
        answer = select(
            self._columns,
            f"{source.reader}\njoin latest on {' and '.join(same)}",
            tail=f"qualify row_number() over ({rank}) = 1" if ties else "",
        )
        return [f"create or replace temp table latest as\n{newest}", answer]

    def _planned(self, connection: duckdb.DuckDBPyConnection) -> list[str]:
        return self._statements(ties=True)

    def _count_keyless(self, connection: duckdb.DuckDBPyConnection) -> int:
        count = select(["count(*)"], self._source.reader, self.without_key)
        (rows,) = connection.execute(count).fetchone() or (0,)
        return int(rows)

    def _executed(self, connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
        rows = self._count_keyless(connection)
        if rows:
            label, names = self._source.label, " or ".join(self._keys)
            logger.warning("%s: %s rows left out, their %s is NULL", label, rows, names)
        return super()._executed(connection)


class _Part(PointInTimeJob):
    """Rows of a job that were read already, to which Feast adds the on-demand features."""

    def __init__(self, job: PointInTimeJob, table: pa.Table) -> None:
        """Take everything from the job, except that its result is the table."""
        self.__dict__ |= job.__dict__
        self._table = table

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._table


def _holds_integers(kind: pa.DataType) -> bool:
    """Whether there are integers anywhere inside a type."""
    if pa.types.is_nested(kind):
        return any(_holds_integers(kind.field(i).type) for i in range(kind.num_fields))
    return bool(pa.types.is_integer(kind))


def _datetime(micros: int) -> datetime | None:
    """An instant for Python, None beyond its years."""
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
    except OverflowError:
        return None


def _chain(first: pa.Table, rest: Iterator[pa.Table]) -> Iterator[pa.Table]:
    yield first
    yield from rest


def query(config: RepoConfig, sql: str) -> pa.Table:
    """The answer of SQL over the published tables alone, for example rows of the spine.

    Raises MissingInputError if nothing is published, RetrievalError if the SQL does not run.
    """
    snapshot = Snapshot.of(config)
    if snapshot.path is None:
        raise MissingInputError(f"{snapshot.link} is not there. `dbt build` publishes it.")
    with Session.of(config).run() as connection:
        for statement in published_views(snapshot.tables()):
            connection.execute(statement)
        return connection.execute(sql).to_arrow_table()


def _pulled(
    source: Source, keys: list[str], features: list[str], times: tuple[str, str | None]
) -> list[str]:
    """The columns that a pull gives, as Feast names them."""
    terms = {column: source.column(column) for column in [*keys, *features]}
    terms |= {column: source.utc(column) for column in times if column}
    if not keys:  # Feast keeps the rows of a view without entities under this key
        terms[DUMMY_ENTITY_ID] = literal(DUMMY_ENTITY_VAL)
    return [f"{term} as {quote(column)}" for column, term in terms.items()]


def _everyone(
    views: Sequence[View],
    period: tuple[datetime, datetime],
    connection: duckdb.DuckDBPyConnection,
) -> Spine:
    """A spine of the entities with a feature row in the period, at its end.

    They are read from the views that have all the join keys that any view has.
    """
    keys = list(dict.fromkeys(key for view in views for key, _ in view.keys))
    whole = [view for view in views if {key for key, _ in view.keys} == set(keys)]
    if not whole:
        listed = "; ".join(f"{v.name}: {', '.join(key for key, _ in v.keys)}" for v in views)
        raise RetrievalError(
            f"no entity_df was given, and no view has all the join keys ({listed}), so there is "
            "nothing to read the entities from. Give the rows as an entity_df."
        )
    parts = []
    for view in whole:
        source = {key: view.source.column(column) for key, column in view.keys}
        columns = [f"{source[key]} as {quote(key)}" for key in keys] or ["true as one"]
        known = [f"{column} is not null" for column in source.values()]
        wanted = _in_period(view.source.utc(view.timestamp), *period)
        parts.append(select(columns, view.source.reader, [*wanted, *known]))
    at = f"{instant(period[1])} as event_timestamp"
    both = "\nunion\n".join(parts) if len(parts) > 1 else parts[0]
    columns = [*map(quote, keys), at]
    rows = f"(\nselect distinct * from (\n{both}\n)\n)"
    return Spine.of_sql(select(columns, rows, tail="order by all" if keys else ""), connection)


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
    return [f"{at} {sign} {instant(time)}" for sign, time in bounds if time]


def _check_names(
    spine: Spine,
    views: Iterable[View],
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
    refuse_duplicates(names, "entity_df and the features asked for have")
