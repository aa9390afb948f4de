"""The whole loop once: a project's commands in order, each as its own process, on the record.

For `hindcast run`. The commands are those of `hindcast.yml`; nothing here knows what they do. One
run at a time (`hindcast.lock`), every step written down as it begins and ends (`hindcast.runs`), so
a run that failed or was killed can be taken up at the step where it stopped.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import FrameType

from hindcast import lock, runs, snapshot
from hindcast.config import ProjectConfig, Step, utc_text
from hindcast.errors import HindcastError, MissingInputError
from hindcast.runs import Run, StepRun

DBT_RESULTS = Path("target/run_results.json")
SECONDS_TO_STOP = 20.0  # for a step, when the run is asked to end
INTERRUPTED, TERMINATED, NO_PROGRAM = 130, 143, 127  # exit codes, as shells have them


class StepFailedError(HindcastError):
    """A step ended badly, and the run with it."""


class StoppedError(HindcastError):
    """The run was asked to end (Ctrl-C, or SIGTERM)."""


@dataclass(frozen=True)
class Planned:
    """What is about to be done: a step, its place among the others, and what it usually takes."""

    step: Step
    command: str
    position: int
    count: int
    usual_s: float | None


@dataclass(frozen=True)
class Ran:
    """What a loop did: its run, and the steps of this attempt."""

    run: Run
    steps: tuple[StepRun, ...]
    left_out: tuple[Step, ...]
    done_before: tuple[str, ...]

    @property
    def verdicts(self) -> tuple[str, ...]:
        """The steps that found something to be wrong, without failing."""
        return tuple(step.step for step in self.steps if step.is_done and step.exit_code)


@dataclass(frozen=True)
class Built:
    """One dbt model: its relation's name and the seconds its last build took."""

    name: str
    seconds: float


def run(
    project_dir: Path,
    config: ProjectConfig,
    at: datetime,
    *,
    only: Sequence[str] = (),
    resume: Run | None = None,
    everything: bool = False,
    tell: Callable[[Planned], None] = lambda planned: None,
) -> Ran:
    """Run the loop's steps, or `only` some of them, for the instant `at`.

    `resume` is the run to go on with: what it has done is not done again. `everything`: steps are
    not left out because what they make is there. `tell` hears of each step before it begins.

    Raises:
        LockedError: another run is at work.
        StepFailedError: a step failed. The record has it, and `resume` goes on there.
        StoppedError: the run was asked to end.
    """
    chosen = [step for step in config.steps if not only or step.name in only]
    with (
        lock.held(project_dir, at) as held,
        told_to_end(),
        at_work(
            project_dir, config, at, chosen, held, resume=resume, everything=everything
        ) as work,
    ):
        usual = runs.usual_seconds(project_dir)
        try:
            for position, step in enumerate(chosen, 1):
                if step.name in work.done_before or step in work.left_out:
                    continue
                command = work.commands[step.name]
                tell(Planned(step, command, position, len(chosen), usual.get(step.name)))
                work.run(step)
        except KeyboardInterrupt:
            work.code = INTERRUPTED
            raise StoppedError(_stopped(at, everything)) from None
        except TerminatedError:
            work.code = TERMINATED
            raise StoppedError(_stopped(at, everything)) from None
    return Ran(work.record, tuple(work.ran), tuple(work.left_out), tuple(work.done_before))


@dataclass
class Note:
    """How a step ended, from the one who waited for it."""

    exit_code: int = NO_PROGRAM
    peak_mb: float | None = 0.0


