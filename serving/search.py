"""What people type to find a flight: `B6 1318`, `1318`, `JFK BOS`, `BOS`, `17:45`, or parts of it.

Every word must fit the flight, in any order; while a word is being typed, its beginning fits.
Not for ranking by risk, and not for what a flight is: that is `schedule`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime
from zoneinfo import ZoneInfo

from hindcast.errors import HindcastError
from serving.schedule import Scheduled

LONGEST = 40
HOW = "Search for a flight (B6 1318), an airport (BOS), a route (JFK BOS) or a time (17:45)."

_SEPARATORS = re.compile(r"[\s,>/\u2192\u2013\u2014-]+")
_TIME = re.compile(r"(\d{1,2}):(\d{0,2})")
_NUMBER = re.compile(r"\d{1,5}")
_CODE = re.compile(r"(?=\d?[A-Z])[A-Z0-9]{1,3}")
_FLIGHT = re.compile(r"([A-Z][A-Z0-9]|[0-9][A-Z])(\d{1,5})")

Fit = Callable[[Scheduled, str], bool]
"""Whether a flight, with the local time it leaves at, is meant."""


class SearchError(HindcastError):
    """A search that nothing can be meant by."""


def find(
    text: str, flights: Iterable[Scheduled], zone: ZoneInfo, most: int
) -> tuple[list[Scheduled], int]:
    """The first `most` flights that fit and how many do; whole numbers first, then by time.

    Raises:
        SearchError: a word is neither of a flight, nor an airport, nor a time.
    """
    words = [word for word in _SEPARATORS.split(text.upper()) if word]
    fits = [_fit(word) for word in words]
    found = [
        flight
        for flight in flights
        if all(fit(flight, local_time(flight.sched_dep_at, zone)) for fit in fits)
    ]
    found.sort(key=lambda flight: (not _exactly(flight, words), flight.sched_dep_at))
    return found[:most], len(found)


def local_time(instant: datetime, zone: ZoneInfo) -> str:
    """The clock on the wall, `17:45`."""
    return f"{instant.astimezone(zone):%H:%M}"


def _exactly(flight: Scheduled, words: list[str]) -> bool:
    """Whether a word is all of its number, not only its beginning."""
    number = str(flight.flight)
    return number in words or f"{flight.carrier}{number}" in words


def _fit(word: str) -> Fit:
    """What a word asks of a flight."""
    if time := _TIME.fullmatch(word):
        begins = f"{int(time[1]):02d}:{time[2]}"
        return lambda flight, clock: clock.startswith(begins)
    if _NUMBER.fullmatch(word):
        return lambda flight, clock: str(flight.flight).startswith(word)
    if _CODE.fullmatch(word) or _FLIGHT.fullmatch(word):
        return lambda flight, clock: any(
            text.startswith(word)
            for text in (
                flight.carrier,
                flight.origin,
                flight.dest,
                f"{flight.carrier}{flight.flight}",
            )
        )
    raise SearchError(f"{word!r} is no part of a flight, an airport or a time. {HOW}")
