"""A real service that can stop and start again, and a tab of a real browser that watches itself."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Page, Request
from training_project import STANDS_AT

from serving.guard import Guard
from serving.server import Server, listen
from serving.service import Options, Service

DESKTOP = {"width": 1280, "height": 860}


class Running:
    """A service at an address that stays the same while the service stops and starts again."""

    def __init__(self, options: Options) -> None:
        self._options, self._port = options, 0
        self.address = ""
        self.start()

    def start(self) -> None:
        listening = threading.Event()

        def announce(address: str) -> None:
            self.address, self._port = address, int(address.rpartition(":")[2])
            listening.set()

        self.service = Service(self._options, lambda text: None)
        self._server = Server(self.service, announce)
        sockets = [listen("127.0.0.1", self._port)]
        self._thread = threading.Thread(target=self._server.run, args=(sockets,))
        self._thread.start()
        assert listening.wait(20), "the service does not listen"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        self.service.close()


@contextmanager
def running(
    run_dir: Path,
    at: datetime = STANDS_AT,
    keys: tuple[bytes, ...] = (),
    features: str | None = None,
) -> Iterator[Running]:
    """A service whose clock stands at an instant, stopped at the end."""
    guard = Guard(keys=keys)
    made = Running(Options(run=run_dir, stands_at=at, guard=guard, log=False, features=features))
    try:
        yield made
    finally:
        made.stop()


class Tab:
    """A page in the browser, with all that it complained about and all that it asked for."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.complaints: list[str] = []
        self.asked: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._saw)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _saw(self, request: Request) -> None:
        self.asked.append(request.url)

    def open(self, route: str = "") -> Page:
        """Go to the page and wait until it shows flights, or says why it does not."""
        self.page.goto(f"{self.address}/{route}")
        self.page.wait_for_selector(".row, .state")
        return self.page


@contextmanager
def tabs(browser: Browser, address: str, quiet: bool = True, **options: object) -> Iterator[Tab]:
    """A tab in a browser of its own. `quiet`: it may not complain."""
    context = browser.new_context(**options)  # type: ignore[arg-type]
    context.set_default_timeout(8_000)
    made = Tab(context.new_page(), address)
    try:
        yield made
    finally:
        context.close()
    assert [url for url in made.asked if not url.startswith(f"{address}/")] == []
    if quiet:
        assert made.complaints == []
