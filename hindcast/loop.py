"""Runs a project's commands in order, each as its own process, and says what it took.

For `hindcast run`. The commands are those of `hindcast.yml`; nothing here knows what they do.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hindcast.config import Step


@dataclass(frozen=True)
class Ran:
    """One finished command: wall seconds, peak memory in MB and its exit code."""

    step: Step
    seconds: float
    peak_mb: float
    exit_code: int


@dataclass(frozen=True)
class Built:
    """One dbt model: its relation's name and the seconds its last build took."""

    name: str
    seconds: float


def run_step(step: Step, at: str, project_dir: Path) -> Ran:
    """Run one command with its output shown as it comes."""
    started = time.perf_counter()
    process = subprocess.Popen(
        shlex.split(step.run.replace("{at}", at)), cwd=project_dir, env=_environment(project_dir)
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    # ru_maxrss counts kilobytes on Linux and bytes on macOS
    peak = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return Ran(step, time.perf_counter() - started, peak, process.returncode)


def models_built(project_dir: Path) -> Iterator[Built]:
    """The models of dbt's last run, in the order they finished; none where it never ran."""
    file = project_dir / "target" / "run_results.json"
    if not file.exists():
        return
    for result in json.loads(file.read_text())["results"]:
        kind, _, *name = result["unique_id"].split(".")
        if kind == "model" and result["status"] == "success":
            yield Built(name[0], float(result["execution_time"]))


def _environment(project_dir: Path) -> dict[str, str]:
    """This process's environment, with the programs of its own virtual environment first."""
    programs = str(Path(sys.executable).parent)
    return os.environ | {
        "PATH": programs + os.pathsep + os.environ.get("PATH", ""),
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(project_dir), os.environ.get("PYTHONPATH")])
        ),
    }
