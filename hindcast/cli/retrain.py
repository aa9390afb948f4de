"""`hindcast retrain` and `hindcast rollback`: which model is in use, by a rule or by hand.

The work is done in `hindcast.retrain` and `hindcast.champion`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from hindcast.cli.app import At, Project, app, console, instant, refuses_politely
from hindcast.config import load_config
from hindcast.errors import HindcastError

if TYPE_CHECKING:
    from hindcast.compare import Comparison, Figure
    from hindcast.retrain import Outcome

Json = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")]


@app.command()
@refuses_politely
def retrain(
    project: Project = Path(),
    at: At = None,
    force: Annotated[
        bool, typer.Option("--force", help="Train a challenger even if none is due.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and train nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a challenger if one is due, and put it in use if it is better beyond noise.

    Only what was known at the instant is used. Champion and challenger are judged on the same
    days, which neither was trained on; the rule is `retrain` in hindcast.yml. Exit code 0 whatever
    was decided, 1 if it could not be.
    """
    config = load_config(project)
    when = instant(at, config)

    from hindcast import retrain as work  # pandas takes a moment

    progress = Console(stderr=True)
    outcome = work.retrain(
        project,
        config,
        when,
        force=force,
        dry_run=dry_run,
        tell=lambda text: progress.print(f"[dim]… {text}[/dim]", soft_wrap=True),
    )
    if as_json:
        print(json.dumps(outcome.as_dict()))
    else:
        _show(outcome)


@app.command()
@refuses_politely
def rollback(
    project: Project = Path(),
    at: At = None,
    to: Annotated[
        str | None, typer.Option(help="The run to go back to (default: the one before).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring back the model that was in use before, at once.

    The model in use now stays in the artifacts folder. One that does not fit the features any more
    is brought back all the same, and a note says so. Exit code 1 if there is none to go back to.
    """
    config = load_config(project)
    when = instant(at, config)

    from hindcast import champion, fit, tracking

    now = champion.roll_back(project, at=when, to=to, artifacts=config.artifacts)
    assert now.promotion is not None
    notes = [tracking.promoted(project, config, now.model.run, now.promotion.previous)]
    try:
        if lacks := fit.misfits(project, config, now.model.path):
            notes.append(
                f"it does not fit feature service {config.feature_service} ({'; '.join(lacks)}): "
                "a scoring service keeps the model it has and a new one does not start: bring the "
                "features back, or go on to another model"
            )
    except HindcastError as fault:
        notes.append(f"whether it fits the features could not be seen: {fault.message}")
    note = "; ".join(filter(None, notes)) or None
    if as_json:
        told = {
            "action": now.promotion.action,
            "champion": now.model.run,
            "previous": now.promotion.previous,
            "note": note,
        }
        print(json.dumps(told))
        return
    console.print(
        f"In use again: [bold]{now.model.run}[/], instead of {now.promotion.previous}.",
        soft_wrap=True,
    )
    if note:
        console.print(f"Note: {note}.", soft_wrap=True)


def _show(outcome: Outcome) -> None:
    if outcome.comparison is not None:
        _show_comparison(outcome.comparison)
    console.print(
        f"[bold]{outcome.action[0].upper()}{outcome.action[1:]}[/]: {outcome.reason}.",
        soft_wrap=True,
    )
    if outcome.champion:
        instead = f", instead of {outcome.previous}" if outcome.previous else ""
        lost = ""
        if outcome.challenger and outcome.challenger != outcome.champion:
            lost = f"; the challenger {outcome.challenger} is not"
        console.print(f"In use: {outcome.champion}{instead}{lost}.", soft_wrap=True)
    if outcome.note:
        console.print(f"Note: {outcome.note}.", soft_wrap=True)


def _show_comparison(comparison: Comparison) -> None:
    from hindcast.compare import METRICS

    table = Table(
        title=f"{comparison.first} to {comparison.last}: {comparison.rows:,} rows, "
        f"{comparison.days} days",
        title_justify="left",
    )
    table.add_column("")
    for name in ("champion", "challenger", "gain"):
        table.add_column(f"{name} [95 %]", justify="right")
    for metric, title in METRICS.items():
        figures = (comparison.champion, comparison.challenger, comparison.gain)
        table.add_row(title, *(_text(each[metric], metric) for each in figures))
    console.print(table)


def _text(figure: Figure, metric: str) -> str:
    if metric == "saved_per_1000":
        return f"{figure.value:,.0f}\n[dim]{figure.low:,.0f} to {figure.high:,.0f}[/dim]"
    return f"{figure.value:.4f}\n[dim]{figure.low:.4f} to {figure.high:.4f}[/dim]"
