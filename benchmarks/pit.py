"""Point-in-time joins compared: `python -m benchmarks.pit [--standard | --full]`.

Hindcast's store, Feast's own `duckdb` and `dask` stores, pandas `merge_asof`, polars `join_asof`
and a floor (read the same bytes and hash-join once) answer the same question on the same Parquet
files. Each runs in a fresh process, in turns; imports are not counted. By default small (a few
minutes); `--standard` is the grid of `docs/benchmarks.md`, `--full` goes to 100 million rows.

Needs the extra `dev` (polars). Writes to `docs/benchmarks.md` only with `--write`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.measure import machine, markdown_table, used, write_section

DATA = Path(__file__).parents[1] / "data" / "benchmarks" / "pit"
PLOT = Path(__file__).parents[1] / "docs" / "images" / "pit.png"
RESULTS = DATA / "results.json"
"""What was measured last for each cell and method; a run renews the cells it measures."""
OURS, OURS_TYPE = "Hindcast", "hindcast.offline_store.DuckDBOfflineStore"
LIMIT = os.environ.get("PIT_MEMORY_LIMIT")
"""DuckDB's memory limit for our store, for example 3GB."""
CPU_LIMIT = 100
"""Seconds after which a method is stopped."""


@dataclass(frozen=True)
class Cell:
    """One question: so many history rows, entities and spine rows, and what makes it harder."""

    history: int
    entities: int
    spine: int
    views: int = 1
    created: bool = True
    ttl_days: int = 0
    skewed: bool = False
    order: str = "time"

    @property
    def label(self) -> str:
        """For tables."""
        more = [f"{self.views} views"] * (self.views > 1)
        more += [f"TTL {self.ttl_days} days"] * bool(self.ttl_days)
        more += ["skewed"] * self.skewed + ["no created time"] * (not self.created)
        more += [] if self.order == "time" else [f"sorted by {self.order}"]
        return " x ".join(map(short, (self.history, self.spine))) + "".join(f", {m}" for m in more)


