"""The repository that the tests of one file join in."""

from __future__ import annotations

import pytest
from offline_lab import Lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))
