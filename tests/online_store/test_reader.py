"""The reader against Feast's own answer, value for value, over every type and kind of view."""

from __future__ import annotations

import math
import os
import shutil
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    RequestSource,
)
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import (
    Array,
    Bool,
    Bytes,
    Float32,
    Float64,
    Int32,
    Int64,
    String,
    UnixTimestamp,
)
from feast.types import (
    Decimal as FeastDecimal,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from online_lab import RedisServer, open_store

from hindcast.errors import (
    EntityKeyError,
    MissingInputError,
    OnlineStoreUnavailableError,
    RetrievalError,
)
from hindcast.on_demand import TAG, local
from hindcast.online import OnlineReader
from hindcast.online_store import Status

T0 = datetime(2013, 3, 10, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)
UTC_US = pa.timestamp("us", "UTC")
TYPES: dict[str, tuple[Any, pa.DataType, list[Any]]] = {
    "i32": (Int32, pa.int32(), [2**31 - 1, None, -(2**31)]),
    "i64": (Int64, pa.int64(), [2**53 + 1, None, -(2**63)]),
    "f32": (Float32, pa.float32(), [0.1, None, -math.inf]),
    "f64": (Float64, pa.float64(), [5e-324, None, math.inf]),
    "nan": (Float64, pa.float64(), [math.nan, None, 1.0]),
    "yes": (Bool, pa.bool_(), [True, None, False]),
    "text": (String, pa.string(), ["Zürich \U0001f6eb\x00 'quoted'", None, ""]),
    "raw": (Bytes, pa.binary(), [b"\x00\xff", None, b""]),
    "when": (UnixTimestamp, UTC_US, [T0, None, T0 - 10**6 * HOUR]),
    "exact": (FeastDecimal, pa.decimal128(38, 9), [Decimal("0.000000001"), None, Decimal(10**20)]),
    "i64s": (Array(Int64), pa.list_(pa.int64()), [[2**53 + 1, -1], None, [0]]),
    "f64s": (Array(Float64), pa.list_(pa.float64()), [[math.inf, 0.5], None, [1.0]]),
    "texts": (Array(String), pa.list_(pa.string()), [["a", "ü"], None, [""]]),
    "yeses": (Array(Bool), pa.list_(pa.bool_()), [[True, False], None, [True]]),
    "whens": (Array(UnixTimestamp), pa.list_(UTC_US), [[T0], None, [T0, T0 + HOUR]]),
}
KEYS = ["a", "b", "c"]


def publish(root: Path, name: str, columns: dict[str, Any]) -> FileSource:
    (root / "data").mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), root / "data" / f"{name}.parquet")
    return FileSource(path=f"../data/{name}.parquet", timestamp_field="known_at")


@on_demand_feature_view(
    sources=[RequestSource(name="asked", schema=[Field(name="at", dtype=UnixTimestamp)])],
    schema=[Field(name="quarter", dtype=Int32)],
    mode="pandas",
)
def by_frame(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"quarter": pd.to_datetime(inputs["at"], utc=True).dt.quarter})


@pytest.fixture
def store(tmp_path: Path, online: str) -> FeatureStore:
    """Two views, one of them under two names, and on-demand views of each mode."""
    store = open_store(tmp_path / "feature_repo", online)
    key, place = (
        Entity(name="key", join_keys=["key"]),
        Entity(name="place", join_keys=["place"]),
    )
    at = pa.array([T0] * 3, UTC_US)
    every = FeatureView(
        name="every",
        entities=[key],
        ttl=10 * HOUR,
        schema=[
            Field(name="key", dtype=String),
            *(Field(name=name, dtype=dtype) for name, (dtype, _, _) in TYPES.items()),
        ],
        source=publish(
            tmp_path,
            "every",
            {"key": KEYS, "known_at": at}
            | {name: pa.array(values, kind) for name, (_, kind, values) in TYPES.items()},
        ),
    )
    weather = FeatureView(
        name="weather",
        entities=[place],
        ttl=timedelta(0),
        schema=[Field(name="place", dtype=Int64), Field(name="wind", dtype=Float64)],
        source=publish(
            tmp_path, "weather", {"place": [1, 2, 2**60], "known_at": at, "wind": [0.5, None, 3.0]}
        ),
    )

    @on_demand_feature_view(
        sources=[every, RequestSource(name="r", schema=[Field(name="at", dtype=UnixTimestamp)])],
        schema=[Field(name="age_min", dtype=Float64), Field(name="twice", dtype=Float64)],
        mode="pandas",
        tags=TAG,
    )
    def by_columns(inputs: pd.DataFrame) -> pd.DataFrame:
        from hindcast.on_demand import Columns, minutes

        columns = Columns(inputs)
        age = minutes(columns.times("at") - columns.times("when"))
        return columns.result({"age_min": age, "twice": 2 * columns.numbers("i32")})

    @on_demand_feature_view(
        sources=[every], schema=[Field(name="thrice", dtype=Float64)], mode="pandas"
    )
    def by_view(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"thrice": 3.0 * pd.to_numeric(inputs["i32"])})

    @on_demand_feature_view(
        sources=[RequestSource(name="r2", schema=[Field(name="at", dtype=UnixTimestamp)])],
        schema=[Field(name="is_odd", dtype=Bool)],
        mode="python",
    )
    def by_lists(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"is_odd": [at.hour % 2 == 1 for at in inputs["at"]]}

    service = FeatureService(
        name="all",
        features=[
            every,
            weather.with_name("departure"),
            weather.with_name("arrival").with_join_key_map({"place": "to_place"}),
            by_columns,
            by_frame,
            by_view,
            by_lists,
        ],
    )
    views = [every, weather, by_columns, by_frame, by_view, by_lists]
    store.apply([key, place, *views, service])
    store.materialize(T0 - HOUR, T0 + HOUR)
    return store


