"""Reasons in words: true to the values, grouped, and adding up."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.words import GROUPS, TOP, Explainer, lateness, minutes

OVERDUE = {"origin": "EWR", "carrier": "UA", "dest": "ORD"}
SENTENCES = [
    (
        "inbound_aircraft",
        {
            "tail_last_has_landed": False,
            "tail_last_departure_delay_min": 48,
            "inbound_spare_min": -20.0,
        },
        "the inbound aircraft is still in the air, 48 min late: "
        "by its schedule it is back 20 min too late",
    ),
    (
        "inbound_aircraft",
        {
            "tail_last_has_landed": True,
            "tail_last_arrival_delay_min": -3,
            "inbound_spare_min": 125.0,
        },
        "the inbound aircraft has landed, 3 min early: 2 h 5 min to spare on its way back",
    ),
    (
        "inbound_aircraft",
        {"tail_last_has_landed": True, "tail_last_arrival_delay_min": 0, "inbound_spare_min": 999},
        "the inbound aircraft has landed, on time: ample time to be back",
    ),
    ("inbound_aircraft", {}, "nothing is known of this aircraft in the last three days"),
    (
        "aircraft_day",
        {"tail_departures_24h": 2, "tail_departure_delay_mean_24h_min": 12.4},
        "the aircraft left New York 2 times in the last 24 h, 12 min late on average",
    ),
    (
        "airport",
        OVERDUE | {"origin_departure_delay_mean_3h_min": 31.0, "origin_overdue": 1},
        "flights from EWR left 31 min late on average in the last 3 h, 1 flight overdue now",
    ),
    (
        "carrier",
        OVERDUE | {"carrier_departure_delay_mean_3h_min": None, "carrier_overdue": 0},
        "no UA flights from EWR left in the last 3 h",
    ),
    (
        "destination",
        OVERDUE | {"dest_departure_delay_mean_6h_min": 4.0, "dest_arrival_delay_mean_6h_min": -7.0},
        "flights to ORD left 4 min late on average in the last 6 h, landed 7 min early",
    ),
    (
        "route",
        OVERDUE | {"route_late_arrival_rate_28d": 0.256, "route_arrivals_28d": 90},
        "UA on this route arrived late 26 % of 90 times in four weeks",
    ),
    ("flight_line", {"line_arrivals_28d": 0}, "this flight number has not flown in the last"),
    (
        "weather",
        OVERDUE
        | {
            "weather_visibility_mi": 1.5,
            "weather_rain_3h_in": 0.42,
            "weather_gust_or_wind_mph": 33.4,
            "weather_temperature_f": 35.1,
        },
        "weather at EWR: rain of 0.42 in in 3 h, visibility 1.5 mi, wind up to 33 mph, 35 °F",
    ),
    ("weather", OVERDUE | {"weather_visibility_mi": 10.0}, "weather at EWR: dry and clear"),
    ("weather", OVERDUE, "no weather report is recent enough"),
    (
        "calendar",
        {"local_hour": 17.25, "weekday": 0, "days_from_holiday": -2},
        "it leaves at 17:15 on a Monday, 2 days before a holiday",
    ),
    (
        "timetable",
        {"flight_padding_min": -12.0, "flight_distance_mi": 719.0},
        "719 mi, scheduled 12 min less than usual for the distance",
    ),
    (
        "plane",
        {"plane_maker": "BOEING", "plane_seats": 149, "plane_age_years": 1.0},
        "the aircraft is by Boeing, 149 seats, 1 year old",
    ),
]


@pytest.mark.parametrize(
    ("group", "values", "sentence"), SENTENCES, ids=[f"{s[0]}-{i}" for i, s in enumerate(SENTENCES)]
)
def test_a_sentence_says_what_the_values_are(
    group: str, values: dict[str, Any], sentence: str
) -> None:
    found = next(each for each in GROUPS if each.name == group)
    assert (found.sentence(values) or "").startswith(sentence)


VALUES = st.none() | st.floats(-1e4, 1e4) | st.booleans()
NAMES = (
    "tail_last_has_landed",
    "tail_last_departure_delay_min",
    "tail_last_arrival_delay_min",
    "inbound_spare_min",
    "tail_departures_24h",
    "tail_departure_delay_mean_24h_min",
    "origin_departure_delay_mean_3h_min",
    "origin_overdue",
    "dest_arrival_delay_mean_6h_min",
    "route_late_arrival_rate_28d",
    "route_arrivals_28d",
    "weather_visibility_mi",
    "weather_rain_3h_in",
    "weather_freezing_rain_1h_in",
    "flight_padding_min",
    "flight_distance_mi",
    "plane_age_years",
    "plane_seats",
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_whatever_is_missing_every_group_can_speak(values: dict[str, Any]) -> None:
    for group in GROUPS:
        said = group.sentence(values)
        assert said is None or (said and "None" not in said and "nan" not in said)


def test_features_of_one_thing_are_one_reason_and_the_rest_adds_up() -> None:
    features = ["weather_rain_3h_in", "tail_last_has_landed", "inbound_spare_min", "moon_phase"]
    features += [f"other_{i}" for i in range(TOP)]
    added = np.array([0.5, -0.4, 1.2, -0.9, *np.linspace(0.1, 0.2, TOP)])
    told = Explainer(features, {"inbound_spare_min": "legs"}, {"moon_phase": "The moon. NULL: no"})
    values = {"moon_phase": 0.25, "inbound_spare_min": 12.0}
    base = -1.0
    reasons = told.explain(values, added, base, base + float(added.sum()), {"legs": 7.0})
    groups = [reason["group"] for reason in reasons["top"]]
    assert groups[:3] == ["moon_phase", "inbound_aircraft", "weather"]
    assert len(groups) == TOP
    inbound = next(r for r in reasons["top"] if r["group"] == "inbound_aircraft")
    assert inbound["contribution"] == pytest.approx(0.8)
    assert (inbound["feature"], inbound["value"], inbound["age_min"]) == (
        "inbound_spare_min",
        12.0,
        7.0,
    )
    moon = next(r for r in reasons["top"] if r["group"] == "moon_phase")
    assert (moon["text"], moon["effect"]) == ("The moon: 0.25", "lowers")
    total = base + sum(r["contribution"] for r in reasons["top"]) + reasons["rest"]
    assert math.isclose(total, reasons["log_odds"], abs_tol=1e-12)


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.4, "on time"), (-3, "3 min early"), (99.4, "99 min late"), (120, "2 h late")],
)
def test_delays_are_said_as_people_say_them(value: float, said: str) -> None:
    assert lateness(value) == said
    assert minutes(-value) == minutes(value)
