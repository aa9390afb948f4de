"""The small project of the training tests, with a model trained on it and a running service."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "training"))

from feast import FeatureStore
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination
from serving_client import Client, running
from training_project import STANDS_AT, Project, make_project

from serving.bundle import Bundle, load
from serving.service import Options, Service


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Published, registered with a place for its log, materialized up to STANDS_AT, trained."""
    from training import run

    made = make_project(tmp_path_factory.mktemp("project"))
    store = FeatureStore(repo_path=made.settings.repo)
    service = store.get_feature_service("late_arrival")
    service.logging_config = LoggingConfig(FileLoggingDestination(path="../data/log"))
    store.apply([service])
    run.train(made.settings)
    return made


@pytest.fixture(scope="session")
def run_dir(project: Project) -> Path:
    """The training run."""
    return (Path(project.settings.artifacts) / "latest").resolve()


@pytest.fixture(scope="session")
def bundle(run_dir: Path) -> Bundle:
    """What the run left for serving."""
    return load(run_dir)


@pytest.fixture(scope="session")
def start(run_dir: Path) -> Callable[..., Service]:
    """Makes a service on the small project, its clock at STANDS_AT unless told otherwise."""

    def make(**options: object) -> Service:
        given = {"run": run_dir, "stands_at": STANDS_AT, "log": False} | options
        return Service(Options(**given), complaints.append)  # type: ignore[arg-type]

    complaints: list[str] = []
    return make


@pytest.fixture(scope="session")
def client(start: Callable[..., Service]) -> Iterator[Client]:
    """A client of a running service that nobody breaks."""
    with running(start()) as made:
        yield made


@pytest.fixture
def copy(project: Project, tmp_path: Path) -> Path:
    """The small project, to be broken. Gives its root."""
    root = tmp_path / "project"
    shutil.copytree(project.path, root, symlinks=True, ignore=shutil.ignore_patterns("log"))
    return root


@pytest.fixture
def on_copy(start: Callable[..., Service], copy: Path) -> Callable[..., Service]:
    """Makes a service on the copy."""
    return lambda **options: start(repo=copy / "feature_repo", **options)
