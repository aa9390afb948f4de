"""The scoring service under load: `python -m benchmarks.serve [--full]`.

Against what most people would write: Feast's SDK on Feast's own SQLite store, scikit-learn's
`predict_proba` and FastAPI, each in its best setting (one thread); and against `feast serve`,
which answers with features alone. All run at once on the loopback and are asked in turns, by
1, 8 and 32 clients at a time, for single flights and batches of 100. The load generator shares
the machine with them: it sends bytes prepared before and reads no more of an answer than its
length.

Needs what `make demo` makes. By default about two minutes; `--full` asks longer and in more
turns. Writes to `docs/benchmarks.md` only with `--write`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.table import Table

from benchmarks.measure import machine, write_section

ROOT = Path(__file__).parents[1]
DATA = ROOT / "data" / "benchmarks" / "serve"
PLOT = ROOT / "docs" / "images" / "serve.png"
RUN = ROOT / "artifacts" / "latest"
OURS, OBVIOUS, FEAST = "Hindcast", "Feast SDK + scikit-learn", "feast serve (features only)"
CLIENTS, BATCH, SINGLE = (1, 8, 32), 100, 1
FLIGHTS = 400
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
KEYS = ("carrier", "flight", "origin", "dest", "tailnum")
REQUEST = ("predict_at", "sched_dep_at", "distance_mi", "block_min")

console = Console(highlight=False)


# --- the rivals -------------------------------------------------------------------------------


def prepare_stock(at: datetime) -> None:
    """Register everything in a repository with Feast's own SQLite store, and materialize it.

    Feast's store knows no TTL, so each view is filled with what is within its TTL at `at` only:
    then both answer with the same values.
    """
    from feast import FeatureStore

    ours = FeatureStore(repo_path=str(ROOT / "feature_repo"))
    registry = ROOT / "data" / "registry.db"
    mark = f"{os.path.realpath(ROOT / 'data/published/current')} {at} {registry.stat().st_mtime_ns}"
    if (DATA / "mark").exists() and (DATA / "mark").read_text() == mark:
        return
    shutil.rmtree(DATA, ignore_errors=True)
    DATA.mkdir(parents=True)
    offline = ours.config.offline_store
    (DATA / "feature_store.yaml").write_text(
        f"project: {ours.project}\n"
        "provider: local\n"
        f"registry: {DATA / 'registry.db'}\n"
        f"offline_store:\n    type: {offline.type}\n    published: {offline.published}\n"
        f"online_store:\n    type: sqlite\n    path: {DATA / 'online.db'}\n"
        "entity_key_serialization_version: 3\n"
        "materialization:\n    pull_latest_features: true\n"
    )
    stock = FeatureStore(repo_path=str(DATA))
    stock.config.repo_path = ROOT / "feature_repo"  # sources are relative to it
    views = ours.list_feature_views()
    stock.apply(
        [
            *ours.list_entities(),
            *views,
            *ours.list_on_demand_feature_views(),
            *ours.list_feature_services(),
        ]
    )
    for view in views:
        start = at - view.ttl if view.ttl else datetime(2012, 12, 1, tzinfo=UTC)
        stock.materialize(start, at, feature_views=[view.name])
    (DATA / "mark").write_text(mark)


def serve_obvious(port: int) -> None:
    """What most people would write, in one file."""
    import uvicorn
    from fastapi import FastAPI
    from feast import FeatureStore
    from pydantic import BaseModel
    from threadpoolctl import threadpool_limits

    from training import model

    class Flight(BaseModel):
        carrier: str
        flight: int
        origin: str
        dest: str
        tailnum: str | None
        sched_dep_at: datetime
        predict_at: datetime
        distance_mi: float
        block_min: float

    class Flights(BaseModel):
        flights: list[Flight]

    store = FeatureStore(repo_path=str(DATA))
    service = store.get_feature_service("late_arrival")
    scoring = model.load(RUN)
    app = FastAPI()

    # async: a pool of threads would only wait for one another
    async def score(body: Flights) -> dict[str, Any]:
        rows = [flight.model_dump() for flight in body.flights]
        frame = store.get_online_features(features=service, entity_rows=rows).to_df()
        p = scoring.predict_proba(frame)
        return {
            "results": [
                {"probability": float(one), "flag": bool(one >= scoring.threshold)} for one in p
            ]
        }

    # the annotations are names of this function, which FastAPI cannot look up as text
    score.__annotations__ = {"body": Flights, "return": dict[str, Any]}
    app.post("/score")(score)
    with threadpool_limits(1):
        uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


@dataclass(frozen=True)
class Rival:
    """A server: how it is started, where it is asked, and how flights are put to it."""

    name: str
    command: Callable[[int, str], list[str]]
    path: str
    body: Callable[[Sequence[dict[str, Any]]], Any]


def _stripped(flights: Sequence[dict[str, Any]]) -> Any:
    return {"flights": [{name: f[name] for name in (*KEYS, *REQUEST)} for f in flights]}


def _as_columns(flights: Sequence[dict[str, Any]]) -> Any:
    columns: dict[str, list[Any]] = {n: [f[n] for f in flights] for n in (*KEYS, *REQUEST)}
    return {"feature_service": "late_arrival", "entities": columns}


RIVALS = (
    Rival(
        OURS,
        lambda port, at: [sys.executable, "-m", "serving", "--port", str(port), "--at", at],
        "/v1/score",
        _stripped,
    ),
    Rival(
        OBVIOUS,
        lambda port, at: [sys.executable, "-m", "benchmarks.serve", "--obvious", str(port)],
        "/score",
        _stripped,
    ),
    Rival(
        FEAST,
        lambda port, at: [
            *(str(Path(sys.executable).with_name("feast")), "-c", str(DATA), "serve"),
            *("--host", "127.0.0.1", "--port", str(port), "--no-access-log"),
            *("--max-requests", "0"),  # or it starts anew after a thousand, and hangs up
        ],
        "/get-online-features",
        _as_columns,
    ),
)


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(rival: Rival, at: str, flights: Sequence[dict[str, Any]]) -> Iterator[int]:
    """A server that answers, on the port given out; stopped at the end."""
    port = free_port()
    log = DATA / f"{rival.path.strip('/').replace('/', '-')}.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            rival.command(port, at),
            cwd=ROOT,
            env=os.environ | ONE_THREAD | {"PYTHONWARNINGS": "ignore"},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + 90
        while True:
            try:
                ask(rival, port, flights[:1])
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"{rival.name} does not answer; see {log}") from None
                time.sleep(0.2)
        yield port
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def ask(rival: Rival, port: int, flights: Sequence[dict[str, Any]]) -> Any:
    """One answer, decoded."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{rival.path}",
        json.dumps(rival.body(flights)).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


