"""A real server on a free port, and a plain client for it."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from training_project import STANDS_AT

from serving.server import Server, listen
from serving.service import Service

HOUR = STANDS_AT.replace(hour=18).isoformat()
FLIGHT = {
    "carrier": "B6",
    "flight": 7,
    "origin": "JFK",
    "dest": "BOS",
    "tailnum": "N1",
    "sched_dep_at": HOUR,
    "distance_mi": 200.0,
    "block_min": 66.0,
}
"""A flight that leaves an hour after the instant the features stand at plus the horizon."""


class Answer:
    """What came back: status, headers, body."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of a refusal."""
        return str(self.json["error"]["code"])


class Client:
    """Asks one server."""

    def __init__(self, address: str, service: Service) -> None:
        self.address, self.service = address, service

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(self.address.removeprefix("http://"), timeout=30)
        try:
            connection.request(method, path, body, headers)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def score(self, flights: Any, **more: Any) -> Answer:
        return self.ask("POST", "/v1/score", json.dumps({"flights": flights, **more}).encode())

    def result(self, flight: dict[str, Any], **more: Any) -> dict[str, Any]:
        """The result of one flight that must have a score."""
        answer = self.score(flight, **more)
        assert answer.status == 200, answer.body
        (result,) = answer.json["results"]
        return dict(result)

    def errors(self, *flights: Any) -> list[tuple[int, str]]:
        """Index and code of the flights that have no score."""
        answer = self.score(list(flights))
        assert answer.status == 200, answer.body
        errors = (result.get("error") for result in answer.json["results"])
        return [(error["index"], error["code"]) for error in errors if error]


@contextmanager
def running(service: Service) -> Iterator[Client]:
    """The service on a free port of the loopback; stopped and closed at the end."""
    listening, addresses = threading.Event(), []

    def announce(address: str) -> None:
        addresses.append(address)
        listening.set()

    server = Server(service, announce)
    thread = threading.Thread(target=server.run, args=([listen("127.0.0.1", 0)],))
    thread.start()
    try:
        assert listening.wait(20), "the server does not listen"
        yield Client(addresses[0], service)
    finally:
        server.should_exit = True
        thread.join(20)


def until(true: Callable[[], bool], seconds: float = 15.0) -> None:
    """Wait for something that is about to happen."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
