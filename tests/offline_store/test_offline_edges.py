"""What a reviewer found: odd times, odd paths, odd files, and things that change while we look."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conformance import HOUR, NOON, TICK, UTC_US, Store, cells, spine
from deltalake import write_deltalake
from feast import Entity, FeatureView, Field, FileSource
from feast.data_format import DeltaFormat
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination, SavedDatasetFileStorage
from feast.types import Int64
from feast.value_type import ValueType

from hindcast import sweep
from hindcast.asof import PointInTimeJoin
from hindcast.errors import RetrievalError
from hindcast.history import History
from hindcast.offline_store import DuckDBOfflineStore, LatestRowsJob
from hindcast.sources import Session

pytestmark = pytest.mark.usefixtures("either_way")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store("hindcast.offline_store.DuckDBOfflineStore", tmp_path_factory.mktemp("store"))


def over(path: Path, *features: str, file_format: Any = None) -> FeatureView:
    """A view of integers over files that are there."""
    key = Entity(name="entity_k", join_keys=["k"], value_type=ValueType.UNKNOWN)
    return FeatureView(
        name="over",
        entities=[key],
        schema=[Field(name=name, dtype=Int64) for name in ("k", *(features or ("v",)))],
        source=FileSource(
            name="files", path=str(path), timestamp_field="at", file_format=file_format
        ),
    )


def table(k: list[Any], at: list[datetime], v: list[int]) -> pa.Table:
    return pa.table({"k": k, "at": pa.array(at, UTC_US), "v": v})


def write(path: Path, content: pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, path)
    return path


# --- times --------------------------------------------------------------------------------


def nanoseconds(*values: int) -> pa.Array:
    return pa.array(values).cast(pa.timestamp("ns"))


def test_a_row_within_the_microsecond_after_the_prediction_is_not_seen(
    store: Store, tmp_path: Path
) -> None:
    second = 1_700_000_000 * 10**9
    history = pa.table({"k": ["a"] * 2, "at": nanoseconds(second - 1, second + 1), "v": [1, 2]})
    frame = pa.table({"k": ["a"], "event_timestamp": nanoseconds(second)})
    view = over(write(tmp_path / "n.parquet", history))
    assert store.job(frame, [view]).to_arrow()["v"].to_pylist() == [1]


def test_a_time_in_sql_before_1970_is_rounded_down_too(store: Store) -> None:
    start = datetime(1970, 1, 1, tzinfo=UTC)
    view = store.view({"k": ["a"] * 3, "at": [start - n * TICK for n in (3, 2, 1)], "v": [3, 2, 1]})
    sql = "select 'a' as k, make_timestamp_ns(-2500) as event_timestamp"
    assert store.job(sql, [view]).to_arrow()["v"].to_pylist() == [3]


def test_the_hour_that_a_zone_has_twice_is_no_trouble(store: Store) -> None:
    view = store.view({"k": ["a"], "at": [NOON], "v": [1]})
    times = pd.to_datetime(["2013-11-03 05:30Z", "2013-11-03 06:30Z"]).astype("datetime64[ns, UTC]")
    frame = pd.DataFrame({"k": "a", "event_timestamp": times.tz_convert("America/New_York")})
    assert cells(store.join(frame, view)["v"]) == [1, 1]


def test_an_endless_time_sees_nothing_and_spoils_no_other_row(store: Store) -> None:
    view = store.view({"k": ["a"], "at": [NOON], "v": [1]})
    sql = """
        select 'a' as k, unnest([timestamptz 'infinity', '-infinity', '2014-01-01 00:00:00Z'])
            as event_timestamp
    """
    assert store.job(sql, [view]).to_arrow()["v"].to_pylist() == [None, None, 1]


def test_a_year_beyond_those_of_python_is_joined(store: Store) -> None:
    view = store.view({"k": ["a"], "at": [NOON], "v": [1]}, ttl=timedelta(days=999_999_999))
    late = pa.array([253_402_300_800_000_000]).cast(UTC_US)
    job = store.job(pa.table({"k": ["a"], "event_timestamp": late}), [view])
    assert job.to_arrow()["v"].to_pylist() == [1]
    assert job.metadata.max_event_timestamp is None


# --- paths and files ----------------------------------------------------------------------


def test_a_path_is_no_pattern_where_it_is_there(store: Store, tmp_path: Path) -> None:
    for folder, key in (("e[X]", "a"), ("eX", "other"), ("d*", "a"), ("dX", "other")):
        write(tmp_path / folder / "x.parquet", table([key], [NOON], [1]))
    for path in ("e[X]/x.parquet", "e[X]", "d*"):
        assert cells(store.join(spine([NOON]), over(tmp_path / path))["v"]) == [1]


def test_what_looks_like_a_partition_above_the_source_is_none(store: Store, tmp_path: Path) -> None:
    for folder in ("v=55", "k=zzz"):
        path = write(tmp_path / folder / "x.parquet", table(["a"], [NOON], [1]))
        assert cells(store.join(spine([NOON]), over(path))["v"]) == [1]


@pytest.mark.parametrize("above", ["v=55", "part=55"], ids=["a column", "a partition"])
@pytest.mark.parametrize("pattern", ["", "*/*.parquet"], ids=["directory", "glob"])
def test_a_partition_above_a_partitioned_source_is_refused_where_it_would_hide_a_column(
    store: Store, tmp_path: Path, above: str, pattern: str
) -> None:
    for place in ("unrelated=1", above):
        write(tmp_path / place / "part=1" / "x.parquet", table(["a"], [NOON], [1]))
    harmless = store.join(spine([NOON]), over(tmp_path / "unrelated=1" / pattern))
    assert cells(harmless["v"]) == [1]
    with pytest.raises(RetrievalError, match=rf"below a directory '{above}'.*rename"):
        store.join(spine([NOON]), over(tmp_path / above / pattern))


@pytest.mark.parametrize("kind", ["hive", "Delta"])
def test_a_join_key_may_be_a_partition(store: Store, tmp_path: Path, kind: str) -> None:
    """DuckDB leaves out the partitions that nobody asks for, and counts the files that are left."""
    rows = table(["a", "a", "b", "b", "c", "c"], [NOON, NOON + HOUR] * 3, range(6))
    if kind == "Delta":
        write_deltalake(str(tmp_path / "t"), rows, partition_by=["k"])
    else:
        for number, key in enumerate("abc"):
            part = rows.slice(2 * number, 2).drop_columns("k")
            write(tmp_path / "t" / f"k={key}" / "rows.parquet", part)
    view = over(tmp_path / "t", file_format=DeltaFormat() if kind == "Delta" else None)
    result = store.join(spine([NOON, NOON + HOUR], ["c", "c"]), view)
    assert cells(result["v"]) == [4, 5]


def test_the_event_time_may_be_a_partition(store: Store, tmp_path: Path) -> None:
    for day in (1, 2, 3):
        part = pa.table({"k": ["a", "b"], "v": [day * 10, day * 10 + 1]})
        write(tmp_path / "t" / f"at=2013-07-0{day}" / "rows.parquet", part)
    view = over(tmp_path / "t")
    view.ttl = 24 * HOUR
    assert cells(store.join(spine([NOON + 48 * HOUR], ["b"]), view)["v"]) == [31]


def test_the_last_moment_there_is_can_be_asked_for(store: Store) -> None:
    last = pa.array([2**63 - 2], pa.timestamp("us", "UTC"))
    frame = pa.table({"k": ["a"], "event_timestamp": last})
    view = store.view({"k": ["a"], "at": [NOON], "v": [5]})
    assert store.job(frame, [view]).to_arrow()["v"].to_pylist() == [5]


def test_hidden_files_of_a_directory_are_not_data(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", table(["a"], [NOON], [1]))
    write(tmp_path / ".unfinished.parquet", table(["a"], [NOON], [2]))
    write(tmp_path / "_staging" / "y.parquet", table(["a"], [NOON], [3]))
    assert cells(store.join(spine([NOON]), over(tmp_path))["v"]) == [1]


def test_a_row_pushed_to_partitions_goes_to_its_own(store: Store, tmp_path: Path) -> None:
    for number, key in enumerate("ab"):
        content = table([key], [NOON], [number]).drop(["k"])
        write(tmp_path / f"k={key}" / "part-0.parquet", content)
    view = over(tmp_path)
    DuckDBOfflineStore.offline_write_batch(store.config, view, table(["a"], [NOON], [9]), None)
    assert cells(store.join(spine([NOON] * 2, ["a", "b"]), view)["v"]) == [9, 1]


def test_a_delta_table_that_grew_a_column_is_read(store: Store, tmp_path: Path) -> None:
    lake = tmp_path / "a lake"
    write_deltalake(lake, table(["a"], [NOON], [1]).drop(["v"]))
    write_deltalake(lake, table(["a"], [NOON + HOUR], [2]), mode="append", schema_mode="merge")
    view = over(lake, file_format=DeltaFormat())
    assert cells(store.join(spine([NOON, NOON + HOUR]), view)["v"]) == [None, 2]


def test_columns_that_differ_in_case_only_are_refused(store: Store, tmp_path: Path) -> None:
    content = table(["a"], [NOON], [1]).append_column("V", pa.array([2]))
    view = over(write(tmp_path / "c.parquet", content))
    with pytest.raises(RetrievalError, match=r"files \(.*c.parquet\) has both 'v' and 'V'"):
        store.join(spine([NOON]), view)


def test_a_column_named_as_duckdbs_own_is_refused(store: Store) -> None:
    view = store.view({"k": ["a"], "at": [NOON], "file_row_number": [9], "v": [1]})
    with pytest.raises(RetrievalError, match=r"has a column 'file_row_number'.*Rename"):
        store.join(spine([NOON]), view)


def test_a_decimal_key_matches_the_same_number_of_another_precision_and_no_other(
    store: Store, tmp_path: Path
) -> None:
    content = table(["a"], [NOON], [1])
    keys = pa.array([Decimal("7.50")], pa.decimal128(38, 2))
    view = over(write(tmp_path / "d.parquet", content.set_column(0, "k", keys)))
    asked = {(10, 4): ["7.5", "7.5001"], (38, 0): ["8", "9" * 38], (38, 30): ["7.5", "7.4999"]}
    found = {}
    for (precision, scale), numbers in asked.items():
        ours = pa.array(map(Decimal, numbers), pa.decimal128(precision, scale))
        frame = pa.table({"k": ours, "event_timestamp": pa.array([NOON] * 2, UTC_US)})
        found[precision, scale] = store.job(frame, [view]).to_arrow()["v"].to_pylist()
    assert found == {(10, 4): [1, None], (38, 0): [None, None], (38, 30): [1, None]}


# --- what changes while we look -----------------------------------------------------------


def test_a_spine_in_sql_that_has_grown_is_planned_anew(store: Store) -> None:
    folder = store.root / "grown.parquet"
    pq.write_table(pa.table({"k": ["a"], "event_timestamp": pa.array([NOON], UTC_US)}), folder)
    view = store.view({"k": ["a"] * 2, "at": [NOON, NOON + HOUR], "v": [1, 2]})
    job = store.job(f"from read_parquet('{folder}')", [view])
    assert job.to_arrow()["v"].to_pylist() == [1]
    times = pa.array([NOON, NOON + HOUR], UTC_US)
    pq.write_table(pa.table({"k": ["a"] * 2, "event_timestamp": times}), folder)
    assert job.to_arrow()["v"].to_pylist() == [1, 2]


@pytest.mark.parametrize("in_sql", [False, True], ids=["frame", "SQL"])
def test_rows_asked_for_no_view_at_all_come_back(store: Store, in_sql: bool) -> None:
    """As for on-demand features that are made of the request alone."""
    frame = pa.table({"k": [*"aba"], "event_timestamp": pa.array([NOON] * 3, UTC_US)})
    path = store.root / "rows.parquet"
    pq.write_table(frame, path)
    job = store.store.get_historical_features(
        store.config, [], [], f"from '{path}'" if in_sql else frame, store.registry, "conformance"
    )
    assert job.to_arrow().equals(frame)


def test_a_job_keeps_the_frame_as_it_was_given(store: Store) -> None:
    view = store.view({"k": [0, 7], "at": [NOON] * 2, "v": [10, 17]})
    frame = pd.DataFrame({"k": range(2), "event_timestamp": [NOON] * 2})
    job = store.job(frame, [view])
    frame.loc[:, "k"] = 7
    assert cells(job.to_df()["v"]) == [10, None]


def before(
    monkeypatch: pytest.MonkeyPatch, owner: type, method: str, do: Callable[[], None]
) -> None:
    """Have something done before each call of a method."""
    call = getattr(owner, method)

    def then_call(*args: Any, **options: Any) -> Any:
        do()
        return call(*args, **options)

    monkeypatch.setattr(owner, method, then_call)


@pytest.mark.parametrize("keys", ["a", 1], ids=["by DuckDB", "by row groups"])
def test_a_file_that_is_replaced_while_it_is_read_is_read_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, keys: str | int
) -> None:
    view = store.view({"k": [keys], "at": [NOON], "v": [1]})
    path = Path(view.batch_source.path)
    asked = pa.table({"k": [keys], "event_timestamp": pa.array([NOON + HOUR], UTC_US)})
    job = store.job(asked, [view])

    def replace() -> None:
        """In the first run the rows are found in one file, and their values read in another."""
        if not path.with_suffix(".done").exists():
            path.with_suffix(".done").touch()
            rows = table([keys * 2, keys], [NOON, NOON + TICK], [3, 2])
            os.replace(write(path.with_suffix(".new"), rows), path)

    before(monkeypatch, PointInTimeJoin, "statements", replace)
    before(monkeypatch, History, "values", replace)
    assert job.to_arrow()["v"].to_pylist() == [2]
    assert path.with_suffix(".done").exists()


def test_what_a_join_has_read_of_the_spine_is_not_read_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Feast asks for the metadata after every join with features on demand."""
    job = store.job(spine([NOON, NOON + HOUR]), [store.view({"k": ["a"], "at": [NOON], "v": [1]})])
    job.to_arrow()
    monkeypatch.setattr(Session, "run", None)
    assert job.metadata.min_event_timestamp == NOON
    assert job.metadata.max_event_timestamp == NOON + HOUR


