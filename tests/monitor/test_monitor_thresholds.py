"""Thresholds stand beside what they judge, and a wrong one is refused by file and line."""

import monitor_project
import pytest
import yaml

from hindcast.config import load_config
from hindcast.errors import DefinitionError
from hindcast.monitor.thresholds import DEFAULTS, OFF, Thresholds


def read(root, **thresholds):
    config = load_config(root).monitor
    return Thresholds.of(root, config.model_copy(update={"thresholds": thresholds}))


def test_a_column_says_more_than_its_view_and_the_view_more_than_the_project(trained):
    found = read(trained, psi=(0.15, 0.4), nulls=(0.02, None))
    assert found("origin_weather.reports", "psi") == OFF
    assert found("origin_weather.wind_mph", "psi") == (0.3, 2.0)
    assert found("flight_calendar.flight_distance_mi", "psi") == (0.15, 0.4)
    assert found("origin_weather.wind_mph", "nulls") == (0.02, None)
    assert found("origin_weather.wind_mph", "ks") == DEFAULTS["ks"]
    assert found("late_arrival", "roc_auc") == (0.05, 0.15)


def test_an_exposure_says_the_limits_of_on_demand_views_and_of_their_features(trained):
    found = read(trained)
    assert found("flight_calendar.flight_distance_mi", "ks") == OFF
    assert found("flight_calendar.flight_distance_mi", "range") == (0.03, None)  # of its view
    assert found("flight_calendar.flight_distance_mi", "psi") == DEFAULTS["psi"]
    # they are of those views only, not of the model
    assert found("late_arrival.score", "ks") == found("origin_weather.sky", "ks") == DEFAULTS["ks"]


def test_a_wrong_threshold_is_refused_by_file_and_line(copy):
    said = monitor_project.MODEL_YAML
    columns = [
        *said["models"][0]["columns"],
        {"name": "sky", "config": {"meta": {"monitor": {"pis": [1, 2], "ks": [0.5, 0.1]}}}},
    ]
    changed = said | {"models": [said["models"][0] | {"columns": columns}]}
    (copy / "models" / "origin_weather.yml").write_text(yaml.safe_dump(changed))
    monitor_project.parse(copy)
    with pytest.raises(DefinitionError) as refused:
        read(copy)
    assert len(refused.value.faults) == 2
    text = str(refused.value)
    assert "models/origin_weather.yml:" in text
    assert "did you mean 'psi'" in text
    assert "two rising numbers" in text
