"""What leaves the store: batches, staged files, and rows that are pushed or logged."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from feast import FeatureView, Field, FileSource, RequestSource
from feast.data_format import DeltaFormat
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Int64
from offline_lab import UTC_US, Lab, at, rows

from hindcast import write as write_module
from hindcast.errors import RetrievalError
from hindcast.offline_store import DuckDBOfflineStore, DuckDBRetrievalJob

NOON = at("2013-07-01T12:00:00")
KEYED = {"origin": pa.string(), "known_at": UTC_US, "departures": pa.int64()}


def many(lab: Lab, count: int) -> tuple[pd.DataFrame, FeatureView]:
    """A view with a value a minute and a spine of `count` rows, not in order of time."""
    history = rows(KEYED, *(("JFK", NOON + timedelta(minutes=m), m) for m in range(500)))
    minutes = [(number * 7919) % 600 - 50 for number in range(count)]
    spine = pd.DataFrame(
        {
            "note": range(count),
            "origin": "JFK",
            "event_timestamp": [NOON + timedelta(minutes=minute) for minute in minutes],
        }
    )
    return spine, lab.view("many", history, ["origin"])


# --- batches ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_batches_hold_the_same_rows_in_the_same_order(lab: Lab, count: int) -> None:
    spine, view = many(lab, count)
    job = lab.join(spine.astype({"event_timestamp": "datetime64[us, UTC]"}), [view])
    reader = job.to_record_batches(100)
    batches = list(reader)
    assert all(batch.num_rows <= 100 for batch in batches)
    assert pa.Table.from_batches(batches, reader.schema).equals(job.to_arrow())


def test_batches_of_a_spine_in_sql_hold_its_columns(lab: Lab) -> None:
    _, view = many(lab, 1)
    sql = f"""
        select n, 'JFK' as origin, timestamptz '{NOON}' + to_minutes(n::int) as event_timestamp
        from range(400) as numbers(n)
    """
    job = lab.join(sql, [view])
    assert pa.Table.from_batches(job.to_record_batches(64)).equals(job.to_arrow())


@contextmanager
def on_demand(
    lab: Lab,
    view: FeatureView,
    spine: pd.DataFrame,
    name: str,
    compute: Callable[[pd.DataFrame], pd.DataFrame],
) -> Iterator[DuckDBRetrievalJob]:
    """A job for `many:departures` and a feature computed from it and the spine's `note`."""
    declared = on_demand_feature_view(
        sources=[view, RequestSource(name="asked", schema=[Field(name="note", dtype=Int64)])],
        schema=[Field(name=name, dtype=Int64)],
    )(compute)
    lab.registry.apply_feature_view(declared, "lab")
    try:
        refs = ["many:departures", f"{compute.__name__}:{name}"]
        yield DuckDBOfflineStore.get_historical_features(
            lab.config, [view], refs, spine, lab.registry, "lab"
        )
    finally:
        lab.registry.delete_feature_view(compute.__name__, "lab")


def test_on_demand_features_are_in_every_batch(lab: Lab) -> None:
    spine, view = many(lab, 300)

    def both(inputs: pd.DataFrame) -> pd.DataFrame:
        total = (inputs["note"] + inputs["departures"].fillna(0)).astype("int64")
        return pd.DataFrame({"note_and_departures": total})

    with on_demand(lab, view, spine, "note_and_departures", both) as job:
        batched = pa.Table.from_batches(job.to_record_batches(50))
        assert batched.to_pylist() == job.to_arrow().to_pylist()
        assert "note_and_departures" in batched.column_names


def test_on_demand_features_have_their_declared_type_in_every_batch(lab: Lab) -> None:
    """pandas makes whole numbers of the first batch, and floats of one that lacks a value."""
    spine, view = many(lab, 300)

    def late(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"note_if_late": inputs["note"].where(inputs["note"] != 60)})

    with on_demand(lab, view, spine, "note_if_late", late) as job:
        reader = job.to_record_batches(50)
        given = [batch["note_if_late"] for batch in reader]
        assert {part.type for part in given} == {pa.int64()}
        assert reader.schema.field("note_if_late").type == pa.int64()
        assert sum(part.null_count for part in given) == 1