def short(number: int) -> str:
    """1000000 -> 1M."""
    for size, letter in ((10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number // size}{letter}"
    return str(number)


ONE, TEN, HUNDRED = 10**6, 10**7, 10**8
SMALL = [Cell(1_000, 100, 10), Cell(ONE, 10_000, 10_000), Cell(ONE, 10_000, 100_000)]
MIDDLE = Cell(TEN, 50_000, 100_000)
STANDARD = [
    *SMALL,
    MIDDLE,
    replace(MIDDLE, order="key"),
    replace(MIDDLE, created=False),
    replace(MIDDLE, ttl_days=7),
    replace(MIDDLE, views=4),
    replace(MIDDLE, skewed=True),
    Cell(TEN, 50_000, ONE),
    Cell(TEN, 50_000, ONE, order="key"),
    Cell(TEN, 50_000, ONE, created=False),
]
FULL = [*STANDARD, Cell(HUNDRED, 50_000, 100_000), Cell(HUNDRED, 50_000, ONE)]


# --- the data -----------------------------------------------------------------------------


def history_file(cell: Cell, view: int = 0) -> Path:
    """Feature rows over one year, loaded up to two hours after they happened.

    Each view has a file of its own name, so that nobody reads one file for all.
    """
    name = f"{short(cell.history)}_{short(cell.entities)}_{cell.order}"
    return DATA / f"{name}{'_skewed' * cell.skewed}{f'_view{view}' * bool(view)}.parquet"


def spine_file(cell: Cell) -> Path:
    """Predictions over the same year."""
    name = f"{short(cell.spine)}_{short(cell.entities)}"
    return DATA / f"spine_{name}{'_skewed' * cell.skewed}.parquet"


def make_data(cell: Cell) -> None:
    """Write the files of a cell, unless they are there."""
    import duckdb

    DATA.mkdir(parents=True, exist_ok=True)
    # skewed: a tenth of the entities has about three quarters of the rows
    entity = f"floor({cell.entities} * power(random(), {8 if cell.skewed else 1}))::bigint"
    at = f"make_timestamptz(1356998400000000 + (random() * {365 * 86_400_000_000})::bigint)"
    order = {"time": "event_timestamp", "key": "entity_id, event_timestamp, created"}[cell.order]
    with duckdb.connect(config={"memory_limit": "6GB"}) as connection:
        connection.execute("set timezone = 'UTC'; select setseed(0.5)")
        if not history_file(cell).exists():
            connection.execute(f"""
                copy (
                    select
                        entity_id,
                        event_timestamp,
                        event_timestamp + to_seconds((hash(f1) % 7200)::int) as created,
                        f1, f2, f3, f4
                    from (
                        select
                            {entity} as entity_id, {at} as event_timestamp, random() as f1,
                            random() as f2, (random() * 1000)::bigint as f3, random() as f4
                        from range({cell.history})
                    )
                    order by {order}
                ) to '{history_file(cell)}.tmp' (format parquet)
            """)
            Path(f"{history_file(cell)}.tmp").rename(history_file(cell))
        for view in range(1, cell.views):
            if not history_file(cell, view).exists():
                history_file(cell, view).hardlink_to(history_file(cell))
        if not spine_file(cell).exists():
            connection.execute("select setseed(0.25)")  # other times than history's
            connection.execute(f"""
                copy (
                    select {entity} as entity_id, {at} as event_timestamp, i as label
                    from range({cell.spine}) as spine(i)
                ) to '{spine_file(cell)}' (format parquet)
            """)


# --- the methods --------------------------------------------------------------------------
# Each returns a function that does the work, with everything imported, and gives the sum of f1.


def floor(cell: Cell) -> Callable[[], float]:
    """No answer: every byte is read once, and joined once to as many rows as the spine has."""
    import duckdb

    def run() -> float:
        with duckdb.connect() as connection:
            features = ", ".join(f"h{v}.f{n}" for v in range(cell.views) for n in range(1, 5))
            joins = " ".join(
                f"left join read_parquet('{history_file(cell, v)}') as h{v} "
                f"on h{v}.file_row_number = spine.place and h{v}.entity_id >= 0 "
                f"and h{v}.event_timestamp is not null "
                f"{f'and h{v}.created is not null' * cell.created}"
                for v in range(cell.views)
            )
            table = connection.execute(
                f"with spine as (select *, row_number() over () * {cell.history // cell.spine} - 1 "
                f"as place from read_parquet('{spine_file(cell)}')) "
                f"select spine.*, {features} from spine {joins}"
            ).to_arrow_table()
        return float(table.num_rows)

    return run


def feast(type_: str) -> Callable[[Cell], Callable[[], float]]:
    """A Feast offline store, asked as Feast asks it."""

    def method(cell: Cell) -> Callable[[], float]:
        import pandas as pd
        from feast import Entity, FeatureStore, FeatureView, Field, FileSource
        from feast.infra.offline_stores.offline_utils import get_offline_store_from_config
        from feast.repo_config import RepoConfig
        from feast.types import Float64, Int64
        from feast.value_type import ValueType

        config = RepoConfig(
            project="pit",
            provider="local",
            registry=str(DATA / "registry.db"),
            online_store=None,
            offline_store={"type": type_}
            | ({"memory_limit": LIMIT} if LIMIT and type_ == OURS_TYPE else {}),
            entity_key_serialization_version=3,
        )
        config.repo_path = DATA
        store = get_offline_store_from_config(config.offline_store)
        registry = FeatureStore(config=config).registry
        entity = Entity(name="entity", join_keys=["entity_id"], value_type=ValueType.INT64)
        kinds = {"f1": Float64, "f2": Float64, "f3": Int64, "f4": Float64}
        views = [
            FeatureView(
                name=f"view_{number}",
                entities=[entity],
                schema=[Field(name="entity_id", dtype=Int64)]
                + [Field(name=name, dtype=kind) for name, kind in kinds.items()],
                source=FileSource(
                    path=str(history_file(cell, number)),
                    timestamp_field="event_timestamp",
                    created_timestamp_column="created" if cell.created else "",
                ),
                ttl=timedelta(days=cell.ttl_days),
            )
            for number in range(cell.views)
        ]
        spine = pd.read_parquet(spine_file(cell))
        refs = [f"{view.name}:{name}" for view in views for name in kinds]

        def run() -> float:
            job = store.get_historical_features(
                config, views, refs, spine, registry, "pit", full_feature_names=True
            )
            import pyarrow.compute as pc

            return float(pc.sum(job.to_arrow()["view_0__f1"]).as_py())

        return run

    return method


def merge_asof(cell: Cell) -> Callable[[], float]:
    """pandas, sorted as it needs it; one merge for each view."""
    import pandas as pd

    columns = ["entity_id", "event_timestamp", *["created"] * cell.created, "f1", "f2", "f3", "f4"]

    def run() -> float:
        spine = pd.read_parquet(spine_file(cell)).reset_index()
        result = spine.sort_values("event_timestamp")
        for view in range(cell.views):
            history = pd.read_parquet(history_file(cell, view), columns=columns)
            by = ["event_timestamp", "created"] if cell.created else ["event_timestamp"]
            history = history.sort_values(by).rename(
                columns={f"f{n}": f"view_{view}__f{n}" for n in range(1, 5)}
            )
            if cell.created:
                history = history.drop(columns="created")
            result = pd.merge_asof(
                result,
                history,
                on="event_timestamp",
                by="entity_id",
                tolerance=pd.Timedelta(days=cell.ttl_days) if cell.ttl_days else None,
            )
        return float(result.sort_values("index")["view_0__f1"].sum())

    return run


def join_asof(cell: Cell) -> Callable[[], float]:
    """polars: lazy, with only the columns it needs, sorted as it needs it."""
    import polars as pl

    by = ["event_timestamp", "created"] if cell.created else ["event_timestamp"]

    def run() -> float:
        result = pl.scan_parquet(spine_file(cell)).with_row_index("place").sort("event_timestamp")
        for view in range(cell.views):
            history = (
                pl.scan_parquet(history_file(cell, view))
                .select("entity_id", *by, "f1", "f2", "f3", "f4")
                .sort(by)
                .drop("created", strict=False)
                .rename({f"f{n}": f"view_{view}__f{n}" for n in range(1, 5)})
            )
            result = result.join_asof(
                history,
                on="event_timestamp",
                by="entity_id",
                strategy="backward",
                tolerance=timedelta(days=cell.ttl_days) if cell.ttl_days else None,
                check_sortedness=False,
            )
        return float(result.sort("place").collect()["view_0__f1"].sum())

    return run


METHODS: dict[str, Callable[[Cell], Callable[[], float]]] = {
    OURS: feast(OURS_TYPE),
    "floor": floor,
    "polars join_asof": join_asof,
    "pandas merge_asof": merge_asof,
    "Feast duckdb": feast("duckdb"),
    "Feast dask": feast("dask"),
}


# --- measuring ----------------------------------------------------------------------------


def measure_here(method: str, cell: Cell) -> None:
    """Run one method on one cell in this process and print what it used as JSON."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT + 30, CPU_LIMIT + 30))
    run = METHODS[method](cell)
    with used() as usage:
        answer = run()
    print(json.dumps({"cpu": usage.cpu, "megabytes": usage.megabytes, "answer": answer}))


def measure(method: str, cell: Cell) -> dict[str, float] | str:
    """Run one method on one cell in a fresh process; what it used, or how it ended."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.pit", "--one", method]
    done = subprocess.run(
        [*command, json.dumps(asdict(cell))], capture_output=True, text=True, check=False
    )
    if done.returncode < 0:
        return f"stopped at {CPU_LIMIT} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["failed"])[-1]
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


@dataclass
class Result:
    """One method on one cell: medians, or how it ended."""

    cpu: float = math.nan
    megabytes: float = math.nan
    answer: float = math.nan
    ended: str = ""

    @classmethod
    def of(cls, runs: list[dict[str, float] | str]) -> Result:
        """Medians of the runs."""
        good = [run for run in runs if not isinstance(run, str)]
        if not good:
            return cls(ended=str(runs[0]))
        return cls(
            cpu=statistics.median(run["cpu"] for run in good),
            megabytes=statistics.median(run["megabytes"] for run in good),
            answer=good[0]["answer"],
        )


def measure_all(
    cells: list[Cell], methods: list[str], repeats: int
) -> dict[Cell, dict[str, Result]]:
    """Every method on every cell, `repeats` times in turns. What takes over 10 s runs once."""
    results = {}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(cells) * repeats * len(methods))
        for cell in cells:
            progress.update(task, description=f"data for {cell.label}")
            make_data(cell)
            runs: dict[str, list[dict[str, float] | str]] = {method: [] for method in methods}
            for _ in range(repeats):
                for method in methods:
                    progress.update(task, description=f"{cell.label}: {method}")
                    last = runs[method][-1] if runs[method] else None
                    slow = isinstance(last, str) or (last is not None and last["cpu"] > 10)
                    if not slow:
                        runs[method].append(measure(method, cell))
                    progress.advance(task)
            results[cell] = {method: Result.of(found) for method, found in runs.items()}
    return results


