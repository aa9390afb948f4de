"""What Feast's own stores get wrong when history changes, and what a killed run leaves behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.types import Int64, String
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from online_lab import open_store

from hindcast import compute_engine, snapshot
from hindcast.compute_engine import ArrowEngine
from hindcast.errors import OnlineStoreUnavailableError
from hindcast.kv import LmdbEngine
from hindcast.online_store import PackedOnlineStore
from hindcast.packed import pack_key

HOUR = timedelta(hours=1)
T0 = datetime(2013, 3, 10, 6, tzinfo=UTC)
Row = tuple[Any, ...]  # key, event time, created time, value


def table_of(rows: list[Row]) -> pa.Table:
    columns = [list(cells) for cells in zip(*rows, strict=True)] or [[]] * 4
    types = [pa.string(), *[pa.timestamp("us", "UTC")] * 2, pa.int64()]
    arrays = [pa.array(cells, kind) for cells, kind in zip(columns, types, strict=True)]
    return pa.table(arrays, names=["key", "known_at", "created_at", "value"])


class Lab:
    """One view `state` by `key`, with a history that a test may rewrite."""

    def __init__(
        self,
        root: Path,
        online: str,
        ttl: timedelta = timedelta(0),
        file: str = "state.parquet",
    ) -> None:
        self.file = root / "data" / file
        (root / "data").mkdir(exist_ok=True)
        self.history([("first", T0 - 1000 * HOUR, T0, 0)])
        self.store = open_store(root / "feature_repo", online)
        key = Entity(name="key", join_keys=["key"])
        view = FeatureView(
            name="state",
            entities=[key],
            ttl=ttl,
            schema=[Field(name="key", dtype=String), Field(name="value", dtype=Int64)],
            source=FileSource(
                path=f"../data/{file}",
                timestamp_field="known_at",
                created_timestamp_column="created_at",
            ),
        )
        self.store.apply([key, view])

    def history(self, rows: list[Row]) -> None:
        pq.write_table(table_of(rows), self.file.with_suffix(".new"))
        os.replace(self.file.with_suffix(".new"), self.file)

    def until(self, at: datetime) -> None:
        self.store.materialize_incremental(at)

    def values(self, *keys: str) -> list[Any]:
        answer = self.store.get_online_features(["state:value"], {"key": list(keys)})
        values: list[Any] = answer.to_dict()["value"]
        return values

    def stored(self, key: str) -> Any:
        """What the store itself gives: Feast asks it nothing while it materializes."""
        asked = EntityKey(join_keys=["key"], entity_values=[ValueProto(string_val=key)])
        view, config = self.store.get_feature_view("state"), self.store.config
        online = self.store._get_provider().online_store
        ((_, values),) = online.online_read(config, view, [asked])
        return values and values["value"].int64_val

    def offline(self, at: datetime, *keys: str) -> list[Any]:
        spine = pd.DataFrame({"key": list(keys)}).assign(event_timestamp=at)
        job = self.store.get_historical_features(spine, ["state:value"])
        values: list[Any] = job.to_arrow()["value"].to_pylist()
        return values


@pytest.fixture
def lab(tmp_path: Path, online: str) -> Lab:
    return Lab(tmp_path, online)


def test_a_first_incremental_run_takes_all_that_could_be_served_at_its_end(
    tmp_path: Path, online: str
) -> None:
    lab = Lab(tmp_path, online, ttl=2 * HOUR)
    now = datetime.now(UTC).replace(microsecond=0)
    lab.history([("a", now - 2.5 * HOUR, T0, 1), ("b", now - 3.5 * HOUR, T0, 2)])
    lab.until(now - HOUR)  # Feast alone would begin at now - 2 h
    assert lab.values("a", "b") == lab.offline(now - HOUR, "a", "b") == [1, None]


def test_a_correction_with_the_same_event_time_is_served(lab: Lab) -> None:
    lab.history([("a", T0, T0, 1)])
    lab.until(T0)
    lab.history([("a", T0, T0, 2)])
    lab.until(T0 + HOUR)
    assert lab.values("a") == [2]


def test_a_deleted_entity_goes(lab: Lab) -> None:
    lab.history([("a", T0, T0, 1), ("b", T0, T0, 2)])
    lab.until(T0)
    lab.history([("b", T0, T0, 2)])
    lab.until(T0 + HOUR)
    assert lab.values("a", "b") == [None, 2]


def test_a_deleted_row_gives_way_to_the_one_before(lab: Lab) -> None:
    lab.history([("a", T0 - HOUR, T0, 1), ("a", T0, T0, 2)])
    lab.until(T0)
    lab.history([("a", T0 - HOUR, T0, 1)])
    lab.until(T0 + HOUR)
    assert lab.values("a") == [1]


def test_a_row_that_came_late_is_not_skipped(lab: Lab) -> None:
    lab.history([("a", T0 - HOUR, T0, 1)])
    lab.until(T0)
    lab.history([("a", T0 - HOUR, T0, 1), ("a", T0 - HOUR / 2, T0 + HOUR, 2)])
    lab.until(T0 + HOUR)
    assert lab.values("a") == [2]


def test_an_older_range_replaces_nothing_newer(lab: Lab) -> None:
    lab.history([("a", T0 - HOUR, T0, 1), ("a", T0, T0, 2)])
    lab.until(T0)
    lab.store.materialize(T0 - 2 * HOUR, T0 - HOUR)
    assert lab.values("a") == [2]


def test_a_pushed_value_stays_until_something_newer_comes(lab: Lab) -> None:
    lab.history([("a", T0 - HOUR, T0, 1), ("b", T0, T0, 2)])
    lab.until(T0 - HOUR / 2)
    pushed = {"key": ["a", "c"], "known_at": [T0 - HOUR / 4] * 2, "created_at": [T0] * 2}
    lab.store.write_to_online_store("state", pd.DataFrame({**pushed, "value": [7, 8]}))
    lab.until(T0)
    assert lab.values("a", "b", "c") == [7, 2, 8]
    lab.history([("a", T0 - HOUR, T0, 1), ("a", T0 + HOUR, T0, 9)])
    lab.until(T0 + HOUR)
    assert lab.values("a", "b", "c") == [9, None, 8]


def test_a_pushed_value_older_than_what_is_there_changes_nothing(lab: Lab) -> None:
    lab.history([("a", T0, T0, 1)])
    lab.until(T0)
    old = {"key": ["a"], "known_at": [T0 - HOUR], "created_at": [T0], "value": [7]}
    lab.store.write_to_online_store("state", pd.DataFrame(old))
    assert lab.values("a") == [1]


def test_rows_without_a_key_go_to_quarantine_and_the_rest_is_served(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    lab.history([(None, T0, T0, 1), ("a", T0, T0, 2), (None, T0, T0, 3)])
    lab.until(T0)
    assert lab.values("a") == [2]
    set_aside = lab.file.parent / "quarantine" / "materialize" / "state.parquet"
    table = pq.read_table(set_aside)
    assert sorted(table["value"].to_pylist()) == [1, 3]
    assert set(table["quarantine_reason"].to_pylist()) == {"key is NULL"}
    assert f"state: 2 rows left out, their key is NULL; see {set_aside}" in caplog.text


def test_an_unchanged_source_is_read_from_the_last_end_on(lab: Lab, capfd: Any) -> None:
    lab.history([("a", T0 - HOUR, T0, 1), ("b", T0 + HOUR, T0, 2)])
    lab.until(T0)
    lab.until(T0 + HOUR)
    assert "1/1" in capfd.readouterr().err.splitlines()[-1]
    assert lab.values("a", "b") == [1, 2]


keys = st.sampled_from(["a", "b", "c", None])
hours = st.integers(-4, 4)
histories = st.lists(
    st.tuples(keys, hours.map(lambda h: T0 + h * HOUR), st.just(T0), st.integers(0, 3)),
    min_size=1,
    max_size=8,
    unique_by=lambda row: row[:2],
)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(st.tuples(histories, st.integers(0, 3)), min_size=1, max_size=4),
    ttl=st.sampled_from([timedelta(0), 2 * HOUR]),
)
def test_after_any_rewriting_of_history_online_equals_offline(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[list[Row], int]], ttl: timedelta
) -> None:
    """Whatever the source says now, at T the store serves what the join gives."""
    root = tmp_path_factory.mktemp("any")
    lab = Lab(root, "{type: hindcast.online_store.LmdbOnlineStore, path: ../data/online}", ttl)
    at = T0
    for rows, later in steps:
        at += later * HOUR
        lab.history(rows)
        lab.until(at)
        assert lab.values("a", "b", "c") == lab.offline(at, "a", "b", "c")


class PublishedLab(Lab):
    """The same history, published as snapshots that say from when on it changed."""

    def __init__(self, root: Path, online: str, ttl: timedelta) -> None:
        self.published, self.rows, self.number = root / "data" / "published", None, 0
        super().__init__(root, online, ttl, "published/current/state.parquet")

    def history(self, rows: list[Row], keep: int = 9) -> None:
        gone_or_new = set(rows) ^ set(self.rows or [])
        changed = min((row[1].isoformat() for row in gone_or_new), default=None)
        staging = snapshot.begin(self.published, str(self.number))
        (staging / "state.parquet").mkdir()
        for part, kept in enumerate([rows[::2], rows[1::2]]):
            if kept or not part:
                pq.write_table(table_of(kept), staging / "state.parquet" / f"{part}.parquet")
        description = {
            "tables": {"state": len(rows)},
            "previous": None if self.rows is None else str(self.number - 1),
            "changed_from": {"state": changed},
        }
        snapshot.publish(staging, description, keep=keep)
        self.rows, self.number = rows, self.number + 1


# how many rows stay from one history to the next, what comes, how often it is loaded, what is kept
changes = st.tuples(st.integers(0, 8), histories, st.integers(0, 3), st.booleans(), st.booleans())


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(changes, min_size=2, max_size=6),
    ttl=st.sampled_from([timedelta(0), 2 * HOUR]),
)
def test_after_any_snapshots_online_equals_offline(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any], ttl: timedelta
) -> None:
    """Late, corrected and deleted rows, snapshots that were never loaded, others that are gone."""
    root = tmp_path_factory.mktemp("any")
    online = "{type: hindcast.online_store.LmdbOnlineStore, path: ../data/online}"
    lab = PublishedLab(root, online, ttl)
    at, rows = T0, []
    for stay, new, later, loaded, all_kept in steps:
        at += later * HOUR
        known = {row[:2] for row in rows[:stay]}
        rows = rows[:stay] + [row for row in new if row[:2] not in known]
        lab.history(rows, keep=9 if all_kept else 1)
        if loaded:
            lab.until(at)
            assert lab.values("a", "b", "c") == lab.offline(at, "a", "b", "c")


def test_only_what_changed_since_the_loaded_snapshot_is_read(tmp_path: Path, capfd: Any) -> None:
    online = "{type: hindcast.online_store.LmdbOnlineStore, path: ../data/online}"
    lab = PublishedLab(tmp_path, online, timedelta(0))
    old = [(f"k{number}", T0 - 9 * HOUR, T0, number) for number in range(20)]
    lab.history(old)
    lab.until(T0)
    late = ("late", T0 - HOUR, T0, 7)
    lab.history([*old, late])
    lab.history([*old, late, ("next", T0 + HOUR, T0, 8)])
    lab.until(T0 + HOUR)
    assert "2/2" in capfd.readouterr().err.splitlines()[-1]  # of 22 that could be served
    assert lab.values("k3", "late", "next") == [3, 7, 8]
    lab.until(T0 + 2 * HOUR)
    assert lab.values("k3", "late", "next") == [3, 7, 8]


def lab_with_a_row_taken_back(folder: Path, online: str) -> PublishedLab:
    """Of a's two rows the second was materialized, and is not in the newest snapshot any more."""
    lab = PublishedLab(folder, online, timedelta(0))
    before, taken_back = ("a", T0 - 2 * HOUR, T0, 1), ("a", T0 - HOUR, T0, 2)
    lab.history([before, taken_back])
    lab.until(T0)
    lab.history([before])
    return lab


