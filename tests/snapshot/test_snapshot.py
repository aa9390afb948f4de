"""A snapshot is published whole or not at all, and readers always find one."""

import os
import threading
from pathlib import Path

import pytest

from hindcast import snapshot
from hindcast.errors import MissingInputError


def publish(published, name, rows=1, keep=5):
    staging = snapshot.begin(published, name)
    (staging / "a.parquet").write_text(name)
    (staging / "b.parquet").write_text(name)
    return snapshot.publish(staging, {"tables": {"a": rows, "b": rows}}, keep=keep)


def test_what_is_being_written_is_not_visible(tmp_path):
    publish(tmp_path, "first")
    snapshot.begin(tmp_path, "second")
    assert [item.id for item in snapshot.list_snapshots(tmp_path)] == ["first"]
    assert snapshot.current(tmp_path).id == "first"


def test_current_is_the_newest(tmp_path):
    publish(tmp_path, "first")
    publish(tmp_path, "second", rows=7)
    assert snapshot.current(tmp_path).id == "second"
    assert snapshot.current(tmp_path).row_count == 14


def test_only_the_newest_are_kept_and_never_fewer_than_the_current_one(tmp_path):
    for name in ("1", "2", "3"):
        publish(tmp_path, name, keep=2)
    assert [item.id for item in snapshot.list_snapshots(tmp_path)] == ["3", "2"]
    publish(tmp_path, "4", keep=0)
    assert [item.id for item in snapshot.list_snapshots(tmp_path)] == ["4"]


def test_what_a_dead_build_left_is_removed_by_the_next(tmp_path):
    left = snapshot.begin(tmp_path, "dead")
    publish(tmp_path, "next")
    assert not left.exists()


def test_no_snapshot_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(MissingInputError, match="dbt build"):
        snapshot.current(tmp_path)


def test_a_reader_never_sees_a_mix_or_nothing(tmp_path):
    publish(tmp_path, "0", keep=1000)
    seen, done = [], threading.Event()

    def read():
        while not done.is_set():
            path = Path(os.path.realpath(tmp_path / "current"))
            seen.append([(path / f"{name}.parquet").read_text() for name in "ab"])

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 200):
        publish(tmp_path, str(number), keep=1000)
    done.set()
    reader.join()
    assert len(seen) > 10
    assert all(first == second for first, second in seen)
