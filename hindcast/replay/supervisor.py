"""The worst day: a process runs the ticks, this one breaks things, restarts it, and looks on.

Before each step the worker waits for a word, so that a fault strikes where the plan says. A worker
that was killed is started again by the same command, and goes on with the first tick that is not
done. At the end come the checks. Not for what a fault is: see `faults`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hindcast.config import ProjectConfig, utc_text
from hindcast.errors import HindcastError
from hindcast.replay import checks, faults
from hindcast.replay.checks import Check, Watch
from hindcast.replay.commands import Inside, filled
from hindcast.replay.faults import Fault, Killer, SmallDisk
from hindcast.replay.figures import ON_TIME, folder_of
from hindcast.replay.room import Plan, Room
from hindcast.replay.run import LOG, opened_room
from hindcast.replay.ticks import Notebook

if TYPE_CHECKING:
    from rich.console import Console

RESTARTS = 6
"""Times that a worker may end before its first tick is done, without having been killed."""
JUMP = 5
"""Ticks by which a clock jumps."""
CLOCK = "clock"
PUBLISHED, LOGGED = "build", "score"
"""The steps in which a snapshot is published, and answers are logged: the usual names."""


@dataclass
class Survived:
    """What the worst day came to."""

    seed: int
    ticks: int
    planned: int
    faults: list[Fault]
    restarts: int
    retried: int
    on_time: int
    longest_s: float
    disk: str
    seconds: float
    checks: list[Check] = field(default_factory=list)

    @property
    def struck(self) -> list[Fault]:
        """The faults that happened."""
        return [fault for fault in self.faults if fault.struck]

    @property
    def passed(self) -> bool:
        """Whether everything is as if nothing had happened."""
        return self.ticks == self.planned and all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"passed": self.passed}


class Supervisor:
    """One run. `seconds` it took are kept by tick: from the first step begun to all done."""

    def __init__(self, room: Room, plan: Plan, kinds: tuple[str, ...] = faults.KINDS) -> None:
        """Draw the plan of faults."""
        section = room.config.replay
        assert section is not None and section.faults is not None and plan.seed is not None
        self.room, self.plan, self.section, self.limits = room, plan, section, section.faults
        missing = {"land", "build", "materialize", "score"} - {s.name for s in section.steps}
        if missing:
            raise HindcastError(
                f"`replay.steps` in hindcast.yml has no step {', '.join(sorted(missing))}: faults "
                "strike in steps of these names"
            )
        self.draw = random.Random(plan.seed + 1)
        self.faults = faults.drawn(plan.seed, plan.count, kinds)
        self.data = room.project / section.own[0]
        self.places = room.places()
        self.restarts = 0
        self.took: dict[str, float] = {}
        self.usual: dict[str, list[float]] = {}
        self.misses: list[str] = []
        self._begun: dict[str, float] = {}
        self._extra: list[Path] = []
        self._others: list[subprocess.Popen[str]] = []
        self._killer: Killer | None = None
        self._fault: Fault | None = None
        self.disk: SmallDisk
        self._process: subprocess.Popen[str]
        self._words = (room.folder / "worker.log").open("a")

    # --- the run ------------------------------------------------------------------------

    def run(self, progress: Progress, task: Any) -> Watch:
        """All ticks, with faults. Raises HindcastError where the worker cannot go on."""
        self.data.mkdir(parents=True, exist_ok=True)
        ended = 0
        with SmallDisk(self.data, self.limits.disk_mb).mounted() as self.disk:
            watch = Watch(self.places.published)
            try:
                while True:
                    done = len(self.took)
                    code = self._one_worker(progress, task)
                    if code == 0:
                        break
                    self.restarts += 1
                    ended = 0 if len(self.took) > done or code < 0 else ended + 1
                    if ended > RESTARTS:
                        raise HindcastError(
                            f"the worker ended {ended} times with exit code {code} and did no "
                            f"tick: see {self.room.folder / 'worker.log'}"
                        )
            finally:
                watch.stop()
                self._words.close()
        return watch

    def _one_worker(self, progress: Progress, task: Any) -> int:
        self._process = process = subprocess.Popen(
            self._command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
            cwd=self.room.origin,
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                event = json.loads(line)
                progress.update(task, completed=len(self.took))
                if not self._react(event, progress, task):
                    break
        except BrokenPipeError:
            pass  # it was killed while we answered
        finally:
            with contextlib.suppress(BrokenPipeError):
                if process.stdin is not None:
                    process.stdin.close()
            process.stdout.close()
            code = process.wait()
            if self._killer is not None and self._killer.call_off() and self._fault is not None:
                self._fault.struck = True
            self._killer = None
            self._heal()
            for other in self._others:
                other.wait()
            self._others = []
        return code

    def _command(self) -> list[str]:
        plan = self.plan
        minutes = plan.tick // timedelta(minutes=1)
        return [
            *(sys.executable, "-c", "from hindcast.cli import app; app()", "replay", "--worker"),
            *("--project", str(self.room.origin), "--start", utc_text(plan.start)),
            *("--ticks", str(plan.count), "--tick", f"{minutes} minutes"),
            *("--faults", str(plan.seed)),
        ]

    def _say(self, **what: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def _react(self, event: dict[str, Any], progress: Progress, task: Any) -> bool:
        """Answer the worker; whether there is more to do."""
        kind = event["event"]
        if kind == "prepared":
            progress.update(task, description=f"prepared: {event['step']}")
        elif kind == "ready":
            self._count_done()
            at = self._next_tick()
            if at is None:
                return False
            self._say(now=utc_text(self._clock(at)))
        elif kind == "before":
            self._begun.setdefault(event["at"], time.monotonic())
            tick = self._number(event["at"])
            fault = self._due(tick, event["step"])
            progress.update(
                task, description=f"tick {tick} {event['step']} {fault.kind if fault else ''}"
            )
            self._strike(fault, event)
        elif kind == "after":
            self._over(event)
        elif kind == "done":
            took = self.took[event["at"]] = time.monotonic() - self._begun[event["at"]]
            if not progress.console.is_terminal:
                progress.console.print(f"{event['at']}: {took:.1f} s", highlight=False)
            self._heal()
        return True

    def _count_done(self) -> None:
        """Ticks that a worker had written down when it was killed, before it could tell."""
        for at in Notebook(self.room).done():
            begun = self._begun.get(at.isoformat(), time.monotonic())
            self.took.setdefault(at.isoformat(), time.monotonic() - begun)

    def _next_tick(self) -> datetime | None:
        return next((at for at in self.plan.ticks if at.isoformat() not in self.took), None)

    def _number(self, at: str) -> int:
        return round((datetime.fromisoformat(at) - self.plan.start) / self.plan.tick)

    def _due(self, tick: int, step: str) -> Fault | None:
        """The first fault that waits for this step: of this tick, or missed in an earlier one."""
        waiting = [fault for fault in self.faults if not fault.struck and fault.tick <= tick]
        return next((fault for fault in waiting if self._step_of(fault) == step), None)

    def _step_of(self, fault: Fault) -> str:
        """In, or just before, which step a fault strikes."""
        if fault.kind.startswith("kill"):
            where = fault.kind.rpartition(" ")[2]
            return {"publish": PUBLISHED, "log": LOGGED}.get(where, where)
        if fault.kind.startswith("clock"):
            return CLOCK
        if fault.kind == "full disk":
            names = [step.name for step in self.section.steps]
            return names[int(fault.fraction * len(names))]
        if fault.kind == "online store gone":
            return "materialize" if fault.fraction < 0.5 else "score"
        return "build"

    def _clock(self, at: datetime) -> datetime:
        """What time it is, or what a clock that jumped says."""
        fault = self._due(self._number(at.isoformat()), CLOCK)
        if fault is None:
            return at
        fault.struck = True
        if fault.kind == "clock back":
            fault.note = f"{JUMP} ticks back"
            return at - self.plan.tick * JUMP
        fault.note = f"{JUMP} ticks ahead, each was done as of its own instant"
        return at + self.plan.tick * JUMP

    # --- striking -----------------------------------------------------------------------

    def _strike(self, fault: Fault | None, event: dict[str, Any]) -> None:
        """Let the step go, with what is to happen before or in it."""
        self._killer = self._fault = None
        step = event["step"]
        if fault is None:
            self._say(go=True)
        elif fault.kind.startswith("kill"):
            self._kill(fault, step)
        elif fault.kind == "locked":
            with faults.locked(self.places.warehouse, 1 + 3 * fault.fraction):
                fault.struck = True
                self._say(go=True)
        else:
            fault.struck, self._fault = True, fault
            if fault.kind.startswith("file"):
                raw = self.room.project / self.section.raw
                self._extra += faults.spoil(fault, raw, self.draw)
            elif fault.kind == "full disk":
                fault.note = f"{step}: {self.disk.fill(self._process, self.draw)}"
            elif fault.kind == "two builds":
                self._begin_another_build()
            else:
                shutil.rmtree(self.places.online, ignore_errors=True)
                fault.note = f"before {step}"
            self._say(go=True)

    def _kill(self, fault: Fault, step: str) -> None:
        where = fault.kind.rpartition(" ")[2]
        self._killer, self._fault = Killer(self._process), fault
        if where == "publish":
            begun = faults.appears(self.places.published, ".unfinished-*")
            self._killer.once_there(begun, 0.3 * fault.fraction**2)
        elif where == "log":
            begun = faults.appears(self.room.project / self.limits.log, ".[0-9a-f]*")
            self._killer.once_there(begun, 0.01 * fault.fraction**2)
        else:
            usual = statistics.median(self.usual.get(step) or [1.0])
            self._killer.after(usual * fault.fraction)
        self._say(go=True)

    def _begin_another_build(self) -> None:
        """Start another build of the same project, and wait until it is at it."""
        command = next(step.run for step in self.section.steps if step.name == "build")
        environment = _plain_environment(self.room.origin)
        other = faults.second_build(self.room.project, command, environment)
        while other.poll() is None and not faults.is_held(self.places.warehouse):
            time.sleep(0.05)
        self._others.append(other)

    def _over(self, event: dict[str, Any]) -> None:
        """A step has ended, and not by being killed."""
        step, message = event["step"], event["message"]
        if self._killer is not None and self._killer.call_off():
            assert self._fault is not None
            self._fault.struck = True
        elif message is None:
            self.usual.setdefault(step, []).append(event["seconds"])
        self._killer = None
        if message is not None:
            self.disk.empty()
            self._heal()
        if self._fault is not None and self._fault.refused and step == "build" and not message:
            self._refused(self._fault)

    def _heal(self) -> None:
        """What does not mend itself by the feed being delivered again."""
        self.disk.empty()
        for file in self._extra:
            file.unlink(missing_ok=True)
        self._extra = []

    def _refused(self, fault: Fault) -> None:
        """Every line that must be refused is in quarantine, with its reason."""
        held = checks.quarantined(
            self.places.warehouse,
            self.limits.quarantine,
            self.room.project,
            self.room.project / self.section.raw,
        )
        missing = [line for line in fault.refused if not held.get(line)]
        if missing:
            self.misses.append(f"{fault.kind}: {len(missing)} lines, such as {missing[0]}")


def _plain_environment(project: Path) -> dict[str, str]:
    programs = str(Path(sys.executable).parent)
    return os.environ | {"PATH": programs + os.pathsep + os.environ.get("PATH", "")}


def worst_day(
    project_dir: Path,
    config: ProjectConfig,
    plan: Plan,
    console: Console,
    kinds: tuple[str, ...] = faults.KINDS,
    fresh: bool = True,
) -> Survived:
    """Run a plan with faults from its beginning, and check what is left.

    Unless `fresh`, in the room as it is, if it is one of this plan: it may be prepared already.
    """
    started = time.perf_counter()
    before = Room(project_dir, config, folder_of(project_dir, plan.name))
    assert config.replay is not None
    SmallDisk(before.project / config.replay.own[0], 0).leave()  # of a run that was killed
    room = opened_room(project_dir, config, plan, fresh)
    supervisor = Supervisor(room, plan, kinds)
    console.print(
        f"{plan.count:,} ticks from {utc_text(plan.start)}, {len(supervisor.faults)} faults by "
        f"seed {plan.seed}, in {room.folder}",
        highlight=False,
        soft_wrap=True,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("preparing", total=plan.count)
        watch = supervisor.run(progress, task)
        progress.update(task, description="comparing with a run without faults")
        survived = _survived(supervisor, watch)
        # of the copy, whose definitions are those that the run began with
        reference = Room(room.project, config, room.folder.with_name(f"{room.folder.name}.calm"))
        with _calm(reference, plan):
            survived.checks += _compared(room, reference, plan)
    survived.seconds = time.perf_counter() - started
    (room.folder / "outcome.json").write_text(json.dumps(survived.as_dict(), indent=2) + "\n")
    show(survived, console)
    return survived


def _survived(supervisor: Supervisor, watch: Watch) -> Survived:
    plan, notebook = supervisor.plan, Notebook(supervisor.room)
    limit = plan.tick.total_seconds()
    ticks = notebook.rows("select compared, wrong, attempts, predictions from replay_ticks")
    struck = [fault for fault in supervisor.faults if fault.struck]
    lines = sum(len(fault.refused) for fault in struck)
    compared, wrong = (sum(row[i] for row in ticks) for i in (0, 1))
    on_time = sum(seconds <= limit for seconds in supervisor.took.values())
    return Survived(
        seed=plan.seed or 0,
        ticks=len(ticks),
        planned=plan.count,
        faults=supervisor.faults,
        restarts=supervisor.restarts,
        retried=sum(row[2] > 1 for row in ticks),
        on_time=on_time,
        longest_s=max(supervisor.took.values(), default=0.0),
        disk="tmpfs" if supervisor.disk.is_mounted else "limit on file sizes",
        seconds=0.0,
        checks=[
            Check(
                "every tick is done, or was cleanly tried again",
                len(ticks) == plan.count,
                f"{len(ticks)} of {plan.count} ticks, {supervisor.restarts} restarts",
            ),
            Check(
                "every fault of the plan happened",
                len(struck) == len(supervisor.faults),
                f"{len(struck)} of {len(supervisor.faults)}",
            ),
            Check(
                "no half-published snapshot was ever visible",
                not watch.faults and watch.looks > 0,
                f"{watch.looks:,} looks at {len(watch.snapshots)} snapshots"
                + "".join(f"; {fault}" for fault in watch.faults[:3]),
            ),
            Check(
                "no stale or mixed value was served as fresh",
                not wrong and compared > 0,
                f"{compared:,} values of {sum(r[3] for r in ticks):,} predictions, {wrong} differ",
            ),
            Check(
                f"at least {100 * ON_TIME:g} % of ticks are on time",
                on_time >= ON_TIME * plan.count,
                f"{on_time} of {plan.count}, tries and restarts included",
            ),
            Check(
                "every refused record is in quarantine with its reason",
                not supervisor.misses,
                f"{lines:,} records" + "".join(f"; {miss}" for miss in supervisor.misses[:3]),
            ),
        ],
    )


@contextlib.contextmanager
def _calm(reference: Room, plan: Plan) -> Iterator[None]:
    """The same feed, landed, built and materialized at once, in a room of its own."""
    section = reference.config.replay
    assert section is not None and section.faults is not None
    reference.make()
    last = plan.ticks[-1]
    values = plan.placeholders(last) | {"start": utc_text(last)}
    with Inside(reference.project, reference.folder / LOG).opened() as inside:
        for step in section.faults.prepare or section.prepare:
            if step.name != "train":
                inside.run(filled(step.run, values))
    yield
    shutil.rmtree(reference.folder)


def _compared(room: Room, reference: Room, plan: Plan) -> list[Check]:
    section = room.config.replay
    assert section is not None and section.faults is not None
    here, there = room.places(), reference.places()
    repo = room.config.feature_repo
    return [
        checks.raw_equal(room.project / section.raw, reference.project / section.raw),
        checks.warehouse_equal(here.warehouse, there.warehouse, section.faults.stamps),
        checks.published_equal(here.published, there.published),
        checks.all_served(room.project / repo, room.config, plan.start, plan.end),
        checks.online_equal(
            checks.online_rows(room.project / repo), checks.online_rows(reference.project / repo)
        ),
    ]


def show(survived: Survived, console: Console) -> None:
    """Faults, checks, and one sentence."""
    from rich.table import Table

    kinds = Table("fault", title=f"what went wrong (disk: {survived.disk})")
    kinds.add_column("planned", justify="right")
    kinds.add_column("happened", justify="right")
    for kind in dict.fromkeys(sorted(fault.kind for fault in survived.faults)):
        of_kind = [fault for fault in survived.faults if fault.kind == kind]
        kinds.add_row(kind, str(len(of_kind)), str(sum(fault.struck for fault in of_kind)))
    console.print(kinds)
    table = Table("check", "", "looked at", title="what must be true")
    for check in survived.checks:
        mark = "[green]yes" if check.passed else "[red]NO"
        table.add_row(check.name, mark, check.found)
    console.print(table)
    share = 100 * survived.on_time / survived.planned
    word = "survived" if survived.passed else "NOT survived"
    console.print(
        f"The worst day {word}: {len(survived.struck)} faults in {survived.ticks} ticks, "
        f"{survived.restarts} restarts, {survived.retried} ticks tried again; {share:.1f} % of "
        f"ticks on time, the longest {survived.longest_s:.0f} s ({survived.seconds:.0f} s).",
        style="bold",
        highlight=False,
        soft_wrap=True,
    )
