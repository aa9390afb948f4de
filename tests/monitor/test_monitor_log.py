"""`hindcast monitor --log`: the features as they were served, of each request the last answer."""

import json
from datetime import timedelta

import pyarrow as pa
import pytest
from feast import FeatureStore
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.monitoring.monitoring_service import MonitoringService
from monitor_project import AT
from typer.testing import CliRunner

from hindcast.cli import app
from hindcast.cli.app import instant
from hindcast.config import load_config
from hindcast.monitor import population
from hindcast.monitor.period import before
from hindcast.offline_store import DuckDBOfflineStore

WIND = "origin_weather__wind_mph"


class Log:
    """The small project with a log, and the requests of the window that are answered into it."""

    def __init__(self, root):
        self.root = root
        self.store = FeatureStore(repo_path=str(root / "feature_repo"))
        service = self.store.get_feature_service("late_arrival")
        service.logging_config = LoggingConfig(FileLoggingDestination(path="../data/log"))
        self.store.apply([service])
        self.service = service
        window = before(instant(AT, load_config(root)), 14)
        rows = population.joined(self.store, service, "flight_spine", window).table.to_pandas()
        features = [name for name in rows if "__" in name]
        self.requests = rows.drop_duplicates(["origin", "predict_at"])[
            ["origin", "predict_at", *features]
        ]

    def answer(self, minutes, more_wind=0.0):
        """Log an answer to every request, so many minutes after it was first asked."""
        answers = self.requests.assign(**{WIND: self.requests[WIND] + more_wind})
        answers["__log_timestamp"] = answers["predict_at"] + timedelta(minutes=minutes)
        DuckDBOfflineStore.write_logged_features(
            self.store.config,
            pa.Table.from_pandas(answers, preserve_index=False),
            None,
            self.service.logging_config,
            self.store.registry,
        )


@pytest.fixture
def log(copy):
    return Log(copy)


def run(root, *options):
    return CliRunner().invoke(app, ["monitor", "--project", str(root), *options])


def judged(root, *options):
    """What it found, and what it says of the wind."""
    done = run(root, "--json", *options)
    found = json.loads(done.stdout)
    assert done.exit_code == (found["counts"]["fail"] > 0), done.output
    wind = [one for one in found["checks"] if one["subject"] == "origin_weather.wind_mph"]
    return found, {one["check"]: (one["verdict"], one["value"]) for one in wind}


def test_what_was_served_is_judged_and_of_a_repeated_request_the_last_answer(log):
    log.answer(minutes=9)
    log.answer(minutes=2, more_wind=500)  # in a later file, but said before
    found, wind = judged(log.root, "--log")
    assert (found["rows"]["window"], found["counts"]["fail"]) == (len(log.requests), 0)
    assert wind["range"][1] < 0.1

    log.answer(minutes=20, more_wind=500)  # now that is the last word
    found, wind = judged(log.root, "--log")
    assert found["rows"]["window"] == len(log.requests)
    assert wind["range"] == ("fail", 1.0)

    # Feast tells what was served from what was joined
    kept = MonitoringService(log.store).get_feature_metrics(
        log.store.project, feature_name="wind_mph", data_source_type="log"
    )
    (whole,) = [row for row in kept if row["granularity"] != "daily"]  # that is its last day
    assert whole["row_count"] == len(log.requests)
    assert whole["min_val"] >= 500


def test_a_service_without_a_log_is_refused_with_what_to_do(copy):
    done = run(copy, "--log")
    assert done.exit_code == 2
    assert "has no log: give its exposure `log: <folder>`" in " ".join(done.output.split())
