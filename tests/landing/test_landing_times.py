"""Clocks to UTC: each expected instant can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from landing.times import minutes_after_midnight, scheduled_arrival, utc_of_wall_clock


def wall_clock(local: str, zone: str) -> str:
    wall = np.array([local], dtype="datetime64[s]")
    return str(utc_of_wall_clock(wall, np.array([zone], dtype=object))[0])


def arrival(departure: str, local_date: str, hhmm: int, zone: str, distance_mi: int) -> str:
    return str(
        scheduled_arrival(
            np.array([departure], dtype="datetime64[s]"),
            np.array([local_date], dtype="datetime64[D]"),
            np.array([hhmm], dtype=np.float64),
            np.array([zone], dtype=object),
            np.array([distance_mi], dtype=np.float64),
        )[0]
    )


def test_an_hhmm_clock_counts_minutes_and_2400_is_the_end_of_the_day() -> None:
    hhmm = np.array([5, 59, 100, 517, 2359, 2400, np.nan])
    expected = np.array([5, 59, 60, 317, 1439, 1440, np.nan])
    np.testing.assert_array_equal(minutes_after_midnight(hhmm), expected)


@pytest.mark.parametrize(
    ("local", "zone", "utc"),
    [
        ("2013-01-01T05:15", "America/New_York", "2013-01-01T10:15:00"),
        ("2013-07-01T05:15", "America/New_York", "2013-07-01T09:15:00"),
        ("2013-07-01T05:15", "America/Phoenix", "2013-07-01T12:15:00"),
        ("2013-07-01T05:15", "America/Puerto_Rico", "2013-07-01T09:15:00"),
        ("2013-03-10T01:59", "America/New_York", "2013-03-10T06:59:00"),
        ("2013-03-10T03:00", "America/New_York", "2013-03-10T07:00:00"),
        ("2013-11-03T00:59", "America/New_York", "2013-11-03T04:59:00"),
        ("2013-11-03T02:00", "America/New_York", "2013-11-03T07:00:00"),
    ],
)
def test_a_local_clock_becomes_utc_on_both_sides_of_each_clock_change(
    local: str, zone: str, utc: str
) -> None:
    assert wall_clock(local, zone) == utc


def test_a_skipped_hour_is_the_instant_the_clocks_go_forward() -> None:
    assert wall_clock("2013-03-10T02:30", "America/New_York") == "2013-03-10T07:00:00"


def test_a_repeated_hour_is_its_second_pass() -> None:
    assert wall_clock("2013-11-03T01:30", "America/New_York") == "2013-11-03T06:30:00"


@pytest.mark.parametrize(
    ("departure", "local_date", "hhmm", "zone", "distance_mi", "utc"),
    [
        # same day, a zone to the west: EWR to IAH
        ("2013-01-01T10:15", "2013-01-01", 819, "America/Chicago", 1400, "2013-01-01T14:19:00"),
        # overnight to the east, past midnight: JFK 23:59 to BQN 03:37
        ("2013-11-03T03:59", "2013-11-02", 337, "America/Puerto_Rico", 1576, "2013-11-03T07:37:00"),
        # leaves before midnight, due ten past in another zone: JFK 21:35 to LAX 00:50
        ("2013-03-10T02:35", "2013-03-09", 50, "America/Los_Angeles", 2475, "2013-03-10T08:50:00"),
        # eleven hours and five zones: JFK 09:00 to HNL 15:30
        ("2013-01-01T14:00", "2013-01-01", 1530, "Pacific/Honolulu", 4983, "2013-01-02T01:30:00"),
        # an hour gained on a short hop after midnight: due on the day before
        ("2013-01-02T05:05", "2013-01-02", 2350, "America/Chicago", 38, "2013-01-02T05:50:00"),
        # overnight across the date line, as JFK 23:00 to Tokyo would be: two days on
        ("2013-01-02T04:00", "2013-01-01", 420, "Asia/Tokyo", 6740, "2013-01-02T19:20:00"),
        # 2400 is midnight at the end of the scheduled day
        ("2013-01-02T02:55", "2013-01-01", 2400, "America/New_York", 427, "2013-01-02T05:00:00"),
    ],
)
def test_an_arrival_clock_falls_on_the_day_the_distance_allows(
    departure: str, local_date: str, hhmm: int, zone: str, distance_mi: int, utc: str
) -> None:
    assert arrival(departure, local_date, hhmm, zone, distance_mi) == utc
