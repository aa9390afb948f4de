"""The on-demand functions give the same answer for the typed columns of the point-in-time join
and for the Python objects of the online store, and NULL where one of two instants is unknown."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

REPO = Path(__file__).parents[2] / "feature_repo"

AT = datetime(2013, 3, 10, 12, 0, tzinfo=UTC)
DEPARTURE = datetime(2013, 3, 10, 14, 0, tzinfo=UTC)
ROW = {
    "predict_at": AT,
    "sched_dep_at": DEPARTURE,
    "distance_mi": 760.0,
    "block_min": 150.0,
    "tail_last_expected_arrival_at": datetime(2013, 3, 10, 11, 30, tzinfo=UTC),
    "tail_last_departed_at": datetime(2013, 3, 10, 9, 0, tzinfo=UTC),
    "tail_last_block_min": 140,
    "weather_observed_at": datetime(2013, 3, 10, 10, 0, tzinfo=UTC),
    "origin_overdue_scheduled_at": datetime(2013, 3, 10, 11, 15, tzinfo=UTC),
    "carrier_overdue_scheduled_at": datetime(2013, 3, 10, 11, 0, tzinfo=UTC),
    "dest_overdue_scheduled_at": datetime(2013, 3, 10, 10, 0, tzinfo=UTC),
    "plane_year_built": 1999,
}
KNOWN = {"predict_at", "sched_dep_at", "distance_mi", "block_min"}


@pytest.fixture(scope="module")
def functions():
    sys.path.insert(0, str(REPO))
    try:
        import on_demand
    finally:
        sys.path.remove(str(REPO))
    return [view.feature_transformation.udf for view in on_demand.ON_DEMAND_VIEWS]


def typed(rows):
    frame = pd.DataFrame(rows)
    for column in frame:
        if column.endswith("_at"):
            frame[column] = pd.to_datetime(frame[column], utc=True)
        else:
            frame[column] = frame[column].astype("float64")
    return frame


ROWS = [ROW, {name: value if name in KNOWN else None for name, value in ROW.items()}]


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], ROWS[1:]], ids=["both", "full", "nulls"])
def test_typed_columns_and_python_objects_give_the_same(functions, rows):
    objects = pd.DataFrame(
        {name: pd.Series([row[name] for row in rows], dtype=object) for name in ROW}
    )
    for function in functions:
        offline = function(typed(rows)).astype("float64")
        online = function(objects).astype("float64")
        pd.testing.assert_frame_equal(offline, online, check_exact=True)


def test_the_values_are_those_a_reader_computes_by_hand(functions):
    calendar, context = (function(typed([ROW])).iloc[0] for function in functions)
    assert calendar["local_hour"] == 10.0  # 14:00 UTC on the first day of summer time
    assert calendar["weekday"] == 6
    assert calendar["days_from_holiday"] == 20  # after Presidents' Day, 18 February
    assert calendar["flight_padding_min"] == 10.0
    assert context["inbound_slack_min"] == 150.0
    assert context["inbound_spare_min"] == 10.0
    assert context["hours_since_last_leg"] == 3.0
    assert context["weather_age_min"] == 120.0
    assert context["origin_overdue_age_min"] == 45.0
    assert context["plane_age_years"] == 14.0


def test_what_is_unknown_stays_null(functions):
    _, context = functions
    assert context(typed(ROWS[1:])).isna().all(axis=None)
