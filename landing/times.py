"""Clocks to UTC, a whole column at a time.

For the few conversions the feed needs to say when a flight left and landed. Not the events
layer: dbt converts again, from the delivered text, with tests of its own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

Instants = npt.NDArray[np.datetime64]
"""UTC, datetime64[s]; NaT where there is none."""
Dates = npt.NDArray[np.datetime64]
"""Local calendar dates, datetime64[D]."""
Durations = npt.NDArray[np.timedelta64]
Numbers = npt.NDArray[np.float64]
"""Whole numbers; NaN where the source says NA."""
Zones = npt.NDArray[np.object_]
"""IANA names."""

DAY_SHIFTS = (-1, 0, 1, 2)  # an arrival clock comes without its date
GROUND_MIN = 40
MILES_PER_MIN = 7.6


def minutes(count: float | Numbers) -> Durations:
    """A number of minutes as a duration; NaN becomes NaT."""
    return np.asarray(count, dtype=np.float64).astype("timedelta64[m]")


def minutes_after_midnight(hhmm: Numbers) -> Numbers:
    """Minutes of an hhmm clock: 5 is 00:05, 2359 is 1439 and 2400 is 1440."""
    return hhmm // 100 * 60 + hhmm % 100


def utc_of_wall_clock(wall: Instants, zones: Zones) -> Instants:
    """UTC of local clock readings (datetime64 without a zone), each in its own zone.

    An hour that a spring night skips is read as the instant the clocks went forward; one that
    an autumn night repeats, as its second pass (standard time).
    """
    utc = np.full(len(wall), np.datetime64("NaT"), dtype="datetime64[s]")
    for zone in pd.unique(zones):
        rows = zones == zone
        local = pd.DatetimeIndex(wall[rows])
        second_pass = np.zeros(len(local), dtype=bool)
        aware = local.tz_localize(zone, ambiguous=second_pass, nonexistent="shift_forward")
        utc[rows] = aware.tz_convert(None).to_numpy()
    return utc


def scheduled_arrival(
    departure: Instants, local_date: Dates, hhmm: Numbers, zones: Zones, distance_mi: Numbers
) -> Instants:
    """UTC of an arrival clock (hhmm in the destination's zone) that comes without its date.

    Of the days around the scheduled local date, the one whose clock is closest to what the
    distance leads to expect: 40 minutes on the ground and 7.6 miles a minute.
    """
    expected = departure + minutes(GROUND_MIN + distance_mi / MILES_PER_MIN)
    clock = local_date + minutes(minutes_after_midnight(hhmm))
    nearest = np.full(len(clock), np.datetime64("NaT"), dtype="datetime64[s]")
    smallest_gap = np.full(len(clock), np.iinfo(np.int64).max)
    for days in DAY_SHIFTS:
        candidate = utc_of_wall_clock(clock + np.timedelta64(days, "D"), zones)
        gap = np.abs(candidate - expected).astype(np.int64)
        is_nearer = gap < smallest_gap
        nearest[is_nearer] = candidate[is_nearer]
        smallest_gap[is_nearer] = gap[is_nearer]
    return nearest
