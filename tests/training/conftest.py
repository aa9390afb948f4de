"""The small project, made once, and a training run on it."""

from pathlib import Path

import pytest
from training_project import Project, make_project


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A published snapshot, registered with Feast and materialized."""
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def run_dir(project: Project) -> Path:
    """A complete training run on the small project."""
    from training import run

    return run.train(project.settings)
