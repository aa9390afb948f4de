"""The service takes a new champion over, and back, while it answers."""

import http.client
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow.dataset as ds
import pytest
from feast import FeatureStore
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination
from retrain_lab import AT, Lab
from serving_client import FLIGHT

from hindcast import champion

BODY = json.dumps({"flights": [FLIGHT] * 3, "reasons": True}).encode()


@dataclass
class Server:
    """A service of its own process, its lines, and what it was asked."""

    host: str
    said: list[str] = field(default_factory=list)
    answers: list[tuple[str, float, float]] = field(default_factory=list)
    """Of each answer: model, threshold, and the probability."""
    failures: list[str] = field(default_factory=list)

    def ask(self, connection: http.client.HTTPConnection) -> None:
        """One request. Anything but a whole answer is a failure."""
        try:
            connection.request("POST", "/v1/score", BODY)
            answer = connection.getresponse()
            told = json.loads(answer.read())
            (p,) = {result["probability"] for result in told["results"]}
            self.answers.append((told["model"], told["threshold"], p))
            assert answer.status == 200
        except Exception as fault:  # counted; the test says that there are none
            self.failures.append(repr(fault))

    def model(self) -> str:
        """The model that answers now."""
        connection = http.client.HTTPConnection(self.host, timeout=30)
        connection.request("GET", "/v1/model")
        return str(json.loads(connection.getresponse().read())["model"])


@contextmanager
def served(lab: Lab, *words: str) -> Iterator[Server]:
    """`python -m serving` on a free port of the loopback, at the root of the project."""
    process = subprocess.Popen(
        [sys.executable, "-m", "serving", "--port", "0", "--at", AT.isoformat(), *words],
        cwd=lab.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        first = process.stdout.readline()
        found = re.search(r"http://(\S+)", first)
        assert found, first + process.stderr.read()
        server = Server(found[1])
        lines = process.stderr
        reading = threading.Thread(target=lambda: server.said.extend(lines))
        reading.start()
        yield server
    finally:
        process.terminate()
        code = process.wait(30)
    reading.join()
    assert code == 0


@contextmanager
def under_load(server: Server, callers: int = 3) -> Iterator[None]:
    """Callers that ask all the time, each on a connection it keeps."""
    done = threading.Event()

    def call() -> None:
        connection = http.client.HTTPConnection(server.host, timeout=60)
        while not done.is_set():
            server.ask(connection)
        connection.close()

    calling = [threading.Thread(target=call) for _ in range(callers)]
    for each in calling:
        each.start()
    try:
        yield
    finally:
        done.set()
        for each in calling:
            each.join()


def wait_for(true: Callable[[], bool], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def test_promotion_and_rollback_under_load_drop_no_request_and_mix_no_answer(
    lab: Lab, put_in_use: Callable[[str], None]
) -> None:
    store = FeatureStore(repo_path=str(lab.root / "feature_repo"))
    service = store.get_feature_service("late_arrival")
    service.logging_config = LoggingConfig(FileLoggingDestination(path="../data/log"))
    store.apply([service])
    put_in_use(lab.dull)
    with served(lab) as server:
        assert server.model() == lab.dull
        with under_load(server):
            wait_for(lambda: len(server.answers) > 10)
            put_in_use(lab.good)
            wait_for(lambda: server.answers[-1][0] == lab.good)
            asked = len(server.answers)
            wait_for(lambda: len(server.answers) > asked + 10)
            champion.roll_back(lab.root, at=AT)
            wait_for(lambda: server.answers[-1][0] == lab.dull)
            asked = len(server.answers)
            wait_for(lambda: len(server.answers) > asked + 10)
    assert server.failures == []
    # one threshold and one probability for each model: no answer is made of both
    assert len(set(server.answers)) == len({model for model, _, _ in server.answers}) == 2
    by_model = Counter(model for model, _, _ in server.answers)
    assert set(by_model) == {lab.dull, lab.good}
    assert sum("answers now, instead of" in line for line in server.said) == 2
    logged = ds.dataset(lab.root / "data" / "log", format="parquet").to_table(["model"])
    assert Counter(logged["model"].to_pylist()) == {m: 3 * n for m, n in by_model.items()}


def test_a_champion_that_does_not_fit_is_told_of_once_and_the_old_model_goes_on(
    lab: Lab, put_in_use: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.service import Options, Service

    put_in_use(lab.dull)
    told: list[str] = []
    options = Options(
        artifacts=lab.artifacts, repo=lab.root / "feature_repo", stands_at=AT, log=False
    )
    service = Service(options, told.append)
    try:
        manifest = lab.artifacts / lab.good / "manifest.json"
        fits = manifest.read_text()
        wind = '"name": "wind_mph",\n      "dtype": "Float64"'
        assert wind in fits
        manifest.write_text(fits.replace(wind, wind.replace("Float64", "Int64")))
        put_in_use(lab.good)
        for _ in range(3):
            service.refresh()
        assert service.bundle.id == lab.dull
        (line,) = [line for line in told if "goes on answering" in line]
        assert "origin_weather.wind_mph: Int64 in training, Float64 now" in line
    finally:
        service.close()


def test_a_service_that_was_given_a_run_stays_with_it(
    lab: Lab, put_in_use: Callable[[str], None]
) -> None:
    from serving.service import Options, Service

    put_in_use(lab.dull)
    given = lab.artifacts / lab.good
    repo = lab.root / "feature_repo"
    service = Service(
        Options(given, artifacts=lab.artifacts, repo=repo, stands_at=AT, log=False), print
    )
    try:
        service.refresh()
        assert service.bundle.id == lab.good
    finally:
        service.close()
