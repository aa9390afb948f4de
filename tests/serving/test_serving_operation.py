"""How the service starts, refuses to, gets into trouble and out of it, logs and ends."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from feast import FeatureStore, Field, RequestSource
from feast.feature_logging import FeatureServiceLoggingSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64
from serving_client import FLIGHT, HOUR, Client, running, until
from training_project import STANDS_AT, publish
from typer.testing import CliRunner

from hindcast import parity
from hindcast.errors import MissingInputError
from serving import __main__, answers, requests, service
from serving.bundle import Bundle, MisfitError, load
from serving.server import ListenError, listen
from serving.service import Service

ROOT = Path(__file__).parents[2]
LOG_SCHEMA = {
    "origin_weather__wind_mph": pa.float64(),
    "origin_weather__wind_mph__timestamp": pa.timestamp("us", "UTC"),
    "origin_weather__wind_mph__status": pa.int32(),
    "origin_weather__observed_at": pa.timestamp("us", "UTC"),
    "flight_calendar__flight_distance_mi": pa.float64(),
    "origin": pa.string(),
    "flight": pa.int64(),
    "predict_at": pa.timestamp("us", "UTC"),
    "score": pa.float64(),
    "model": pa.string(),
    "snapshot": pa.string(),
    "__request_id": pa.string(),
    "__log_timestamp": pa.timestamp("us", "UTC"),
}


# --- starting -----------------------------------------------------------------------------------


def test_a_bundle_that_the_features_do_not_fit_is_refused_with_every_difference(
    bundle: Bundle, client: Client
) -> None:
    reader = client.service.scorer.reader
    assert bundle.differences(reader) == []
    changed = [
        replace(column, **{"wind_mph": {"dtype": "Int64"}, "sky": {"view": "moon"}}[column.name])
        if column.name in ("wind_mph", "sky")
        else replace(column, name="gusts")
        if column.name == "reports"
        else column
        for column in bundle.columns
    ]
    other = replace(bundle, columns=(*changed, replace(changed[0], name="crew", view="keys")))
    with pytest.raises(MisfitError) as refused:
        other.refuse_misfit(reader)
    assert refused.value.differences == [
        "crew: a key in training, but no request has it",
        "origin_weather.wind_mph: Int64 in training, Float64 now",
        "sky: of moon in training, of origin_weather now",
        "origin_weather.gusts (Int64): not served any more",
    ]
    assert "hindcast retrain" in str(refused.value)


def test_a_service_does_not_start_on_changed_features(
    on_copy: Callable[..., Service], copy: Path
) -> None:
    change_type(copy, Int64)
    with pytest.raises(MisfitError, match="wind_mph: Float64 in training, Int64 now"):
        on_copy()


def change_type(root: Path, dtype: Any) -> None:
    """Register wind_mph with another type."""
    store = FeatureStore(repo_path=str(root / "feature_repo"))
    view = store.get_feature_view("origin_weather")
    view.features = [
        Field(name=f.name, dtype=dtype if f.name == "wind_mph" else f.dtype) for f in view.features
    ]
    served = store.get_feature_service("late_arrival")
    for projection in served.feature_view_projections:
        if projection.name == "origin_weather":
            projection.features = view.features
    store.apply([view, served])


@pytest.mark.parametrize("lost", ["model.skops", "manifest.json", "metrics.json", "model_card.md"])
def test_an_incomplete_bundle_is_refused(run_dir: Path, tmp_path: Path, lost: str) -> None:
    shutil.copytree(run_dir, tmp_path / "run")
    (tmp_path / "run" / lost).unlink()
    with pytest.raises(MissingInputError, match="python -m training"):
        load(tmp_path / "run")


def test_a_bundle_of_before_the_manifest_said_all_is_refused(run_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(run_dir, tmp_path / "run")
    manifest = json.loads((run_dir / "manifest.json").read_text())
    del manifest["horizon_min"]
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MissingInputError, match="horizon_min"):
        load(tmp_path / "run")


# --- trouble, and the way out --------------------------------------------------------------------


def test_it_is_ready_until_features_are_older_than_their_ttl(start: Callable[..., Service]) -> None:
    ttl = timedelta(hours=6)
    with running(start(stands_at=STANDS_AT + ttl)) as on_time:
        assert on_time.get("/readyz").json == {"status": "ready", "reasons": []}
    with running(start(stands_at=STANDS_AT + ttl + timedelta(seconds=1))) as late:
        answer = late.get("/readyz")
        assert answer.status == 503
        (reason,) = answer.json["reasons"]
        assert "origin_weather stands at 2013-12-20T15:00:00+00:00" in reason
        assert "TTL is 6:00:00" in reason
        assert late.get("/healthz").status == 200


def test_a_store_that_goes_away_is_told_within_a_second_and_found_again(
    on_copy: Callable[..., Service], copy: Path
) -> None:
    with running(on_copy()) as client:
        before = client.result(FLIGHT)
        store = copy / "data" / "online"
        store.rename(copy / "data" / "gone")
        time.sleep(1)
        answer = client.score(FLIGHT)
        assert (answer.status, answer.code) == (503, "store_unavailable")
        assert answer.headers["Retry-After"] == "1"
        assert "/" not in answer.json["error"]["message"]
        assert client.get("/readyz").status == 503
        assert client.get("/healthz").status == 200
        (copy / "data" / "gone").rename(store)
        until(lambda: client.get("/readyz").status == 200, 5)
        assert client.result(FLIGHT) == before


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """Starts a real Redis, on one port each time; what was started is stopped at the end."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    started: list[subprocess.Popen[bytes]] = []

    def begin() -> Any:
        words = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
        made = subprocess.Popen([program, *words], stdout=subprocess.DEVNULL)
        started.append(made)
        until(lambda: reachable(port))
        made.url = f"redis://127.0.0.1:{port}/0"  # type: ignore[attr-defined]
        return made

    yield begin
    for made in started:
        made.kill()
        made.wait()


