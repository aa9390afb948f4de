"""The online stores against the offline join, through Feast: a real LMDB file, a real Redis."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.types import Bool, Float64, Int64, String
from online_lab import open_store

from hindcast.errors import EntityKeyError, RetrievalError
from hindcast.packed import pack_key

HOUR, MICROSECOND = timedelta(hours=1), timedelta(microseconds=1)
T1 = datetime(2013, 3, 10, 6, 59, 59, 500_000, UTC)  # New York's clocks change at 07:00 UTC
T2 = T1 + 3 * HOUR
TTL = 2 * HOUR
AIRCRAFT = [f"N{number}" for number in range(9)] + ["never seen", None]
LEGS = [  # tailnum, known_at, delay, is_late, created_at
    ("N0", T1 - TTL, 1, True, T1),  # known at T1, past its TTL at T2
    ("N1", T1, 2, False, T1),  # past its TTL at T2
    ("N2", T2 - TTL, 3, None, T2),  # at the very edge of its TTL
    ("N3", T2 - TTL - MICROSECOND, 4, True, T2),  # just past it
    ("N4", T1 - HOUR, 5, True, T1),
    ("N4", T2, 6, False, T2),  # newer, at the very end
    ("N5", T2 - HOUR, 7, True, T2 - HOUR),
    ("N5", T2 - HOUR, 8, False, T2),  # the same instant, created later
    ("N6", T2 - HOUR, 9, True, T2),
    ("N6", T2 + MICROSECOND, 10, False, T2),  # not known yet
    ("N7", T2 + HOUR, 11, False, T2),  # not known yet
    ("N8", T1 - HOUR, 12, True, T1),
    ("N8", T2 - HOUR, None, None, T2),  # what is known is a NULL
    (None, T2 - HOUR, 13, True, T2),
]
ROUTES = [  # origin, dest, known_at, flights
    ("JFK", "LAX", T1 - 50 * 24 * HOUR, 2**53 - 1),  # no TTL: never too old
    ("JFK", "SFO", T2, 2),
]
FEATURES = ["aircraft_last_leg:delay", "aircraft_last_leg:is_late", "route:flights"]


@pytest.fixture(params=["arrow", "local"])
def store(tmp_path: Path, online: str, request: pytest.FixtureRequest) -> FeatureStore:
    """A repository with two views, applied and not yet materialized, for our engine and Feast's."""
    return make_store(tmp_path, online, request.param)


@pytest.fixture
def quick(tmp_path: Path, online: str) -> FeatureStore:
    """The same for our engine alone."""
    return make_store(tmp_path, online)


def make_store(root: Path, online: str, engine: str = "arrow") -> FeatureStore:
    (root / "feature_repo").mkdir()
    published = root / "data" / "published" / "current"
    published.mkdir(parents=True)
    legs = ["tailnum", "known_at", "delay", "is_late", "created_at"]
    for name, columns, history in (
        ("aircraft_last_leg", legs, LEGS),
        ("route", ["origin", "dest", "known_at", "flights"], ROUTES),
    ):
        cells = [list(cells) for cells in zip(*history, strict=True)]
        pq.write_table(pa.table(cells, names=columns), published / f"{name}.parquet")
    store = open_store(root / "feature_repo", online, engine)
    keys = {key: Entity(name=key, join_keys=[key]) for key in ("tailnum", "origin", "dest")}

    def view(name: str, by: list[str], ttl: timedelta, created: str, **types: Any) -> FeatureView:
        return FeatureView(
            name=name,
            entities=[keys[key] for key in by],
            ttl=ttl,
            schema=[
                *(Field(name=key, dtype=String) for key in by),
                *(Field(name=feature, dtype=dtype) for feature, dtype in types.items()),
            ],
            source=FileSource(
                path=f"../data/published/current/{name}.parquet",
                timestamp_field="known_at",
                created_timestamp_column=created,
            ),
        )

    views = [
        view("aircraft_last_leg", ["tailnum"], TTL, "created_at", delay=Float64, is_late=Bool),
        view("route", ["origin", "dest"], timedelta(0), "", flights=Int64),
    ]
    service = FeatureService(name="late_arrival", features=views)
    store.apply([*keys.values(), *views, service])
    return store


ENTITIES = [
    {"tailnum": tailnum, "origin": origin, "dest": dest}
    for tailnum in AIRCRAFT
    for origin, dest in (("JFK", "LAX"), ("JFK", "SFO"), ("LAX", "JFK"), ("JFK", None))
]


def online(store: FeatureStore, features: Any = FEATURES) -> pd.DataFrame:
    return comparable(store.get_online_features(features, ENTITIES).to_df())


def offline(store: FeatureStore, at: datetime, features: Any = FEATURES) -> pd.DataFrame:
    spine = pd.DataFrame(ENTITIES).assign(event_timestamp=at)
    return comparable(store.get_historical_features(spine, features).to_df())


def comparable(frame: pd.DataFrame) -> pd.DataFrame:
    columns = ["tailnum", "origin", "dest", "delay", "is_late", "flights"]
    return frame[columns].astype(object).where(frame[columns].notna(), None)


def delay(store: FeatureStore, tailnum: str | None) -> Any:
    response = store.get_online_features(["aircraft_last_leg:delay"], [{"tailnum": tailnum}])
    return response.to_dict()["delay"][0]


