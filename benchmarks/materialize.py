"""Filling and reading online stores compared: `python -m benchmarks.materialize [--full]`.

Feast's own SQLite and Redis stores against Hindcast's LMDB and Redis stores, filled by plain
`store.materialize` from the same Parquet file and read by the client each has; and a floor: the
same bytes straight into the engine, and out of it again. Each runs in a fresh process, in turns;
imports are not counted. CPU is the client's; a Redis server's own is not in it. `--full` goes to a
million entities, which takes Feast's stores minutes and gigabytes.

Needs the extra `dev` and `redis-server`. Writes to `docs/benchmarks.md` only with `--write`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.measure import machine, markdown_table, used, write_section
from benchmarks.pit import short

DATA = Path(__file__).parents[1] / "data" / "benchmarks" / "materialize"
PLOT = Path(__file__).parents[1] / "docs" / "images" / "materialize.png"
AT = datetime(2013, 12, 30, tzinfo=UTC)
READS = {1: 300, 100: 60, 1000: 12}
"""Entities of one read, and how many reads are timed."""
SECONDS = 1500
"""After which a method is stopped."""

OURS, THEIRS = "hindcast.online_store.", "feast"
STORES = {
    "Hindcast, LMDB": "{type: hindcast.online_store.LmdbOnlineStore, path: online}",
    "Hindcast, Redis": "{type: hindcast.online_store.RedisOnlineStore, url: '{redis}'}",
    "Feast, SQLite": "{type: sqlite, path: online.db}",
    "Feast, Redis": "{type: redis, connection_string: '{address}'}",
}
FLOORS = ("floor, LMDB", "floor, Redis", "floor, SQLite")
METHODS = (*STORES, *FLOORS)


@dataclass
class Result:
    """CPU seconds, peak MB and file MB of filling; CPU ms of a read by its number of entities."""

    cpu: float = math.nan
    megabytes: float = math.nan
    file_mb: float = math.nan
    reads: dict[str, float] = field(default_factory=dict)
    answer: str = ""
    ended: str = ""


# --- what is measured, in a process of its own ---------------------------------------------


def history(entities: int, features: int) -> Path:
    """A Parquet file of one row an entity: floats, a tenth of them NULL, an integer, a text."""
    import duckdb

    file = DATA / f"{entities}-{features}.parquet"
    if not file.exists():
        DATA.mkdir(parents=True, exist_ok=True)
        floats = ", ".join(
            f"case when hash(i * {n} + 1) % 10 > 0 then (hash(i + {n}) % 1000000) / 7 end as f{n}"
            for n in range(features - 2)
        )
        duckdb.sql(
            f"copy (select 'N' || i as key, timestamptz '2013-12-29 00:00:00+00' as known_at, "
            f"{floats}, (2 ** 60)::bigint + i as f{features - 2}, 'text ' || i % 100 as "
            f"f{features - 1} from range({entities}) rows(i) order by hash(i)) to '{file}'"
        )
    return file


def repository(root: Path, method: str, file: Path, features: int, redis: str) -> Any:
    """A Feast repository of one view over the file, applied."""
    from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource
    from feast.types import Float64, Int64, String

    root.mkdir(parents=True)
    online = STORES[method].replace("{redis}", redis).replace("{address}", redis[8:-2])
    engine = "{type: hindcast.compute_engine.ArrowEngine}" if OURS in online else "local"
    (root / "feature_store.yaml").write_text(
        "project: bench\nprovider: local\nregistry: registry.db\n"
        "offline_store: {type: hindcast.offline_store.DuckDBOfflineStore}\n"
        f"online_store: {online}\nbatch_engine: {engine}\n"
        "materialization: {pull_latest_features: true}\nentity_key_serialization_version: 3\n"
    )
    kinds = [Float64] * (features - 2) + [Int64, String]
    key = Entity(name="key", join_keys=["key"])
    view = FeatureView(
        name="view",
        entities=[key],
        ttl=timedelta(days=7),
        schema=[
            Field(name="key", dtype=String),
            *(Field(name=f"f{n}", dtype=kind) for n, kind in enumerate(kinds)),
        ],
        source=FileSource(path=str(file), timestamp_field="known_at"),
    )
    store = FeatureStore(repo_path=str(root))
    store.apply([key, view, FeatureService(name="all", features=[view])])
    return store


def measure_here(method: str, entities: int, features: int, redis: str) -> None:
    """Fill and read in this process, and print the result as JSON."""
    file, root = history(entities, features), DATA / "repository"
    shutil.rmtree(root, ignore_errors=True)
    keys = [f"N{(n * 7919) % entities}" for n in range(max(READS))]
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        if method in FLOORS:
            fill, read = floor(method, file, root, redis)
        else:
            store = repository(root, method, file, features, redis)
            store._get_provider()  # imports
            fill, read = through_feast(method, store)
        with used() as usage:
            fill()
        reads = {str(number): timed(read, keys[:number], READS[number]) for number in READS}
        answer = json.dumps(read(keys[:3]), sort_keys=True)
    size = sum(f.stat().st_blocks * 512 for f in root.rglob("*") if f.is_file()) / 1e6
    print(json.dumps(asdict(Result(usage.cpu, usage.megabytes, size, reads, answer))))


def timed(read: Callable[[list[str]], Any], keys: list[str], times: int) -> float:
    """The median CPU milliseconds of a read."""
    read(keys)
    taken = []
    for _ in range(times):
        before = time.process_time()
        read(keys)
        taken.append(time.process_time() - before)
    return statistics.median(taken) * 1000


def through_feast(method: str, store: Any) -> tuple[Callable[[], Any], Callable[[list[str]], Any]]:
    """Filling by `materialize`; reading by our reader or, of Feast's stores, by Feast."""

    def fill() -> None:
        store.materialize(AT - timedelta(days=7), AT)

    service = store.get_feature_service("all")
    if OURS not in str(store.config.online_store.type):
        return fill, lambda keys: {
            name: values
            for name, values in store.get_online_features(service, {"key": keys}).to_dict().items()
            if name != "key"
        }
    from hindcast.online import OnlineReader

    reader = OnlineReader(store, "all")
    return fill, lambda keys: reader.read({"key": keys}).values


