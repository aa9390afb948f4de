"""The end of the demo: the service runs, answers for real flights, and is compared with training.

    python -m serving.demo --at 2013-12-30T15:00:00Z

Starts the service as a process of its own on a free port, scores the flights to be predicted in
the hour from T over HTTP, and stops it. Not a test of the service: that is `tests/serving/`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hindcast.errors import HindcastError, MissingInputError
from serving.__main__ import instant
from training.console import PLAIN_HELP, console, run, step

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(add_completion=False, context_settings=PLAIN_HELP)

FARTHEST = 1e-6
AT_ONCE = 500
SECONDS_TO_STOP = 30.0


class DemoError(HindcastError):
    """The service did not start, did not answer, or answered something else than training."""


@app.command()
def main(
    at: Annotated[str, typer.Option(help="T, an ISO time with its zone.")],
    run_dir: Annotated[
        Path | None,
        typer.Option(
            "--run", help="The training run whose model answers (default: the one in use)."
        ),
    ] = None,
    rows: Annotated[int, typer.Option(help="Flights to print.", min=1)] = 8,
) -> None:
    """Score the flights of the hour from T over HTTP, and compare with training.

    Exits with 1 if the service does not answer or a probability is not that of training.
    """
    when = instant(at)
    from hindcast import champion
    from serving import explained
    from training.score import QuietHourError, score

    run_dir = run_dir or champion.in_use(Path("artifacts"))
    with step("Every test row, in the form that serves") as tell:
        farthest = apart_on_test_rows(run_dir, tell)
    try:
        with step("The same hour, as training scores it"):
            flights, _, threshold, zone = score(run_dir, when)
    except QuietHourError as quiet:
        console.print(f"Nothing to ask the service for: {quiet}")
        refuse(0.0, farthest)
        return
    with step("The service") as tell, running(run_dir, at) as (address, stop):
        results = ask(address, flights)
        tell(f"{len(results)} flights over HTTP at {address}")
        stop()
    with step("Reasons and cost of serving, for the report") as tell:
        asked = [request_of(row) for _, row in flights.iterrows()]
        measured = explained.cost(run_dir, when, asked)
        ends = [(flights.iloc[i], results[i]) for i in dict.fromkeys((0, len(flights) - 1))]
        examples = [explained.example(row, answer, zone) for row, answer in ends]
        explained.write(run_dir, examples, measured, threshold)
        tell(f"1,000 predictions: {measured.in_lists:.2g} CPU seconds in lists")
    flights["served"] = [result["probability"] for result in results]
    flights["why"] = [strongest(result["reasons"]["top"]) for result in results]
    show(flights.head(rows), threshold)
    apart = float((flights["served"] - flights["p"]).abs().max())
    console.print(
        f"All {len(flights)} probabilities are those of training's own scoring "
        f"(at most {apart:.1g} apart)."
        if apart <= FARTHEST
        else f"[red]Probabilities are up to {apart:.2g} apart from training's own scoring.[/red]"
    )
    console.print(
        "\nLook for yourself: the page of the day's flights, and the API at /docs\n"
        f"    python -m serving --at {at}\n"
        "    http://127.0.0.1:8000"
    )
    refuse(apart, farthest)


def refuse(apart: float, farthest: float) -> None:
    """Raise DemoError if a probability is not that of training."""
    if apart > FARTHEST or farthest > FARTHEST:
        raise DemoError(
            f"probabilities differ from training's: {apart:.2g} over HTTP, "
            f"{farthest:.2g} on the test rows; expected at most {FARTHEST:g}. Is the online "
            "store materialized up to T? Otherwise train again with `python -m training`"
        )


def apart_on_test_rows(run_dir: Path, tell: Callable[[str], None]) -> float:
    """How far the scores of the form that serves are from those that training wrote down.

    Left out, and told, where the run's snapshot was pruned: a champion outlives it by far.
    """
    from serving import bundle, equality

    loaded = bundle.load(run_dir)
    try:
        equal = equality.compare(loaded, run_dir)
    except MissingInputError as pruned:
        tell(f"left out: {pruned}")
        return 0.0
    tell(
        f"{equal.rows:,} rows, {equal.identical:,} equal bit for bit to training's, "
        f"the farthest {equal.farthest:.1g} apart"
    )
    return equal.farthest


@contextmanager
def running(run_dir: Path, at: str) -> Iterator[tuple[str, Any]]:
    """The service in a process of its own: its address, and a function that stops it."""
    command = [sys.executable, "-m", "serving", "--port", "0", "--at", at, "--run", str(run_dir)]
    service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def stop() -> None:
        service.terminate()
        code = service.wait(SECONDS_TO_STOP)
        if code:
            raise DemoError(f"the service ended with exit code {code}, not 0, when it was stopped")

    try:
        assert service.stdout is not None
        said = service.stdout.readline()
        address = next((word for word in said.split() if word.startswith("http://")), None)
        if address is None:
            raise DemoError(
                "the service did not start; the lines above say why. Run it by itself: "
                f"`{' '.join(['python', *command[1:]])}`"
            )
        yield address, stop
    finally:
        if service.poll() is None:
            service.kill()
        service.wait()


def ask(address: str, flights: pd.DataFrame) -> list[dict[str, Any]]:
    """The service's answers for flights of the spine, with reasons, in their order.

    Raises:
        DemoError: it refused, or could not score one of them.
    """
    answers: list[dict[str, Any]] = []
    for first in range(0, len(flights), AT_ONCE):
        rows = [request_of(row) for _, row in flights.iloc[first : first + AT_ONCE].iterrows()]
        body = json.dumps({"flights": rows, "reasons": True}).encode()
        try:
            with urllib.request.urlopen(f"{address}/v1/score", body, timeout=60) as answer:
                answers += json.load(answer)["results"]
        except urllib.error.HTTPError as refused:
            raise DemoError(f"the service refused: {json.load(refused)['error']}") from None
        except OSError as fault:
            raise DemoError(f"the service does not answer at {address}: {fault}") from None
    errors = [answer["error"] for answer in answers if "error" in answer]
    if errors:
        raise DemoError(f"{len(errors)} flights have no score; the first: {errors[0]['message']}")
    return answers


def request_of(row: Any) -> dict[str, Any]:
    """A row of the spine as a request has it; the service finds distance and duration itself."""
    return {
        "carrier": row["carrier"],
        "flight": int(row["flight"]),
        "origin": row["origin"],
        "dest": row["dest"],
        "tailnum": row["tailnum"],
        "sched_dep_at": row["sched_dep_at"].isoformat(),
    }


def strongest(reasons: list[dict[str, Any]]) -> str:
    """The reason that counts most."""
    first = reasons[0]
    return f"{'▲' if first['effect'] == 'raises' else '▼'} {first['text']}"


def show(flights: pd.DataFrame, threshold: float) -> None:
    """The flights as a table."""
    from rich.table import Table

    table = Table(title="The riskiest flights of the hour", title_justify="left")
    for column in ("flight", "route", "P(late)", "", "what counts most"):
        table.add_column(column, justify="right" if column == "P(late)" else "left")
    for _, row in flights.iterrows():
        table.add_row(
            f"{row['carrier']} {row['flight']}",
            f"{row['origin']} → {row['dest']}",
            f"{row['served']:.2f}",
            "[bold]flag[/bold]" if row["served"] >= threshold else "",
            row["why"],
        )
    console.print(table)


if __name__ == "__main__":
    run(app)
