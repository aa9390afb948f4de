"""The figures of a training run on the console.

    python -m training.summary                      # of the model in use
    python -m training.summary --run artifacts/<run>

Not for computing anything: it reads the metrics.json that the run wrote.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from hindcast import champion
from hindcast.errors import MissingInputError
from training.console import PLAIN_HELP, console, run

app = typer.Typer(add_completion=False, context_settings=PLAIN_HELP)


@app.command()
def main(
    run_dir: Annotated[
        Path | None,
        typer.Option("--run", help="The folder of the run (default: the one in use)."),
    ] = None,
) -> None:
    """Print a run's figures against the baselines, with intervals, and what it saves."""
    show(run_dir or champion.in_use(Path("artifacts")))


def show(run_dir: Path) -> None:
    """The figures against the baselines, what flagging is worth, and where the report is.

    Raises:
        MissingInputError: there is no such run.
    """
    from rich.table import Table

    file = run_dir / "metrics.json"
    if not file.exists():
        raise MissingInputError(f"no run in {run_dir}; run `python -m training`")
    metrics = json.loads(file.read_text())
    table = Table(
        title=f"{metrics['test_flights']:,} test flights, {metrics['test_days']} days; "
        "below each figure its 95 % interval",
        title_justify="left",
    )
    table.add_column("")
    for name in metrics["metrics"]:
        table.add_column(name, justify="right", style="bold" if name == "model" else None)
    for metric in metrics["metrics"]["model"]:
        figures = [each[metric] for each in metrics["metrics"].values()]
        table.add_row(
            metrics["titles"][metric],
            *(f"{e['value']:.4f}\n[dim]{e['low']:.3f}-{e['high']:.3f}[/dim]" for e in figures),
        )
    console.print(table)
    decision = metrics["decisions"]["model"]
    console.print(
        f"Flagging from {decision['threshold']:.2f} on: "
        f"of 100 flagged {100 * decision['precision']['value']:.0f} were late; "
        f"{100 * decision['recall']['value']:.0f} % of the late were found; "
        f"saved per 1,000 flights {decision['saved_per_1000']['value']:,.0f}, which is "
        f"{metrics['saved_more']['carrier x hour']['value']:,.0f} more than the lookup table saves."
    )
    console.print(f"Report: [bold]{run_dir / 'report.html'}[/bold]")


if __name__ == "__main__":
    run(app)
