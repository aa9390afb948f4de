"""Figures against scikit-learn and by hand, the bootstrap over days, the threshold by search."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from hindcast import resample
from training import evaluate


def sample(seed: int, n: int, ties: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    late = (draw.random(n) < 0.3).astype(float)
    late[:2] = 0, 1
    p = np.clip(0.3 + 0.2 * late + draw.normal(0, 0.2, n), 0.01, 0.99)
    return late, np.round(p, 1) if ties else p, draw.integers(0, 7, n)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_each_metric_is_scikit_learns_on_the_data_and_on_every_resample(
    seed: int, ties: bool
) -> None:
    late, p, day = sample(seed, 400, ties)
    weights, position = resample.day_weights(day, 20, seed)
    ours = evaluate.all_metrics(late, p, position, weights, bins=10)
    for i, row in enumerate(weights):
        w = row[position]
        assert ours["roc_auc"][i] == pytest.approx(roc_auc_score(late, p, sample_weight=w))
        assert ours["pr_auc"][i] == pytest.approx(average_precision_score(late, p, sample_weight=w))
        assert ours["log_loss"][i] == pytest.approx(log_loss(late, p, sample_weight=w))
        assert ours["brier"][i] == pytest.approx(brier_score_loss(late, p, sample_weight=w))


def test_the_bootstrap_draws_whole_days_as_many_as_there_are() -> None:
    day = np.array([5, 5, 5, 9, 9, 30])
    weights, position = resample.day_weights(day, 200, seed=1)
    assert weights.shape == (201, 3)
    assert (weights[0] == 1).all()
    assert (weights.sum(axis=1) == 3).all()
    np.testing.assert_array_equal(position, [0, 0, 0, 1, 1, 2])
    (flights,) = (weights @ resample.day_sums(position, 3, np.ones(6))).T
    assert set(flights) <= {3 * a + 2 * b + c for a in range(4) for b in range(4) for c in range(4)}


def test_days_that_differ_widen_the_interval_that_single_flights_would_give() -> None:
    draw = np.random.default_rng(0)
    day = np.repeat(np.arange(30), 100)
    late = (draw.random(3000) < np.repeat(draw.random(30), 100)).astype(float)
    width = {}
    for name, unit in (("days", day), ("flights", np.arange(3000))):
        weights, position = resample.day_weights(unit, 300, seed=0)
        share = evaluate.Estimate.of(resample.means(position, weights, late)[0])
        width[name] = share.high - share.low
    assert width["days"] > 3 * width["flights"]


def test_the_interval_is_the_middle_95_percent_of_the_resamples() -> None:
    estimate = evaluate.Estimate.of(np.append(7.0, np.arange(0, 101)))
    assert (estimate.value, estimate.low, estimate.high) == (7.0, 2.5, 97.5)


def test_calibration_error_by_hand() -> None:
    p = np.array([0.1, 0.1, 0.4, 0.4])
    late = np.array([0.0, 1.0, 0.0, 0.0])
    weights, position = resample.day_weights(np.array([0, 0, 1, 1]), 0, seed=0)
    # two bins of two flights: |0.5 - 0.1| and |0.0 - 0.4|
    error = resample.calibration_error(late, p, position, weights, bins=2)
    assert error[0] == pytest.approx(0.4)


def test_gains_are_paired_and_above_zero_when_the_first_is_better() -> None:
    late, p, day = sample(0, 500, ties=False)
    weights, position = resample.day_weights(day, 50, seed=0)
    noise = np.random.default_rng(9).random(500)
    figures, gains = evaluate.compare(
        late, {"model": p, "same": p, "noise": noise}, position, weights, 10
    )
    for metric in evaluate.METRICS:
        same = gains["same"][metric]
        assert (same.value, same.low, same.high) == (0, 0, 0)
        assert gains["noise"][metric].value > 0
        sign = 1 if metric in evaluate.HIGHER_IS_BETTER else -1
        assert gains["noise"][metric].value == pytest.approx(
            sign * (figures["model"][metric].value - figures["noise"][metric].value)
        )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.9])),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 9),
)
def test_no_threshold_costs_less_than_the_chosen_one(
    flights: list[tuple[bool, float]], cost: int
) -> None:
    late = np.array([is_late for is_late, _ in flights], dtype=float)
    p = np.array([p for _, p in flights])

    def saved(threshold: float) -> float:
        return sum(10 * y - cost for y, q in zip(late, p, strict=True) if q >= threshold)

    chosen = evaluate.best_threshold(late, p, cost, 10)
    assert saved(chosen) == max(saved(t) for t in [*p, evaluate.NOBODY])
    assert evaluate.savings(late, p, chosen, cost, 10).sum() == saved(chosen)


def test_a_decision_by_hand() -> None:
    late = np.array([1.0, 0.0, 1.0, 0.0, 0.0])
    p = np.array([0.9, 0.8, 0.2, 0.1, 0.1])
    weights, position = resample.day_weights(np.arange(5), 10, seed=0)
    decision, _ = evaluate.decide(late, p, 0.5, position, weights, 200, 800)
    assert decision.precision.value == 0.5
    assert decision.recall.value == 0.5
    assert decision.flagged_share.value == pytest.approx(0.4)
    assert decision.saved_per_1000.value == pytest.approx(1000 * (800 - 2 * 200) / 5)
    assert decision.saved_with_hindsight == pytest.approx(1000 * (2 * 800 - 3 * 200) / 5)


def test_only_what_the_model_uses_is_important_and_views_are_shuffled_whole() -> None:
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"used": draw.random(2000), "unused": draw.random(2000)})
    frame["twin"] = frame["used"]
    late = (draw.random(2000) < frame["used"]).astype(float).to_numpy()
    weights, position = resample.day_weights(np.arange(2000) % 20, 30, seed=0)
    seen = []

    def predict(inputs: pd.DataFrame) -> np.ndarray:
        seen.append((inputs["used"] == inputs["twin"]).all())
        p: np.ndarray = inputs["used"].to_numpy()
        return p

    found = evaluate.importance(
        predict,
        frame,
        late,
        position,
        weights,
        [("unused", "b", ["unused"]), ("twins", "a", ["used", "twin"])],
        seed=0,
    )
    assert [each.name for each in found] == ["twins", "unused"]
    assert found[0].auc_lost.low > 0.1
    assert found[1].auc_lost.value == 0
    assert all(seen)  # columns of one view keep belonging together