def remembered(results: dict[Cell, dict[str, Result]]) -> dict[Cell, dict[str, Result]]:
    """The results of this run, and of earlier ones for the cells of the grid that it left out."""
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for cell, row in results.items():
        stored.setdefault(cell.label, {}).update({m: asdict(found) for m, found in row.items()})
    RESULTS.write_text(json.dumps(stored, indent=2))
    return {
        cell: {method: Result(**found) for method, found in stored[cell.label].items()}
        for cell in FULL
        if cell.label in stored
    }


# --- telling ------------------------------------------------------------------------------


def table(results: dict[Cell, dict[str, Result]], methods: list[str]) -> list[list[str]]:
    """For each cell and method: CPU seconds, memory, and both as multiples of ours."""
    rows = [["history x spine", *methods]]
    for cell, row in results.items():
        ours = row[OURS]
        cells = [cell.label]
        for method in methods:
            found = row.get(method, Result(ended="not run"))
            if found.ended:
                cells.append(found.ended[:60])
                continue
            text = f"{found.cpu:.2f} s, {found.megabytes:,.0f} MB"
            if method != OURS:
                text += f" ({found.cpu / ours.cpu:.1f}x"
                if ours.megabytes >= 1:  # less is nothing to compare with
                    text += f", {found.megabytes / ours.megabytes:.1f}x"
                text += ")"
                wrong = not math.isclose(found.answer, ours.answer, rel_tol=1e-9)
                text += " **other answer**" if wrong and method != "floor" else ""
            cells.append(text)
        rows.append(cells)
    return rows


