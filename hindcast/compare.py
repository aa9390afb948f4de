"""Two models on the same days: by how much is one better, and is that more than chance?

Both are judged on the same flights (or whatever a row is), and every interval comes from the
same resamples of whole days: rows of one day share its weather and its queues, so a day counts
once. Not for what follows from it: that is `retrain`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hindcast.errors import HindcastError
from hindcast.resample import day_weights, log_losses, means, roc_auc

Floats = npt.NDArray[np.float64]

METRICS = {
    "roc_auc": "ROC AUC",
    "log_loss": "log loss",
    "saved_per_1000": "saved per 1,000",
}
LOWER_IS_BETTER = ("log_loss",)
NEEDED = ("predict_at", "p", "label")


class NothingToJudgeError(HindcastError):
    """Too few outcomes are known, or days there, to say anything of a model."""


@dataclass(frozen=True)
class Figure:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, resampled: Floats, days: int) -> Figure:
        """From a figure over all resamples of so many days, the first being the data as it is.

        The spread of the resamples, made wider as Student's t asks for few days: percentiles of
        two weeks' resamples would call 6 % of equal challengers better, not 2.5 %.
        """
        from scipy.stats import t

        spread = float(np.nanstd(resampled[1:])) * (days / (days - 1)) ** 0.5
        half = float(t.ppf(0.975, days - 1)) * spread
        value = float(resampled[0])
        return cls(value, value - half, value + half)


@dataclass(frozen=True)
class Money:
    """What acting on a row costs, and what it saves if the row's label is true."""

    act_cost: float
    act_benefit: float


@dataclass(frozen=True)
class Comparison:
    """The figures of both, and the gains: above 0, the challenger is better."""

    rows: int
    days: int
    first: str
    last: str
    champion: dict[str, Figure]
    challenger: dict[str, Figure]
    gain: dict[str, Figure]

    @property
    def better(self) -> bool:
        """Beyond noise: the ROC AUC is higher, and the log loss is not higher."""
        return self.gain["roc_auc"].low > 0 and self.gain["log_loss"].high >= 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def figures(
    label: Floats,
    p: Floats,
    threshold: float,
    money: Money,
    day: npt.NDArray[np.intp],
    weights: Floats,
) -> dict[str, Floats]:
    """Each of METRICS for all resamples; money is against acting on nothing."""
    saved = (p >= threshold) * (money.act_benefit * label - money.act_cost)
    loss, money_saved = means(day, weights, log_losses(label, p), saved)
    return {
        "roc_auc": roc_auc(label, p, day, weights),
        "log_loss": loss,
        "saved_per_1000": 1000 * money_saved,
    }


def compare(
    champion: pd.DataFrame,
    challenger: pd.DataFrame,
    thresholds: tuple[float, float],
    money: Money,
    zone: str,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Judge two models by their scores of the same rows, as the score command wrote them.

    A scores frame has `predict_at`, `p`, `label` (NULL: none known) and the key of a row.
    `thresholds` are the champion's and the challenger's; days are those of `zone`.

    Raises:
        HindcastError: a frame lacks a column, or the rows are not the same.
        NothingToJudgeError: they are of fewer than two days, or have no two classes.
    """
    both = paired(champion, challenger)
    if both.empty:
        raise NothingToJudgeError("no outcome of the days to be judged is known yet; judge later")
    day, days = days_of(both["predict_at"], zone)
    if len(days) < 2:
        raise NothingToJudgeError(f"outcomes are known of one day only, {days[0]}; judge later")
    weights, _ = day_weights(day, resamples, seed)
    label = np.asarray(both["label"], dtype="float64")
    if not 0 < label.sum() < len(label):
        raise NothingToJudgeError(
            f"all {len(label):,} outcomes from {days[0]} to {days[-1]} are the same, so nothing "
            "can be told of a model; judge more days"
        )
    of = [
        figures(label, both[name].to_numpy(), threshold, money, day, weights)
        for name, threshold in zip(("p", "p_challenger"), thresholds, strict=True)
    ]
    return Comparison(
        rows=len(both),
        days=len(days),
        first=days[0],
        last=days[-1],
        champion={name: Figure.of(of[0][name], len(days)) for name in METRICS},
        challenger={name: Figure.of(of[1][name], len(days)) for name in METRICS},
        gain={
            name: Figure.of(
                (of[1][name] - of[0][name]) * (-1 if name in LOWER_IS_BETTER else 1), len(days)
            )
            for name in METRICS
        },
    )


def auc_alone(scores: pd.DataFrame, zone: str, *, resamples: int = 1000, seed: int = 0) -> Figure:
    """The ROC AUC of one model's scores, with the interval of the same bootstrap.

    Raises:
        HindcastError: the scores lack a column.
        NothingToJudgeError: they are of fewer than two days, or have no two classes.
    """
    require(scores)
    known = scores[scores["label"].notna()]
    label = np.asarray(known["label"], dtype="float64")
    if not 0 < label.sum() < len(label):
        raise NothingToJudgeError(
            f"the {len(label):,} outcomes known of the days to be judged are not of two kinds, so "
            "there is no ROC AUC; judge more days"
        )
    day, days = days_of(known["predict_at"], zone)
    if len(days) < 2:
        raise NothingToJudgeError(f"outcomes are known of one day only, {days[0]}; judge later")
    weights, _ = day_weights(day, resamples, seed)
    return Figure.of(roc_auc(label, known["p"].to_numpy(), day, weights), len(days))


def paired(champion: pd.DataFrame, challenger: pd.DataFrame) -> pd.DataFrame:
    """One row per row with a known label: `p` is the champion's, `p_challenger` the other's.

    Raises:
        HindcastError: the two did not score the same rows.
    """
    for scores in (champion, challenger):
        require(scores)
    key = [name for name in champion.columns if name not in ("p", "label")]
    other = challenger[[*key, "p"]].rename(columns={"p": "p_challenger"})
    both = champion.merge(other, on=key, validate="one_to_one")
    if not len(both) == len(champion) == len(challenger):
        raise HindcastError(
            f"champion and challenger did not score the same rows: {len(champion):,} and "
            f"{len(challenger):,}, {len(both):,} of them in common; both must be scored by the "
            "same command on the same snapshot"
        )
    return both[both["label"].notna()]


def require(scores: pd.DataFrame) -> None:
    """Raise HindcastError if scores lack a column, or a score is none."""
    missing = [name for name in NEEDED if name not in scores.columns]
    if missing:
        raise HindcastError(
            f"the scores lack {', '.join(missing)}; the score command of hindcast.yml must write "
            f"{', '.join(NEEDED)} and the key of each row"
        )
    if not scores["p"].between(0, 1).all():
        raise HindcastError("the scores hold a p that is not from 0 to 1")


def days_of(instants: pd.Series, zone: str) -> tuple[npt.NDArray[np.intp], list[str]]:
    """The place of each instant's local day, and the days in order."""
    local = instants.dt.tz_convert(zone).dt.strftime("%Y-%m-%d")
    days, place = np.unique(local.to_numpy(dtype=str), return_inverse=True)
    return place, [str(day) for day in days]
