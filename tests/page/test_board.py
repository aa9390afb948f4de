"""The board and the departures over HTTP: what they hold, what they refuse, what they cost."""

from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from page_browser import Running
from training_project import STANDS_AT

from training.dataset import OUTCOMES

HORIZON = timedelta(hours=2)


def ask(service: Running, path: str, **query: Any) -> httpx.Response:
    return httpx.get(f"{service.address}/v1/{path}", params=query)


def answer(service: Running, path: str, **query: Any) -> Any:
    got = ask(service, path, **query)
    assert got.status_code == 200, got.text
    return got.json()


def test_the_board_holds_the_predictions_due_in_its_hours_by_falling_risk(
    service: Running,
) -> None:
    flights = answer(service, "board", hours=2)["flights"]
    due = [datetime.fromisoformat(flight["due_at"]) for flight in flights]
    assert flights and all(STANDS_AT <= at < STANDS_AT + timedelta(hours=2) for at in due)
    risks = [flight["probability"] for flight in flights]
    assert risks == sorted(risks, reverse=True)
    everything = answer(service, "departures", hours=72, limit=200)["departures"]
    expected = [
        flight["flight_id"]
        for flight in everything
        if STANDS_AT + HORIZON
        <= datetime.fromisoformat(flight["sched_dep_at"])
        < STANDS_AT + HORIZON + timedelta(hours=2)
    ]
    assert sorted(flight["flight_id"] for flight in flights) == sorted(expected)


def test_a_flight_has_on_the_board_the_score_it_has_alone(service: Running) -> None:
    told = answer(service, "board", hours=6)
    fields = ("carrier", "flight", "origin", "dest", "tailnum", "sched_dep_at")
    asked = [{field: flight[field] for field in fields} for flight in told["flights"]]
    scored = httpx.post(f"{service.address}/v1/score", json={"flights": asked}).json()
    assert [result["probability"] for result in scored["results"]] == [
        flight["probability"] for flight in told["flights"]
    ]
    for name in ("model", "as_of", "threshold", "base_rate"):
        assert told[name] == scored[name]


def test_no_answer_tells_what_is_known_only_after_a_flight(service: Running) -> None:
    flights = answer(service, "board", hours=24)["flights"]
    flights += answer(service, "departures", limit=200)["departures"]
    flights.append(answer(service, f"departures/{flights[0]['flight_id']}"))
    assert not {name for flight in flights for name in flight} & {*OUTCOMES, "outcome"}


def test_an_aircraft_is_told_only_once_the_feed_has_named_it(service: Running) -> None:
    flights = answer(service, "departures", hours=24, limit=200)["departures"]
    named_from = STANDS_AT + timedelta(hours=3)
    later = [f for f in flights if datetime.fromisoformat(f["sched_dep_at"]) > named_from]
    sooner = [f for f in flights if datetime.fromisoformat(f["sched_dep_at"]) <= named_from]
    assert later and all(flight["tailnum"] is None and flight["early"] for flight in later)
    assert any(flight["tailnum"] for flight in sooner)
    assert not any(flight["early"] for flight in sooner)


def test_a_board_is_scored_once_while_store_and_snapshot_are_the_same(service: Running) -> None:
    first = ask(service, "board", hours=5)
    assert ask(service, "board", hours=5).content == first.content
    scorer = service.service.scorer
    kept, scorer.schedule = scorer.schedule, type(scorer.schedule)("another snapshot", (), {})
    try:
        assert answer(service, "board", hours=5)["flights"] == []
    finally:
        scorer.schedule = kept
    assert answer(service, "board", hours=5)["flights"] == first.json()["flights"]


def test_a_departure_is_found_by_its_id_and_a_strange_id_is_not(service: Running) -> None:
    flight = answer(service, "departures")["departures"][0]
    assert answer(service, f"departures/{flight['flight_id']}") == flight
    missing = ask(service, "departures/2013-12-20-XX-1-JFK-0")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "no_such_flight")


@pytest.mark.parametrize(
    ("path", "query", "told"),
    [
        ("board", {"hours": 0}, "hours: Input should be greater than or equal to 1"),
        ("board", {"hours": 1.5}, "hours: Input should be a valid integer"),
        ("board", {"hours": 25}, "hours: Input should be less than or equal to 24"),
        ("board", {"hours": "nan"}, "hours"),
        ("board", {"hour": 3}, "hour: Extra inputs are not permitted"),
        ("departures", {"from": "2013-12-20T15:00"}, "from: Input should have timezone info"),
        ("departures", {"from": "yesterday"}, "from: Input should be a valid datetime"),
        ("departures", {"from": "9999-12-31T23:00:00Z", "hours": 72}, "from: Input should be less"),
        ("departures", {"from": "0001-01-01T00:00:00+14:00"}, "from: Input should be greater"),
        ("departures", {"start": "2013-12-20T15:00Z"}, "start: Extra inputs are not permitted"),
        ("departures", {"limit": 201}, "limit: Input should be less than or equal to 200"),
        ("departures", {"hours": 73}, "hours: Input should be less than or equal to 72"),
        ("departures", {"q": "B" * 41}, "q: String should have at most 40 characters"),
        ("departures", {"q": "b!"}, "'B!' is no part of a flight"),
        ("departures/a b", {}, "flight_id: String should match pattern"),
        ("departures/" + "a" * 65, {}, "flight_id: String should match pattern"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    service: Running, path: str, query: dict[str, Any], told: str
) -> None:
    refused = ask(service, path, **query)
    assert refused.status_code == 422
    assert told in refused.json()["error"]["message"]


def test_a_search_may_start_at_another_instant(service: Running) -> None:
    start = STANDS_AT + timedelta(days=1)
    told = answer(service, "departures", **{"from": start.isoformat(), "hours": 1})
    assert told["total"] == 2  # two flights an hour
    assert {flight["sched_dep_at"] for flight in told["departures"]} == {start.isoformat()}


def test_the_page_can_load_nothing_from_elsewhere_and_is_framed_by_nobody(
    service: Running,
) -> None:
    for path in ("", "page/app.js", "page/style.css"):
        headers = httpx.get(f"{service.address}/{path}").headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy
        assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
    assert httpx.get(f"{service.address}/page/index.html").status_code == 404
    assert httpx.get(f"{service.address}/page/__init__.py").status_code == 404
