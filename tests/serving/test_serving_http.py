"""What a caller sees: scores, reasons, refusals. Over real HTTP."""

import http.client
import json
import math
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_client import FLIGHT, HOUR, Answer, Client, running
from training_project import STANDS_AT

from serving import guard, openapi
from serving.bundle import Bundle
from serving.guard import Guard, Limits
from serving.service import Service
from training import model

SECRETS = re.compile(r"Traceback|File \"|/home|/work|/tmp|site-packages|select |\.db\b", re.I)


# --- scores -----------------------------------------------------------------------------------


def test_a_flight_scores_as_training_scores_its_features(client: Client, run_dir: Any) -> None:
    trained = model.load(run_dir)
    for origin in ("EWR", "JFK", "LGA"):
        for carrier in ("AA", "B6", "XX"):
            asked = FLIGHT | {"origin": origin, "carrier": carrier}
            result = client.result(asked, features=True)
            (expected,) = trained.predict_proba(pd.DataFrame([result["features"]]))
            assert result["probability"] == expected
            assert result["flag"] == (expected >= trained.threshold)


def test_a_batch_is_answered_in_order_and_as_flights_by_themselves(client: Client) -> None:
    asked = [FLIGHT | {"carrier": c, "distance_mi": d} for c in ("AA", "B6") for d in (90, 2500)]
    together = client.score(asked, features=True, reasons=True).json["results"]
    alone = [client.result(flight, features=True, reasons=True) for flight in asked]
    assert together == alone
    assert len({result["probability"] for result in alone}) > 1


def test_an_answer_names_model_snapshot_threshold_and_how_old_the_features_are(
    client: Client, bundle: Bundle
) -> None:
    answer = client.score(FLIGHT).json
    assert (answer["model"], answer["threshold"]) == (bundle.id, bundle.threshold)
    assert answer["base_rate"] == bundle.base_rate == bundle.manifest["base_rate"]
    assert datetime.fromisoformat(answer["as_of"]) == STANDS_AT
    assert answer["results"][0]["ages_min"] == {"origin_weather": 0.0}


def test_features_and_reasons_are_told_only_on_request(client: Client, bundle: Bundle) -> None:
    plain, full = client.result(FLIGHT), client.result(FLIGHT, features=True, reasons=True)
    assert set(full) - set(plain) == {"features", "reasons"}
    assert set(full["features"]) >= {column.name for column in bundle.columns}


def test_base_reasons_and_rest_add_up_to_the_probability(client: Client) -> None:
    result = client.result(FLIGHT, reasons=True)
    reasons = result["reasons"]
    total = (
        reasons["base"] + sum(reason["contribution"] for reason in reasons["top"]) + reasons["rest"]
    )
    assert total == pytest.approx(reasons["log_odds"], abs=1e-12)
    assert 1 / (1 + math.exp(-total)) == pytest.approx(result["probability"], abs=1e-12)
    weights = [abs(reason["contribution"]) for reason in reasons["top"]]
    assert weights == sorted(weights, reverse=True)
    for reason in reasons["top"]:
        assert reason["effect"] == ("raises" if reason["contribution"] > 0 else "lowers")


# --- what may be left out ----------------------------------------------------------------------


def published(client: Client) -> dict[str, Any]:
    """A flight of the published schedule that departs after the horizon, as a request."""
    start = STANDS_AT + timedelta(hours=3)
    flight = client.service.scorer.schedule.departing(start, start + timedelta(days=3))[0]
    names = ("carrier", "flight", "origin", "dest", "tailnum")
    return {name: getattr(flight, name) for name in names} | {
        "sched_dep_at": flight.sched_dep_at.isoformat()
    }


def test_distance_and_duration_left_out_come_from_the_published_schedule(client: Client) -> None:
    asked = published(client)
    left_out = client.result(asked, features=True)
    distance = left_out["features"]["flight_distance_mi"]
    assert distance in (200.0, 760.0, 1400.0, 2475.0)
    given_ = client.result(
        asked | {"distance_mi": distance, "block_min": 40 + distance / 7.6}, features=True
    )
    assert left_out == given_


def test_a_flight_that_is_not_published_says_what_to_give(client: Client) -> None:
    answer = client.score(published(client) | {"flight": 999})
    assert (answer.status, answer.code) == (422, "not_in_schedule")
    assert "distance_mi and block_min" in answer.json["error"]["message"]


