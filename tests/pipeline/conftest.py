"""A copy of this project with three days of the real feed, driven by its plain commands only."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.testing
from click.testing import CliRunner, Result

ROOT = Path(__file__).parents[2]
PARTS = ["models", "macros", "seeds", "tests/data", "feature_repo"]
FILES = ["dbt_project.yml", "profiles.yml", "hindcast.yml"]
UNTIL = "2013-01-04T00:00:00Z"

Run = Callable[..., subprocess.CompletedProcess[str]]


class Project:
    """The copy: its root, and a way to run a command in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.raw = root / "data" / "raw"

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        programs = str(Path(sys.executable).parent)
        env = os.environ | {
            "PATH": programs + os.pathsep + os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "NO_COLOR": "1",
            "COLUMNS": "300",
            "DBT_USE_COLORS": "false",
        }
        return subprocess.run(
            command.split(), cwd=self.root, env=env, capture_output=True, text=True, check=False
        )

    def must(self, command: str) -> str:
        done = self.run(command)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    def feast(self, arguments: str) -> str:
        """What a feast command says, without the seconds that starting Python anew takes."""
        from feast.cli.cli import cli

        done = self._in_process(CliRunner(), cli, arguments)
        assert done.exit_code == 0, done.output[-4000:]
        return done.output

    def hindcast(self, arguments: str) -> Result:
        """A hindcast command, likewise."""
        from hindcast.cli import app

        return self._in_process(typer.testing.CliRunner(), app, arguments)

    def _in_process(self, runner: CliRunner, command: Any, arguments: str) -> Result:
        modules = ("definitions", "on_demand")  # of this feature repository, not of another's
        kept = {name: sys.modules.pop(name) for name in modules if name in sys.modules}
        before = os.getcwd()
        os.chdir(self.root)
        try:
            return runner.invoke(command, arguments.split())
        finally:
            os.chdir(before)
            for name in modules:
                sys.modules.pop(name, None)
            sys.modules |= kept

    def snapshot_id(self) -> str:
        return os.readlink(self.root / "data" / "published" / "current")


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Landed, built, registered and materialized, as a user would: by the plain commands."""
    root = tmp_path_factory.mktemp("project")
    for part in PARTS:
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in FILES:
        shutil.copy(ROOT / file, root / file)
    made = Project(root)
    made.must(f"python -m landing --until {UNTIL}")
    made.must("dbt build")
    made.must("feast -c feature_repo apply")
    made.must(f"feast -c feature_repo materialize-incremental {UNTIL}")
    return made
