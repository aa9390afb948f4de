"""`hindcast monitor` on a real small project: silent, loud, by instant, with page and history."""

import duckdb
import monitor_project
import pandas as pd
import pytest
from feast import FeatureStore
from feast.monitoring.monitoring_service import MonitoringService
from monitor_project import AT, as_json
from typer.testing import CliRunner

from hindcast.cli import app
from hindcast.monitor import latest


def run(root, *options):
    return CliRunner().invoke(app, ["monitor", "--project", str(root), *options])


@pytest.fixture(scope="module")
def calm(trained):
    """The project as it is: no change since training but that of weather."""
    done = run(trained, "--json")
    assert done.exit_code == 0, done.output
    return as_json(done.output)


def test_a_project_in_which_nothing_changed_does_not_fail(calm):
    assert calm["counts"]["fail"] == 0
    assert calm["rows"]["window"] > 300
    checked = {check["check"] for check in calm["checks"]}
    assert {"psi", "ks", "js", "nulls", "range", "unseen", "volume", "freshness"} <= checked
    assert {"roc_auc", "log_loss", "calibration", "cost"} <= checked
    assert not any(
        check["subject"] == "origin_weather.reports" and check["check"] == "psi"
        for check in calm["checks"]
    )
    # the exposure speaks for the on-demand view, which has no model
    distance = "flight_calendar.flight_distance_mi"
    limits = {
        c["check"]: (c["warn"], c["fail"]) for c in calm["checks"] if c["subject"] == distance
    }
    assert limits.keys() == {"psi", "nulls", "range"}
    assert limits["range"] == (0.03, None)


def test_feast_has_the_statistics_of_the_window_and_of_the_day_its_page_opens_on(trained, calm):
    store = FeatureStore(repo_path=str(trained / "feature_repo"))

    end = pd.Timestamp(AT)

    def rows(granularity, days):
        first = (end - pd.Timedelta(days=days)).date()
        kept = MonitoringService(store).get_feature_metrics(
            store.project, granularity=granularity, start_date=first, end_date=first
        )
        return [row["row_count"] for row in kept if row["feature_name"] == "wind_mph"]

    assert rows("biweekly", 14) == [calm["rows"]["window"]]
    spine = pd.read_parquet(trained / "data/published/first/flight_spine.parquet")
    of_day = (spine["predict_at"] >= end - pd.Timedelta(days=1)) & (spine["predict_at"] < end)
    assert rows("daily", 1) == [of_day.sum()]


def test_every_kind_of_fault_is_named_and_the_command_exits_with_1(copy):
    monitor_project.publish(copy, *monitor_project.spoiled())
    done = run(copy, "--json")
    assert done.exit_code == 1
    found = as_json(done.output)
    failed = {(c["subject"], c["check"]) for c in found["checks"] if c["verdict"] == "fail"}
    loud = failed | {(c["subject"], c["check"]) for c in found["checks"] if c["verdict"] == "warn"}
    assert {
        ("origin_weather.wind_mph", "ks"),
        ("origin_weather.wind_mph", "range"),
        ("origin_weather.sky", "unseen"),
        ("origin_weather.reports", "nulls"),
        ("origin_weather", "freshness"),
        ("late_arrival", "roc_auc"),
    } <= failed
    assert ("origin_weather", "volume") in loud
    assert not {check for check in loud if check[0].startswith("flight_calendar")}
    again = run(copy, "--exit-zero")
    assert again.exit_code == 0
    assert "fail" in again.output


def test_outcomes_that_came_after_the_instant_are_not_seen(copy):
    """A label that is wrong from 27 December on changes no verdict of the 26th."""
    earlier = ["--at", "2013-12-26T00:00:00Z", "--json"]
    before = as_json(run(copy, *earlier).output)
    with duckdb.connect() as connection:
        file = copy / "data/published/first/flight_spine.parquet"
        spine = connection.execute(f"from '{file}'").df()
    changed = spine["label_known_at"] > "2013-12-26T00:00:00Z"
    assert changed.any()
    spine["is_late"] = spine["is_late"].where(~changed, True)
    weather = monitor_project.weather()
    monitor_project.publish(copy, spine, weather)
    after = as_json(run(copy, *earlier).output)
    assert after["checks"] == before["checks"]


