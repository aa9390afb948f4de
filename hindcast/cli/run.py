"""`hindcast run`: the whole loop once. The work is done in `hindcast.loop`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hindcast.cli.app import At, Project, app, console, instant, refuses_politely
from hindcast.config import ProjectConfig, load_config, utc_text
from hindcast.errors import HindcastError


@app.command()
@refuses_politely
def run(
    project: Project = Path(),
    at: At = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Run this step only; may be given again.")
    ] = None,
) -> None:
    """Run the whole loop once: the commands in hindcast.yml, in order, then a summary."""
    from hindcast import loop

    config = load_config(project)
    known = [step.name for step in config.steps]
    unknown = sorted(set(only or []) - set(known))
    if unknown:
        raise typer.BadParameter(f"no step {', '.join(unknown)}; there are {', '.join(known)}.")
    now = utc_text(instant(at, config))
    ran: list[loop.Ran] = []
    for step in config.steps:
        if only and step.name not in only:
            continue
        console.rule(f"[bold]{step.name}[/]  [dim]{step.run.replace('{at}', now)}[/]")
        ran.append(loop.run_step(step, now, project))
        if ran[-1].exit_code != 0:
            _show_steps(ran)
            raise HindcastError(
                f"step {step.name} failed (exit code {ran[-1].exit_code}); its message is above. "
                f"Mend it and run `hindcast run` again, or the step by itself: {step.run}"
            )
    console.rule("[bold]summary")
    _show_built(project)
    _show_steps(ran)
    if config.summary and not only:
        loop.run_step(config.steps[-1].model_copy(update={"run": config.summary}), now, project)
    _show_ways_on(config, project)


def _show_built(project: Path) -> None:
    from hindcast import loop, snapshot
    from hindcast.registry import PUBLISHED

    current = snapshot.current(project / PUBLISHED.parent)
    seconds = {model.name: model.seconds for model in loop.models_built(project)}
    table = Table("published table", title=f"snapshot {current.id}")
    table.add_column("rows", justify="right")
    table.add_column("seconds to build", justify="right")
    for name, rows in sorted(current.tables.items()):
        taken = f"{seconds[name]:.1f}" if name in seconds else ""
        table.add_row(name, f"{rows:,}", taken)
    table.add_row("all", f"{current.row_count:,}", "", style="bold")
    console.print(table)


def _show_steps(ran: list[Any]) -> None:
    table = Table("step", title="what it took")
    for name in ("seconds", "peak memory"):
        table.add_column(name, justify="right")
    table.add_column("")
    for item in ran:
        mark = "[green]ok" if item.exit_code == 0 else f"[red]exit {item.exit_code}"
        table.add_row(item.step.name, f"{item.seconds:.1f}", f"{item.peak_mb:,.0f} MB", mark)
    total = sum(item.seconds for item in ran)
    peak = max((item.peak_mb for item in ran), default=0.0)
    table.add_row("all", f"{total:.1f}", f"{peak:,.0f} MB", "", style="bold")
    console.print(table)


def _show_ways_on(config: ProjectConfig, project: Path) -> None:
    for result in config.results:
        if (project / result.path).exists():
            console.print(f"{result.what}: {result.path}", highlight=False)
    if config.next:
        console.print("\n[bold]Try next[/] (after `source .venv/bin/activate`):", highlight=False)
        for command in config.next:
            console.print(f"  {command}", highlight=False)
