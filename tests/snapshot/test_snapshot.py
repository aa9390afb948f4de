"""A snapshot is published whole or not at all, and readers always find one."""

import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hindcast import snapshot
from hindcast.errors import MissingInputError


def publish(published, name, rows=1, keep=5, **description):
    staging = snapshot.begin(published, name)
    (staging / "a.parquet").write_text(name)
    (staging / "b.parquet").write_text(name)
    tables = {"tables": {"a": rows, "b": rows}}
    return snapshot.publish(staging, tables | description, keep=keep)


def publish_months(published, name, months, previous="", before="", keep=5):
    staging = snapshot.begin(published, name)
    linked = snapshot.reuse(staging / "a.parquet", previous, before)
    for month in months:
        (staging / "a.parquet" / f"{month}.parquet").write_text(name)
    return linked, snapshot.publish(staging, {"tables": {"a": 1}}, keep=keep)


def months_of(path):
    return {file.stem: file.read_text() for file in sorted((path / "a.parquet").iterdir())}


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


def test_what_a_kill_while_pruning_left_is_not_listed_and_removed_by_the_next(
    tmp_path, monkeypatch
):
    publish(tmp_path, "1")

    def dies_half_way(path):
        (path / "a.parquet").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(snapshot.shutil, "rmtree", dies_half_way)
        publish(tmp_path, "2", keep=1)
    assert [item.id for item in snapshot.list_snapshots(tmp_path)] == ["2"]
    assert snapshot.current(tmp_path).id == "2"
    assert len(list(tmp_path.rglob("b.parquet"))) == 2  # of 1, which is half gone, and of 2
    publish(tmp_path, "3")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3", "current"]


def test_files_before_the_first_change_are_shared_and_the_old_snapshot_stays_as_it_was(tmp_path):
    first = publish_months(tmp_path, "first", ["2013-01", "2013-02", "2013-03"])[1]
    linked, second = publish_months(tmp_path, "second", ["2013-03"], "first", "2013-03")
    assert linked == 2
    assert months_of(second) == {"2013-01": "first", "2013-02": "first", "2013-03": "second"}
    assert set(months_of(first).values()) == {"first"}
    assert (first / "a.parquet/2013-01.parquet").samefile(second / "a.parquet/2013-01.parquet")


def test_shared_files_outlive_the_snapshot_they_were_written_for(tmp_path):
    publish_months(tmp_path, "first", ["2013-01"])
    _, second = publish_months(tmp_path, "second", ["2013-02"], "first", "2013-02", keep=1)
    assert not (tmp_path / "first").exists()
    assert months_of(second) == {"2013-01": "first", "2013-02": "second"}


def test_where_files_cannot_be_linked_they_are_copied(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("too many links")

    publish_months(tmp_path, "first", ["2013-01"])
    monkeypatch.setattr(os, "link", refuse)
    linked, second = publish_months(tmp_path, "second", [], "first", "2013-02")
    assert (linked, months_of(second)) == (1, {"2013-01": "first"})


@pytest.mark.parametrize("previous", ["", "pruned", "older"])
def test_without_an_earlier_table_of_files_there_is_nothing_to_share(tmp_path, previous):
    publish(tmp_path, "older")  # whose tables are single files
    assert publish_months(tmp_path, "next", [], previous, "~")[0] is None


ONE, TWO = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], snapshot.END),
        ([None, None], snapshot.END),
        ([str(TWO), str(ONE), None], ONE),
        (["-infinity", str(ONE)], snapshot.BEGINNING),
    ],
)
def test_what_changed_since_an_earlier_snapshot_is_the_earliest_change_since(
    tmp_path, changes, expected
):
    publish(tmp_path, "0", changed_from={"a": "-infinity"})
    for number, change in enumerate(changes):
        said = {"previous": str(number), "changed_from": {"a": change}}
        publish(tmp_path, str(number + 1), **said)
    now = snapshot.current(tmp_path)
    assert snapshot.changed_since(now.path, "0", "a") == expected
    assert snapshot.changed_since(now.path, now.id, "a") == snapshot.END


def test_what_changed_is_not_told_across_a_gap(tmp_path):
    publish(tmp_path, "0")
    publish(tmp_path, "1", previous="0", changed_from={"a": None})
    publish(tmp_path, "2", previous="1", changed_from={"a": None}, keep=1)
    now = snapshot.current(tmp_path).path
    assert snapshot.changed_since(now, "1", "a") == snapshot.END  # pruned, but nothing is missing
    assert snapshot.changed_since(now, "0", "a") is None
    publish(tmp_path, "3", previous=None)
    assert snapshot.changed_since(snapshot.current(tmp_path).path, "2", "a") is None


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
