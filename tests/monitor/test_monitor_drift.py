"""Distances are what their formulas say, chance is told from change, and stable data is silent."""

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import binom, ks_2samp

from hindcast.errors import HindcastError
from hindcast.monitor import drift
from hindcast.monitor.thresholds import DEFAULTS

RATE = 0.05
ROWS = 40  # a day


def limits(subject, name):
    return DEFAULTS[name]


def stable_days(days, random, features=6):
    """Features of one process: each day has a level of its own, near that of the day before."""
    level = np.zeros((days, features))
    for day in range(days):
        before = level[day - 1] if day else 0
        level[day] = 0.6 * before + random.normal(0, 0.8, features)
    rows = random.poisson(ROWS, days)
    day = np.repeat(np.arange(days), rows)
    frame = pd.DataFrame(
        level[day] + random.normal(0, 1, (len(day), features)),
        columns=[f"x{number}" for number in range(features)],
    )
    frame = frame.where(random.random(frame.shape) > 0.1)
    frame["kind"] = random.choice(list("abcd"), len(day), p=[0.5, 0.3, 0.15, 0.05])
    return frame, day


def counted(baseline, window):
    (frame, day), (recent, recent_day) = baseline, window
    then, now = {}, {}
    for name in frame:
        bins = drift.Bins.of(frame[name])
        then[name] = bins.count_baseline(frame[name], day, day.max() + 1)
        now[name] = bins.count(recent[name], recent_day, recent_day.max() + 1)
    return then, now


