"""A few ticks of the real project: live, killed and gone on with, by plain commands, and broken."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta

import pytest
from replay_project import copied, run
from typer.testing import CliRunner

from hindcast import records
from hindcast.cli import app
from hindcast.config import load_config
from hindcast.replay import checks
from hindcast.replay.commands import filled
from hindcast.replay.room import PROJECT, Plan, Room
from hindcast.replay.run import folder_of
from hindcast.replay.ticks import Notebook

TICKS = 2


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return copied(tmp_path_factory.mktemp("replay"))


@pytest.fixture(scope="module")
def plan(project):
    section = load_config(project).replay
    return Plan(section.start, timedelta(hours=1), TICKS)


@pytest.fixture(scope="module")
def room(project, plan):
    return Room(project, load_config(project), folder_of(project, plan.name))


@pytest.fixture(scope="module")
def outcome(project, plan, room):
    """Of a replay that was killed in its first tick, and given again."""
    command = [sys.executable, "-c", "from hindcast.cli import app; app()", "replay", "--json"]
    command += ["--ticks", str(TICKS), "--project", str(project)]
    with (project / "first.log").open("w") as log:
        first = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + 1200
        raw = room.project / "data" / "raw"
        log_of_commands = room.folder / "commands.log"
        while time.monotonic() < until and first.poll() is None:
            if log_of_commands.exists() and log_of_commands.read_text().count("--until") >= 2:
                break  # it is landing, or building, for the first tick
            time.sleep(0.02)
        assert first.poll() is None, (project / "first.log").read_text()[-2000:]
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert raw.is_dir()
    assert Notebook(room).is_prepared()
    # what the plain commands have to begin with
    shutil.copytree(room.folder, project / "prepared", symlinks=True)
    again = run(f"hindcast replay --ticks {TICKS} --json", project)
    assert again.returncode == 0, again.stdout[-2000:] + again.stderr[-2000:]
    return json.loads(again.stdout)


def test_a_replay_that_was_killed_goes_on_where_it_was_and_does_every_tick(outcome, room):
    assert outcome["ticks"] == outcome["planned"] == TICKS
    assert outcome["passed"]
    text = (room.folder / "commands.log").read_text()
    assert text.count("feast -c feature_repo apply") == 1  # nothing was prepared twice
    assert (room.folder / "ticks.png").stat().st_size > 10_000
    assert "Live, in the past" in (room.folder / "index.html").read_text()


def test_everything_served_was_compared_and_nothing_differs(outcome):
    assert outcome["predictions"] > 60
    assert outcome["unserved"] == 0
    assert outcome["wrong"] == 0
    assert outcome["compared"] >= 90 * outcome["predictions"]


def test_the_project_itself_is_not_touched(outcome, project):
    assert not (project / "data").exists()
    assert not (project / "artifacts").exists()
    assert {path.name for path in (project / "target").iterdir()} == {"replay"}


def test_the_plain_commands_do_the_same_work(outcome, project, plan, room):
    plain = project / "plain"
    shutil.copytree(project / "prepared" / PROJECT, plain, symlinks=True)
    for step in load_config(project).replay.steps:
        done = run(filled(step.run, plan.placeholders(plan.ticks[-1])), plain)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    here, there = room.project / "data", plain / "data"
    for check in (
        checks.raw_equal(here / "raw", there / "raw"),
        checks.warehouse_equal(
            here / "warehouse.duckdb", there / "warehouse.duckdb", {"staging.raw_files": ["stamp"]}
        ),
        checks.published_equal(here / "published", there / "published"),
        checks.online_equal(
            checks.online_rows(room.project / "feature_repo"),
            checks.online_rows(plain / "feature_repo"),
        ),
    ):
        assert check.passed, check


# in a process of its own, as the command is: Feast keeps what it imported of other projects
WORST_DAY = """
import json, sys
from datetime import datetime, timedelta
from pathlib import Path
from rich.console import Console
from hindcast.config import load_config
from hindcast.replay.room import Plan
from hindcast.replay.supervisor import worst_day

project, start, count, seed, *kinds = sys.argv[1:]
plan = Plan(datetime.fromisoformat(start), timedelta(hours=1), int(count), int(seed))
config = load_config(Path(project))
done = worst_day(Path(project), config, plan, Console(stderr=True), tuple(kinds), fresh=False)
print(json.dumps({
    "failed": [f"{check.name}: {check.found}" for check in done.checks if not check.passed],
    "checks": len(done.checks),
    "passed": done.passed,
    "ticks": done.ticks,
    "struck": [fault.kind for fault in done.struck],
    "restarts": done.restarts,
}))
"""


def test_the_worst_day_in_small_is_survived(project, plan, room, outcome):
    """One each of four kinds of faults; `make chaos` has all of them, many times."""
    kinds = ("kill -9 in publish", "file corrupted", "full disk", "online store gone")
    worst = replace(plan, count=len(kinds) + 1, seed=5)
    folder = folder_of(project, worst.name)
    shutil.copytree(project / "prepared", folder, symlinks=True)
    Room(project, load_config(project), folder).keep(worst)
    words = [str(project), worst.start.isoformat(), str(worst.count), str(worst.seed), *kinds]
    done = subprocess.run(
        [sys.executable, "-c", WORST_DAY, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    survived = json.loads(done.stdout.splitlines()[-1])
    assert survived["failed"] == []
    assert survived["passed"]
    assert survived["ticks"] == worst.count
    assert sorted(survived["struck"]) == sorted(kinds)
    assert survived["restarts"] >= 1
    assert survived["checks"] == 11
    outcomes_came_at_the_first_tick_that_could_know_them(
        Room(project, load_config(project), folder), worst
    )


def outcomes_came_at_the_first_tick_that_could_know_them(room, plan):
    published = room.project / "data" / "published" / "current" / "flight_spine.parquet"
    with records.opened(room.folder) as connection:
        scored = connection.execute(
            "select tick_at, label_known_at, label, is_late::double from replay_outcomes "
            f"join read_parquet('{published}/*') as spine on row_key like "
            "concat_ws('|', carrier, flight, origin, '%') "
            "and spine.predict_at = replay_outcomes.predict_at"
        ).fetchall()
        (count,) = connection.execute("select count(*) from replay_outcomes").fetchone()
    assert count == len(scored) > 0
    for tick_at, known_at, label, came_true in scored:
        assert label == came_true
        assert tick_at - plan.tick < known_at <= tick_at


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--days 1 --ticks 2", "not both"),
        ("--tick soon", "expected such as"),
        ("--start 2013-01-06T17:10:00Z", "no multiple of the tick"),
    ],
)
def test_a_wrong_call_is_refused(project, words, said):
    done = CliRunner().invoke(app, ["replay", "--project", str(project), *words.split()])
    assert done.exit_code == 2, done.output
    assert said in " ".join(done.stderr.replace("│", " ").split())