# --- the load ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """How many requests were answered in how many seconds, and how long each took."""

    seconds: float
    took: list[float]

    @property
    def per_second(self) -> float:
        """Requests answered a second."""
        return len(self.took) / self.seconds

    def percentile(self, q: float) -> float:
        """Seconds within which a share of the requests was answered (nearest rank)."""
        ranked = sorted(self.took)
        return ranked[max(0, math.ceil(q * len(ranked)) - 1)]


class Caller(asyncio.Protocol):
    """One client: sends a request when the one before was answered, until the time is up."""

    def __init__(self, requests: Iterator[bytes], until: float, took: list[float]) -> None:
        """Send the next of `requests` each time; note the seconds in `took`."""
        self._requests, self._until, self._took = requests, until, took
        self._seen, self._head, self._length = 0, b"", 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._send()

    def _send(self) -> None:
        self._seen, self._head, self._length = 0, b"", 0
        self._began = time.perf_counter()
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        """Count the bytes of an answer; go on when it is whole."""
        self._seen += len(data)
        if not self._length:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            if not self._head.startswith(b"HTTP/1.1 200"):
                self._fail(f"refused: {self._head[:300]!r}")
                return
            at = self._head.lower().index(b"content-length:") + 15
            self._length = end + 4 + int(self._head[at : self._head.index(b"\r", at)])
        if self._seen < self._length:
            return
        now = time.perf_counter()
        self._took.append(now - self._began)
        if now < self._until:
            self._send()
        elif not self.done.done():
            self.done.set_result(None)
            self._transport.close()

    def connection_lost(self, fault: Exception | None) -> None:
        """The server hung up."""
        self._fail(f"the server hung up: {fault}")

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(why))


def itself(caller: Caller) -> Caller:
    """What asyncio wants of a factory."""
    return caller


