"""`hindcast ui`: the project's pages in one go. The work is done in `hindcast.ui`."""

import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hindcast.cli.app import At, Project, app, console, instant, refuses_politely
from hindcast.config import load_config


@app.command()
@refuses_politely
def ui(
    project: Project = Path(),
    at: At = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Start this one only; may be given again.")
    ] = None,
) -> None:
    """Start the project's pages on loopback, say where each is, and stop them on Ctrl-C."""
    from hindcast import ui as work

    config = load_config(project)
    known = [one.name for one in config.ui]
    unknown = sorted(set(only or []) - set(known))
    if unknown:
        raise typer.BadParameter(f"no page {', '.join(unknown)}; there are {', '.join(known)}.")
    signal.signal(signal.SIGTERM, _end)
    progress = Console(stderr=True)
    try:
        with progress.status("starting") as status:
            tell = status.update if progress.is_terminal else progress.print
            with work.serving(
                project, config, instant(at, config), only=only or [], tell=tell
            ) as served:
                status.stop()
                table = Table.grid(padding=(0, 2))
                for one in served:
                    for title, address in one.pages.items():
                        table.add_row(title, f"[bold]{address}[/]")
                console.print(table)
                console.print("Ctrl-C stops them.")
                work.watch(served)
    except KeyboardInterrupt:
        progress.print("Stopped.")


def _end(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
