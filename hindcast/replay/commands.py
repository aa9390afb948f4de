"""Runs a project's plain commands inside this process, so that starting up is paid once.

`dbt …`, `feast …`, `hindcast …` and `python -m …` get exactly the words that a shell would give
them; anything else is run as a process of its own. dbt parses the project once, and lets go of
the warehouse after each command, as a process that ends does. Not for which commands: that is
`replay:` in `hindcast.yml`.
"""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import shlex
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import click

from hindcast.dbt_answer import why
from hindcast.errors import HindcastError

QUIET = {
    "DBT_QUIET": "1",  # a tick's failures are told by its exception, not on the way
    "DBT_LOG_LEVEL": "none",
    "DBT_LOG_LEVEL_FILE": "none",
    "DBT_USE_COLORS": "0",
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "0",
}
_TOLD = 2_000  # characters of a failing command's own words that are kept
_DAY = re.compile(r"\{day(?P<days>[+-]\d+)?\}")


class CommandError(HindcastError):
    """A command that did not end well; the message has its own last words."""


def filled(command: str, values: Mapping[str, str]) -> str:
    """A command with its placeholders replaced.

    Raises HindcastError where one is not known.
    """

    def day(found: re.Match[str]) -> str:
        start = datetime.fromisoformat(values["start"]).date()
        shifted: date = start + timedelta(days=int(found["days"] or 0))
        return shifted.isoformat()

    text = _DAY.sub(day, command)
    try:
        return text.format_map(values)
    except (KeyError, ValueError, IndexError) as error:
        raise HindcastError(
            f"{command!r} in hindcast.yml has a placeholder that is not known ({error}); there "
            f"are {', '.join(values)} and day-30"
        ) from None


class Inside:
    """A project's commands, run in this process. Make one with `opened`."""

    def __init__(self, project: Path, log: Path) -> None:
        """Say where; nothing is run yet. `log` gets what the commands print."""
        self.project, self._log_file = project, log
        self._manifest: Any = None
        self._log: IO[str] | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[Inside]:
        """In the project's folder, its modules being the first to be found."""
        before, path, environment = Path.cwd(), [*sys.path], dict(os.environ)
        os.chdir(self.project)
        sys.path.insert(0, str(self.project))
        os.environ.update(QUIET)
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._log_file.open("a", buffering=1) as self._log:
                yield self
        finally:
            os.chdir(before)
            sys.path[:] = path
            os.environ.clear()
            os.environ.update(environment)

    def run(self, command: str) -> None:
        """Run one. Raises CommandError if it does not end well."""
        words = shlex.split(command)
        kinds: dict[str, Callable[[list[str]], None]] = {
            "dbt": self._dbt,
            "feast": _feast,
            "hindcast": _hindcast,
        }
        assert self._log is not None, "not opened"
        begin = self._log.tell()
        self._log.write(f"\n$ {command}\n")
        try:
            if words[:2] == ["python", "-m"] and len(words) > 2:
                self._said(_module, words[2:])
            elif words[0] in kinds:
                self._said(kinds[words[0]], words[1:])
            else:
                self._apart(words)
        except CommandError:
            raise
        except SystemExit as end:
            if end.code not in (None, 0):
                raise CommandError(
                    f"`{command}` ended with exit code {end.code}: {self._words_since(begin)}"
                ) from None
        except click.ClickException as error:
            raise CommandError(f"`{command}`: {error.format_message()}") from error
        except Exception as error:
            self._log.write(traceback.format_exc())
            raise CommandError(f"`{command}`: {error!r}"[:_TOLD]) from error

    def _said(self, run: Callable[[list[str]], None], words: list[str]) -> None:
        assert self._log is not None
        with contextlib.redirect_stdout(self._log), contextlib.redirect_stderr(self._log):
            try:
                run(words)
            finally:
                os.chdir(self.project)  # `feast -c` goes elsewhere

    def _words_since(self, begin: int) -> str:
        with self._log_file.open() as file:
            file.seek(begin)
            return file.read()[-_TOLD:].strip()

    def _apart(self, words: list[str]) -> None:
        done = subprocess.run(words, stdout=self._log, stderr=self._log, check=False)
        if done.returncode:
            raise SystemExit(done.returncode)

    def _dbt(self, words: list[str]) -> None:
        from dbt.cli.main import dbtRunner  # takes seconds

        if self._manifest is None:
            parsed = dbtRunner().invoke(["parse"])
            if not parsed.success:
                raise CommandError(f"`dbt parse`: {parsed.exception}")
            self._manifest = parsed.result
            os.environ["DBT_WRITE_JSON"] = "0"  # the manifest is written, and stays as it is
        try:
            answer = dbtRunner(manifest=self._manifest).invoke(words)
        finally:
            let_go()
        if not answer.success:
            raise CommandError(f"`dbt {' '.join(words)}`: {why(answer)}"[:_TOLD])


def let_go() -> None:
    """Close the warehouse: dbt-duckdb would keep it open, and locked, until the process ends."""
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager

    environment = DuckDBConnectionManager._ENV
    if environment is not None:
        environment.close()
        DuckDBConnectionManager.close_all_connections()


def _feast(words: list[str]) -> None:
    from feast.cli.cli import cli

    cli.main(words, prog_name="feast", standalone_mode=False)


def _hindcast(words: list[str]) -> None:
    import typer

    from hindcast.cli import app

    code = typer.main.get_command(app).main(words, prog_name="hindcast", standalone_mode=False)
    if code:
        raise SystemExit(code)


def _module(words: list[str]) -> None:
    before = sys.argv
    sys.argv = [words[0], *words[1:]]
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    finally:
        sys.argv = before
