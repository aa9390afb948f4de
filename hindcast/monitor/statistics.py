"""Feast's statistics of the compared rows, in Feast's own storage.

What `feast monitor run` would compute of a feature view's source, computed of the rows that the
model saw: so Feast's baseline is the training's, and on-demand features have statistics too.
`feast ui` and Feast's API show them. The verdicts are not Feast's: see `drift`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from feast import FeatureStore, FileSource
from feast.data_format import ParquetFormat
from feast.monitoring.monitoring_utils import build_view_aggregate

from hindcast.monitor.period import Period
from hindcast.monitor.population import PREDICT_AT, Feature

GRANULARITIES = {"daily": 1, "weekly": 7, "biweekly": 14, "monthly": 30, "quarterly": 90}
Statistics = dict[str, dict[str, Any]]
"""By `view.feature`, as Feast keeps them."""


def compute(
    store: FeatureStore, file: Path, features: Sequence[Feature], period: Period
) -> Statistics:
    """The statistics of every feature over the rows of a file that are in a period."""
    import pyarrow.parquet as pq
    from feast.monitoring.metrics_calculator import MetricsCalculator

    schema = pq.read_schema(file)
    kinds = [
        (one.column, MetricsCalculator.classify_feature_arrow(schema.field(one.column).type))
        for one in features
    ]
    calculator = MetricsCalculator()
    found = store._get_provider().offline_store.compute_monitoring_metrics(
        config=store.config,
        data_source=FileSource(
            name="rows that hindcast monitor compares",
            path=str(file.resolve()),
            file_format=ParquetFormat(),
            timestamp_field=PREDICT_AT,
        ),
        feature_columns=kinds,
        timestamp_field=PREDICT_AT,
        start_date=period.start,
        end_date=period.end - timedelta(microseconds=1),
        histogram_bins=calculator.histogram_bins,
        top_n=calculator.top_n,
    )
    return {one.subject: metrics for one, metrics in zip(features, found, strict=True)}


def kept_baseline(store: FeatureStore, features: Sequence[Feature]) -> Statistics | None:
    """The baseline that Feast keeps; None where it lacks one of the features."""
    from feast.monitoring.monitoring_service import MonitoringService

    rows = MonitoringService(store).get_baseline(store.project, data_source_type="batch")
    kept = {(row["feature_view_name"], row["feature_name"]): row for row in rows}
    if not all((one.view, one.name) in kept for one in features):
        return None
    return {one.subject: kept[one.view, one.name] for one in features}


def keep(
    store: FeatureStore,
    statistics: Statistics,
    features: Sequence[Feature],
    period: Period,
    *,
    is_baseline: bool,
    from_log: bool,
) -> None:
    """Save them where Feast keeps its own; a baseline takes the place of the one before it."""
    offline = store._get_provider().offline_store
    offline.ensure_monitoring_tables(store.config)
    nearest = min(GRANULARITIES, key=lambda name: abs(GRANULARITIES[name] - period.days))
    shared = {
        "project_id": store.project,
        "metric_date": period.start.date(),
        "granularity": "baseline" if is_baseline else nearest,
        "data_source_type": "log" if from_log else "batch",
        "computed_at": datetime.now(UTC),
        "max_event_timestamp": period.end,
        "is_baseline": is_baseline,
    }
    rows = [
        {
            **statistics[one.subject],
            **shared,
            "feature_view_name": one.view,
            "feature_name": one.name,
        }
        for one in features
        if one.subject in statistics
    ]
    if is_baseline:
        offline.clear_monitoring_baseline(config=store.config, project=store.project)
    offline.save_monitoring_metrics(store.config, "feature", rows)
    by_view: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_view[row["feature_view_name"]].append(row)
    views = [
        {**shared, "feature_view_name": view, **build_view_aggregate(of_view)}
        for view, of_view in by_view.items()
    ]
    offline.save_monitoring_metrics(store.config, "feature_view", views)
