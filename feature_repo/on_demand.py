"""Features that depend on T or on two views at once: one function each, offline and online.

Feast runs the same function over the training frame and over the answer of the online store.
The columns may come typed (offline) or as Python objects with None (online), so each is brought
to one type first. Not for anything that can be computed before T: that belongs in
`models/features/`. A description in a `Field` of an
on-demand schema makes Feast 0.67 refuse the view, so what a field means stands beside it.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from feast import Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, UnixTimestamp

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
    description="What the calendar and the schedule alone say of a flight.",
    owner="flight-ops",
)
def flight_calendar(inputs: pd.DataFrame) -> pd.DataFrame:
    """Local time, weekday, holidays, distance and scheduled duration."""
    from pandas.tseries.holiday import USFederalHolidayCalendar

    departure = pd.to_datetime(inputs["sched_dep_at"], utc=True)
    local = departure.dt.tz_convert("America/New_York").dt.tz_localize(None)
    day = local.dt.normalize().to_numpy().astype("datetime64[D]").astype("int64")
    span = (local.min() - pd.Timedelta(days=400), local.max() + pd.Timedelta(days=400))
    holidays = (
        USFederalHolidayCalendar()
        .holidays(*span)
        .to_numpy()
        .astype("datetime64[D]")
        .astype("int64")
    )
    after = np.clip(np.searchsorted(holidays, day), 1, len(holidays) - 1)
    to_next, since_last = holidays[after] - day, day - holidays[after - 1]
    distance = pd.to_numeric(inputs["distance_mi"])
    block = pd.to_numeric(inputs["block_min"])
    return pd.DataFrame(
        {
            "local_hour": local.dt.hour + local.dt.minute / 60.0,
            "weekday": local.dt.weekday.astype("int64"),
            "days_from_holiday": np.where(to_next <= since_last, -to_next, since_last),
            "flight_distance_mi": distance.astype("float64"),
            "flight_block_min": block.astype("float64"),
            "flight_padding_min": block - (40 + distance / 7.6),
        },
        index=inputs.index,
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
    description="How long ago, at T, the things happened that the other views tell of.",
    owner="flight-ops",
)
def flight_context(inputs: pd.DataFrame) -> pd.DataFrame:
    """Ages and gaps between instants; NULL where one of the two is unknown."""
    at = pd.to_datetime(inputs["predict_at"], utc=True)
    departure = pd.to_datetime(inputs["sched_dep_at"], utc=True)

    def minutes(later: pd.Series, earlier: str) -> pd.Series:
        return (later - pd.to_datetime(inputs[earlier], utc=True)).dt.total_seconds() / 60

    slack = minutes(departure, "tail_last_expected_arrival_at")
    return pd.DataFrame(
        {
            "inbound_slack_min": slack,
            "inbound_spare_min": slack
            - pd.to_numeric(inputs["tail_last_block_min"]).astype("float64"),
            "hours_since_last_leg": minutes(at, "tail_last_departed_at") / 60,
            "weather_age_min": minutes(at, "weather_observed_at"),
            "origin_overdue_age_min": minutes(at, "origin_overdue_scheduled_at"),
            "carrier_overdue_age_min": minutes(at, "carrier_overdue_scheduled_at"),
            "dest_overdue_age_min": minutes(at, "dest_overdue_scheduled_at"),
            "plane_age_years": at.dt.year
            - pd.to_numeric(inputs["plane_year_built"]).astype("float64"),
        },
        index=inputs.index,
    )


ON_DEMAND_VIEWS = [flight_calendar, flight_context]