def test_a_result_is_staged_as_parquet_files_where_the_store_says(lab: Lab) -> None:
    spine, view = many(lab, 10)
    job = lab.join(spine, [view], config=lab.configured(staging_location="../staged"))
    assert job.supports_remote_storage_export()
    files = job.to_remote_storage()
    assert {Path(file).parents[1] for file in files} == {lab.root / "feature_repo" / "../staged"}
    assert ds.dataset(files).to_table().equals(job.to_arrow())
    without = lab.join(spine, [view])
    assert not without.supports_remote_storage_export()
    with pytest.raises(RetrievalError, match="Set `staging_location`"):
        without.to_remote_storage()


# --- rows that are pushed -----------------------------------------------------------------


@pytest.fixture
def pushed(tmp_path: Path) -> tuple[Lab, FeatureView, Path]:
    """A view whose source is a file of its own, not of a snapshot."""
    lab = Lab(tmp_path)
    view = lab.view("pushed", rows(KEYED, ("JFK", NOON, 1)), ["origin"])
    path = tmp_path / "own.parquet"
    pq.write_table(rows(KEYED, ("JFK", NOON, 1)), path)
    view.batch_source = FileSource(path=str(path), timestamp_field="known_at")
    return lab, view, path


def write(lab: Lab, view: FeatureView, table: pa.Table) -> None:
    DuckDBOfflineStore.offline_write_batch(lab.config, view, table, lambda rows: None)


def answer(lab: Lab, view: FeatureView) -> list[int]:
    spine = rows({"origin": pa.string(), "event_timestamp": UTC_US}, ("JFK", NOON))
    return lab.join(spine, [view]).to_arrow()["departures"].to_pylist()


def test_a_pushed_row_comes_after_those_that_were_there(pushed) -> None:
    lab, view, path = pushed
    write(lab, view, rows(KEYED, ("JFK", NOON, 2)).select(["departures", "known_at", "origin"]))
    assert pq.read_table(path)["departures"].to_pylist() == [1, 2]
    assert answer(lab, view) == [2]
    assert [file.name for file in path.parent.glob("*.parquet*")] == ["own.parquet"]


def test_rows_pushed_to_a_directory_are_a_new_file(pushed) -> None:
    lab, view, path = pushed
    folder = path.with_name("folder")
    folder.mkdir()
    path.rename(folder / "00000.parquet")
    view.batch_source = FileSource(path=str(folder), timestamp_field="known_at")
    write(lab, view, rows(KEYED, ("JFK", NOON, 2)))
    assert len(list(folder.iterdir())) == 2
    assert answer(lab, view) == [2]


def test_rows_pushed_to_a_delta_table_are_a_new_version(pushed, tmp_path: Path) -> None:
    lab, view, _ = pushed
    lake = tmp_path / "lake"
    write_deltalake(lake, rows(KEYED, ("JFK", NOON - timedelta(hours=1), 1)))
    view.batch_source = FileSource(
        path=str(lake), file_format=DeltaFormat(), timestamp_field="known_at"
    )
    write(lab, view, rows(KEYED, ("JFK", NOON, 2)))
    assert DeltaTable(lake).version() == 1
    assert answer(lab, view) == [2]


def test_rows_that_do_not_fit_are_refused_and_nothing_changes(pushed) -> None:
    lab, view, path = pushed
    before = path.read_bytes()
    with pytest.raises(RetrievalError, match=r"lack departures and have besides arrivals"):
        write(
            lab, view, rows(KEYED, ("JFK", NOON, 2)).rename_columns([*list(KEYED)[:2], "arrivals"])
        )
    with pytest.raises(RetrievalError, match=r"do not fit the types of pushed"):
        write(lab, view, rows({**KEYED, "departures": pa.string()}, ("JFK", NOON, "many")))
    assert path.read_bytes() == before


def test_a_published_snapshot_is_never_written_to(lab: Lab) -> None:
    view = lab.view("published", rows(KEYED, ("JFK", NOON, 1)), ["origin"])
    with pytest.raises(RetrievalError, match="published snapshot, which never changes"):
        write(lab, view, rows(KEYED, ("JFK", NOON, 2)))


def test_a_reader_sees_a_pushed_file_whole(pushed) -> None:
    lab, view, path = pushed
    done = threading.Event()

    def read() -> set[int]:
        seen = set()
        while not done.is_set():
            with pq.ParquetFile(path) as file:  # opened once; `read_table` opens a path twice
                seen.add(file.read().num_rows)
        return seen

    with ThreadPoolExecutor() as pool:
        reader = pool.submit(read)
        try:
            for _ in range(20):
                write(lab, view, rows(KEYED, *[("JFK", NOON, 2)] * 100))
        finally:
            done.set()
        counts = reader.result()
    assert counts
    assert all(count % 100 == 1 for count in counts)


