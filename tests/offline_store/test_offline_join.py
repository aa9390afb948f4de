"""What a point-in-time join promises, one promise per test."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from feast import FeatureView, Field, FileSource, PushSource, RequestSource
from feast.data_format import DeltaFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Int64
from offline_lab import UTC_US, Lab, at, rows

from hindcast import sweep
from hindcast.errors import MissingInputError, RetrievalError
from hindcast.offline_store import DuckDBOfflineStore

pytestmark = pytest.mark.usefixtures("either_way")

NOON = at("2013-07-01T12:00:00")
MICROSECOND = timedelta(microseconds=1)
KEYED = {"origin": pa.string(), "known_at": UTC_US, "departures": pa.int64()}
SPINE = {"origin": pa.string(), "event_timestamp": UTC_US}


def departures(lab: Lab, *history: tuple, **options) -> FeatureView:
    return lab.view("departures", rows(KEYED, *history), ["origin"], **options)


def joined(lab: Lab, view: FeatureView, *spine: tuple, **options) -> list:
    (feature,) = view.features
    result = lab.join(rows(SPINE, *spine), [view], **options).to_arrow()
    return result[feature.name].to_pylist()


# --- time ---------------------------------------------------------------------------------


def test_a_value_known_after_the_prediction_time_is_never_joined(lab: Lab) -> None:
    view = departures(lab, ("JFK", NOON - MICROSECOND, 1), ("JFK", NOON + MICROSECOND, 2))
    assert joined(lab, view, ("JFK", NOON)) == [1]


def test_a_value_known_at_the_prediction_time_is_joined(lab: Lab) -> None:
    view = departures(lab, ("JFK", NOON, 1))
    assert joined(lab, view, ("JFK", NOON)) == [1]


def test_the_ttl_is_inclusive_to_the_microsecond(lab: Lab) -> None:
    ttl = timedelta(hours=36)
    view = departures(lab, ("JFK", NOON, 1), ttl=ttl)
    at_the_edge, past_it = NOON + ttl, NOON + ttl + MICROSECOND
    assert joined(lab, view, ("JFK", at_the_edge), ("JFK", past_it)) == [1, None]


@pytest.mark.parametrize("ttl", [timedelta(0), None])
def test_no_ttl_is_unlimited(lab: Lab, ttl: timedelta | None) -> None:
    view = departures(lab, ("JFK", at("1970-01-01T00:00:00"), 1))
    view.ttl = ttl
    assert joined(lab, view, ("JFK", at("2999-12-31T00:00:00"))) == [1]


def test_an_older_value_never_fills_a_null(lab: Lab) -> None:
    view = departures(lab, ("JFK", NOON - timedelta(hours=1), 1), ("JFK", NOON, None))
    assert joined(lab, view, ("JFK", NOON)) == [None]


def test_finer_than_a_microsecond_is_floored(lab: Lab) -> None:
    view = departures(lab, ("JFK", NOON, 1), ("JFK", NOON + MICROSECOND, 2))
    spine = pd.DataFrame(
        {"origin": "JFK", "event_timestamp": [pd.Timestamp(NOON) + pd.Timedelta(999, "ns")]}
    )
    assert lab.join(spine, [view]).to_df()["departures"].tolist() == [1]


def test_a_time_before_1970_is_floored_too(lab: Lab) -> None:
    moon = at("1969-07-20T20:17:40")
    view = departures(lab, ("JFK", moon, 1))
    just_before = pd.Timestamp(moon) - pd.Timedelta(1, "ns")
    spine = pd.DataFrame({"origin": ["JFK"], "event_timestamp": [just_before]})
    assert lab.join(spine, [view]).to_df()["departures"].isna().all()


@pytest.mark.parametrize("kind", [pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("ms")])
def test_a_time_without_a_zone_is_utc(lab: Lab, kind: pa.DataType) -> None:
    naive = NOON.replace(tzinfo=None)
    history = rows({**KEYED, "known_at": kind}, ("JFK", naive, 1))
    view = lab.view("naive", history, ["origin"], ttl=timedelta(seconds=1))
    spine = rows({**SPINE, "event_timestamp": kind}, ("JFK", naive))
    result = lab.join(spine, [view]).to_arrow()
    assert result["departures"].to_pylist() == [1]
    assert result["event_timestamp"].type == kind


def test_times_in_other_zones_and_as_text_are_understood(lab: Lab) -> None:
    view = departures(lab, ("JFK", NOON, 1), ttl=timedelta(seconds=1))
    zoned = pd.DataFrame({"origin": ["JFK"], "event_timestamp": [NOON]})
    zoned["event_timestamp"] = zoned["event_timestamp"].dt.tz_convert("America/New_York")
    text = pd.DataFrame({"origin": "JFK", "event_timestamp": ["2013-07-01T08:00:00-04:00"]})
    for spine in (zoned, text):
        assert lab.join(spine, [view]).to_df()["departures"].tolist() == [1]


HOURLY = rows(
    {"k": pa.int64(), "known_at": pa.timestamp("us"), "v": pa.int64()},
    *((1, datetime(2013, 3, 10, hour, 30), hour) for hour in range(12)),
)
JOIN_HOURLY = """
import sys
from pathlib import Path
from typing import Any
sys.path.insert(0, sys.argv[1])
from test_offline_join import Lab, join_hourly
print(join_hourly(Lab(Path(sys.argv[2]))))
"""


def join_hourly(lab: Lab) -> list:
    """A join through the night in which New York changes its clocks, all times naive."""
    view = lab.view("hourly", HOURLY, ["k"], ttl=timedelta(minutes=90))
    spine = HOURLY.select(["k", "known_at"]).rename_columns(["k", "event_timestamp"])
    return lab.join(spine, [view]).to_arrow()["v"].to_pylist()


def test_the_time_zone_of_the_process_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    here = Path(__file__).parent
    in_new_york = subprocess.run(
        [sys.executable, "-c", JOIN_HOURLY, str(here), str(tmp_path)],
        env={**os.environ, "TZ": "America/New_York", "PYTHONPATH": str(here.parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert join_hourly(lab) == list(range(12))
    assert in_new_york.stdout.strip() == str(list(range(12)))


# --- ties ---------------------------------------------------------------------------------

TIED = {**KEYED, "created_at": UTC_US}


def test_of_equal_event_times_the_latest_created_wins_and_null_is_last(lab: Lab) -> None:
    history = rows(
        TIED,
        ("JFK", NOON, 1, NOON - timedelta(hours=2)),
        ("JFK", NOON, 2, NOON - timedelta(hours=1)),
        ("JFK", NOON, 3, None),
    )
    view = lab.view("tied", history, ["origin"], created="created_at")
    assert joined(lab, view, ("JFK", NOON)) == [2]


def test_of_rows_equal_in_all_times_the_last_in_the_file_wins(lab: Lab) -> None:
    history = rows(TIED, *(("JFK", NOON, number, NOON) for number in (3, 9, 5)))
    for created in ("", "created_at"):
        view = lab.view("tied", history, ["origin"], created=created)
        assert joined(lab, view, ("JFK", NOON)) == [5]


def test_a_created_time_after_the_prediction_hides_a_row_only_when_asked(lab: Lab) -> None:
    history = rows(
        TIED,
        ("JFK", NOON - timedelta(hours=2), 1, NOON - timedelta(hours=2)),
        ("JFK", NOON - timedelta(hours=1), 2, NOON + MICROSECOND),
        ("JFK", NOON - timedelta(hours=1), 3, None),
    )
    view = lab.view("backfilled", history, ["origin"], created="created_at")
    late = NOON + timedelta(hours=1)
    assert joined(lab, view, ("JFK", NOON), ("JFK", late)) == [2, 2]
    cutoff = {"filter_by_created_timestamp": True}
    assert joined(lab, view, ("JFK", NOON), ("JFK", late), **cutoff) == [1, 2]


# --- rows ---------------------------------------------------------------------------------


def test_rows_come_back_in_the_callers_order_with_duplicates_and_extra_columns(lab: Lab) -> None:
    count, chance = 30_000, random.Random(7)
    history = rows(KEYED, *(("JFK", NOON + timedelta(minutes=m), m) for m in range(1_000)))
    view = lab.view("many", history, ["origin"])
    minutes = [chance.randrange(-10, 990) for _ in range(count)]
    spine = pd.DataFrame(
        {
            "note": [f"row {number % 100}" for number in range(count)],
            "origin": ["JFK" if minute % 7 else None for minute in minutes],
            "event_timestamp": [NOON + timedelta(minutes=minute) for minute in minutes],
            "kind": pd.Categorical(["a", "b", "c"] * (count // 3)),
        },
        index=range(count, 0, -1),
    )
    result = lab.join(spine, [view], config=lab.configured(threads=2)).to_df()
    pd.testing.assert_frame_equal(result[list(spine)], spine.reset_index(drop=True))
    expected = [float(m) if m % 7 and m >= 0 else np.nan for m in minutes]
    np.testing.assert_array_equal(result["departures"], expected)


def test_the_callers_frame_is_untouched(lab: Lab) -> None:
    view = departures(lab, ("JFK", NOON, 1))
    spine = pd.DataFrame({"origin": ["JFK"], "event_timestamp": ["2013-07-01 12:00"]}, index=[5])
    before = spine.copy(deep=True)
    lab.join(spine, [view]).to_df()
    pd.testing.assert_frame_equal(spine, before)


def test_null_keys_and_null_times_give_null_features(lab: Lab) -> None:
    view = departures(lab, ("JFK", NOON, 1), (None, NOON, 2), ("JFK", None, 3))
    for times in (1, 100):  # DuckDB joins 64 rows or more in another way
        spine = [(None, NOON), ("JFK", None), ("JFK", NOON)] * times
        assert joined(lab, view, *spine) == [None, None, 1] * times


def test_a_null_in_one_of_several_keys_matches_nothing(lab: Lab) -> None:
    kinds = {"a": pa.int64(), "b": pa.int64(), "known_at": UTC_US, "v": pa.int64()}
    history = rows(kinds, (1, None, NOON, 1), (None, 1, NOON, 2), (None, None, NOON, 3))
    view = lab.view("pairs", history, ["a", "b"])
    keys = {"a": pa.int64(), "b": pa.int64(), "event_timestamp": UTC_US}
    for times in (1, 100):  # DuckDB joins 64 rows or more in another way
        spine = rows(keys, *[(1, None, NOON), (None, 1, NOON), (None, None, NOON)] * times)
        result = lab.join(spine, [view]).to_arrow()
        assert result["v"].to_pylist() == [None, None, None] * times


def test_columns_without_any_value_give_null_features(lab: Lab) -> None:
    view = departures(lab, ("JFK", NOON, 1))
    no_key = pd.DataFrame({"origin": [None, None], "event_timestamp": NOON})
    no_time = pd.DataFrame({"origin": ["JFK", "JFK"], "event_timestamp": None})
    for spine in (no_key, no_time, no_key[:0], no_time[:0]):
        result = lab.join(spine, [view]).to_df()
        assert len(result) == len(spine)
        assert result["departures"].isna().all()


def test_a_view_without_history_gives_null_features(lab: Lab) -> None:
    assert joined(lab, departures(lab), ("JFK", NOON)) == [None]


def test_large_integers_survive_missing_neighbours(lab: Lab) -> None:
    view = departures(lab, ("JFK", NOON, 2**53 + 1))
    result = lab.join(rows(SPINE, ("JFK", NOON), ("LGA", NOON)), [view]).to_df()
    assert result["departures"].tolist() == [2**53 + 1, pd.NA]


def test_small_integers_with_missing_neighbours_are_floats_as_in_pandas(lab: Lab) -> None:
    view = departures(lab, ("JFK", NOON, 7))
    result = lab.join(rows(SPINE, ("JFK", NOON), ("LGA", NOON)), [view]).to_df()
    assert result["departures"].dtype == np.float64


def test_every_kind_of_value_comes_back_as_it_was_stored(lab: Lab) -> None:
    values = {
        "a_list": pa.array([[1, None]], pa.list_(pa.int64())),
        "a_bool": pa.array([True]),
        "a_time": pa.array([NOON], UTC_US),
        "bytes": pa.array([b"\x00"]),
        "narrow": pa.array([1.5], pa.float32()),
        "money": pa.array([Decimal("12345678901234567890.12")], pa.decimal128(22, 2)),
        "known_at": pa.array([NOON], UTC_US),
        "origin": pa.array(["JFK"]),
    }
    path = lab.publish("kinds", pa.table(values))
    view = departures(lab, ("JFK", NOON, 1))
    view.batch_source = FileSource(path=path, timestamp_field="known_at")
    names = list(values)[:6]
    view.features = [Field(name=name, dtype=Int64) for name in names]
    result = lab.join(rows(SPINE, ("JFK", NOON)), [view]).to_arrow()
    assert result.select(names).equals(pa.table(values).select(names))


# --- keys ---------------------------------------------------------------------------------


def test_key_types_that_differ_are_refused_naming_both(lab: Lab) -> None:
    view = departures(lab, ("1", NOON, 1))
    spine = rows({**SPINE, "origin": pa.int64()}, (1, NOON))
    with pytest.raises(RetrievalError, match=r"'origin' is BIGINT in entity_df.*VARCHAR"):
        lab.join(spine, [view])


def test_integers_of_every_width_match(lab: Lab) -> None:
    history = rows({**KEYED, "origin": pa.int64()}, (7, NOON, 1))
    view = lab.view("numbered", history, ["origin"])
    for kind in (pa.int8(), pa.uint16(), pa.int32(), pa.uint64()):
        spine = rows({**SPINE, "origin": kind}, (7, NOON))
        assert lab.join(spine, [view]).to_arrow()["departures"].to_pylist() == [1]


def test_integer_keys_that_pandas_made_floats_match_whole_numbers_only(lab: Lab) -> None:
    history = rows({**KEYED, "origin": pa.int64()}, (1, NOON, 1), (2, NOON, 2))
    view = lab.view("numbered", history, ["origin"])
    spine = pd.DataFrame({"origin": [1, None, 1.5, 1e300, np.inf], "event_timestamp": NOON})
    result = lab.join(spine, [view]).to_arrow()
    assert result["departures"].to_pylist() == [1, None, None, None, None]


def test_keys_are_compared_one_by_one_not_glued_together(lab: Lab) -> None:
    kinds = {"a": pa.int64(), "b": pa.int64(), "known_at": UTC_US, "v": pa.int64()}
    view = lab.view("pairs", rows(kinds, (1, 12, NOON, 1), (11, 2, NOON, 2)), ["a", "b"])
    spine = rows({"a": pa.int64(), "b": pa.int64(), "event_timestamp": UTC_US}, (11, 2, NOON))
    assert lab.join(spine, [view]).to_arrow()["v"].to_pylist() == [2]


def test_a_missing_key_is_named(lab: Lab) -> None:
    spine = rows({"event_timestamp": UTC_US, "dest": pa.string()}, (NOON, "LAX"))
    with pytest.raises(RetrievalError, match=r"departures needs 'origin'.*event_timestamp, dest"):
        lab.join(spine, [departures(lab, ("JFK", NOON, 1))])


def test_one_view_can_be_joined_twice_under_aliases(lab: Lab) -> None:
    view = departures(lab, ("JFK", NOON, 1), ("LAX", NOON, 2))
    here = view.with_name("here")
    there = view.with_name("there").with_join_key_map({"origin": "dest"})
    spine = rows({**SPINE, "dest": pa.string()}, ("JFK", NOON, "LAX"))
    result = lab.join(spine, [here, there], full_feature_names=True).to_arrow().to_pylist()
    assert result[0]["here__departures"] == 1
    assert result[0]["there__departures"] == 2


def test_a_feature_that_the_view_does_not_have_is_named(lab: Lab) -> None:
    view = departures(lab, ("JFK", NOON, 1))
    with pytest.raises(RetrievalError, match=r"no feature arrivals\. It has departures"):
        DuckDBOfflineStore.get_historical_features(
            lab.config,
            [view],
            ["departures:arrivals"],
            rows(SPINE, ("JFK", NOON)),
            lab.registry,
            "lab",
        )


def test_two_keys_of_a_view_may_come_from_one_column(lab: Lab) -> None:
    kinds = {"a": pa.string(), "b": pa.string(), "known_at": UTC_US, "v": pa.int64()}
    view = lab.view("pairs", rows(kinds, ("x", "x", NOON, 1), ("x", "y", NOON, 2)), ["a", "b"])
    both = view.with_join_key_map({"a": "origin", "b": "origin"})
    result = lab.join(rows(SPINE, ("x", NOON)), [both]).to_arrow()
    assert result["v"].to_pylist() == [1]


def test_a_view_without_entities_is_joined_on_time_alone(lab: Lab) -> None:
    history = rows({"known_at": UTC_US, "v": pa.int64()}, (NOON, 1), (NOON + MICROSECOND, 2))
    view = lab.view("global", history, [])
    assert joined(lab, view, ("JFK", NOON), (None, NOON + MICROSECOND)) == [1, 2]


def test_field_mappings_are_undone_when_reading(lab: Lab) -> None:
    raw = {"ORIG": pa.string(), "ts": UTC_US, "made": UTC_US, "n": pa.int64(), "m": pa.int64()}
    mapping = {"ORIG": "origin", "ts": "known_at", "made": "created_at", "n": "departures"}
    view = lab.view(
        "mapped",
        rows(raw, ("JFK", NOON, NOON, 1, 5), ("JFK", NOON, None, 2, 6)),
        ["origin"],
        created="created_at",
        field_mapping=mapping,
    )
    result = lab.join(rows(SPINE, ("JFK", NOON)), [view]).to_arrow()
    assert result.select(["departures", "m"]).to_pylist() == [{"departures": 1, "m": 5}]


# --- the spine ----------------------------------------------------------------------------


def test_without_event_timestamp_the_only_timestamp_column_is_the_time(lab: Lab) -> None:
    view = departures(lab, ("JFK", NOON, 1))
    spine = rows(SPINE, ("JFK", NOON)).rename_columns(["origin", "predict_at"])
    assert lab.join(spine, [view]).to_arrow()["departures"].to_pylist() == [1]


def test_no_or_several_candidates_for_the_time_are_refused(lab: Lab) -> None:
    view = departures(lab, ("JFK", NOON, 1))
    with pytest.raises(RetrievalError, match="none of its columns origin"):
        lab.join(pd.DataFrame({"origin": ["JFK"]}), [view])
    spine = pd.DataFrame({"origin": ["JFK"], "predict_at": [NOON], "sched_at": [NOON]})
    with pytest.raises(RetrievalError, match="predict_at and sched_at"):
        lab.join(spine, [view])
    with pytest.raises(RetrievalError, match="'event_timestamp' is BIGINT"):
        lab.join(pd.DataFrame({"origin": ["JFK"], "event_timestamp": [20130701]}), [view])


def test_text_that_is_no_time_is_refused(lab: Lab) -> None:
    spine = pd.DataFrame({"origin": ["JFK"], "event_timestamp": ["noon"]})
    with pytest.raises(RetrievalError, match="noon"):
        lab.join(spine, [departures(lab, ("JFK", NOON, 1))]).to_df()


@pytest.mark.parametrize("spine", [["JFK"], 1, {"origin": ["JFK"]}])
def test_a_spine_of_another_type_is_refused(lab: Lab, spine: object) -> None:
    with pytest.raises(RetrievalError, match="Expected a pandas frame"):
        lab.join(spine, [departures(lab)])


def test_a_column_of_mixed_types_is_refused_by_name(lab: Lab) -> None:
    spine = pd.DataFrame({"origin": ["JFK", 1], "event_timestamp": NOON})
    with pytest.raises(RetrievalError, match="origin"):
        lab.join(spine, [departures(lab)])


def test_dates_without_a_spine_give_each_entity_once_at_the_end(lab: Lab) -> None:
    day = timedelta(days=1)
    view = departures(lab, ("JFK", NOON - day, 1), ("JFK", NOON, 2), (None, NOON, 3))
    other = lab.view(
        "arrivals",
        rows(KEYED, ("LGA", NOON - day, 4), ("EWR", NOON + day, 5)).rename_columns(
            ["origin", "known_at", "arrivals"]
        ),
        ["origin"],
    )
    job = lab.join(None, [view, other], start_date=NOON - day, end_date=NOON)
    assert job.to_arrow().to_pylist() == [
        {"origin": "JFK", "event_timestamp": NOON, "departures": 2, "arrivals": None},
        {"origin": "LGA", "event_timestamp": NOON, "departures": None, "arrivals": 4},
    ]
    assert job.metadata.min_event_timestamp == NOON - day
    assert job.metadata.max_event_timestamp == NOON


def test_dates_are_not_enough_where_no_view_has_every_key(lab: Lab) -> None:
    kinds = {"dest": pa.string(), "known_at": UTC_US, "v": pa.int64()}
    other = lab.view("other", rows(kinds, ("LAX", NOON, 1)), ["dest"])
    with pytest.raises(RetrievalError, match=r"no view has all.*departures: origin; other: dest"):
        lab.join(None, [departures(lab), other], end_date=NOON)


# --- names --------------------------------------------------------------------------------


def test_a_feature_named_like_a_spine_column_is_refused_by_name(lab: Lab) -> None:
    view = departures(lab, ("JFK", NOON, 1))
    spine = rows({**SPINE, "departures": pa.int64()}, ("JFK", NOON, 5))
    with pytest.raises(RetrievalError, match="'departures' and 'departures'"):
        lab.join(spine, [view])
    result = lab.join(spine, [view], full_feature_names=True).to_arrow()
    assert result["departures__departures"].to_pylist() == [1]


def test_names_that_differ_only_in_case_are_refused_by_name(lab: Lab) -> None:
    spine = rows({**SPINE, "Departures": pa.int64()}, ("JFK", NOON, 5))
    with pytest.raises(RetrievalError, match="'Departures' and 'departures'"):
        lab.join(spine, [departures(lab, ("JFK", NOON, 1))])


AWKWARD = [
    ("_row", "_at"),
    ("__spine", "rn"),
    ("_entity_rows", "_known_at"),
    ("entity_row_id", "event_expire_timestamp"),
    ("origin_y", "spine"),
    ("history", "view_1"),
    ("filename", "rowid"),
    ("a space", 'a "quote"'),
    ("Flughafen ü", "出発"),
    ("'; drop table x; --", "select"),
    ("line\nbreak", "source"),
]


@pytest.mark.parametrize(("feature", "extra"), AWKWARD)
@pytest.mark.parametrize("cutoff", [False, True])
def test_awkward_names_work_wherever_they_stand(
    lab: Lab, feature: str, extra: str, cutoff: bool
) -> None:
    for in_view, in_spine in ((feature, extra), (extra, feature)):
        names = [f"{in_view} key", in_view, "known_at", "created_at"]
        history = pa.table(
            [pa.array(["JFK"]), pa.array([1]), pa.array([NOON], UTC_US), pa.array([NOON], UTC_US)],
            names=names,
        )
        view = lab.view("awkward", history, [f"{in_view} key"], created="created_at")
        view.name = view.projection.name = in_view
        spine = pa.table(
            [pa.array(["JFK"]), pa.array([7]), pa.array([NOON], UTC_US)],
            names=[f"{in_view} key", in_spine, "event_timestamp"],
        )
        (result,) = (
            lab.join(spine, [view], filter_by_created_timestamp=cutoff).to_arrow().to_pylist()
        )
        assert (result[in_view], result[in_spine]) == (1, 7)


# --- on-demand views ----------------------------------------------------------------------


def test_on_demand_features_are_computed_on_the_joined_rows(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    view = departures(lab, ("JFK", NOON, 3))
    request = RequestSource(name="request", schema=[Field(name="extra", dtype=Int64)])

    @on_demand_feature_view(
        sources=[view, request], schema=[Field(name="total", dtype=Int64)], mode="pandas"
    )
    def totals(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"total": inputs["departures"] + inputs["extra"]})

    lab.registry.apply_feature_view(totals, "lab")
    refs = ["departures:departures", "totals:total"]
    spine = rows({**SPINE, "extra": pa.int64()}, ("JFK", NOON, 4))

    def ask(entity_df: pa.Table):
        return DuckDBOfflineStore.get_historical_features(
            lab.config, [view], refs, entity_df, lab.registry, "lab"
        )

    job = ask(spine)
    assert [view.name for view in job.on_demand_feature_views] == ["totals"]
    assert job.to_df()["total"].tolist() == [7]
    with pytest.raises(RetrievalError, match="totals needs 'extra'"):
        ask(spine.drop_columns(["extra"]))
    with pytest.raises(RetrievalError, match="'total' and 'total'"):
        ask(spine.append_column("total", pa.array([1])))


# --- sources ------------------------------------------------------------------------------


def test_a_missing_file_says_which_command_makes_it(lab: Lab) -> None:
    view = departures(lab, ("JFK", NOON, 1))
    (lab.published / "current" / "departures.parquet").unlink()
    with pytest.raises(MissingInputError, match=r"departures_source.*dbt build"):
        joined(lab, view, ("JFK", NOON))


def test_a_file_that_is_no_parquet_is_named(lab: Lab) -> None:
    view = departures(lab, ("JFK", NOON, 1))
    (lab.published / "current" / "departures.parquet").write_text("origin,known_at\n")
    with pytest.raises(RetrievalError, match=r"departures\.parquet cannot be read"):
        joined(lab, view, ("JFK", NOON))


def test_a_view_without_a_source_is_named(lab: Lab) -> None:
    view = departures(lab, ("JFK", NOON, 1))
    view.batch_source = None
    with pytest.raises(RetrievalError, match="departures has no source"):
        joined(lab, view, ("JFK", NOON))


def test_a_missing_column_is_named(lab: Lab) -> None:
    view = departures(lab, ("JFK", NOON, 1))
    view.features[0].name = view.projection.features[0].name = "arrivals"
    with pytest.raises(RetrievalError, match=r"no column 'arrivals'.*departures"):
        joined(lab, view, ("JFK", NOON))


def test_a_time_column_of_another_type_is_named(lab: Lab) -> None:
    history = rows({**KEYED, "known_at": pa.string()}, ("JFK", "noon", 1))
    view = lab.view("texts", history, ["origin"])
    view.features = [view.features[1]]
    with pytest.raises(RetrievalError, match="known_at is VARCHAR"):
        joined(lab, view, ("JFK", NOON))


def test_other_sources_are_refused_by_name(lab: Lab) -> None:
    view = departures(lab, ("JFK", NOON, 1))
    view.batch_source = PushSource(name="pushed", batch_source=view.batch_source)
    with pytest.raises(RetrievalError, match="pushed is a PushSource"):
        joined(lab, view, ("JFK", NOON))


def test_a_delta_table_is_read_as_it_is_now(lab: Lab, tmp_path: Path) -> None:
    lake, kinds = tmp_path / "lake", {**KEYED, "year": pa.string()}
    write_deltalake(lake, rows(kinds, ("JFK", NOON, 1, "2013")), partition_by=["year"])
    write_deltalake(lake, rows(kinds, ("LGA", NOON, 2, "2013")), mode="append")
    view = departures(lab, ("JFK", NOON, 9))
    view.batch_source = FileSource(
        name="lake", path=str(lake), file_format=DeltaFormat(), timestamp_field="known_at"
    )
    assert joined(lab, view, ("JFK", NOON), ("LGA", NOON)) == [1, 2]
    write_deltalake(lake, rows(kinds, ("JFK", NOON, 3, "2013")), mode="overwrite")
    assert joined(lab, view, ("JFK", NOON), ("LGA", NOON)) == [3, None]


def test_a_delta_table_that_is_not_there_is_named(lab: Lab) -> None:
    view = departures(lab, ("JFK", NOON, 9))
    view.batch_source = FileSource(
        name="lake", path="no/lake", file_format=DeltaFormat(), timestamp_field="known_at"
    )
    with pytest.raises(MissingInputError, match=r"lake: .*no/lake holds no Delta table"):
        joined(lab, view, ("JFK", NOON))


def test_an_object_store_without_its_extension_says_what_to_install(lab: Lab) -> None:
    view = departures(lab, ("JFK", NOON, 1))
    view.batch_source = FileSource(
        name="far", path="s3://bucket/departures.parquet", timestamp_field="known_at"
    )
    with pytest.raises(RetrievalError, match=r"far: s3://bucket.*needs a DuckDB extension"):
        joined(lab, view, ("JFK", NOON))


def test_a_directory_of_files_is_read_as_one_table(lab: Lab) -> None:
    view = departures(lab, ("JFK", NOON, 1))
    parts = lab.published / "current" / "parts"
    parts.mkdir(exist_ok=True)
    for name, value in (("b", 2), ("a", 3)):
        part = lab.publish(f"parts/{name}", rows(KEYED, ("JFK", NOON, value)))
    for path in (str(Path(part).parent), f"{Path(part).parent}/*.parquet"):
        view.batch_source = FileSource(path=path, timestamp_field="known_at")
        assert joined(lab, view, ("JFK", NOON)) == [2]


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        (pa.string(), ["", "'", "''; --", "Z", "a b", 'a"b', "é", "ｱ", "𝄞"]),
        (pa.int64(), [-(2**63), -(2**53) - 1, -1, 0, 1, 2**53, 2**53 + 1, 2**63 - 1]),
    ],
    ids=["strings", "integers"],
)
@pytest.mark.parametrize("created", ["", "created_at"], ids=["without", "with created time"])
def test_files_in_order_of_key_are_swept_whatever_the_keys(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, kind: pa.DataType, keys: list, created: str
) -> None:
    """Two files; the second begins within the rows of a key, row groups of both do; some tie.

    Rows without a key lie behind all others.
    """
    chance = random.Random(7)
    history = [
        (key, NOON + chance.randrange(20) * MICROSECOND, NOON + chance.randrange(3) * MICROSECOND)
        for key in [*sorted(keys), None]
        for _ in range(40)
    ]
    columns = {"k": kind, "known_at": UTC_US, "created_at": UTC_US, "v": pa.int64()}
    table = rows(columns, *((*row, place) for place, row in enumerate(history)))
    (lab.published / "current" / "by_key").mkdir(exist_ok=True)
    middle = len(history) // 2 - 7
    for name, part in (("a", table[:middle]), ("b", table[middle:])):
        lab.publish(f"by_key/{name}", part, row_group_size=11)
    view = lab.view("by_key", table, ["k"])
    view.batch_source = FileSource(
        path=str(lab.published / "current" / "by_key"),
        timestamp_field="known_at",
        created_timestamp_column=created,
    )
    for name, value in (("PIECE", 50), ("LARGEST", 10**6), ("ROWS_PER_FILE", 0)):
        monkeypatch.setattr(sweep, name, value)
    asked = [(key, NOON + tick * MICROSECOND) for tick in range(-1, 21) for key in [*keys, None]]
    read, ranges = sweep.SweepByKey.read, list[int]()

    def noted(self: sweep.SweepByKey, *args: Any, **columns: Any) -> None:
        ranges.append(len(columns["place"]))
        read(self, *args, **columns)

    monkeypatch.setattr(sweep.SweepByKey, "read", noted)
    job = lab.join(rows({"k": kind, "event_timestamp": UTC_US}, *asked), [view])

    def known(key: object, asked_at: datetime) -> int | None:
        seen = [
            (known_at, created_at if created else NOON, place)
            for place, (whose, known_at, created_at) in enumerate(history)
            if whose is not None and whose == key and known_at <= asked_at
        ]
        return max(seen)[-1] if seen else None

    assert job.to_arrow()["v"].to_pylist() == [known(*row) for row in asked]
    assert len(ranges) > 3
    assert sum(ranges) == 40 * len(keys)


def in_order_of_key(lab: Lab, monkeypatch: pytest.MonkeyPatch, keys: Iterable[str]) -> FeatureView:
    """A row group for each key, over the same hours, so that only the key puts them in order."""
    hours = [NOON + timedelta(hours=hour) for hour in range(10)]
    history = [(key, at, place) for key in keys for place, at in enumerate(hours)]
    lab.publish("by_key", rows(KEYED, *history), row_group_size=10)
    view = departures(lab, *history)
    view.batch_source = FileSource(
        path="../data/published/current/by_key.parquet", timestamp_field="known_at"
    )
    for name, value in (("PIECE", 10), ("LARGEST", 10**6), ("ROWS_PER_FILE", 0)):
        monkeypatch.setattr(sweep, name, value)
    return view


def test_the_keys_of_an_enum_are_compared_as_text(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spine's type has them in another order than the file."""
    keys = "abcdefghij"
    view = in_order_of_key(lab, monkeypatch, keys)
    kind = f"enum({', '.join(repr(key) for key in reversed(keys))})"
    for key in keys:
        job = lab.join(f"select '{key}'::{kind} as origin, timestamptz '{NOON}' as t", [view])
        assert "Hindcast sweeps" in job.to_sql()
        assert job.to_arrow()["departures"].to_pylist() == [0]


