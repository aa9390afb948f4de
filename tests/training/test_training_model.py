"""The model: chosen on the tuning days only, saved without code, loaded without trust."""

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.metrics import log_loss
from sklearn.preprocessing import FunctionTransformer
from training_project import SMALL

from hindcast.errors import MissingInputError
from training import model
from training.dataset import Column

COLUMNS = (
    Column("origin", "String", "keys"),
    Column("wind", "Float64", "weather"),
    Column("wet", "Bool", "weather"),
    Column("count", "Int64", "weather"),
)


def rows(seed: int, n: int = 600) -> tuple[pd.DataFrame, np.ndarray]:
    draw = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "origin": draw.choice(np.array(["JFK", "LGA", None], dtype=object), n),
            "wind": np.where(draw.random(n) < 0.1, np.nan, draw.normal(0, 1, n)),
            "wet": draw.choice(np.array([True, False, None], dtype=object), n),
            "count": pd.array(draw.integers(0, 9, n), dtype="Int64"),
        }
    )
    late = draw.random(n) < 1 / (1 + np.exp(1 - 2 * frame["wind"].fillna(0)))
    return model.design(frame, COLUMNS), late.astype(float).to_numpy()


@pytest.fixture(scope="module")
def fitted() -> object:
    pipeline, _ = model.choose(rows(0), rows(1), COLUMNS, SMALL)
    return model.calibrated(pipeline, rows(1))


@pytest.mark.parametrize("bins", [(255,), (16, 255)])
def test_the_model_cut_to_its_rounds_is_the_model_fitted_with_them(bins: tuple[int, ...]) -> None:
    settings = SMALL.but(learning_rate=0.8, bins=bins)
    pipeline, choice = model.choose(rows(0), rows(1), COLUMNS, settings)
    assert choice.rounds < SMALL.max_rounds
    again = model.fitted(rows(0), COLUMNS, settings, choice.leaves, choice.rounds)
    inputs, _ = rows(2)
    np.testing.assert_array_equal(pipeline.predict_proba(inputs), again.predict_proba(inputs))
    assert pipeline["boost"].n_iter_ == choice.rounds * len(bins)
    inputs, late = rows(1)
    assert choice.log_loss == model.Scaling.fit(again.predict_proba(inputs)[:, 1], late).log_loss