def reachable(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_redis_answers_as_lmdb_and_is_told_within_a_second_when_it_stops_or_hangs(
    on_copy: Callable[..., Service],
    copy: Path,
    client: Client,
    redis_server: Callable[[], Any],
) -> None:
    server = redis_server()
    config = copy / "feature_repo" / "feature_store.yaml"
    lines = config.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if "LmdbOnlineStore" in line)
    lines[at : at + 2] = [
        "    type: hindcast.online_store.RedisOnlineStore",
        f"    url: {server.url}",
    ]
    config.write_text("\n".join(lines) + "\n")

    def fill() -> None:
        store = FeatureStore(repo_path=str(copy / "feature_repo"))
        store.materialize(STANDS_AT - timedelta(days=1), STANDS_AT)

    def refused(redis: Client) -> str:
        began = time.monotonic()
        answer = redis.score(FLIGHT)
        assert answer.status == 503
        assert time.monotonic() - began < 1
        return answer.code

    asked = [FLIGHT | {"origin": origin} for origin in ("EWR", "JFK", "LGA", "XXX")]
    with running(on_copy()) as redis:
        assert refused(redis) == "store_unavailable"  # there is nothing in it yet
        fill()
        lmdb = client.score(asked, features=True, reasons=True).json
        assert redis.score(asked, features=True, reasons=True).json["results"] == lmdb["results"]
        server.send_signal(signal.SIGSTOP)
        assert refused(redis) == "store_unavailable"
        assert redis.get("/healthz").status == 200
        server.send_signal(signal.SIGCONT)
        until(lambda: redis.score(FLIGHT).status == 200)
        server.kill()
        server.wait()
        assert refused(redis) == "store_unavailable"
        assert redis.get("/readyz").status == 503
        redis_server()
        fill()
        until(lambda: redis.get("/readyz").status == 200)
        assert redis.score(asked, features=True, reasons=True).json["results"] == lmdb["results"]


def test_features_registered_anew_are_compared_with_the_model_while_it_runs(
    on_copy: Callable[..., Service], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "WATCH_EVERY", 0.1)
    with running(on_copy()) as client:
        before = client.result(FLIGHT)
        change_type(copy, Int64)
        until(lambda: client.get("/readyz").status == 503)
        assert client.get("/readyz").json["reasons"] == [
            "origin_weather.wind_mph: Float64 in training, Int64 now"
        ]
        answer = client.score(FLIGHT)
        assert (answer.status, answer.code) == (503, "model_does_not_fit")
        change_type(copy, Float64)
        until(lambda: client.get("/readyz").status == 200)
        assert client.result(FLIGHT) == before