def floor(
    method: str, file: Path, root: Path, redis: str
) -> tuple[Callable[[], Any], Callable[[list[str]], Any]]:
    """DuckDB to Arrow to one packed row per entity to the engine, and back as JSON's values."""
    import duckdb
    import msgspec

    encode, decode = msgspec.msgpack.encode, msgspec.msgpack.decode
    names = [f"f{n}" for n in range(len(duckdb.sql(f"from '{file}'").columns) - 2)]

    def batches() -> Iterator[dict[bytes, bytes]]:
        answer = duckdb.execute(f"select * exclude known_at from '{file}'")
        for batch in answer.to_arrow_reader(20_000):
            key, *columns = [column.to_pylist() for column in batch.columns]
            yield {
                k.encode(): encode(row)
                for k, row in zip(key, zip(*columns, strict=True), strict=True)
            }

    def answer(rows: list[Any]) -> dict[str, list[Any]]:
        columns = zip(*(decode(row) for row in rows), strict=True)
        return {name: list(column) for name, column in zip(names, columns, strict=True)}

    if method == "floor, LMDB":
        import lmdb

        root.mkdir(parents=True)
        environment = lmdb.open(str(root), map_size=2**36)

        def fill() -> None:
            with environment.begin(write=True) as transaction:
                for rows in batches():
                    transaction.cursor().putmulti(sorted(rows.items()))

        def read(keys: list[str]) -> Any:
            with environment.begin() as transaction:
                found: Any = dict(transaction.cursor().getmulti([k.encode() for k in keys]))
            return answer([found[key.encode()] for key in keys])

        return fill, read

    if method == "floor, SQLite":
        import sqlite3

        root.mkdir(parents=True)
        connection = sqlite3.connect(root / "rows.db", isolation_level=None)
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = normal")
        connection.execute("create table rows (key blob primary key, row blob) without rowid")

        def fill_sqlite() -> None:
            connection.execute("begin")
            for rows in batches():
                connection.executemany("replace into rows values (?, ?)", sorted(rows.items()))
            connection.execute("commit")

        def read_sqlite(keys: list[str]) -> Any:
            marks = ", ".join("?" * len(keys))
            wanted = [key.encode() for key in keys]
            found = dict(
                connection.execute(f"select key, row from rows where key in ({marks})", wanted)
            )
            return answer([found[key] for key in wanted])

        return fill_sqlite, read_sqlite

    from redis import Redis

    client: Any = Redis.from_url(redis)

    def fill_redis() -> None:
        for rows in batches():
            with client.pipeline(transaction=False) as pipeline:
                pipeline.hset("floor", mapping=rows)
                pipeline.execute()

    return fill_redis, lambda keys: answer(client.hmget("floor", keys))