def test_a_model_of_several_is_the_mean_of_their_log_odds() -> None:
    inputs, _ = rows(2)
    both = model.fitted(rows(0), COLUMNS, SMALL.but(bins=(16, 255)), 8, 12)
    fine = model.trees(COLUMNS, SMALL, 8, 12, 255).fit(*rows(0))
    coarse = model.trees(COLUMNS, SMALL.but(seed=SMALL.seed + 1), 8, 12, 16).fit(*rows(0))
    odds = [model.log_odds(each.predict_proba(inputs)[:, 1]) for each in (both, fine, coarse)]
    assert np.abs(odds[1] - odds[2]).max() > 0.01
    np.testing.assert_allclose(odds[0], (odds[1] + odds[2]) / 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scaled", [True, False])
def test_the_choice_is_the_best_of_all_candidates_on_the_tuning_days(scaled: bool) -> None:
    _, choice = model.choose(rows(0), rows(1), COLUMNS, SMALL, scaled=scaled)
    inputs, late = rows(1)
    candidates = {}
    for leaves in SMALL.leaves:
        for rounds in (4, 8, 12):
            pipeline = model.fitted(rows(0), COLUMNS, SMALL, leaves, rounds)
            used = model.calibrated(pipeline, (inputs, late)) if scaled else pipeline
            candidates[leaves, rounds] = log_loss(late, used.predict_proba(inputs))
    assert min(candidates, key=candidates.__getitem__) == (choice.leaves, choice.rounds)


def test_a_saved_model_gives_the_same_scores_bit_for_bit(fitted: object, tmp_path: Path) -> None:
    model.save(fitted, tmp_path / "model.skops")
    inputs, _ = rows(2)
    loaded = model.read_trusted(tmp_path / "model.skops")
    np.testing.assert_array_equal(
        loaded.predict_proba(inputs),
        fitted.predict_proba(inputs),  # type: ignore[attr-defined]
    )


def test_a_pickle_is_refused_and_does_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    (tmp_path / "model.skops").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(model.UntrustedModelError, match="is not a skops file"):
        model.read_trusted(tmp_path / "model.skops")
    assert not (tmp_path / "ran").exists()


def test_a_type_that_our_models_are_not_made_of_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    skops.io.dump(FunctionTransformer(func=Path.unlink), path)
    with pytest.raises(model.UntrustedModelError, match="unlink"):
        model.read_trusted(path)
    skops.io.dump({"path": tmp_path}, path)
    with pytest.raises(model.UntrustedModelError, match="Path"):
        model.read_trusted(path)


def test_the_trusted_types_are_exactly_those_our_models_need(
    fitted: object, tmp_path: Path
) -> None:
    model.save(fitted, tmp_path / "model.skops")
    assert set(skops.io.get_untrusted_types(file=tmp_path / "model.skops")) == set(model.TRUSTED)
    assert not zipfile.ZipFile(tmp_path / "model.skops").testzip()


def test_a_value_never_seen_is_treated_like_a_missing_one(fitted: object) -> None:
    inputs, _ = rows(2, 5)
    unseen = model.design(inputs.assign(origin="XXX"), COLUMNS)
    missing = model.design(inputs.assign(origin=None), COLUMNS)
    np.testing.assert_array_equal(
        fitted.predict_proba(unseen),  # type: ignore[attr-defined]
        fitted.predict_proba(missing),  # type: ignore[attr-defined]
    )


def test_more_categories_than_the_trees_can_take_still_train() -> None:
    many = np.array([f"D{i % 400:03}" for i in range(2000)], dtype=object)
    inputs = model.design(pd.DataFrame({"origin": many}), COLUMNS[:1])
    late = (np.arange(2000) % 3 == 0).astype(float)
    pipeline = model.fitted((inputs, late), COLUMNS[:1], SMALL, leaves=4, rounds=2)
    assert pipeline.predict_proba(inputs).shape == (2000, 2)


def test_online_and_offline_types_make_the_same_numbers() -> None:
    offline = pd.DataFrame(
        {
            "origin": pd.array(["JFK", None], dtype="string"),
            "wind": [1.0, np.nan],
            "wet": pd.array([True, None], dtype="boolean"),
            "count": pd.array([3, None], dtype="Int64"),
        }
    )
    online = pd.DataFrame(
        {"origin": ["JFK", None], "wind": [1.0, None], "wet": [True, None], "count": [3, None]},
        dtype=object,
    )
    pd.testing.assert_frame_equal(model.design(offline, COLUMNS), model.design(online, COLUMNS))


def test_a_missing_feature_is_named() -> None:
    with pytest.raises(MissingInputError, match="wet, count"):
        model.design(pd.DataFrame({"origin": ["JFK"], "wind": [1.0]}), COLUMNS)


def test_the_lookup_table_counts_and_leans_to_the_base_rate_where_it_knows_little() -> None:
    keys = pd.DataFrame({"carrier": ["AA", "AA", "UA", "UA"], "hour": [6, 6, 6, 7]})
    table = model.LookupTable.fit(keys, np.array([1.0, 1.0, 0.0, 0.0]), prior=2)
    assert table.base == 0.5
    asked = pd.DataFrame({"carrier": ["AA", "UA", "UA", "XX"], "hour": [6, 6, 7, 6]})
    np.testing.assert_allclose(
        table.predict(asked), [(2 + 2 * 0.5) / 4, (0 + 2 * 0.5) / 3, (0 + 2 * 0.5) / 3, 0.5]
    )


def test_a_run_folder_without_a_model_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="python -m training"):
        model.load(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({}))
    with pytest.raises(MissingInputError, match="python -m training"):
        model.load(tmp_path)


def test_scaling_bears_trees_that_are_certain() -> None:
    late = np.array([0.0, 1.0, 0.0, 1.0, 1.0])
    scaling = model.Scaling.fit(np.array([0.0, 1.0, 0.2, 0.9, 1.0]), late)
    assert np.isfinite([scaling.slope, scaling.shift, scaling.log_loss]).all()
    assert (np.diff(scaling(np.array([0.0, 0.5, 1.0]))) > 0).all()
