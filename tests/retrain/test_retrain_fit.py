"""A model that does not fit the features any more, since one was renamed: seen, told, replaced."""

import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta

import pandas as pd
import pytest
from retrain_lab import AT, Lab
from training_project import register
from typer.testing import CliRunner

from hindcast import doctor, fit, retrain
from hindcast.cli.app import app
from hindcast.config import load_config
from hindcast.errors import MissingInputError
from training import score


@pytest.fixture
def renamed(lab: Lab, put_in_use: Callable[[str], None]) -> Iterator[Lab]:
    """Both runs learned from `wind_mph`, and its name is `wind_speed_mph` now."""
    put_in_use(lab.good)
    lab.configure("at: ", "model: artifacts/latest\nat: ")
    file = lab.root / "data/published/first/origin_weather.parquet"
    weather = pd.read_parquet(file).rename(columns={"wind_mph": "wind_speed_mph"})
    weather.to_parquet(file, index=False)
    register(lab.root, "wind_speed_mph").materialize(AT - timedelta(days=1), AT)
    here = os.getcwd()
    os.chdir(lab.root)
    yield lab
    os.chdir(here)


def finding(lab: Lab) -> doctor.Finding:
    patient = doctor._Patient(lab.root, load_config(lab.root), AT)
    (found,) = doctor._model_fit(patient)
    return found


def test_a_model_fits_the_features_it_was_trained_on(
    lab: Lab, put_in_use: Callable[[str], None]
) -> None:
    put_in_use(lab.good)
    register(lab.root)
    lab.configure("at: ", "model: artifacts/latest\nat: ")
    found = finding(lab)
    assert (found.state, found.found) == ("ok", f"{lab.good} fits feature service late_arrival")


def test_a_renamed_feature_is_named_with_the_way_out_and_the_way_out_works(renamed: Lab) -> None:
    with pytest.raises(MissingInputError, match=r"needs wind_mph, .*`hindcast retrain` puts"):
        score.score(renamed.artifacts / "champion", AT)
    found = finding(renamed)
    lacks = "origin_weather.wind_mph (Float64): not served any more"
    assert (found.state, found.found) == (
        "wrong",
        f"{renamed.good} does not fit feature service late_arrival: {lacks}",
    )
    assert found.todo.startswith("hindcast retrain --at 2013-12-20T15:00:00Z")

    config = load_config(renamed.root)
    would = retrain.retrain(renamed.root, config, AT, dry_run=True)
    assert (would.action, would.champion) == ("would retrain", renamed.good)
    told = retrain.retrain(renamed.root, config, AT)  # neither run fits, so it trains
    assert (told.action, told.previous) == ("promoted", renamed.good)
    assert lacks in told.reason
    assert renamed.in_use == told.champion not in (renamed.good, renamed.dull)

    assert finding(renamed).state == "ok"
    flights, *_ = score.score(renamed.artifacts / "champion", AT)
    assert len(flights) > 0
    # and once it is in use it is let be, and the way back is known and told of
    assert retrain.retrain(renamed.root, config, AT).action == "nothing to do"
    back = CliRunner().invoke(app, ["rollback", "--project", str(renamed.root), "--json"])
    told_back = json.loads(back.stdout)
    assert (back.exit_code, told_back["champion"]) == (0, renamed.good)
    assert lacks in told_back["note"]


def test_a_run_that_fits_and_was_trained_by_hand_is_taken_without_another_training(
    renamed: Lab,
) -> None:
    manifest = renamed.artifacts / renamed.dull / "manifest.json"
    manifest.write_text(manifest.read_text().replace("wind_mph", "wind_speed_mph"))
    (renamed.artifacts / "latest").unlink()
    (renamed.artifacts / "latest").symlink_to(renamed.dull)
    told = retrain.retrain(renamed.root, load_config(renamed.root), AT)
    assert (told.action, told.champion) == ("promoted", renamed.dull)


def test_another_type_or_view_is_a_misfit_too(lab: Lab) -> None:
    register(lab.root)
    manifest = lab.artifacts / lab.good / "manifest.json"
    wind = '"name": "wind_mph",\n      "dtype": "Float64"'
    assert wind in manifest.read_text()
    manifest.write_text(manifest.read_text().replace(wind, wind.replace("Float64", "Int64")))
    assert fit.misfits(lab.root, load_config(lab.root), lab.artifacts / lab.good) == [
        "origin_weather.wind_mph: Int64 in training, Float64 now"
    ]
