"""`hindcast audit`: nothing leaked. The work is done in `hindcast.audit`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hindcast.cli.app import Project, app, console, instant, refuses_politely
from hindcast.config import load_config


@app.command()
@refuses_politely
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
        typer.Option(help="replay, scramble, static or model; may be given again. Default: all."),
    ] = None,
    traced: Annotated[
        int,
        typer.Option(
            "--trace", min=0, help="Of how many views one difference is traced to its records."
        ),
    ] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Show that no feature knew the future: rebuild the past, spoil the future, read the SQL."""
    config = load_config(project)
    chosen = [instant(text, config) for text in at or []]

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
            traced=traced,
            tell=status.update if progress.is_terminal else progress.print,
        )
    if as_json:
        print(json.dumps(show.as_json(outcome)))
    else:
        show.show(outcome, console)
    if not outcome.passed:
        raise typer.Exit(1)
