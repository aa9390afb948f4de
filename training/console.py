"""What a training command shows while it works, and how it ends when something is wrong.

Not for results: those are in `report`.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

import typer
from rich.console import Console

from hindcast.errors import HindcastError

console = Console(highlight=False)
PLAIN_HELP = {"help_option_names": ["-h", "--help"]}


@contextmanager
def step(title: str) -> Iterator[Callable[[str], None]]:
    """Show a step while it runs, then one line with its seconds.

    Yields a function that says what the step is at; its last words stay on the line.
    """
    started, said = time.perf_counter(), ""

    def tell(text: str) -> None:
        nonlocal said
        said = text
        status.update(f"{title} [dim]{text}[/dim]")

    if not console.is_terminal:  # nothing turns in a log file: say what has begun
        console.print(f"[dim]… {title}[/dim]")
    with console.status(title) as status:
        yield tell
    seconds = time.perf_counter() - started
    console.print(f"[green]✓[/green] {title} [dim]{said}[/dim] [cyan]{seconds:.1f} s[/cyan]")


def run(app: typer.Typer) -> None:
    """Run a command. Exit code 1 with one clear message for a HindcastError, 2 for a wrong call."""
    try:
        app()
    except HindcastError as error:
        Console(stderr=True).print(
            f"{type(error).__name__}: {error}", style="red", markup=False, soft_wrap=True
        )
        sys.exit(1)


def instant(text: str) -> datetime:
    """An instant that says its zone."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text} is not an ISO time like 2013-11-01T00:00Z") from None
    if parsed.tzinfo is None:
        raise typer.BadParameter(f"{text} has no zone; write {text}Z if it is UTC")
    return parsed
