"""What an hour of new records costs after months of history: `python -m benchmarks.increment`.

The hours are the same for all: those after a Wednesday afternoon in December. What differs is how
far back the feed goes. The shortest history is longer than all windows and than the month of a
published file, or filling those would pass for growth. Each is landed in a project copy of its
own and built once; then hour after hour is landed (not counted) and built as a tick of `hindcast
replay` builds: in one process that stays, as there, and as a plain command. Histories and ways take
turns, so that a noisy minute hits all alike; what counts is CPU seconds, by their median. A rebuild
of each history from nothing is measured beside that.

What was measured is kept in `data/benchmarks/increment`, and the same command goes on from there;
`--fresh` begins anew. Writes the plot and docs/benchmarks.md only with `--write`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
from rich.console import Console
from rich.table import Table

from benchmarks.measure import machine, markdown_table, write_section
from hindcast.config import load_config, utc_text
from hindcast.dbt import PROJECT_FILE
from hindcast.replay.commands import Inside
from hindcast.replay.room import Room

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "data" / "benchmarks" / "increment"
RUNS = FOLDER / "runs.jsonl"
PLOT = ROOT / "docs" / "images" / "increment.png"
AFTERNOON = datetime(2013, 12, 18, 15, tzinfo=UTC)
"""When the first measured hour begins."""
MONTH = timedelta(days=30.5)
SOURCES = ("flights", "weather")
"""Those that deliver every day."""
INSIDE, PLAIN, FULL = "in one process", "plain command", "full rebuild"


@dataclass(frozen=True)
class Run:
    """One build: its way, the history it was made on, what it took in, and what it cost."""

    months: int
    way: str
    command: str
    at: str
    history: int
    new: int
    cpu: float
    seconds: float


# --- one history ----------------------------------------------------------------------------


def work(months: int, command: str) -> None:
    """Build a history when told `way at`, line by line, and answer with what it cost."""
    room = Room(ROOT, load_config(ROOT), FOLDER / str(months))
    if not (room.project / PROJECT_FILE).exists():
        room.make()
    inside = Inside(room.project, room.folder / "log.txt")
    answers, sys.stdout = sys.stdout, sys.stderr
    plain = dict(os.environ)  # `Inside` makes its own quieter
    with inside.opened():
        for line in sys.stdin:
            way, at = line.strip().split(" at ")
            with (room.folder / "log.txt").open("a") as log:
                land = [sys.executable, "-m", "landing", "--until", at]
                subprocess.run(land, stdout=log, env=plain, check=True)
            _forget(room.project / "data" / "raw", AFTERNOON - months * MONTH)
            if way == FULL:
                inside.run("dbt seed")
            before, began = _cpu(), time.monotonic()
            if way == INSIDE:
                inside.run(command)
            else:
                whole = ["--full-refresh"] if way == FULL else []
                with (room.folder / "log.txt").open("a") as log:
                    words = [*command.split(), *whole]
                    subprocess.run(words, stdout=log, env=plain, check=True)
            cost = _cpu() - before, time.monotonic() - began
            counted = _counted(room.project / "data" / "warehouse.duckdb", at)
            print(json.dumps(asdict(Run(months, way, command, at, *counted, *cost))), file=answers)
            answers.flush()


def _forget(raw: Path, first: datetime) -> None:
    """Take away what was delivered before a day; what flights are looked up in stays."""
    for source in SOURCES:
        for file in (raw / source).glob("*.csv"):
            if file.stem.removeprefix(f"{source}_") < f"{first:%Y-%m-%d}":
                file.unlink()


def _cpu() -> float:
    """CPU seconds of this process and of those it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _counted(warehouse: Path, at: str) -> tuple[int, int]:
    """Records there are, and those loaded in the hour up to an instant."""
    counts = []
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        for source in SOURCES:
            found = connection.execute(
                f"select count(*), count(*) filter (_loaded_at > ?::timestamptz - interval 1 hour) "
                f"from staging.base_{source}",
                [at],
            ).fetchone()
            assert found is not None
            counts.append(found)
    return sum(all_ for all_, _ in counts), sum(new for _, new in counts)


# --- all of them ----------------------------------------------------------------------------


class Worker:
    """A process that keeps one history."""

    def __init__(self, months: int, command: str) -> None:
        """Start it."""
        words = [sys.executable, "-m", "benchmarks.increment", "--worker", str(months)]
        self.months = months
        self._process = subprocess.Popen(
            [*words, "--command", command],
            cwd=ROOT,
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(FOLDER / f"{months}.txt").open("w"),
            text=True,
        )

    def begin(self, way: str, at: datetime) -> None:
        """Have it land up to an instant, and build."""
        assert self._process.stdin
        self._process.stdin.write(f"{way} at {utc_text(at)}\n")
        self._process.stdin.flush()

    def built(self) -> Run:
        """Wait for what was begun. Raises RuntimeError if the process ends."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a build failed: see {FOLDER}/{self.months}.txt")
        return Run(**json.loads(line))

    def end(self) -> None:
        """Let it end."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def measure(histories: list[int], hours: int, command: str, console: Console) -> None:
    """Build each history once, all at a time, then so many hours each way, in turns."""
    workers = [Worker(months, command) for months in histories]
    try:
        new = [w for w in workers if not any(run.months == w.months for run in kept())]
        for worker in new:
            worker.begin(FULL, AFTERNOON)
        for worker in new:
            _keep(worker.built(), console)
        done = {(run.months, run.way, run.at) for run in kept() if run.command == command}
        warm = {worker.months: False for worker in workers}
        # the first hour of each way starts up, and is not counted
        for number in range(2 * hours + 2):
            way = (INSIDE, PLAIN)[number % 2]
            for worker in workers:
                at = AFTERNOON + timedelta(hours=number + 1)
                later = {
                    datetime.fromisoformat(run.at) for run in kept() if run.months == worker.months
                }
                if (worker.months, way, utc_text(at)) in done or max(later) > at:
                    continue
                worker.begin(way, at)
                run = worker.built()
                starts_up = number < 2 or (way == INSIDE and not warm[worker.months])
                warm[worker.months] |= way == INSIDE
                if not starts_up:
                    _keep(run, console)
    finally:
        for worker in workers:
            worker.end()


