"""What a run has to explain about its model, put together: for the report and the card.

The work is done in `slices`, `cost` and `dependence`. Not for judging the model against others
(`evaluate`), and not for reasons of a single prediction: the service gives those.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hindcast.resample import bins_of_equal_size, day_weights
from training import cost, dependence, slices
from training.dataset import Dataset, Records
from training.dependence import Dependence
from training.evaluate import Evaluation
from training.model import ScoringModel, design
from training.settings import Settings
from training.slices import GroupTest, Slice


@dataclass(frozen=True)
class Bin:
    """Test flights of about the same P(late): what was said on average, and what share was late."""

    flights: int
    said: float
    came: float


def reliability(late: np.ndarray, p: np.ndarray, bins: int) -> list[Bin]:
    """Bins of equal size, from the lowest risk to the highest."""
    place = bins_of_equal_size(p, bins)
    here = [place == b for b in np.unique(place)]
    return [Bin(int(b.sum()), float(p[b].mean()), float(late[b].mean())) for b in here]


@dataclass(frozen=True)
class Explanation:
    """All that is explained, in the order in which the card tells it."""

    thousand: cost.Thousand
    reliability: list[Bin]
    slices: dict[str, list[Slice]]
    group_tests: list[GroupTest]
    dependence: list[Dependence]
    computing: cost.Computing
    records: list[Records]

    @property
    def comparisons(self) -> int:
        """How many figures of slices were compared with all other flights."""
        return sum(len(each.compared) for rows in self.slices.values() for each in rows)


def explain(
    data: Dataset,
    p: np.ndarray,
    scoring: ScoringModel,
    judged: Evaluation,
    cpu: dict[str, float],
    settings: Settings,
    tell: Callable[[str], None] = lambda text: None,
) -> Explanation:
    """Explain the model on the test days; `p` holds P(late) by row of the data.

    `cpu` has the CPU seconds that the features of all rows and the training took.
    """
    test = data.rows("test")
    late, on_test, frame = data.late[test], p[test], data.frame.iloc[test]
    weights, position = day_weights(data.day[test], settings.resamples, settings.seed)
    threshold = next(iter(judged.decisions.values())).threshold
    flag = 1.0 * (on_test >= threshold)

    tell("slices")
    flights_to = data.frame["dest"].iloc[data.rows("fit")].value_counts()
    groups = slices.slice_groups(frame, flights_to, settings.zone)
    by_slice = slices.slices(
        groups,
        late,
        on_test,
        threshold,
        position,
        weights,
        settings.min_slice,
        settings.false_discovery,
    )

    tell("partial dependence")
    drawn = np.random.default_rng(settings.seed).permutation(len(test))[: settings.dependence_rows]
    by_name = {column.name: column for column in data.columns}
    top = [by_name[each.name] for each in judged.features[: settings.dependence_top]]
    curves = dependence.dependence(scoring.estimator, design(frame.iloc[drawn], data.columns), top)

    tell("what computing costs")
    computing = cost.computing(
        scoring.predict_proba, frame, (len(data.frame), cpu["features"]), cpu["training"], settings
    )
    return Explanation(
        thousand=cost.thousand(late, flag, position, weights, settings),
        reliability=reliability(late, on_test, settings.calibration_bins),
        slices=by_slice,
        group_tests=slices.group_tests(groups, by_slice, late, flag, position),
        dependence=curves,
        computing=computing,
        records=data.records,
    )
