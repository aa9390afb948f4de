"""Are the faults real, and do the checks see what they are there to see?"""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from hindcast import snapshot
from hindcast.replay import checks, faults
from hindcast.replay.faults import KINDS, Fault, Killer, SmallDisk, drawn, spoil

HEADER = "year,month,carrier,_loaded_at"


@pytest.fixture
def raw(tmp_path):
    """Twelve files of one source that grows, and a list that does not."""
    folder = tmp_path / "raw"
    for day in range(10, 22):
        file = folder / "flights" / f"flights_2013-01-{day}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"2013,1,AA,2013-01-{day}T00:{i % 60:02d}:00Z" for i in range(120)]
        file.write_text("\n".join([HEADER, *lines]) + "\n")
    (folder / "airlines").mkdir()
    (folder / "airlines" / "airlines.csv").write_text("carrier\nAA\n")
    return folder


def test_one_seed_is_one_plan_and_every_kind_comes_up():
    plan = drawn(7, 200)
    assert plan == drawn(7, 200)
    assert plan != drawn(8, 200)
    counts = [sum(fault.kind == kind for fault in plan) for kind in KINDS]
    assert min(counts) >= 3
    assert max(counts) - min(counts) <= 1
    assert len({fault.tick for fault in plan}) == len(plan)


@pytest.mark.parametrize("how", faults.FILES)
def test_each_spoiled_file_is_really_spoiled_and_its_refused_lines_are_named(raw, how):
    before = {file: file.read_text() for file in raw.rglob("*.csv")}
    fault = Fault(f"file {how}", 0, 0.5)
    added = spoil(fault, raw, random.Random(1))
    after = {file: file.read_text() for file in raw.rglob("*.csv")}
    changed = [file for file in after if after[file] != before.get(file)]
    assert len(changed) == 1
    assert set(added) == set(after) - set(before)
    for name, number in fault.refused:
        lines = after[changed[0]].splitlines()
        assert raw / name == changed[0]
        assert 2 <= number <= len(lines)
    assert bool(fault.refused) == (how in ("corrupted", "truncated", "duplicated", "repeated"))


def test_a_process_is_killed_in_the_middle_and_not_if_called_off():
    for called_off in (False, True):
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"], text=True)
        killer = Killer(process)
        killer.after(0.05 if not called_off else 20)
        if called_off:
            assert not killer.call_off()
            process.kill()
        else:
            process.wait(10)
            assert killer.call_off()
            assert process.returncode == -9
        process.wait()


def test_a_process_is_killed_once_a_path_is_there(tmp_path):
    code = f"import pathlib, time; pathlib.Path({str(tmp_path)!r}, 'x').touch(); time.sleep(30)"
    process = subprocess.Popen([sys.executable, "-c", code], text=True)
    killer = Killer(process)
    killer.once_there((tmp_path / "x").exists, 0.0)
    assert process.wait(20) == -9


def test_what_a_kill_left_behind_does_not_bring_about_the_next_kill(tmp_path):
    (tmp_path / ".a1").mkdir()
    begun = faults.appears(tmp_path, ".[0-9a-f]*")
    assert not begun()
    (tmp_path / ".b2").mkdir()
    assert begun()


