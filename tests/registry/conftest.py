import shutil
from pathlib import Path

import pytest
from registry_projects import copy_project, dbt, publish


@pytest.fixture(scope="session")
def built_shop(tmp_path_factory):
    """The shop, built by dbt and published. Read only: take `shop` to change anything."""
    project_dir = copy_project("shop", tmp_path_factory.mktemp("built") / "shop")
    dbt(project_dir, "run")
    publish(project_dir)
    return project_dir


@pytest.fixture
def shop(built_shop, tmp_path):
    """A copy of the built shop for one test."""
    return Path(shutil.copytree(built_shop, tmp_path / "shop", symlinks=True))
