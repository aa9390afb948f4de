"""What a reviewer found: definitions that change, odd sources and types, engines let go of."""

from __future__ import annotations

import os
import shutil
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource
from feast.types import Array, Float64, Int64, String
from feast.types import Decimal as FeastDecimal
from online_lab import open_store

from hindcast.errors import HindcastError, OnlineStoreUnavailableError, RetrievalError
from hindcast.kv import LmdbEngine
from hindcast.online import OnlineReader

T0 = datetime(2013, 3, 10, 6, tzinfo=UTC)
DAY = timedelta(days=1)
UTC_US = pa.timestamp("us", "UTC")
LMDB = "{type: hindcast.online_store.LmdbOnlineStore, path: ../data/online}"


class Shop:
    """One view `v`, whose file and definition a test may change."""

    def __init__(self, root: Path, online: str = LMDB) -> None:
        self.root = root
        (root / "data").mkdir()
        self.store = open_store(root / "feature_repo", online)

    def write(self, **columns: Any) -> None:
        pq.write_table(pa.table(columns), self.root / "data" / "new.parquet")
        os.replace(self.root / "data" / "new.parquet", self.root / "data" / "v.parquet")

    def define(
        self,
        features: dict[str, Any],
        key: Any = String,
        ttl: timedelta = timedelta(0),
        **source: Any,
    ) -> None:
        entity = Entity(name="k", join_keys=["k"])
        fields = [Field(name=name, dtype=dtype) for name, dtype in features.items()]
        view = FeatureView(
            name="v",
            entities=[] if key is None else [entity],
            ttl=ttl,
            schema=fields if key is None else [Field(name="k", dtype=key), *fields],
            source=FileSource(path="../data/v.parquet", timestamp_field="at", **source),
        )
        self.store.apply([entity, view, FeatureService(name="all", features=[view])])

    def values(self, feature: str, *keys: Any) -> list[Any]:
        """By the reader, which must agree with Feast."""
        request: dict[str, list[Any]] = {"k": list(keys)}
        mine = OnlineReader(self.store, "all").read(request).values[feature]
        feasts = self.store.get_online_features([f"v:{feature}"], request).to_dict()[feature]
        assert mine == feasts
        return mine


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def days(*numbers: float) -> pa.Array:
    return pa.array([T0 + n * DAY for n in numbers], UTC_US)


def test_an_older_range_does_not_hide_late_rows_from_the_next_increment(shop: Shop) -> None:
    shop.write(k=["a"], at=days(1), x=[1])
    shop.define({"x": Int64})
    shop.store.materialize_incremental(T0 + 10 * DAY)
    shop.write(k=["a", "a"], at=days(1, 8), x=[1, 100])
    shop.store.materialize(T0 + 2 * DAY, T0 + 5 * DAY)
    shop.store.materialize_incremental(T0 + 11 * DAY)
    assert shop.values("x", "a") == [100]


def test_a_feature_added_over_the_same_file_is_loaded_by_the_next_increment(shop: Shop) -> None:
    shop.write(k=["a", "b"], at=days(1, 2), x=[1, 2], y=[10, 20])
    shop.define({"x": Int64})
    shop.store.materialize_incremental(T0 + 10 * DAY)
    shop.define({"x": Int64, "y": Int64})
    shop.store.materialize_incremental(T0 + 11 * DAY)
    assert shop.values("y", "a", "b") == [10, 20]


def test_a_longer_ttl_brings_back_what_it_covers(shop: Shop) -> None:
    shop.write(k=["a"], at=days(9), x=[1])
    shop.define({"x": Int64}, ttl=2 * DAY)
    shop.store.materialize_incremental(T0 + 10 * DAY)
    shop.write(k=["a", "b"], at=days(9, 1), x=[1, 2])
    shop.store.materialize_incremental(T0 + 11 * DAY)
    assert shop.values("x", "b") == [None]
    shop.define({"x": Int64}, ttl=20 * DAY)
    shop.store.materialize_incremental(T0 + 12 * DAY)
    assert shop.values("x", "b") == [2]