def test_a_registry_that_loses_the_service_or_cannot_be_read_is_told_and_tried_again(
    on_copy: Callable[..., Service], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "WATCH_EVERY", 0.1)
    store = FeatureStore(repo_path=str(copy / "feature_repo"))
    registered, file = store.get_feature_service("late_arrival"), copy / "data" / "registry.db"
    with running(on_copy()) as client:

        def reasons() -> list[str]:
            until(lambda: client.get("/readyz").status == 503)
            answer = client.score(FLIGHT)
            assert (answer.status, answer.code) == (503, "model_does_not_fit")
            return list(client.get("/readyz").json["reasons"])

        before = client.result(FLIGHT)
        store.delete_feature_service("late_arrival")
        (reason,) = reasons()
        assert reason.startswith("Feast knows no feature service late_arrival")
        store.apply([registered])
        until(lambda: client.get("/readyz").status == 200)
        kept = file.read_bytes()
        file.write_bytes(b"no registry")
        assert reasons() == [service.UNREADABLE]
        file.write_bytes(kept)
        until(lambda: client.get("/readyz").status == 200)
        assert client.result(FLIGHT) == before


def test_a_feature_that_the_model_does_not_use_may_come_and_leave_under_load(
    on_copy: Callable[..., Service], copy: Path
) -> None:
    store = FeatureStore(repo_path=str(copy / "feature_repo"))
    source = RequestSource(name="block", schema=[Field(name="block_min", dtype=Float64)])

    @on_demand_feature_view(
        sources=[source], schema=[Field(name="block_h", dtype=Float64)], mode="pandas"
    )
    def flight_block(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"block_h": inputs["block_min"] / 60})

    store.apply([flight_block])
    served = store.get_feature_service("late_arrival")
    without = list(served.feature_view_projections)
    more = [*without, store.get_on_demand_feature_view("flight_block").projection]
    codes: list[int] = []
    with running(on_copy(log=True)) as client:
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                codes.append(client.score(FLIGHT).status)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            for projections in (more, without, more, without):
                served.feature_view_projections = projections
                store.apply([served])
                client.service.refresh()
                told = client.result(FLIGHT, features=True)["features"]
                codes.append(200)
                assert ("block_h" in told) == (projections is more)
        finally:
            done.set()
            asking.join()
    assert set(codes) == {200}
    logged = ds.dataset(copy / "data" / "log", format="parquet").to_table()
    assert logged.num_rows == codes.count(200)


def test_a_new_snapshot_brings_its_schedule_without_a_restart(
    on_copy: Callable[..., Service], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "WATCH_EVERY", 0.1)
    with running(on_copy()) as client:
        scorer = client.service.scorer
        old = scorer.schedule
        publish(copy, "second", seed=5)
        until(lambda: scorer.schedule.snapshot == "second")
        new = set(scorer.schedule.by_key) - set(old.by_key)
        flight = next(scorer.schedule.by_key[key] for key in new if key[4] > STANDS_AT)
        asked = FLIGHT | {"carrier": flight.carrier, "flight": flight.flight}
        asked |= {"origin": flight.origin, "dest": flight.dest}
        asked |= {"sched_dep_at": flight.sched_dep_at.isoformat(), "distance_mi": None}
        assert client.score(asked).status == 200


# --- the log -------------------------------------------------------------------------------------