def test_a_full_disk_refuses_to_be_written_to_and_gives_room_again(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "kept").write_text("kept")
    with SmallDisk(tmp_path / "data", 8).mounted() as disk:
        code = f"""if True:
            import sys
            for line in sys.stdin:
                try:
                    with open({str(tmp_path / "data" / "big")!r}, "wb") as file:
                        file.write(b"x" * 200_000)
                    print("written", flush=True)
                except OSError as error:
                    print(type(error).__name__, flush=True)
        """
        process = subprocess.Popen(
            [sys.executable, "-c", code], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

        def tries() -> str:
            process.stdin.write("go\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        assert tries() == "written"
        os.unlink(tmp_path / "data" / "big")
        disk.fill(process, random.Random(1))
        assert tries() == "OSError"
        disk.empty()
        assert tries() == "written"
        process.stdin.close()
        process.wait(10)
    assert (tmp_path / "data" / "kept").read_text() == "kept"
    assert not os.path.ismount(tmp_path / "data")


def test_a_locked_warehouse_cannot_be_opened_until_it_is_let_go(tmp_path):
    file = tmp_path / "w.duckdb"
    duckdb.connect(str(file)).close()
    with faults.locked(file, 0.5):
        assert faults.is_held(file)
    assert not faults.is_held(file)


def publish(published: Path, name: str, rows: int) -> Path:
    """One table in two files, as dbt publishes: a directory with a file per month."""
    staging = snapshot.begin(published, name)
    table = staging / "t.parquet"
    table.mkdir()
    for month, some in (("2013-01", "x < 3"), ("2013-02", "x >= 3")):
        file = table / f"{month}.parquet"
        duckdb.sql(f"select x from range({rows}) as t(x) where {some}").write_parquet(str(file))
    return snapshot.publish(staging, {"tables": {"t": rows}}, keep=5)


def until(is_so: Callable[[], object]) -> None:
    """Wait for what a busy machine may take its time for."""
    deadline = time.monotonic() + 20
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.05)


def test_a_snapshot_that_lacks_rows_or_files_is_seen_while_it_is_current(tmp_path):
    watch = checks.Watch(tmp_path)
    publish(tmp_path, "one", 10)
    until(lambda: "one" in watch.snapshots)
    assert not watch.faults
    second = publish(tmp_path, "two", 10)
    duckdb.sql("select 1 as x").write_parquet(str(tmp_path / "less.parquet"))
    (tmp_path / "less.parquet").rename(second / "t.parquet" / "2013-02.parquet")
    until(lambda: watch.faults)
    watch.stop()
    assert watch.faults == ["two: t has 4 rows, not 10"]
    assert watch.snapshots == {"one", "two"}
    shutil.rmtree(second / "t.parquet")
    assert checks.half_published(tmp_path) == "two: t has 0 rows, not 10"


def test_what_is_published_is_compared_over_all_files_of_a_table(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    publish(one, "a", 10)
    last = publish(other, "b", 10) / "t.parquet" / "2013-02.parquet"
    assert checks.published_equal(one, other).passed
    duckdb.sql("select range + 4 as x from range(7)").write_parquet(str(last))
    assert not checks.published_equal(one, other).passed


@pytest.mark.parametrize(
    "changed",
    [
        "update s.t set x = x + 1e-16 where i = 3",
        "create or replace table s.t as select i, if(x = 0, '-0.0'::double, x) as x from s.t",
        "delete from s.t where i = 3",
        "insert into s.t select * from s.t where i = 3",
        "alter table s.t alter i type integer",
        "create table s.other as select 1 as y",
        "update s.files set i = 2",
        "create or replace view s.v as select * from s.t where i > 4",
    ],
)
def test_two_warehouses_that_differ_by_a_bit_a_row_a_type_or_a_table_are_not_equal(
    tmp_path, changed
):
    files = [tmp_path / "one.duckdb", tmp_path / "other.duckdb"]
    for file in files:
        with duckdb.connect(str(file)) as connection:
            connection.execute("create schema s; create schema hindcast")
            connection.execute(
                "create table s.t as select range as i, range / 10 as x from range(9)"
            )
            connection.execute(f"create table hindcast.files as select '{file.name}' as name")
            connection.execute(f"create table s.files as select 1 as i, '{file.name}' as stamp")
            connection.execute("create view s.v as select * from s.t where i > 3")
    stamps = {"s.files": ["stamp"]}
    assert checks.warehouse_equal(*files, stamps).passed
    with duckdb.connect(str(files[0])) as connection:
        connection.execute(changed)
    assert not checks.warehouse_equal(*files, stamps).passed


def test_a_refused_line_is_told_from_that_of_a_file_of_the_same_name_elsewhere(tmp_path):
    warehouse, raw = tmp_path / "w.duckdb", tmp_path / "data" / "raw"
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute("create table q (file_path text, line_number int, reason text)")
        connection.execute(
            "insert into q values ('data/raw/weather/1.csv', 3, 'cut off'), "
            f"('other/1.csv', 4, 'x'), ('{raw}/flights/1.csv', 5, 'repeated')"
        )
    held = checks.quarantined(warehouse, "q", tmp_path, raw)
    assert held == {("weather/1.csv", 3): "cut off", ("flights/1.csv", 5): "repeated"}


def test_raw_files_that_lack_a_line_or_are_not_of_the_feed_are_seen(raw, tmp_path):
    other = tmp_path / "feed"
    for file in raw.rglob("*.csv"):
        copy = other / file.relative_to(raw)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    assert checks.raw_equal(raw, other).passed
    extra = raw / "flights" / "more.csv"
    extra.write_text(HEADER)
    assert not checks.raw_equal(raw, other).passed
    extra.unlink()
    file = raw / "flights" / "flights_2013-01-12.csv"
    file.write_text(file.read_text()[:-30])
    found = checks.raw_equal(raw, other)
    assert not found.passed
    assert "flights_2013-01-12.csv" in found.found
