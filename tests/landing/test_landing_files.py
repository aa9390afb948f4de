"""The feed on disk: the world as of T, the same bytes every time, and nobody else's files."""

from __future__ import annotations

import csv
from collections import Counter
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hindcast.errors import HindcastError
from landing.feed import Records, build
from landing.write import day_files, sole_writer, write


@pytest.fixture(scope="module")
def some_days(few_sources: dict[str, pa.Table]) -> list[Records]:
    return build(few_sources)


def land(feed: list[Records], out: Path, until: str | None = None) -> Counter[str]:
    at = None if until is None else np.datetime64(until, "s")
    return Counter(write(file for records in feed for file in day_files(records, out, at)))


def contents(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()
    }


def as_of(whole: dict[str, bytes], until: str) -> dict[str, bytes]:
    """Each file without the lines loaded after `until`; without the file, if none are left."""
    cut = {}
    for name, content in whole.items():
        header, *lines = content.splitlines(keepends=True)
        kept = [line for line in lines if line.decode().rstrip().rsplit(",", 1)[1] <= until]
        if kept:
            cut[name] = b"".join([header, *kept])
    return cut


@pytest.fixture(scope="module")
def whole(some_days: list[Records], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole")
    land(some_days, out)
    return contents(out)


@pytest.mark.parametrize(
    "until",
    [
        "2012-11-30T23:59:59Z",  # before everything
        "2012-12-01T00:00:00Z",  # the lists, and nothing else
        "2013-02-22T06:00:00Z",  # exactly when a day's schedule is published
        "2013-03-10T07:08:00Z",  # exactly when an arrival of the DST night is loaded
        "2013-03-10T07:07:59Z",  # a second earlier
        "2013-03-11T23:59:59Z",  # the last second of a day
        "2013-11-03T06:30:00Z",  # in the repeated hour
        "2099-01-01T00:00:00Z",  # after everything
    ],
)
def test_the_feed_until_t_is_the_whole_feed_without_what_was_loaded_later(
    some_days: list[Records], whole: dict[str, bytes], tmp_path: Path, until: str
) -> None:
    land(some_days, tmp_path, until.removesuffix("Z"))
    assert contents(tmp_path) == as_of(whole, until)


def test_going_back_and_forth_in_time_leaves_what_a_fresh_folder_would_hold(
    some_days: list[Records], whole: dict[str, bytes], tmp_path: Path
) -> None:
    land(some_days, tmp_path)
    done = land(some_days, tmp_path, "2013-03-10T12:00:00")
    assert contents(tmp_path) == as_of(whole, "2013-03-10T12:00:00Z")
    assert done["removed"] > 0
    assert done["written"] == 2  # the flights and the weather of the day that is cut
    land(some_days, tmp_path)
    assert contents(tmp_path) == whole


def test_the_same_sources_give_the_same_bytes_and_right_files_are_not_touched(
    some_days: list[Records], whole: dict[str, bytes], tmp_path: Path
) -> None:
    land(some_days, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.csv")}
    assert land(some_days, tmp_path) == Counter(unchanged=len(whole))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.csv")} == before
    assert contents(tmp_path) == whole


def test_a_damaged_file_is_mended(
    some_days: list[Records], whole: dict[str, bytes], tmp_path: Path
) -> None:
    land(some_days, tmp_path)
    victim = tmp_path / "flights" / "flights_2013-03-10.csv"
    victim.write_bytes(victim.read_bytes()[:1000])
    assert land(some_days, tmp_path)["written"] == 1
    assert contents(tmp_path) == whole


def test_files_of_others_stay(some_days: list[Records], tmp_path: Path) -> None:
    land(some_days, tmp_path)
    strangers = [
        tmp_path / "notes.csv",
        tmp_path / "flights" / "flights_2020-01-01.csv",  # named alike, but not a day of this feed
        tmp_path / "flights" / "flights_2013-03-10.csv.bak",
        tmp_path / "gates" / "gates_2013-03-10.csv",
    ]
    for path in strangers:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine\n")
    land(some_days, tmp_path, "2012-01-01T00:00:00")
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(strangers)


def test_a_write_that_fails_leaves_the_old_file_whole(
    some_days: list[Records], whole: dict[str, bytes], tmp_path: Path
) -> None:
    land(some_days, tmp_path, "2013-03-10T12:00:00")
    name = "flights/flights_2013-03-10.csv"
    (tmp_path / "flights" / ".flights_2013-03-10.csv.part").mkdir()  # the write cannot begin
    with pytest.raises(HindcastError, match="cannot be written into"), sole_writer(tmp_path):
        land(some_days, tmp_path)
    assert (tmp_path / name).read_bytes() == as_of(whole, "2013-03-10T12:00:00Z")[name]


def test_two_landings_never_write_into_one_folder_at_once(tmp_path: Path) -> None:
    with (
        sole_writer(tmp_path),
        pytest.raises(HindcastError, match="another landing is writing"),
        sole_writer(tmp_path),
    ):
        pass
    with sole_writer(tmp_path):
        pass  # free again


def test_a_file_holds_its_own_day_as_plain_csv_in_order_of_loading_and_key(
    whole: dict[str, bytes],
) -> None:
    for name, content in whole.items():
        source, day = Path(name).stem.split("_")
        assert Path(name).parent.name == source
        date.fromisoformat(day)
        assert content.endswith(b"\n")
        assert b"\r" not in content and b'"' not in content
        rows = list(csv.DictReader(content.decode("utf-8").splitlines()))
        assert {row["_loaded_at"][:10] for row in rows} == {day}
        keys = [place(source, row) for row in rows]
        assert keys == sorted(keys)


def place(source: str, row: dict[str, str]) -> tuple[object, ...]:
    """Where a row belongs in its file."""
    if source == "flights":
        scheduled = date(int(row["year"]), int(row["month"]), int(row["day"]))
        return row["_loaded_at"], scheduled, row["carrier"], int(row["flight"]), row["origin"]
    key = "origin" if source == "weather" else next(iter(row))
    return row["_loaded_at"], row[key]