def test_the_newest_rows_of_a_file_that_is_replaced_are_read_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step finds the newest time in one file, the second looks for it in another."""
    view = store.view({"k": ["a"], "at": [NOON], "v": [1]})
    path = Path(view.batch_source.path)
    job = DuckDBOfflineStore.pull_latest_from_table_or_query(
        store.config, view.batch_source, ["k"], ["v"], "at", None, NOON - HOUR, NOON + HOUR
    )
    planned = LatestRowsJob._planned

    def replaced(job: LatestRowsJob, connection: Any) -> list[str]:
        first, *rest = planned(job, connection)
        if not path.with_suffix(".done").exists():
            path.with_suffix(".done").touch()
            connection.execute(first)
            os.replace(write(path.with_suffix(".new"), table(["a"], [NOON + TICK], [2])), path)
            return rest
        return [first, *rest]

    monkeypatch.setattr(LatestRowsJob, "_planned", replaced)
    assert job.to_arrow()["v"].to_pylist() == [2]


def test_a_file_that_is_replaced_before_created_times_are_read_is_read_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows that tie are not there any more."""
    content = {"k": ["a", "a"], "at": [NOON] * 2, "made": [NOON] * 2, "v": [1, 2]}
    view = store.view(content, created="made")
    path = Path(view.batch_source.path)
    job = store.job(spine([NOON]), [view])

    def replace() -> None:
        if not path.with_suffix(".done").exists():
            path.with_suffix(".done").touch()
            os.replace(write(path.with_suffix(".new"), pq.read_table(path).slice(0, 1)), path)

    before(monkeypatch, History, "_created_at", replace)
    monkeypatch.setattr(sweep, "PIECE", 10)  # in SQL alone they are read with the rows
    assert job.to_arrow()["v"].to_pylist() == [1]
    assert path.with_suffix(".done").exists()


