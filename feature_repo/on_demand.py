"""Features that depend on T or on two views at once: one function each, offline and online.

Feast runs the same function over the training frame and over the answer of its online store, and
`hindcast.online` over plain arrays (that is what the tag says). Feast keeps a function's source
text, so each imports what it needs in its body. Not for anything that can be computed before T:
that belongs in `models/features/`. A description in a `Field` of an on-demand schema makes Feast
0.67 refuse the view, so what a field means stands beside it.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from feast import Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, UnixTimestamp

from hindcast.on_demand import TAG
from hindcast.registry import load

views = load(Path(__file__).parent.parent).views

flight_request = RequestSource(
    name="flight_request",
    schema=[
        Field(name="predict_at", dtype=UnixTimestamp, description="T (UTC)."),
        Field(name="sched_dep_at", dtype=UnixTimestamp, description="Scheduled departure (UTC)."),
        Field(name="distance_mi", dtype=Float64, description="Miles to the destination."),
        Field(name="block_min", dtype=Float64, description="Scheduled minutes gate to gate."),
    ],
    description="What the schedule says of the flight that is asked about.",
)


@on_demand_feature_view(
    sources=[flight_request],
    schema=[
        Field(name="local_hour", dtype=Float64),  # departure, hours after midnight
        Field(name="weekday", dtype=Int64),  # local day of the week, Monday is 0
        Field(
            name="days_from_holiday", dtype=Int64
        ),  # local days to the nearest US federal holiday; negative before it
        Field(name="flight_distance_mi", dtype=Float64),  # miles to the destination
        Field(name="flight_block_min", dtype=Float64),  # scheduled minutes
        Field(
            name="flight_padding_min", dtype=Float64
        ),  # scheduled minutes beyond 40 + distance / 7.6 miles a minute
    ],
    mode="pandas",
    tags=TAG,
    description="What the calendar and the schedule alone say of a flight.",
    owner="flight-ops",
)
def flight_calendar(inputs: pd.DataFrame) -> pd.DataFrame:
    """Local time, weekday, holidays, distance and scheduled duration."""
    from pandas.tseries.holiday import USFederalHolidayCalendar

    from hindcast.on_demand import Columns, local, once

    holidays = once(
        "US federal holidays",
        lambda: (
            USFederalHolidayCalendar()
            .holidays("1971-01-01", "2100-12-31")
            .to_numpy("datetime64[D]")
        ),
    )
    columns = Columns(inputs)
    departure = local(columns.times("sched_dep_at"), "America/New_York")
    day = departure.astype("datetime64[D]")
    after = np.clip(np.searchsorted(holidays, day), 1, len(holidays) - 1)
    to_next = (holidays[after] - day).astype("int64")
    since_last = (day - holidays[after - 1]).astype("int64")
    minute = (departure - day).astype("timedelta64[m]").astype("int64")
    distance, block = columns.numbers("distance_mi"), columns.numbers("block_min")
    return columns.result(
        {
            "local_hour": minute / 60.0,
            "weekday": (day.astype("int64") + 3) % 7,  # 1970 began on a Thursday
            "days_from_holiday": np.where(to_next <= since_last, -to_next, since_last),
            "flight_distance_mi": distance,
            "flight_block_min": block,
            "flight_padding_min": block - (40 + distance / 7.6),
        }
    )


@on_demand_feature_view(
    sources=[
        flight_request,
        views["airport_state"],
        views["carrier_at_airport_state"],
        views["destination_state"],
        views["aircraft_last_leg"],
        views["aircraft_attributes"],
        views["origin_weather"],
    ],
    schema=[
        Field(
            name="inbound_slack_min", dtype=Float64
        ),  # minutes from the aircraft's last (expected) arrival to this departure
        Field(
            name="inbound_spare_min", dtype=Float64
        ),  # the same, less the scheduled time to fly that leg back
        Field(
            name="hours_since_last_leg", dtype=Float64
        ),  # hours from the aircraft's last departure to T
        Field(
            name="weather_age_min", dtype=Float64
        ),  # minutes from the start of the reported hour to T
        Field(
            name="origin_overdue_age_min", dtype=Float64
        ),  # mean minutes the airport's overdue flights are past their schedule
        Field(
            name="carrier_overdue_age_min", dtype=Float64
        ),  # the same for the airline's overdue flights at the airport
        Field(
            name="dest_overdue_age_min", dtype=Float64
        ),  # the same for overdue flights to the destination
        Field(name="plane_age_years", dtype=Float64),  # years since it was built
    ],
    mode="pandas",
    tags=TAG,
    description="How long ago, at T, the things happened that the other views tell of.",
    owner="flight-ops",
)
def flight_context(inputs: pd.DataFrame) -> pd.DataFrame:
    """Ages and gaps between instants; NULL where one of the two is unknown."""
    from hindcast.on_demand import Columns, minutes

    columns = Columns(inputs)
    at, departure = columns.times("predict_at"), columns.times("sched_dep_at")
    slack = minutes(departure - columns.times("tail_last_expected_arrival_at"))
    year = at.astype("datetime64[Y]").astype("int64") + 1970
    return columns.result(
        {
            "inbound_slack_min": slack,
            "inbound_spare_min": slack - columns.numbers("tail_last_block_min"),
            "hours_since_last_leg": minutes(at - columns.times("tail_last_departed_at")) / 60,
            "weather_age_min": minutes(at - columns.times("weather_observed_at")),
            "origin_overdue_age_min": minutes(at - columns.times("origin_overdue_scheduled_at")),
            "carrier_overdue_age_min": minutes(at - columns.times("carrier_overdue_scheduled_at")),
            "dest_overdue_age_min": minutes(at - columns.times("dest_overdue_scheduled_at")),
            "plane_age_years": year - columns.numbers("plane_year_built"),
        }
    )


ON_DEMAND_VIEWS = [flight_calendar, flight_context]