class Work:
    """A run at work. It holds the lock, and its steps go on the record as they begin and end.

    `code` is what it ends with where steps are left undone.
    """

    def __init__(
        self,
        project_dir: Path,
        record: Run,
        attempt: int,
        chosen: Sequence[Step],
        held: lock.Lock,
        everything: bool,
    ) -> None:
        """Look which of the chosen steps there is nothing to do for."""
        self.project_dir, self.record, self.attempt = project_dir, record, attempt
        self.chosen, self.held, self.everything = chosen, held, everything
        self.commands = {
            step.name: step.run.replace("{at}", utc_text(record.at)) for step in chosen
        }
        self.left_out = [step for step in chosen if not everything and _is_made(step, project_dir)]
        self.done_before = _done_before(record, chosen, self.commands, self.left_out)
        self.ran: list[StepRun] = []
        self.code = 1

    @property
    def is_done(self) -> bool:
        """Whether no step is left to do."""
        done = {step.step for step in self.ran if step.is_done} | {*self.done_before}
        return all(step.name in done or step in self.left_out for step in self.chosen)

    def run(self, step: Step) -> StepRun:
        """Run a step's command as a process of its own, to its end.

        Raises:
            StepFailedError: it failed.
        """
        command = self.commands[step.name]
        with self.noted(step) as note:
            try:
                process = subprocess.Popen(
                    shlex.split(command),
                    cwd=self.project_dir,
                    env=environment(self.project_dir) | {lock.RUN: str(os.getpid())},
                    pass_fds=self.held.passed,  # so that nobody else begins while it is at work
                )
            except FileNotFoundError as fault:
                raise StepFailedError(
                    f"step {step.name} cannot run: there is no {fault.filename}. See what "
                    f"`hindcast doctor` says of it; the step is: {command}"
                ) from None
            try:
                self.held.at_step(step.name, process.pid)
                note.exit_code, note.peak_mb = _waited_for(process)
            except BaseException:  # the run is asked to end, by whatever name: the step first
                note.exit_code = stop(process)
                raise
        done = self.ran[-1]
        if not done.is_done:
            raise StepFailedError(
                _failed(done, self.record.at, self.record.is_whole, self.everything)
            )
        return done

    @contextmanager
    def noted(self, step: Step) -> Iterator[Note]:
        """Write down a step that the caller runs: that it begins, and how it ended by the note."""
        begun = StepRun(
            self.attempt,
            self.chosen.index(step) + 1,
            step.name,
            self.commands[step.name],
            runs.now(),
            is_verdict=step.verdict,
        )
        runs.step_begins(self.project_dir, self.record.run_id, begun)
        before = _dbt_invocation(self.project_dir)
        started = time.perf_counter()
        note = Note()
        try:
            yield note
        finally:
            after = _dbt_invocation(self.project_dir)
            ended = replace(
                begun,
                ended_at=runs.now(),
                seconds=time.perf_counter() - started,
                peak_mb=note.peak_mb,
                exit_code=note.exit_code,
                snapshot=current_snapshot(self.project_dir),
                dbt_invocation_id=after if after != before else None,
            )
            runs.step_ends(self.project_dir, self.record.run_id, ended)
            self.ran.append(ended)
            if not ended.is_done:
                self.code = note.exit_code or 1


@contextmanager
def at_work(
    project_dir: Path,
    config: ProjectConfig,
    at: datetime,
    chosen: Sequence[Step],
    held: lock.Lock,
    *,
    resume: Run | None = None,
    everything: bool = False,
) -> Iterator[Work]:
    """A run of the chosen steps, on record from here on; on leaving, that it ended, and how.

    For who has the lock, `held`. `run` is all there is to it, unless somebody else must say when
    each step's time has come.
    """
    names = [step.name for step in chosen]
    is_whole = len(chosen) == len(config.steps)
    if resume is None:
        record, attempt = runs.begin(project_dir, at, names, is_whole, os.getpid()), 1
    else:
        record = resume
        attempt = runs.go_on(project_dir, resume, names, os.getpid())
    work = Work(project_dir, record, attempt, chosen, held, everything)
    try:
        yield work
    finally:
        code = 0 if work.is_done else work.code
        runs.end(project_dir, record.run_id, code, current_snapshot(project_dir))


def to_resume(project_dir: Path, at: datetime | None) -> Run | None:
    """The run that `--resume` goes on with: the newest of the whole loop for `at` (None: of any).

    None where there is none, or where there is nothing left to do, which its outcome tells.
    """
    return runs.last_whole(project_dir, at)


