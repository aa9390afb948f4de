"""How the probability goes with a feature, all else as it is: partial dependence.

By scikit-learn, on flights of the test days. It is what the model says, not what a feature does
to flights: values that never occur together are asked for too. Not for how much a feature
matters: that is `evaluate.importance`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.inspection import partial_dependence

from training.dataset import Column

LEVELS = (0.005, 0.02, 0.05, *np.linspace(0.1, 0.9, 9).round(1), 0.95, 0.98, 0.995)
"""Points of a curve, as shares of the flights below: closer where few flights are."""

MOST_BARS = 12
"""Of a feature that is text, only the most frequent values are asked for."""

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Dependence:
    """Mean P(late) with a feature set to each of some values, and the middle half of flights.

    `values` are numbers in order, or texts; `UNKNOWN` at the end if flights lack the feature.
    """

    feature: str
    view: str
    description: str
    values: list[float | str]
    mean: list[float]
    low: list[float]
    high: list[float]
    known_share: float


def dependence(estimator: Any, inputs: pd.DataFrame, columns: Sequence[Column]) -> list[Dependence]:
    """The curves of some columns; `inputs` is as `model.design` makes it."""
    found = []
    for column in columns:
        asked = values_of(inputs[column.name], column)
        told = partial_dependence(
            estimator,
            inputs,
            [column.name],
            custom_values={column.name: asked},
            kind="individual",
            method="brute",
            response_method="predict_proba",
        )
        by_flight = told["individual"][0]
        low, high = np.quantile(by_flight, [0.25, 0.75], axis=0)
        found.append(
            Dependence(
                feature=column.name,
                view=column.view,
                description=column.description,
                values=[UNKNOWN if pd.isna(v) else v for v in asked.tolist()],
                mean=by_flight.mean(axis=0).tolist(),
                low=low.tolist(),
                high=high.tolist(),
                known_share=float(inputs[column.name].notna().mean()),
            )
        )
    return found


def values_of(values: pd.Series, column: Column) -> np.ndarray:
    """The values to ask for: quantiles or the most frequent ones, then NaN if some lack it."""
    known = values.dropna()
    if column.is_category:
        asked = np.array(sorted(known.value_counts().index[:MOST_BARS]), dtype=object)
    else:
        asked = np.unique(np.quantile(known, LEVELS, method="nearest"))
    return np.append(asked, np.nan) if len(known) < len(values) else asked
