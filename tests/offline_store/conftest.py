"""The repository that the tests of one file join in, and the two ways of joining."""

from __future__ import annotations

import pytest
from offline_lab import Lab

from hindcast import sweep


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(params=["sweep", "SQL"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small histories are swept; once they are joined in SQL alone, as large ones may be."""
    if request.param == "SQL":
        monkeypatch.setattr(sweep, "PIECE", -1)
        monkeypatch.setattr(sweep, "LARGEST", -1)
