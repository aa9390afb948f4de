"""`hindcast status`: everything at a glance, as it is."""

import json

import duckdb


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
    from running_projects import copy_of_ours

    project = copy_of_ours(tmp_path)
    shown = project.must("status")
    assert "No run yet" in shown
    assert "dbt build" in shown