def test_a_run_that_dies_after_it_took_a_row_away_is_made_good_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = "{type: hindcast.online_store.LmdbOnlineStore, path: ../data/online}"
    lab = lab_with_a_row_taken_back(tmp_path, online)
    load_from, loads = ArrowEngine._load_from, []

    def dies_in_the_second(*arguments: Any) -> Any:
        loads.append(arguments)
        if len(loads) == 2:
            raise KeyboardInterrupt
        return load_from(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ArrowEngine, "_load_from", dies_in_the_second)
        lab.until(T0 + HOUR)
    lab.until(T0 + HOUR)
    assert lab.values("a") == [1]


def test_a_snapshot_published_during_a_run_is_left_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked up, read and remembered is one snapshot: what the other one corrected is not lost."""
    online = "{type: hindcast.online_store.LmdbOnlineStore, path: ../data/online}"
    lab = PublishedLab(tmp_path, online, timedelta(0))
    old = [("a", T0 - 9 * HOUR, T0, 1), ("b", T0 - 2 * HOUR, T0, 1)]
    new, newer = ("b", T0 + HOUR / 2, T0, 2), ("b", T0 + 2 * HOUR, T0, 4)
    corrected = ("a", T0 - 9 * HOUR, T0, 3)
    lab.history(old)
    lab.until(T0)
    lab.history([*old, new])
    look_up = compute_engine._changed_from

    def published_after(*arguments: Any) -> datetime:
        changed = look_up(*arguments)
        if lab.number == 3:
            lab.history([corrected, old[1], ("b", T0 + HOUR / 2, T0, 3)])
        return changed

    with monkeypatch.context() as patched:
        patched.setattr(compute_engine, "_changed_from", published_after)
        lab.until(T0 + HOUR)
    assert lab.values("a", "b") == [1, 2]  # as they were when the run began, both
    lab.history([corrected, old[1], ("b", T0 + HOUR / 2, T0, 3), newer])
    lab.until(T0 + 2 * HOUR)
    assert lab.values("a", "b") == lab.offline(T0 + 2 * HOUR, "a", "b") == [3, 4]


def test_a_file_replaced_while_it_is_read_is_read_anew(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.history([("a", T0, T0, 1), ("b", T0, T0, 1)])
    batches = compute_engine._batches

    @contextmanager
    def replaced_in_the_middle(*arguments: Any) -> Iterator[Any]:
        with batches(*arguments) as read:
            if not replaced:
                replaced.append(True)
                lab.history([("b", T0, T0, 2)])
            yield read

    replaced: list[bool] = []
    with monkeypatch.context() as patched:
        patched.setattr(compute_engine, "_batches", replaced_in_the_middle)
        lab.until(T0)
    assert replaced
    assert lab.values("a", "b") == [None, 2]


def test_a_key_with_a_row_before_and_after_a_run_is_never_without_one(
    tmp_path: Path, online: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = lab_with_a_row_taken_back(tmp_path, online)
    load, seen = PackedOnlineStore.load, []

    def looked_at(*arguments: Any, **settings: Any) -> Any:
        try:
            return load(*arguments, **settings)
        finally:
            seen.append(lab.stored("a"))

    with monkeypatch.context() as patched:
        patched.setattr(PackedOnlineStore, "load", looked_at)
        lab.until(T0 + HOUR)
    # the period alone was tried, and given up
    assert seen == [2, 1]
    assert lab.values("a") == [1]


def _write_slowly(path: Path, started: Any) -> None:
    engine = LmdbEngine(path, 2**30)
    with engine.writing("view") as writer:
        for number in range(1000):
            writer.put({f"{number}".encode(): b"new"})
        started.set()
        time.sleep(60)


def test_a_writer_that_is_killed_changes_nothing_and_blocks_nobody(tmp_path: Path) -> None:
    engine = LmdbEngine(tmp_path / "online", 2**30)
    with engine.writing("view") as writer:
        writer.put({f"{number}".encode(): b"old" for number in range(1000)})
        writer.describe(b"old")
    wanted = [("view", [f"{number}".encode() for number in range(1000)])]
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=_write_slowly, args=(tmp_path / "online", started))
    process.start()
    assert started.wait(60)
    assert engine.read(wanted) == [(b"old", [b"old"] * 1000)]  # while it is being written
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert engine.read(wanted) == [(b"old", [b"old"] * 1000)]
    with engine.writing("view") as writer:
        assert writer.count() == 1000
        writer.put({b"0": b"new"})
    assert engine.read([("view", [b"0"])]) == [(b"old", [b"new"])]


def test_readers_see_one_state_of_a_view_while_it_is_written(tmp_path: Path) -> None:
    engine = LmdbEngine(tmp_path / "online", 2**30)
    wanted = [("view", [f"{number}".encode() for number in range(200)])]
    done = threading.Event()

    def write() -> None:
        for version in range(100):
            with engine.writing("view") as writer:
                writer.describe(b"%d" % version)
                writer.put({key: b"%d" % version for key in wanted[0][1]})
        done.set()

    thread = threading.Thread(target=write)
    with engine.writing("view") as writer:
        writer.put({key: b"0" for key in wanted[0][1]})
        writer.describe(b"0")
    thread.start()
    seen = set()
    while not done.is_set():
        ((description, rows),) = engine.read(wanted)
        assert set(rows) == {description}
        seen.add(description)
    thread.join()
    assert len(seen) > 1


def test_a_full_store_says_so_and_keeps_what_it_had(tmp_path: Path) -> None:
    engine = LmdbEngine(tmp_path / "online", 2**18)
    with engine.writing("view") as writer:
        writer.put({b"key": b"old"})
    full = pytest.raises(OnlineStoreUnavailableError, match=r"full at 262,144 bytes.*size_limit")
    with full, engine.writing("view") as writer:
        writer.put({f"{number}".encode(): b"x" * 1000 for number in range(1000)})
    assert engine.read([("view", [b"key"])]) == [(None, [b"old"])]


def test_rows_of_another_version_are_refused_and_replaced(lab: Lab) -> None:
    lab.history([("a", T0, T0, 1)])
    lab.until(T0)
    engine = lab.store._get_provider().online_store.engine(lab.store.config)
    with engine.writing("lab_state") as writer:
        writer.describe(b"\x80")  # of a version that said no form
        writer.put({pack_key(["b"]): b"as it was then"})
    with pytest.raises(OnlineStoreUnavailableError, match=r"another version.*materialize"):
        lab.values("a")
    lab.store.materialize(T0 - HOUR, T0)
    assert lab.values("a", "b") == [1, None]


def test_stores_of_one_process_share_their_file(tmp_path: Path) -> None:
    online = "{type: hindcast.online_store.LmdbOnlineStore, path: ../data/online}"
    lab = Lab(tmp_path, online)
    lab.history([("a", T0, T0, 1)])
    lab.until(T0)
    again = FeatureStore(repo_path=str(lab.store.repo_path))
    answer = again.get_online_features(["state:value"], {"key": ["a"]}).to_dict()
    assert answer["value"] == lab.values("a") == [1]
