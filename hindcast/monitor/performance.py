"""How good the model is by what came true, against its first days, with what chance may do.

Predictions are counted once by day; every figure is a function of sums of days, and its interval
comes from drawing days anew in blocks (see `drift`), since those of one day share their luck.
Outcomes become rarer or more frequent by themselves: what is judged are measures that this alone
does not move much.

- `roc_auc`: the area under the ROC curve, scores in a thousand classes. The loss of it.
- `log_loss`: the share of the log loss of the window's own base rate that the model saves. The
  loss of that.
- `calibration`: the mean score less the share that came true; how far it is from 0.
- `cost`: the money that acting from the threshold on saves, as a share of what perfect foresight
  would have saved. The loss of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hindcast.config import Limits
from hindcast.monitor.checks import Check
from hindcast.monitor.drift import RESAMPLES, block_weights
from hindcast.monitor.predictions import Model, Scored

CLASSES = 1000
LEAST_OUTCOMES = 200
"""Fewer, or one kind only, say nothing."""


@dataclass(frozen=True)
class Figures:
    """The measures of one period over all draws, the first being the period as it is."""

    outcomes: int
    base_rate: float
    raw_log_loss: float
    saved_per_1000: float
    measures: dict[str, np.ndarray]


def judge(
    window: Scored,
    reference: Scored | None,
    model: Model,
    limits: Callable[[str, str], Limits],
    *,
    subject: str,
    false_alarms: float,
    seed: int = 0,
) -> list[Check]:
    """The performance of a window: against the reference where there is one, else calibration.

    Each of the checks may be wrong in its part of `false_alarms`.
    """
    random = np.random.default_rng(seed)
    now = figures(window, model, random)
    then = figures(reference, model, random) if reference is not None else None
    if now is None:
        return []
    checks = []
    names = [name for name in now.measures if then is not None or name == "calibration"]
    for name in names:
        limit = limits(subject, name)
        if limit == (None, None):
            continue
        drawn = now.measures[name]
        if name == "calibration":
            loss = drawn
            value = abs(loss[0])
            baseline = None
            spread = np.abs(loss[1:] - loss[0])
        else:
            assert then is not None
            loss = then.measures[name] - drawn
            value, baseline = loss[0], float(then.measures[name][0])
            spread = loss[1:] - loss[0]
        low, high = np.nanpercentile(drawn[1:], [2.5, 97.5])
        checks.append(
            Check(
                subject,
                name,
                float(value),
                limit,
                noise=float(np.nanquantile(spread, 1 - false_alarms / len(names))),
                baseline=baseline,
                now=float(drawn[0]),
                low=float(low),
                high=float(high),
                detail=_detail(name, now),
            )
        )
    return checks


def figures(scored: Scored, model: Model, random: np.random.Generator) -> Figures | None:
    """Every measure of a period; None where too few outcomes are known."""
    known = ~np.isnan(scored.outcome)
    day, p, y = scored.day[known], scored.score[known], scored.outcome[known]
    if known.sum() < LEAST_OUTCOMES or y.min() == y.max():
        return None
    days = scored.period.days
    weights = np.vstack([np.ones((1, days)), block_weights(days, days, RESAMPLES, random)])
    sure = np.clip(p, 1e-15, 1 - 1e-15)
    losses = -np.where(y == 1, np.log(sure), np.log1p(-sure))
    flagged = p >= model.threshold

    def total(values: np.ndarray) -> np.ndarray:
        summed: np.ndarray = weights @ np.bincount(day, values, minlength=days)
        return summed

    with np.errstate(divide="ignore", invalid="ignore"):
        n, came_true = total(np.ones(len(p))), total(y)
        rate = came_true / n
        entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
        log_loss = total(losses) / n
        saved = model.flag_benefit * total(flagged * y) - model.flag_cost * total(flagged * 1.0)
        possible = (model.flag_benefit - model.flag_cost) * came_true
        measures = {
            "roc_auc": _areas(day, p, y, weights),
            "log_loss": 1 - log_loss / entropy,
            "calibration": total(p) / n - rate,
            "cost": saved / possible,
        }
    return Figures(
        int(known.sum()),
        float(rate[0]),
        float(log_loss[0]),
        float(1000 * saved[0] / n[0]),
        measures,
    )


def _areas(day: np.ndarray, p: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The ROC AUC of each draw of days."""
    edges = np.unique(np.quantile(p, np.linspace(0, 1, CLASSES + 1)[1:-1]))
    place, size, days = np.searchsorted(edges, p, side="right"), len(edges) + 1, weights.shape[1]
    flat = day * size + place
    true, false = (
        weights @ np.bincount(flat, side, minlength=days * size).reshape(days, size)
        for side in (y, 1 - y)
    )
    below = np.cumsum(false, axis=1) - false / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        areas: np.ndarray = (true * below).sum(axis=1) / (true.sum(axis=1) * false.sum(axis=1))
    return areas


def _detail(name: str, now: Figures) -> str:
    return {
        "roc_auc": f"{now.outcomes:,} outcomes",
        "log_loss": f"log loss {now.raw_log_loss:.3f} at a base rate of {now.base_rate:.1%}",
        "calibration": f"{now.base_rate:.1%} came true",
        "cost": f"saves {now.saved_per_1000:,.0f} per 1,000 predictions",
    }[name]
