"""A Redis server of the tests' own, and small repositories on either online store."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

from feast import FeatureStore


class RedisServer:
    """One redis-server process on a free port, which can be stopped and started again."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", ""],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise TimeoutError("redis-server did not start")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def open_store(repo: Path, online: str, engine: str = "arrow") -> FeatureStore:
    """A repository's store; `engine` is `arrow` for ours, `local` for Feast's."""
    repo.mkdir(exist_ok=True)
    batch = "{type: hindcast.compute_engine.ArrowEngine}" if engine == "arrow" else "local"
    (repo / "feature_store.yaml").write_text(f"""
project: lab
provider: local
registry: ../data/registry.db
offline_store: {{type: hindcast.offline_store.DuckDBOfflineStore, threads: 1}}
online_store: {online}
batch_engine: {batch}
materialization: {{pull_latest_features: true}}
entity_key_serialization_version: 3
""")
    return FeatureStore(repo_path=str(repo))