@contextmanager
def process(root: Path, run_dir: Path, *words: str) -> Iterator[tuple[Client, Any]]:
    """The service as a process of its own, by its command line."""
    repo = root / "feature_repo"
    made = subprocess.Popen(
        [sys.executable, "-m", "serving", "--port", "0", "--run", run_dir, "--repo", repo, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert made.stdout is not None and made.stderr is not None
        said = made.stdout.readline()
        address = next((w for w in said.split() if w.startswith("http://")), None)
        assert address, made.stderr.read()
        yield Client(address, None), made  # type: ignore[arg-type]
    finally:
        made.kill()
        made.communicate()


def test_every_answer_is_in_the_log_after_a_sigterm_and_the_exit_code_is_0(
    copy: Path, run_dir: Path
) -> None:
    at = STANDS_AT.isoformat()
    with process(copy, run_dir, "--at", at) as (client, made):
        asked = [FLIGHT | {"flight": number} for number in range(1, 41)]
        alone = [client.score(flight).json for flight in asked[:20]]
        together = client.score([*asked[20:], FLIGHT | {"origin": None}], features=True).json
        made.send_signal(signal.SIGTERM)
        assert made.wait(20) == 0
    table = ds.dataset(copy / "data" / "log").to_table()
    rows = sorted(table.to_pylist(), key=lambda row: row["flight"])
    assert [row["flight"] for row in rows] == [flight["flight"] for flight in asked]
    results = [answer["results"][0] for answer in alone] + together["results"][:20]
    assert [row["score"] for row in rows] == [result["probability"] for result in results]
    ids = [answer["request_id"] for answer in alone] + [together["request_id"]] * 20
    assert [row["__request_id"] for row in rows] == ids
    last, features = rows[-1], together["results"][19]["features"]
    for name in ("wind_mph", "sky", "reports"):
        assert last[f"origin_weather__{name}"] == features[name]
    assert last["predict_at"] == datetime.fromisoformat(HOUR) - timedelta(hours=2)
    assert last["origin_weather__wind_mph__timestamp"] == STANDS_AT
    assert (last["tailnum"], last["distance_mi"], last["block_min"]) == ("N1", 200.0, 66.0)
    assert last["model"] == together["model"]
    assert {name: table.schema.field(name).type for name in LOG_SCHEMA} == LOG_SCHEMA


def test_the_log_is_what_feast_and_the_parity_check_read(
    on_copy: Callable[..., Service], copy: Path
) -> None:
    with running(on_copy(log=True)) as client:
        client.score([FLIGHT | {"origin": origin} for origin in ("EWR", "JFK", "XXX")])
    store = FeatureStore(repo_path=str(copy / "feature_repo"))
    source = FeatureServiceLoggingSource(store.get_feature_service("late_arrival"), store.project)
    logged = ds.dataset(copy / "data" / "log").schema
    assert set(source.get_schema(store.registry).names) <= set(logged.names)
    found = parity.compare_log(store, "late_arrival", None)
    assert found.at == (STANDS_AT, STANDS_AT)
    assert (found.rows, found.wrong, found.notes) == (3, 0, [])
    assert 0 < found.nulls < found.values


def test_nothing_is_answered_that_cannot_be_logged_and_nothing_logged_twice(
    on_copy: Callable[..., Service], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "MOST_WAITING", 10)
    monkeypatch.setattr(answers, "WRITE_AT", 5)
    monkeypatch.setattr(answers, "WAIT_FOR_ROOM", 0.2)
    (copy / "data" / "log").write_text("in the way")
    with running(on_copy(log=True)) as client:
        first = client.score([FLIGHT] * 10)
        assert first.status == 200
        until(lambda: client.get("/readyz").status == 503)
        assert client.get("/readyz").json["reasons"] == ["the log of answers cannot be written"]
        refused = client.score(FLIGHT)
        assert (refused.status, refused.code) == (503, "log_full")
        (copy / "data" / "log").unlink()
        until(lambda: client.get("/readyz").status == 200)
        assert client.score(FLIGHT).status == 200
        assert "hindcast_log_written_total 10.0" in client.get("/metrics").body.decode()
    assert ds.dataset(copy / "data" / "log").count_rows() == 11


def test_no_answer_is_given_once_its_log_is_closed(on_copy: Callable[..., Service]) -> None:
    closed = on_copy(log=True)
    asked = requests.decode(json.dumps({"flights": FLIGHT}).encode(), 1)
    closed.answer(asked, "before")
    assert closed.log is not None
    scored = closed.scorer.score(asked.flights, closed.scorer.reader)
    closed.close()
    with pytest.raises(answers.LogFullError, match="closed"):
        closed.answer(asked, "after")
    with pytest.raises(answers.LogFullError, match="closed"):
        closed.log.append(scored.answered, "after", STANDS_AT)
    assert (closed.log.written, closed.log.waiting) == (1, 0)


# --- the command line ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--help"], 0, "Ends on Ctrl-C or SIGTERM"),
        (["--at", "yesterday"], 2, "is not an ISO time"),
        (["--at", "2013-12-30T15:00"], 2, "has no zone"),
    ],
)
def test_a_wrong_call_exits_with_2_and_says_what_is_wrong(
    words: list[str], code: int, told: str
) -> None:
    done = CliRunner().invoke(__main__.app, words, env={"COLUMNS": "200"})
    assert done.exit_code == code
    assert told in " ".join(done.output.split())


def test_what_cannot_start_is_an_error_of_ours(run_dir: Path) -> None:
    def start(*words: str) -> None:
        CliRunner().invoke(__main__.app, ["--port", "0", *words], catch_exceptions=False)

    with pytest.raises(MissingInputError, match=r"no trained model in .*nowhere"):
        start("--run", "nowhere")
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(ListenError, match=f"port {port}: Address already in use"):
            start("--port", port, "--run", str(run_dir))
    with pytest.raises(ListenError, match="another --port"):
        start("--host", "192.0.2.1")
