"""What the whole year's feed says, and when: checked against the package's files."""

from __future__ import annotations

import sys

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from hindcast.errors import HindcastError, MissingInputError
from landing import feed as feed_module
from landing.feed import REFERENCE, Records, build, read_sources, read_text

SCHEDULE = (
    *("year", "month", "day", "sched_dep_time", "sched_arr_time", "carrier", "flight"),
    *("origin", "dest", "distance", "hour", "minute", "time_hour"),
)
DEPARTURE = ("tailnum", "dep_time", "dep_delay")
ARRIVAL = ("arr_time", "arr_delay", "air_time")
KEY = "year, month, day, carrier, flight, origin"


def value(world: duckdb.DuckDBPyConnection, sql: str) -> object:
    row = world.execute(sql).fetchone()
    assert row is not None
    return row[0] if len(row) == 1 else row


@pytest.mark.parametrize(
    ("record", "count", "known"),
    [
        ("scheduled", 336_776, SCHEDULE),
        ("assigned", 334_264, (*SCHEDULE, "tailnum")),
        ("departed", 328_521, (*SCHEDULE, *DEPARTURE)),
        ("arrived", 327_346, (*SCHEDULE, *DEPARTURE, *ARRIVAL)),
        ("closed", 9_430, (*SCHEDULE, *DEPARTURE, *ARRIVAL)),
    ],
)
def test_a_record_repeats_the_text_of_what_was_known_by_its_time_and_says_nothing_else(
    world: duckdb.DuckDBPyConnection, record: str, count: int, known: tuple[str, ...]
) -> None:
    is_right = " and ".join(
        f"said.{name} = original.{name}" if name in known else f"said.{name} = 'NA'"
        for name in world.table("original_flights").columns
    )
    compared = f"""
        select count(*), count(*) filter ({is_right})
        from flights as said join original_flights as original using ({KEY})
        where record = '{record}'
    """
    assert value(world, compared) == (count, count)


def test_a_flight_has_at_most_one_record_of_a_kind_and_there_is_no_other_kind(
    world: duckdb.DuckDBPyConnection,
) -> None:
    records = f"select distinct record, {KEY} from flights"
    counts = world.execute(f"select record, count(*) from ({records}) group by all").fetchall()
    assert dict(counts) == {
        "scheduled": 336_776,
        "assigned": 334_264,
        "departed": 328_521,
        "arrived": 327_346,
        "closed": 9_430,
    }


def test_a_record_is_only_sent_when_it_has_something_to_say(
    world: duckdb.DuckDBPyConnection,
) -> None:
    empty = """
        select count(*) from flights
        where (record in ('assigned', 'departed') and tailnum = 'NA')
            or (record = 'departed' and (dep_time = 'NA' or dep_delay = 'NA'))
            or (record = 'arrived' and (arr_time = 'NA' or arr_delay = 'NA' or air_time = 'NA'))
            or (record = 'closed' and arr_delay <> 'NA')
    """
    assert value(world, empty) == 0


@pytest.mark.parametrize("name", ["weather", *REFERENCE])
def test_the_other_sources_are_delivered_whole_and_verbatim(
    sources: dict[str, pa.Table], feed: dict[str, Records], name: str
) -> None:
    original, delivered = sources[name], feed[name].table
    assert delivered.column_names == [*original.column_names, "_loaded_at"]
    key = ["origin", "time_hour"] if name == "weather" else original.column_names[:1]
    order = [(column, "ascending") for column in key]
    assert delivered.drop_columns("_loaded_at").sort_by(order).equals(original.sort_by(order))


def test_flights_keep_their_columns_in_order(
    sources: dict[str, pa.Table], feed: dict[str, Records]
) -> None:
    expected = [*sources["flights"].column_names, "record", "_loaded_at"]
    assert feed["flights"].table.column_names == expected


def test_records_come_in_order_of_loading(feed: dict[str, Records]) -> None:
    for records in feed.values():
        assert (np.diff(records.loaded_at).astype(int) >= 0).all()
        said = records.table["_loaded_at"].to_numpy()
        assert (said[:-1] <= said[1:]).all()


def test_a_plan_is_loaded_when_the_schedule_and_the_aircraft_are_known(
    world: duckdb.DuckDBPyConnection,
) -> None:
    plan = """
        select
            count(*) filter (
                record = 'scheduled'
                and loaded_at <> local_date - interval 14 day + interval 6 hour
            ),
            count(*) filter (record = 'assigned' and loaded_at <> departs_at - interval 3 hour),
            count(*) filter (
                record = 'closed' and loaded_at <> local_date + interval 2 day + interval 12 hour
            )
        from (
            select
                record,
                _loaded_at::timestamp as loaded_at,
                make_date(year::int, month::int, day::int)::timestamp as local_date,
                time_hour::timestamp + minute::int * interval 1 minute as departs_at,
            from flights
        )
    """
    assert value(world, plan) == (0, 0, 0)


def test_a_departure_is_loaded_five_minutes_after_the_clock_it_tells(
    world: duckdb.DuckDBPyConnection,
) -> None:
    departures = """
        select count(*) filter (dep_time = '2400'), count(*) filter (
            extract(hour from clock) * 100 + extract(minute from clock) <> dep_time::int % 2400
        )
        from (
            select
                dep_time,
                timezone(
                    'America/New_York', _loaded_at::timestamptz - interval 5 minute
                ) as clock,
            from flights
            where record = 'departed'
        )
    """
    assert value(world, departures) == (29, 0)