def of_one(then, now, days=(28, 28), kind=None):
    """The checks of one feature, by name: values spread evenly over days."""
    baseline, window = (
        (pd.DataFrame({"x": values}), np.arange(len(values)) * n // len(values))
        for values, n in zip((then, now), days, strict=True)
    )
    found = drift.compare(*counted(baseline, window), limits, false_alarms=RATE)
    return {check.name: check for check in found}


def test_psi_is_the_sum_over_ten_bins_of_equal_baseline_share():
    random = np.random.default_rng(3)
    then, now = random.normal(0, 1, 5000), random.normal(0.5, 1, 5000)
    edges = np.quantile(then, np.arange(1, 10) / 10)
    p, q = (np.bincount(np.searchsorted(edges, side), minlength=10) / 5000 for side in (then, now))
    expected = ((q - p) * np.log(q / p)).sum()
    assert of_one(then, now)["psi"].value == pytest.approx(expected, rel=0.03)


def test_ks_is_exact_where_values_are_few():
    random = np.random.default_rng(4)
    then, now = random.poisson(4, 3000).astype(float), random.poisson(5, 2000).astype(float)
    assert of_one(then, now)["ks"].value == pytest.approx(ks_2samp(then, now).statistic)


def test_js_is_the_jensen_shannon_distance():
    random = np.random.default_rng(5)
    then = random.choice(list("abc"), 3000, p=[0.6, 0.3, 0.1])
    now = random.choice(list("abc"), 3000, p=[0.2, 0.3, 0.5])
    shares = [pd.Series(side).value_counts(normalize=True).sort_index() for side in (then, now)]
    expected = jensenshannon(*shares, base=2)
    assert of_one(then, now)["js"].value == pytest.approx(expected)


def test_categories_that_training_never_had_are_counted():
    now = np.array(["a", "b", "new", "a"] * 250, dtype=object)
    unseen = of_one(np.array(["a", "b"] * 700, dtype=object), now)["unseen"]
    assert unseen.value == 0.25
    assert unseen.verdict == "fail"


def test_values_beyond_those_of_the_training_are_counted_on_both_sides():
    random = np.random.default_rng(6)
    now = np.concatenate([random.uniform(0.2, 0.8, 900), [-5.0] * 60, [9.0] * 40])
    found = of_one(random.uniform(0, 1, 2800), random.permutation(now))["range"]
    assert found.value == pytest.approx(0.1)
    assert found.verdict == "fail"


def test_a_feature_that_became_null_fails_by_its_null_rate_alone():
    random = np.random.default_rng(7)
    found = of_one(random.normal(0, 1, 2800), np.full(2800, np.nan))
    assert set(found) == {"nulls"}
    assert (found["nulls"].baseline, found["nulls"].now) == (0.0, 1.0)
    assert found["nulls"].verdict == "fail"


def test_a_feature_that_was_always_null_and_still_is_says_nothing():
    found = of_one(np.full(2800, np.nan), np.full(2800, np.nan))
    assert [check.verdict for check in found.values()] == ["ok"]


def test_half_of_the_rows_missing_is_a_warning_and_none_at_all_a_failure():
    steady = drift.Days(drift.VOLUME, *(np.full(56, n) for n in (100, 0, 0)), np.zeros((56, 1)))
    for rows, verdict in ((95, "ok"), (50, "warn"), (0, "fail")):
        now = drift.Days(drift.VOLUME, *(np.full(28, n) for n in (rows, 0, 0)), np.zeros((28, 1)))
        (check,) = drift.compare({"v": steady}, {"v": now}, limits, false_alarms=RATE)
        assert check.verdict == verdict
        assert (check.baseline, check.now) == (100, rows)


def test_a_check_that_is_off_is_not_made():
    frame, day = stable_days(28, np.random.default_rng(8), features=1)
    both = counted((frame, day), (frame, day))
    off = drift.compare(*both, lambda subject, name: (None, None), false_alarms=RATE)
    assert off == []


def test_chance_cannot_be_told_from_a_baseline_of_few_days():
    frame, day = stable_days(13, np.random.default_rng(9), features=1)
    with pytest.raises(HindcastError, match="13 days"):
        drift.compare(*counted((frame, day), (frame, day)), limits, false_alarms=RATE)


def test_weeks_redrawn_from_the_training_are_silent_in_all_but_the_stated_share_of_runs():
    """Many features at once and no change. Limits of a fifth of the usual, so that little but
    chance stands between noise and an alarm."""
    random = np.random.default_rng(10)
    baseline = stable_days(140, random)
    then, _ = counted(baseline, baseline)
    loud = 0
    for number, chosen in enumerate(drift.block_days(140, 28, 30, random)):
        found = drift.compare(
            then,
            {name: each.take(chosen) for name, each in then.items()},
            lambda subject, name: (DEFAULTS[name][0] / 5, None),
            false_alarms=RATE,
            seed=number,
            resamples=200,
        )
        loud += any(check.verdict != "ok" for check in found)
    assert loud <= binom.ppf(0.999, 30, RATE)


def test_new_days_of_a_stable_process_are_silent_in_all_but_the_stated_share_of_runs():
    """Harder: days that were not there before, each resembling the one before it."""
    random = np.random.default_rng(10)
    loud, runs = 0, 36
    for number in range(runs):
        if number % 3 == 0:
            baseline = stable_days(140, random)
        both = counted(baseline, stable_days(28, random))
        found = drift.compare(*both, limits, false_alarms=RATE, seed=number, resamples=200)
        loud += any(check.verdict != "ok" for check in found)
    assert loud <= binom.ppf(0.999, runs, RATE)


def test_a_change_of_two_deviations_in_one_of_many_features_is_seen_in_that_one():
    random = np.random.default_rng(11)
    baseline, (frame, day) = stable_days(140, random), stable_days(28, random)
    frame["x3"] += 2.8
    found = drift.compare(*counted(baseline, (frame, day)), limits, false_alarms=RATE)
    assert {check.subject for check in found if check.verdict != "ok"} == {"x3"}


def test_a_large_distance_of_a_few_days_is_chance_and_of_many_is_not():
    """One day's weather: the same distance means something only if many days made it."""
    random = np.random.default_rng(12)
    baseline = stable_days(140, random, features=1)
    then, two_days = counted(baseline, stable_days(2, random, features=1))
    noise_of_two = {c.name: c for c in drift.compare(then, two_days, limits, false_alarms=RATE)}
    then, month = counted(baseline, stable_days(28, random, features=1))
    noise_of_many = {c.name: c for c in drift.compare(then, month, limits, false_alarms=RATE)}
    assert noise_of_two["ks"].noise > 2 * noise_of_many["ks"].noise
