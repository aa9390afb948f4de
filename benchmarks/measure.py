"""What every benchmark shares: a process's CPU seconds and memory, ratios, and the docs page.

Methods that are compared are run in turns, each in a fresh process, so that a noisy minute hits
all of them alike; what counts is the median, and the ratio of medians.
"""

from __future__ import annotations

import platform
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


@dataclass
class Usage:
    """What a block of code used: CPU seconds of all threads, and peak memory above its start."""

    cpu: float = 0.0
    megabytes: float = 0.0


@contextmanager
def used() -> Iterator[Usage]:
    """Measure a block. Peak memory needs Linux; elsewhere it is 0."""
    status, usage = Path("/proc/self/status"), Usage()
    if status.exists():
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before, cpu = _peak(status), _cpu()
    yield usage
    usage.cpu, usage.megabytes = _cpu() - cpu, max(0.0, _peak(status) - before)


def _cpu() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


def _peak(status: Path) -> float:
    if not status.exists():
        return 0.0
    (line,) = (text for text in status.read_text().splitlines() if text.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def machine() -> str:
    """The processor and what it has, in a line."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = f"{models[0].split(': ')[1]}, {len(models)} threads" if models else name
    return f"{name}, Python {platform.python_version()}"


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table; the first row is its head."""
    head, *others = (f"| {' | '.join(row)} |" for row in rows)
    return [head, f"|{'---|' * len(rows[0])}", *others]


def write_section(name: str, text: str) -> None:
    """Replace one benchmark's section of `docs/benchmarks.md`, or add it."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    page = PAGE.read_text() if PAGE.exists() else "# Benchmarks\n"
    section = f"{begin}\n{text.strip()}\n{end}"
    if begin in page:
        head, _, rest = page.partition(begin)
        page = head + section + rest.partition(end)[2]
    else:
        page = f"{page.rstrip()}\n\n{section}\n"
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page)