async def _load(port: int, bodies: list[bytes], clients: int, seconds: float) -> Load:
    loop, took, callers = asyncio.get_running_loop(), list[float](), list[Caller]()
    began = time.perf_counter()
    for client in range(clients):
        start = client * 7 % len(bodies)  # not all the same at the same time
        caller = Caller(cycle(bodies[start:] + bodies[:start]), began + seconds, took)
        callers.append(caller)
        await loop.create_connection(partial(itself, caller), "127.0.0.1", port)
    await asyncio.wait_for(asyncio.gather(*(caller.done for caller in callers)), seconds + 60)
    return Load(time.perf_counter() - began, took)


def load(port: int, bodies: list[bytes], clients: int, seconds: float) -> Load:
    """Ask a server by some clients at once, for so many seconds."""
    import uvloop

    return uvloop.run(_load(port, bodies, clients, seconds))


def requests_of(rival: Rival, flights: Sequence[dict[str, Any]], rows: int) -> list[bytes]:
    """Whole HTTP requests, ready to be sent."""
    made = []
    for first in range(0, len(flights), rows):
        body = json.dumps(rival.body(flights[first : first + rows])).encode()
        head = (
            f"POST {rival.path} HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        made.append(head.encode() + body)
    return made


# --- the comparison ---------------------------------------------------------------------------

Cell = tuple[int, int]  # flights a request, clients
Results = dict[str, dict[Cell, list[Load]]]


def upcoming(at: datetime) -> list[dict[str, Any]]:
    """Flights of the published schedule that depart from two hours after `at` on, complete."""
    from feast import FeatureStore

    from hindcast.offline_store import query

    start = at + timedelta(hours=2)
    rows: list[dict[str, Any]] = query(
        FeatureStore(repo_path=str(ROOT / "feature_repo")).config,
        f"select {', '.join((*KEYS, *REQUEST))} from flight_spine "
        f"where sched_dep_at >= timestamptz '{start.isoformat()}' and tailnum is not null "
        f"order by sched_dep_at, flight_id limit {FLIGHTS}",
    ).to_pylist()
    for row in rows:
        row |= {name: row[name].isoformat() for name in ("predict_at", "sched_dep_at")}
    return rows


def unequal(ports: dict[str, int], flights: list[dict[str, Any]]) -> list[str]:
    """Where the rivals answer something else than we do; empty if they do not."""
    by_name = {rival.name: rival for rival in RIVALS}
    asked = flights[:BATCH]
    ours = ask(by_name[OURS], ports[OURS], asked)["results"]
    found = []
    if OBVIOUS in ports:
        theirs = ask(by_name[OBVIOUS], ports[OBVIOUS], asked)["results"]
        apart = max(
            abs(a["probability"] - b["probability"]) for a, b in zip(ours, theirs, strict=True)
        )
        if not apart <= 1e-6:
            found.append(f"{OBVIOUS}: probabilities up to {apart:.2g} apart")
    if FEAST in ports:
        answer = ask(by_name[FEAST], ports[FEAST], asked)
        names = answer["metadata"]["feature_names"]
        served = {
            name: result["values"] for name, result in zip(names, answer["results"], strict=True)
        }
        body = _stripped(asked) | {"features": True}
        rival = Rival("", by_name[OURS].command, "/v1/score", lambda _: body)
        full = ask(rival, ports[OURS], asked)["results"]
        for name in (n for n in served if n in full[0]["features"] and not n.endswith("_at")):
            for i, row in enumerate(full):
                mine, other = row["features"][name], served[name][i]
                if mine != other and not (mine is None and str(other) == "nan"):
                    found.append(f"{FEAST}: {name} of flight {i}: {other}, not {mine}")
                    break
    return found


def measure(
    ports: dict[str, int], flights: list[dict[str, Any]], seconds: float, turns: int
) -> Results:
    """Ask all servers in turns."""
    results: Results = defaultdict(lambda: defaultdict(list))
    bodies = {
        (rival.name, rows): requests_of(rival, flights, rows)
        for rival in RIVALS
        for rows in (SINGLE, BATCH)
    }
    with console.status("") as status:
        for name, port in ports.items():
            load(port, bodies[name, SINGLE], 2, 0.5)  # warm
        for turn in range(turns):
            for rows in (SINGLE, BATCH):
                for clients in CLIENTS:
                    for name, port in ports.items():
                        status.update(f"turn {turn + 1}: {clients} clients, {rows} each, {name}")
                        found = load(port, bodies[name, rows], clients, seconds)
                        results[name][rows, clients].append(found)
    return results


def middle(loads: list[Load], figure: Callable[[Load], float]) -> float:
    """The median over the turns."""
    return statistics.median(figure(one) for one in loads)


def table(results: Results) -> list[list[str]]:
    """Head and rows: what is asked, then each server's figures, then ratios to the obvious."""
    head = ["flights", "clients"]
    for name in results:
        head += [f"{name}: requests/s", "p50 ms", "p99 ms"]
    if OBVIOUS in results:
        head += ["requests/s, times", "p99, share"]
    rows = [head]
    for cell in results[OURS]:
        row = [str(cell[0]), str(cell[1])]
        for of in results.values():
            row += [
                f"{middle(of[cell], lambda one: one.per_second):,.0f}",
                f"{1000 * middle(of[cell], lambda one: one.percentile(0.5)):,.1f}",
                f"{1000 * middle(of[cell], lambda one: one.percentile(0.99)):,.1f}",
            ]
        if OBVIOUS in results:
            mine, theirs = results[OURS][cell], results[OBVIOUS][cell]
            times = middle(mine, lambda o: o.per_second) / middle(theirs, lambda o: o.per_second)
            share = middle(mine, lambda o: o.percentile(0.99)) / middle(
                theirs, lambda o: o.percentile(0.99)
            )
            row += [f"{times:.1f}", f"{share:.3f}"]
        rows.append(row)
    return rows


def plot(results: Results) -> None:
    """Requests a second, and the slowest of a hundred, by clients."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 7), sharex=True)
    quantities = (
        ("requests a second", lambda one: one.per_second),
        ("p99, ms", lambda one: 1000 * one.percentile(0.99)),
    )
    for row, (label, quantity) in zip(axes, quantities, strict=True):
        for axis, rows in zip(row, (SINGLE, BATCH), strict=True):
            for name, of in results.items():
                values = [middle(of[rows, clients], quantity) for clients in CLIENTS]
                style = {"linewidth": 3, "color": "black"} if name == OURS else {}
                axis.plot(CLIENTS, values, "o-", label=name, **style)
            axis.set(xscale="log", yscale="log", ylabel=label)
            axis.set_xticks(CLIENTS, [str(clients) for clients in CLIENTS])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
    axes[0][0].set_title("one flight a request")
    axes[0][1].set_title(f"{BATCH} flights a request")
    for axis in axes[1]:
        axis.set_xlabel("clients at a time")
    axes[0][0].legend()
    figure.tight_layout()
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, dpi=110)


def markdown(results: Results, seconds: float, turns: int) -> str:
    """The page."""
    head, *rows = table(results)
    return "\n".join(
        [
            "## Serving",
            "",
            f"`python -m benchmarks.serve --write` on {machine()}. One run, servers asked "
            f"in turns, {turns} times {seconds:g} s each; medians. The load generator runs on the "
            "same cores. Hindcast logs every answer meanwhile. Probabilities of the first two are "
            "equal (checked), and so are the features of all.",
            "",
            f"| {' | '.join(head)} |",
            f"|{'---:|' * len(head)}",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            "![Requests a second and p99 by clients](images/serve.png)",
            "",
        ]
    )


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("--full", action="store_true", help="3 turns of 3 s instead of 1 of 2 s")
    parser.add_argument("--turns", type=int, help="turns, whatever else is said")
    parser.add_argument("--at", default="2013-12-30T15:00:00Z", help="the instant served")
    parser.add_argument("--without-feast-serve", action="store_true", help="leave it out")
    parser.add_argument("--write", action="store_true", help="write the docs page and the plot")
    parser.add_argument("--obvious", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.obvious:
        serve_obvious(options.obvious)
        return
    seconds, turns = (3.0, 3) if options.full else (2.0, 1)
    turns = options.turns or turns
    at = datetime.fromisoformat(options.at)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the servers are stopped then too
    console.print(machine())
    with console.status("filling Feast's own store"):
        prepare_stock(at)
    flights = upcoming(at)
    with ExitStack() as stack:
        ports = {
            rival.name: stack.enter_context(running(rival, options.at, flights))
            for rival in RIVALS
            if not (options.without_feast_serve and rival.name == FEAST)
        }
        faults = unequal(ports, flights)
        for fault in faults:
            console.print(f"[red]{fault}[/red]")
        if not faults:
            console.print("All answers are equal.")
        results = measure(ports, flights, seconds, turns)
    head, *rows = table(results)
    shown = Table(*head)
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
    if options.write:
        plot(results)
        write_section("serve", markdown(results, seconds, turns))
        console.print(f"Written: docs/benchmarks.md and {PLOT.relative_to(ROOT)}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
