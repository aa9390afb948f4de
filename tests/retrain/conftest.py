"""The small project of the training tests, with two runs and a hindcast.yml of its own."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("training", "serving")]

from retrain_lab import Lab, make_lab


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A model that knows nothing, then a good one; neither is in use."""
    return make_lab(tmp_path_factory.mktemp("project"))


@pytest.fixture
def lab(made: Lab, tmp_path: Path) -> Lab:
    """A copy of it, to be changed."""
    root = tmp_path / "project"
    shutil.copytree(made.root, root, symlinks=True)
    return Lab(root, made.dull, made.good)


@pytest.fixture
def put_in_use(lab: Lab) -> Callable[[str], None]:
    """Puts a run of the copy in use."""
    from retrain_lab import AT

    from hindcast import champion

    def put(run: str) -> None:
        champion.install(lab.root, run, action=champion.ADOPTED, at=AT, reason="a test")

    return put
