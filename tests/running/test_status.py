"""`hindcast status`: everything at a glance, as it is."""

import json
from datetime import UTC, datetime

import duckdb
from running_projects import AT, copy_of_ours

from hindcast.monitor import Check
from hindcast.monitor.history import save


def test_status_shows_runs_ages_and_snapshot(ours):
    said = json.loads(ours.project.must("status --json"))
    ages = {view["view"]: view for view in said["views"]}
    assert len(ages) == 9
    weather = ages["origin_weather"]
    assert (weather["state"], weather["ttl_s"]) == ("fresh", 6 * 3600)
    (newest,) = duckdb.sql(
        "select max(known_at) from read_parquet("
        f"'{ours.project.root}/data/published/current/origin_weather.parquet') "
        "where known_at <= '2013-01-03T00:00:00Z'"
    ).fetchone()
    assert weather["newest_at"] == newest.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert said["snapshot"]["id"] == (ours.project.root / "data/published/current").readlink().name
    assert said["snapshot"]["rows"] == sum(said["snapshot"]["tables"].values())
    assert said["at_work"] is None
    assert [run["outcome"] for run in said["runs"]] == ["done"] * len(said["runs"])
    shown = ours.project.must("status")
    assert "origin_weather" in shown
    assert said["snapshot"]["id"] in shown


def test_an_age_is_counted_from_what_can_be_served_and_not_from_what_is_published(ours):
    """The snapshot may hold newer rows than the online store was filled with."""
    said = json.loads(ours.project.must("status --json --at 2013-01-03T05:59:00Z"))
    (weather,) = [v for v in said["views"] if v["view"] == "origin_weather"]
    assert (weather["state"], weather["age_s"]) == ("fresh", 5 * 3600 + 59 * 60)
    said = json.loads(ours.project.must("status --json --at 2013-01-03T06:00:01Z"))
    (weather,) = [v for v in said["views"] if v["view"] == "origin_weather"]
    assert weather["state"] == "stale"


def test_a_project_where_nothing_was_done_says_what_to_do(tmp_path):
    project = copy_of_ours(tmp_path)
    shown = project.must("status")
    assert "No run yet" in shown
    assert "dbt build" in shown


def test_the_last_verdicts_are_shown_with_the_worst_of_them(tmp_path):
    """As `hindcast monitor` keeps them; without a run of it nothing is said of verdicts."""
    project = copy_of_ours(tmp_path)
    assert json.loads(project.must("status --json"))["verdicts"] is None
    (project.root / "artifacts/m2").mkdir(parents=True)
    (project.root / "artifacts/m2/manifest.json").write_text('{"run": "m2"}')
    config = project.root / "hindcast.yml"
    config.write_text(config.read_text() + "model: artifacts/m2\n")
    at = datetime.fromisoformat(AT)
    checks = [
        Check("origin_wind", "drift", 0.12, (0.1, 0.25)),
        Check("tail_age", "drift", 0.5, (0.1, 0.25)),
        Check("tail_seats", "drift", 0.01, (0.1, 0.25)),
    ]
    save(project.root, datetime(2026, 1, 1, tzinfo=UTC), at, 28, "m1", checks)
    said = json.loads(project.must("status --json"))["verdicts"]
    assert {name: said["counts"][name] for name in ("ok", "warn", "fail")} == {
        "ok": 1,
        "warn": 1,
        "fail": 1,
    }
    assert [one["subject"] for one in said["worst"]] == ["tail_age", "origin_wind"]
    shown = project.must("status")
    assert "1 ok, 1 warn, 1 fail" in shown
    assert "tail_age" in shown
    # whose verdicts they are, and that it is not the model in use any more
    assert said["model"] == "m1"
    assert f"monitoring at {AT}, of model m1:" in shown
    assert f"not the model now in use, m2: `hindcast monitor --at {AT}` judges it" in shown
    save(project.root, datetime(2026, 1, 2, tzinfo=UTC), at, 28, "m2", checks)
    shown = project.must("status")
    assert "of model m2:" in shown
    assert "not the model now in use" not in shown
