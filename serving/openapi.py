"""The OpenAPI document: what FastAPI cannot know of the bare `/v1/score`, with examples.

The schema of a request comes from the types that decode it. Not for checking anything.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI

from serving.requests import Flight
from serving.service import Service

DESCRIPTION = """\
Will a flight from New York arrive 15 minutes or more late? Give flights by carrier, number,
route, aircraft and departure time; the features are the service's own business.

A flight of a list that cannot be scored has an `error` in its place, and the others are scored.
"""
FLIGHT = {
    "carrier": "EV",
    "flight": 6030,
    "origin": "EWR",
    "dest": "CLT",
    "tailnum": "N14902",
    "sched_dep_at": "2013-12-30T17:15:00Z",
}
REASON = {
    "group": "inbound_aircraft",
    "title": "Inbound aircraft",
    "text": "the aircraft's last flight from New York is still in the air, 48 min late",
    "contribution": 1.31,
    "effect": "raises",
    "feature": "inbound_slack_min",
    "value": -48.0,
    "age_min": 12.0,
}
RESULT = {
    "probability": 0.87,
    "flag": True,
    "predict_at": "2013-12-30T15:15:00+00:00",
    "ages_min": {"airport_state": 0.0, "origin_weather": 60.0},
    "reasons": {"base": -1.2, "top": [REASON], "rest": 0.4, "log_odds": 1.9},
}
ANSWER = {
    "request_id": "5f0c1c6a0b6f4e0f8f5c0c3a1d2e3f40",
    "model": "20261126T111339Z-8439bad",
    "snapshot": "20261126T111130Z-c639a4e7",
    "as_of": "2013-12-30T15:00:00+00:00",
    "threshold": 0.25,
    "base_rate": 0.26,
    "results": [RESULT],
}
ERROR = {
    "request_id": "5f0c1c6a0b6f4e0f8f5c0c3a1d2e3f40",
    "error": {"code": "invalid_request", "message": "Object missing required field `flights`"},
}


def _object(description: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "required": [name for name, schema in properties.items() if not schema.pop("optional", 0)],
        "properties": properties,
    }


def _schemas(service: Service) -> dict[str, Any]:
    _, parts = msgspec.json.schema_components([Flight], ref_template="#/components/schemas/{name}")
    most = service.guard.limits.rows
    time = {"type": "string", "format": "date-time"}
    number, text, flag = {"type": "number"}, {"type": "string"}, {"type": "boolean"}
    error = _object(
        "Why a flight has no score.", index={"type": "integer"}, code=text, message=text
    )
    reason = _object(
        "What a group of features adds to the log odds, in words.",
        group=text,
        title=text,
        text=text,
        contribution=number,
        effect={"enum": ["raises", "lowers"]},
        feature={"type": "string", "description": "The one of the group that counts most."},
        value={"description": "Its value; null is missing."},
        age_min={
            "type": ["number", "null"],
            "description": "Minutes since the row of its view became known; where it has none, "
            "that of the next of the group.",
        },
    )
    reasons = _object(
        "`base`, the contributions of `top` and `rest` add up to `log_odds`, which is that of "
        "`probability`.",
        base=number,
        top={"type": "array", "items": {"$ref": "#/components/schemas/Reason"}},
        rest=number,
        log_odds=number,
    )
    result = _object(
        "A score, or `error` alone.",
        probability={**number, "optional": 1},
        flag={**flag, "description": "probability >= threshold", "optional": 1},
        predict_at={**time, "optional": 1},
        ages_min={
            "type": "object",
            "description": "Minutes since each feature view's row became known; null: no row.",
            "additionalProperties": {"type": ["number", "null"]},
            "optional": 1,
        },
        features={"type": "object", "description": "If asked for.", "optional": 1},
        reasons={"$ref": "#/components/schemas/Reasons", "optional": 1},
        error={"$ref": "#/components/schemas/FlightError", "optional": 1},
    )
    flight = {"$ref": "#/components/schemas/Flight"}
    request = _object(
        "Flights to be scored.",
        flights={
            "oneOf": [{"type": "array", "items": flight, "minItems": 1, "maxItems": most}, flight]
        },
        features={**flag, "default": False, "description": "Tell the features.", "optional": 1},
        reasons={**flag, "default": False, "description": "Tell the reasons.", "optional": 1},
    )
    request["additionalProperties"] = False
    answer = _object(
        "A result for each flight, in the order of the request.",
        request_id=text,
        model=text,
        snapshot={"type": ["string", "null"]},
        as_of={"type": ["string", "null"], "format": "date-time"},
        threshold=number,
        base_rate=number,
        results={"type": "array", "items": {"$ref": "#/components/schemas/Result"}},
    )
    refusal = _object(
        "Why a request has no answer.", request_id=text, error=_object("", code=text, message=text)
    )
    return {
        **parts,
        "ScoreRequest": request,
        "Score": answer,
        "Result": result,
        "Reason": reason,
        "Reasons": reasons,
        "FlightError": error,
        "Refusal": refusal,
    }


def _score(service: Service) -> dict[str, Any]:
    refusals = {
        "400": "The body is not JSON.",
        "401": "No valid API key, where the service has keys.",
        "413": f"Over {service.guard.limits.rows} flights, or over "
        f"{service.guard.limits.body_bytes} bytes.",
        "422": "Not of this form; for a flight outside of a list, not a flight that can be scored.",
        "429": "Too many requests a second.",
        "503": "The online store is away, the log is full, or the model does not fit.",
    }

    def content(name: str, **examples: Any) -> dict[str, Any]:
        return {
            "application/json": {
                "schema": {"$ref": f"#/components/schemas/{name}"},
                "examples": {key: {"value": value} for key, value in examples.items()},
            }
        }

    return {
        "tags": ["model"],
        "summary": "Score flights",
        "operationId": "score",
        "requestBody": {
            "required": True,
            "content": content(
                "ScoreRequest",
                one={"flights": FLIGHT, "reasons": True},
                several={"flights": [FLIGHT, {**FLIGHT, "distance_mi": 529, "block_min": 121}]},
            ),
        },
        "responses": {
            "200": {"description": "Scored.", "content": content("Score", one=ANSWER)},
            **{
                status: {"description": why, "content": content("Refusal", refused=ERROR)}
                for status, why in refusals.items()
            },
        },
    }


def extend(app: FastAPI, service: Service) -> None:
    """Let the document of an application tell of `/v1/score`."""
    made = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = made()
            schema["paths"]["/v1/score"] = {"post": _score(service)}
            components = schema.setdefault("components", {})
            components.setdefault("schemas", {}).update(_schemas(service))
            if service.guard.keys:
                components["securitySchemes"] = {
                    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}
                }
                schema["security"] = [{"key": []}]
        return app.openapi_schema or {}

    app.openapi = document  # type: ignore[method-assign]
