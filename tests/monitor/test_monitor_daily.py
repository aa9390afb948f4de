"""What the daily loop's runs predicted accumulates, and is judged as outcomes arrive."""

import json
import os
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
import yaml
from feast import FeatureStore
from monitor_project import flights
from training_project import STANDS_AT
from typer.testing import CliRunner

from hindcast.cli import app
from hindcast.config import load_config, utc_text
from hindcast.monitor import performance, watch
from hindcast.monitor.period import Period
from hindcast.monitor.predictions import Model, scored

STEPS = [{"name": "score", "run": "python -m training.score --at {at}"}]
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


def said_of_it(root, at):
    """Every prediction of the model in use, with the outcomes known at an instant."""
    options = watch.in_use(root, load_config(root))
    store = FeatureStore(repo_path=str(root / "feature_repo"))
    return scored(root, store, "flight_spine", options, model_of(root), at, [])


def model_of(root):
    return Model.of(root, watch.in_use(root, load_config(root)).model)


def test_the_hours_that_the_loop_scored_are_judged_once_their_outcomes_are_known(daily):
    later, next_hour = STANDS_AT + timedelta(days=1), STANDS_AT + timedelta(hours=1)
    before = said_of_it(daily, later)
    for at in (STANDS_AT, next_hour):
        done = CliRunner().invoke(app, ["run", "--at", utc_text(at)])
        assert done.exit_code == 0, (done.output[-3000:], done.exception)
    model = os.readlink("artifacts/latest")
    files = sorted((daily / "data/predictions" / model).iterdir())
    assert [file.name for file in files] == ["20131220T150000Z.parquet", "20131220T160000Z.parquet"]

    spine = flights()
    end = next_hour + timedelta(hours=1)
    hours = spine[(spine["predict_at"] >= STANDS_AT) & (spine["predict_at"] < end)]
    assert (len(hours), hours["is_late"].notna().sum()) == (4, 4)

    # what another model said is not its own
    others = spine[spine["predict_at"] >= end].head(50)[["flight_id", "predict_at"]]
    other = daily / "data/predictions/another/20131220T170000Z.parquet"
    other.parent.mkdir()
    others.assign(p=0.5, model="another", said_at=end).to_parquet(other)

    # as of the hour after, nobody had landed yet
    said = said_of_it(daily, end)
    assert len(said.score) == len(before.score) + 4
    assert np.isnan(said.outcome[-4:]).all()

    # a day later all had, and the performance is judged by them too
    said = said_of_it(daily, later)
    window = said.within(Period(later - timedelta(days=14), later))
    found = performance.figures(window, model_of(daily), np.random.default_rng(0))
    written = pd.read_parquet("artifacts/latest/predictions.parquet")["flight_id"]
    judged = spine["flight_id"].isin([*written, *hours["flight_id"]])
    judged &= spine["is_late"].notna() & (spine["predict_at"] >= window.period.start)
    assert found.outcomes == judged.sum() > performance.LEAST_OUTCOMES
