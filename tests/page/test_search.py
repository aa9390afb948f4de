"""What a search means, on a few flights that can be checked by eye."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from serving.schedule import Scheduled
from serving.search import SearchError, find

NEW_YORK = ZoneInfo("America/New_York")


def flight(carrier: str, number: int, origin: str, dest: str, local: str) -> Scheduled:
    leaves = datetime.fromisoformat(f"2013-07-01T{local}-04:00").astimezone(UTC)
    lands = leaves + timedelta(hours=2)
    name = f"{carrier}{number}"
    return Scheduled(name, carrier, number, origin, dest, None, leaves, lands, 187.0, 120.0)


FLIGHTS = [
    flight("B6", 1318, "JFK", "BOS", "12:47"),
    flight("B6", 131, "JFK", "MCO", "17:45"),
    flight("9E", 13, "LGA", "BNA", "17:05"),
    flight("BA", 1318, "EWR", "LHR", "07:45"),
    flight("DL", 2, "LGA", "BOS", "23:59"),
]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ["BA1318", "B61318", "9E13", "B6131", "DL2"]),
        ("B6 1318", ["B61318"]),
        ("b61318", ["B61318"]),
        ("b613", ["B61318", "B6131"]),
        ("1318", ["BA1318", "B61318"]),
        ("131", ["B6131", "BA1318", "B61318"]),  # the whole number before its beginnings
        ("JFK BOS", ["B61318"]),
        ("jfk\u2192bos", ["B61318"]),
        ("BOS", ["B61318", "DL2"]),
        ("B", ["BA1318", "B61318", "9E13", "B6131", "DL2"]),  # B6, BA, BNA, BOS
        ("17:", ["9E13", "B6131"]),
        ("17:45", ["B6131"]),
        ("7:45", ["BA1318"]),
        ("23:59 LGA", ["DL2"]),
        ("9E", ["9E13"]),
        ("9E 13", ["9E13"]),
        ("XX", []),
        ("B6 BNA", []),
    ],
)
def test_every_word_fits_the_flight_and_the_exact_number_comes_first(
    text: str, found: list[str]
) -> None:
    flights, total = find(text, FLIGHTS, NEW_YORK, 10)
    assert [one.flight_id for one in flights] == found
    assert total == len(found)


def test_the_total_counts_what_the_limit_cuts_off() -> None:
    flights, total = find("BOS", FLIGHTS, NEW_YORK, 1)
    assert ([one.flight_id for one in flights], total) == (["B61318"], 2)


@pytest.mark.parametrize("text", ["b!", "<script>", "123456", "BOSTON", "17:456", "'; drop"])
def test_a_word_that_can_mean_nothing_is_named(text: str) -> None:
    with pytest.raises(SearchError, match=r"is no part of a flight, an airport or a time\. Search"):
        find(text, FLIGHTS, NEW_YORK, 10)