def test_online_equals_offline_at_the_instant_of_materialization(store: FeatureStore) -> None:
    service = store.get_feature_service("late_arrival")
    for instant in (T1, T2):
        store.materialize_incremental(instant)
        for features in (FEATURES, service):
            expected = offline(store, instant, features)
            pd.testing.assert_frame_equal(online(store, features), expected)
    known = dict(zip(expected["tailnum"], expected["delay"], strict=True))
    assert known == {
        **{"N0": None, "N1": None, "N2": 3, "N3": None, "N4": 6, "N5": 8, "N6": 9, "N7": None},
        **{"N8": None, "never seen": None, None: None},
    }


def test_a_store_opened_anew_serves_the_same(store: FeatureStore) -> None:
    store.materialize_incremental(T2)
    again = FeatureStore(repo_path=str(store.repo_path))
    pd.testing.assert_frame_equal(online(again), offline(store, T2))


def test_materializing_by_another_store_object_is_seen(quick: FeatureStore) -> None:
    store = quick
    store.materialize_incremental(T1)
    assert delay(store, "N1") == 2
    FeatureStore(repo_path=str(store.repo_path)).materialize_incremental(T2)
    assert delay(store, "N1") is None


def test_materializing_an_earlier_instant_again_harms_nothing(store: FeatureStore) -> None:
    store.materialize_incremental(T2)
    store.materialize_incremental(T1)
    store.materialize(T1 - HOUR, T1)
    pd.testing.assert_frame_equal(online(store), offline(store, T2))


def test_materializing_twice_changes_nothing(store: FeatureStore) -> None:
    store.materialize_incremental(T2)
    store.materialize_incremental(T2)
    pd.testing.assert_frame_equal(online(store), offline(store, T2))


@pytest.fixture
def process_zone() -> Iterator[Any]:
    before = os.environ.get("TZ")

    def switch(zone: str | None) -> None:
        os.environ.pop("TZ", None)
        if zone:
            os.environ["TZ"] = zone
        time.tzset()

    yield switch
    switch(before)


def test_the_time_zone_of_the_process_changes_nothing(
    quick: FeatureStore, process_zone: Any
) -> None:
    store = quick
    process_zone("America/New_York")
    store.materialize_incremental(T2)
    in_new_york = online(store)
    process_zone("Asia/Tokyo")
    pd.testing.assert_frame_equal(online(store), in_new_york)
    pd.testing.assert_frame_equal(in_new_york, offline(store, T2))


def test_a_view_that_was_only_pushed_to_is_served_at_any_age(quick: FeatureStore) -> None:
    store = quick
    row = {"tailnum": "N0", "delay": 1.5, "is_late": True, "known_at": T1, "created_at": T1}
    store.write_to_online_store("aircraft_last_leg", pd.DataFrame([row]))
    assert delay(store, "N0") == 1.5
    store.materialize_incremental(T2)
    assert delay(store, "N0") is None


def test_many_keys_are_read_at_once(quick: FeatureStore) -> None:
    quick.materialize_incremental(T2)
    tails = [f"X{number}" for number in range(40_000)] + ["N4"]
    response = quick.get_online_features(FEATURES[:1], {"tailnum": tails}).to_dict()
    assert response["delay"] == [None] * 40_000 + [6]


def test_a_key_of_any_length_is_told_from_others(quick: FeatureStore) -> None:
    for tail, value in (("N" * 5000, 1.0), ("N" * 4999 + "M", 2.0), ("Ü" * 300, 3.0)):
        row = {"tailnum": tail, "delay": value, "is_late": True, "known_at": T1, "created_at": T1}
        quick.write_to_online_store("aircraft_last_leg", pd.DataFrame([row]))
    assert [delay(quick, t) for t in ("N" * 5000, "N" * 4999 + "M", "Ü" * 300)] == [1, 2, 3]
    assert delay(quick, "N" * 4998 + "MM") is None


def test_the_status_says_why_there_is_no_value(quick: FeatureStore) -> None:
    quick.materialize_incremental(T2)
    response = quick.get_online_features(
        ["aircraft_last_leg:delay"], {"tailnum": ["N3", "N4", "N8", "never seen", None]}
    )
    statuses = response.proto.results[1].statuses
    outside, present, missing = (
        FieldStatus.OUTSIDE_MAX_AGE,
        FieldStatus.PRESENT,
        FieldStatus.NOT_FOUND,
    )
    assert statuses == [outside, present, present, missing, missing]
    assert response.to_dict()["delay"] == [None, 6, None, None, None]


@pytest.mark.parametrize("wrong", [1.9, True, 7, b"N4", ["N4"]])
def test_a_key_of_the_wrong_type_is_refused_by_name(quick: FeatureStore, wrong: Any) -> None:
    with pytest.raises(EntityKeyError, match=r"row 1: tailnum is .*Expected text"):
        quick.get_online_features(["aircraft_last_leg:delay"], {"tailnum": ["N4", wrong]})


def test_a_view_that_is_no_more_leaves_nothing_behind(quick: FeatureStore) -> None:
    quick.materialize_incremental(T2)
    view, legs = quick.get_feature_view("route"), quick.get_feature_view("aircraft_last_leg")
    service = FeatureService(name="late_arrival", features=[legs])
    quick.apply([service], objects_to_delete=[view], partial=False)
    provider = quick._get_provider()
    engine = provider.online_store.engine(quick.config)
    assert engine.read([("lab_route", [pack_key(["JFK", "LAX"])])]) == [(None, [None])]


def test_a_missing_key_is_named(quick: FeatureStore) -> None:
    store = quick
    with pytest.raises(RetrievalError, match="route needs dest of each entity"):
        store.get_online_features(["route:flights"], [{"origin": "JFK"}])