def request_of(keys: list[Any], places: list[Any]) -> dict[str, list[Any]]:
    rows = len(keys)
    return {
        "key": keys,
        "place": places,
        "to_place": places[::-1],
        "at": [T0 + HOUR * n for n in range(rows)],
    }


def feast_answer(store: FeatureStore, request: dict[str, list[Any]]) -> dict[str, list[Any]]:
    service = store.get_feature_service("all")
    answer: dict[str, list[Any]] = store.get_online_features(
        service, request, full_feature_names=True
    ).to_dict()
    return answer


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and bool(one == other)


def test_every_value_is_what_feast_answers(store: FeatureStore) -> None:
    reader = OnlineReader(store, "all", full_feature_names=True)
    assert set(reader.keys) == {"key", "place", "to_place"}
    assert list(reader.request) == ["at"]
    for keys, places in (
        (["a", "b", "c", "none", "a"], [1, 2, 3, 2**60, 1]),
        (["c"], [2]),
        (["none"], [-1]),
    ):
        request = request_of(keys, places)
        expected = feast_answer(store, request)
        answer = reader.read(request).values
        assert set(answer) == set(reader.features)
        # Feast 0.67 leaves a python-mode view out of an answer with full names
        assert answer.pop("by_lists__is_odd") == [at.hour % 2 == 1 for at in request["at"]]
        assert set(answer) == set(expected) - set(request)
        for name, values in answer.items():
            assert all(map(same, values, expected[name])), (name, values, expected[name])


def test_every_value_is_what_the_file_has(store: FeatureStore) -> None:
    values = OnlineReader(store, "all", full_feature_names=True).read(request_of(KEYS, [1, 2, 3]))
    for name, (_, kind, written) in TYPES.items():
        expected = [np.float32(v).item() if v and kind == pa.float32() else v for v in written]
        assert all(map(same, values.values[f"every__{name}"], expected)), name


def test_the_reader_keeps_the_microseconds_that_feast_cuts(tmp_path: Path, online: str) -> None:
    exact = T0 + timedelta(microseconds=123_456)
    store = open_store(tmp_path / "feature_repo", online)
    key = Entity(name="key", join_keys=["key"])
    source = publish(
        tmp_path,
        "v",
        {"key": ["a"], "known_at": pa.array([exact], UTC_US), "when": pa.array([exact], UTC_US)},
    )
    schema = [Field(name="key", dtype=String), Field(name="when", dtype=UnixTimestamp)]
    view = FeatureView(name="v", entities=[key], schema=schema, source=source)
    store.apply([key, view, FeatureService(name="all", features=[view])])
    store.materialize(T0 - HOUR, T0 + HOUR)
    rows = OnlineReader(store, "all").read({"key": ["a"]})
    assert rows.values["when"] == [exact]
    assert rows.event_us["v"] == [round(exact.timestamp() * 10**6)]
    feast = store.get_online_features(["v:when"], {"key": ["a"]}).to_dict()
    assert feast["when"] == [exact.replace(microsecond=0)]


def test_statuses_times_and_snapshot_come_with_the_values(store: FeatureStore) -> None:
    store.materialize_incremental(T0 + 11 * HOUR)
    rows = OnlineReader(store, "all", full_feature_names=True).read(
        request_of(["a", "none", None], [1, None, 7])
    )
    missing = Status.NOT_FOUND
    assert rows.statuses["every"] == [Status.OUTSIDE_MAX_AGE, missing, missing]
    assert rows.statuses["departure"] == [Status.PRESENT, missing, missing]
    assert rows.event_us["every"] == [round(T0.timestamp()) * 10**6, None, None]
    assert rows.values["every__i64"] == [None, None, None]
    assert set(rows.as_of.values()) == {T0 + 11 * HOUR}


@pytest.mark.parametrize("wrong", [1.9, True, "1", 2**63, [1], np.float64(2.0)])
def test_a_key_of_the_wrong_type_is_refused_by_row_and_name(
    store: FeatureStore, wrong: Any
) -> None:
    request = request_of(["a", "b"], [1, 2]) | {"place": [1, wrong]}
    expected = r"row 1: place is .*Expected a whole number"
    with pytest.raises(EntityKeyError, match=expected):
        OnlineReader(store, "all", full_feature_names=True).read(request)
    with pytest.raises(EntityKeyError, match=expected):
        feast_answer(store, request)


