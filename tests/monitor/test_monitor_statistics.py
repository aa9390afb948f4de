"""Feast's monitoring works on our store, and its figures are right."""

import os
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore, FileSource
from feast.data_format import ParquetFormat
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore as FeastStore
from feast.monitoring.metrics_calculator import MetricsCalculator
from feast.monitoring.monitoring_service import MonitoringService

from hindcast.offline_store import DuckDBOfflineStore

COLUMNS = [("number", "numeric"), ("count", "numeric"), ("text", "categorical")]
COLUMNS += [("truth", "categorical"), ("never", "numeric"), ("same", "numeric")]
START = datetime(2013, 6, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    repo = tmp_path_factory.mktemp("stats") / "feature_repo"
    repo.mkdir()
    (repo / "feature_store.yaml").write_text(
        "project: stats\nprovider: local\nregistry: registry.db\n"
        "offline_store: {type: hindcast.offline_store.DuckDBOfflineStore}\n"
        "online_store: {type: sqlite, path: online.db}\nentity_key_serialization_version: 3\n"
    )
    return FeatureStore(repo_path=str(repo))


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(1)
    n = 2000
    return pa.table(
        {
            "at": pa.array(
                [START + timedelta(minutes=int(m)) for m in np.sort(random.integers(0, 60000, n))],
                pa.timestamp("us", "UTC"),
            ),
            "number": pa.array(np.where(random.random(n) < 0.2, None, random.normal(0.1, 1, n))),
            "count": pa.array(random.poisson(3, n)),
            "text": pa.array(random.choice([*map(str, range(14)), None], n)),
            "truth": pa.array(random.random(n) < 0.3),
            "never": pa.nulls(n, pa.float64()),
            "same": pa.array(np.full(n, 7)),
        }
    )


def source(path):
    return FileSource(
        name="rows", path=str(path), timestamp_field="at", file_format=ParquetFormat()
    )


def computed(store, path, start=None, end=None):
    found = DuckDBOfflineStore.compute_monitoring_metrics(
        store.config, source(path), COLUMNS, "at", start, end
    )
    return {metrics["feature_name"]: metrics for metrics in found}


def expected(rows):
    found = MetricsCalculator().compute_all(rows, COLUMNS)
    return {metrics["feature_name"]: metrics for metrics in found}


def test_the_statistics_are_those_of_feasts_own_calculator(store, rows, tmp_path):
    pq.write_table(rows, tmp_path / "rows.parquet")
    found, wanted = computed(store, tmp_path / "rows.parquet"), expected(rows)
    assert list(found) == [name for name, _ in COLUMNS]
    for name, metrics in wanted.items():
        histogram, own = metrics.pop("histogram"), found[name].pop("histogram")
        assert found[name] == pytest.approx(metrics, nan_ok=True)
        if name in ("number", "count"):
            assert own["bins"] == pytest.approx(histogram["bins"])
            assert sum(own["counts"]) == sum(histogram["counts"])
            assert own["counts"] == pytest.approx(histogram["counts"], abs=1)
        if name == "text":
            assert own["unique_count"] == histogram["unique_count"] == 14
            assert {(v["value"], v["count"]) for v in own["values"][:5]} <= {
                (v["value"], v["count"]) for v in histogram["values"]
            }
    assert found["same"] | {"row_count": 2000} == found["same"]


def test_every_value_is_in_a_bin_also_where_feasts_own_query_loses_the_least(store, tmp_path):
    """Feast writes bounds as decimals, and a value below its own minimum falls out."""
    values = np.arange(1, 200) / 27 / 3
    at = pa.array([START] * len(values), pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"at": at, "number": values}), tmp_path / "rows.parquet")
    given = store.config, source(tmp_path / "rows.parquet"), COLUMNS[:1], "at"
    (ours,) = DuckDBOfflineStore.compute_monitoring_metrics(*given)
    (theirs,) = FeastStore.compute_monitoring_metrics(*given)
    assert sum(ours["histogram"]["counts"]) == 199
    assert sum(theirs["histogram"]["counts"]) <= 199


def test_a_nan_counts_as_missing(store, tmp_path):
    at = pa.array([START] * 4, pa.timestamp("us", "UTC"))
    table = pa.table({"at": at, "number": [1.0, float("nan"), None, 3.0]})
    pq.write_table(table, tmp_path / "rows.parquet")
    (found,) = DuckDBOfflineStore.compute_monitoring_metrics(
        store.config, source(tmp_path / "rows.parquet"), COLUMNS[:1], "at"
    )
    assert (found["null_count"], found["mean"], found["max_val"]) == (2, 2.0, 3.0)


def test_a_period_is_the_same_instants_whatever_the_machines_time_zone(
    store, rows, tmp_path, monkeypatch
):
    pq.write_table(rows, tmp_path / "rows.parquet")
    start, end = START + timedelta(days=3), START + timedelta(days=5)
    at = rows["at"].to_pandas()
    inside = int(((at >= start) & (at <= end)).sum())
    for zone in ("UTC", "Asia/Tokyo"):
        monkeypatch.setitem(os.environ, "TZ", zone)
        time.tzset()
        found = computed(store, tmp_path / "rows.parquet", start, end)
        assert found["number"]["row_count"] == inside
    monkeypatch.undo()
    time.tzset()


def test_a_directory_of_files_is_one_source(store, rows, tmp_path):
    for number in range(3):
        pq.write_table(rows.slice(number * 700, 700), tmp_path / f"{number}.parquet")
    found = computed(store, tmp_path)
    assert found["count"]["row_count"] == 2000
    newest = DuckDBOfflineStore.get_monitoring_max_timestamp(store.config, source(tmp_path), "at")
    assert newest == max(rows["at"].to_pylist())


def test_feasts_own_monitoring_runs_on_views_and_keeps_what_it_found(trained):
    store = FeatureStore(repo_path=str(trained / "feature_repo"))
    service = MonitoringService(store)
    days = {"start_date": datetime(2013, 11, 1).date(), "end_date": datetime(2013, 11, 30).date()}
    done = service.compute_metrics(store.project, granularity="monthly", **days)
    assert (done["computed_feature_views"], done["computed_features"]) == (1, 3)
    kept = service.get_feature_metrics(
        store.project,
        granularity="monthly",
        start_date=days["start_date"],
        end_date=days["start_date"],
    )
    wind = next(row for row in kept if row["feature_name"] == "wind_mph")
    table = pd.read_parquet(trained / "data/published/first/origin_weather.parquet")
    known = table["known_at"].dt.strftime("%Y-%m")
    assert wind["row_count"] == int((known == "2013-11").sum())
    assert wind["mean"] == pytest.approx(table.loc[known == "2013-11", "wind_mph"].mean())