def test_an_arrival_is_loaded_five_minutes_after_the_clock_it_tells_in_its_own_zone(
    world: duckdb.DuckDBPyConnection,
) -> None:
    clocks = """
        select month, day, carrier, flight, arr_time, clock::varchar
        from (
            select
                *, timezone(zone, _loaded_at::timestamptz - interval 5 minute) as clock,
            from flights join zones using (dest)
            where record = 'arrived'
        )
        where extract(hour from clock) * 100 + extract(minute from clock) <> arr_time::int % 2400
    """
    # It landed in the hour that the night of 10 March skipped; its clock was not set forward.
    assert world.execute(clocks).fetchall() == [
        ("3", "9", "B6", "35", "203", "2013-03-10 03:03:00")
    ]
    arrived_at_2400 = "select count(*) from flights where record = 'arrived' and arr_time = '2400'"
    assert value(world, arrived_at_2400) == 150


@pytest.mark.parametrize(
    ("flight", "arrived_loaded_at"),
    [
        # 9 March to 10 March: spring forward at 07:00Z in New York, 10:00Z in Los Angeles
        (("3", "9", "B6", "515", "EWR"), "2013-03-10T05:43:00Z"),  # FLL 00:38 EST
        (("3", "9", "AA", "185", "JFK"), "2013-03-10T08:56:00Z"),  # LAX 00:51 PST
        (("3", "9", "B6", "713", "JFK"), "2013-03-10T07:49:00Z"),  # SJU 03:44, no DST
        # 2 November to 3 November: back at 06:00Z in New York, 09:00Z in Los Angeles
        (("11", "2", "B6", "1183", "JFK"), "2013-11-03T04:33:00Z"),  # MCO 00:28 EDT
        (("11", "2", "VX", "413", "JFK"), "2013-11-03T08:19:00Z"),  # LAX 01:14, first pass, PDT
        (("11", "2", "B6", "839", "JFK"), "2013-11-03T07:43:00Z"),  # BQN 03:38, no DST
    ],
)
def test_the_nights_of_the_clock_changes_are_dated_right(
    world: duckdb.DuckDBPyConnection, flight: tuple[str, ...], arrived_loaded_at: str
) -> None:
    sql = f"""
        select _loaded_at from flights
        where record = 'arrived' and (month, day, carrier, flight, origin) = {flight}
    """
    assert value(world, sql) == arrived_loaded_at


def test_a_flight_lives_in_order_and_is_closed_too_late_for_any_prediction(
    world: duckdb.DuckDBPyConnection,
) -> None:
    lives = """
        with lives as (
            select
                any_value(time_hour::timestamp + minute::int * interval 1 minute) as departs_at,
                max(_loaded_at::timestamp) filter (record = 'scheduled') as scheduled,
                max(_loaded_at::timestamp) filter (record = 'assigned') as assigned,
                max(_loaded_at::timestamp) filter (record = 'departed') as departed,
                max(_loaded_at::timestamp) filter (record = 'arrived') as arrived,
                max(_loaded_at::timestamp) filter (record = 'closed') as closed,
            from flights
            group by year, month, day, carrier, flight, origin
        )
        select
            count(*),
            count(*) filter (scheduled >= assigned),
            count(*) filter (assigned >= departed),
            count(*) filter (departed >= arrived),
            count(*) filter (closed <= departed),
            count(*) filter ((arrived is null) = (closed is null)),
            count(*) filter (closed < departs_at + interval 1 day),
        from lives
    """
    assert value(world, lives) == (336_776, 0, 0, 0, 0, 0, 0)


def test_weather_is_loaded_when_its_hour_is_over_and_lists_are_there_from_the_start(
    world: duckdb.DuckDBPyConnection,
) -> None:
    late = """
        select count(*), count(*) filter (
            _loaded_at::timestamp <> time_hour::timestamp + interval 1 hour
        ) from weather
    """
    assert value(world, late) == (26_115, 0)
    for name in REFERENCE:
        at = world.execute(f"select distinct _loaded_at from {name}").fetchall()
        assert at == [("2012-12-01T00:00:00Z",)]


def test_the_package_is_read_but_never_imported(sources: dict[str, pa.Table]) -> None:
    assert sources
    assert feed_module.PACKAGE not in sys.modules


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed_module, "PACKAGE", "nycflights_of_no_year")
    with pytest.raises(
        MissingInputError, match=r"not installed: python -m pip install .*==0\.0\.3"
    ):
        read_sources()


def test_a_destination_without_a_time_zone_stops_the_feed(sources: dict[str, pa.Table]) -> None:
    flights = sources["flights"].slice(0, 10)
    nowhere = flights.set_column(
        flights.column_names.index("dest"), "dest", pa.array(["XXX"] * len(flights))
    )
    with pytest.raises(HindcastError, match="no time zone is known for XXX"):
        build(sources | {"flights": nowhere})


def test_a_file_that_is_no_csv_is_named_with_what_mends_it() -> None:
    with pytest.raises(HindcastError, match=r"planes\.csv cannot be read as CSV .*: do this"):
        read_text("planes", b"tailnum,year\nN10156,2004,surplus\n", "do this")
