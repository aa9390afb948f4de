"""The form of the model that serves, against scikit-learn."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_project import SMALL

from serving import demo, equality, trees
from serving.bundle import Bundle
from serving.trees import ModelFormError, TreeModel
from training import model
from training.dataset import Column, Dataset
from training.model import ScoringModel
from training.settings import Settings

COLUMNS = (
    Column("kind", "String", "things"),
    Column("x", "Float64", "things"),
    Column("n", "Int64", "things"),
    Column("is_big", "Bool", "things"),
    Column("place", "String", "things"),
    Column("y", "Float64", "things"),
)


def things(rows: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows with missing values of every type, and a label that depends on all columns."""
    draw = np.random.default_rng(seed)
    kind = draw.choice(["a", "b", "c", "d"], rows)
    place = np.array([f"p{i}" for i in draw.integers(0, 120, rows)])
    x, y, n = draw.normal(size=rows), draw.exponential(size=rows), draw.integers(-5, 6, rows)
    big = draw.random(rows) < 0.5
    chance = x + (kind == "b") * 2 - y * big + n / 4 + np.isin(place, ["p1", "p7", "p50"]) * 3
    late = (chance + draw.normal(size=rows) > 0).astype("float64")
    frame = pd.DataFrame({"kind": kind, "x": x, "n": n, "is_big": big, "place": place, "y": y})
    holes = draw.random(frame.shape) < 0.1
    return frame.astype(object).mask(pd.DataFrame(holes, columns=frame.columns), None), late


def fitted(
    leaves: int, rounds: int = 20, bins: tuple[int, ...] = (255,)
) -> tuple[ScoringModel, pd.DataFrame]:
    """A model as training makes it, and rows it has not seen."""
    frame, late = things(6_000, leaves)
    choice: Settings = SMALL.but(min_leaf=2, learning_rate=0.2, bins=bins)
    data = Dataset(
        frame, COLUMNS, "s", "", "", late, np.repeat(["fit", "tune"], 3_000), np.zeros(6_000)
    )
    inputs = model.design(frame, COLUMNS)
    fit, tune = ((inputs.iloc[rows], late[rows]) for rows in (data.rows("fit"), data.rows("tune")))
    pipeline = model.fitted(fit, COLUMNS, choice, leaves, rounds)
    estimator = model.calibrated(pipeline, tune)
    return ScoringModel(estimator, COLUMNS, 0.5, {}), things(2_000, leaves + 1)[0]


def columns_of(frame: pd.DataFrame) -> dict[str, list[Any]]:
    return {str(name): frame[name].tolist() for name in frame}


BINS: dict[int, tuple[int, ...]] = {8: (255, 16), 31: (16,), 33: (255, 255, 100)}


@pytest.fixture(scope="module", params=[2, 8, 31, 33, 150])
def pair(request: pytest.FixtureRequest) -> tuple[ScoringModel, TreeModel, pd.DataFrame]:
    """scikit-learn's model, ours, and rows; more leaves than fit into one word, several models."""
    made, rows = fitted(request.param, bins=BINS.get(request.param, (255,)))
    return made, TreeModel(made), rows


def test_scores_are_equal_to_the_last_bit(pair: tuple[ScoringModel, TreeModel, Any]) -> None:
    made, fast, rows = pair
    expected = made.predict_proba(rows)
    assert len(set(expected)) > 3
    np.testing.assert_array_equal(fast.score(columns_of(rows)).p, expected)


def test_one_row_scores_as_it_does_among_others(
    pair: tuple[ScoringModel, TreeModel, Any],
) -> None:
    _, fast, rows = pair
    together = fast.score(columns_of(rows.head(50))).p
    alone = [fast.score(columns_of(rows.iloc[[i]])).p.item() for i in range(50)]
    assert alone == together.tolist()


