"""What a caller may ask for: decoded strictly, each flight by itself.

A field that is not known, a value of another type (`true` or 1.9 where a whole number is
meant), a time without a zone: all are refused with a message that says what to write instead.
A bad flight of a batch is an error of that flight alone. Not for what only the published
schedule or the online store can tell: that is `scorer`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from hindcast.errors import HindcastError

EARLIEST, LATEST = datetime(1990, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
EXAMPLE_TIME = "2013-12-30T17:15:00Z"

Airport = Annotated[str, Meta(pattern=r"^[A-Z]{3}$(?!\n)", description="IATA code of an airport.")]
Instant = Annotated[datetime, Meta(tz=True)]


class Flight(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    """A flight to be scored. Its fields are the keys and request columns of the features."""

    carrier: Annotated[
        str, Meta(pattern=r"^[A-Z0-9]{2,3}$(?!\n)", description="Airline, IATA code.")
    ]
    flight: Annotated[int, Meta(ge=1, le=99_999, description="Flight number.")]
    origin: Airport
    dest: Airport
    tailnum: (
        Annotated[
            str,
            Meta(
                pattern=r"^[A-Z0-9-]{1,10}$(?!\n)", description="Aircraft. null: not assigned yet."
            ),
        ]
        | None
    )
    sched_dep_at: Annotated[Instant, Meta(description="Scheduled departure, with its zone.")]
    predict_at: (
        Annotated[
            Instant,
            Meta(
                description="T, the instant of the prediction. Left out: the model's horizon "
                "before departure; or the instant the features stand at, if that is later or a "
                "feature would be past its TTL by T."
            ),
        ]
        | None
    ) = None
    distance_mi: (
        Annotated[
            float,
            Meta(gt=0, le=13_000, description="Miles. Left out: as the published schedule has it."),
        ]
        | None
    ) = None
    block_min: (
        Annotated[
            float,
            Meta(
                gt=0,
                le=1_440,
                description="Scheduled minutes gate to gate. Left out: as the published schedule "
                "has them.",
            ),
        ]
        | None
    ) = None


class ScoreRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/score`."""

    flights: msgspec.Raw
    features: bool = False
    reasons: bool = False


@dataclass(frozen=True)
class RowError:
    """Why one flight of a batch has no score."""

    code: str
    message: str


class RequestError(HindcastError):
    """A request that is refused as a whole, with the HTTP status and a code for programs."""

    def __init__(self, status: int, code: str, message: str) -> None:
        """Keep what the answer is made of."""
        self.status, self.code = status, code
        super().__init__(message)


@dataclass(frozen=True)
class Asked:
    """A decoded request: flights, or why not, in the caller's order."""

    flights: Sequence[Flight | RowError]
    features: bool
    reasons: bool
    single: bool
    """One flight was given instead of a list: an error of it is an error of the request."""


_request = msgspec.json.Decoder(ScoreRequest)
_list = msgspec.json.Decoder(list[msgspec.Raw])
_flight = msgspec.json.Decoder(Flight)


def decode(body: bytes, most_rows: int) -> Asked:
    """Read the body of `POST /v1/score`.

    Raises:
        RequestError: it is no JSON, not of this form, or has more flights than `most_rows`.
    """
    try:
        request = _request.decode(body)
        raw = bytes(request.flights).lstrip()
        single = not raw.startswith(b"[")
        rows = [request.flights] if single else _list.decode(raw)
    except msgspec.ValidationError as fault:
        raise RequestError(422, "invalid_request", _told(fault)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RequestError(
            400, "not_json", 'the body is not JSON; send {"flights": [{...}]}, see /docs'
        ) from None
    if not rows:
        raise RequestError(422, "no_flights", "flights is empty; give at least one flight")
    if len(rows) > most_rows:
        raise RequestError(
            413,
            "too_many_flights",
            f"{len(rows)} flights in one request; send at most {most_rows} at a time",
        )
    return Asked([_decode(row) for row in rows], request.features, request.reasons, single)


def _decode(raw: msgspec.Raw) -> Flight | RowError:
    try:
        flight = _flight.decode(raw)
    except msgspec.ValidationError as fault:
        return RowError("invalid_flight", _told(fault))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return RowError("invalid_flight", "not a JSON object with the fields of a flight")
    return unlikely(flight) or flight


def unlikely(flight: Flight) -> RowError | None:
    """What is wrong with the values of a flight whose types are right."""
    for name in ("sched_dep_at", "predict_at"):
        instant = getattr(flight, name)
        if instant is not None and not EARLIEST <= instant < LATEST:
            return RowError(
                "absurd_time", f"{name} is not between 1990 and 2100; write {EXAMPLE_TIME}"
            )
    if flight.predict_at is not None and flight.predict_at > flight.sched_dep_at:
        return RowError(
            "absurd_time",
            "predict_at is after sched_dep_at; a prediction is made before departure",
        )
    for name in ("distance_mi", "block_min"):
        number = getattr(flight, name)
        if number is not None and not math.isfinite(number):
            return RowError("invalid_flight", f"{name} must be a finite number")
    return None


def _told(fault: msgspec.ValidationError) -> str:
    """msgspec's message, with the way out where it does not say it."""
    text = str(fault).replace(" - at `$.", " - at `")
    if "datetime" in text or "RFC3339" in text:
        return f"{text}; write a time with its zone, such as {EXAMPLE_TIME}"
    return f"{text}; see /docs for the fields"