# --- rows that are logged -----------------------------------------------------------------


def log(lab: Lab, data: pa.Table | Path, destination: FileLoggingDestination) -> None:
    DuckDBOfflineStore.write_logged_features(
        lab.config, data, None, LoggingConfig(destination=destination), lab.registry
    )


@pytest.mark.parametrize("partition_by", [None, ["origin"]])
def test_logs_are_added_as_new_files(lab: Lab, tmp_path: Path, partition_by) -> None:
    destination = FileLoggingDestination(path=str(tmp_path / "log"), partition_by=partition_by)
    log(lab, rows(KEYED, ("JFK", NOON, 1)), destination)
    pq.write_table(rows(KEYED, ("LGA", NOON, 2)), tmp_path / "served.parquet")
    log(lab, tmp_path / "served.parquet", destination)
    logged = ds.dataset(tmp_path / "log", partitioning="hive").to_table()
    assert sorted(logged["departures"].to_pylist()) == [1, 2]
    assert sorted(logged["origin"].to_pylist()) == ["JFK", "LGA"]


@contextmanager
def disk_full_after(size: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("partition_by", [None, ["origin"]])
def test_a_log_that_the_disk_has_no_room_for_leaves_nothing(
    lab: Lab, tmp_path: Path, partition_by
) -> None:
    destination = FileLoggingDestination(path=str(tmp_path / "log"), partition_by=partition_by)
    small = rows(KEYED, ("JFK", NOON, 1))
    log(lab, small, destination)
    there = sorted((tmp_path / "log").rglob("*"))
    many = rows(KEYED, *[("JFK", NOON + timedelta(seconds=i), i) for i in range(20_000)])
    with disk_full_after(10_000), pytest.raises(OSError, match="File too large"):
        log(lab, pa.concat_tables([small, many]), destination)
    assert sorted((tmp_path / "log").rglob("*")) == there
    log(lab, many, destination)
    assert ds.dataset(tmp_path / "log").count_rows() == 20_001


def _write_slowly(directory: Path, started: Any) -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"n": [1]})
        started.set()
        time.sleep(60)

    schema = pa.schema({"n": pa.int64()})
    write_module._add(directory, pa.RecordBatchReader.from_batches(schema, batches()), "log", [])


def test_what_a_killed_log_left_is_removed_by_the_next_but_not_what_is_being_written(
    lab: Lab, tmp_path: Path
) -> None:
    directory = tmp_path / "log"
    destination = FileLoggingDestination(path=str(directory))
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=_write_slowly, args=(directory, started))
    process.start()
    assert started.wait(60)
    (unfinished,) = directory.iterdir()
    long_ago = time.time() - 2 * write_module.NEW_S
    os.utime(unfinished, (long_ago, long_ago))
    log(lab, rows(KEYED, ("JFK", NOON, 1)), destination)
    assert unfinished.exists()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    log(lab, rows(KEYED, ("JFK", NOON, 2)), destination)
    assert not unfinished.exists()
    assert ds.dataset(directory).to_table()["departures"].to_pylist() == [1, 2]


def test_a_pushed_file_that_the_disk_has_no_room_for_leaves_the_one_before(pushed) -> None:
    lab, view, path = pushed
    there, before = sorted(path.parent.iterdir()), path.read_bytes()
    many = rows(KEYED, *[("JFK", NOON + timedelta(seconds=i), i) for i in range(20_000)])
    with disk_full_after(10_000), pytest.raises(OSError, match="File too large"):
        write(lab, view, many)
    assert sorted(path.parent.iterdir()) == there
    assert path.read_bytes() == before


def test_a_log_of_this_machine_is_relative_to_the_feature_repository(lab: Lab) -> None:
    log(lab, rows(KEYED, ("JFK", NOON, 1)), FileLoggingDestination(path="../log"))
    assert ds.dataset(lab.root / "log").count_rows() == 1
    with pytest.raises(RetrievalError, match="Expected a path of this machine"):
        log(lab, rows(KEYED, ("JFK", NOON, 1)), FileLoggingDestination(path="s3://bucket/log"))
