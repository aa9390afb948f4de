"""What counts as better, and what as decayed."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from hindcast.compare import Figure, Money, NothingToJudgeError, auc_alone, compare
from hindcast.config import Retrain
from hindcast.errors import HindcastError
from hindcast.resample import day_weights, roc_auc
from hindcast.retrain import Periods, decide

ZONE = "America/New_York"
MONEY = Money(200, 800)
RULE = Retrain(train="", score="", time_zone=ZONE, first_day="2013-01-01", resamples=200)  # type: ignore[arg-type]


def days(seed: int, skills: tuple[float, float], count: int = 21) -> list[pd.DataFrame]:
    """The scores of two models. A day has weather of its own, of which both see a part, and each
    model errs on whole days too: the flights of a day are not so many witnesses."""
    draw = np.random.default_rng(seed)
    at = pd.date_range("2013-06-01 12:00", periods=count, freq="D", tz="UTC").repeat(80)
    logit = np.repeat(draw.normal(-1.2, 0.7, count), 80) + draw.normal(0, 1, len(at))
    label = draw.random(len(at)) < 1 / (1 + np.exp(-logit))
    made = []
    for skill in skills:
        errors = np.repeat(draw.normal(0, 0.4, count), 80) + draw.normal(-1.2, 0.7, len(at))
        p = 1 / (1 + np.exp(-(skill * logit + (1 - skill) * errors)))
        made.append(
            pd.DataFrame(
                {
                    "id": np.arange(len(at)),
                    "predict_at": at,
                    "p": p,
                    "label": pd.array(label, "boolean"),
                }
            )
        )
    return made


def judged(seed: int, skills: tuple[float, float]):
    champion, challenger = days(seed, skills)
    return compare(champion, challenger, (0.25, 0.25), MONEY, ZONE, resamples=200)


def test_the_figures_are_those_of_scikit_learn_and_a_resample_is_the_days_drawn_so_often():
    champion, challenger = days(1, (0.4, 0.7))
    told = compare(champion, challenger, (0.3, 0.2), MONEY, ZONE, resamples=100)
    for figures, scores, threshold in (
        (told.champion, champion, 0.3),
        (told.challenger, challenger, 0.2),
    ):
        y, p = scores["label"].astype(int), scores["p"]
        assert figures["roc_auc"].value == pytest.approx(roc_auc_score(y, p))
        assert figures["log_loss"].value == pytest.approx(log_loss(y, p))
        flagged = p >= threshold
        saved = 1000 * (800 * y[flagged].sum() - 200 * flagged.sum()) / len(y)
        assert figures["saved_per_1000"].value == pytest.approx(saved)
    assert told.gain["roc_auc"].value > 0 and told.gain["log_loss"].value > 0

    day = np.arange(21).repeat(80)
    weights, _ = day_weights(day, 5, seed=3)
    y, p = champion["label"].astype(float).to_numpy(), champion["p"].to_numpy()
    for area, by_day in zip(roc_auc(y, p, day, weights), weights, strict=True):
        times = by_day[day].astype(int)
        assert area == pytest.approx(roc_auc_score(np.repeat(y, times), np.repeat(p, times)))


def test_of_two_equally_good_models_the_challenger_is_rarely_put_in_use():
    """Two models of the same skill and luck of their own: 2.5 % are expected by chance."""
    promoted = sum(decide(judged(seed, (0.5, 0.5)), None, RULE).promote for seed in range(100))
    assert promoted <= 8  # more than 8 of 100 happen with 1 of 1,000 seeds


def test_a_better_challenger_is_put_in_use_and_a_worse_one_is_not():
    better = [decide(judged(seed, (0.4, 0.6)), None, RULE).promote for seed in range(20)]
    worse = [decide(judged(seed, (0.6, 0.4)), None, RULE).promote for seed in range(20)]
    assert sum(better) >= 18
    assert not any(worse)


def test_a_challenger_that_ranks_better_with_wrong_probabilities_is_not_put_in_use():
    champion, challenger = days(4, (0.4, 0.7))
    challenger["p"] = 0.5 + challenger["p"] / 2
    told = compare(champion, challenger, (0.25, 0.25), MONEY, ZONE, resamples=200)
    verdict = decide(told, None, RULE)
    assert not verdict.promote
    assert "probabilities are worse beyond noise" in verdict.reason


def test_a_decayed_champion_gives_way_to_a_challenger_that_is_only_a_little_better():
    told = next(
        t
        for t in (judged(seed, (0.5, 0.52)) for seed in range(50))
        if t.gain["roc_auc"].value > 0 and t.gain["roc_auc"].low < 0
    )
    now = told.champion["roc_auc"]
    then = Figure(now.high + 0.021, 0, 1)
    assert not decide(told, None, RULE).promote
    assert not decide(told, Figure(now.high + 0.019, 0, 1), RULE).promote
    assert decide(told, then, RULE).promote
    assert "has decayed" in decide(told, then, RULE).reason


def test_a_decayed_champion_does_not_give_way_to_a_worse_one():
    told = judged(3, (0.5, 0.3))
    assert told.gain["roc_auc"].value < 0
    assert not decide(told, Figure(0.99, 0.98, 1.0), RULE).promote


@pytest.mark.parametrize("known", [0, 1])
def test_outcomes_of_fewer_than_two_days_judge_nobody(known: int):
    champion, challenger = days(1, (0.4, 0.7))
    for scores in (champion, challenger):
        scores.loc[
            scores["predict_at"] >= scores["predict_at"].min() + pd.Timedelta(days=known), "label"
        ] = None
    with pytest.raises(NothingToJudgeError):
        auc_alone(champion, ZONE)
    with pytest.raises(NothingToJudgeError):
        compare(champion, challenger, (0.25, 0.25), MONEY, ZONE)


def test_outcomes_that_are_not_known_yet_judge_nobody():
    champion, challenger = days(5, (0.4, 0.6))
    half = champion.index[champion.index % 2 == 0]
    for scores in (champion, challenger):
        scores.loc[half, "label"] = pd.NA
    told = compare(champion, challenger, (0.25, 0.25), MONEY, ZONE, resamples=100)
    assert told.rows == len(champion) // 2
    champion["label"] = challenger["label"] = pd.NA
    with pytest.raises(HindcastError, match="no outcome"):
        compare(champion, challenger, (0.25, 0.25), MONEY, ZONE)


def test_models_that_did_not_score_the_same_rows_are_not_compared():
    champion, challenger = days(6, (0.4, 0.6))
    with pytest.raises(HindcastError, match="did not score the same rows"):
        compare(champion, challenger.iloc[1:], (0.25, 0.25), MONEY, ZONE)
    with pytest.raises(HindcastError, match="lack label"):
        auc_alone(champion.drop(columns="label"), ZONE)
    with pytest.raises(HindcastError, match="not from 0 to 1"):
        auc_alone(champion.assign(p=np.nan), ZONE)


def test_periods_follow_each_other_and_the_day_of_the_instant_is_not_over():
    from datetime import UTC, date, datetime

    at = datetime(2013, 12, 20, 3, tzinfo=UTC)  # still the 19th in New York
    periods = Periods.of(RULE, at)
    assert periods == Periods(
        date(2013, 1, 1), date(2013, 10, 24), date(2013, 11, 21), date(2013, 12, 19)
    )
    rolling = RULE.model_copy(update={"window_days": 92})
    assert Periods.of(rolling, at).fit_from == date(2013, 8, 21)
    with pytest.raises(HindcastError, match="too little history"):
        Periods.of(RULE, datetime(2013, 2, 1, tzinfo=UTC))