def kept() -> list[Run]:
    """What was measured so far."""
    return [Run(**json.loads(line)) for line in RUNS.open()] if RUNS.exists() else []


def _keep(run: Run, console: Console) -> None:
    with RUNS.open("a") as file:
        file.write(json.dumps(asdict(run)) + "\n")
    console.print(
        f"{run.months} months, {run.way}, {run.at}: {run.new:,} new of {run.history:,} records, "
        f"{run.cpu:.1f} CPU s, {run.seconds:.1f} s",
        highlight=False,
    )


# --- telling --------------------------------------------------------------------------------


def table(runs: list[Run]) -> list[list[str]]:
    """A row per history: medians, and of how many hours."""
    rows = [
        [
            "months of history",
            "records",
            "new in an hour",
            *(f"{way}: CPU s (wall)" for way in (INSIDE, PLAIN, FULL)),
            "hours",
        ]
    ]
    for months in sorted({run.months for run in runs}):
        mine = [run for run in runs if run.months == months]
        hourly = [run for run in mine if run.way != FULL]
        if not hourly:
            continue
        costs = []
        for way in (INSIDE, PLAIN, FULL):
            of_way = [run for run in mine if run.way == way]
            cpu, wall = (_median([getattr(r, name) for r in of_way]) for name in ("cpu", "seconds"))
            costs.append(f"{cpu:.1f} ({wall:.1f})")
        records, new = (
            _median([getattr(run, name) for run in hourly]) for name in ("history", "new")
        )
        counted = [sum(run.way == way for run in hourly) for way in (INSIDE, PLAIN)]
        rows.append(
            [str(months), f"{records:,.0f}", f"{new:,.0f}", *costs, " and ".join(map(str, counted))]
        )
    return rows


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else float("nan")


def plot(runs: list[Run], command: str) -> None:
    """CPU seconds against records of history, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.2, 4.4))
    for way, colour in ((FULL, "#999999"), (PLAIN, "#d98c21"), (INSIDE, "#1f6fb4")):
        mine = [run for run in runs if run.way == way]
        axis.plot([r.history for r in mine], [r.cpu for r in mine], ".", color=colour, alpha=0.4)
        points = [
            (_median([r.history for r in some]), _median([r.cpu for r in some]))
            for months in sorted({run.months for run in mine})
            for some in [[run for run in mine if run.months == months]]
        ]
        label = f"{way}, one hour" if way != FULL else way
        axis.plot(*zip(*points, strict=True), "o-", color=colour, linewidth=2, label=label)
    axis.set(xscale="log", yscale="log", xlabel="records of history", ylabel="CPU seconds")
    axis.set_title(f"{command}:\nwhat an hour of new records costs", loc="left", fontsize=11)
    thousands = [100, 200, 500, 1000, 2000]
    axis.set_xticks([1000 * n for n in thousands], [f"{n:,} thousand" for n in thousands])
    axis.xaxis.minorticks_off()
    ticks = [1, 2, 5, 10, 20, 50, 100, 200]
    axis.set_yticks(ticks, [str(tick) for tick in ticks])
    costs = [run.cpu for run in runs]
    axis.set_ylim(min(costs) * 0.6, max(costs) * 1.6)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figure.tight_layout()
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, dpi=110)


def markdown(runs: list[Run], command: str) -> str:
    """The section of docs/benchmarks.md."""
    lines = [
        "## An hour of new records",
        "",
        f"`python -m benchmarks.increment` on {machine()}: `{command}` of one hour of the feed, "
        "after so much history; medians of hours in turns. Starting up is not in the figures of "
        "one process, landing in none; a full rebuild is one run.",
        "",
        *markdown_table(table(runs)),
        "",
        "![CPU seconds of an increment against history](images/increment.png)",
    ]
    return "\n".join(lines)


def tick_builds() -> str:
    """How a tick of `hindcast replay` builds, by hindcast.yml."""
    replay = load_config(ROOT).replay
    assert replay is not None, "hindcast.yml has no `replay`"
    return next(step.run for step in replay.steps if step.name == "build")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.increment", description=__doc__)
    parser.add_argument("--months", default="2,6,12", help="histories (default 2,6,12)")
    parser.add_argument("--hours", type=int, default=4, help="hours of each way (default 4)")
    parser.add_argument("--command", help="what builds (default: the step `build` of a tick)")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured")
    parser.add_argument(
        "--write", action="store_true", help="write the plot and docs/benchmarks.md"
    )
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    command = options.command or tick_builds()
    if options.worker is not None:
        work(options.worker, command)
        return
    if options.fresh:
        shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    console = Console()
    measure([int(months) for months in options.months.split(",")], options.hours, command, console)
    runs = [run for run in kept() if run.command == command or run.way == FULL]
    head, *rows = table(runs)
    shown = Table(*head, title=f"{command}: an hour of new records")
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
    if options.write:
        plot(runs, command)
        write_section("increment", markdown(runs, command))


if __name__ == "__main__":
    main()