def growth(results: dict[Cell, dict[str, Result]]) -> list[str]:
    """How our CPU seconds grow with history, for spines that were joined to several sizes."""
    lines = []
    plain = {
        (c.history, c.spine): r[OURS].cpu
        for c, r in results.items()
        if c == Cell(c.history, c.entities, c.spine)
    }
    for spine in sorted({spine for _, spine in plain}):
        sizes = sorted(history for history, of in plain if of == spine)
        if len(sizes) > 1:
            first, last = sizes[0], sizes[-1]
            ratio = plain[last, spine] / plain[first, spine]
            exponent = math.log(ratio) / math.log(last / first)
            lines.append(
                f"- spine of {short(spine)}: from {short(first)} to {short(last)} feature rows "
                f"{ratio:.1f} times the CPU seconds, growth n^{exponent:.2f}"
            )
    return lines


def plot(results: dict[Cell, dict[str, Result]], methods: list[str]) -> None:
    """CPU seconds against history, both logarithmic, for a spine of 100k."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    plain = {c.history: r for c, r in results.items() if c == Cell(c.history, c.entities, 100_000)}
    for axis, quantity, name in zip(
        axes, ("cpu", "megabytes"), ("CPU seconds", "peak memory, MB"), strict=True
    ):
        for method in methods:
            points = [
                (h, getattr(r[method], quantity)) for h, r in sorted(plain.items()) if method in r
            ]
            style = {"linewidth": 3, "color": "black"} if method == OURS else {}
            axis.plot(*zip(*points, strict=True), "o-", label=method, **style)
        axis.set(xscale="log", yscale="log", xlabel="feature rows", ylabel=name)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    figure.suptitle("100,000 predictions joined to their features")
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, dpi=110)


def markdown(results: dict[Cell, dict[str, Result]], methods: list[str]) -> str:
    """The section of docs/benchmarks.md."""
    lines = [
        "## Point-in-time joins",
        "",
        f"`python -m benchmarks.pit --full` on {machine()}: medians of three runs in turns (what "
        "takes over 10 s: one run). CPU seconds and peak memory of one retrieval; in brackets how "
        "many times ours. The floor answers nothing: it reads the same bytes and joins once. "
        f"What passes {CPU_LIMIT} CPU seconds is stopped.",
        "",
        *markdown_table(table(results, methods)),
        "",
        *growth(results),
        "",
        "![CPU seconds and memory against history](images/pit.png)",
    ]
    return "\n".join(lines)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pit", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--standard", action="store_true", help="the grid of docs/benchmarks.md")
    size.add_argument("--full", action="store_true", help="up to 100 million feature rows")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each (default 3)")
    parser.add_argument("--only", default="", help="only cells whose label has this text")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated")
    parser.add_argument(
        "--write", action="store_true", help="write docs/benchmarks.md and the plot"
    )
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "CELL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure_here(options.one[0], Cell(**json.loads(options.one[1])))
        return
    methods = [OURS, *(m for m in options.methods.split(",") if m != OURS)]
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        parser.error(f"unknown methods {', '.join(unknown)}; there are {', '.join(METHODS)}")
    cells = FULL if options.full else STANDARD if options.standard else SMALL
    cells = [cell for cell in cells if options.only in f"{cell.label}."]
    if not cells:
        parser.error(f"no cell is called {options.only!r}")
    results = measure_all(cells, methods, options.repeats)
    head, *rows = table(results, methods)
    shown = Table(*head)
    for row in rows:
        shown.add_row(*row)
    console = Console()
    console.print(shown)
    console.print("\n".join(growth(results)))
    if options.write:
        whole = remembered(results)
        plot(whole, list(METHODS))
        write_section("pit", markdown(whole, list(METHODS)))
        console.print("Written: docs/benchmarks.md and docs/images/pit.png")


if __name__ == "__main__":
    main()
