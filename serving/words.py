"""Reasons as people say them: what the features of a flight tell, one sentence a group.

Features that tell of one thing (the inbound aircraft, the weather) make one reason; its weight
is the sum of theirs. A sentence is made of the values, not of the weights, so it is true
whatever the model thinks of it. A feature that belongs to no group speaks by the description
that its YAML gives it. Not for how much a feature adds: that is `trees`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Values = Mapping[str, Any]
TOP = 5
AMPLE_MIN = 180
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class Group:
    """Features that tell of one thing, by the beginnings of their names, and their sentence."""

    name: str
    title: str
    prefixes: tuple[str, ...]
    sentence: Callable[[Values], str | None]


def minutes(value: float) -> str:
    """48 min, 2 h 5 min."""
    whole = round(abs(value))
    hours, rest = divmod(whole, 60)
    return f"{whole} min" if whole < 100 else f"{hours} h {rest} min" if rest else f"{hours} h"


def lateness(value: float) -> str:
    """48 min late, 3 min early, on time."""
    if abs(value) < 0.5:
        return "on time"
    return f"{minutes(value)} {'late' if value > 0 else 'early'}"


def share(value: float) -> str:
    """37 %."""
    return f"{100 * value:.0f} %"


def many(number: float, noun: str) -> str:
    """1 flight, 12 flights."""
    return f"{number:.0f} {noun}{'' if number == 1 else 's'}"


class _Names(dict[str, Any]):
    """Keys to name in a sentence; one that is not among the features is said in general."""

    def __missing__(self, key: str) -> str:
        return f"the {key}"


def joined(parts: Sequence[str | None]) -> str | None:
    """The parts there are, as one sentence."""
    return ", ".join(part for part in parts if part) or None


def inbound(v: Values) -> str | None:
    """The aircraft that is to fly: where it is, and whether that leaves time."""
    landed, spare = v.get("tail_last_has_landed"), v.get("inbound_spare_min")
    if v.get("tailnum", "") is None:
        return "no aircraft is assigned yet"
    if landed is None:
        return "nothing is known of this aircraft in the last three days"
    if landed:
        delay = v.get("tail_last_arrival_delay_min")
        told = "the inbound aircraft has landed"
        told += f", {lateness(delay)}" if delay is not None else ""
    else:
        delay = v.get("tail_last_departure_delay_min")
        told = "the inbound aircraft is still in the air"
        told += f", {lateness(delay)}" if delay is not None else ""
    if spare is None:
        return told
    if spare < 0:
        return f"{told}: by its schedule it is back {minutes(spare)} too late"
    if spare < AMPLE_MIN:
        return f"{told}: {minutes(spare)} to spare on its way back"
    return f"{told}: ample time to be back"


def aircraft_day(v: Values) -> str | None:
    """What the aircraft has flown in a day."""
    legs, delay = v.get("tail_departures_24h"), v.get("tail_departure_delay_mean_24h_min")
    if not legs:
        return "the aircraft has not left New York in the last 24 h"
    times = "once" if legs == 1 else f"{legs} times"
    text = f"the aircraft left New York {times} in the last 24 h"
    return text if delay is None else f"{text}, {lateness(delay)}{' on average' * (legs > 1)}"


def running(place: str, name: str, window: str, hours: str) -> Callable[[Values], str | None]:
    """How departures of a place are running: delay, late share, flights overdue."""

    def sentence(v: Values) -> str | None:
        delay = v.get(f"{name}_departure_delay_mean_{window}_min")
        overdue = v.get(f"{name}_overdue")
        who = place.format_map(_Names(v))
        told = (
            f"{who} left {lateness(delay)} on average in the last {hours}"
            if delay is not None
            else f"no {who} left in the last {hours}"
        )
        queue = f"{many(overdue, 'flight')} overdue now" if overdue else None
        return joined([told, queue])

    return sentence


def at_destination(v: Values) -> str | None:
    """How flights to the destination fare."""
    told = running("flights to {dest}", "dest", "6h", "6 h")(v)
    arrival = v.get("dest_arrival_delay_mean_6h_min")
    landed = f"landed {lateness(arrival)}" if arrival is not None else None
    return joined([told, landed])


def history(what: str, name: str) -> Callable[[Values], str | None]:
    """How often something was late in four weeks."""

    def sentence(v: Values) -> str | None:
        who = what.format_map(_Names(v))
        rate, count = v.get(f"{name}_late_arrival_rate_28d"), v.get(f"{name}_arrivals_28d")
        if rate is None or not count:
            return f"{who} has not flown in the last four weeks"
        return f"{who} arrived late {share(rate)} of {many(count, 'time')} in four weeks"

    return sentence


def weather(v: Values) -> str | None:
    """The weather at the origin, the worst first."""
    seen = v.get("weather_visibility_mi")
    rain, freezing = v.get("weather_rain_3h_in"), v.get("weather_freezing_rain_1h_in")
    gust, warm = v.get("weather_gust_or_wind_mph"), v.get("weather_temperature_f")
    if all(value is None for value in (seen, rain, gust, warm)):
        return "no weather report is recent enough"
    parts = [
        "freezing rain" if freezing else f"rain of {rain:.2f} in in 3 h" if rain else None,
        f"visibility {seen:g} mi" if seen is not None and seen < 10 else None,
        f"wind up to {gust:.0f} mph" if gust is not None and gust >= 20 else None,
    ]
    told = joined(parts)
    if told is None:
        told = "dry and clear" if seen is not None else "no rain"
    here = "weather at {origin}".format_map(_Names(v))
    return f"{here}: {told}" + (f", {warm:.0f} °F" if warm is not None else "")


def calendar(v: Values) -> str | None:
    """When it leaves."""
    hour, weekday, holiday = (v.get(k) for k in ("local_hour", "weekday", "days_from_holiday"))
    if hour is None or weekday is None:
        return None
    clock = f"{int(hour):02d}:{round(hour % 1 * 60):02d}"
    near = None
    if holiday is not None and abs(holiday) <= 7:
        days = many(abs(holiday), "day")
        near = (
            f"{days} {'after' if holiday > 0 else 'before'} a holiday" if holiday else "a holiday"
        )
    return joined([f"it leaves at {clock} on a {WEEKDAYS[int(weekday)]}", near])


def timetable(v: Values) -> str | None:
    """What the schedule allows for the distance."""
    padding, distance = v.get("flight_padding_min"), v.get("flight_distance_mi")
    if padding is None or distance is None:
        return None
    less = "more" if padding >= 0 else "less"
    return f"{distance:.0f} mi, scheduled {minutes(padding)} {less} than usual for the distance"


def plane(v: Values) -> str | None:
    """The aircraft itself."""
    age, seats, maker = (v.get(k) for k in ("plane_age_years", "plane_seats", "plane_maker"))
    if maker is None:
        return "nothing is registered of this aircraft"
    return joined(
        [
            f"the aircraft is by {str(maker).title()}",
            f"{many(seats, 'seat')}" if seats is not None else None,
            f"{many(age, 'year')} old" if age is not None else None,
        ]
    )


GROUPS = (
    Group(
        "inbound_aircraft",
        "Inbound aircraft",
        ("tail_last_", "inbound_", "hours_since_last_leg"),
        inbound,
    ),
    Group("aircraft_day", "The aircraft's day", ("tail_",), aircraft_day),
    Group("plane", "Aircraft type", ("plane_",), plane),
    Group(
        "airport",
        "Airport of departure",
        ("origin",),
        running("flights from {origin}", "origin", "3h", "3 h"),
    ),
    Group(
        "carrier",
        "Airline at the airport",
        ("carrier",),
        running("{carrier} flights from {origin}", "carrier", "3h", "3 h"),
    ),
    Group("destination", "Destination", ("dest",), at_destination),
    Group("route", "Route", ("route_",), history("{carrier} on this route", "route")),
    Group("flight_line", "Flight number", ("line_",), history("this flight number", "line")),
    Group("weather", "Weather", ("weather_",), weather),
    Group("calendar", "Time of departure", ("local_hour", "weekday", "days_from"), calendar),
    Group("timetable", "Timetable", ("flight_",), timetable),
)


def group_of(feature: str) -> Group | None:
    """The first group whose prefixes the name begins with."""
    return next((group for group in GROUPS if feature.startswith(group.prefixes)), None)


class Explainer:
    """Turns contributions by feature into reasons, for the columns of one model."""

    def __init__(
        self, features: Sequence[str], views: Mapping[str, str], descriptions: Mapping[str, str]
    ) -> None:
        """Sort the features into groups; one that belongs to none is a group of its own."""
        self._features = list(features)
        self._views, self.descriptions = views, descriptions
        found = [group_of(feature) for feature in features]
        names = [g.name if g else f for g, f in zip(found, features, strict=True)]
        self._names = list(dict.fromkeys(names))
        self._groups = {name: group for name, group in zip(names, found, strict=True)}
        self._place = np.array([self._names.index(name) for name in names])
        self._members = [np.flatnonzero(self._place == place) for place in range(len(self._names))]

    def explain(
        self,
        values: Values,
        added: npt.NDArray[np.float64],
        base: float,
        log_odds: float,
        ages: Mapping[str, float | None],
    ) -> dict[str, Any]:
        """The groups that count most, the largest first; `base`, all of them and `rest` add up."""
        by_group = np.bincount(self._place, weights=added, minlength=len(self._names))
        top = np.argsort(-np.abs(by_group), kind="stable")[:TOP]
        reasons = [
            self._reason(int(place), float(by_group[place]), values, added, ages) for place in top
        ]
        shown = sum(reason["contribution"] for reason in reasons)
        return {
            "base": base,
            "top": reasons,
            "rest": log_odds - base - shown,
            "log_odds": log_odds,
        }

    def _reason(
        self,
        place: int,
        contribution: float,
        values: Values,
        added: npt.NDArray[np.float64],
        ages: Mapping[str, float | None],
    ) -> dict[str, Any]:
        name, members = self._names[place], self._members[place]
        group = self._groups[name]
        by_weight = members[np.argsort(-np.abs(added[members]), kind="stable")]
        strongest, *others = (self._features[int(member)] for member in by_weight)
        known = (ages.get(self._views.get(name, "")) for name in (strongest, *others))
        said = group.sentence(values) if group else None
        return {
            "group": name,
            "title": group.title if group else name.replace("_", " ").capitalize(),
            "text": said or self.plain(strongest, values),
            "contribution": contribution,
            "effect": "raises" if contribution > 0 else "lowers",
            "feature": strongest,
            "value": values.get(strongest),
            "age_min": next((age for age in known if age is not None), None),
        }

    def plain(self, feature: str, values: Values) -> str:
        """A feature by its own description."""
        about = self.descriptions.get(feature) or feature.replace("_", " ")
        value = values.get(feature)
        told = "unknown" if value is None else f"{value:g}" if isinstance(value, float) else value
        return f"{about.split('. ')[0].rstrip('.')}: {told}"
