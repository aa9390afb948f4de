"""Do the figures of a replay say what they should, also when live and offline are not the same?"""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from hindcast.errors import HindcastError
from hindcast.replay.commands import filled
from hindcast.replay.figures import compare, costs, growth
from hindcast.replay.room import Plan
from hindcast.replay.ticks import PARITY, YARDSTICK, Notebook, Ran, Tick

DAYS, A_DAY = 14, 300


@pytest.fixture
def flights():
    """Two weeks of predictions whose probabilities are true, with days that differ."""
    draw = np.random.default_rng(1)
    day = np.repeat(np.arange(DAYS), A_DAY)
    weather = np.repeat(draw.normal(0, 0.7, DAYS), A_DAY)
    p = 1 / (1 + np.exp(-(draw.normal(-1, 1.2, len(day)) + weather)))
    return (draw.random(len(day)) < p).astype(float), p, day


def test_scores_that_differ_by_a_little_noise_agree(flights):
    late, p, day = flights
    live = np.clip(p + np.random.default_rng(2).normal(0, 0.01, len(p)), 0.001, 0.999)
    found = compare(late, live, p, day)
    assert [figure.name for figure in found] == ["ROC AUC", "log loss", "calibration error"]
    assert all(figure.agree for figure in found)
    assert all(
        figure.difference.low <= figure.difference.value <= figure.difference.high
        for figure in found
    )


def test_scores_of_half_the_flights_from_elsewhere_do_not_agree(flights):
    late, p, day = flights
    live = p.copy()
    live[::2] = np.random.default_rng(3).permutation(p[::2])
    found = {figure.name: figure for figure in compare(late, live, p, day)}
    assert not found["ROC AUC"].agree
    assert not found["log loss"].agree


def test_a_cost_that_follows_history_grows_and_one_that_follows_the_hour_does_not():
    draw = np.random.default_rng(4)
    days = np.arange(24 * 14) / 24
    hour = 1 + 0.3 * np.sin(2 * np.pi * days)
    noise = draw.gamma(20, 1 / 20, len(days))
    steady = growth("CPU", 5 * hour * noise, days, history_days=30)
    rising = growth("CPU", (30 + days) * hour * noise, days, history_days=30)
    assert not steady.grows
    assert rising.grows
    assert rising.per_day.low < rising.proportional < rising.per_day.high


def test_a_machine_that_slows_down_is_not_taken_for_a_cost_that_grows(tmp_path):
    notebook = Notebook(SimpleNamespace(folder=tmp_path))
    start = datetime(2013, 11, 1, tzinfo=UTC)
    for hour in range(24 * 6):
        slow = 1 + hour / 100
        work = (("build", 9 * slow), (PARITY, 5.0), (YARDSTICK, 0.3 * slow))
        at = start + timedelta(hours=hour)
        ran = [Ran(name, start, seconds, seconds) for name, seconds in work]
        notebook.steps(at, 1, ran[:1])  # a try that failed
        notebook.tick(Tick(at, attempts=2, steps=ran))
    ticks = costs(notebook)
    assert len(ticks) == 24 * 6
    seconds, yardsticks = (
        growth(name, ticks[name].to_numpy(), ticks["day"].to_numpy(), history_days=30)
        for name in ("cpu_seconds", "yardsticks")
    )
    assert seconds.grows
    assert not yardsticks.grows
    assert ticks["yardsticks"].to_numpy() == pytest.approx(30)


def test_too_few_days_show_no_trend():
    assert growth("CPU", np.ones(30), np.arange(30) / 24, history_days=30) is None


def test_placeholders_are_replaced_and_unknown_ones_refused():
    plan = Plan(datetime(2013, 3, 1, tzinfo=UTC), timedelta(hours=1), 24)
    values = plan.placeholders(datetime(2013, 3, 1, 5, tzinfo=UTC))
    assert filled("x {previous} {at} {next}", values) == (
        "x 2013-03-01T04:00:00Z 2013-03-01T05:00:00Z 2013-03-01T06:00:00Z"
    )
    assert filled("{day} {day-1} {day+31} {end}", values) == (
        "2013-03-01 2013-02-28 2013-04-01 2013-03-02T00:00:00Z"
    )
    with pytest.raises(HindcastError, match="placeholder that is not known"):
        filled("{nowhere}", values)