def test_t_left_out_is_the_horizon_before_departure_but_never_before_the_features(
    client: Client,
) -> None:
    def at(**given_: Any) -> datetime:
        return datetime.fromisoformat(client.result(FLIGHT | given_)["predict_at"])

    departs = datetime.fromisoformat(HOUR)
    assert at() == departs - timedelta(hours=2)
    soon = STANDS_AT + timedelta(minutes=30)
    assert at(sched_dep_at=soon.isoformat()) == STANDS_AT
    assert at(predict_at=STANDS_AT.isoformat()) == STANDS_AT


def test_no_answer_knows_the_future_of_its_own_t(client: Client) -> None:
    early = FLIGHT | {"predict_at": (STANDS_AT - timedelta(minutes=1)).isoformat()}
    gone = FLIGHT | {"sched_dep_at": (STANDS_AT - timedelta(minutes=1)).isoformat()}
    assert client.errors(early, gone) == [(0, "predict_at_too_early"), (1, "departed")]


# --- what is refused ---------------------------------------------------------------------------

WITHOUT_TAIL = {name: value for name, value in FLIGHT.items() if name != "tailnum"}
WRONG = {
    "a bool for a number": ({"flight": True}, "`int`, got `bool`"),
    "a fraction for a whole number": ({"flight": 1.9}, "`int`, got `float`"),
    "a number beyond int64": ({"flight": 2**63}, "`int` <= 99999"),
    "a number far beyond int64": ({"flight": 10**40}, "`int` <= 99999"),
    "text for a number": ({"flight": "7"}, "`int`, got `str`"),
    "a number for text": ({"carrier": 7}, "`str`, got `int`"),
    "null for a key": ({"origin": None}, "`str`, got `null`"),
    "lower case": ({"origin": "jfk"}, "matching regex"),
    "a line break": ({"carrier": "B6\n"}, "matching regex"),
    "a time without a zone": ({"sched_dep_at": "2013-12-20T18:00:00"}, "with its zone"),
    "a number for a time": ({"sched_dep_at": 1387562400}, "with its zone"),
    "no time at all": ({"sched_dep_at": "soon"}, "with its zone"),
    "the year 1": ({"sched_dep_at": "0001-01-01T00:00:00Z"}, "between 1990 and 2100"),
    "the year 9999": ({"sched_dep_at": "9999-12-31T23:59:59-23:00"}, "between 1990 and 2100"),
    "T after departure": ({"predict_at": "2013-12-20T18:00:01Z"}, "after sched_dep_at"),
    "a negative distance": ({"distance_mi": -1}, "> 0"),
    "a distance around the world": ({"distance_mi": 25_000}, "<= 13000"),
    "a field that is not known": ({"weather": "good"}, "unknown field `weather`"),
}


