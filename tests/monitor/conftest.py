"""The small project, trained once; copies of it to be spoiled."""

import shutil
from pathlib import Path

import monitor_project
import pytest
from training_project import register


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose model is in use."""
    return monitor_project.make(tmp_path_factory.mktemp("monitored")).path


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """The same, to be spoiled."""
    root = tmp_path / "project"
    shutil.copytree(trained, root, symlinks=True)
    register(root)  # its sources are in the copy
    return root
