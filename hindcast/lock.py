"""One at a time: locks of the operating system's, each on a file of the project.

Two of them: `FILE` for whatever works on the project (a run, or a retraining by hand), and `MODEL`
for whatever decides which model is in use (a retraining, in a run or by hand, or a rollback), so
that a rollback need not wait for a build.

The lock is on the open file, not in what the file says: when the holder dies, however it dies, the
system takes the lock off. The step that a run has started holds the same lock, so that a run
killed in the middle of a build keeps others out until that build has ended. What the file says is
only for telling people who holds it. Not for protecting data: DuckDB, LMDB and the snapshots do
that themselves.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from hindcast.config import utc_text
from hindcast.errors import HindcastError

FILE, MODEL = Path("data/hindcast.lock"), Path("data/model.lock")
RUN = "HINDCAST_RUN"
"""In the environment of a run's steps: the process of the run, whose lock is theirs too."""
PATIENCE_S = 1.0  # somebody may only be looking who holds it


class LockedError(HindcastError):
    """Somebody else is at work. The message names it."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock: its process, since when, and the step it is at with that one's process.

    `pid` is 0 where the file does not say. `what` it is: a run, a retraining, a rollback.
    """

    pid: int
    since: datetime
    at: datetime | None = None
    step: str | None = None
    step_pid: int | None = None
    what: str = "run"

    @property
    def is_alive(self) -> bool:
        """Whether it is alive itself; if not, the step it started holds the lock."""
        return self.pid == 0 or _is_alive(self.pid)

    def __str__(self) -> str:
        since = f"since {utc_text(self.since)}"
        if self.is_alive:
            step = f", now at step {self.step}" if self.step else ""
            return f"a {self.what} (process {self.pid}) is at work {since}{step}"
        return (
            f"the {self.what} of process {self.pid}, begun {utc_text(self.since)}, is dead, but "
            f"its step {self.step} (process {self.step_pid}) is still at work"
        )


class Lock:
    """A lock that is held: by this process, or by the run that it is a step of.

    `passed` is what a child process inherits to hold it too.
    """

    def __init__(self, descriptor: int | None, holder: Holder) -> None:
        """Say in the file who holds it. Without a descriptor it is the run's, which says so."""
        self.passed, self.holder = () if descriptor is None else (descriptor,), holder
        self._write()

    def at_step(self, step: str, pid: int) -> None:
        """Say which step is at work, in which process."""
        self.holder = replace(self.holder, step=step, step_pid=pid)
        self._write()

    def _write(self) -> None:
        values = {
            name: utc_text(value) if isinstance(value, datetime) else value
            for name, value in asdict(self.holder).items()
        }
        for descriptor in self.passed:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(values).encode(), 0)


@contextmanager
def held(
    project_dir: Path,
    at: datetime | None = None,
    *,
    what: str = "run",
    which: Path = FILE,
    may_be_step: bool = False,
) -> Iterator[Lock]:
    """Hold one of the project's locks. `at` and `what` are for people to read.

    With `may_be_step`, a step of the run that holds the lock holds it already, and so does
    whatever the step starts.

    Raises:
        LockedError: somebody else has it; its process and its start are named.
    """
    file = project_dir / which
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        until = time.monotonic() + PATIENCE_S
        while not _taken(descriptor):
            found = _read(descriptor)
            if may_be_step and str(found.pid) == os.environ.get(RUN):
                yield Lock(None, found)
                return
            if time.monotonic() > until:
                raise LockedError(
                    f"{found}. One at a time: wait for it, or stop it, and try again "
                    f"(the lock is {file})"
                )
            time.sleep(0.05)
        since = datetime.now(UTC).replace(microsecond=0)
        yield Lock(descriptor, Holder(os.getpid(), since, at, what=what))
    finally:
        os.close(descriptor)


def holder(project_dir: Path, which: Path = FILE) -> Holder | None:
    """Who holds a lock now; None where nobody does."""
    try:
        descriptor = os.open(project_dir / which, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        return None if _taken(descriptor) else _read(descriptor)
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _read(descriptor: int) -> Holder:
    try:
        said = json.loads(os.pread(descriptor, 10_000, 0))
        times = {k: datetime.fromisoformat(said[k]) for k in ("since", "at") if said[k]}
        return Holder(**(said | times))
    except (ValueError, KeyError, TypeError):  # it is just being written
        return Holder(0, datetime.now(UTC).replace(microsecond=0))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
