"""The small project of the training tests behind a real service, and a real browser before it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "training"))
sys.path.append(str(Path(__file__).parents[1] / "running"))

from page_browser import DESKTOP, Running, Tab, running, tabs
from playwright.sync_api import Browser
from running_web import chromium
from training_project import make_project


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained on the small project, whose online store stands at STANDS_AT."""
    from training import run

    made = make_project(tmp_path_factory.mktemp("project"))
    return run.train(made.settings)


@pytest.fixture(scope="session")
def online_store(run_dir: Path) -> Path:
    """The folder that the service reads features from."""
    return run_dir.parents[1] / "data" / "online"


@pytest.fixture(scope="session")
def service(run_dir: Path) -> Iterator[Running]:
    """The service that most tests share; who stops it starts it again."""
    with running(run_dir) as made:
        yield made


@pytest.fixture(scope="module")  # not longer: other tests start one of their own
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture
def tab(browser: Browser, service: Running) -> Iterator[Tab]:
    """A tab of a desktop. At its end: no complaint, and nothing asked of anybody else."""
    with tabs(browser, service.address, viewport=DESKTOP) as made:
        yield made
