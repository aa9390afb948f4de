"""`hindcast status`: how the project stands. The work is done in `hindcast.status`."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hindcast.cli.app import At, Project, app, console, instant, refuses_politely
from hindcast.config import ProjectConfig, load_config, utc_text

if TYPE_CHECKING:
    from hindcast.status import Status

COLOURS = {
    "done": "green",
    "running": "cyan",
    "failed": "red",
    "killed": "red",
    "fresh": "green",
    "stale": "red",
    "unfilled": "red",
    "empty": "yellow",
    "ok": "green",
    "warn": "yellow",
    "fail": "red",
}


@app.command(name="status")
@refuses_politely
def status(
    project: Project = Path(),
    at: At = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show the last runs, the features' ages, verdicts, the model and the snapshot in use."""
    config = load_config(project)
    found = look(project, config, instant(at, config))
    if as_json:
        print(json.dumps(found.as_dict()))
    else:
        show(found, console)


def look(project: Path, config: ProjectConfig, at: datetime) -> Status:
    """How the project stands at an instant."""
    from hindcast import status as stand  # Feast takes seconds to start

    return stand.look(project, config, at)


def show(found: Status, to: Console) -> None:
    """Print how a project stands."""
    to.rule(f"[bold]status at {utc_text(found.at)}")
    _show_runs(found, to)
    _show_views(found, to)
    _show_verdicts(found, to)
    if found.model:
        made = f", made {_short(found.model.created_at)}" if found.model.created_at else ""
        same = found.snapshot and found.model.snapshot == found.snapshot.id
        of = "this snapshot" if same else f"snapshot {found.model.snapshot}"
        to.print(f"Model {escape(found.model.id)}{made}, trained on {of}.", highlight=False)
    if found.snapshot:
        to.print(
            f"Snapshot {found.snapshot.id}, made {_short(found.snapshot.created_at)}: "
            f"{len(found.snapshot.tables)} tables, {found.snapshot.row_count:,} rows.",
            highlight=False,
        )
    for note in found.notes:
        to.print(f"[yellow]{escape(note)}[/]", soft_wrap=True)


def _show_runs(found: Status, to: Console) -> None:
    if found.at_work:
        to.print(f"[cyan]Now {escape(str(found.at_work))}.[/]", soft_wrap=True)
    if not found.runs:
        to.print("No run yet: `hindcast run`.")
        return
    table = Table("run", "for", "begun", title="last runs", title_justify="left")
    table.add_column("took", justify="right")
    for name in ("steps", "outcome"):
        table.add_column(name)
    for run in found.runs:
        at_step = f" at {run.stopped_at}" if run.stopped_at else ""
        again = f", attempt {run.attempts}" if run.attempts > 1 else ""
        done = len({step.position for step in run.ran if step.is_done})
        of = "" if run.outcome == "done" else f" of {len(run.steps)}"  # some may be left out
        what = f"{done}{of}" if run.is_whole else ", ".join(run.steps)
        table.add_row(
            str(run.run_id),
            utc_text(run.at),
            _short(run.started_at),
            _seconds(run.seconds),
            what,
            f"[{COLOURS[run.outcome]}]{run.outcome}{at_step}{again}[/]",
        )
    to.print(table)


def _show_views(found: Status, to: Console) -> None:
    if not found.views:
        return
    table = Table("feature view", "newest row", title="features online", title_justify="left")
    for name in ("age", "TTL"):
        table.add_column(name, justify="right")
    table.add_column("")
    for view in found.views:
        table.add_row(
            view.view,
            utc_text(view.newest_at) if view.newest_at else "",
            _duration(view.age),
            _duration(view.ttl) if view.ttl else "unlimited",
            f"[{COLOURS[view.state]}]{view.state}[/]",
        )
    to.print(table)


def _show_verdicts(found: Status, to: Console) -> None:
    verdicts = found.verdicts
    if verdicts is None:
        return
    counts = ", ".join(
        f"[{COLOURS.get(name, 'white')}]{verdicts.counts[name]:,} {name}[/]"
        for name in ("ok", "warn", "fail", *sorted(verdicts.counts.keys() - {"ok", "warn", "fail"}))
        if name in verdicts.counts
    )
    of = f"of model {escape(verdicts.model)}"
    to.print(
        f"[italic]monitoring at {utc_text(verdicts.at)}, {of}:[/] {counts}",
        highlight=False,
        soft_wrap=True,
    )
    if found.model and found.model.id != verdicts.model:
        to.print(
            f"[yellow]That is not the model now in use, {escape(found.model.id)}: "
            f"`hindcast monitor --at {utc_text(found.at)}` judges it.[/]",
            highlight=False,
            soft_wrap=True,
        )
    if verdicts.worst:
        table = Table("of", "check")
        table.add_column("value", justify="right")
        table.add_column("verdict")
        for one in verdicts.worst:
            colour = COLOURS.get(one["verdict"], "white")
            value = "" if one["value"] is None else f"{one['value']:.3g}"
            verdict = f"[{colour}]{one['verdict']}[/]"
            table.add_row(escape(str(one["subject"])), one["check"], value, verdict)
        to.print(table)


def _short(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M}Z"


def _seconds(taken: float) -> str:
    return f"{taken:.0f} s" if taken < 120 else f"{taken / 60:.1f} min"


def _duration(span: timedelta | None) -> str:
    if span is None:
        return ""
    minutes = round(span.total_seconds() / 60)
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes / 60:.4g} h"
    return f"{minutes / 1440:.3g} days"
