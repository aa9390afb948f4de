"""Decay is called decay, and noise, a calm month or a stormy one are not."""

from datetime import UTC, datetime

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import log_loss, roc_auc_score

from hindcast.monitor import performance
from hindcast.monitor.period import Period, before
from hindcast.monitor.predictions import Model, Scored
from hindcast.monitor.thresholds import DEFAULTS

NOW = datetime(2013, 12, 30, tzinfo=UTC)
MODEL = Model("m", "s", Period(NOW, NOW), 0.25, 200.0, 800.0)


def predictions(random, days=28, rows=300, level=-1.2, skill=1.4):
    """Scores that are calibrated, of days that have good and bad luck in common."""
    luck = np.repeat(random.normal(0, 0.5, days), rows)
    signal = random.normal(0, skill, days * rows)
    logit = level + luck + signal
    score = 1 / (1 + np.exp(-logit))
    outcome = (random.random(len(score)) < score).astype(float)
    seconds = np.repeat(np.arange(days), rows) * 86400.0
    return Scored(before(NOW, days), seconds, score, outcome)


def judged(window, reference, rate=0.05, seed=0):
    found = performance.judge(
        window,
        reference,
        MODEL,
        lambda subject, name: DEFAULTS[name],
        subject="model",
        false_alarms=rate,
        seed=seed,
    )
    return {check.name: check for check in found}


def test_the_figures_are_those_of_scikit_learn():
    window = predictions(np.random.default_rng(1))
    found = judged(window, predictions(np.random.default_rng(2)))
    y, p = window.outcome, window.score
    assert found["roc_auc"].now == pytest.approx(roc_auc_score(y, p), abs=1e-4)
    base = log_loss(y, np.full(len(y), y.mean()))
    assert found["log_loss"].now == pytest.approx(1 - log_loss(y, p) / base)
    assert found["calibration"].now == pytest.approx(p.mean() - y.mean())
    flagged = p >= 0.25
    saved = 800 * (flagged * y).sum() - 200 * flagged.sum()
    assert found["cost"].now == pytest.approx(saved / (600 * y.sum()))


def test_scores_that_lost_their_meaning_fail_by_every_measure():
    random = np.random.default_rng(3)
    window = predictions(random)
    lost = Scored(window.period, window.seconds, random.permutation(window.score), window.outcome)
    found = judged(lost, predictions(random))
    assert {name for name, check in found.items() if check.verdict == "fail"} == {
        "roc_auc",
        "log_loss",
        "cost",
    }


def test_scores_that_are_all_too_high_fail_by_calibration_alone():
    random = np.random.default_rng(4)
    window = predictions(random)
    higher = np.clip(window.score + 0.12, 0, 1)
    found = judged(Scored(window.period, window.seconds, higher, window.outcome), None)
    assert set(found) == {"calibration"}
    assert found["calibration"].verdict == "fail"


def test_a_month_with_twice_the_base_rate_is_no_decay():
    random = np.random.default_rng(5)
    stormy = predictions(random, level=0.0)
    found = judged(stormy, predictions(random))
    assert [check.verdict for check in found.values()] == ["ok"] * 4


def test_outcomes_that_are_not_known_yet_are_left_out():
    window = predictions(np.random.default_rng(6))
    waiting = np.where(window.seconds > 20 * 86400, np.nan, window.outcome)
    found = judged(Scored(window.period, window.seconds, window.score, waiting), None)
    known = window.seconds <= 20 * 86400
    gap = window.score[known].mean() - window.outcome[known].mean()
    assert found["calibration"].now == pytest.approx(gap)


def test_too_few_outcomes_are_not_judged():
    few = predictions(np.random.default_rng(7), days=2, rows=90)
    assert judged(few, None) == {}


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(8)
    truth = np.mean([judged(predictions(random), None)["calibration"].now for _ in range(5)])
    assert abs(truth) < 0.02
    held = 0
    for _ in range(60):
        check = judged(predictions(random, rows=60), None)["calibration"]
        held += check.low <= 0 <= check.high
    assert held >= binom.ppf(0.001, 60, 0.88)


def test_a_model_that_does_not_change_is_called_decayed_in_no_more_than_the_stated_share():
    random = np.random.default_rng(9)
    loud = 0
    for number in range(80):
        first, later = predictions(random, rows=60), predictions(random, rows=60)
        found = judged(later, first, seed=number)
        loud += any(check.verdict != "ok" for check in found.values())
    assert loud <= binom.ppf(0.999, 80, 0.05)
