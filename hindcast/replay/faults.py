"""What goes wrong on the worst day: kinds of faults, when they strike, and how each is done.

A plan is drawn by a seed: which tick, which fault, how far into a step. Nothing here is pretended:
processes are killed, files are spoiled, a small disk is filled, locks are held. Not for noticing
whether the loop survived: that is `checks`.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hindcast.errors import HindcastError

KILLS = ("land", "build", "publish", "materialize", "score", "log")
FILES = ("corrupted", "truncated", "duplicated", "empty", "other columns", "late", "repeated")
OTHERS = ("full disk", "clock back", "clock ahead", "locked", "two builds", "online store gone")
KINDS = (
    *(f"kill -9 in {step}" for step in KILLS),
    *(f"file {how}" for how in FILES),
    *OTHERS,
)
SHARE = 0.4
"""Of how many ticks something goes wrong with, where there are more ticks than kinds."""
FILLED = 64 * 1024
"""Most bytes that a full disk has left."""


@dataclass
class Fault:
    """One fault: its kind, the tick it waits for, and how far into it. `struck`: it happened."""

    kind: str
    tick: int
    fraction: float
    struck: bool = False
    note: str = ""
    refused: list[tuple[str, int]] = field(default_factory=list)
    """Lines of raw files that must be in quarantine while the fault lasts: the file's path from the
    folder of raw files, and the line's number."""


def drawn(seed: int, ticks: int, kinds: tuple[str, ...] = KINDS) -> list[Fault]:
    """The faults of a run, at most one a tick; each kind comes up as often as the others."""
    draw = random.Random(seed)
    count = min(ticks - 1, max(len(kinds), int(ticks * SHARE)))
    places = sorted(draw.sample(range(ticks - 1), count))
    order: list[str] = []
    while len(order) < count:
        order += draw.sample(kinds, len(kinds))
    return [
        Fault(kind, place, draw.uniform(0.05, 0.85))
        for kind, place in zip(order, places, strict=False)
    ]


class Killer:
    """Kills a process once, at a moment: so many seconds from now, or when a path is there."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Of a process that is running."""
        self.process, self.killed = process, False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def after(self, seconds: float) -> None:
        """Kill it in so many seconds, unless called off before."""
        self._start(lambda: not self._stop.wait(seconds))

    def once_there(self, find: Callable[[], bool], seconds: float) -> None:
        """Kill it so many seconds after something is found to be there."""

        def found() -> bool:
            while not self._stop.is_set():
                if find():
                    return not self._stop.wait(seconds)
                time.sleep(0.0005)
            return False

        self._start(found)

    def call_off(self) -> bool:
        """Don't, if it is not done yet; whether it was done."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        return self.killed

    def _start(self, is_time: Callable[[], bool]) -> None:
        def run() -> None:
            if is_time():
                self.killed = True
                self.process.send_signal(signal.SIGKILL)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()


def appears(folder: Path, pattern: str) -> Callable[[], bool]:
    """Says whether something is in a folder that was not there at first.

    What is killed leaves its unfinished folder behind, which is not to be taken for a new one.
    """
    before = set(folder.glob(pattern))
    return lambda: any(path not in before for path in folder.glob(pattern))


class SmallDisk:
    """A disk of its own for a folder, so that it can be filled up.

    A tmpfs where this process may mount one; otherwise the limit on a process's file sizes, which
    gives it EFBIG instead of ENOSPC.
    """

    def __init__(self, folder: Path, megabytes: int) -> None:
        """Nothing is mounted yet."""
        self.folder, self.megabytes = folder, megabytes
        self.is_mounted = False
        self._ballast = folder / ".ballast"
        self._limited: subprocess.Popen[str] | None = None

    @contextlib.contextmanager
    def mounted(self) -> Iterator[SmallDisk]:
        """The folder on it; what was in the folder before is moved there, and back at the end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.leave()
        kept = self.folder.with_name(f"{self.folder.name}.kept")
        os.rename(self.folder, kept)
        self.folder.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={self.megabytes}m", "hindcast", str(self.folder)]
        done = subprocess.run(["mount", *options], capture_output=True, check=False)
        self.is_mounted = done.returncode == 0
        shutil.copytree(kept, self.folder, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(kept)
        try:
            yield self
        finally:
            self.empty()
            if self.is_mounted:
                shutil.copytree(self.folder, kept, symlinks=True)
                self.leave()
                self.folder.rmdir()
                os.rename(kept, self.folder)

    def fill(self, process: subprocess.Popen[str], draw: random.Random) -> str:
        """Leave almost no room; what was done, in words."""
        left = draw.randrange(FILLED)
        if not self.is_mounted:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (left, resource.RLIM_INFINITY))
            self._limited = process
            return f"file size limited to {left:,} bytes"
        free = shutil.disk_usage(self.folder).free
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(free - left, 1))
        return f"tmpfs filled up to {left:,} bytes"

    def empty(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)
        if self._limited is not None and self._limited.poll() is None:
            no_limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.prlimit(self._limited.pid, resource.RLIMIT_FSIZE, no_limit)
        self._limited = None

    def leave(self) -> None:
        """Unmount it, if it is."""
        if os.path.ismount(self.folder):
            done = subprocess.run(["umount", str(self.folder)], capture_output=True, check=False)
            if done.returncode:
                raise HindcastError(
                    f"{self.folder} cannot be unmounted ({done.stderr.decode().strip()}): let go "
                    "of what uses it, then `umount` it"
                )


