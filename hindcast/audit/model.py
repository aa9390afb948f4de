"""The model test: what the figures would have said, had a view known the future.

The same small model is trained on honest features, and again with one view joined some hours
later than its rows are predicted: a leak of a known size. So the report can say how small a leak
would have shown in the figures, which is what most teams rely on; the other tests need no such
luck. It also names features that tell the outcome alone. Not for the project's own model, nor
for finding leaks: a view that leaks and helps little is found by `replay`, never here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from hindcast.audit.points import in_memory
from hindcast.audit.published import PREDICT_AT, Published
from hindcast.errors import HindcastError
from hindcast.resample import day_weights, roc_auc
from hindcast.sql import quote

Floats = npt.NDArray[np.float64]

SAMPLE = 24_000
"""Rows of the spine that are looked at: the later third judges what the others taught."""
ROUNDS, LEAVES, LEARNING_RATE = 60, 15, 0.1
LEAKS = tuple(timedelta(minutes=minutes) for minutes in (15, 60, 120, 240, 480, 1440))
RESAMPLED = 300
FEWEST_ROWS, FEWEST_DAYS = 200, 7
"""Of the judging rows: less says nothing about noise."""
CONFIDENCE = 0.99
"""Of each interval: some dozens are looked at in one audit."""
BINS = 32
SUSPICIOUS = 0.8
"""A feature alone is suspicious if it has this share of what all other views have together, as
ROC AUC above one half."""
MOST_CATEGORIES = 250


@dataclass(frozen=True)
class Interval:
    """A figure with the interval that resampled days give."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, resampled: Floats) -> Interval:
        """The figure as it is, which comes first, and the middle of what resampling gave."""
        outside = (1 - CONFIDENCE) / 2
        low, high = np.nanquantile(resampled[1:], [outside, 1 - outside])
        return cls(float(resampled[0]), float(low), float(high))


@dataclass(frozen=True)
class ViewModel:
    """One feature view: the model without it, and the smallest leak of it that shows."""

    view: str
    without: float
    """ROC AUC of the model without the view."""
    shown: timedelta | None
    """How much later the view must be joined for the figures to show it; None: none of `LEAKS`."""
    gain: Interval
    """What ROC AUC that leak gains (or the largest one, where none shows)."""


@dataclass(frozen=True)
class Lone:
    """What one feature alone tells: ROC AUC on the judging rows, from rates by its quantiles."""

    view: str
    feature: str
    auc: float
    suspicious: bool


@dataclass(frozen=True)
class Modelled:
    """What the model test found. ROC AUC is of rows later than those that were learned from."""

    target: str
    fitted: int
    judged: int
    days: int
    honest: Interval
    views: tuple[ViewModel, ...]
    lone: tuple[Lone, ...]
    """Every feature, the strongest first."""

    @property
    def suspicious(self) -> tuple[Lone, ...]:
        """The features to look at."""
        return tuple(one for one in self.lone if one.suspicious)


def model_test(
    published: Published, target: str, seed: int, tell: Callable[[str], None]
) -> Modelled:
    """Train under honest features, and under each view leaking by a known amount.

    Raises HindcastError where the spine has no such target, or it is not true or false.
    """
    tell("model: features of a sample of the spine")
    rows, outcome = _sample(published, target, seed)
    rehearsal = _Rehearsal(published, rows, outcome, seed)
    tell("model: honest features")
    honest = rehearsal.aucs(rehearsal.scores(rehearsal.honest))
    views = []
    for view in rehearsal.honest:
        tell(f"model: {view} with leaks of a known size")
        views.append(rehearsal.view(view, honest))
    without = {one.view: one.without for one in views}
    return Modelled(
        target,
        len(rehearsal.fitted),
        len(rehearsal.judged),
        rehearsal.days,
        Interval.of(honest),
        tuple(views),
        rehearsal.lone(without),
    )


