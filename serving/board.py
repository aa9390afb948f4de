"""What the page lists: departures found by a search, and the board of the next hours by risk.

Both are of the published schedule, around the instant that the features stand at; the board is
scored in one batch by the same scorer that answers `/v1/score`, and kept while the model, the
online store and the snapshot are the same. Not for the reasons of a single flight (`/v1/score`),
and no column that is known only after a flight is ever read (`schedule`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock
from typing import Annotated, Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import orjson
from fastapi import APIRouter, Path, Query, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from serving import search
from serving.intime import EPOCH
from serving.requests import EARLIEST, LATEST, Flight, RequestError
from serving.schedule import Scheduled
from serving.service import Service

ASSIGNED = timedelta(hours=3)
"""How long before departure the feed names the aircraft. Earlier the schedule's is not used:
the published flight has the one that was known when its prediction was due."""

FRESH = timedelta(hours=1)
"""A prediction due later than this after the features' instant is an early look at the flight."""

KEPT_S = 300.0
"""Seconds for which a board is kept at most: values that are pushed move no instant."""

FLIGHT_ID = r"^[\w-]{1,64}$"


class Strict(BaseModel):
    """Query parameters: one that is not known is refused, as in the body of `/v1/score`."""

    model_config = ConfigDict(extra="forbid")


class BoardQuery(Strict):
    """Of `GET /v1/board`."""

    hours: int = Field(
        3,
        ge=1,
        le=24,
        description="The predictions due in so many hours from where the features stand.",
    )


class DeparturesQuery(Strict):
    """Of `GET /v1/departures`."""

    q: str = Field("", max_length=search.LONGEST, description=search.HOW)
    start: AwareDatetime | None = Field(
        None,
        alias="from",
        ge=EARLIEST,
        lt=LATEST,
        description="Departing at or after this instant. Left out: where the features stand.",
    )
    hours: int = Field(24, ge=1, le=72, description="Departing within so many hours.")
    limit: int = Field(50, ge=1, le=200, description="The most flights to list.")


@dataclass(frozen=True)
class Kept:
    """A board as it was answered, what it was made from, and when."""

    made_from: tuple[Any, ...]
    at: float
    body: bytes


