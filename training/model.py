"""The model and the baselines it has to beat: how they are built, chosen, saved and loaded.

Gradient-boosted trees in a scikit-learn pipeline, a number of rounds fixed on the tuning days,
and Platt's scaling on top; one scikit-learn object, saved with skops, so that loading it runs
no code. Not for judging a model: that is `evaluate`.
"""

import copy
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder
from threadpoolctl import threadpool_limits

from hindcast.errors import HindcastError, MissingInputError
from training.dataset import Column, Dataset
from training.settings import Settings

MODEL, MANIFEST = "model.skops", "manifest.json"

MOST_CATEGORIES = 250
"""Rarer values share one code: scikit-learn's trees take at most 255 categories."""

CERTAIN = 1e-12
"""A probability nearer to 0 or 1 is taken for this: log odds have an end, trees have none."""

TRUSTED = (
    "functools.partial",  # of check_array, inside the trees' own encoder; skops checks both
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.utils.validation.check_array",
)
"""All that a model file may hold beyond skops's own list of scikit-learn and NumPy types."""


class UntrustedModelError(HindcastError):
    """A model file that is not skops, or holds types that our models are not made of."""


@dataclass(frozen=True)
class Choice:
    """What the tuning days decided, and the log loss on them that decided it."""

    leaves: int
    rounds: int
    log_loss: float


@dataclass(frozen=True)
class Scaling:
    """Platt's scaling of log odds, and the log loss that it leaves on the rows it was fitted to."""

    slope: float
    shift: float
    log_loss: float

    @classmethod
    def fit(cls, p: np.ndarray, late: np.ndarray) -> "Scaling":
        """To probabilities (n,) and what came true (n,), 0.0 or 1.0."""
        odds = log_odds(p).reshape(-1, 1)
        line = LogisticRegression(C=1e6).fit(odds, late)
        loss = float(log_loss(late, line.predict_proba(odds)))
        return cls(float(line.coef_[0, 0]), float(line.intercept_[0]), loss)

    def __call__(self, p: np.ndarray) -> np.ndarray:
        """Probabilities scaled."""
        scaled: np.ndarray = expit(self.slope * log_odds(p) + self.shift)
        return scaled


def log_odds(p: np.ndarray) -> np.ndarray:
    """Of probabilities; those of `CERTAIN` are the farthest."""
    odds: np.ndarray = logit(np.clip(p, CERTAIN, 1 - CERTAIN))
    return odds


