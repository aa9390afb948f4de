"""What a leak looks like: the same model under the classic mistakes.

    python -m training.leaks

Prints and draws the honest figure beside the flattering ones. The models take fewer, larger
steps than those of `python -m training`, so that all of them run in two minutes; the honest
one is fitted the same way, so the comparison is fair. This file is the command line only; the
mistakes are in `mistakes`.
"""

from pathlib import Path
from typing import Annotated

import typer

from hindcast import champion
from training.console import PLAIN_HELP, console, run, step
from training.settings import Settings

app = typer.Typer(add_completion=False, context_settings=PLAIN_HELP)


@app.command()
def main(
    rounds: Annotated[int, typer.Option(help="Rounds of each model: few, to be quick.")] = 40,
    learning_rate: Annotated[float, typer.Option(help="Larger steps, to need few rounds.")] = 0.2,
    weather_view: Annotated[
        str, typer.Option(help="The feature view that is asked as of the wrong time.")
    ] = "origin_weather",
    repo: Annotated[str, typer.Option(help="The Feast repository.")] = "feature_repo",
    snapshot: Annotated[str, typer.Option(help="The published snapshot to read.")] = "current",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for leaks.json, leaks.png and leaks.html; a report.html in it gets the "
            "section. Left out: the run in use, or artifacts/leaks if nothing is trained yet."
        ),
    ] = None,
) -> None:
    """Show the honest figure beside the flattering figures of the classic mistakes."""
    settings = Settings().but(
        repo=repo,
        snapshot=snapshot,
        learning_rate=learning_rate,
        max_rounds=rounds,
        round_step=rounds,
    )
    compare(settings, weather_view, out or folder_in(Path(settings.artifacts)))


def folder_in(artifacts: Path) -> Path:
    """The run in use, whose report gets the section; a folder of its own where there is none."""
    used = champion.in_use(artifacts)
    return used if used.exists() else artifacts / "leaks"


def compare(settings: Settings, weather_view: str, folder: Path) -> None:
    """Make every mistake once, with `max_rounds` rounds each, and write what it shows."""
    from training import dataset, mistakes  # only now: --help should not wait for scikit-learn

    with step("Features from Feast, known and not") as tell:
        data = dataset.load(settings)
        weather = mistakes.weather_of_departure_hour(data, weather_view, settings)
        tell(f"{len(data.frame):,} flights, {len(data.columns)} features")
    results = mistakes.judge(mistakes.score_all(data, weather, settings), data, settings)
    mistakes.write(folder, results, settings)
    mistakes.show(results)
    console.print(f"{folder}/leaks.html, leaks.png and leaks.json")


if __name__ == "__main__":
    run(app)
