"""`hindcast run`: the whole loop once. The work is done in `hindcast.loop`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hindcast.cli import status
from hindcast.cli.app import At, Project, app, console, instant, refuses_politely
from hindcast.config import ProjectConfig, load_config, utc_text


@app.command()
@refuses_politely
def run(
    project: Project = Path(),
    at: At = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Run this step only; may be given again.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the last run where it stopped; with --at, with the last one for that "
            "instant. Nothing is done if it is done; without such a run a new one begins.",
        ),
    ] = False,
    everything: Annotated[
        bool,
        typer.Option(
            "--everything", help="Run also the steps whose result (`unless`) is there already."
        ),
    ] = False,
) -> None:
    """Run the whole loop once: the commands in hindcast.yml, in order, then a summary.

    One run at a time. Everything is on record: see `hindcast status`.
    """
    from hindcast import loop

    config = load_config(project)
    known = [step.name for step in config.steps]
    unknown = sorted(set(only or []) - set(known))
    if unknown:
        raise typer.BadParameter(f"no step {', '.join(unknown)}; there are {', '.join(known)}.")
    if resume and only:
        raise typer.BadParameter("--resume goes on with a whole run; leave --only away.")
    now, before = instant(at, config), None
    if resume:
        before = loop.to_resume(project, now if at else None)
        if before and before.outcome == "done":
            console.print(
                f"Nothing to go on with: run {before.run_id} for {utc_text(before.at)} is done.",
                highlight=False,
            )
            return
        now = before.at if before else now
    try:
        ran = loop.run(
            project,
            config,
            now,
            only=only or [],
            resume=before,
            everything=everything,
            tell=_tell,
        )
    except loop.StepFailedError:
        _show_steps(loop.last_attempt(project))
        raise
    console.rule("[bold]summary")
    _show_built(project)
    _show_steps(ran.steps)
    _show_not_run(ran)
    if config.summary and not only:
        loop.run_command(config.summary, project)
    _show_ways_on(config, project)
    status.show(status.look(project, config, now), console)
    for name in ran.verdicts:
        console.print(f"[yellow]Step {name} found something: see above, and its own message.[/]")


def _tell(planned: Any) -> None:
    usual = f" [dim](last time {planned.usual_s:.0f} s)[/]" if planned.usual_s else ""
    console.rule(
        f"[bold]{planned.position}/{planned.count} {planned.step.name}[/]  "
        f"[dim]{planned.command}[/]{usual}"
    )


def _show_built(project: Path) -> None:
    from hindcast import loop, snapshot

    if loop.current_snapshot(project) is None:
        return
    current = snapshot.current(project / snapshot.PUBLISHED.parent)
    seconds = {model.name: model.seconds for model in loop.models_built(project)}
    table = Table("published table", title=f"snapshot {current.id}")
    table.add_column("rows", justify="right")
    table.add_column("seconds to build", justify="right")
    for name, rows in sorted(current.tables.items()):
        taken = f"{seconds[name]:.1f}" if name in seconds else ""
        table.add_row(name, f"{rows:,}", taken)
    table.add_row("all", f"{current.row_count:,}", "", style="bold")
    console.print(table)


def _show_steps(steps: Any) -> None:
    table = Table("step", title="what it took")
    for name in ("seconds", "peak memory"):
        table.add_column(name, justify="right")
    table.add_column("")
    for step in steps:
        mark = "[green]ok" if step.exit_code == 0 else f"[red]exit {step.exit_code}"
        if step.exit_code and step.is_done:
            mark = "[yellow]see verdict"
        table.add_row(step.step, f"{step.seconds:.1f}", f"{step.peak_mb:,.0f} MB", mark)
    total = sum(step.seconds for step in steps)
    peak = max((step.peak_mb for step in steps), default=0.0)
    table.add_row("all", f"{total:.1f}", f"{peak:,.0f} MB", "", style="bold")
    console.print(table)


def _show_not_run(ran: Any) -> None:
    if ran.done_before:
        console.print(f"Done by an earlier attempt: {', '.join(ran.done_before)}.")
    for step in ran.left_out:
        console.print(
            f"Left out: {step.name}, since {step.unless} is there (--everything runs it).",
            highlight=False,
        )


def _show_ways_on(config: ProjectConfig, project: Path) -> None:
    from hindcast import champion

    for result in config.results:
        path = champion.followed(project, config, result.path)
        if (project / path).exists():
            console.print(f"{result.what}: {path}", highlight=False)
    if config.next:
        console.print("\n[bold]Try next[/] (after `source .venv/bin/activate`):", highlight=False)
        for command in config.next:
            console.print(f"  {command}", highlight=False)
