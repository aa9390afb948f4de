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
    rows: Annotated[int, typer.Option(min=1, help="How many rows to compare.")] = 1000,
    everything: Annotated[bool, typer.Option("--all", help="Compare all rows.")] = False,
    log: Annotated[
        bool, typer.Option("--log", help="Compare what the service logged as served.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Check that the online store serves at T what training would read for T.

    With --log: that what was served, and logged, is what training would read for the instant the
    features stood at; --at is then the instant from which on it was served. Exit code 1 where one
    value differs.
    """
    config = load_config(project)

    from feast import FeatureStore

    from hindcast import parity as check

    store = FeatureStore(repo_path=str(project / config.feature_repo))
    most = None if everything else rows
    if log:
        since = _instant(at, config) if at else None
        outcome = check.compare_log(store, config.feature_service, most, since)
    else:
        instant = _instant(at, config)
        outcome = check.compare(store, config.feature_service, config.spine, instant, most)
    check.require_rows(outcome)
    if as_json:
        print(json.dumps(outcome.as_dict()))
    else:
        _show_parity(outcome, log)
    if outcome.wrong:
        raise typer.Exit(1)


@app.command()
@_refuses_politely
def audit(
    project: Project = Path(),
    instants: Annotated[int, typer.Option(min=1, help="How many instants to replay.")] = 8,
    seed: Annotated[int, typer.Option(help="Chooses the instants, and what is scrambled.")] = 0,
    at: Annotated[
        list[str] | None,
        typer.Option(help="An instant to replay, instead of some by chance; may be given again."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="replay, scramble or static; may be given again. Default: all."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Show that no feature knew the future: rebuild the past, spoil the future, read the SQL."""
    config = load_config(project)
    chosen = [_instant(text, config) for text in at or []]

    from hindcast.audit import check, show  # dbt takes seconds to start

    unknown = sorted(set(only or []) - set(check.TESTS))
    if unknown:
        raise typer.BadParameter(
            f"no test {', '.join(unknown)}; there are {', '.join(check.TESTS)}."
        )
    progress = Console(stderr=True)
    with progress.status("starting") as status:
        outcome = check.audit(
            project,
            config,
            count=instants,
            seed=seed,
            at=chosen,
            only=only or check.TESTS,
            tell=status.update if progress.is_terminal else progress.print,
        )
    if as_json:
        print(json.dumps(show.as_json(outcome)))
    else:
        show.show(outcome, console)
    if not outcome.passed:
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


def _show_parity(outcome: Any, log: bool) -> None:
    first, last = map(utc_text, outcome.at)
    when = f"At {first}" if first == last else f"From {first} to {last}"
    what = "values as they were served" if log else "values"
    console.print(
        f"{when}: {outcome.values:,} {what} compared ({outcome.rows:,} rows x "
        f"{len(outcome.features)} features, {outcome.nulls:,} of them NULL), "
        f"[bold]{outcome.wrong:,} differ[/].",
        soft_wrap=True,
    )
    for note in outcome.notes:
        console.print(f"Note: {note}.", soft_wrap=True)
    if not outcome.wrong:
        return
    if not log:
        console.print(
            "If features were changed and registered after the online store was filled, fill it "
            "anew: `feast materialize` with a start.",
            soft_wrap=True,
        )
    counts = Table("feature", title="values by feature")
    kinds = ("matched", "mismatched", "missing", "extra", "stale")
    for kind in kinds:
        counts.add_column(kind, justify="right")
    for name, found in outcome.features.items():
        if found.wrong:
            counts.add_row(name, *(f"{getattr(found, kind):,}" for kind in kinds))
    console.print(counts)
    table = Table("feature", "what", "row", "at", "online", "offline", title="the worst of them")
    for miss in sorted(outcome.mismatches, key=lambda miss: -miss.size)[:10]:
        at = utc_text(miss.at)
        values = repr(miss.online), repr(miss.offline)
        table.add_row(miss.feature, miss.kind, str(miss.row), at, *values)
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