def test_a_range_that_lost_its_newest_row_brings_back_the_one_before(shop: Shop) -> None:
    shop.write(k=["a", "a"], at=days(3, 8), x=[1, 2])
    shop.define({"x": Int64})
    shop.store.materialize_incremental(T0 + 10 * DAY)
    shop.write(k=["a"], at=days(3), x=[1])
    shop.store.materialize(T0 + 7 * DAY, T0 + 10 * DAY)
    assert shop.values("x", "a") == [1]


def test_columns_that_feast_renames_are_loaded_under_their_new_names(shop: Shop) -> None:
    shop.write(kk=["a"], at=days(1), xx=[7])
    shop.define({"x": Int64}, field_mapping={"kk": "k", "xx": "x"})
    shop.store.materialize(T0, T0 + 10 * DAY)
    assert shop.values("x", "a") == [7]


def test_a_view_without_entities_is_loaded_and_read(shop: Shop) -> None:
    shop.write(at=days(1, 2), x=[1, 2])
    shop.define({"x": Int64}, key=None)
    shop.store.materialize(T0, T0 + 10 * DAY)
    rows = OnlineReader(shop.store, "all").read({"anything": [1, 2]})
    assert rows.values == {"x": [2, 2]}


@pytest.mark.parametrize(
    ("key", "column"),
    [
        (Int64, pa.array([1.0, 2.0])),
        (Int64, pa.array(["1", "2"])),
        (String, pa.array([1, 2])),
        (Int64, pa.array([Decimal("1.0"), Decimal("2.0")])),
    ],
    ids=["double", "text", "number", "decimal"],
)
def test_a_key_column_of_another_type_is_refused_by_name(
    shop: Shop, key: Any, column: pa.Array
) -> None:
    shop.write(k=column, at=days(1, 2), x=[1, 2])
    shop.define({"x": Int64}, key=key)
    with pytest.raises(RetrievalError, match=r"join key k is (INT64|STRING), and its column is"):
        shop.store.materialize(T0, T0 + 10 * DAY)


@pytest.mark.parametrize(
    ("dtype", "column"),
    [
        (Int64, pa.array([1.5])),
        (Int64, pa.array([2**63], pa.uint64())),
        (Array(Int64), pa.array([[1, None]])),
        (Int64, pa.array(["one"])),
    ],
    ids=["fraction", "too large", "NULL in a list", "text"],
)
def test_a_value_that_its_type_cannot_hold_is_refused_by_name(
    shop: Shop, dtype: Any, column: pa.Array
) -> None:
    shop.write(k=["a"], at=days(1), x=column)
    shop.define({"x": dtype})
    with pytest.raises(RetrievalError, match=r"feature x is INT64.*cannot hold"):
        shop.store.materialize(T0, T0 + 10 * DAY)


def test_a_decimal_feature_over_a_column_of_doubles_keeps_its_digits(shop: Shop) -> None:
    shop.write(k=["a", "b"], at=days(1, 1), x=[0.1, 0.2])
    shop.define({"x": FeastDecimal})
    shop.store.materialize(T0, T0 + 10 * DAY)
    assert shop.values("x", "a", "b") == [Decimal("0.1"), Decimal("0.2")]


def test_rows_whose_description_was_lost_are_not_served(shop: Shop) -> None:
    shop.write(k=["a"], at=days(1), x=[1])
    shop.define({"x": Int64})
    shop.store.materialize(T0, T0 + 10 * DAY)
    engine = shop.store._get_provider().online_store.engine(shop.store.config)
    with engine.writing("lab_v") as writer:
        writer.describe(b"")
    assert shop.values("x", "a") == [None]
    with engine.writing("lab_v") as writer:
        writer.describe(b"\xc1")
    with pytest.raises(OnlineStoreUnavailableError, match="fill it anew"):
        OnlineReader(shop.store, "all").read({"k": ["a"]})


