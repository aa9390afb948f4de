"""Whatever scores without being told with which run takes the model in use, not the newest run."""

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pandas as pd
import pyarrow.dataset as ds
import pytest
from feast import FeatureStore
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination
from retrain_lab import Lab

from benchmarks import retrain as measured
from hindcast.config import load_config
from serving import upcoming
from training import backcast, console, leaks


def run(monkeypatch: pytest.MonkeyPatch, module: ModuleType, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *words])
    with pytest.raises(SystemExit) as ended:
        console.run(module.app)
    assert not ended.value.code


@pytest.fixture
def at_root(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.chdir(lab.root)
    return lab


def test_a_backcast_is_by_the_champion_and_by_the_newest_run_where_there_is_none(
    at_root: Lab, put_in_use: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    period = (
        "--start",
        "2013-12-20T00:00Z",
        "--until",
        "2013-12-22T00:00Z",
        "--out",
        "out.parquet",
    )
    run(monkeypatch, backcast, *period)
    assert pd.read_parquet("out.parquet")["score"].nunique() > 1
    put_in_use(at_root.dull)  # it gives every flight the same
    run(monkeypatch, backcast, *period)
    assert pd.read_parquet("out.parquet")["score"].nunique() == 1


def test_flights_that_come_up_are_scored_by_the_champion(
    at_root: Lab, put_in_use: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FeatureStore(repo_path="feature_repo")
    service = store.get_feature_service("late_arrival")
    service.logging_config = LoggingConfig(FileLoggingDestination(path="../data/log"))
    store.apply([service])
    put_in_use(at_root.dull)
    hour = ("--at", "2013-12-20T15:00:00Z", "--until", "2013-12-20T16:00:00Z")
    run(monkeypatch, upcoming, *hour)
    logged = ds.dataset("data/log", format="parquet").to_table(["model"])
    assert set(logged["model"].to_pylist()) == {at_root.dull}


def test_leaks_are_shown_in_the_report_of_the_champion(
    at_root: Lab, put_in_use: Callable[[str], None]
) -> None:
    assert leaks.folder_in(Path("nowhere")) == Path("nowhere/leaks")
    assert leaks.folder_in(Path("artifacts")).resolve().name == at_root.good
    put_in_use(at_root.dull)
    assert leaks.folder_in(Path("artifacts")).resolve().name == at_root.dull


def test_the_year_is_measured_with_the_model_that_hindcast_retrain_trains() -> None:
    retrain = load_config(Path(__file__).parents[2]).retrain
    assert retrain is not None
    words = retrain.train.split()
    given = [pair for pair in pairwise(words) if pair[0].startswith("--")]

    def told(name: str) -> list[str]:
        return [value for option, value in given if option == f"--{name}"]

    assert told("bins") == [str(bins) for bins in measured.SETTINGS.bins]
    assert told("learning-rate") == [str(measured.SETTINGS.learning_rate)]
    assert told("max-rounds") == [str(measured.ROUNDS[-1])]
    assert told("round-step") == [str(measured.ROUNDS[0])]
