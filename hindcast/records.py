"""Hindcast's own records: one DuckDB file with what its commands did and found.

Runs, verdicts and promotions are written here, each by the module that knows them, which also
makes its tables. Not for features or raw data: those are dbt's, in a file of its own, which a
long build keeps locked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from hindcast.errors import HindcastError

FILE = Path("data/hindcast.duckdb")
PATIENCE_S = 10.0


@contextmanager
def opened(project_dir: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to the records, in UTC. Keep it short: others wait for it.

    Raises HindcastError if another process keeps the file for longer than ten seconds.
    """
    file = project_dir / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            connection = duckdb.connect(str(file))
            break
        except duckdb.IOException as error:
            if "lock" not in str(error) or time.monotonic() > until:
                raise HindcastError(
                    f"the records in {file} cannot be opened ({error}); if another process "
                    "holds them, let it finish and try again"
                ) from error
            time.sleep(0.05)
    with connection:
        connection.execute("set TimeZone = 'UTC'")
        yield connection