def spoil(fault: Fault, raw: Path, draw: random.Random) -> list[Path]:
    """Spoil a raw file as the fault says; what was added and must go again is given back.

    The newest files of the source that grows most are struck, sometimes an older one.
    """
    how = fault.kind.removeprefix("file ")
    file = _victim(raw, draw, newest=how in ("late", "repeated"))
    lines = file.read_text().splitlines()
    fault.note = name = file.relative_to(raw).as_posix()
    if how == "corrupted":
        for number in sorted(draw.sample(range(1, len(lines)), min(3, len(lines) - 1))):
            lines[number] = _garbled(lines[number], draw)
            fault.refused.append((name, number + 1))
    elif how == "truncated":
        lines = lines[: draw.randrange(2, len(lines) + 1)]
        fields = lines[-1].split(",")
        lines[-1] = ",".join(fields[: len(fields) // 2])
        fault.refused.append((name, len(lines)))
    elif how == "empty":
        file.write_text("")
        return []
    elif how == "other columns":
        lines[0] = lines[0].replace(lines[0].split(",")[1], "renamed", 1)
    elif how == "late":
        lines = lines[: max(1, len(lines) - draw.randrange(1, 30))]
    elif how == "repeated":
        again = draw.sample(lines[1:], min(5, len(lines) - 1))
        fault.refused += [(name, len(lines) + i + 1) for i in range(len(again))]
        lines += again
    elif how == "duplicated":
        copy = file.with_name(f"{file.stem}_again.csv")
        shutil.copy(file, copy)
        name = copy.relative_to(raw).as_posix()
        fault.refused += [(name, i + 2) for i in range(len(lines) - 1)]
        return [copy]
    file.write_text("\n".join(lines) + "\n")
    return []


def _victim(raw: Path, draw: random.Random, newest: bool) -> Path:
    sizes = {
        folder: sum(file.stat().st_size for file in folder.glob("*.csv"))
        for folder in raw.iterdir()
        if folder.is_dir() and len(list(folder.glob("*.csv"))) > 1
    }
    folder = max(sizes, key=lambda each: sizes[each])
    files = sorted(file for file in folder.glob("*.csv") if file.stat().st_size > 2_000)
    if newest or draw.random() < 0.7:
        return files[-1]
    return draw.choice(files[-10:])


def _garbled(line: str, draw: random.Random) -> str:
    """A line that no reader can take for a record: letters in all that is a number."""
    return "".join(draw.choice("#?!~") if letter.isdigit() else letter for letter in line)


@contextlib.contextmanager
def locked(warehouse: Path, seconds: float) -> Iterator[None]:
    """Another process holds the warehouse for so long."""
    code = (
        "import duckdb, sys, time\n"
        f"connection = duckdb.connect({str(warehouse)!r})\n"
        "print('held', flush=True)\n"
        f"time.sleep({seconds})\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        yield
    finally:
        holder.wait()


def second_build(project: Path, command: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start a build of its own in the same project."""
    return subprocess.Popen(
        command.split(),
        cwd=project,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def is_held(warehouse: Path) -> bool:
    """Whether another process has the warehouse open for writing."""
    import duckdb

    try:
        duckdb.connect(str(warehouse), read_only=True).close()
    except duckdb.IOException:
        return True
    return False
