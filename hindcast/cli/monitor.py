"""`hindcast monitor`: verdicts on features and model. The work is done in `hindcast.monitor`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from hindcast.cli.app import At, Project, app, console, instant, judges
from hindcast.config import load_config, utc_text

SHOWN = 12
COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}


@app.command()
@judges
def monitor(
    project: Project = Path(),
    at: At = None,
    days: Annotated[
        int | None,
        typer.Option(min=1, help="How many days before --at are judged (default: hindcast.yml)."),
    ] = None,
    log: Annotated[
        bool, typer.Option("--log", help="Judge the features the service logged as served.")
    ] = False,
    exit_zero: Annotated[
        bool, typer.Option("--exit-zero", help="Exit with 0 on a fail too: tell, but do not stop.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Say whether features and model still are as at training: ok, warn or fail.

    Writes a page to look at, and keeps the verdicts in Hindcast's records. Exit code 1 where a
    check fails, 2 where it could not judge.
    """
    config = load_config(project)
    now = instant(at, config)

    from hindcast.monitor import page, watch

    progress = Console(stderr=True)
    with progress.status("starting") as status:

        def tell(text: str) -> None:
            if progress.is_terminal:
                status.update(text)

        report = watch.watch(project, config, now, days=days, from_log=log, tell=tell)
        tell("the page")
        written = page.write(project, config, report)
    if as_json:
        print(json.dumps(_as_json(report, str(written))))
    else:
        _show(report, str(written))
    if report.counts["fail"] and not exit_zero:
        raise typer.Exit(1)


def _show(report: Any, written: str) -> None:
    console.print(
        f"{report.window.days} days to {utc_text(report.at)}, {report.rows[1]:,} predictions, "
        f"against the {report.rows[0]:,} that model {report.model.id} was trained on "
        f"({report.model.trained.days} days).",
        soft_wrap=True,
        highlight=False,
    )
    speaking = [check for check in report.checks if check.verdict != "ok"]
    for check in speaking[:SHOWN]:
        console.print(_line(check), soft_wrap=True, highlight=False)
    if len(speaking) > SHOWN:
        console.print(f"... and {len(speaking) - SHOWN} more, on the page.")
    for note in report.notes:
        console.print(f"Note: {note}.", soft_wrap=True, highlight=False)
    counts = report.counts
    color = COLORS[report.verdict]
    console.print(
        f"[bold {color}]{report.verdict}[/]: {len(report.checks)} checks, {counts['ok']} ok, "
        f"{counts['warn']} warn, {counts['fail']} fail ({report.seconds:.0f} s). Page: {written}",
        soft_wrap=True,
        highlight=False,
    )


def _line(check: Any) -> str:
    """One check that speaks up, with what it takes to do so."""
    warn, fail = check.limits
    bounds = [
        f"{name} {_figure(value)}"
        for name, value in (("chance", check.noise), ("warn", warn), ("fail", fail))
        if value is not None
    ]
    pair = ""
    if check.baseline is not None and check.now is not None:
        pair = f": {_figure(check.baseline)} then, {_figure(check.now)} now"
    more = f" {check.detail}" if check.detail else ""
    return (
        f"[{COLORS[check.verdict]}]{check.verdict:4}[/] {check.subject} [bold]{check.name} "
        f"{_figure(check.value)}[/]{pair} [dim]({', '.join(bounds)}){more}[/]"
    )


def _figure(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _as_json(report: Any, written: str) -> dict[str, Any]:
    return {
        "verdict": report.verdict,
        "at": utc_text(report.at),
        "days": report.window.days,
        "model": report.model.id,
        "rows": {"baseline": report.rows[0], "window": report.rows[1]},
        "counts": report.counts,
        "notes": list(report.notes),
        "page": written,
        "seconds": round(report.seconds, 1),
        "checks": [
            {
                "subject": check.subject,
                "check": check.name,
                "verdict": check.verdict,
                "value": check.value,
                "noise": check.noise,
                "warn": check.limits[0],
                "fail": check.limits[1],
                "baseline": check.baseline,
                "now": check.now,
                "low": check.low,
                "high": check.high,
                "detail": check.detail,
            }
            for check in report.checks
        ],
    }