def test_the_page_needs_nothing_else_and_shows_the_worst_first(trained, calm):
    page = (trained / calm["page"]).read_text()
    near = page.replace("http://www.w3.org/", "")  # names of SVG's own
    for far in ("http://", "https://", "src=", "<link"):
        assert far not in near
    assert "<svg" in page
    assert page.index("Distributions") < page.index("Every check")
    order = {"fail": 0, "warn": 1, "ok": 2}
    verdicts = [order[check["verdict"]] for check in calm["checks"]]
    assert verdicts == sorted(verdicts)


def test_the_newest_verdicts_can_be_asked_for_and_the_history_stays(trained, calm):
    run(trained, "--at", "2013-12-29T15:00:00Z")
    last = latest(trained)
    assert last.at.isoformat() == "2013-12-29T15:00:00+00:00"
    assert last.counts["ok"] > 20
    with duckdb.connect(str(trained / "data/hindcast.duckdb")) as connection:
        runs = connection.execute('select distinct "at" from monitor_checks order by 1').fetchall()
        values = connection.execute(
            'select subject, check_name, value from monitor_checks where "at" = ? '
            "and verdict = 'ok' order by 1, 2",
            [AT],
        ).fetchall()
    assert len(runs) == 2
    said = {(c["subject"], c["check"]): c["value"] for c in calm["checks"]}
    assert all(said[subject, name] == pytest.approx(value) for subject, name, value in values)


def test_a_project_never_monitored_has_no_verdicts(tmp_path):
    assert latest(tmp_path) is None
    assert not (tmp_path / "data").exists()


def test_feast_keeps_the_training_as_its_baseline(trained, calm):
    store = FeatureStore(repo_path=str(trained / "feature_repo"))
    kept = MonitoringService(store).get_baseline(store.project, feature_view_name="origin_weather")
    wind = [row for row in kept if row["feature_name"] == "wind_mph"]
    assert [row["row_count"] for row in wind] == [calm["rows"]["baseline"]]


def test_what_is_missing_is_said_with_what_to_do(copy):
    (copy / "artifacts" / "latest").unlink()
    done = CliRunner().invoke(app, ["monitor", "--project", str(copy)])
    assert done.exit_code == 2  # 1 is a verdict, which the loop goes on after
    assert "train one" in done.output
    assert run(copy, "--at", "yesterday").exit_code == 2


def test_a_crash_is_no_verdict(copy):
    (copy / "artifacts" / "latest" / "manifest.json").write_text("{")
    done = run(copy)
    assert done.exit_code == 2
    assert "JSONDecodeError" in done.stderr


def test_the_champion_is_watched_and_not_a_challenger_that_lost(copy):
    artifacts = copy / "artifacts"
    used = (artifacts / "latest").resolve().name
    (artifacts / "champion").symlink_to(used)
    (artifacts / "lost").mkdir()
    (artifacts / "lost" / "manifest.json").write_text("{}")
    (artifacts / "latest").unlink()
    (artifacts / "latest").symlink_to("lost")
    found = as_json(run(copy, "--json").output)
    assert found["model"] == used
    assert any(check["subject"] == "late_arrival.score" for check in found["checks"])


def test_a_window_without_rows_is_refused(trained):
    done = run(trained, "--at", "2012-12-01T00:00:00Z")
    assert done.exit_code == 2


def test_a_new_model_is_judged_at_once_by_its_own_first_days(trained):
    found = as_json(run(trained, "--days", "28", "--json").output)  # as long as it has predicted
    said = {check["check"] for check in found["checks"] if check["subject"].endswith(".score")}
    assert {"psi", "ks"} <= said
    assert any(check["check"] == "roc_auc" for check in found["checks"])
    (new,) = [note for note in found["notes"] if note.startswith("the model is new")]
    assert "against its first 14 days" in new
