"""Where the model is better and where worse: figures by slice, and which differences are real.

A slice is compared with all other test flights, on the same resampled days, so that a bad day
of both cancels out. Many slices are looked at, so some look bad by chance: only differences
that stand after Benjamini and Hochberg's correction get a verdict. Not for figures of all
flights (`evaluate`), and not for words (`card`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from hindcast.resample import day_sums, means, roc_auc
from training.evaluate import Estimate, months_of

MEASURES = {
    "ranking": "ROC AUC",
    "bias": "predicted minus actual late share",
    "misses": "share of late flights not flagged",
    "false_alarms": "share of punctual flights flagged",
}
RATES = ("misses", "false_alarms")
"""The error rates: those that are tested for any difference within a grouping."""

LEAST_OF_A_KIND = 20
"""A rate made of fewer flights of either kind (missed and found, say) is not compared."""

NO_SPREAD = 1e-12
"""A jackknife's standard error up to here is rounding: nothing varied from day to day."""

LEAST_DAYS = 15
"""A slice that flew on fewer days is not compared: days are what the intervals are made of."""

SHARES_OF_FLIGHTS = (0.5, 0.9)
"""Large destinations have half of the flights together, small ones the last tenth."""


@dataclass(frozen=True)
class Comparison:
    """A measure in a slice against all other flights. `verdict`: worse, better or empty."""

    here: Estimate
    elsewhere: float
    difference: Estimate
    p: float
    p_adjusted: float = np.nan
    verdict: str = ""


@dataclass(frozen=True)
class Slice:
    """The model on some of the flights. A measure that too few flights tell of is not compared."""

    name: str
    n: int
    late: int
    late_share: Estimate
    mean_p: float
    precision: Estimate
    foretold: dict[str, float]
    """The error rates if all its probabilities are right: so much comes of its risks alone."""
    compared: dict[str, Comparison]


@dataclass(frozen=True)
class GroupTest:
    """Whether an error rate is the same in all slices of a grouping."""

    group: str
    measure: str
    slices: int
    lowest: str
    highest: str
    gap: float
    p: float
    p_adjusted: float = np.nan


def slice_groups(frame: pd.DataFrame, flights_to: pd.Series, zone: str) -> dict[str, pd.Series]:
    """How flights are sliced; `flights_to`: flights to each destination on the fitting days."""
    local = frame["sched_dep_at"].dt.tz_convert(zone)
    bands = pd.cut(
        frame["distance_mi"],
        [0, 500, 1000, 1500, 2000, np.inf],
        right=False,
        labels=["under 500 mi", "500-999 mi", "1000-1499 mi", "1500-1999 mi", "2000 mi and more"],
    )
    return {
        "Origin": frame["origin"],
        "Carrier": frame["carrier"],
        "Distance": bands,
        "Destination": destination_sizes(frame["dest"], flights_to),
        "Hour of departure": local.dt.hour.map("{:02d}:00".format),
        "Month": pd.Series(months_of(frame["sched_dep_at"], zone), index=frame.index),
    }


def destination_sizes(dest: pd.Series, flights_to: pd.Series) -> pd.Series:
    """Large, medium or small, by the flights to each; one that had none is small."""
    by_size = flights_to.sort_values(ascending=False, kind="stable")
    reached = by_size.cumsum().shift(fill_value=0) / by_size.sum()
    place = np.searchsorted(SHARES_OF_FLIGHTS, reached, side="right")
    sizes = ["large", "medium", "small"]
    counts = [int((place == i).sum()) for i in range(len(sizes))]
    names = [f"{size}, {n} airport{'s' * (n != 1)}" for size, n in zip(sizes, counts, strict=True)]
    size = dest.map(pd.Series(place, index=by_size.index)).fillna(2).astype(int)
    sized = pd.Categorical.from_codes(size.tolist(), categories=pd.Index(names))
    return pd.Series(sized, index=dest.index)


