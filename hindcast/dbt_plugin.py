"""What dbt-duckdb loads from us: SQL functions that publish a build, and tell changed files.

`profiles.yml` names this module under `plugins`; `macros/publish.sql`, `macros/raw_files.sql` and
`macros/incremental.sql` call the functions. Not for anything a macro can do in plain SQL.
"""

import json
import os
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import duckdb
from dbt.adapters.duckdb.plugins import BasePlugin

from hindcast import snapshot


class Plugin(BasePlugin):  # type: ignore[misc]  # dbt ships no types
    """Registers `snapshot_begin`, `_reuse`, `_publish`, `file_stamp` and `dbt_versions`."""

    def update_connection_config(self, creds: Any, config: dict[str, Any]) -> None:
        """Make the warehouse's folder: DuckDB creates the file, not the folder it is in."""
        Path(creds.path).parent.mkdir(parents=True, exist_ok=True)

    def configure_connection(self, conn: duckdb.DuckDBPyConnection) -> None:
        """Make the functions known to DuckDB; all look at the file system when called."""
        conn.create_function("file_stamp", _file_stamp, ["VARCHAR"], "VARCHAR", side_effects=True)
        conn.create_function("dbt_versions", _dbt_versions, [], "VARCHAR", side_effects=True)
        conn.create_function(
            "snapshot_begin", _begin, ["VARCHAR", "VARCHAR"], "VARCHAR", side_effects=True
        )
        conn.create_function(
            "snapshot_reuse", _reuse, ["VARCHAR"] * 3, "INTEGER", side_effects=True
        )
        conn.create_function(
            "snapshot_publish",
            _publish,
            ["VARCHAR", "VARCHAR", "INTEGER"],
            "VARCHAR",
            side_effects=True,
        )


DBT = ("dbt-core", "dbt-adapters", "dbt-duckdb")
JUST_CHANGED_NS = 2_000_000_000
"""A file may change twice within what its file system's clock can tell apart."""


def _file_stamp(path: str) -> str:
    """Text that is another one once the file is: its size, time of change and inode.

    A file that changed just now gets one that never comes again, so that it is read once more.
    """
    found = os.stat(path)
    stamp = f"{found.st_size}-{found.st_mtime_ns}-{found.st_ino}"
    now = time.time_ns()
    return stamp if now - found.st_mtime_ns > JUST_CHANGED_NS else f"{stamp}-at-{now}"


def _dbt_versions() -> str:
    """What makes SQL of the models, and how tables are made of that, by version."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in DBT)


def _begin(published: str, snapshot_id: str) -> str:
    return str(snapshot.begin(Path(published), snapshot_id))


def _reuse(table: str, previous: str, before: str) -> int:
    linked = snapshot.reuse(Path(table), previous, before)
    return -1 if linked is None else linked  # DuckDB takes no NULL of a function in Python


def _publish(staging: str, description: str, keep: int) -> str:
    return str(snapshot.publish(Path(staging), json.loads(description), keep=keep))