def test_a_numpy_integer_is_an_integer(store: FeatureStore) -> None:
    reader = OnlineReader(store, "all", full_feature_names=True)
    request = request_of(["a"], [1]) | {"place": np.array([1])}
    assert reader.read(request).values["departure__wind"] == [0.5]


def test_what_a_request_lacks_is_named(store: FeatureStore) -> None:
    reader = OnlineReader(store, "all", full_feature_names=True)
    with pytest.raises(RetrievalError, match="lacks to_place, at"):
        reader.read({"key": ["a"], "place": [1]})
    with pytest.raises(RetrievalError, match="differ in length"):
        reader.read(request_of(["a"], [1]) | {"key": ["a", "b"]})
    with pytest.raises(MissingInputError, match="no feature service nobody"):
        OnlineReader(store, "nobody")
    with pytest.raises(RetrievalError, match="both have a feature wind"):
        OnlineReader(store, "all")


def test_rows_from_before_a_feature_was_added_are_read_right(tmp_path: Path, online: str) -> None:
    store = open_store(tmp_path / "feature_repo", online)
    key = Entity(name="key", join_keys=["key"])

    def register(at: datetime, **features: tuple[Any, pa.DataType, list[Any]]) -> OnlineReader:
        source = publish(
            tmp_path,
            "v",
            {"key": KEYS[: len(next(iter(features.values()))[2])]}
            | {"known_at": pa.array([at] * len(next(iter(features.values()))[2]), UTC_US)}
            | {name: pa.array(values, kind) for name, (_, kind, values) in features.items()},
        )
        fields = [Field(name=name, dtype=dtype) for name, (dtype, _, _) in features.items()]
        view = FeatureView(
            name="v",
            entities=[key],
            schema=[Field(name="key", dtype=String), *fields],
            source=source,
        )
        store.apply([key, view, FeatureService(name="all", features=[view])])
        store.materialize(at, at)
        return OnlineReader(store, "all")

    register(T0, old=(Int64, pa.int64(), [1, 2]), changed=(Int64, pa.int64(), [1, 2]))
    reader = register(
        T0 + HOUR,
        new=(String, pa.string(), ["x"]),
        changed=(String, pa.string(), ["y"]),
        old=(Int64, pa.int64(), [3]),
    )
    values = reader.read({"key": ["a", "b"]}).values
    assert values == {"new": ["x", None], "changed": ["y", None], "old": [3, 2]}
    feast = store.get_online_features(["v:new", "v:changed", "v:old"], {"key": ["a", "b"]})
    assert {name: feast.to_dict()[name] for name in values} == values


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    instants=st.lists(
        st.datetimes(datetime(1971, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC)),
        min_size=1,
        max_size=5,
    ),
    zone=st.sampled_from(["America/New_York", "America/Puerto_Rico", "Asia/Kathmandu", "UTC"]),
)
def test_local_time_is_what_the_zone_s_clock_shows(instants: list[datetime], zone: str) -> None:
    shown = [moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None) for moment in instants]
    times = np.array([moment.replace(tzinfo=None) for moment in instants], "datetime64[us]")
    assert local(times, zone).tolist() == shown


def test_a_store_that_goes_away_is_said_and_comes_back(tmp_path: Path) -> None:
    online = "{type: hindcast.online_store.LmdbOnlineStore, path: ../data/online}"
    reader = small_reader(tmp_path, online)
    kept, gone = tmp_path / "data" / "online", tmp_path / "data" / "gone"
    shutil.move(kept, gone)
    with pytest.raises(OnlineStoreUnavailableError, match="is not there"):
        reader.read({"key": ["a"]})
    with pytest.raises(OnlineStoreUnavailableError):
        reader.check()
    shutil.move(gone, kept)
    assert reader.read({"key": ["a"]}).values == {"value": [1]}


def test_a_redis_that_stops_is_said_within_a_second_and_comes_back(tmp_path: Path) -> None:
    if shutil.which("redis-server") is None and not os.environ.get("CI"):
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    with RedisServer() as server:
        kind = "hindcast.online_store.RedisOnlineStore"
        reader = small_reader(tmp_path, f"{{type: {kind}, url: '{server.url}'}}")
        server.stop()
        begun = datetime.now(UTC)
        with pytest.raises(OnlineStoreUnavailableError, match=r"127.0.0.1:\d+/0 cannot be read"):
            reader.read({"key": ["a"]})
        assert datetime.now(UTC) - begun < timedelta(seconds=2)
        server.start()
        assert reader.read({"key": ["a"]}).values == {"value": [None]}  # it kept nothing on disk


def small_reader(root: Path, online: str) -> OnlineReader:
    store = open_store(root / "feature_repo", online)
    key = Entity(name="key", join_keys=["key"])
    source = publish(root, "v", {"key": ["a"], "known_at": pa.array([T0], UTC_US), "value": [1]})
    schema = [Field(name="key", dtype=String), Field(name="value", dtype=Int64)]
    view = FeatureView(name="v", entities=[key], schema=schema, source=source)
    store.apply([key, view, FeatureService(name="all", features=[view])])
    store.materialize(T0, T0)
    return OnlineReader(store, "all")