# --- running --------------------------------------------------------------------------------


@contextmanager
def redis_server() -> Iterator[str]:
    """The URL of an empty Redis server on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", ""]
    server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.kill()
        server.wait()


def measure(method: str, entities: int, features: int) -> Result:
    """Measure a method in a fresh process, with a fresh Redis."""
    with redis_server() as url:
        one = [method, str(entities), str(features), url]
        command = [sys.executable, "-m", "benchmarks.materialize", "--one", *one]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return Result(ended=f"stopped at {SECONDS} s")
    if done.returncode:
        return Result(ended=done.stderr.strip().splitlines()[-1])
    return Result(**json.loads(done.stdout))


def medians(runs: list[Result]) -> Result:
    """The median of every figure; what ended badly once is told as such."""
    for run in runs:
        if run.ended:
            return run
    return Result(
        statistics.median(run.cpu for run in runs),
        statistics.median(run.megabytes for run in runs),
        statistics.median(run.file_mb for run in runs),
        {number: statistics.median(run.reads[number] for run in runs) for number in runs[0].reads},
        runs[0].answer,
    )


Results = dict[tuple[int, int], dict[str, Result]]


def measure_all(cells: list[tuple[int, int]], methods: list[str], repeats: int) -> Results:
    """Every method on every cell, in turns."""
    results: Results = {}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("measuring", total=len(cells) * len(methods) * repeats)
        for cell in cells:
            runs: dict[str, list[Result]] = {method: [] for method in methods}
            for _ in range(repeats):
                for method in methods:
                    progress.update(task, description=f"{short(cell[0])} x {cell[1]}: {method}")
                    if not any(run.ended for run in runs[method]):
                        runs[method].append(measure(method, *cell))
                    progress.advance(task)
            results[cell] = {method: medians(found) for method, found in runs.items()}
    return results


# --- telling --------------------------------------------------------------------------------


def rival_of(method: str) -> str | None:
    """The store of ours that a method is compared with."""
    if method.startswith("Hindcast"):
        return None
    return "Hindcast, Redis" if "Redis" in method else "Hindcast, LMDB"


def table(results: Results) -> list[list[str]]:
    """For each cell and method: filling, file, reads; in brackets multiples of ours."""
    head = ["entities x features", "store", "fill: CPU, peak memory", "file"]
    rows = [[*head, *(f"read {number}" for number in READS)]]
    for (entities, features), methods in results.items():
        for method, found in methods.items():
            label = f"{short(entities)} x {features}"
            if found.ended:
                rows.append([label, method, found.ended[:60], "", *[""] * len(READS)])
                continue
            ours = methods.get(rival_of(method) or "")

            def against(value: float, of: float | None, form: str) -> str:
                text = f"{value:{form}}"
                return text if of is None else f"{text} ({value / of:.1f}x)"

            wrong = ours is not None and found.answer != ours.answer
            cpu, memory = (ours.cpu, ours.megabytes) if ours else (None, None)
            fill = f"{against(found.cpu, cpu, '.2f')} s, "
            fill += f"{against(found.megabytes, memory, ',.0f')} MB"
            reads = [
                f"{against(found.reads[str(n)], ours.reads[str(n)] if ours else None, '.3f')} ms"
                for n in READS
            ]
            size = f"{found.file_mb:,.0f} MB" if "Redis" not in method else ""
            rows.append([label, method + " **other answer**" * wrong, fill, size, *reads])
    return rows


def plot(results: Results) -> None:
    """CPU seconds and memory of filling against entities, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4.4))
    cells = sorted(cell for cell in results if cell[1] == 10)
    for axis, quantity, name in zip(
        axes, ("cpu", "megabytes"), ("fill: CPU seconds", "fill: peak memory, MB"), strict=False
    ):
        for method in METHODS:
            points = [
                (cell[0], getattr(results[cell][method], quantity))
                for cell in cells
                if method in results[cell] and not results[cell][method].ended
            ]
            if points:
                width = 3 if method.startswith("Hindcast") else 1
                axis.plot(*zip(*points, strict=True), "o-", label=method, linewidth=width)
        axis.set(xscale="log", yscale="log", xlabel="entities", ylabel=name)
        axis.grid(alpha=0.3)
    middle = results[cells[len(cells) // 2]]
    for method in METHODS:
        if method in middle and not middle[method].ended:
            points = [(n, middle[method].reads[str(n)]) for n in READS]
            width = 3 if method.startswith("Hindcast") else 1
            axes[2].plot(*zip(*points, strict=True), "o-", label=method, linewidth=width)
    axes[2].set(xscale="log", yscale="log", xlabel="entities of one read", ylabel="CPU ms")
    axes[2].grid(alpha=0.3)
    axes[2].legend()
    figure.tight_layout()
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, dpi=110)


def markdown(results: Results) -> str:
    """The section of docs/benchmarks.md."""
    lines = [
        "## Filling and reading the online store",
        "",
        f"`python -m benchmarks.materialize --full` on {machine()}: medians of runs in turns, each "
        "in a fresh process. Filling is `store.materialize`, reading is the median of one read of "
        "so many entities: by `OnlineReader` of Hindcast's stores, by `get_online_features` of "
        "Feast's. In brackets how many times Hindcast's on the same engine. The floor writes and "
        "reads the same bytes with no store around them. CPU is the client's.",
        "",
        *markdown_table(table(results)),
        "",
        "![Filling and reading online stores](images/materialize.png)",
    ]
    return "\n".join(lines)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.materialize", description=__doc__)
    parser.add_argument("--full", action="store_true", help="up to a million entities")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each (default 3)")
    parser.add_argument("--methods", default=";".join(METHODS), help="separated by semicolons")
    parser.add_argument("--write", action="store_true", help="write the docs page and the plot")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        method, entities, features, redis = options.one
        measure_here(method, int(entities), int(features), redis)
        return
    if shutil.which("redis-server") is None:
        parser.error("redis-server is not installed: apt-get install redis-server")
    methods = [method.strip() for method in options.methods.split(";")]
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        parser.error(f"unknown methods {'; '.join(unknown)}; there are {'; '.join(METHODS)}")
    results = measure_all([(10_000, 10), (100_000, 10)], methods, options.repeats)
    if options.full:
        results |= measure_all([(100_000, 50)], methods, 1)
        results |= measure_all([(1_000_000, 10)], methods, 1)
    head, *rows = table(results)
    shown = Table(*head)
    for row in rows:
        shown.add_row(*row)
    Console(width=200).print(shown)
    if options.write:
        plot(results)
        write_section("materialize", markdown(results))


if __name__ == "__main__":
    main()
