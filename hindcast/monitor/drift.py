"""How far two periods are apart, feature by feature, and how far chance alone puts them.

Values are counted once by day and bin; all else is sums of days. So a period can be drawn anew a
thousand times for the price of a matrix product, and every distance is computed for all draws at
once. Days are drawn in blocks: the days of one week share their weather, and a week has one of
each weekday. Not for thresholds, and not for performance (see `performance`).

The distances, on bins of the baseline (`p` and `q` the shares of a bin then and now):

- `psi`, population stability index: sum of (q - p) ln(q / p), over ten bins of equal baseline
  share, half a row added to each; in use in credit scoring, where 0.1 and 0.25 are the custom
  (Siddiqi, Credit Risk Scorecards, 2006).
- `ks`, Kolmogorov and Smirnov: the largest distance of the two cumulative distributions, at the
  edges of fifty bins.
- `js`, Jensen and Shannon: the root of the divergence with base 2, from 0 to 1 (Lin, 1991); for
  categories, the rarer than the fifty commonest taken together.
- `nulls`: the change of the share of NULLs. `range`: the share of values beyond the baseline's
  least and greatest; `unseen`: of categories that it never had. `volume`: rows a day, relative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from hindcast.config import Limits
from hindcast.errors import HindcastError
from hindcast.monitor.checks import Check

FINE, COARSE, COMMONEST = 50, 10, 50
RESAMPLES = 1000
BLOCK_DAYS = 7
MARGIN = 1.25
"""Days drawn from a training differ less than new days do: a training of finite length does not
show its whole spread, and blocks cut what neighbouring weeks have in common. So much is added to
what chance does to a distance; `psi`, which grows with the square, gets the square of it. Chosen
on simulated days of which each resembles the one before: `tests/monitor/test_monitor_drift.py`."""
NUMBER, CATEGORY, VOLUME = "number", "category", "volume"
CHECKS = {
    NUMBER: ("psi", "ks", "nulls", "range"),
    CATEGORY: ("js", "nulls", "unseen"),
    VOLUME: ("volume",),
}


@dataclass(frozen=True)
class Days:
    """What is counted of one subject, by day: rows, NULLs, values outside, and values by bin."""

    kind: str
    rows: np.ndarray
    nulls: np.ndarray
    outside: np.ndarray
    bins: np.ndarray
    coarse: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    """The coarse bin of each bin."""

    def take(self, days: np.ndarray) -> Days:
        """The same counts of chosen days, in that order."""
        rows, nulls, outside = self.rows[days], self.nulls[days], self.outside[days]
        return Days(self.kind, rows, nulls, outside, self.bins[days], self.coarse)

    @property
    def columns(self) -> np.ndarray:
        """All counts side by side: (days, 3 + bins)."""
        return np.column_stack([self.rows, self.nulls, self.outside, self.bins]).astype(float)


@dataclass(frozen=True)
class Bins:
    """Where the values of one feature are counted, as its baseline has them."""

    kind: str
    edges: np.ndarray
    """Of a number: a value is in the first bin whose edge is not below it."""
    categories: pd.Index
    """Of a category: every value seen, the commonest first."""
    coarse: np.ndarray
    least: float = np.nan
    most: float = np.nan

    @classmethod
    def of(cls, values: pd.Series) -> Bins:
        """The bins of a baseline's values: of numbers, or of text and truths."""
        if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
            seen = values.dropna().value_counts().index
            count = min(len(seen), COMMONEST) + 1
            return cls(CATEGORY, np.zeros(0), seen, np.arange(count))
        ordered = np.sort(_valid(values))
        if len(ordered) == 0:
            return cls(NUMBER, np.zeros(0), pd.Index([]), np.zeros(1, int))
        is_new = np.append(True, ordered[1:] != ordered[:-1])
        if is_new.sum() <= FINE:
            edges = ordered[is_new][:-1]
        else:
            places = (np.arange(1, FINE) * len(ordered)) // FINE
            edges = np.unique(ordered[places])
        counts = np.diff(np.searchsorted(ordered, edges, side="right"), prepend=0)
        counts = np.append(counts, len(ordered) - counts.sum())
        middle = (np.cumsum(counts) - counts / 2) / len(ordered)
        _, coarse = np.unique((middle * COARSE).astype(int), return_inverse=True)
        return cls(NUMBER, edges, pd.Index([]), coarse, ordered[0], ordered[-1])

    def count(self, values: pd.Series, day: np.ndarray, days: int) -> Days:
        """Count the values of a later period: what is outside the baseline is counted as such."""
        place, outside = self._place(values)
        return self._days(place, outside, day, days)

    def count_baseline(self, values: pd.Series, day: np.ndarray, days: int) -> Days:
        """Count the baseline itself. Outside is what the blocks of other days do not have."""
        place, _ = self._place(values)
        block = day // BLOCK_DAYS
        if self.kind == CATEGORY:
            code = self.categories.get_indexer(pd.Index(values))
            known = code >= 0
            per = pd.DataFrame({"code": code[known], "block": block[known]})
            alone = per.groupby("code")["block"].nunique() == 1
            outside = np.isin(code, alone.index[alone])
        else:
            outside = _beyond_others(values.to_numpy(float), block)
        return self._days(place, outside, day, days)

    def _place(self, values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
        """The bin of each value, -1 for NULL; and whether it is outside."""
        if self.kind == CATEGORY:
            code = self.categories.get_indexer(pd.Index(values))
            null = values.isna().to_numpy()
            last = len(self.coarse) - 1
            place = np.where(null, -1, np.where((code < 0) | (code >= last), last, code))
            return place, (code < 0) & ~null
        numbers = values.to_numpy(float)
        null = np.isnan(numbers)
        place = np.where(null, -1, np.searchsorted(self.edges, numbers, side="left"))
        with np.errstate(invalid="ignore"):
            return place, (numbers < self.least) | (numbers > self.most)

    def _days(self, place: np.ndarray, outside: np.ndarray, day: np.ndarray, days: int) -> Days:
        size = len(self.coarse) if self.kind == CATEGORY else len(self.edges) + 1
        valid = place >= 0
        bins = np.bincount(day[valid] * size + place[valid], minlength=days * size)
        return Days(
            self.kind,
            np.bincount(day, minlength=days),
            np.bincount(day[~valid], minlength=days),
            np.bincount(day[outside], minlength=days),
            bins.reshape(days, size),
            self.coarse,
        )


def compare(
    baseline: Mapping[str, Days],
    window: Mapping[str, Days],
    limits: Callable[[str, str], Limits],
    *,
    false_alarms: float,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[Check]:
    """Every distance of the window from the baseline that has a limit, with its noise.

    Of both periods so many days are drawn as they have, all from the baseline: what two stable
    periods look like. `noise` is the same quantile of each distance's draws, so chosen that in
    a share of `false_alarms` of the draws one distance, of all together, is beyond both its noise
    and its first limit. (The least of all p-values as the one statistic: Westfall and Young,
    1993. What never gets to its limit by chance costs the others nothing.)

    Raises:
        HindcastError: the baseline is shorter than two blocks of days.
    """
    subjects = [name for name in baseline if name in window]
    if not subjects:
        return []
    days = len(baseline[subjects[0]].rows)
    lasts = len(window[subjects[0]].rows)
    if days < 2 * BLOCK_DAYS:
        raise HindcastError(
            f"the baseline has {days} days; chance cannot be told from fewer than "
            f"{2 * BLOCK_DAYS}: train on more, or take another baseline"
        )
    random = np.random.default_rng(seed)
    then = np.vstack([np.ones((1, days)), block_weights(days, days, resamples, random)])
    drawn = block_weights(days, lasts, resamples, random)
    found: list[Check] = []
    samples: list[np.ndarray] = []
    for subject in subjects:
        base, now = baseline[subject], window[subject]
        wanted = {name: limits(subject, name) for name in CHECKS[base.kind]}
        wanted = {name: limit for name, limit in wanted.items() if limit != (None, None)}
        if not wanted:
            continue
        p = then @ base.columns
        q = np.vstack([now.columns.sum(axis=0), drawn @ base.columns])
        for name, limit in wanted.items():
            values = _distance(name, p, q, base.coarse, days, lasts)
            if not np.isfinite(values[0]):
                continue  # one of the two has no value at all: that is for `nulls` to say
            baseline_now = _figures(name, p[0], q[0], days, lasts)
            found.append(Check(subject, name, float(values[0]), limit, None, *baseline_now))
            samples.append(np.nan_to_num(values[1:]))
    return with_noise(found, np.array(samples), false_alarms) if found else []


def block_days(days: int, length: int, resamples: int, random: np.random.Generator) -> np.ndarray:
    """Days drawn for periods of `length` days, in blocks: (resamples, length)."""
    block = min(BLOCK_DAYS, length)
    starts = random.integers(0, days, (resamples, -(-length // block)))
    chosen: np.ndarray = (starts[:, :, None] + np.arange(block)).reshape(resamples, -1)
    return chosen[:, :length] % days


def with_noise(checks: Sequence[Check], drawn: np.ndarray, rate: float) -> list[Check]:
    """The checks with their noise, from what chance made of each: (checks, resamples)."""
    first = [min(limit for limit in check.limits if limit is not None) for check in checks]
    resamples = drawn.shape[1]
    ordered = np.sort(drawn, axis=1)
    least = np.ones(resamples)
    for values, row, limit in zip(drawn, ordered, first, strict=True):
        p = 1 - np.searchsorted(row, values, side="left") / resamples
        least = np.minimum(least, np.where(values >= limit, p, 1.0))
    level = np.sort(least)[max(int(rate * resamples) - 1, 0)]
    # beyond its noise is what fewer draws reach than the level's share
    place = min(max(resamples - int(np.ceil(level * resamples)), 0), resamples - 1)
    return [
        replace(check, noise=float(row[place]) * (MARGIN**2 if check.name == "psi" else MARGIN))
        for check, row in zip(checks, ordered, strict=True)
    ]


def block_weights(
    days: int, length: int, resamples: int, random: np.random.Generator
) -> np.ndarray:
    """How often each of `days` is drawn for periods of `length` days: (resamples, days).

    In blocks of consecutive days, the last followed by the first.
    """
    chosen = block_days(days, length, resamples, random)
    flat = chosen + np.arange(resamples)[:, None] * days
    counts = np.bincount(flat.ravel(), minlength=resamples * days)
    return counts.reshape(resamples, days).astype(float)


def _distance(
    name: str, p: np.ndarray, q: np.ndarray, coarse: np.ndarray, days: int, lasts: int
) -> np.ndarray:
    """One distance for each row of counts."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if name == "nulls":
            change: np.ndarray = np.abs(q[:, 1] / q[:, 0] - p[:, 1] / p[:, 0])
            return change
        if name in ("range", "unseen"):
            share: np.ndarray = q[:, 2] / (q[:, 0] - q[:, 1])
            return share
        if name == "volume":
            ratio: np.ndarray = np.abs((q[:, 0] / lasts) / (p[:, 0] / days) - 1)
            return ratio
    if name == "psi":
        return psi(p[:, 3:], q[:, 3:], coarse)
    return ks(p[:, 3:], q[:, 3:]) if name == "ks" else js(p[:, 3:], q[:, 3:])


def _figures(
    name: str, p: np.ndarray, q: np.ndarray, days: int, lasts: int
) -> tuple[float | None, float | None]:
    """The two figures that a distance compares, where it compares two."""
    if name == "nulls":
        return float(p[1] / p[0]), float(q[1] / q[0])
    return (float(p[0] / days), float(q[0] / lasts)) if name == "volume" else (None, None)


def psi(p: np.ndarray, q: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """Population stability index of each row of counts; NaN where one has no value."""
    into = np.zeros((p.shape[1], coarse.max(initial=0) + 1))
    into[np.arange(p.shape[1]), coarse] = 1
    empty = (p.sum(axis=1) == 0) | (q.sum(axis=1) == 0)
    then, now = p @ into + 0.5, q @ into + 0.5
    then, now = _shares(then), _shares(now)
    index: np.ndarray = ((now - then) * np.log(now / then)).sum(axis=1)
    index[empty] = np.nan
    return index


def ks(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Kolmogorov-Smirnov distance of each row of counts; NaN where one has no value."""
    gaps = np.abs(np.cumsum(_shares(p), axis=1) - np.cumsum(_shares(q), axis=1))
    greatest: np.ndarray = gaps.max(axis=1)
    return greatest


def js(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon distance of each row of counts; NaN where one has no value."""
    then, now = _shares(p), _shares(q)
    middle = (then + now) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [
            np.where(side == 0, 0.0, side * np.log2(side / middle)).sum(axis=1)
            for side in (then, now)
        ]
    distance: np.ndarray = np.sqrt(np.maximum((parts[0] + parts[1]) / 2, 0))
    return distance


def _shares(counts: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        shares: np.ndarray = counts / counts.sum(axis=1, keepdims=True)
    return shares


def _valid(values: pd.Series) -> np.ndarray:
    numbers = values.to_numpy(float)
    valid: np.ndarray = numbers[~np.isnan(numbers)]
    return valid


def _beyond_others(numbers: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Whether a value is below or above all values of the other blocks."""
    outside = np.zeros(len(numbers), bool)
    for sign in (1.0, -1.0):
        signed = np.where(np.isnan(numbers), np.inf, numbers * sign)
        least = np.full(block.max(initial=0) + 1, np.inf)
        np.minimum.at(least, block, signed)
        if len(least) > 1 and np.isfinite(least).sum() > 1:
            first, second = np.argsort(least)[:2]
            outside |= (block == first) & (signed < least[second])
    return outside
