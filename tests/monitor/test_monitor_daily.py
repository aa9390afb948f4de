"""What the daily loop's runs predicted accumulates, and is judged as outcomes arrive."""

import json
import os
from datetime import timedelta

import pandas as pd
import pytest
import yaml
from monitor_project import as_json, flights
from training_project import STANDS_AT
from typer.testing import CliRunner

from hindcast.cli import app
from hindcast.config import utc_text

STEPS = [
    {"name": "materialize", "run": "feast -c feature_repo materialize-incremental {at}"},
    {"name": "score", "run": "python -m training.score --at {at}"},
]
SAID = {"path": "data/predictions", "score": "p", "keys": ["flight_id"]}
SAID |= {"model": "model", "at": "said_at"}
LAST_TEST_DAY = pd.Timestamp("2013-12-18", tz="UTC")


@pytest.fixture
def daily(copy, monkeypatch):
    """The project whose model wrote down its scores up to two days ago, with a loop that scores."""
    run = (copy / "artifacts/latest").resolve()
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["settings"]["repo"] = "feature_repo"
    (run / "manifest.json").write_text(json.dumps(manifest))
    written = pd.read_parquet(run / "predictions.parquet")
    written[written["predict_at"] < LAST_TEST_DAY].to_parquet(run / "predictions.parquet")
    told = {"id": "first", "created_at": "2026-01-01T00:00:00+00:00", "tables": {}}
    (copy / "data/published/first/snapshot.json").write_text(json.dumps(told))
    config = yaml.safe_load((copy / "hindcast.yml").read_text()) | {"steps": STEPS}
    config["monitor"]["predictions"].append(SAID)
    (copy / "hindcast.yml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(copy)
    return copy


def hindcast(*words):
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (done.output[-3000:], done.exception)
    return done.output


def outcomes(at):
    """How many predictions of the window the monitor judges, and how many wait for their outcome."""
    found = as_json(hindcast("monitor", "--json", "--exit-zero", "--at", utc_text(at)))
    (check,) = [check for check in found["checks"] if check["check"] == "calibration"]
    (note,) = [note for note in found["notes"] if "no outcome" in note]
    waiting, _, of, *_ = note.split()
    assert int(check["detail"].split("%")[0].replace(".", "")) >= 0
    return int(of) - int(waiting), int(waiting)


def test_the_hours_that_the_loop_scored_are_judged_once_their_outcomes_are_known(daily):
    before = outcomes(STANDS_AT + timedelta(days=1))
    next_hour = STANDS_AT + timedelta(hours=1)
    hindcast("run", "--at", utc_text(STANDS_AT))
    hindcast("run", "--at", utc_text(next_hour))
    hindcast("run", "--only", "score", "--at", utc_text(next_hour))  # said again: once
    model = os.readlink("artifacts/latest")
    files = sorted((daily / "data/predictions" / model).iterdir())
    assert [file.name for file in files] == ["20131220T150000Z.parquet", "20131220T160000Z.parquet"]

    spine = flights()
    end = next_hour + timedelta(hours=1)
    scored = spine[(spine["predict_at"] >= STANDS_AT) & (spine["predict_at"] < end)]
    labelled = int(scored["is_late"].notna().sum())
    assert (len(scored), labelled) == (4, 4)

    # what another model said is not its own
    others = spine[spine["predict_at"] >= end].head(50)[["flight_id", "predict_at"]]
    other = daily / "data/predictions/another/20131220T170000Z.parquet"
    other.parent.mkdir()
    others.assign(p=0.5, model="another", said_at=end).to_parquet(other)

    known, waiting = outcomes(STANDS_AT + timedelta(days=1))
    assert (known, waiting) == (before[0] + labelled, before[1])
    # as of the hour after, nobody had landed yet: the same four wait for their outcomes
    assert outcomes(end)[1] == outcomes(STANDS_AT)[1] + len(scored)