def test_a_file_that_is_taken_away_while_it_is_read_is_named(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = store.view({"k": ["a"], "at": [NOON], "v": [1]})
    job = store.job(spine([NOON + HOUR]), [view])

    def take_away() -> None:
        Path(view.batch_source.path).unlink(missing_ok=True)

    before(monkeypatch, PointInTimeJoin, "statements", take_away)
    before(monkeypatch, History, "values", take_away)
    with pytest.raises(RetrievalError, match=Path(view.batch_source.path).name):
        job.to_arrow()


def test_rows_pushed_at_once_are_all_kept(store: Store) -> None:
    view = store.view({"k": [0], "at": [NOON], "v": [0]})

    def push(number: int) -> None:
        rows = table([number], [NOON], [number])
        DuckDBOfflineStore.offline_write_batch(store.config, view, rows, None)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(push, range(1, 21)))
    assert sorted(pq.read_table(view.batch_source.path)["v"].to_pylist()) == list(range(21))


# --- what is written ----------------------------------------------------------------------


def test_nothing_is_saved_to_another_machine_or_into_a_snapshot(tmp_path: Path) -> None:
    store = Store("hindcast.offline_store.DuckDBOfflineStore", tmp_path / "repo" / "feature_repo")
    snapshot = store.root.parent / "data" / "published" / "one"
    path = write(snapshot / "t.parquet", table(["a"], [NOON], [1]))
    (snapshot.parent / "current").symlink_to("one")
    store.config.offline_store.published = "../data/published/current"
    job = store.job(spine([NOON]), [over(path)])
    before = path.read_bytes()
    with pytest.raises(RetrievalError, match="Expected a path of this machine"):
        job.persist(SavedDatasetFileStorage(path="s3://bucket/x.parquet"))
    for target in (path, snapshot.parent / "current" / "t.parquet"):
        with pytest.raises(RetrievalError, match="never changes"):
            job.persist(SavedDatasetFileStorage(path=str(target)), allow_overwrite=True)
    with pytest.raises(RetrievalError, match="never changes"):
        log = LoggingConfig(destination=FileLoggingDestination(path=str(snapshot)))
        DuckDBOfflineStore.write_logged_features(
            store.config, table(["a"], [NOON], [1]), None, log, store.registry
        )
    assert path.read_bytes() == before


def test_large_integers_survive_in_lists_too(store: Store, tmp_path: Path) -> None:
    lists = pa.array([[2**53 + 1, None]], pa.list_(pa.int64()))
    content = table(["a"], [NOON], [1]).drop(["v"]).append_column("v", lists)
    result = store.join(spine([NOON]), over(write(tmp_path / "l.parquet", content)))
    assert result["v"][0] == [2**53 + 1, None]