class _Rehearsal:
    """Rows split by time, and everything that is trained and measured on them."""

    def __init__(self, published: Published, rows: pa.Table, outcome: Floats, seed: int) -> None:
        self._published, self._rows, self._seed = published, rows, seed
        at = pd.Series(rows["at"].to_pandas())
        self._at = at
        split = len(at) * 2 // 3
        self._fit, self._judge = slice(0, split), slice(split, len(at))
        self.fitted, self.judged = outcome[self._fit], outcome[self._judge]
        if self.fitted.min() == self.fitted.max() or self.judged.min() == self.judged.max():
            raise HindcastError(
                "the target is the same in all rows of the earlier two thirds of the spine, or of "
                "the later third: there is nothing to learn, or to judge by"
            )
        day = at.dt.floor("D").iloc[self._judge]
        self._weights, self._day = day_weights(day.to_numpy(), RESAMPLED, seed)
        self.days = self._weights.shape[1]
        if len(day) < FEWEST_ROWS or self.days < FEWEST_DAYS:
            raise HindcastError(
                f"the model test judges on the later third of the spine, here {len(day)} rows of "
                f"{self.days} days; it needs {FEWEST_ROWS} rows and {FEWEST_DAYS} days. Leave it "
                "out with --only replay --only scramble --only static"
            )
        self.honest = self._features(rows, None)
        self._inputs = _inputs(rows, at)

    def _features(self, rows: pa.Table, view: str | None) -> dict[str, pd.DataFrame]:
        joined = self._published.joined(rows, None if view is None else [view])
        found = {}
        for spec in self._published.spec.views:
            if view in (None, spec.name):
                columns = {
                    feature.name: _column(joined[f"{spec.name}__{feature.name}"], self._at)
                    for feature in spec.features
                }
                taken = {name: c for name, c in columns.items() if c is not None}
                found[spec.name] = pd.DataFrame(taken)
        return found

    def scores(self, views: Mapping[str, pd.DataFrame]) -> Floats:
        """P(target) of the judging rows by a model of these views and the spine's own columns."""
        frame = pd.concat([self._inputs, *views.values()], axis=1)
        boost = HistGradientBoostingClassifier(
            max_iter=ROUNDS,
            max_leaf_nodes=LEAVES,
            learning_rate=LEARNING_RATE,
            categorical_features="from_dtype",
            early_stopping=False,  # it would hold out random rows; time decides here
            random_state=self._seed,
        )
        # one thread: the same to the last bit each time, and quick beside other work
        with threadpool_limits(1):
            boost.fit(frame.iloc[self._fit], self.fitted)
        p: Floats = boost.predict_proba(frame.iloc[self._judge])[:, 1]
        return p

    def aucs(self, scores: Floats) -> Floats:
        """ROC AUC of the judging rows as they are, then on each resampling of their days."""
        return roc_auc(self.judged, scores, self._day, self._weights)

    def view(self, view: str, honest: Floats) -> ViewModel:
        """How small a leak of a view shows. A larger one may show less: tomorrow's weather does."""
        others = {name: frame for name, frame in self.honest.items() if name != view}
        without = float(self.aucs(self.scores(others))[0])
        place = self._rows.column_names.index("at")
        for by in LEAKS:
            later = pa.array(self._at + by, self._rows.schema.field(place).type)
            leaking = self._features(self._rows.set_column(place, "at", later), view)
            gain = Interval.of(self.aucs(self.scores(self.honest | leaking)) - honest)
            if gain.low > 0:
                return ViewModel(view, without, by, gain)
        return ViewModel(view, without, None, gain)

    def lone(self, without: Mapping[str, float]) -> tuple[Lone, ...]:
        """Every feature by itself."""
        found = []
        for view, frame in self.honest.items():
            enough = SUSPICIOUS * (without[view] - 0.5)
            for name, column in frame.items():
                auc = self._alone(column)
                found.append(Lone(view, str(name), auc, auc - 0.5 >= max(enough, 0.1)))
        return tuple(sorted(found, key=lambda one: -one.auc))

    def _alone(self, column: pd.Series) -> float:
        if isinstance(column.dtype, pd.CategoricalDtype):
            codes = column.cat.codes.to_numpy()
        else:
            values = column.to_numpy(dtype="float64")
            there = values[self._fit][~np.isnan(values[self._fit])]
            marks = np.linspace(0, 1, BINS + 1)
            edges = np.unique(np.quantile(there, marks)) if len(there) else there
            codes = np.where(np.isnan(values), -1, np.searchsorted(edges, values))
        mean = self.fitted.mean()
        rates = pd.Series(self.fitted).groupby(codes[self._fit]).agg(["sum", "count"])
        rate = (rates["sum"] + 20 * mean) / (rates["count"] + 20)
        scores = pd.Series(codes[self._judge]).map(rate).fillna(mean).to_numpy(dtype="float64")
        return float(roc_auc(self.judged, scores, self._day, self._weights[:1])[0])


def _sample(published: Published, target: str, seed: int) -> tuple[pa.Table, Floats]:
    """Rows of the spine in order of prediction, and their outcomes as 1.0 and 0.0."""
    spine = published.table(published.spine)
    inputs = ", ".join(map(quote, published.inputs()))
    with in_memory() as connection:
        types = {
            name: kind for name, kind, *_ in connection.sql(f"describe from {spine}").fetchall()
        }
        if types.get(target) != "BOOLEAN":
            found = f"of type {types[target]}" if target in types else "not there"
            raise HindcastError(
                f"the model test needs a BOOLEAN column {target} in the spine {published.spine}; "
                f"it is {found}. `audit: target` in hindcast.yml names it"
            )
        table = connection.sql(
            f"select row_number() over () as point, * from ("
            f"select {inputs}, {PREDICT_AT} as at, {quote(target)} as _target, "
            f"hash({PREDICT_AT}, {inputs}, {seed}) as drawn "
            f"from {spine} where {quote(target)} is not null and isfinite({PREDICT_AT}) "
            f"order by drawn limit {SAMPLE}) order by {quote('at')}, drawn"
        ).to_arrow_table()
    if len(table) == 0:
        raise HindcastError(f"no row of the spine {published.spine} has a {target} yet")
    outcome = table["_target"].to_numpy().astype("float64")
    return table.drop_columns(["_target", "drawn"]), outcome


def _inputs(rows: pa.Table, at: pd.Series) -> pd.DataFrame:
    """The spine's own columns that a prediction is made of, and the hour it is made at."""
    columns = {
        name: _column(rows[name], at) for name in rows.column_names if name not in ("point", "at")
    }
    columns["hour of prediction"] = at.dt.hour.astype("float64")
    return pd.DataFrame({name: c for name, c in columns.items() if c is not None})


def _column(values: pa.ChunkedArray, at: pd.Series) -> pd.Series | None:
    """A feature as trees take it: numbers, categories, instants as minutes from the prediction."""
    kind = values.type
    if pa.types.is_timestamp(kind):
        since = pd.to_datetime(values.to_pandas(), utc=True) - at
        return pd.Series(since.dt.total_seconds() / 60)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return pd.Series(values.to_pandas().astype("float64"))
    if pa.types.is_decimal(kind):
        return pd.Series(values.cast(pa.float64()).to_pandas())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        text = pd.Series(values.to_pandas())
        known = text.value_counts().index[:MOST_CATEGORIES]
        return text.where(text.isin(known)).astype(pd.CategoricalDtype(sorted(known)))
    return None
