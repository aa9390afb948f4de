"""Statistics of a source's columns, in the form in which Feast's monitoring keeps them.

For the offline store, whose users are `feast monitor run`, Feast's web page and
`hindcast monitor`. Feast's own computation reads the files once for each column, in the time
zone of the machine, and past what the store promises (one snapshot, directories, times without
a zone); this reads them once. Nothing here says whether a figure is fine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
from feast.monitoring.monitoring_utils import (
    empty_categorical_metric,
    empty_numeric_metric,
    opt_float,
)

from hindcast.sources import Source
from hindcast.sql import quote, select

QUANTILES = {"p50": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99}


def column_metrics(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    columns: Sequence[tuple[str, str]],
    where: Sequence[str],
    bins: int,
    top_n: int,
) -> list[dict[str, Any]]:
    """The statistics of each column over the rows that fit `where`, as Feast stores them.

    `columns` are pairs of a name and `numeric` or `categorical`. A NaN counts as missing: no
    mean or quantile can be told of it. Histograms have `bins` bins of equal width.
    """

    def number(name: str) -> str:
        return f"cast({source.column(name)} as double)"

    numbers = [name for name, kind in columns if kind == "numeric"]
    texts = [name for name, kind in columns if kind == "categorical"]
    terms = [
        f"if(isnan({number(name)}), null, {number(name)}) as {quote(name)}" for name in numbers
    ]
    terms += [f"cast({source.column(name)} as varchar) as {quote(name)}" for name in texts]
    picked = select(terms or ["1 as one"], source.reader, where)
    connection.execute(f"create or replace temp table picked as\n{picked}")
    (rows,) = connection.execute("select count(*) from picked").fetchone() or (0,)
    found = _numbers(connection, numbers, rows, bins)
    found |= {name: _text(connection, name, rows, top_n) for name in texts}
    connection.execute("drop table picked")
    return [found[name] for name, _ in columns]


def _numbers(
    connection: duckdb.DuckDBPyConnection, names: Sequence[str], rows: int, bins: int
) -> dict[str, dict[str, Any]]:
    if not names or not rows:
        return {name: empty_numeric_metric(name) for name in names}
    wanted = list(QUANTILES.values())
    terms = [
        term.format(column=quote(name))
        for name in names
        for term in (
            "count({column})",
            "avg({column})",
            "stddev_samp({column})",
            "min({column})",
            "max({column})",
            f"quantile_cont({{column}}, {wanted})",
        )
    ]
    row = connection.execute(f"select {', '.join(terms)} from picked").fetchone() or ()
    found = {}
    for name, at in zip(names, range(0, len(row), 6), strict=True):
        valid, mean, deviation, least, most, quantiles = row[at : at + 6]
        found[name] = empty_numeric_metric(name) | {
            "row_count": rows,
            "null_count": rows - valid,
            "null_rate": (rows - valid) / rows,
            "mean": opt_float(mean),
            "stddev": opt_float(deviation),
            "min_val": opt_float(least),
            "max_val": opt_float(most),
            **dict(zip(QUANTILES, map(opt_float, quantiles or [None] * 5), strict=True)),
        }
    _add_histograms(connection, found, bins)
    return found


def _add_histograms(
    connection: duckdb.DuckDBPyConnection, found: dict[str, dict[str, Any]], bins: int
) -> None:
    """Count the rows of each bin, for all columns at once."""
    spread = {
        name: (one["min_val"], one["max_val"])
        for name, one in found.items()
        if one["min_val"] is not None and one["max_val"] is not None
    }
    terms = {}
    for name, (least, most) in spread.items():
        width = (most - least) / bins
        column = quote(name)
        bucket = f"floor(({column} - {least!r}::double) / {width!r}::double)" if width else "0"
        counted = f"least(greatest({bucket}, 0), {bins - 1})"
        terms[name] = f"histogram(cast({counted} as integer)) filter ({column} is not null)"
    if not terms:
        return
    row = connection.execute(f"select {', '.join(terms.values())} from picked").fetchone() or ()
    for name, counts in zip(terms, row, strict=True):
        least, most = spread[name]
        width = (most - least) / bins
        if width:
            edges = [least + i * width for i in range(bins + 1)]
            by_bin = [int(counts.get(i, 0)) for i in range(bins)]
        else:
            edges, by_bin = [least, most], [int(counts.get(0, 0))]
        found[name]["histogram"] = {"bins": edges, "counts": by_bin, "bin_width": width}


def _text(
    connection: duckdb.DuckDBPyConnection, name: str, rows: int, top_n: int
) -> dict[str, Any]:
    column = quote(name)
    counts = connection.execute(
        f"select {column}, count(*) as n from picked where {column} is not null "
        f"group by all order by n desc, {column}"
    ).fetchall()
    valid = sum(n for _, n in counts)
    found: dict[str, Any] = empty_categorical_metric(name) | {
        "row_count": rows,
        "null_count": rows - valid,
        "null_rate": (rows - valid) / rows if rows else 0.0,
    }
    if counts:
        found["histogram"] = {
            "values": [{"value": value, "count": n} for value, n in counts[:top_n]],
            "other_count": sum(n for _, n in counts[top_n:]),
            "unique_count": len(counts),
        }
    return found
