"""How good the model is, how sure of that one can be, and what it is worth in money.

Every interval comes from the same bootstrap over whole days: flights of one day share its
weather and its queues, so a day counts once, not its thousand flights. The first of the
resamples is the data as it is; every figure is computed for all resamples at once. Not for
training anything, and not for drawing: that is `report`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hindcast.resample import (
    calibration_error,
    day_weights,
    log_losses,
    means,
    roc_auc,
)
from training.dataset import Dataset
from training.settings import Settings

METRICS = {
    "roc_auc": "ROC AUC",
    "pr_auc": "PR AUC",
    "log_loss": "Log loss",
    "brier": "Brier",
    "calibration_error": "Calibration error",
}
HIGHER_IS_BETTER = ("roc_auc", "pr_auc")
NOBODY = 1.1
"""A threshold above every probability: nobody is flagged."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, resampled: np.ndarray) -> "Estimate":
        """From a figure over all resamples, the first being the data as it is."""
        spread = resampled[1:][~np.isnan(resampled[1:])]
        low, high = np.percentile(spread, [2.5, 97.5]) if spread.size else (np.nan, np.nan)
        return cls(float(resampled[0]), float(low), float(high))


def pr_auc(
    late: np.ndarray, p: np.ndarray, position: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Average precision per resample, as scikit-learn defines it."""
    order = np.argsort(-p, kind="stable")
    late_first, position_first = late[order], position[order]
    last_of_tie = np.flatnonzero(np.append(np.diff(p[order]) != 0, True))
    areas = np.empty(len(weights))
    for i, row in enumerate(weights):
        weight = row[position_first]
        found = np.cumsum(weight * late_first)[last_of_tie]
        flagged = np.cumsum(weight)[last_of_tie]
        precision = np.divide(found, flagged, out=np.zeros_like(found), where=flagged > 0)
        total = found[-1]
        areas[i] = np.diff(found, prepend=0) @ precision / total if total else np.nan
    return areas


def all_metrics(
    late: np.ndarray, p: np.ndarray, position: np.ndarray, weights: np.ndarray, bins: int
) -> dict[str, np.ndarray]:
    """The five figures of METRICS, each for all resamples."""
    loss, brier = means(position, weights, log_losses(late, p), (p - late) ** 2)
    return {
        "roc_auc": roc_auc(late, p, position, weights),
        "pr_auc": pr_auc(late, p, position, weights),
        "log_loss": loss,
        "brier": brier,
        "calibration_error": calibration_error(late, p, position, weights, bins),
    }


def compare(
    late: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    position: np.ndarray,
    weights: np.ndarray,
    bins: int,
) -> tuple[dict[str, dict[str, Estimate]], dict[str, dict[str, Estimate]]]:
    """Each predictor's figures, and how much the first beats each of the others by.

    The differences are paired: both predictors are judged on the same resampled days. Their
    sign is turned so that above 0 always means that the first is better.
    """
    figures = {
        name: all_metrics(late, p, position, weights, bins) for name, p in predictions.items()
    }
    first, *others = figures
    gains = {
        other: {
            metric: Estimate.of(
                (figures[first][metric] - figures[other][metric])
                * (1 if metric in HIGHER_IS_BETTER else -1)
            )
            for metric in METRICS
        }
        for other in others
    }
    values = {
        name: {metric: Estimate.of(samples) for metric, samples in each.items()}
        for name, each in figures.items()
    }
    return values, gains


# -- importance --------------------------------------------------------------------------


@dataclass(frozen=True)
class Importance:
    """What is lost when a feature, or a whole view, is shuffled among the flights."""

    name: str
    view: str
    auc_lost: Estimate
    log_loss_gained: Estimate


def importance(
    predict: Callable[[pd.DataFrame], np.ndarray],
    frame: pd.DataFrame,
    late: np.ndarray,
    position: np.ndarray,
    weights: np.ndarray,
    blocks: Sequence[tuple[str, str, list[str]]],
    seed: int,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Importance]:
    """Permutation importance of blocks (name, view, columns), worst loss first.

    The columns of a block are shuffled together, so a view keeps its inner sense and loses
    only its link to the flight.
    """

    def figures(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (loss,) = means(position, weights, log_losses(late, p))
        return roc_auc(late, p, position, weights), loss

    auc, loss = figures(predict(frame))
    shuffled = np.random.default_rng(seed).permutation(len(frame))
    found = []
    for i, (name, view, columns) in enumerate(blocks, start=1):
        tell(f"{i} of {len(blocks)}: {name}")
        changed = frame.copy(deep=False)
        for column in columns:
            changed[column] = frame[column].to_numpy()[shuffled]
        auc_without, loss_without = figures(predict(changed))
        found.append(
            Importance(name, view, Estimate.of(auc - auc_without), Estimate.of(loss_without - loss))
        )
    return sorted(found, key=lambda each: -each.auc_lost.value)


# -- money -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decision:
    """A threshold, chosen on the tuning days, and what it does on the test days."""

    threshold: float
    flagged_share: Estimate
    precision: Estimate
    recall: Estimate
    saved_per_1000: Estimate
    """Money, against flagging nobody."""
    saved_with_hindsight: float
    """The same with the threshold that is best on the test days: more than one can have."""


def best_threshold(late: np.ndarray, p: np.ndarray, flag_cost: float, late_benefit: float) -> float:
    """The threshold (flag if p >= it) that costs least; the highest of several such."""
    order = np.argsort(-p, kind="stable")
    last_of_tie = np.flatnonzero(np.append(np.diff(p[order]) != 0, True))
    flagged = last_of_tie + 1
    saved = late_benefit * np.cumsum(late[order])[last_of_tie] - flag_cost * flagged
    best = int(np.argmax(saved))
    return float(p[order][last_of_tie[best]]) if saved[best] > 0 else NOBODY


def savings(
    late: np.ndarray, p: np.ndarray, threshold: float, flag_cost: float, late_benefit: float
) -> np.ndarray:
    """Money saved by each flight's decision, against not flagging it."""
    saved: np.ndarray = (p >= threshold) * (late_benefit * late - flag_cost)
    return saved


def decide(
    late: np.ndarray,
    p: np.ndarray,
    threshold: float,
    position: np.ndarray,
    weights: np.ndarray,
    flag_cost: float,
    late_benefit: float,
) -> tuple[Decision, np.ndarray]:
    """What a threshold does, and the money saved per 1,000 flights in each resample."""
    flag = 1.0 * (p >= threshold)
    money = savings(late, p, threshold, flag_cost, late_benefit)
    flagged, hits, n_late, saved = means(position, weights, flag, flag * late, late, money)
    hindsight = best_threshold(late, p, flag_cost, late_benefit)
    with np.errstate(invalid="ignore", divide="ignore"):
        decision = Decision(
            threshold=threshold,
            flagged_share=Estimate.of(flagged),
            precision=Estimate.of(hits / flagged),
            recall=Estimate.of(hits / n_late),
            saved_per_1000=Estimate.of(1000 * saved),
            saved_with_hindsight=1000
            * float(savings(late, p, hindsight, flag_cost, late_benefit).mean()),
        )
    return decision, 1000 * saved


# -- all of it ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluation:
    """Everything that is said about a model. By predictor name, the model first."""

    titles: dict[str, str]
    test_flights: int
    test_days: int
    late_share: float
    metrics: dict[str, dict[str, Estimate]]
    gains: dict[str, dict[str, Estimate]]
    decisions: dict[str, Decision]
    saved_more: dict[str, Estimate]
    months: dict[str, dict[str, Estimate]]
    views: list[Importance]
    features: list[Importance]
    importance_flights: int


def evaluate(
    data: Dataset,
    predictions: Mapping[str, np.ndarray],
    predict: Callable[[pd.DataFrame], np.ndarray],
    settings: Settings,
    tell: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Judge predictors on the test days; `predictions` hold P(late) by row of the data.

    `predict` is the model itself, for the importances.
    """
    tune, test = data.rows("tune"), data.rows("test")
    late = data.late[test]
    weights, position = day_weights(data.day[test], settings.resamples, settings.seed)
    on_test = {name: p[test] for name, p in predictions.items()}
    model = next(iter(predictions))

    tell("figures and intervals")
    metrics, gains = compare(late, on_test, position, weights, settings.calibration_bins)

    tell("money")
    cost = (settings.flag_cost, settings.late_benefit)
    thresholds = {
        name: best_threshold(data.late[tune], p[tune], *cost) for name, p in predictions.items()
    }
    decided = {
        name: decide(late, p, thresholds[name], position, weights, *cost)
        for name, p in on_test.items()
    }
    everybody = decide(late, np.ones_like(late), 0.0, position, weights, *cost)
    decided["flag everybody"] = everybody
    mine = decided[model][1]

    draw = np.random.default_rng(settings.seed)
    drawn = np.sort(draw.permutation(len(test))[: settings.importance_rows])
    sample = data.frame.iloc[test[drawn]]
    judge = (predict, sample, late[drawn], position[drawn], weights)
    whole = [(view, view, columns) for view, columns in data.views.items()]
    single = [(c.name, c.view, [c.name]) for c in data.columns]

    return Evaluation(
        titles=METRICS,
        test_flights=len(test),
        test_days=weights.shape[1],
        late_share=float(late.mean()),
        metrics=metrics,
        gains=gains,
        decisions={name: decision for name, (decision, _) in decided.items()},
        saved_more={
            name: Estimate.of(mine - saved) for name, (_, saved) in decided.items() if name != model
        },
        months=auc_by_month(data, predictions, settings),
        views=importance(*judge, whole, settings.seed, tell),
        features=importance(*judge, single, settings.seed, tell),
        importance_flights=len(drawn),
    )


def months_of(instants: pd.Series, zone: str) -> np.ndarray:
    """The local month of each instant, as `2013-11`."""
    local = instants.dt.tz_convert(zone).dt.tz_localize(None)
    months: np.ndarray = local.to_numpy().astype("datetime64[M]").astype(str)
    return months


def auc_by_month(
    data: Dataset, predictions: Mapping[str, np.ndarray], settings: Settings
) -> dict[str, dict[str, Estimate]]:
    """ROC AUC of each predictor in each month that the trees were not fitted on."""
    rows = np.sort(np.concatenate([data.rows("tune"), data.rows("test")]))
    months = months_of(data.frame["predict_at"].iloc[rows], settings.zone)
    found: dict[str, dict[str, Estimate]] = {}
    for month in np.unique(months):
        here = rows[months == month]
        weights, position = day_weights(data.day[here], settings.resamples, settings.seed)
        found[str(month)] = {
            name: Estimate.of(roc_auc(data.late[here], p[here], position, weights))
            for name, p in predictions.items()
        }
    return found
