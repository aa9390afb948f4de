"""A trained model in a form that answers one row in tens of microseconds, and says why.

scikit-learn walks each tree of each row and pays milliseconds of preparation for it. Here all
nodes of all trees are compared at once. Each node has a mask with a bit for every leaf of its
tree, cleared for the leaves of its left branch. The masks of the nodes that send a row to the
right are ANDed; the lowest bit left is the leaf that the row reaches (Lucchese et al. 2015,
"QuickScorer"). Comparisons and sums are those of scikit-learn, in its order, so that the scores
are equal bit for bit. `docs/decisions/model-form.md` has the alternatives and their figures.

Reasons come from the same leaves: what a feature adds is the change of the mean score of the
training rows at each split on it, along the row's path (Saabas 2014). For a leaf these are
constants, so they are added up once, when the model is loaded.

Not for training, and not for reading model files: `training.model` does both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit
from threadpoolctl import threadpool_limits

from hindcast.errors import HindcastError
from training.model import ScoringModel, design

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

WORD = 32  # leaves that one mask holds; a tree with more has several masks a node
CODES = 256  # scikit-learn's trees know at most 255 categories
MISSING = CODES - 1  # our code of a category that is missing or unknown
PROBES = 64


class ModelFormError(HindcastError):
    """A model that is not made of what this form can hold."""


@dataclass(frozen=True)
class Scores:
    """What a model says of rows: the leaves they reach, their raw scores and P(late)."""

    leaves: Ints
    raw: Floats
    p: Floats


@dataclass(frozen=True)
class _Split:
    """A split of a tree. `left_leaves` are the leaves of its left branch."""

    feature: int
    threshold: float
    missing_left: bool
    goes_left: Bools | None
    """By category code, where the split is on a category."""
    left_leaves: list[int]


_NO_SPLIT = _Split(0, np.inf, True, None, [])
"""Stands in for a tree that is a single leaf."""


class TreeModel:
    """The trees, the encoding of their inputs and Platt's scaling of a `ScoringModel`.

    A row's raw score is `baseline` plus a leaf value of each tree; P(late) is
    `expit(slope * raw + intercept)`. Thread-safe: nothing changes after it is made.
    """

    def __init__(self, model: ScoringModel) -> None:
        """Take the model apart, and compare the result with it on rows made of its thresholds.

        Raises:
            ModelFormError: it is made of other parts, or gives other scores.
        """
        try:
            (calibrated,) = model.estimator.calibrated_classifiers_
            (platt,) = calibrated.calibrators
            pipeline = calibrated.estimator.estimator
            encode, boost = pipeline["encode"], pipeline["boost"]
            self.slope, self.intercept = -float(platt.a_), -float(platt.b_)
            self.baseline = float(boost._baseline_prediction.item())
            texts = sum(column.is_category for column in model.columns)
            known, place = boost._bin_mapper.make_known_categories_bitsets()
            trees = [
                _Tree(predictor, len(model.columns), texts, known, place)
                for (predictor,) in boost._predictors
            ]
        except (AttributeError, KeyError, TypeError, ValueError) as fault:
            raise ModelFormError(
                f"the model is not gradient-boosted trees of one class under Platt's scaling "
                f"({fault}); train again with `python -m training`"
            ) from None
        self.columns = model.columns
        self._texts = [c.name for c in model.columns if c.is_category]
        self._numbers = [c.name for c in model.columns if not c.is_category]
        self._codes = _codes(encode, boost, self._texts)
        self._lay_out(trees)
        self._compare(model)

    # --- how it is laid out -------------------------------------------------------------

    def _lay_out(self, trees: list[_Tree]) -> None:
        texts, numbers = len(self._texts), len(self._numbers)
        self._words = -(-max(len(tree.leaf_values) for tree in trees) // WORD)
        stride = self._words * WORD
        self._first_leaf = np.arange(len(trees)) * stride
        self._leaf_values = np.zeros(len(trees) * stride)
        additions = np.zeros((len(trees) * stride, texts + numbers))
        for first, tree in zip(self._first_leaf, trees, strict=True):
            self._leaf_values[first : first + len(tree.leaf_values)] = tree.leaf_values
            additions[first : first + len(tree.leaf_values)] = tree.additions
        self.base = self.baseline + sum(tree.mean for tree in trees)
        # scikit-learn has the texts first
        order = {name: i for i, name in enumerate([*self._texts, *self._numbers])}
        columns = [order[column.name] for column in self.columns]
        self._additions = np.ascontiguousarray(additions[:, columns])

        # A row is laid out as its numbers with NaN, which goes right; again with -inf for NaN,
        # which goes left; then for each split on a category 0.0 if the row goes left, else 1.0.
        places: list[int] = []
        thresholds: list[float] = []
        masks: list[int] = []
        starts: list[int] = []
        tables: list[list[Bools]] = [[] for _ in self._texts]
        on_category: list[tuple[int, int, int]] = []
        for tree in trees:
            for word in range(self._words):
                starts.append(len(places))
                for split in tree.splits or [_NO_SPLIT]:
                    masks.append(_mask(split.left_leaves, word))
                    if split.goes_left is None:
                        number = max(split.feature - texts, 0)
                        places.append(number + (numbers if split.missing_left else 0))
                        thresholds.append(split.threshold)
                    else:
                        of_text = tables[split.feature]
                        on_category.append((len(places), split.feature, len(of_text)))
                        of_text.append(split.goes_left)
                        places.append(-1)  # not known before all splits are seen
                        thresholds.append(0.5)
        first_of_text = 2 * numbers + np.cumsum([0, *map(len, tables)])
        for at, text, position in on_category:
            places[at] = int(first_of_text[text]) + position
        self._places, self._thresholds = np.array(places), np.array(thresholds)
        self._masks, self._starts = np.array(masks, dtype=np.uint32), np.array(starts)
        self._tables = [
            np.ascontiguousarray(~np.array(table, dtype=bool).reshape(-1, CODES).T, dtype=float)
            for table in tables
        ]

    def _compare(self, model: ScoringModel) -> None:
        rows = self._probes()
        with threadpool_limits(1):
            expected = model.estimator.predict_proba(design(rows, model.columns))[:, 1]
        found = self.score({str(name): rows[name].tolist() for name in rows}).p
        apart = float(np.abs(found - expected).max())
        if not apart <= 1e-9:
            raise ModelFormError(
                f"the fast form of the model gives P(late) up to {apart:.2g} apart from "
                "scikit-learn's; this version of scikit-learn builds its trees in another way: "
                "install the versions of requirements.lock"
            )

    def _probes(self) -> pd.DataFrame:
        """Rows of values that the trees tell apart, on thresholds and beside them."""
        draw = np.random.default_rng(0)
        rows: dict[str, Any] = {}
        count = len(self._numbers)
        for i, name in enumerate(self._numbers):
            mine = np.isin(self._places, [i, i + count])
            known = np.unique(self._thresholds[mine])
            known = known[np.isfinite(known)]
            values = draw.choice(known, PROBES) if known.size else np.zeros(PROBES)
            values = values + draw.choice([0.0, 0.0, 1e-3, -1e-3], PROBES)
            rows[name] = np.where(draw.random(PROBES) < 0.15, np.nan, values)
        for name, codes in zip(self._texts, self._codes, strict=True):
            words = np.array([*codes, "no such value", None], dtype=object)
            rows[name] = words[draw.integers(0, len(words), PROBES)]
        return pd.DataFrame(rows)

    # --- how it is used -----------------------------------------------------------------

    def score(self, values: Mapping[str, Sequence[Any]]) -> Scores:
        """Leaves, raw scores and P(late) of rows given as columns; None and NaN are missing."""
        numbers = np.array([values[name] for name in self._numbers], dtype=np.float64).T
        codes = [
            [known.get(value, MISSING) for value in values[name]]
            for name, known in zip(self._texts, self._codes, strict=True)
        ]
        leaves = np.empty((len(numbers), len(self._first_leaf)), dtype=np.int64)
        for row, (of_row, place) in enumerate(zip(numbers, leaves, strict=True)):
            place[:] = self._leaves(of_row, [code[row] for code in codes])
        raw = self._sum(leaves)
        return Scores(leaves, raw, expit(self.slope * raw + self.intercept))

    def contributions(self, leaves: Ints) -> Floats:
        """What each column adds to the raw score of one row; with `base` they are the score.

        `leaves` is a row of `Scores.leaves`. The order is that of `columns`.
        """
        added: Floats = self._additions.take(leaves, axis=0).sum(axis=0)
        return added

    def log_odds(self, raw: Floats) -> Floats:
        """The log odds of P(late), which Platt's scaling makes of a raw score."""
        return self.slope * raw + self.intercept

    @property
    def base_log_odds(self) -> float:
        """The log odds where nothing is known: contributions times `slope` come on top."""
        return self.slope * self.base + self.intercept

    def _leaves(self, numbers: Floats, codes: list[int]) -> Ints:
        there = np.where(np.isnan(numbers), -np.inf, numbers)
        compared = np.concatenate(
            [numbers, there, *(t[c] for t, c in zip(self._tables, codes, strict=True))]
        )
        left = compared.take(self._places) <= self._thresholds
        # all ones for a node that is passed to the left: it rules out nothing
        masks = np.bitwise_or(self._masks, np.negative(left.astype(np.uint32)))
        reached = np.bitwise_and.reduceat(masks, self._starts)
        if self._words > 1:
            by_tree = reached.reshape(-1, self._words)
            word = (by_tree != 0).argmax(axis=1)
            reached = by_tree[np.arange(len(by_tree)), word]
        lowest = reached & (~reached + np.uint32(1))
        bit = np.frexp(lowest.astype(np.float64))[1] - 1
        leaf: Ints = self._first_leaf + (bit if self._words == 1 else bit + word * WORD)
        return leaf

    def _sum(self, leaves: Ints) -> Floats:
        """Baseline and leaf values, added tree by tree as scikit-learn does, not pairwise."""
        terms = np.empty((len(leaves), leaves.shape[1] + 1))
        terms[:, 0] = self.baseline
        self._leaf_values.take(leaves, out=terms[:, 1:], mode="clip")
        raw: Floats = np.add.accumulate(terms, axis=1)[:, -1]
        return raw


