"""The parity check finds each kind of difference, online and in a log, and names the worst."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.types import Float64, Int64, String
from online_lab import open_store

from hindcast import parity
from hindcast.errors import HindcastError, MissingInputError
from hindcast.packed import header, pack, pack_key, unpack

T0 = datetime(2013, 3, 10, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)
UTC_US = pa.timestamp("us", "UTC")
KEYS = ["a", "b", "c", "d", "e"]
LMDB = "{type: hindcast.online_store.LmdbOnlineStore, path: ../data/online}"


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Five entities with a number and a rate, `e` past its TTL at T0; a spine of them; a log."""
    store = open_store(tmp_path / "feature_repo", LMDB)
    published = tmp_path / "data" / "published" / "current"
    published.mkdir(parents=True)
    pq.write_table(pa.table({"key": KEYS}), published / "spine.parquet")
    known_at = pa.array([T0 - HOUR] * 4 + [T0 - 9 * HOUR], UTC_US)
    columns = {"key": KEYS, "known_at": known_at, "n": [1, 2, 3, None, 5], "rate": [0.1] * 5}
    pq.write_table(pa.table(columns), published / "v.parquet")
    key = Entity(name="key", join_keys=["key"])
    view = FeatureView(
        name="v",
        entities=[key],
        ttl=2 * HOUR,
        schema=[
            Field(name="key", dtype=String),
            Field(name="n", dtype=Int64),
            Field(name="rate", dtype=Float64),
        ],
        source=FileSource(path="../data/published/current/v.parquet", timestamp_field="known_at"),
    )
    log = LoggingConfig(FileLoggingDestination(path="../data/log"))
    store.apply([key, view, FeatureService(name="all", features=[view], logging_config=log)])
    store.materialize(T0 - 100 * HOUR, T0)
    return store


def spoil(store: FeatureStore, key: str, **changes: Any) -> None:
    """Change stored values of one entity behind everyone's back."""
    engine = store._get_provider().online_store.engine(store.config)
    packed = pack_key([key])
    ((_, (row,)),) = engine.read([("lab_v", [packed])])
    values = dict(zip(["n", "rate"], unpack(row), strict=True)) | changes
    with engine.writing("lab_v") as writer:
        writer.put({packed: pack(*header(row), list(values.values()))})


def test_equal_stores_are_said_to_be_equal(store: FeatureStore) -> None:
    found = parity.compare(store, "all", "spine", T0, None)
    assert (found.rows, found.values, found.nulls, found.wrong) == (5, 10, 3, 0)
    assert found.mismatches == []


def test_each_kind_of_difference_is_counted_by_feature_and_the_worst_comes_first(
    store: FeatureStore,
) -> None:
    spoil(store, "a", n=100)
    spoil(store, "b", n=None)
    spoil(store, "c", n=4, rate=math.nextafter(0.1, 1.0))
    spoil(store, "d", n=7, rate=1)
    found = parity.compare(store, "all", "spine", T0, None)
    counts = found.features["v__n"]
    assert (counts.mismatched, counts.missing, counts.extra, counts.matched) == (2, 1, 1, 1)
    worst = [miss.row["key"] for miss in found.examples["v__n"]]
    assert worst == ["b", "d", "a"]  # what has no distance, then by distance
    assert found.features["v__rate"].mismatched == 2  # the last bit counts, and 1 is not 1.0
    assert found.as_dict()["wrong"] == found.wrong == 6


def test_a_store_at_another_instant_is_not_compared(store: FeatureStore) -> None:
    with pytest.raises(MissingInputError, match=r"up to .*06:00:00.*not up to .*07:00:00"):
        parity.compare(store, "all", "spine", T0 + HOUR, None)


def write_log(store: FeatureStore, number: int = 0, **changes: list[Any]) -> None:
    """Log all five entities as served at T0, with changes."""
    rows = {
        "key": KEYS,
        "v__n": [1, 2, 3, None, None],
        "v__n__timestamp": pa.array([T0 - HOUR] * 4 + [T0 - 9 * HOUR], UTC_US),
        "v__rate": [0.1] * 4 + [None],
        "__log_timestamp": pa.array([T0 + number * HOUR] * 5, UTC_US),
        "as_of": pa.array([T0] * 5, UTC_US),
        "snapshot": ["current"] * 5,
    } | changes
    log = Path(store.repo_path).parent / "data" / "log"
    log.mkdir(exist_ok=True)
    pq.write_table(pa.table(rows), log / f"{number}.parquet")


def test_a_log_of_what_the_join_gives_is_said_to_be_equal(store: FeatureStore) -> None:
    write_log(store)
    found = parity.compare_log(store, "all", None)
    assert (found.rows, found.values, found.wrong, found.notes) == (5, 10, 0, [])


def test_each_kind_of_difference_in_a_log_is_found(store: FeatureStore) -> None:
    write_log(store, v__n=[9, None, 3, 4, 5])
    counts = parity.compare_log(store, "all", None).features["v__n"]
    assert (counts.mismatched, counts.missing, counts.extra, counts.matched) == (1, 1, 1, 1)
    assert counts.stale == 1  # the last one is past its TTL, so the join has none


def test_a_row_served_from_views_at_several_instants_is_wrong_in_all_its_values(
    store: FeatureStore,
) -> None:
    write_log(store, as_of=pa.array([T0] * 4 + [None], UTC_US))
    found = parity.compare_log(store, "all", None)
    assert (found.rows, found.mixed, found.wrong) == (4, 1, 2)
    assert "1 rows were served from views that stood at several instants" in found.notes[0]
    write_log(store, as_of=pa.array([None] * 5, UTC_US))
    with pytest.raises(MissingInputError, match="no rows to compare: all 5 rows were served from"):
        parity.compare_log(store, "all", None)


def test_a_log_is_compared_from_an_instant_on_and_the_newest_rows_first(
    store: FeatureStore,
) -> None:
    write_log(store, v__n=[9] * 5)
    write_log(store, 1)
    assert parity.compare_log(store, "all", None).wrong == 5
    assert parity.compare_log(store, "all", 5).wrong == 0
    assert parity.compare_log(store, "all", None, T0 + HOUR).wrong == 0


def test_a_log_of_a_snapshot_that_is_gone_is_said_to_be(store: FeatureStore) -> None:
    write_log(store, snapshot=["20130101"] * 5)
    found = parity.compare_log(store, "all", None)
    assert found.wrong == 0
    assert "5 rows were served from snapshot 20130101, which is gone" in found.notes[0]


def test_a_log_that_cannot_be_judged_says_what_it_lacks(store: FeatureStore) -> None:
    with pytest.raises(MissingInputError):
        parity.compare_log(store, "all", None)
    write_log(store)
    file = Path(store.repo_path).parent / "data" / "log" / "0.parquet"
    pq.write_table(pq.read_table(file).drop(["as_of"]), file)
    with pytest.raises(HindcastError, match="lacks as_of"):
        parity.compare_log(store, "all", None)
