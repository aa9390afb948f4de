"""What goes into the model: split by time, no outcome, equal content for equal hashes."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import Field
from feast.types import Array, Bool, Float64, String, UnixTimestamp
from training_project import SMALL, Project, flights

from hindcast.errors import HindcastError, MissingInputError
from training import dataset
from training.settings import Settings


def service(**fields: object) -> SimpleNamespace:
    features = [Field(name=name, dtype=dtype) for name, dtype in fields.items()]
    projection = SimpleNamespace(features=features, name_to_use=lambda: "view")
    return SimpleNamespace(feature_view_projections=[projection])


def test_the_split_is_by_local_time_and_no_flight_is_in_two_parts(project: Project) -> None:
    data = dataset.load(project.settings)
    parts = [data.rows(part, labelled=False) for part in ("fit", "tune", "test")]
    together = np.concatenate(parts)
    np.testing.assert_array_equal(np.sort(together), np.arange(len(data.frame)))
    at = data.frame["predict_at"]
    assert at.is_monotonic_increasing
    starts = [SMALL.instant(day) for day in (SMALL.fit_from, SMALL.tune_from, SMALL.test_from)]
    for rows, start in zip(parts, starts, strict=True):
        assert at.iloc[rows].min() >= start
    for rows, end in zip(parts, [*starts[1:], SMALL.instant(SMALL.test_until)], strict=True):
        assert at.iloc[rows].max() < end
    assert data.day.min() == 0
    assert data.day.max() == 91


def test_rows_without_a_label_are_in_no_part_unless_asked_for(project: Project) -> None:
    data = dataset.load(project.settings)
    assert not np.isnan(data.late[data.rows("fit")]).any()
    completed = (data.frame["outcome"] == "completed").to_numpy()
    np.testing.assert_array_equal(~np.isnan(data.late), completed)


@pytest.mark.parametrize("outcome", dataset.OUTCOMES)
def test_a_column_that_tells_the_outcome_never_becomes_a_feature(outcome: str) -> None:
    with pytest.raises(dataset.LeakError, match=outcome):
        dataset.service_columns(service(**{outcome: Float64}), Settings())
    with pytest.raises(dataset.LeakError, match=outcome):
        dataset.service_columns(service(wind=Float64), Settings(keys=("origin", outcome)))
    with pytest.raises(dataset.LeakError, match=outcome):
        dataset.assemble(
            pa.table({outcome: [1.0]}), [dataset.Column(outcome, "Float64", "v")], "s", SMALL
        )


def test_the_guard_knows_every_outcome_column_of_the_spine(project: Project) -> None:
    spine = pd.read_parquet(project.path / "data/published/first/flight_spine.parquet")
    known_before = {"flight_id", "origin", "dest", "carrier", "flight", "tailnum", "predict_at"}
    known_before |= {"sched_dep_at", "sched_arr_at", "distance_mi", "block_min"}
    assert set(spine.columns) - known_before == set(dataset.OUTCOMES)


def test_instants_are_left_out_and_lists_are_refused() -> None:
    columns = dataset.service_columns(
        service(seen_at=UnixTimestamp, wet=Bool, sky=String), Settings()
    )
    assert [c.name for c in columns] == ["origin", "carrier", "dest", "wet", "sky"]
    assert [c.is_category for c in columns] == [True, True, True, False, True]
    with pytest.raises(HindcastError, match=r"view\.many"):
        dataset.service_columns(service(many=Array(Float64)), Settings())


def test_equal_content_has_equal_hashes_however_arrow_holds_it() -> None:
    values = [1.5, None, 3.0, -0.5]
    texts = ["a", None, "", "bc"]
    whole = pa.table({"x": pa.array(values), "t": pa.array(texts)})
    chunked = pa.table(
        {
            "x": pa.chunked_array([pa.array(values[:1]), pa.array(values[1:])]),
            "t": pa.chunked_array([pa.array(["no", *texts])[1:3], pa.array(texts[2:])]),
        }
    )
    assert dataset.content_hash(whole, ["x", "t"]) == dataset.content_hash(chunked, ["x", "t"])


@pytest.mark.parametrize(
    "other",
    [
        {"x": [1.5, None, 3.0], "t": ["a", "b", None]},
        {"x": [1.5, 0.0, 3.0], "t": ["a", None, "b"]},
        {"x": [None, 1.5, 3.0], "t": ["a", None, "b"]},
        {"x": [1.5, None, 3.0], "t": ["a", "", "b"]},
        {"x": [1.5, None, 3.0], "t": ["ab", None, ""]},
    ],
)
def test_any_other_value_order_or_null_has_another_hash(other: dict[str, list[object]]) -> None:
    one = pa.table({"x": [1.5, None, 3.0], "t": ["a", None, "b"]})
    assert dataset.content_hash(one, ["x", "t"]) != dataset.content_hash(
        pa.table(other), ["x", "t"]
    )


def test_a_period_without_flights_says_which_command_lands_them(project: Project) -> None:
    with pytest.raises(MissingInputError, match=r"test days.*python -m landing"):
        dataset.load(project.settings.but(test_from="2014-02-01", test_until="2014-03-01"))


def test_settings_survive_json_and_refuse_what_cannot_work() -> None:
    assert Settings.from_dict(SMALL.as_dict()) == SMALL
    for wrong in (
        {"tune_from": "2012-01-01"},
        {"late_benefit": 100.0},
        {"round_step": 500},
        {"zone": "Mars"},
        {"fit_from": "January"},
    ):
        with pytest.raises(ValueError):
            Settings(**wrong)  # type: ignore[arg-type]


def test_predictions_at_several_horizons_are_refused() -> None:
    frame = flights(0)
    assert dataset.horizon_min(frame) == 120
    frame.loc[0, "predict_at"] -= pd.Timedelta(minutes=1)
    with pytest.raises(HindcastError, match="from 120 to 121 minutes"):
        dataset.horizon_min(frame)
