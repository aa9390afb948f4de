"""Runs and models in MLflow, through Feast's integration; and all the same without it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


def aliases(client: Any) -> dict[str, str]:
    """Which run each alias of the registered model stands for."""
    found = client.get_registered_model("late_arrival").aliases
    versions = {
        alias: client.get_model_version("late_arrival", version) for alias, version in found.items()
    }
    assert all(v.tags["feast.feature_service"] == "late_arrival" for v in versions.values())
    return {alias: version.tags["hindcast.run"] for alias, version in versions.items()}


def logged(client: Any, name: str) -> Any:
    """The MLflow run of one of our runs: there is one."""
    experiment = client.get_experiment_by_name("small")
    (found,) = client.search_runs([experiment.experiment_id], f"tags.`mlflow.runName` = '{name}'")
    return found


def bundle_of(client: Any, run: Any) -> set[str]:
    return {Path(each.path).name for each in client.list_artifacts(run.info.run_id, "bundle")}


WHOLE = {
    *("manifest.json", "metrics.json", "model.skops", "predictions.parquet"),
    *("report.html", "model_card.md", "model_card.html", "overview.png", "thousand.png"),
}


def test_retraining_logs_each_run_whole_and_one_that_loses_stays_the_challenger(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands themselves, on a local store, in processes that reach nothing but loopback."""
    from mlflow import MlflowClient

    reached = tmp_path / "reached"
    guard = tmp_path / "guard"
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(
        f"import atexit, sys\nsys.path.append({str(HERE)!r})\nfrom track_a_run import reached\n"
        f"atexit.register(lambda: open({str(reached)!r}, 'a').write(' '.join(reached) + '.'))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(guard))
    uri = f"sqlite:///{lab.root}/data/mlflow.db"
    switch_on(lab, uri)
    (lab.artifacts / "latest").unlink()  # so one is trained

    told = lab.told("retrain")
    first = told["champion"]
    assert (told["action"], told["note"]) == ("adopted", None)
    assert first == lab.in_use not in (lab.dull, lab.good)
    client = MlflowClient(uri)
    assert aliases(client) == {"champion": first}

    run, folder = logged(client, first), lab.artifacts / first
    assert run.info.status == "FINISHED"
    manifest = json.loads((folder / "manifest.json").read_text())
    tags, params = run.data.tags, run.data.params
    assert tags["feast.feature_service"] == "late_arrival"
    assert tags["feast.feature_views"] == "flight_calendar,origin_weather"
    assert (tags["hindcast.run"], tags["hindcast.snapshot"]) == (first, "first")
    assert tags["hindcast.trained_until"] == manifest["trained_until"]
    assert {n: tags[f"hindcast.hash.{n}"] for n in manifest["hashes"]} == manifest["hashes"]
    assert (params["fit_from"], params["test_until"]) == ("2013-10-01", "2013-12-20")
    assert params.keys() >= manifest["settings"].keys()
    figures = json.loads((folder / "metrics.json").read_text())
    for name, estimate in figures["metrics"]["model"].items():
        for part, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
            assert run.data.metrics[f"{name}{suffix}"] == pytest.approx(estimate[part])
    assert run.data.metrics["roc_auc"] > run.data.metrics["schedule_only.roc_auc"]
    assert bundle_of(client, run) == {file.name for file in folder.iterdir()} == WHOLE
    kept = client.download_artifacts(run.info.run_id, "bundle", str(tmp_path))
    assert all((Path(kept) / n).read_bytes() == (folder / n).read_bytes() for n in WHOLE)

    # the same training again is not better than itself
    told = lab.told("retrain", "--force")
    second = told["challenger"]
    assert (told["action"], told["champion"]) == ("kept", first)
    assert lab.in_use == first != second
    assert aliases(client) == {"champion": first, "challenger": second}
    assert bundle_of(client, logged(client, second)) == WHOLE
    assert set(reached.read_text()) == {"."}


def test_a_tracking_server_holds_runs_and_the_aliases_follow_the_model_in_use(
    lab: Lab, put_in_use: Callable[[str], None], server: str
) -> None:
    from mlflow import MlflowClient

    from hindcast import tracking
    from hindcast.config import load_config

    switch_on(lab, server)
    done = track(lab, lab.good, lab.dull)
    assert done.returncode == 0, done.stderr
    client = MlflowClient(server)
    good = logged(client, lab.good)
    assert good.data.tags["hindcast.snapshot"] == "first"
    assert good.data.params["tune_from"] == "2013-10-25"
    dull = logged(client, lab.dull).data.metrics
    assert good.data.metrics["roc_auc"] > dull["schedule_only.roc_auc"]
    assert bundle_of(client, good) == WHOLE

    config = load_config(lab.root)
    assert aliases(client) == {"challenger": lab.dull}  # the newest
    for run in (lab.good, lab.dull):
        put_in_use(run)
        assert tracking.promoted(lab.root, config, run) is None
    assert aliases(client) == {"champion": lab.dull}
    assert lab.told("rollback")["note"] is None
    assert aliases(client) == {"champion": lab.good, "challenger": lab.dull}


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