def design(frame: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    """The columns as the pipeline takes them: text as objects, all else float64, missing NaN.

    The same for Arrow's, Feast's offline and Feast's online types.

    Raises:
        MissingInputError: a column is not there.
    """
    missing = [column.name for column in columns if column.name not in frame.columns]
    if missing:
        raise MissingInputError(
            f"the model needs {', '.join(missing)}, and the features it is given have no such "
            "column: they are not those it was trained on. `hindcast retrain` puts a model in use "
            "that fits; or bring the columns back (`dbt build`, `feast -c feature_repo apply`)"
        )
    as_needed = {}
    for c in columns:
        values = frame[c.name]
        if c.is_category:
            text = np.full(len(values), np.nan, dtype=object)  # object even if all are missing
            there = values.notna().to_numpy()
            text[there] = values[there]
            as_needed[c.name] = text
        else:
            as_needed[c.name] = values.astype("float64").to_numpy()
    return pd.DataFrame(as_needed, index=frame.index)


def trees(
    columns: Sequence[Column], settings: Settings, leaves: int, rounds: int, bins: int
) -> Pipeline:
    """An untrained pipeline: categories to codes, then gradient-boosted trees."""
    text = [column.name for column in columns if column.is_category]
    numbers = [column.name for column in columns if not column.is_category]
    codes = OrdinalEncoder(
        handle_unknown="use_encoded_value",
        unknown_value=np.nan,  # a value never seen is treated like a missing one
        max_categories=MOST_CATEGORIES,
    )
    encode = ColumnTransformer([("text", codes, text), ("numbers", "passthrough", numbers)])
    boost = HistGradientBoostingClassifier(
        learning_rate=settings.learning_rate,
        max_iter=rounds,
        max_leaf_nodes=leaves,
        max_bins=bins,
        min_samples_leaf=settings.min_leaf,
        l2_regularization=settings.l2,
        max_features=settings.column_share,
        # fewer bins than categories: the codes are taken as numbers
        categorical_features=list(range(len(text))) if bins > MOST_CATEGORIES else None,
        early_stopping=False,  # it would hold out random rows; time decides here
        random_state=settings.seed,
    )
    return Pipeline([("encode", encode), ("boost", boost)])


def fitted(
    rows: tuple[pd.DataFrame, np.ndarray],
    columns: Sequence[Column],
    settings: Settings,
    leaves: int,
    rounds: int,
) -> Pipeline:
    """Trees fitted to rows; where `settings.bins` are several, the mean of one model of each.

    The mean of the log odds of additive models is one such model: the trees of all, each leaf
    value divided by their number. The trees of one round stand side by side.
    """
    bins = sorted(settings.bins, reverse=True)  # the first knows the texts as categories, if any do
    first, *others = (
        trees(columns, settings.but(seed=settings.seed + i), leaves, rounds, of).fit(*rows)
        for i, of in enumerate(bins)
    )
    if others:
        boosts = [member["boost"] for member in (first, *others)]
        boosts[0]._predictors = [
            tree
            for of_round in zip(*(boost._predictors for boost in boosts), strict=True)
            for tree in of_round
        ]
        for (tree,) in boosts[0]._predictors:
            tree.nodes["value"] /= len(boosts)
    return first


def choose(
    fit: tuple[pd.DataFrame, np.ndarray],
    tune: tuple[pd.DataFrame, np.ndarray],
    columns: Sequence[Column],
    settings: Settings,
    tell: Callable[[str], None] = lambda text: None,
    scaled: bool = True,
) -> tuple[Pipeline, Choice]:
    """The fitted pipeline with the leaves and rounds of lowest log loss on the tuning days.

    What is compared is the model as it will be used: after Platt's scaling, if it is `scaled`.
    Before it, a season with more late flights than those learned from asks for too few rounds.

    Each number of leaves is fitted once, with the most rounds: a round only adds a tree, so the
    model after fewer rounds is its first trees, and is had by cutting off the rest.
    """
    best: tuple[Pipeline, Choice] | None = None
    for leaves in settings.leaves:
        tell(f"up to {settings.max_rounds} rounds of {leaves} leaves")
        pipeline = fitted(fit, columns, settings, leaves, settings.max_rounds)
        encoded = pipeline["encode"].transform(tune[0])
        for done, p in staged(pipeline, encoded, settings):
            if done % settings.round_step:
                continue
            loss = Scaling.fit(p[:, 1], tune[1]).log_loss if scaled else log_loss(tune[1], p[:, 1])
            found = Choice(leaves, done, float(loss))
            if best is None or found.log_loss < best[1].log_loss:
                best = pipeline, found
    assert best is not None  # round_step is at most max_rounds
    pipeline, choice = best
    count = choice.rounds * len(settings.bins)
    boost = pipeline["boost"].set_params(max_iter=count)
    boost._predictors = boost._predictors[:count]  # scikit-learn has no public way
    return pipeline, choice


def staged(
    pipeline: Pipeline, encoded: np.ndarray, settings: Settings
) -> Iterator[tuple[int, np.ndarray]]:
    """The number of rounds, from 1 on, and the probabilities (n, 2) after so many."""
    of_round = len(settings.bins)
    for trees_done, p in enumerate(pipeline["boost"].staged_predict_proba(encoded), start=1):
        if trees_done % of_round == 0:
            yield trees_done // of_round, p


def calibrated(pipeline: Pipeline, tune: tuple[pd.DataFrame, np.ndarray]) -> Any:
    """The fitted pipeline with Platt's scaling, learned on days it was not fitted on."""
    return CalibratedClassifierCV(FrozenEstimator(pipeline), method="sigmoid").fit(*tune)


def train(
    data: Dataset,
    columns: Sequence[Column],
    settings: Settings,
    tell: Callable[[str], None] = lambda text: None,
    calibrate: bool = True,
) -> tuple[Any, Choice]:
    """Fit a model of these columns and choose its rounds; the test days are not looked at.

    Calibrated unless told otherwise: a weak model learns little from Platt's scaling but the
    late share of the tuning days, which is not that of the winter.
    """
    inputs = design(data.frame, columns)
    fit, tune = (
        (inputs.iloc[rows], data.late[rows]) for rows in (data.rows("fit"), data.rows("tune"))
    )
    with threadpool_limits(settings.threads):
        pipeline, choice = choose(fit, tune, columns, settings, tell, calibrate)
        return (calibrated(pipeline, tune) if calibrate else pipeline), choice


def refitted(
    estimator: Any, data: Dataset, columns: Sequence[Column], choice: Choice, settings: Settings
) -> Any:
    """A calibrated model with its trees fitted again on the tuning days too.

    Leaves, rounds and calibration stay as the tuning days decided: they were unseen then.
    """
    rows = np.sort(np.concatenate([data.rows("fit"), data.rows("tune")]))
    learned = design(data.frame.iloc[rows], columns), data.late[rows]
    with threadpool_limits(settings.threads):
        pipeline = fitted(learned, columns, settings, choice.leaves, choice.rounds)
    again = copy.deepcopy(estimator)
    (fold,) = again.calibrated_classifiers_
    fold.estimator = FrozenEstimator(pipeline)
    return again


@dataclass(frozen=True)
class LookupTable:
    """Baseline: how often this carrier was late at this hour, drawn to the base rate when few."""

    rates: pd.Series
    base: float

    @classmethod
    def fit(cls, keys: pd.DataFrame, late: np.ndarray, prior: float) -> "LookupTable":
        """Count by all columns of `keys`; `prior` flights at the base rate join each cell."""
        base = float(late.mean())
        cells = pd.Series(late).groupby([keys[name].to_numpy() for name in keys])
        return cls((cells.sum() + prior * base) / (cells.count() + prior), base)

    def predict(self, keys: pd.DataFrame) -> np.ndarray:
        """P(late) for each row; the base rate where the cell was never seen."""
        cells = pd.MultiIndex.from_frame(keys)
        return self.rates.reindex(cells).fillna(self.base).to_numpy(dtype="float64")


@dataclass(frozen=True)
class ScoringModel:
    """A model with what is needed to use it: its features, its threshold, its manifest."""

    estimator: Any
    columns: tuple[Column, ...]
    threshold: float
    manifest: dict[str, Any]

    @property
    def features(self) -> list[str]:
        """The names of the columns `predict_proba` needs."""
        return [column.name for column in self.columns]

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
        """P(late) per row of a frame that has the feature columns (others are ignored)."""
        p: np.ndarray = self.estimator.predict_proba(design(frame, self.columns))[:, 1]
        return p


def save(estimator: Any, path: Path) -> None:
    """Write the model as skops: data and type names, nothing that runs."""
    import skops.io

    skops.io.dump(estimator, path, compression=zipfile.ZIP_DEFLATED)


def load(run_dir: str | Path) -> ScoringModel:
    """The model of a run, such as `artifacts/latest`.

    Raises:
        MissingInputError: there is no run.
        UntrustedModelError: the file is not one that `save` wrote.
    """
    run = Path(run_dir)
    if not (run / MODEL).exists() or not (run / MANIFEST).exists():
        raise MissingInputError(f"no trained model in {run}; run `python -m training`")
    manifest = json.loads((run / MANIFEST).read_text())
    return ScoringModel(
        estimator=read_trusted(run / MODEL),
        columns=tuple(Column(**column) for column in manifest["features"]),
        threshold=float(manifest["threshold"]),
        manifest=manifest,
    )


def read_trusted(path: Path) -> Any:
    """Load a skops file if it holds nothing but the types our models are made of.

    Raises:
        UntrustedModelError: naming what else was found. Nothing of the file has run then.
    """
    import skops.io

    if not zipfile.is_zipfile(path):
        raise UntrustedModelError(
            f"{path} is not a skops file (a pickle, perhaps, which could run anything); "
            "train again with `python -m training`"
        )
    strange = sorted(set(skops.io.get_untrusted_types(file=path)) - set(TRUSTED))
    if strange:
        raise UntrustedModelError(
            f"{path} holds {', '.join(strange)}, which no model of ours is made of; "
            "don't use it, train again with `python -m training`"
        )
    return skops.io.load(path, trusted=list(TRUSTED))