def error_counts(late: np.ndarray, flag: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each error rate the flights in error, and those that could be: 0 or 1 each.

    With probabilities for `late`, what is to be expected of both.
    """
    return {"misses": (late * (1 - flag), late), "false_alarms": ((1 - late) * flag, 1 - late)}


def resampled(
    late: np.ndarray, p: np.ndarray, flag: np.ndarray, position: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Each measure over all resamples, the first being the data as it is."""
    mean_p, share = means(position, weights, p, late)
    found = {"ranking": roc_auc(late, p, position, weights), "bias": mean_p - share}
    for rate, counts in error_counts(late, flag).items():
        errors, possible = means(position, weights, *counts)
        with np.errstate(invalid="ignore", divide="ignore"):
            found[rate] = errors / possible
    return found


def enough(late: np.ndarray, flag: np.ndarray, position: np.ndarray) -> Iterator[str]:
    """The measures that these flights are enough for."""
    if len(np.unique(position)) < LEAST_DAYS:
        return
    if min(late.sum(), (1 - late).sum()) >= LEAST_OF_A_KIND:
        yield from ("ranking", "bias")
    for rate, (errors, possible) in error_counts(late, flag).items():
        if min(errors.sum(), possible.sum() - errors.sum()) >= LEAST_OF_A_KIND:
            yield rate


def without_each_day(days: int) -> np.ndarray:
    """Weights that leave out one day after the other: (days, days)."""
    return 1 - np.eye(days)


def jackknifed(whole: np.ndarray, without: np.ndarray) -> np.ndarray:
    """The covariance of figures, from what they are without each day: (days, figures).

    The jackknife over clusters, centred on the figures of all days; where a few days weigh much
    it errs less on the small side than the spread of a bootstrap. What differs by no more than
    rounding does not differ.
    """
    days, apart = len(without), without - whole
    covariance: np.ndarray = (days - 1) / days * apart.T @ apart
    return np.where(abs(covariance) <= NO_SPREAD**2, 0.0, covariance)


def compare(here: np.ndarray, elsewhere: np.ndarray, all_days: int, days: int) -> Comparison:
    """A measure over the same resamples of two sets of flights, then without each of all days.

    The test is a t-test of their difference by the jackknife; `days` are those of the slice.
    Where nothing varies from day to day there is nothing to test by: p is 1, however large the
    difference. A spread of 0 tells that the data is no sample of days, not that it is certain.
    """
    gap = here - elsewhere
    (variance,) = jackknifed(gap[0], gap[-all_days:, None])[0]
    p = 2 * stats.t.sf(abs(gap[0]) / variance**0.5, days - 1) if variance > 0 else 1.0
    return Comparison(
        Estimate.of(here[:-all_days]),
        float(elsewhere[0]),
        Estimate.of(gap[:-all_days]),
        float(p),
    )


def one_slice(
    name: str,
    here: np.ndarray,
    late: np.ndarray,
    p: np.ndarray,
    flag: np.ndarray,
    position: np.ndarray,
    weights: np.ndarray,
    judged: bool,
) -> Slice:
    """The figures of the flights `here`, compared with all others if they are enough."""
    y, q, f, at = late[here], p[here], flag[here], position[here]
    share, hits, flagged = means(at, weights, y, y * f, f)
    compared = {}
    there = ~here
    common = set(enough(y, f, at)) & set(enough(late[there], flag[there], position[there]))
    if judged and common:
        days = weights.shape[1]
        drawn = np.vstack([weights, without_each_day(days)])
        mine = resampled(y, q, f, at, drawn)
        others = resampled(late[there], p[there], flag[there], position[there], drawn)
        compared = {
            measure: compare(mine[measure], others[measure], days, len(np.unique(at)))
            for measure in MEASURES
            if measure in common
        }
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = Estimate.of(hits / flagged)
    return Slice(
        name=name,
        n=len(y),
        late=int(y.sum()),
        late_share=Estimate.of(share),
        mean_p=float(q.mean()),
        precision=precision,
        foretold={
            rate: float(errors.sum() / possible.sum())
            for rate, (errors, possible) in error_counts(q, f).items()
        },
        compared=compared,
    )


def slices(
    groups: Mapping[str, pd.Series],
    late: np.ndarray,
    p: np.ndarray,
    threshold: float,
    position: np.ndarray,
    weights: np.ndarray,
    least: int,
    false_discovery: float,
) -> dict[str, list[Slice]]:
    """The figures for each value of each grouping, in the order of the values, with verdicts.

    A slice with fewer than `least` flights is counted, not compared. Of all verdicts together
    at most the share `false_discovery` is expected to be by chance.
    """
    flag = 1.0 * (p >= threshold)
    found: dict[str, list[Slice]] = {}
    for group, values in groups.items():
        members = {
            str(value): (values == value).to_numpy()
            for value in values.astype("category").cat.categories
        }
        found[group] = [
            one_slice(name, here, late, p, flag, position, weights, least <= here.sum() < len(late))
            for name, here in members.items()
            if here.any()
        ]
    return with_verdicts(found, false_discovery)


def with_verdicts(
    found: Mapping[str, list[Slice]], false_discovery: float
) -> dict[str, list[Slice]]:
    """The same slices with adjusted p-values, all comparisons of all groupings being one family."""
    raw = [c.p for rows in found.values() for each in rows for c in each.compared.values()]
    adjusted = iter(stats.false_discovery_control(raw) if raw else [])

    def judged(measure: str, comparison: Comparison) -> Comparison:
        p = float(next(adjusted))
        here, gap = comparison.here.value, comparison.difference.value
        worse = {
            "ranking": gap < 0,
            "bias": abs(here) > abs(comparison.elsewhere),
            "misses": gap > 0,
            "false_alarms": gap > 0,
        }[measure]
        verdict = ("worse" if worse else "better") if p <= false_discovery else ""
        return replace(comparison, p_adjusted=p, verdict=verdict)

    return {
        group: [
            replace(each, compared={m: judged(m, c) for m, c in each.compared.items()})
            for each in rows
        ]
        for group, rows in found.items()
    }


def group_tests(
    groups: Mapping[str, pd.Series],
    judged: Mapping[str, list[Slice]],
    late: np.ndarray,
    flag: np.ndarray,
    position: np.ndarray,
) -> list[GroupTest]:
    """For each grouping and error rate: is the rate the same in all slices that are compared?

    Hotelling's test on the slices' rates, with their covariance by the jackknife over days. Where
    none of them varies from day to day, p is 1 (see `compare`).
    """
    found = []
    days = int(position.max()) + 1
    for group, rows in judged.items():
        for measure in RATES:
            names = [each.name for each in rows if measure in each.compared]
            if not 2 <= len(names) <= days // 2:
                continue
            errors, possible = error_counts(late, flag)[measure]
            here = [(groups[group].astype(str) == name).to_numpy() for name in names]
            wrong = day_sums(position, days, *(errors * each for each in here))
            of = day_sums(position, days, *(possible * each for each in here))
            rates = wrong.sum(axis=0) / of.sum(axis=0)
            without = (wrong.sum(axis=0) - wrong) / (of.sum(axis=0) - of)
            gaps = rates[:-1] - rates[-1]
            q = len(gaps)
            covariance = jackknifed(gaps, without[:, :-1] - without[:, -1:])
            squared = gaps @ np.linalg.pinv(covariance) @ gaps
            p = stats.f.sf(squared * (days - q) / (q * (days - 1)), q, days - q)
            order = np.argsort(rates)
            found.append(
                GroupTest(
                    group,
                    measure,
                    len(names),
                    names[order[0]],
                    names[order[-1]],
                    float(np.ptp(rates)),
                    float(p),
                )
            )
    adjusted = stats.false_discovery_control([test.p for test in found]) if found else []
    return [replace(test, p_adjusted=float(p)) for test, p in zip(found, adjusted, strict=True)]
