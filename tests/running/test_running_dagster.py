"""The same loop in Dagster: its assets, its checks, its schedule and its page, for real."""

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from dagster import AssetKey, DagsterInstance, build_schedule_context
from running_projects import AT, ROOT
from running_web import chromium, get, wait_for

from hindcast import runs
from orchestration.definitions import definitions


def test_every_asset_from_raw_file_to_online_store_was_made(ours):
    made = {event.asset_key for event in ours.made.get_asset_materialization_events()}
    assert AssetKey(["raw", "flights"]) in made
    assert AssetKey(["features", "airport_state"]) in made
    assert AssetKey("materialize") in made
    assert (ours.project.root / "data/online").exists()
    # by the project's own commands, which are on record as one run
    (run,) = runs.last(ours.project.root, 10)
    assert (run.outcome, run.is_whole) == ("done", True)
    assert [step.step for step in run.ran] == [
        *("land", "build", "catalogue", "register", "materialize", "parity"),
    ]
    assert run.ran[1].snapshot is not None


def test_data_tests_parity_and_age_are_checks(ours):
    checks = {check.check_name: check for check in ours.made.get_asset_check_evaluations()}
    assert len(checks) > 50
    assert all(check.passed for check in checks.values())
    assert "unique_combination_airport_state_origin__known_at" in checks
    assert checks["parity"].metadata["exit_code"].value == 0
    said = checks["features_are_within_their_ttl"].metadata["origin_weather"].value
    assert said.startswith("fresh")


def test_the_graph_leads_from_the_raw_file_to_what_is_served(ours):
    graph = definitions(ours.project.root).resolve_asset_graph()
    above = graph.get_ancestor_asset_keys(AssetKey("materialize"))
    assert AssetKey(["raw", "flights"]) in above
    assert AssetKey(["features", "destination_state"]) in above


def test_features_older_than_their_ttl_fail_the_check(ours):
    made = definitions(ours.project.root)
    job = made.get_job_def("loop")
    (check,) = [key for key in job.asset_layer.asset_graph.asset_check_keys
                if key.name == "features_are_within_their_ttl"]  # fmt: skip
    later = "2013-01-03T09:00:00Z"
    with DagsterInstance.ephemeral() as instance:
        done = job.get_subset(asset_selection=set(), asset_check_selection={check})
        result = done.execute_in_process(
            instance=instance, run_config={"resources": {"instant": {"config": {"at": later}}}}
        )
    (found,) = result.get_asset_check_evaluations()
    assert not found.passed
    assert found.metadata["origin_weather"].value.startswith("stale, 9:00:00 of 6:00:00")
    assert found.metadata["airport_state"].value.startswith("fresh")


def test_the_schedule_asks_for_the_instant_of_the_project_every_hour(ours):
    made = definitions(ours.project.root)
    schedule = made.get_schedule_def("hourly")
    assert schedule.cron_schedule == "0 * * * *"
    with DagsterInstance.ephemeral() as instance:
        (asked,) = schedule.evaluate_tick(build_schedule_context(instance)).run_requests
    assert asked.run_config["resources"]["instant"]["config"]["at"] == AT


def test_an_asset_that_missed_two_hourly_runs_is_late(ours):
    specs = definitions(ours.project.root).resolve_all_asset_specs()
    (view,) = [spec for spec in specs if spec.key == AssetKey(["features", "airport_state"])]
    assert view.freshness_policy.fail_window.to_timedelta() == timedelta(hours=2)


@pytest.fixture
def web(ours, tmp_path):
    """Dagster's own web server on loopback, with the settings of the project."""
    home = tmp_path / "home"
    home.mkdir()
    text = (ROOT / "orchestration/dagster.yaml").read_text()
    (home / "dagster.yaml").write_text(text)
    port = 3900 + os.getpid() % 1000
    command = [
        *(sys.executable, "-m", "dagster_webserver", "-m", "orchestration.definitions"),
        *("-h", "127.0.0.1", "-p", str(port)),
    ]
    env = ours.project.env | {"DAGSTER_HOME": str(home)}
    with (tmp_path / "said").open("w") as said:
        server = subprocess.Popen(command, cwd=ours.project.root, env=env, stdout=said, stderr=said)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(f"{address}/server_info", server, Path(said.name))
            yield address
        finally:
            server.terminate()
            server.wait(30)


def test_its_page_shows_the_assets_and_nothing_is_sent_anywhere(web, ours):
    assert "dagster_webserver_version" in get(f"{web}/server_info")
    with chromium() as browser:
        page = browser.new_page()
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{web}/assets")
        page.get_by_text("materialize").first.wait_for(timeout=60_000)
        page.get_by_text("features").first.wait_for(timeout=20_000)
        page.goto(f"{web}/overview/activity")
        time.sleep(0.5)
        own = (f"{web}/", f"{web}", web.replace("http", "ws"), "data:", "blob:")
        assert [url for url in asked if not url.startswith(own)] == []
    assert (ours.project.root / "data/dagster").exists()
