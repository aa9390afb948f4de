"""`hindcast replay`: the production loop over past days. The work is done in `hindcast.replay`."""

import json
from datetime import UTC
from pathlib import Path
from typing import Annotated, Any

import typer

from hindcast.cli.app import Project, app, console, instant, refuses_politely
from hindcast.config import ProjectConfig, Replay, load_config, utc_text
from hindcast.errors import HindcastError, MissingInputError


@app.command()
@refuses_politely
def replay(
    project: Project = Path(),
    start: Annotated[
        str | None, typer.Option(help="The first tick, with its zone (default: hindcast.yml).")
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, help="For how many days.")] = None,
    ticks: Annotated[
        int | None, typer.Option(min=1, help="For how many ticks, instead of days.")
    ] = None,
    tick: Annotated[str | None, typer.Option(help="From tick to tick, such as '1 hour'.")] = None,
    faults: Annotated[
        int | None,
        typer.Option(metavar="SEED", help="The worst day: break things on the way, by this seed."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew, where one like it was begun already.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
    worker: Annotated[bool, typer.Option("--worker", hidden=True)] = False,
) -> None:
    """Run the production loop over past days as if they were now: nothing later is ever there.

    Tick after tick lands what was loaded since, builds, publishes, fills the online store, scores
    what comes up, and compares every value served with the point-in-time join. At the end the live
    figures are held against the offline ones. It works in a copy of the project below
    target/replay/; given again after it was killed, it goes on where it was.

    With --faults a process of its own runs the ticks, and is killed, starved and lied to; at the
    end everything must be as if nothing had happened. Exit code 1 where something is not as it
    must be.
    """
    config = load_config(project)
    section = config.replay
    if section is None:
        raise MissingInputError(
            "hindcast.yml has no section `replay`: it names the commands of a tick"
        )

    from hindcast.replay import run
    from hindcast.replay.room import Plan

    plan = _plan(Plan, config, section, start, days, ticks, tick, faults)
    if worker:
        run.worker(project, config, plan)
        return
    if faults is not None:
        from hindcast.replay import supervisor

        console.quiet = as_json
        survived = supervisor.worst_day(project, config, plan, console)
        if as_json:
            print(json.dumps(survived.as_dict()))
        if not survived.passed:
            raise typer.Exit(1)
        return
    outcome = run.live(project, config, plan, console, fresh, quiet=as_json)
    if as_json:
        print(json.dumps(outcome.as_dict()))
    if not outcome.passed:
        raise typer.Exit(1)


def _plan(
    kind: Any,
    config: ProjectConfig,
    section: Replay,
    start: str | None,
    days: int | None,
    ticks: int | None,
    tick: str | None,
    faults: int | None,
) -> Any:
    from hindcast.dbt import parse_ttl

    if days is not None and ticks is not None:
        raise typer.BadParameter("give --days or --ticks, not both")
    if faults is not None and section.faults is None:
        raise MissingInputError("hindcast.yml has no `faults` under `replay`")
    text = tick or section.tick
    try:
        every = parse_ttl(text)
    except ValueError:
        raise typer.BadParameter(f"--tick {text!r}; expected such as '1 hour'") from None
    if not every:
        raise typer.BadParameter(f"--tick {text!r}; expected such as '1 hour'")
    at = section.start.astimezone(UTC)
    count = ticks
    if faults is not None and section.faults is not None:
        at = section.faults.start.astimezone(UTC)
        count = ticks or (None if days else section.faults.ticks)
    if start is not None:
        at = instant(start, config)
    count = count or int((days or section.days) * 86_400 / every.total_seconds())
    if at.timestamp() % every.total_seconds():
        raise typer.BadParameter(f"the start {utc_text(at)} is no multiple of the tick {text!r}")
    if not count:
        raise HindcastError("the replay has no tick: give more days, or a shorter tick")
    return kind(at, every, count, faults)