class Boards:
    """Lists and scores the schedule's flights for one service. Thread-safe."""

    def __init__(self, service: Service) -> None:
        """Nothing is read yet."""
        self._service = service
        self._kept: dict[int, Kept] = {}
        self._lock = Lock()

    @property
    def now(self) -> datetime:
        """The service's clock, or where the features stand if that is later."""
        scorer = self._service.scorer
        return max(scorer.known_until or EPOCH, scorer.clock.now())

    def board(self, hours: int) -> bytes:
        """The flights whose prediction is due within `hours`, by falling risk, as JSON.

        Raises:
            StoreAwayError: the online store cannot be read now.
            MisfittedError: features were registered that the model was not trained on.
            LogFullError: the log cannot take the answer.
        """
        with self._lock:  # whoever asks meanwhile gets the same board, scored once
            scorer = self._service.scorer
            scorer.look()
            made_from = (  # the reader is another one once anything was materialized
                scorer,
                scorer.reader,
                scorer.schedule,
                tuple(scorer.as_of.items()),
                tuple(self._stale()),
            )
            kept = self._kept.get(hours)
            if kept and kept.made_from == made_from and time.monotonic() - kept.at < KEPT_S:
                return kept.body
            body = orjson.dumps(self._scored(hours))
            self._kept[hours] = Kept(made_from, time.monotonic(), body)
            return body

    def _scored(self, hours: int) -> dict[str, Any]:
        scorer, now, request_id = self._service.scorer, self.now, uuid4().hex
        horizon = scorer.bundle.horizon
        until = now + timedelta(hours=hours)
        schedule = scorer.schedule
        listed = schedule.departing(now + horizon, until + horizon)
        scored = self._service.score([self._asked(flight, now) for flight in listed], request_id)
        found = [
            self._told(listed[i], now) | {"probability": p, "flag": flag}
            for i, p, flag in zip(scored.places, scored.p, scored.flags, strict=True)
        ]
        later = schedule.departing(until + horizon, datetime.max.replace(tzinfo=now.tzinfo))
        return {
            "request_id": request_id,
            **scored.by.header(scored),
            "stale": self._stale(),
            "from": now,
            "until": until,
            "next_due_at": later[0].sched_dep_at - horizon if later else None,
            "flights": sorted(found, key=lambda told: -told["probability"]),
        }

    def _stale(self) -> list[str]:
        """The views that are too old to be used; each of the reasons begins with its view."""
        return [reason.partition(" ")[0] for reason in self._service.stale()]

    def departures(self, asked: DeparturesQuery) -> dict[str, Any]:
        """The departures of the schedule that fit a search, by time.

        Raises:
            RequestError: nothing can be meant by it.
        """
        now = self.now
        start = asked.start or now
        until = start + timedelta(hours=asked.hours)
        zone = ZoneInfo(self._service.scorer.bundle.settings.zone)
        flights = self._service.scorer.schedule.departing(start, until)
        try:
            found, total = search.find(asked.q, flights, zone, asked.limit)
        except search.SearchError as fault:
            raise RequestError(422, "invalid_search", str(fault)) from None
        return {
            "as_of": now,
            "from": start,
            "until": until,
            "total": total,
            "departures": [self._told(flight, now) for flight in found],
        }

    def departure(self, flight_id: str) -> dict[str, Any]:
        """One flight of the schedule.

        Raises:
            RequestError: it has none of this id in the days around now.
        """
        flights: Iterable[Scheduled] = self._service.scorer.schedule.flights
        for flight in flights:
            if flight.flight_id == flight_id:
                return self._told(flight, self.now)
        raise RequestError(
            404,
            "no_such_flight",
            f"the published schedule has no flight {flight_id} around {self.now:%d %B %Y}",
        )

    def _told(self, flight: Scheduled, now: datetime) -> dict[str, Any]:
        due = flight.sched_dep_at - self._service.scorer.bundle.horizon
        return {
            "flight_id": flight.flight_id,
            "carrier": flight.carrier,
            "flight": flight.flight,
            "origin": flight.origin,
            "dest": flight.dest,
            "tailnum": _tailnum(flight, now),
            "sched_dep_at": flight.sched_dep_at,
            "sched_arr_at": flight.sched_arr_at,
            "distance_mi": flight.distance_mi,
            "block_min": flight.block_min,
            "due_at": due,
            "early": due > now + FRESH,
        }

    def _asked(self, flight: Scheduled, now: datetime) -> Flight:
        return Flight(
            carrier=flight.carrier,
            flight=flight.flight,
            origin=flight.origin,
            dest=flight.dest,
            tailnum=_tailnum(flight, now),
            sched_dep_at=flight.sched_dep_at,
            distance_mi=flight.distance_mi,
            block_min=flight.block_min,
        )


def router(service: Service) -> APIRouter:
    """The routes of the board. Who may ask is the application's business."""
    boards = Boards(service)
    routes = APIRouter(prefix="/v1", tags=["schedule"])

    # not async: to score a board takes a while, and the loop goes on answering meanwhile
    @routes.get("/board", response_class=Response)
    def board(asked: Annotated[BoardQuery, Query()]) -> Response:
        """The flights whose prediction is due in the next hours, by falling risk."""
        return Response(boards.board(asked.hours), media_type="application/json")

    @routes.get("/departures", response_class=Response)
    def departures(asked: Annotated[DeparturesQuery, Query()]) -> Response:
        """Departures of the published schedule that fit a search, by time."""
        return Response(orjson.dumps(boards.departures(asked)), media_type="application/json")

    @routes.get("/departures/{flight_id}", response_class=Response)
    def departure(flight_id: Annotated[str, Path(pattern=FLIGHT_ID)]) -> Response:
        """One departure of the published schedule."""
        return Response(orjson.dumps(boards.departure(flight_id)), media_type="application/json")

    return routes


def _tailnum(flight: Scheduled, now: datetime) -> str | None:
    return flight.tailnum if flight.sched_dep_at - ASSIGNED <= now else None
