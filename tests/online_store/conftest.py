"""The online stores that every test here runs on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from online_lab import RedisServer


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis server of our own, on loopback, that keeps nothing on disk."""
    if shutil.which("redis-server") is None:
        if os.environ.get("CI"):
            pytest.fail("redis-server is not installed; .ci/run installs it")
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    with RedisServer() as server:
        yield server.url


@pytest.fixture(params=["lmdb", "redis"])
def online(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The `online_store:` line of a repository, of its own for each test."""
    if request.param == "lmdb":
        return "{type: hindcast.online_store.LmdbOnlineStore, path: ../data/online}"
    url = request.getfixturevalue("redis_url")
    kind = "hindcast.online_store.RedisOnlineStore"
    return f"{{type: {kind}, url: '{url}', prefix: '{tmp_path}'}}"
