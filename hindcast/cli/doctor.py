"""`hindcast doctor`: is everything fit to run? The work is done in `hindcast.doctor`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from hindcast.cli.app import At, Project, app, console, instant, refuses_politely
from hindcast.config import load_config

MARKS = {"ok": "[green]ok   [/]", "warn": "[yellow]warn [/]", "wrong": "[red]wrong[/]"}


@app.command()
@refuses_politely
def doctor(
    project: Project = Path(),
    at: At = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check the installation and the project, and say what to do about each thing found.

    Exit code 1 if something is wrong. Nothing is changed.
    """
    from hindcast import doctor as work  # Feast takes seconds to start

    now = instant(at, load_config(project)) if at else None
    findings = []
    for finding in work.examine(project, now):
        findings.append(finding)
        if as_json:
            continue
        console.print(
            f"{MARKS[finding.state]} [bold]{finding.check}[/]: {escape(finding.found)}",
            highlight=False,
            soft_wrap=True,
        )
        if finding.todo:
            console.print(f"        do: {escape(finding.todo)}", highlight=False, soft_wrap=True)
    wrong = sum(finding.state == work.WRONG for finding in findings)
    if as_json:
        print(json.dumps({"ok": not wrong, "findings": [f.as_dict() for f in findings]}))
    else:
        warned = sum(finding.state == work.WARN for finding in findings)
        console.print(f"\n{len(findings)} checks, {wrong} wrong, {warned} to look at.")
    if wrong:
        raise typer.Exit(1)
