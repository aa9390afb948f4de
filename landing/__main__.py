"""`python -m landing`: deliver the feed, whole or as it stood at an instant.

The command line only. What is delivered is in `landing.feed`, how it is written in
`landing.write`.
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hindcast.errors import HindcastError
from landing.feed import dated, read_sources
from landing.write import DayFile, day_files, sole_writer, write

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


def instant(text: str) -> datetime:
    """Parse an instant that says its time zone."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is not an instant; write it like 2013-06-01T00:00:00Z"
        ) from error
    if parsed.tzinfo is None:
        raise typer.BadParameter(
            f"{text!r} has no time zone; write it like 2013-06-01T00:00:00Z "
            "or 2013-06-01T00:00:00-04:00"
        )
    return parsed


@app.command()
def main(
    out: Annotated[
        Path, typer.Option(help="Folder the feed is written to.", file_okay=False)
    ] = Path("data/raw"),
    until: Annotated[
        datetime | None,
        typer.Option(
            parser=instant,
            metavar="INSTANT",
            help="Deliver only what was loaded at or before this instant, such as "
            "2013-06-01T00:00:00Z, and take away what an earlier run delivered beyond it. "
            "Default: the whole year.",
        ),
    ] = None,
) -> None:
    """Write the flights of 2013 as raw CSV records, the way an operational feed delivers them.

    A flight appears when its schedule is published, again when its aircraft is assigned, when
    it has departed and when it has arrived, each time with the fields known by then. Running it
    again is harmless: files that are right already are left alone, files of others always.
    """
    try:
        land(out, until, Console())
    except HindcastError as error:
        message = f"[bold red]error:[/] {escape(str(error))}"
        Console(stderr=True).print(message, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def land(out: Path, until: datetime | None, console: Console) -> None:
    """Build the feed, write it into `out` and say what was done."""
    started = time.perf_counter()
    # Whole seconds are enough: every load time is one.
    last = None if until is None else np.datetime64(int(until.timestamp() // 1), "s")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        reading = progress.add_task("reading and dating records", total=1)
        records_of_all = dated(read_sources)
        progress.update(reading, description="records dated", advance=1)
        feed = {records.source: day_files(records, out, last) for records in records_of_all}
        files = [file for source in feed.values() for file in source]
        with sole_writer(out):
            done = Counter(progress.track(write(files), len(files), description="writing files"))
    console.print(summary(feed))
    seconds = time.perf_counter() - started
    console.print(
        f"{escape(str(out))}: {done['written']} files written, {done['unchanged']} unchanged, "
        f"{done['removed']} removed, in {seconds:.1f} s. Next: [bold]dbt build[/]",
        highlight=False,
        soft_wrap=True,
    )


def summary(feed: dict[str, list[DayFile]]) -> Table:
    """Files and records by source, those of the flights by kind as well."""
    table = Table("source", "record", box=None, pad_edge=False)
    table.add_column("files", justify="right")
    table.add_column("records", justify="right")
    for source, files in feed.items():
        delivered = [file.table for file in files if file.table is not None]
        records = sum(map(len, delivered))
        table.add_row(source, "", f"{len(delivered):,}", f"{records:,}")
        if delivered and "record" in delivered[0].column_names:
            kinds = pc.value_counts(pa.concat_tables(delivered)["record"]).to_pylist()
            for kind in kinds:
                table.add_row("", kind["values"], "", f"{kind['counts']:,}")
    return table


if __name__ == "__main__":
    app(prog_name="python -m landing")
