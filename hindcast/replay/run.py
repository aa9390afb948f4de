"""A replay from its plan to its outcome, for `hindcast replay`; the parts are in own modules."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hindcast.config import ProjectConfig, Step, utc_text
from hindcast.errors import HindcastError
from hindcast.replay.commands import Inside
from hindcast.replay.figures import Judge, Outcome, by_step, folder_of
from hindcast.replay.room import Plan, Room
from hindcast.replay.show import show, write
from hindcast.replay.ticks import Loop, Notebook, Ran, Tick

if TYPE_CHECKING:
    from rich.console import Console

LOG = "commands.log"


class _Watcher:
    """Shows progress."""

    def __init__(self, progress: Progress, task: Any) -> None:
        self.progress, self.task = progress, task

    def before(self, at: datetime, attempt: int, step: str) -> None:
        again = "" if attempt == 1 else f" (try {attempt})"
        self.progress.update(self.task, description=f"{at:%Y-%m-%d %H:%M} {step}{again}")

    def after(self, at: datetime, attempt: int, ran: Ran) -> None:
        if ran.message:
            self.progress.console.print(
                f"{utc_text(at)} {ran.step}: {ran.message}", style="yellow", markup=False
            )

    def done(self, tick: Tick) -> None:
        self.progress.update(self.task, advance=1)
        if not self.progress.console.is_terminal:
            self.progress.console.print(
                f"{utc_text(tick.at)}: {tick.predictions} predictions, {tick.outcomes} outcomes, "
                f"{tick.seconds:.1f} s",
                highlight=False,
            )
        if tick.wrong:
            self.progress.console.print(
                f"{utc_text(tick.at)}: {tick.wrong:,} values differ", style="red"
            )


def live(
    project_dir: Path,
    config: ProjectConfig,
    plan: Plan,
    console: Console,
    fresh: bool,
    quiet: bool = False,
) -> Outcome:
    """Run a replay, or go on with one that was not finished, and judge it.

    Raises HindcastError where a step fails for good.
    """
    assert config.replay is not None
    room = opened_room(project_dir, config, plan, fresh)
    notebook = Notebook(room)
    console.quiet = console.quiet or quiet
    console.print(
        f"{plan.count:,} ticks from {utc_text(plan.start)} to {utc_text(plan.end)}, in "
        f"{_short(room.folder)}; what the commands print is in {LOG} there.",
        highlight=False,
        soft_wrap=True,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Inside(room.project, room.folder / LOG).opened() as inside:
        with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
            task = progress.add_task("preparing", total=plan.count, completed=len(notebook.done()))
            loop = Loop(room, plan, inside, notebook, _Watcher(progress, task))
            loop.prepare(
                config.replay.prepare,
                lambda ran: progress.console.print(f"prepared: {ran.step}, {ran.seconds:.1f} s"),
            )
            loop.catch_up(plan.end)
        outcome = Judge(loop).outcome()
    write(outcome, by_step(notebook), room.folder)
    show(outcome, console)
    console.print(f"More in {_short(room.folder / 'index.html')}", highlight=False, soft_wrap=True)
    return outcome


def opened_room(project_dir: Path, config: ProjectConfig, plan: Plan, fresh: bool) -> Room:
    """The room of a plan: as it was left, or new."""
    room = Room(project_dir, config, folder_of(project_dir, plan.name))
    if fresh or not room.holds(plan):
        room.make(plan)
    return room


def worker(project_dir: Path, config: ProjectConfig, plan: Plan) -> None:
    """The ticks alone, for a supervisor: it says what time it is, and before each step `go`.

    One JSON object a line, in and out. The room must be there.
    """
    assert config.replay is not None
    room = Room(project_dir, config, folder_of(project_dir, plan.name))
    # events have the output to themselves: what a library or a child prints there goes to the log
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    gate = _Reporter(out, sys.stdin)
    notebook = Notebook(room)
    faults = config.replay.faults
    prepare: tuple[Step, ...] = (faults and faults.prepare) or config.replay.prepare
    with Inside(room.project, room.folder / LOG).opened() as inside:
        loop = Loop(room, plan, inside, notebook, gate)
        loop.prepare(prepare, lambda ran: gate.say("prepared", step=ran.step, seconds=ran.seconds))
        for now in gate.clock():
            try:
                loop.catch_up(now)
            except HindcastError as error:
                gate.say("gave up", message=error.format_message())
                raise


class _Reporter:
    """Tells a supervisor what happens, and waits for its word."""

    def __init__(self, out: IO[str], words: IO[str]) -> None:
        self.out, self.words = out, words

    def say(self, event: str, **what: Any) -> None:
        print(json.dumps({"event": event} | what, default=str), file=self.out, flush=True)

    def clock(self) -> Iterator[datetime]:
        """What time it is, whenever the supervisor says so, until it says no more."""
        while True:
            self.say("ready")
            said = self.words.readline().strip()
            if not said:
                return
            yield datetime.fromisoformat(json.loads(said)["now"]).astimezone(UTC)

    def before(self, at: datetime, attempt: int, step: str) -> None:
        self.say("before", at=at.isoformat(), attempt=attempt, step=step)
        if not self.words.readline():
            raise SystemExit(0)

    def after(self, at: datetime, attempt: int, ran: Ran) -> None:
        self.say("after", at=at.isoformat(), attempt=attempt, **asdict(ran))

    def done(self, tick: Tick) -> None:
        self.say(
            "done",
            at=tick.at.isoformat(),
            seconds=tick.seconds,
            predictions=tick.predictions,
            compared=tick.compared,
            wrong=tick.wrong,
            snapshot=tick.snapshot,
        )


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
