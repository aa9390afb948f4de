"""Feast's materialization, column-wise: from an offline store's Arrow batches to packed rows.

Use it with `batch_engine: {type: hindcast.compute_engine.ArrowEngine}`; then plain `feast
materialize` and `feast materialize-incremental` go this way wherever the online store is one of
`hindcast.online_store`. Views that Feast transforms on the way, and other online stores, are left
to Feast's own local engine. Not for reading sources (that is the offline store's) or packing rows
(the online store's).

An incremental run starts where the last one ended only if it reads the very files that the last
one read. Otherwise rows may have come late, with an earlier time, or been corrected. Where the
snapshots published since say from when on a table changed, the run starts there, if that is
earlier; where they do not, as far back as a row could still be served. It writes the entities that
have changed.

A view's materialization reads one snapshot from its first look to its last, and leaves that one's
stamp, whatever is published meanwhile; a file that is replaced while it is read is read anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureView
from feast.batch_feature_view import BatchFeatureView
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel
from pydantic import StrictStr
from tqdm import tqdm

from hindcast.errors import ReplacedError
from hindcast.offline_store import ATTEMPTS, LatestRowsJob
from hindcast.online_store import (
    BATCH,
    Loaded,
    PackedOnlineStore,
    RemovedError,
    TableState,
    TiesError,
)
from hindcast.packed import Layout, micros
from hindcast.snapshot import BEGINNING, END, changed_since
from hindcast.sources import absolute

logger = logging.getLogger(__name__)

QUARANTINED_AT_MOST = 10_000


class ArrowEngineConfig(FeastConfigBaseModel):  # type: ignore[misc]  # Feast is untyped
    """The `batch_engine:` section of `feature_store.yaml`."""

    type: Literal["hindcast.compute_engine.ArrowEngine"] = "hindcast.compute_engine.ArrowEngine"
    quarantine: StrictStr = "../data/quarantine/materialize"
    """Where rows that belong to no entity are written; relative to `feature_store.yaml`."""


class ArrowEngine(LocalComputeEngine):  # type: ignore[misc]
    """Materializes into a `PackedOnlineStore`. See the module for how."""

    def __init__(self, quarantine: str = ArrowEngineConfig().quarantine, **settings: Any) -> None:
        """Take what `batch_engine:` says."""
        settings.pop("type", None)
        super().__init__(**settings)
        self._quarantine = quarantine

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any
    ) -> LocalMaterializationJob:
        """As Feast's local engine does, for one view and one period."""
        view = task.feature_view
        if not isinstance(self.online_store, PackedOnlineStore) or _is_transformed(view):
            return super()._materialize_one(registry, task, **kwargs)
        job_id = f"{view.name}-{task.start_time}-{task.end_time}"
        try:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    self._load(view, task)
                    break
                except ReplacedError:
                    if attempt == ATTEMPTS:
                        raise
        except Exception as error:  # Feast raises it again from the job
            return LocalMaterializationJob(job_id, MaterializationJobStatus.ERROR, error)
        return LocalMaterializationJob(job_id, MaterializationJobStatus.SUCCEEDED)

    def _load(self, view: FeatureView, task: MaterializationTask) -> None:
        start, end = _utc(task.start_time), _utc(task.end_time)
        rows = self._rows(view, start, end)
        before = self.online_store.materialized_from(self.repo_config, view)
        stamp = f"{rows.stamp} {_declared(view)}" if isinstance(rows, LatestRowsJob) else None
        changed = _changed_from(view, rows, stamp, before)
        servable = end - view.ttl if view.ttl else None
        start_at: datetime | None = start
        if _is_first_increment(view, start) or start > end:
            start_at = None  # so that what is past its TTL is said to be, and not to be missing
        elif _is_increment(view, start) and changed < start:
            needed = max(changed, servable or BEGINNING)
            start_at = None if needed == BEGINNING else needed
        try:
            self._load_from(view, task, rows, start_at, stamp, changed)
        except RemovedError:
            # what was there before a row that is gone may be earlier than the period
            self._load_from(view, task, rows, servable, stamp, changed)

    def _load_from(
        self,
        view: FeatureView,
        task: MaterializationTask,
        looked_up: Any,
        start: datetime | None,
        stamp: str | None,
        changed: datetime,
    ) -> None:
        end, beginning = _utc(task.end_time), datetime(1, 1, 1, tzinfo=UTC)
        if isinstance(looked_up, LatestRowsJob):  # of the same files, whatever is published since
            rows = looked_up.during(start or beginning, end)
        else:
            rows = self._rows(view, start or beginning, end)
        before = self.online_store.materialized_from(self.repo_config, view)
        servable = end - view.ttl if view.ttl else None
        covers = start is None or bool(servable and start <= servable)
        newest = before.until is None or micros(end) >= before.until
        renewed = covers or (start is not None and start <= changed)
        origin = stamp if changed == END or (renewed and newest) else None
        if isinstance(rows, LatestRowsJob):
            self._set_aside(view, rows)
        # rows that cannot be taken back must be right from the first
        for ties in (False, True) if self.online_store.takes_back(self.repo_config) else (True,):
            try:
                with (
                    _batches(view, rows, ties) as (entities, batches),
                    _bar(task, entities) as bar,
                ):
                    done: Loaded = self.online_store.load(
                        self.repo_config,
                        view,
                        batches,
                        entities,
                        (start, end),
                        (origin, _snapshot_id(rows)),
                        bar.update,
                        is_whole=covers,
                    )
                    bar.set_postfix_str(_summary(done))
                return
            except TiesError:
                if ties:
                    raise
        raise AssertionError("a load ends or raises")

    def _rows(self, view: FeatureView, start: datetime, end: datetime) -> Any:
        source = view.batch_source
        keys = [key for key in view.join_keys if key != DUMMY_ENTITY_ID]
        return self.offline_store.pull_latest_from_table_or_query(
            config=self.repo_config,
            data_source=source,
            join_key_columns=[_in_source(view, key) for key in keys],
            feature_name_columns=[_in_source(view, field.name) for field in view.features],
            timestamp_field=source.timestamp_field,
            created_timestamp_column=source.created_timestamp_column,
            start_date=start,
            end_date=end,
        )

    def _set_aside(self, view: FeatureView, rows: LatestRowsJob) -> None:
        """Write the rows without a key to the quarantine, in place of those of the last run."""
        count, table = rows.keyless_rows(QUARANTINED_AT_MOST)
        directory = Path(absolute(self._quarantine, self.repo_config)).resolve()
        file = directory / f"{view.name}.parquet"
        if not count:
            file.unlink(missing_ok=True)
            return
        keys = " or ".join(view.join_keys)
        reason = pa.array([f"{keys} is NULL"] * table.num_rows, pa.string())
        directory.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.append_column("quarantine_reason", reason), file)
        logger.warning(
            "%s: %s rows left out, their %s is NULL; see %s", view.name, f"{count:,}", keys, file
        )