def last_attempt(project_dir: Path) -> tuple[StepRun, ...]:
    """The steps of the newest run's last attempt."""
    newest = runs.last(project_dir, 1)[0]
    return tuple(step for step in newest.ran if step.attempt == newest.attempts)


def run_command(command: str, project_dir: Path) -> int:
    """Run one command with its output shown as it comes; its exit code."""
    return subprocess.run(
        shlex.split(command), cwd=project_dir, env=environment(project_dir), check=False
    ).returncode


def models_built(project_dir: Path) -> Iterator[Built]:
    """The models of dbt's last run, in the order they finished; none where it never ran."""
    file = project_dir / DBT_RESULTS
    if not file.exists():
        return
    for result in json.loads(file.read_text())["results"]:
        kind, _, *name = result["unique_id"].split(".")
        if kind == "model" and result["status"] == "success":
            yield Built(name[0], float(result["execution_time"]))


def current_snapshot(project_dir: Path) -> str | None:
    """The id of the published snapshot; None where there is none."""
    try:
        return snapshot.current(project_dir / snapshot.PUBLISHED.parent).id
    except MissingInputError:
        return None


def environment(project_dir: Path) -> dict[str, str]:
    """This process's environment, with the programs of its own virtual environment first."""
    programs = str(Path(sys.executable).parent)
    return os.environ | {
        "PATH": programs + os.pathsep + os.environ.get("PATH", ""),
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(project_dir.resolve()), os.environ.get("PYTHONPATH")])
        ),
    }


def _done_before(
    record: Run, chosen: Sequence[Step], commands: dict[str, str], left_out: Sequence[Step]
) -> list[str]:
    """The steps from the first on that the run has done, by the commands they have now."""
    done = {(step.step, step.command) for step in record.ran if step.is_done}
    found: list[str] = []
    for step in chosen:
        if (step.name, commands[step.name]) in done:
            found.append(step.name)
        elif step not in left_out:
            break
    return found


def _is_made(step: Step, project_dir: Path) -> bool:
    return step.unless is not None and (project_dir / step.unless).exists()


def _waited_for(process: subprocess.Popen[bytes]) -> tuple[int, float]:
    """A process's exit code and its peak memory in MB, once it has ended."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    # ru_maxrss counts kilobytes on Linux and bytes on macOS
    return process.returncode, usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def stop(process: subprocess.Popen[bytes]) -> int:
    """End a step because the run is asked to end. After Ctrl-C the terminal has told it already.

    Returns its exit code.
    """
    process.terminate()
    try:
        return process.wait(SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _dbt_invocation(project_dir: Path) -> str | None:
    """The id that dbt gave to what it ran last."""
    try:
        return str(json.loads((project_dir / DBT_RESULTS).read_text())["metadata"]["invocation_id"])
    except (FileNotFoundError, ValueError, KeyError):
        return None


class TerminatedError(BaseException):
    """SIGTERM came. Like KeyboardInterrupt, nothing but the loop may catch it."""


@contextmanager
def told_to_end() -> Iterator[None]:
    """SIGTERM is raised as TerminatedError, so that it ends as Ctrl-C does: the step first.

    Then the record, then the lock.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        raise TerminatedError

    try:
        before = signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # not in the main thread, which is not asked to end by a signal
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _resume_by(at: datetime, everything: bool) -> str:
    return f"hindcast run --resume{' --everything' * everything} --at {utc_text(at)}"


def _failed(step: StepRun, at: datetime, is_whole: bool, everything: bool) -> str:
    on = f"go on from there: `{_resume_by(at, everything)}`" if is_whole else "try again"
    return (
        f"step {step.step} failed (exit code {step.exit_code}); its message is above. Mend it and "
        f"{on}. By itself it is: {step.command}"
    )


def _stopped(at: datetime, everything: bool) -> str:
    return (
        f"the run was asked to end. It goes on where it stopped by `{_resume_by(at, everything)}`"
    )
