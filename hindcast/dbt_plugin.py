"""What dbt-duckdb loads from us: the SQL functions that publish a build as a snapshot.

`profiles.yml` names this module under `plugins`; `macros/publish.sql` calls the functions. Not
for anything a macro can do in plain SQL.
"""

import json
from pathlib import Path
from typing import Any

import duckdb
from dbt.adapters.duckdb.plugins import BasePlugin

from hindcast import snapshot


class Plugin(BasePlugin):  # type: ignore[misc]  # dbt ships no types
    """Registers `snapshot_begin` and `snapshot_publish` on dbt's connection."""

    def update_connection_config(self, creds: Any, config: dict[str, Any]) -> None:
        """Make the warehouse's folder: DuckDB creates the file, not the folder it is in."""
        Path(creds.path).parent.mkdir(parents=True, exist_ok=True)

    def configure_connection(self, conn: duckdb.DuckDBPyConnection) -> None:
        """Make the functions known to DuckDB; both act on the file system when called."""
        conn.create_function(
            "snapshot_begin", _begin, ["VARCHAR", "VARCHAR"], "VARCHAR", side_effects=True
        )
        conn.create_function(
            "snapshot_publish",
            _publish,
            ["VARCHAR", "VARCHAR", "INTEGER"],
            "VARCHAR",
            side_effects=True,
        )


def _begin(published: str, snapshot_id: str) -> str:
    return str(snapshot.begin(Path(published), snapshot_id))


def _publish(staging: str, description: str, keep: int) -> str:
    return str(snapshot.publish(Path(staging), json.loads(description), keep=keep))