class _Tree:
    """One tree of scikit-learn: its splits, and its leaves from left to right.

    `additions` has for each leaf what each feature adds on the way to it, from `mean`, the mean
    leaf value of all training rows.
    """

    def __init__(self, predictor: Any, width: int, texts: int, known: Any, place: Any) -> None:
        self._nodes, self._bitsets = predictor.nodes, predictor.raw_left_cat_bitsets
        self._texts = texts
        self._known, self._place = known, place
        self._means = self._mean_values()
        self.mean = float(self._means[0])
        self.splits: list[_Split] = []
        self._leaves: list[tuple[float, Floats]] = []
        self._walk(0, np.zeros(width))
        self.leaf_values = np.array([value for value, _ in self._leaves])
        self.additions = np.array([added for _, added in self._leaves])

    def _mean_values(self) -> Floats:
        """The mean leaf value of the training rows below each node; children follow parents."""
        nodes = self._nodes
        mean: Floats = nodes["value"].astype(np.float64)
        for i in range(len(nodes) - 1, -1, -1):
            if not nodes[i]["is_leaf"]:
                sides = [int(nodes[i]["left"]), int(nodes[i]["right"])]
                mean[i] = np.average(mean[sides], weights=nodes["count"][sides])
        return mean

    def _walk(self, i: int, added: Floats) -> list[int]:
        """Note the splits and leaves below a node. Returns the numbers of these leaves."""
        node = self._nodes[i]
        if node["is_leaf"]:
            self._leaves.append((float(node["value"]), added))
            return [len(self._leaves) - 1]
        feature, below = int(node["feature_idx"]), []
        for child in (int(node["left"]), int(node["right"])):
            more = added.copy()
            more[feature] += self._means[child] - self._means[i]
            below.append(self._walk(child, more))
        missing_left = bool(node["missing_go_to_left"])
        goes_left = self._goes_left(node) if feature < self._texts else None
        threshold = float(node["num_threshold"])
        self.splits.append(_Split(feature, threshold, missing_left, goes_left, below[0]))
        return below[0] + below[1]

    def _goes_left(self, node: Any) -> Bools:
        """By category code. A code that was not there in training goes where missing goes."""
        missing = bool(node["missing_go_to_left"])
        goes: Bools
        if node["is_categorical"]:
            left = _bits(self._bitsets[int(node["bitset_idx"])])
            known = _bits(self._known[int(self._place[int(node["feature_idx"])])])
            goes = np.where(left | known, left, missing)
        else:
            goes = np.arange(CODES) <= node["num_threshold"]
        goes[MISSING] = missing
        return goes


