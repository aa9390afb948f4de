"""Runs and models in MLflow, through Feast's integration; and all the same without it."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from retrain_lab import Lab

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tracking server on the loopback."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"),
            *("--port", str(port), "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
            *("--artifacts-destination", str(folder / "artifacts")),
        ],
        cwd=folder,
        env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        end = time.monotonic() + 600
        while not answers(f"{address}/health"):
            assert process.poll() is None and time.monotonic() < end, "no tracking server"
            time.sleep(0.3)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def switch_on(lab: Lab, uri: str) -> None:
    file = lab.root / "feature_repo" / "feature_store.yaml"
    file.write_text(f"{file.read_text()}mlflow: {{enabled: true, tracking_uri: '{uri}'}}\n")


def track(lab: Lab, *runs: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, HERE / "track_a_run.py", *(f"artifacts/{run}" for run in runs)],
        cwd=lab.root,
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.mark.parametrize("kind", ["local", "server"])
def test_a_run_is_logged_whole_and_the_aliases_follow_the_model_in_use(
    lab: Lab,
    put_in_use: Callable[[str], None],
    kind: str,
    request: pytest.FixtureRequest,
) -> None:
    from mlflow import MlflowClient

    from hindcast import tracking
    from hindcast.config import load_config

    local = f"sqlite:///{lab.root}/data/mlflow.db"
    uri = local if kind == "local" else request.getfixturevalue("server")
    switch_on(lab, uri)
    done = track(lab, lab.good, lab.dull)
    assert done.returncode == 0, done.stderr
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("small")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    good = runs[lab.good]
    assert good.data.tags["feast.feature_service"] == "late_arrival"
    assert good.data.tags["feast.feature_views"] == "flight_calendar,origin_weather"
    assert good.data.tags["hindcast.snapshot"] == "first"
    assert good.data.params["tune_from"] == "2013-10-25"
    assert good.data.metrics["roc_auc"] > runs[lab.dull].data.metrics["schedule_only.roc_auc"]
    logged = {each.path for each in client.list_artifacts(good.info.run_id, "bundle")}
    files = {f"bundle/{file.name}" for file in (lab.artifacts / lab.good).iterdir()}
    assert logged == files > {"bundle/model_card.md", "bundle/overview.png", "bundle/model.skops"}

    def aliases() -> dict[str, str]:
        """Which run each alias stands for."""
        found = client.get_registered_model("late_arrival").aliases
        versions = {
            alias: client.get_model_version("late_arrival", version)
            for alias, version in found.items()
        }
        assert all(v.tags["feast.feature_service"] == "late_arrival" for v in versions.values())
        return {alias: version.tags["hindcast.run"] for alias, version in versions.items()}

    config = load_config(lab.root)
    assert aliases() == {"challenger": lab.dull}  # the newest
    for run in (lab.good, lab.dull):
        put_in_use(run)
        assert tracking.promoted(lab.root, config, run) is None
    assert aliases() == {"champion": lab.dull}
    assert lab.told("rollback")["note"] is None
    assert aliases() == {"champion": lab.good, "challenger": lab.dull}


def test_a_registry_that_is_away_stops_no_rollback_and_is_told_of(
    lab: Lab, put_in_use: Callable[[str], None]
) -> None:
    put_in_use(lab.dull)
    put_in_use(lab.good)
    switch_on(lab, "http://127.0.0.1:9")
    told = lab.told("rollback")
    assert told["champion"] == lab.in_use == lab.dull
    assert "http://127.0.0.1:9" in told["note"]
    assert "switch `mlflow` off there" in told["note"]
    assert "in use all the same" in told["note"]


def test_without_the_extra_a_run_is_its_folder_and_the_champion_its_link(
    lab: Lab, put_in_use: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['mlflow'] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    put_in_use(lab.dull)
    put_in_use(lab.good)
    assert lab.told("rollback")["note"] is None

    switch_on(lab, "http://127.0.0.1:9")
    done = track(lab, lab.good)
    assert done.returncode == 0, done.stderr
    assert "it is not installed: pip install" in " ".join(done.stdout.split())
    told = lab.told("rollback", "--to", lab.good)
    assert lab.in_use == lab.good
    assert "not installed" in told["note"]
