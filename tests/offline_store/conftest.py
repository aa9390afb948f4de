"""The repository that the tests of one file join in, and the ways of joining."""

from __future__ import annotations

import pytest
from offline_lab import Lab

from hindcast import row_groups, sweep


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(params=["sweep", "sweep by DuckDB", "SQL"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small histories are swept; once they are read by DuckDB, as those that only it can read, and
    once they are joined in SQL alone, as large ones may be."""
    if request.param != "sweep":
        monkeypatch.setattr(row_groups, "LARGEST", -1)
    if request.param == "SQL":
        monkeypatch.setattr(sweep, "PIECE", -1)
        monkeypatch.setattr(sweep, "LARGEST", -1)