def _bits(words: Any) -> Bools:
    """The bits of eight 32-bit words, the lowest first."""
    bytes_ = np.ascontiguousarray(words, dtype="<u4").view(np.uint8)
    return np.unpackbits(bytes_, bitorder="little").astype(bool)


def _mask(left_leaves: list[int], word: int) -> int:
    """All ones but for the leaves of the left branch that are in this word."""
    cleared = sum(1 << (leaf - word * WORD) for leaf in left_leaves if leaf // WORD == word)
    return (1 << WORD) - 1 - cleared


def _codes(encode: Any, boost: Any, texts: list[str]) -> list[dict[Any, int]]:
    """For each text column, the code that the pipeline gives each value it knows."""
    if not texts:
        return []
    columns = encode.feature_names_in_
    known = dict(zip(texts, encode.named_transformers_["text"].categories_, strict=True))
    codes = []
    for place, name in enumerate(texts):
        values = [value for value in known[name] if isinstance(value, str)]
        frame = pd.DataFrame({column: np.full(len(values), np.nan) for column in columns})
        frame = frame.astype(dict.fromkeys(texts, object)).assign(**{name: values})
        encoded = boost._preprocess_X(encode.transform(frame), reset=False)[:, place]
        codes.append({v: int(c) for v, c in zip(values, encoded, strict=True) if not np.isnan(c)})
    return codes
