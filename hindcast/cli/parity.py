"""`hindcast parity`: nothing skewed. The work is done in `hindcast.parity`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hindcast.cli.app import At, Project, app, console, instant, refuses_politely
from hindcast.config import load_config, utc_text


@app.command()
@refuses_politely
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
        since = instant(at, config) if at else None
        outcome = check.compare_log(store, config.feature_service, most, since)
    else:
        now = instant(at, config)
        outcome = check.compare(store, config.feature_service, config.spine, now, most)
    check.require_rows(outcome)
    if as_json:
        print(json.dumps(outcome.as_dict()))
    else:
        _show_parity(outcome, log)
    if outcome.wrong:
        raise typer.Exit(1)


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