@pytest.mark.parametrize(("change", "told"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_flight_is_refused_with_what_is_wrong(
    client: Client, change: dict[str, Any], told: str
) -> None:
    answer = client.score(FLIGHT | change)
    assert answer.status == 422
    assert told in answer.json["error"]["message"]


def test_an_aircraft_may_be_null_but_not_forgotten(client: Client) -> None:
    assert client.score(FLIGHT | {"tailnum": None}).status == 200
    answer = client.score(WITHOUT_TAIL)
    assert answer.status == 422
    assert "`tailnum`" in answer.json["error"]["message"]


def test_one_bad_flight_of_a_batch_fails_alone(client: Client) -> None:
    batch = [FLIGHT, FLIGHT | {"flight": True}, None, [], FLIGHT, WITHOUT_TAIL]
    assert client.errors(*batch) == [(i, "invalid_flight") for i in (1, 2, 3, 5)]
    results = client.score(batch).json["results"]
    assert results[0] == results[4] == client.result(FLIGHT)


BODIES = {
    "nothing": (b"", 400),
    "no JSON": (b"flights", 400),
    "half of it": (b'{"flights": [', 400),
    "no UTF-8": (b'{"flights": "\xff\xfe"}', 422),
    "a lone surrogate": (b'{"flights": [{"carrier": "\\ud800"}]}', 400),
    "NaN": (b'{"flights": [{"distance_mi": NaN}]}', 400),
    "a list": (b"[]", 422),
    "no flights": (b"{}", 422),
    "an empty list": (b'{"flights": []}', 422),
    "text": (b'{"flights": "all"}', 422),
    "an unknown field": (b'{"flights": [{}], "model": "best"}', 422),
    "a number for a flag": (b'{"flights": [{}], "reasons": 1}', 422),
    "depth": (b'{"flights": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400),
    "depth inside": (b'{"flights": [{"x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}]}", 400),
}


@pytest.mark.parametrize(("body", "status"), BODIES.values(), ids=list(BODIES))
def test_a_body_of_another_form_is_refused(client: Client, body: bytes, status: int) -> None:
    answer = client.ask("POST", "/v1/score", body)
    assert answer.status == status
    assert answer.json["error"]["message"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.fixed_dictionaries(
        {}, optional={name: st.just(value) | JSON for name, value in FLIGHT.items()}
    )
    | st.dictionaries(st.sampled_from([*FLIGHT, "predict_at", "x"]), JSON)
    | JSON,
    st.sampled_from([{}, {"reasons": True, "features": True}]),
)
def test_no_body_makes_the_service_fail_or_tell_of_its_insides(
    client: Client, flights: Any, more: dict[str, bool]
) -> None:
    answer = client.score(flights, **more)
    assert answer.status in (200, 400, 422)
    assert not SECRETS.search(answer.body.decode())


def test_a_body_over_the_limit_is_refused_whether_it_tells_its_length_or_not(
    client: Client,
) -> None:
    declared = client.ask("POST", "/v1/score", b" " * (2**20 + 1))
    assert (declared.status, declared.code) == (413, "body_too_large")
    connection = http.client.HTTPConnection(client.address.removeprefix("http://"), timeout=30)
    chunks = (b" " * 65_536 for _ in range(17))
    connection.request("POST", "/v1/score", chunks, encode_chunked=True)  # tells no length
    assert connection.getresponse().status == 413
    connection.close()


def test_more_flights_than_the_limit_are_refused(client: Client) -> None:
    assert client.score([FLIGHT] * 1_000).status == 200
    answer = client.score([FLIGHT] * 1_001)
    assert (answer.status, answer.code) == (413, "too_many_flights")


def test_a_fault_of_the_service_tells_nothing_of_its_insides(
    start: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("select * from /secret/path")

    with running(start()) as broken:
        heard: list[str] = []
        monkeypatch.setattr(broken.service, "tell", heard.append)
        monkeypatch.setattr(broken.service.scorer, "score", fail)
        monkeypatch.setattr(broken.service, "card", fail)
        for answer in (broken.score(FLIGHT), broken.get("/v1/model")):
            assert (answer.status, answer.code) == (500, "internal")
            assert not SECRETS.search(answer.body.decode())
            (told,) = (line for line in heard if answer.json["request_id"] in line)
            assert "/secret/path" in told


# --- who may ask -------------------------------------------------------------------------------

KEY = "a-key-of-decent-length"


def test_with_keys_only_a_caller_with_one_is_answered(
    start: Callable[..., Service], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "keys").write_text("# ours\n\nanother-key-of-decent-length\n")
    monkeypatch.setenv(guard.KEYS_VARIABLE, f" {KEY} ,")
    keys = guard.api_keys(tmp_path / "keys")
    body = json.dumps({"flights": FLIGHT}).encode()
    with running(start(guard=Guard(keys=keys))) as locked:

        def status(path: str, **headers: str) -> int:
            method = "POST" if path == "/v1/score" else "GET"
            return locked.ask(method, path, body if method == "POST" else None, **headers).status

        for path in ("/v1/score", "/v1/model"):
            assert status(path) == 401
            assert status(path, **{"X-API-Key": KEY[:-1]}) == 401
            assert status(path, **{"X-API-Key": f"{KEY},"}) == 401
            for key in (KEY, "another-key-of-decent-length"):
                assert status(path, **{"X-API-Key": key}) == 200
        assert status("/healthz") == 200


def test_a_short_key_or_an_empty_file_is_refused(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(guard.KEYS_VARIABLE, raising=False)
    (tmp_path / "keys").write_text("short\n")
    with pytest.raises(guard.HindcastError, match="shorter than 16"):
        guard.api_keys(tmp_path / "keys")
    (tmp_path / "keys").write_text("# none yet\n")
    with pytest.raises(guard.HindcastError, match="no API key"):
        guard.api_keys(tmp_path / "keys")
    assert guard.api_keys(None) == ()


def test_a_caller_over_its_rate_is_told_to_wait_and_may_go_on_later(
    start: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(guard.time, "monotonic", lambda: now[0])
    limited = Guard(Limits(per_second=2))
    scope: dict[str, Any] = {"headers": [], "client": ("10.0.0.1", 1)}
    limited.check(scope)
    limited.check(scope)
    with pytest.raises(guard.RequestError) as refused:
        limited.check(scope)
    assert refused.value.status == 429
    limited.check(scope | {"client": ("10.0.0.2", 1)})  # another caller has a rate of its own
    now[0] += 0.5
    limited.check(scope)
    with running(start(guard=limited)) as slow:
        answers = [slow.score(FLIGHT) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert answers[-1].headers["Retry-After"] == "1"


def test_an_address_that_sent_too_many_wrong_keys_waits_even_with_a_right_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(guard.time, "monotonic", lambda: now[0])
    locked = Guard(Limits(per_second=2), (KEY.encode(),))

    def status(key: str, address: str = "10.0.0.1") -> int:
        try:
            locked.check({"headers": [(b"x-api-key", key.encode())], "client": (address, 1)})
        except guard.RequestError as refused:
            return refused.status
        return 200

    assert [status("guess"), status("another guess"), status("a third")] == [401, 401, 429]
    assert status(KEY) == 429
    assert status(KEY, "10.0.0.2") == 200
    now[0] += 0.5
    assert [status(KEY), status("guess"), status("guess")] == [200, 401, 429]


def test_a_body_that_does_not_come_is_given_up_and_others_are_answered_meanwhile(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "BODY_WITHIN", 0.5)
    connection = http.client.HTTPConnection(client.address.removeprefix("http://"), timeout=30)
    connection.putrequest("POST", "/v1/score")
    connection.putheader("Content-Length", "1000")
    connection.endheaders(b'{"flights": ')
    assert client.score(FLIGHT).status == 200
    answer = Answer(connection.getresponse())
    assert (answer.status, answer.code) == (408, "body_too_slow")
    assert answer.headers["Connection"] == "close"
    connection.close()


# --- the other addresses -----------------------------------------------------------------------


def test_the_model_is_told_with_its_figures_and_every_feature(
    client: Client, bundle: Bundle
) -> None:
    told = client.get("/v1/model").json
    assert told["model"] == bundle.id
    assert told["metrics"]["metrics"]["model"]["roc_auc"]["value"] > 0.75
    assert told["card"].startswith("# Model card")
    assert [feature["name"] for feature in told["features"]] == [c.name for c in bundle.columns]
    assert told["ttl_min"] == {"origin_weather": 360.0}


def test_metrics_count_requests_flights_scores_and_nulls(start: Callable[..., Service]) -> None:
    with running(start()) as fresh:
        fresh.score([FLIGHT] * 3)
        fresh.score([FLIGHT | {"origin": "XXX"}])  # no weather there: its features are NULL
        fresh.score(FLIGHT | {"flight": True})
        text = fresh.get("/metrics").body.decode()
    for line in (
        'hindcast_requests_total{status="200"} 2.0',
        'hindcast_requests_total{status="422"} 1.0',
        "hindcast_flights_total 4.0",
        "hindcast_score_count 4.0",
        "hindcast_score_seconds_count 2.0",
        'hindcast_batch_flights_bucket{le="1.0"} 2.0',
        'hindcast_feature_nulls_total{feature="wind_mph"} 1.0',
        'hindcast_feature_nulls_total{feature="flight_distance_mi"} 0.0',
        'hindcast_feature_age_seconds{view="origin_weather"} 0.0',
    ):
        assert line in text.splitlines(), text


def test_an_address_that_is_not_there_says_so_in_json(client: Client) -> None:
    for answer in (client.get("/v2/score"), client.get("/v1/score")):
        assert answer.status in (404, 405)
        assert "/docs" in answer.json["error"]["message"]


def test_the_documented_examples_are_true(client: Client) -> None:
    document = client.get("/openapi.json").json
    post = document["paths"]["/v1/score"]["post"]
    examples = post["requestBody"]["content"]["application/json"]["examples"]
    later = {"sched_dep_at": HOUR, "distance_mi": 529, "block_min": 121}
    for example in examples.values():
        flights = example["value"]["flights"]
        asked = [flights | later] if isinstance(flights, dict) else [f | later for f in flights]
        answer = client.score(asked, reasons=True).json
        assert set(answer) == set(openapi.ANSWER)
        for result in answer["results"]:
            assert set(result) == set(openapi.RESULT)
            assert set(result["reasons"]["top"][0]) == set(openapi.REASON)
    names = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document))
    assert set(names) <= set(document["components"]["schemas"])
    assert set(document["components"]["schemas"]["Flight"]["properties"]) == {
        *FLIGHT,
        "predict_at",
    }
    assert client.get("/docs").status == 200


def test_clients_at_the_same_time_get_their_own_answers(client: Client) -> None:
    from concurrent.futures import ThreadPoolExecutor

    asked = [FLIGHT | {"distance_mi": float(100 + 10 * i)} for i in range(120)]
    alone = [client.result(flight, features=True) for flight in asked]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda flight: client.result(flight, features=True), asked))
    assert together == alone
    distances = [result["features"]["flight_distance_mi"] for result in together]
    np.testing.assert_array_equal(distances, [flight["distance_mi"] for flight in asked])