def test_an_engine_that_is_closed_or_replaced_under_its_readers_serves_on(tmp_path: Path) -> None:
    path, other = tmp_path / "online", tmp_path / "other"
    for folder in (path, other):
        made = LmdbEngine(folder, 2**26)
        with made.writing("v") as writer:
            writer.put({b"%d" % n: b"row" for n in range(500)})
        made.close()  # or `writer` keeps it open, and LMDB lets a process open a file once
    engine = LmdbEngine(path, 2**26)
    wanted = [("v", [b"%d" % n for n in range(500)])]
    done, wrong = threading.Event(), []

    def read() -> None:
        while not done.is_set():
            try:
                wrong.extend(row for row in engine.read(wanted)[0][1] if row != b"row")
            except OnlineStoreUnavailableError as error:
                if "not there" not in str(error):
                    wrong.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for turn in range(60):
        engine.close()
        if turn % 6 == 0:
            os.rename(path, tmp_path / "aside")
            os.rename(other, path)
            os.rename(tmp_path / "aside", other)
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert engine.read(wanted)[0][1] == [b"row"] * 500
    engine.close()


def test_a_store_that_another_process_let_grow_is_read_on(tmp_path: Path) -> None:
    small = LmdbEngine(tmp_path / "online", 2**20)
    with small.writing("v") as writer:
        writer.put({b"k": b"row"})
    grow = (
        "import sys; from pathlib import Path; from hindcast.kv import LmdbEngine\n"
        "with LmdbEngine(Path(sys.argv[1]), 2**26).writing('v') as writer:\n"
        "    writer.put({b'%d' % n: b'x' * 1000 for n in range(10_000)})\n"
    )
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", grow, str(tmp_path / "online")], check=True)
    assert small.read([("v", [b"k", b"9999"])]) == [(None, [b"row", b"x" * 1000])]


def test_a_fork_reads_and_writes_and_its_parent_goes_on(tmp_path: Path) -> None:
    engine = LmdbEngine(tmp_path / "online", 2**24)
    with engine.writing("v") as writer:
        writer.put({b"k": b"parent"})
    child = os.fork()
    if child == 0:
        with engine.writing("v") as writer:
            writer.put({b"c": b"child"})
        os._exit(0 if engine.read([("v", [b"k"])]) == [(None, [b"parent"])] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert engine.read([("v", [b"k", b"c"])]) == [(None, [b"parent", b"child"])]
    with engine.writing("v") as writer:
        writer.put({b"k": b"again"})
    assert engine.read([("v", [b"k"])]) == [(None, [b"again"])]


def test_one_directory_by_two_paths_is_one_engine(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "online")
    one = LmdbEngine.at(tmp_path / "online", 2**26)
    with one.writing("v") as writer:
        writer.put({b"k": b"row"})
    assert LmdbEngine.at(tmp_path / "link", 2**27).read([("v", [b"k"])]) == [(None, [b"row"])]
    shutil.rmtree(tmp_path / "online")


def test_readers_of_redis_never_see_the_loser_of_a_tie(tmp_path: Path, redis_url: str) -> None:
    kind = "hindcast.online_store.RedisOnlineStore"
    shop = Shop(tmp_path, f"{{type: {kind}, url: '{redis_url}', prefix: '{tmp_path}'}}")
    shop.write(k=["a", "a"], at=days(1, 1), x=[1, 2])
    shop.define({"x": Int64})
    engine = shop.store._get_provider().online_store.engine(shop.store.config)
    assert not engine.takes_back
    shop.store.materialize(T0, T0 + 10 * DAY)
    assert shop.values("x", "a") == [2]


@pytest.mark.parametrize("url", ["redis://h/0?password=hunter2", "redis://:hunter2/x@h:1/0"])
def test_no_error_shows_the_password_of_redis(tmp_path: Path, url: str) -> None:
    from hindcast.kv_redis import RedisEngine

    with pytest.raises(HindcastError) as caught:
        RedisEngine(url.replace("h/0", "127.0.0.1:1/0"), "p", 0.2).read([])
    assert "hunter2" not in str(caught.value)


def test_a_service_that_needs_what_is_not_registered_says_so(shop: Shop) -> None:
    shop.write(k=["a"], at=days(1), x=[1.0])
    shop.define({"x": Float64})
    store: FeatureStore = shop.store
    store.registry.delete_feature_view("v", "lab")
    with pytest.raises(HindcastError, match="names v, which Feast does not know"):
        OnlineReader(store, "all")
