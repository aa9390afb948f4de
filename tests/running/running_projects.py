"""Projects to run: one of plain small commands, and a copy of ours with two days of the feed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
AT = "2013-01-03T00:00:00Z"


class Project:
    """A project's root, and the real `hindcast` command in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env = os.environ | {
            "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "NO_COLOR": "1",
            "COLUMNS": "300",
            "DBT_USE_COLORS": "false",
        }

    def start(self, arguments: str) -> subprocess.Popen[bytes]:
        """The command in a process of its own; what it says is in the file `said`.

        In no pipe: a step that outlives its run would keep that open.
        """
        with (self.root / "said").open("w") as said:
            return subprocess.Popen(
                ["hindcast", *arguments.split()],
                cwd=self.root,
                env=self.env,
                stdout=said,
                stderr=said,
            )

    def hindcast(self, arguments: str) -> Result:
        """The same command in this process, which need not start Python anew."""
        from hindcast.cli import app

        modules = ("definitions", "on_demand")  # of this feature repository, not of another's
        kept = {name: sys.modules.pop(name) for name in modules if name in sys.modules}
        before = os.getcwd()
        os.chdir(self.root)
        try:
            return CliRunner(env={"NO_COLOR": "1", "COLUMNS": "300"}).invoke(app, arguments.split())
        finally:
            os.chdir(before)
            for name in modules:
                sys.modules.pop(name, None)
            sys.modules |= kept

    def must(self, arguments: str) -> str:
        done = self.hindcast(arguments)
        assert done.exit_code == 0, (done.stdout[-4000:], done.stderr[-4000:], done.exception)
        return done.stdout

    def status(self) -> dict:
        return json.loads(self.must("status --json"))


def copy_of_ours(root: Path) -> Project:
    """Our project with two days of the feed to land, and the daily loop without a model."""
    for part in ("models", "macros", "seeds", "tests/data", "feature_repo"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("dbt_project.yml", "profiles.yml"):
        shutil.copy(ROOT / file, root / file)
    (root / "hindcast.yml").write_text(
        "feature_repo: feature_repo\nfeature_service: late_arrival\nspine: flight_spine\n"
        f"at: {AT}\nsteps:\n"
        '  - {name: land, run: "python -m landing --until {at}"}\n'
        "  - {name: build, run: dbt build}\n"
        "  - {name: catalogue, run: dbt docs generate --static --no-compile}\n"
        "  - {name: register, run: feast -c feature_repo apply}\n"
        "  - {name: materialize, "
        'run: "feast -c feature_repo materialize-incremental {at}"}\n'
        '  - {name: parity, run: "hindcast parity --at {at} --rows 100", verdict: true}\n'
        "ui:\n"
        "  - name: features\n"
        "    run: feast -c feature_repo ui --host 127.0.0.1 --port {port}\n"
        "    pages: {Feature views: /p/hindcast_flights, Not there: /nowhere/at/all}\n"
        "  - name: lineage\n"
        "    run: python -m http.server --bind 127.0.0.1 --directory target {port}\n"
        "    pages: {Lineage: /static_index.html}\n"
    )
    return Project(root)


class Toy(Project):
    """Three steps that write down that they ran. `second` does what the file `how` says."""

    SECOND = (
        "import os, sys, time, pathlib\n"
        "how = pathlib.Path('how').read_text()\n"
        "pathlib.Path('second.pid').write_text(str(os.getpid()))\n"
        "if how == 'fail': sys.exit(3)\n"
        "if how.startswith('sleep'): time.sleep(float(how.split()[1]))\n"
        "open('ran', 'a').write('second ')\n"
    )
    MARK = "import sys; open('ran', 'a').write(sys.argv[1] + ' ')\n"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        (root / "mark.py").write_text(self.MARK)
        (root / "second.py").write_text(self.SECOND)
        self.how("go")
        self.steps(
            "{name: first, run: python mark.py first}",
            "{name: second, run: python second.py}",
            "{name: third, run: 'python mark.py {at}'}",
        )

    def steps(self, *steps: str) -> None:
        head = "feature_repo: feature_repo\nfeature_service: s\nspine: s\n"
        listed = "".join(f"  - {step}\n" for step in steps)
        (self.root / "hindcast.yml").write_text(f"{head}at: {AT}\nsteps:\n{listed}")

    def how(self, second: str) -> None:
        (self.root / "how").write_text(second)

    @property
    def ran(self) -> list[str]:
        """The steps that ran to their end, and a fresh sheet."""
        sheet = self.root / "ran"
        found = sheet.read_text().split() if sheet.exists() else []
        sheet.unlink(missing_ok=True)
        return found

    def until_second(self) -> int:
        """Wait until the second step is at work; its process."""
        file = self.root / "second.pid"
        until = time.monotonic() + 60
        while not file.exists() or not file.read_text():
            assert time.monotonic() < until, "the second step did not begin"
            time.sleep(0.02)
        return int(file.read_text())

    def kill_in_second(self, second: str, arguments: str = "run") -> int:
        """Start a run and kill it, as the kernel would, while its second step is at work.

        Returns the process of that step, which lives on.
        """
        self.how(second)
        run = self.start(arguments)
        step = self.until_second()
        run.send_signal(signal.SIGKILL)
        assert run.wait(60) == -signal.SIGKILL
        (self.root / "second.pid").unlink()
        return step


def wait_for_end(pid: int) -> None:
    """Until a process that is no child of ours has ended."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} does not end")