def _changed_from(view: FeatureView, rows: Any, stamp: str | None, before: TableState) -> datetime:
    """The instant before which the source's rows are those that were loaded.

    END if all are; BEGINNING if that cannot be told.
    """
    if stamp is None or before.source is None:
        return BEGINNING
    if stamp == before.source:
        return END
    earlier, table = before.snapshot, rows.published_table
    if not earlier or not table or not before.source.endswith(_declared(view)):
        return BEGINNING
    if earlier == _snapshot_id(rows):  # it was changed in place, which nothing of ours does
        return BEGINNING
    return changed_since(Path(rows.snapshot_path), earlier, table) or BEGINNING


def _is_increment(view: FeatureView, start: datetime) -> bool:
    """Whether a run begins where the last one ended."""
    last = view.most_recent_end_time
    return last is not None and start == _utc(last)


def _is_first_increment(view: FeatureView, start: datetime) -> bool:
    """Whether a run begins where Feast begins an incremental one of a view that is not filled yet:
    at now - ttl (without a TTL a year ago), whatever its end. Rows that can be served at an earlier
    end would be left out."""
    feasts = datetime.now(UTC) - (view.ttl or timedelta(weeks=52))
    return view.most_recent_end_time is None and abs(start - feasts) < timedelta(hours=1)


def _is_transformed(view: FeatureView) -> bool:
    """Whether Feast has more to do than to take each entity's newest row."""
    return isinstance(view, BatchFeatureView) or bool(getattr(view, "source_views", None))


def _in_source(view: FeatureView, name: str) -> str:
    """The source's column of a feature or key."""
    mapping = {mapped: column for column, mapped in view.batch_source.field_mapping.items()}
    return str(mapping.get(name, name))


def _declared(view: FeatureView) -> str:
    """All in a view's definition that decides which rows it has, and how they are kept."""
    source = view.batch_source
    return repr(
        (
            Layout.of_fields(view.features).written(),
            [(column.name, str(column.dtype)) for column in view.entity_columns],
            view.ttl,
            sorted(source.field_mapping.items()),
            source.timestamp_field,
            source.created_timestamp_column,
        )
    )


@contextmanager
def _batches(
    view: FeatureView, rows: Any, ties: bool
) -> Iterator[tuple[int, Iterator[pa.RecordBatch]]]:
    """How many entities come, and their rows with the view's own names."""
    mapping = view.batch_source.field_mapping

    def named(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            names = [mapping.get(name, name) for name in batch.schema.names]
            yield batch.rename_columns(names)

    def whole(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from named(batches)
        rows.check_unchanged()  # before what was read is kept

    if isinstance(rows, LatestRowsJob):
        with rows.in_batches(BATCH, ties) as (entities, reader):
            yield entities, whole(reader)
    else:
        table = rows.to_arrow()
        yield table.num_rows, named(table.to_batches(max_chunksize=BATCH))


@contextmanager
def _bar(task: MaterializationTask, entities: int) -> Iterator[Any]:
    bar = task.tqdm_builder(entities) if task.tqdm_builder else tqdm(total=entities, disable=True)
    with bar:
        try:
            yield bar
        except (TiesError, RemovedError, ReplacedError):
            bar.leave = False  # it is begun again
            raise


def _summary(done: Loaded) -> str:
    return f"{done.written:,} written, {done.removed:,} removed"


def _snapshot_id(rows: Any) -> str | None:
    path = getattr(rows, "snapshot_path", None)
    return Path(path).name if path else None


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=moment.tzinfo or UTC)
