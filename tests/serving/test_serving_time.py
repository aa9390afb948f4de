"""No answer uses what its own T did not know, or what training would have held for too old."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from feast import FeatureStore, FeatureView, Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, String
from serving_client import FLIGHT, Client, running
from training_project import STANDS_AT

from serving.requests import Flight, decode
from serving.scorer import NOTHING_READ
from serving.service import Service

TTL = timedelta(hours=6)
HOUR = timedelta(hours=1)


def leaving(after: timedelta, at: timedelta | None = None, **more: str) -> dict[str, Any]:
    """A flight that departs, and is predicted if that is given, so long after STANDS_AT."""
    asked = FLIGHT | {"sched_dep_at": (STANDS_AT + after).isoformat()} | more
    return asked if at is None else asked | {"predict_at": (STANDS_AT + at).isoformat()}


def instant(result: dict[str, Any]) -> timedelta:
    """T of a result, after STANDS_AT."""
    return datetime.fromisoformat(result["predict_at"]) - STANDS_AT


def test_features_that_were_materialized_since_the_last_read_answer_no_earlier_t(
    on_copy: Callable[..., Service], copy: Path
) -> None:
    with running(on_copy()) as client:
        asked = [leaving(3 * HOUR, timedelta(0)), leaving(2 * HOUR), leaving(HOUR / 2)]
        assert client.errors(*asked) == []
        store = FeatureStore(repo_path=str(copy / "feature_repo"))
        store.materialize(STANDS_AT - HOUR, STANDS_AT + HOUR)
        answer = client.score(asked).json
        codes = [result.get("error", {}).get("code") for result in answer["results"]]
        assert codes == ["predict_at_too_early", None, "departed"]
        assert instant(answer["results"][1]) == HOUR
        assert datetime.fromisoformat(answer["as_of"]) == STANDS_AT + HOUR


def test_a_pushed_row_answers_no_t_before_it_became_known(
    on_copy: Callable[..., Service], copy: Path
) -> None:
    with running(on_copy()) as client:
        push(copy, "JFK", STANDS_AT + 2 * HOUR)
        asked = [
            leaving(4 * HOUR, HOUR),
            leaving(4 * HOUR, HOUR, origin="EWR"),
            leaving(3 * HOUR),
            leaving(3 * HOUR / 2),
            leaving(4 * HOUR, 2 * HOUR),
        ]
        results = client.score(asked, features=True).json["results"]
        codes = [result.get("error", {}).get("code") for result in results]
        assert codes == ["predict_at_too_early", None, None, "departed", None]
        assert results[1]["features"]["origin"] == "EWR"
        assert results[1]["features"]["wind_mph"] != -99.0
        assert results[2]["features"]["wind_mph"] == results[4]["features"]["wind_mph"] == -99.0
        assert [instant(results[i]) for i in (1, 2, 4)] == [HOUR, 2 * HOUR, 2 * HOUR]


def test_a_view_that_is_only_pushed_to_and_only_read_on_demand_is_ready_once_it_has_rows(
    on_copy: Callable[..., Service], copy: Path
) -> None:
    store = FeatureStore(repo_path=str(copy / "feature_repo"))
    gate = FeatureView(
        name="gates",
        entities=[store.get_entity("origin")],
        ttl=TTL,
        schema=[Field(name="origin", dtype=String), Field(name="queue", dtype=Float64)],
        source=store.get_feature_view("origin_weather").batch_source,
    )

    @on_demand_feature_view(
        sources=[gate], schema=[Field(name="queue_min", dtype=Float64)], mode="python"
    )
    def queues(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"queue_min": [None if each is None else 2 * each for each in inputs["queue"]]}

    store.apply([gate, queues])
    served = store.get_feature_service("late_arrival")
    served.feature_view_projections.append(queues.projection)
    store.apply([served])
    with running(on_copy()) as client:
        assert client.get("/readyz").json["reasons"] == ["gates was never filled: materialize it"]
        row = {"origin": "JFK", "queue": 4.0, "known_at": STANDS_AT - HOUR}
        store.write_to_online_store("gates", df=pd.DataFrame([row]))
        assert client.get("/readyz").json == {"status": "ready", "reasons": []}
        asked = leaving(4 * HOUR, HOUR)
        assert client.result(asked, features=True)["features"]["queue_min"] == 8.0
        assert client.get("/v1/model").json["ttl_min"]["gates"] == 360.0
        assert client.errors(leaving(9 * HOUR, TTL - HOUR / 2)) == [(0, "features_expired")]


def push(root: Path, origin: str, known_at: datetime) -> None:
    """Push a report with a wind that no report has."""
    row = {"origin": origin, "wind_mph": -99.0, "sky": "odd", "reports": 1}
    row |= {"observed_at": known_at, "known_at": known_at}
    store = FeatureStore(repo_path=str(root / "feature_repo"))
    store.write_to_online_store("origin_weather", df=pd.DataFrame([row]))


def test_a_row_past_its_ttl_at_t_is_not_used(client: Client) -> None:
    second = timedelta(seconds=1)
    assert client.errors(leaving(9 * HOUR, TTL), leaving(9 * HOUR, TTL + second)) == [
        (1, "features_expired")
    ]
    assert client.score(leaving(9 * HOUR, TTL + second)).status == 422
    assert client.errors(leaving(9 * HOUR, TTL + second, origin="XXX")) == []  # it has no row


def test_t_left_out_is_where_the_features_stand_if_they_would_expire_before(
    client: Client,
) -> None:
    assert instant(client.result(leaving(TTL + 2 * HOUR))) == TTL
    assert instant(client.result(leaving(TTL + 3 * HOUR))) == timedelta(0)


def test_an_answer_says_where_the_features_of_its_own_read_stood(
    start: Callable[..., Service],
) -> None:
    served = start()
    try:
        scored = served.scorer.score([flight_of(FLIGHT)], served.scorer.reader)
        served.scorer.stands = NOTHING_READ  # as another thread's read may leave it
        assert served.scorer.header(scored)["as_of"] == STANDS_AT
        assert served.scorer.header(scored)["snapshot"] == "first"
    finally:
        served.close()


def flight_of(asked: dict[str, Any]) -> Flight:
    """A flight as a request has it."""
    (flight,) = decode(json.dumps({"flights": asked}).encode(), 1).flights
    assert isinstance(flight, Flight)
    return flight