def test_a_key_that_cannot_stand_in_sql_is_joined_too(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ["a", "a\0", "a\0b", "b"]
    view = in_order_of_key(lab, monkeypatch, keys)
    asked = [(key, NOON + timedelta(hours=hour)) for key in keys for hour in range(10)]
    assert joined(lab, view, *asked) == [*range(10)] * 4


@pytest.mark.parametrize("of_the_day", [2, None])
def test_a_date_and_a_time_of_day_lie_in_order(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, of_the_day: int | None
) -> None:
    """One file has a date where another has a time; history is cut at noon of that date."""
    day, naive = NOON.date(), {**KEYED, "known_at": pa.timestamp("us")}
    (lab.published / "current" / "mixed").mkdir(exist_ok=True)
    lab.publish("mixed/a", rows({**KEYED, "known_at": pa.date32()}, ("JFK", day, 1)))
    morning = [("JFK", datetime(2013, 7, 1, 6), 2)] if of_the_day else []
    times = [*morning, ("LGA", datetime(2013, 7, 1, 12), 3), ("LGA", datetime(2013, 7, 1, 18), 4)]
    lab.publish("mixed/b", rows(naive, *times), row_group_size=1)
    view = departures(lab, ("JFK", NOON, 1))
    view.batch_source = FileSource(
        path="../data/published/current/mixed", timestamp_field="known_at"
    )
    for name, value in (("PIECE", 1), ("LARGEST", 10**6), ("ROWS_PER_FILE", 0)):
        monkeypatch.setattr(sweep, name, value)
    later = NOON + timedelta(hours=1)
    assert joined(lab, view, ("JFK", later), ("LGA", later)) == [of_the_day or 1, 3]


@pytest.mark.parametrize("created", ["", "created_at"], ids=["without", "with created time"])
def test_a_directory_with_a_file_a_day_is_swept_in_pieces(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, created: str
) -> None:
    """Within a day rows are in order of key, some come again the next day, and some tie."""
    chance, entities = random.Random(5), "ABC"
    days = lab.published / "current" / "days"
    history, late = list[tuple](), list[tuple]()
    for day in range(6):
        times = [NOON + timedelta(days=day, hours=chance.randrange(24)) for _ in range(60)]
        new = [(chance.choice(entities), at, chance.randrange(3), i) for i, at in enumerate(times)]
        content, late = sorted([*new, *late]), chance.sample(new, 2)
        history += content
        columns = {"origin": pa.string(), "known_at": UTC_US, "minute": pa.int64()}
        made = [
            (key, at, minute, value, at + minute * MICROSECOND)
            for key, at, minute, value in content
        ]
        (days / f"day={day}").mkdir(parents=True, exist_ok=True)
        lab.publish(
            f"days/day={day}/rows",
            rows({**columns, "departures": pa.int64(), "created_at": UTC_US}, *made),
            row_group_size=25,
        )
    view = departures(lab, ("A", NOON, 1))
    view.batch_source = FileSource(
        path=str(days), timestamp_field="known_at", created_timestamp_column=created
    )
    asked = [
        (
            chance.choice(entities),
            NOON + timedelta(days=chance.randrange(7), hours=chance.randrange(24)),
        )
        for _ in range(300)
    ]
    for name, value in (
        ("PIECE", 100),
        ("LARGEST", 10**6),
        ("OVERLAP", 0.8),
        ("REREAD", 2.5),
        ("AT_ONCE", 16),
    ):
        monkeypatch.setattr(sweep, name, value)
    job = lab.join(rows(SPINE, *asked), [view])
    assert "departures: Hindcast sweeps" in job.to_sql()

    def known(origin: str, asked_at: datetime) -> int | None:
        seen = [
            (at, minute if created else 0, place, value)
            for place, (key, at, minute, value) in enumerate(history)
            if key == origin and at <= asked_at
        ]
        return max(seen)[-1] if seen else None

    assert job.to_arrow()["departures"].to_pylist() == [known(*row) for row in asked]


def test_a_join_of_realistic_size_takes_seconds_at_most(lab: Lab) -> None:
    """337k rows and three keys: what the flights need, on one thread."""
    chance, count = np.random.default_rng(7), 100_000
    start = np.datetime64("2013-01-01T00:00:00", "us")

    def draw(size: int, name: str) -> pd.DataFrame:
        minutes = chance.integers(0, 525_600, size).astype("timedelta64[m]")
        keys = {key: chance.integers(0, 10, size).astype(str) for key in ("a", "b", "c")}
        return pd.DataFrame({**keys, name: start + minutes}).assign(
            **{name: lambda frame: frame[name].dt.tz_localize("UTC")}
        )

    history = draw(count, "known_at").assign(v=chance.random(count))
    table = pa.Table.from_pandas(history, preserve_index=False)
    view = lab.view("big", table, ["a", "b", "c"], ttl=timedelta(days=7))
    spine = draw(336_776, "event_timestamp")
    began = time.process_time()
    result = lab.join(spine, [view], config=lab.configured(threads=1)).to_df()
    assert time.process_time() - began < 15
    pd.testing.assert_frame_equal(result[list(spine)], spine)
    known = pd.merge_asof(
        spine.assign(row=range(len(spine))).sort_values("event_timestamp"),
        history.drop_duplicates(["a", "b", "c", "known_at"], keep="last").sort_values("known_at"),
        left_on="event_timestamp",
        right_on="known_at",
        by=["a", "b", "c"],
        tolerance=pd.Timedelta(days=7),
    ).sort_values("row")
    np.testing.assert_array_equal(result["v"], known["v"])
