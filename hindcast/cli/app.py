"""What every verb of the `hindcast` command shares: the app, its options, and how it refuses.

Exit codes: 0 good, 1 a check or a step failed, 2 the call was wrong, or a verb that judges could
not. A mistake of the user's is one clear message, never a traceback. A verb has a module of its
own beside this one.
"""

import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from rich.console import Console

from hindcast.config import ProjectConfig, utc_text
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


def _tell(error: HindcastError) -> None:
    Console(stderr=True).print(f"hindcast: {error}", style="red", markup=False, soft_wrap=True)


def refuses_politely(verb: Callable[..., None]) -> Callable[..., None]:
    """Turn a HindcastError of a verb into its message and exit code 1."""

    @wraps(verb)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            verb(*args, **kwargs)
        except HindcastError as error:
            _tell(error)
            raise typer.Exit(1) from None

    return wrapped


def judges(verb: Callable[..., None]) -> Callable[..., None]:
    """Keep exit code 1 for what a verb found: whatever hinders it from judging is code 2.

    So that `verdict: true` of a step cannot take a crash for a verdict.
    """

    @wraps(verb)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            verb(*args, **kwargs)
        except HindcastError as error:
            _tell(error)
            raise typer.Exit(2) from None
        except (typer.Exit, typer.Abort, click.ClickException):
            raise
        except Exception:
            traceback.print_exc()
            raise typer.Exit(2) from None

    return wrapped


def instant(at: str | None, config: ProjectConfig) -> datetime:
    """The instant a user gave as text, in UTC; `at` of hindcast.yml where none was given."""
    if at is None:
        return config.at.astimezone(UTC)
    try:
        parsed = datetime.fromisoformat(at)
    except ValueError:
        raise typer.BadParameter(
            f"{at!r} is not a time; give one like {utc_text(config.at)}."
        ) from None
    if parsed.tzinfo is None:
        raise typer.BadParameter(f"{at!r} has no time zone; write {at}Z if it is UTC.")
    return parsed.astimezone(UTC)
