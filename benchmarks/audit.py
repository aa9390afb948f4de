"""How many classic leaks does `hindcast audit` catch, and does it accuse anyone honest?

    python -m benchmarks.audit

Makes a copy of this project in which every leak of `benchmarks.leaks` is a feature view of its
own, lands part of the feed, builds, and audits it. Prints what the audit says, then the table of
docs/proof.md. `tests/audit/` does the same with ten days.
"""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.leaks import LEAKS, caught_by, make_project
from hindcast.audit import check, show
from hindcast.config import load_config

END = datetime(2013, 11, 10, tzinfo=UTC)  # a week after the night in which the clocks change
TESTS = [test for test in check.TESTS if test != "model"]  # which finds no leak by itself


def main(
    days: Annotated[int, typer.Option(help="How much of the feed, up to 10 November.")] = 56,
    instants: Annotated[int, typer.Option(help="How many instants to replay.")] = 6,
    seed: Annotated[int, typer.Option(help="Chooses them.")] = 0,
) -> None:
    """Audit a project full of leaks."""
    console = Console(width=160)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        make_project(root, END - timedelta(days=days), END)
        outcome = check.audit(
            root, load_config(root), count=instants, seed=seed, only=TESTS, tell=print
        )
    show.show(outcome, console)
    print(f"\n| leak | what somebody did | {' | '.join(TESTS)} |")
    print("|---|---|" + "---|" * len(TESTS))
    for leak in LEAKS:
        caught = caught_by(outcome, leak.name)
        marks = " | ".join("caught" if test in caught else "" for test in TESTS)
        print(f"| {leak.name} | {leak.what} | {marks} |")
    leaks = {leak.name for leak in LEAKS}
    honest = [view.name for view in outcome.views if view.name not in leaks]
    accused = [name for name in honest if caught_by(outcome, name)]
    caught_leaks = sum(bool(caught_by(outcome, name)) for name in leaks)
    print(
        f"\n{caught_leaks} of {len(leaks)} leaks caught, {len(accused)} of {len(honest)} honest "
        f"views accused{': ' + ', '.join(accused) if accused else ''}."
    )
    raise typer.Exit(int(bool(accused) or caught_leaks < len(leaks)))


if __name__ == "__main__":
    typer.run(main)
