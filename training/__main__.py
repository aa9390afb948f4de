"""Train and judge the model of late arrivals.

    python -m training                                             # train, write artifacts/<run>/
    python -m training --leaves 15 --leaves 31 --leaves 63         # choose among more models
    python -m training --reproduce artifacts/latest/manifest.json  # the same again, bit for bit
    python -m training.score --at 2013-12-30T15:00Z                # the next hour, online store
    python -m training.leaks                                       # what cheating would have shown

This file is the command line only; `run` tells the story.
"""

import inspect
import time
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from training import summary
from training.console import PLAIN_HELP, console, run
from training.settings import Settings

app = typer.Typer(add_completion=False, context_settings=PLAIN_HELP)


def main(
    context: typer.Context,
    reproduce: Annotated[
        Path | None,
        typer.Option(
            help="Instead of training: make the run of this manifest.json again, with its "
            "settings and its snapshot, and exit 1 unless it is equal bit for bit.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    **settings: Any,
) -> None:
    """Train a model on features as they were known, judge it on days it has not seen, report.

    Reads features from Feast (after `dbt build` and `feast -c feature_repo apply`). Writes
    artifacts/<run>/: model.skops, metrics.json, report.html, model_card.md, manifest.json and
    predictions.parquet; artifacts/latest is the newest run.
    """
    given = [n for n in settings if context.get_parameter_source(n).name == "COMMANDLINE"]  # type: ignore[union-attr]
    if reproduce and given:
        raise typer.BadParameter(
            f"--reproduce takes all settings from the manifest; drop {', '.join(given)}"
        )
    try:
        chosen = Settings.from_dict(settings)
    except ValueError as fault:
        raise typer.BadParameter(str(fault)) from None

    started = time.perf_counter()
    from training import run as story  # only now: --help should not wait for scikit-learn

    if reproduce:
        raise typer.Exit(0 if story.reproduce(reproduce) else 1)
    summary.show(story.train(chosen))
    console.print(f"In {time.perf_counter() - started:.0f} s.")


def options() -> list[inspect.Parameter]:
    """One command-line option per setting, with its default and its reason."""
    found = []
    for each in fields(Settings):
        default: Any = each.default
        kind: Any = each.type
        if isinstance(default, tuple):
            kind, default = list[type(default[0])], list(default)  # type: ignore[misc]
        help_ = typer.Option(help=each.metadata["why"], rich_help_panel="Settings")
        found.append(
            inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[kind, help_],
            )
        )
    return found


own = list(inspect.signature(main).parameters.values())[:-1]
main.__signature__ = inspect.Signature([*own, *options()])  # type: ignore[attr-defined]
main.__annotations__.update({option.name: option.annotation for option in options()})
app.command()(main)

if __name__ == "__main__":
    run(app)
