"""The rows whose features are compared: as the model was trained on them, and as they are now.

Both are the spine's rows with the features of Feast's point-in-time join, which is what a model
sees; or, of now, what the log says was served. A row belongs to the day after the period's start
that it was predicted in, of 24 hours each. Not for scores and outcomes (see `predictions`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureService, FeatureStore
from feast.types import String

from hindcast.errors import MissingInputError
from hindcast.monitor.period import Period
from hindcast.sources import Session, Snapshot, Source
from hindcast.sql import instant, select

PREDICT_AT = "predict_at"
LOG_TIME = "__log_timestamp"
KEPT = Path("data/monitor")
"""Where the joined rows of the baseline are kept, since they are the same until the next model."""


@dataclass(frozen=True)
class Feature:
    """A column that is watched. `subject` is `view.feature`, of a key `spine.key`."""

    column: str
    subject: str
    view: str
    name: str


@dataclass(frozen=True)
class Population:
    """Rows with their features, each with its day of the period."""

    table: pa.Table
    period: Period
    day: np.ndarray

    @classmethod
    def of(cls, table: pa.Table, period: Period) -> Population:
        """Sort rows into the days of a period."""
        us = table[PREDICT_AT].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
        start = int(period.start.timestamp() * 1_000_000)
        return cls(table, period, (us - start) // int(timedelta(days=1).total_seconds() * 1e6))

    def within(self, period: Period) -> Population:
        """The rows of a part of the period."""
        at = self.table[PREDICT_AT]
        kind = at.type
        start, end = (pa.scalar(moment, kind) for moment in (period.start, period.end))
        inside = pc.and_(pc.greater_equal(at, start), pc.less(at, end))
        return Population.of(self.table.filter(inside), period)

    def values(self, feature: Feature) -> pd.Series:
        """One feature's values: numbers as floats, all else as it is; NULL where there is none."""
        column = self.table[feature.column]
        is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        if is_number:
            return pd.Series(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
        return pd.Series(column.cast(pa.string()).to_pandas())


def features(store: FeatureStore, service: FeatureService, spine: str) -> list[Feature]:
    """What is watched: text keys, and every number, truth and text of the service's views."""
    found = [
        Feature(field.name, f"{spine}.{field.name}", spine, field.name)
        for field in _keys(store, service)
        if field.dtype == String
    ]
    found += [
        Feature(
            f"{view.name_to_use()}__{field.name}",
            f"{view.name}.{field.name}",
            view.name,
            field.name,
        )
        for view in service.feature_view_projections
        for field in view.features
        if str(field.dtype) in ("Int32", "Int64", "Float32", "Float64", "Bool", "String")
    ]
    return found


def joined(store: FeatureStore, service: FeatureService, spine: str, period: Period) -> Population:
    """The spine's rows predicted in a period, with the features known at each."""
    sql = (
        f"select *, {PREDICT_AT} as event_timestamp from {spine} where {PREDICT_AT} >= "
        f"{instant(period.start)} and {PREDICT_AT} < {instant(period.end)}"
    )
    job = store.get_historical_features(entity_df=sql, features=service, full_feature_names=True)
    table = _without_nan(job.to_arrow())
    if table.num_rows == 0:
        raise MissingInputError(
            f"{spine} has no rows predicted {period}; give another --at or --days, or land and "
            "build those days first"
        )
    return Population.of(table, period)


def baseline(
    project_dir: Path,
    store: FeatureStore,
    service: FeatureService,
    spine: str,
    period: Period,
    snapshot: str,
    notes: list[str],
) -> tuple[Population, bool]:
    """The rows that the model was trained on, joined on its own snapshot while that is there.

    And whether they are others than those of the run before.
    """
    on = store
    published = Snapshot.of(store.config).link.parent / snapshot
    if published.is_dir():
        on = FeatureStore(repo_path=str(store.repo_path))
        on.config.offline_store.published = str(published)
    else:
        current = Snapshot.of(store.config).path
        notes.append(
            f"snapshot {snapshot}, which the model was trained on, is gone: the baseline comes "
            f"from {current.name if current else 'the current one'}"
        )
    read = Snapshot.of(on.config).path
    fields = [
        [p.name, *(field.name for field in p.features)] for p in service.feature_view_projections
    ]
    key = json.dumps([str(read), spine, str(period), fields])
    file = project_dir / KEPT / "baseline.parquet"
    if file.exists():
        kept = pq.read_schema(file).metadata or {}
        if kept.get(b"hindcast") == key.encode():
            return Population.of(pq.read_table(file), period), False
    found = joined(on, service, spine, period)
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    table = found.table.replace_schema_metadata({"hindcast": key})
    pq.write_table(table, unfinished)
    unfinished.replace(file)
    return found, True


def served(store: FeatureStore, service: FeatureService, period: Period) -> Population:
    """What was served for predictions in a period, by the log; each request's last answer."""
    if service.logging_config is None:
        raise MissingInputError(
            f"feature service {service.name} has no log: give its exposure `log: <folder>` under "
            "meta.feature_service, then `dbt parse` and `feast apply`."
        )
    source = service.logging_config.destination.to_data_source()
    session, snapshot = Session.of(store.config), Snapshot.of(store.config)
    with session.run() as connection:
        found = Source.of(source, store.config, snapshot, connection)
        at = found.utc(PREDICT_AT)
        keys = [found.column(field.name) for field in _keys(store, service)]
        where = [f"{at} >= {instant(period.start)}", f"{at} < {instant(period.end)}"]
        last = (
            f"qualify row_number() over (partition by {', '.join([*keys, at])} "
            f"order by {found.utc(LOG_TIME)} desc) = 1"
        )
        table = connection.execute(select(["*"], found.reader, where, last)).to_arrow_table()
    if table.num_rows == 0:
        raise MissingInputError(f"the log of {service.name} has no rows predicted {period}.")
    return Population.of(_without_nan(table), period)


def view_rows(store: FeatureStore, view: str, period: Period) -> np.ndarray:
    """How many rows of a view became known on each day of a period."""
    source = store.get_feature_view(view).batch_source
    session, snapshot = Session.of(store.config), Snapshot.of(store.config)
    with session.run() as connection:
        found = Source.of(source, store.config, snapshot, connection)
        at = found.utc(source.timestamp_field)
        where = [f"{at} >= {instant(period.start)}", f"{at} < {instant(period.end)}"]
        start = int(period.start.timestamp()) * 1_000_000
        day = f"(epoch_us({at}) - {start}) // 86400000000"
        counted = select([f"{day} as day", "count(*) as n"], found.reader, where, "group by all")
        rows = connection.execute(counted).fetchall()
    counts = np.zeros(period.days)
    for on, n in rows:
        counts[on] = n
    return counts


def newest(store: FeatureStore, view: str, at: datetime) -> datetime | None:
    """When the newest row of a view became known, of those known at an instant."""
    source = store.get_feature_view(view).batch_source
    session, snapshot = Session.of(store.config), Snapshot.of(store.config)
    with session.run() as connection:
        found = Source.of(source, store.config, snapshot, connection)
        known = found.utc(source.timestamp_field)
        query = select([f"max({known})"], found.reader, [f"{known} <= {instant(at)}"])
        row = connection.execute(query).fetchone()
    moment: datetime | None = row[0] if row else None
    return moment


def _keys(store: FeatureStore, service: FeatureService) -> Sequence:  # type: ignore[type-arg]
    """The entity columns of the service's views, each once."""
    on_demand = {view.name for view in store.list_on_demand_feature_views()}
    found = {
        field.name: field
        for projection in service.feature_view_projections
        if projection.name not in on_demand
        for field in store.get_feature_view(projection.name).entity_columns
    }
    return list(found.values())


def _without_nan(table: pa.Table) -> pa.Table:
    """A NaN is the NULL of an on-demand feature."""
    for place, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            column = table[field.name]
            kept = pc.if_else(pc.is_nan(column), pa.scalar(None, field.type), column)
            table = table.set_column(place, field, kept)
    return table