def test_a_text_that_was_never_seen_counts_as_missing(
    pair: tuple[ScoringModel, TreeModel, Any],
) -> None:
    made, fast, rows = pair
    strange = rows.head(200).assign(kind="never", place="")
    missing = rows.head(200).assign(kind=None, place=None)
    scores = fast.score(columns_of(strange)).p
    np.testing.assert_array_equal(scores, fast.score(columns_of(missing)).p)
    np.testing.assert_array_equal(scores, made.predict_proba(strange))


def test_base_and_contributions_add_up_to_the_raw_score(
    pair: tuple[ScoringModel, TreeModel, Any],
) -> None:
    _, fast, rows = pair
    scores = fast.score(columns_of(rows.head(300)))
    added = [fast.base + fast.contributions(leaves).sum() for leaves in scores.leaves]
    np.testing.assert_allclose(added, scores.raw, rtol=0, atol=1e-12)


def test_a_contribution_is_the_change_of_the_mean_score_at_the_splits_of_its_feature() -> None:
    """One tree with one split on x, small enough to check by eye."""
    x = np.repeat([0.0, 1.0], [300, 100])
    late = np.where(x == 1, np.arange(400) % 4 > 0, np.arange(400) % 4 == 0).astype("float64")
    frame, columns = pd.DataFrame({"x": x}), (Column("x", "Float64", "things"),)
    pipeline = model.fitted((frame, late), columns, SMALL.but(l2=0.0, column_share=1.0), 2, 1)
    fast = TreeModel(ScoringModel(model.calibrated(pipeline, (frame, late)), columns, 0.5, {}))
    low, high = fast.score({"x": [0.0, 1.0]}).raw
    assert fast.base == pytest.approx((300 * low + 100 * high) / 400)
    (added,) = fast.contributions(fast.score({"x": [1.0]}).leaves[0])
    assert added == pytest.approx(high - fast.base)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "kind": st.none() | st.sampled_from("abcd") | st.text(max_size=3),
                "x": st.none() | st.floats(),
                "n": st.none() | st.integers(-(2**63), 2**63 - 1),
                "is_big": st.none() | st.booleans(),
                "place": st.none() | st.from_regex("p[0-9]{1,3}", fullmatch=True),
                "y": st.none() | st.floats(width=32),
            }
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_values_score_as_in_scikit_learn(rows: list[dict[str, Any]]) -> None:
    made, fast = anything()
    frame = pd.DataFrame(rows).astype(object)
    expected = made.estimator.predict_proba(model.design(frame, COLUMNS))[:, 1]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    np.testing.assert_array_equal(fast.score(columns).p, expected)


_kept: list[tuple[ScoringModel, TreeModel]] = []


def anything() -> tuple[ScoringModel, TreeModel]:
    if not _kept:
        made, _ = fitted(31)
        _kept.append((made, TreeModel(made)))
    return _kept[0]


def test_a_form_that_scores_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = fitted(4)
    monkeypatch.setattr(trees.TreeModel, "_sum", lambda self, leaves: leaves[:, 0] * 1.0)
    with pytest.raises(ModelFormError, match="apart from scikit-learn's"):
        TreeModel(made)


def test_a_model_of_another_kind_is_refused() -> None:
    made, _ = fitted(4)
    with pytest.raises(ModelFormError, match="not gradient-boosted trees"):
        TreeModel(ScoringModel(made.estimator.calibrated_classifiers_[0], COLUMNS, 0.5, {}))


def test_every_test_row_of_a_run_scores_as_training_wrote_it_down(
    bundle: Bundle, run_dir: Path
) -> None:
    equal = equality.compare(bundle, run_dir)
    assert equal.rows > 500
    assert equal.identical == equal.rows
    assert equal.farthest == 0


def test_a_champion_whose_snapshot_was_pruned_is_compared_with_nothing_and_said_so(
    run_dir: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_dir, run)
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"snapshot": "pruned"}))
    told: list[str] = []
    assert demo.apart_on_test_rows(run, told.append) == 0
    assert "left out: snapshot pruned is not in" in told[0]
