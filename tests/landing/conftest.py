"""The whole year's records, built once, as tables that tests can question in SQL."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from landing.feed import REFERENCE, Records, build, read_sources, zone_by_airport

# Real days around both clock changes.
A_FEW_DAYS = [(3, day) for day in range(8, 12)] + [(11, day) for day in range(1, 5)]


@pytest.fixture(scope="session")
def sources() -> dict[str, pa.Table]:
    """The package's files as they are."""
    return read_sources()


@pytest.fixture(scope="session")
def few_sources(sources: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """The package's files with the flights and the weather of a few days only."""
    subset = dict(sources)
    for name in ("flights", "weather"):
        months, days = (sources[name][column].to_numpy() for column in ("month", "day"))
        is_chosen = np.zeros(len(months), dtype=bool)
        for month, day in A_FEW_DAYS:
            is_chosen |= (months == str(month)) & (days == str(day))
        subset[name] = sources[name].filter(is_chosen)
    return subset


@pytest.fixture(scope="session")
def feed(sources: dict[str, pa.Table]) -> dict[str, Records]:
    return {records.source: records for records in build(sources)}


@pytest.fixture(scope="session")
def world(
    sources: dict[str, pa.Table], feed: dict[str, Records]
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Delivered records under their source's name, the package's file under original_<source>.

    DuckDB's own time zone arithmetic is the oracle: it shares nothing with landing's.
    """
    zone_of = zone_by_airport(sources["airports"])
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("set timezone = 'UTC'")
        for name in ("flights", "weather", *REFERENCE):
            connection.register(name, feed[name].table)
            connection.register(f"original_{name}", sources[name])
        connection.register("zones", pa.table({"dest": [*zone_of], "zone": [*zone_of.values()]}))
        yield connection
