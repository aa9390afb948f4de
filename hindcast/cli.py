"""The `hindcast` command: one verb per capability.

Exit codes: 0 good, 1 a check or a step failed, 2 the call was wrong. A mistake of the user's is
one clear message, never a traceback. The work is done in the modules named in each verb.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hindcast.config import ProjectConfig, load_config, utc_text
from hindcast.errors import HindcastError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Point-in-time-correct features from one definition. Run at a project's root.",
)
console = Console()

Project = Annotated[Path, typer.Option("--project", help="The project's root.")]
At = Annotated[
    str | None,
    typer.Option(help="The instant to stand at, with its zone (default: `at` in hindcast.yml)."),
]


@app.callback()
def main() -> None:
    """Point-in-time-correct features from one definition. Run at a project's root."""


def _refuses_politely(verb: Callable[..., None]) -> Callable[..., None]:
    @wraps(verb)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            verb(*args, **kwargs)
        except HindcastError as error:
            Console(stderr=True).print(
                f"hindcast: {error}", style="red", markup=False, soft_wrap=True
            )
            raise typer.Exit(1) from None

    return wrapped


@app.command()
@_refuses_politely
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
    instant = utc_text(_instant(at, config))
    ran: list[loop.Ran] = []
    for step in config.steps:
        if only and step.name not in only:
            continue
        console.rule(f"[bold]{step.name}[/]  [dim]{step.run.replace('{at}', instant)}[/]")
        ran.append(loop.run_step(step, instant, project))
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
        loop.run_step(config.steps[-1].model_copy(update={"run": config.summary}), instant, project)
    _show_ways_on(config, project)


@app.command()
@_refuses_politely
def parity(
    project: Project = Path(),
    at: At = None,
    rows: Annotated[int, typer.Option(min=1, help="How many spine rows to compare.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Check that the online store serves at T what training would read for T."""
    config = load_config(project)
    instant = _instant(at, config)

    from feast import FeatureStore

    from hindcast import parity as check

    store = FeatureStore(repo_path=str(project / config.feature_repo))
    outcome = check.compare(store, config.feature_service, config.spine, instant, rows)
    check.require_rows(outcome)
    if as_json:
        print(
            json.dumps(
                {
                    "at": utc_text(outcome.at),
                    "rows": outcome.rows,
                    "features": len(outcome.features),
                    "values": outcome.values,
                    "nulls": outcome.nulls,
                    "mismatches": len(outcome.mismatches),
                }
            )
        )
    else:
        _show_parity(outcome)
    if outcome.mismatches:
        raise typer.Exit(1)


def _instant(at: str | None, config: ProjectConfig) -> datetime:
    if at is None:
        return config.at.astimezone(UTC)
    try:
        instant = datetime.fromisoformat(at)
    except ValueError:
        raise typer.BadParameter(
            f"{at!r} is not a time; give one like {utc_text(config.at)}."
        ) from None
    if instant.tzinfo is None:
        raise typer.BadParameter(f"{at!r} has no time zone; write {at}Z if it is UTC.")
    return instant.astimezone(UTC)


def _show_parity(outcome: Any) -> None:
    console.print(
        f"At {utc_text(outcome.at)}: {outcome.values:,} values compared "
        f"({outcome.rows:,} rows x {len(outcome.features)} features, {outcome.nulls:,} of them "
        f"NULL), [bold]{len(outcome.mismatches):,} differ[/]."
    )
    if not outcome.mismatches:
        return
    console.print(
        "If features were changed and registered after the online store was filled, fill it anew: "
        "`feast materialize` with a start, not materialize-incremental, which adds new rows only.",
        soft_wrap=True,
    )
    table = Table("feature", "row", "online", "offline", title="the first that differ")
    for miss in outcome.mismatches[:10]:
        table.add_row(miss.feature, str(miss.row), repr(miss.online), repr(miss.offline))
    console.print(table)


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
