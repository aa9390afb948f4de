"""The ways in: the project's pages, each served by its own command on loopback.

For `hindcast ui`. What serves is named in `hindcast.yml`; here free ports are found, the commands
started with each other's addresses, waited for, and all stopped together. Not for serving anything.
"""

from __future__ import annotations

import shlex
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from hindcast import loop
from hindcast.config import ProjectConfig, Ui, utc_text
from hindcast.errors import HindcastError

HOST = "127.0.0.1"
SECONDS_TO_START = 120.0
SECONDS_TO_STOP = 10.0
LINES_SHOWN = 15  # of what a command said that did not start


class UiError(HindcastError):
    """A page that does not come up, or has gone. The message has what its command said."""


@dataclass(frozen=True)
class Served:
    """One command at work: its address, and what people look at there."""

    ui: Ui
    address: str
    process: subprocess.Popen[bytes]
    said: IO[bytes]

    @property
    def pages(self) -> dict[str, str]:
        """Titles and whole addresses, of the pages that are there."""
        found = {title: f"{self.address}{path}" for title, path in self.ui.pages.items()}
        return {title: address for title, address in found.items() if _answers(address)}


@contextmanager
def serving(
    project_dir: Path,
    config: ProjectConfig,
    at: datetime,
    *,
    only: Sequence[str] = (),
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[list[Served]]:
    """All pages, or `only` some, once every one answers; stopped at the end.

    Raises:
        UiError: one does not come up; the others are stopped.
    """
    chosen = [ui for ui in config.ui if not only or ui.name in only]
    if not chosen:
        raise UiError(
            "hindcast.yml names no pages; list them under `ui:`, each with name, run and pages"
        )
    ports = dict(zip([ui.name for ui in chosen], _free_ports(len(chosen)), strict=True))
    addresses = {name: f"http://{HOST}:{port}" for name, port in ports.items()}
    with ExitStack() as stack:
        served: list[Served] = []
        for ui in chosen:
            tell(f"starting {ui.name}")
            arguments = command(ui, config, at, ports[ui.name], addresses)
            served.append(
                stack.enter_context(_process(ui, arguments, addresses[ui.name], project_dir))
            )
        for one in served:
            tell(f"waiting for {one.ui.name} at {one.address}")
            _wait_for(one)
        yield served


def command(
    ui: Ui, config: ProjectConfig, at: datetime, port: int, addresses: Mapping[str, str]
) -> list[str]:
    """What starts one of them, as arguments. Who is not started has no address: an empty word."""
    words = {one.name: addresses.get(one.name, "") for one in config.ui}
    words |= {"at": utc_text(at), "port": str(port)}
    arguments = shlex.split(ui.run)  # first, so that an empty word stays an argument
    for name, value in words.items():
        arguments = [argument.replace("{" + name + "}", value) for argument in arguments]
    return arguments


def watch(served: Sequence[Served], every: float = 0.5) -> None:
    """Wait until one of them ends, which none should.

    Raises:
        UiError: one has ended.
    """
    while True:
        for one in served:
            if one.process.poll() is not None:
                raise UiError(_gone(one))
        time.sleep(every)


@contextmanager
def _process(ui: Ui, arguments: Sequence[str], address: str, project_dir: Path) -> Iterator[Served]:
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                arguments,
                cwd=project_dir,
                env=loop.environment(project_dir),
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us: we stop them
            )
        except FileNotFoundError as fault:
            raise UiError(
                f"{ui.name} cannot start: there is no {fault.filename}. Its command is: "
                f"{shlex.join(arguments)}"
            ) from None
        try:
            yield Served(ui, address, process, said)
        finally:
            _stop(process)


def _wait_for(one: Served) -> None:
    until = time.monotonic() + SECONDS_TO_START
    while not _answers(one.address + one.ui.ready):
        if one.process.poll() is not None:
            raise UiError(_gone(one))
        if time.monotonic() > until:
            raise UiError(
                f"{one.ui.name} does not answer at {one.address}{one.ui.ready} after "
                f"{SECONDS_TO_START:.0f} s. It said:\n{_tail(one)}"
            )
        time.sleep(0.2)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _gone(one: Served) -> str:
    return f"{one.ui.name} has ended (exit code {one.process.returncode}). It said:\n{_tail(one)}"


def _tail(one: Served) -> str:
    one.said.seek(0)
    return "\n".join(one.said.read().decode(errors="replace").splitlines()[-LINES_SHOWN:])


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on. All are held at once, so that none is given twice."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


#
