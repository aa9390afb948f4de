"""Where a difference comes from: the records loaded after T that changed the value.

Rebuilds the one view as of later instants, at which something was loaded, until the value is no
longer the one of T, first in growing steps and then by halving. The records loaded at the instant
it changed are those it came from. Not for finding differences.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb

from hindcast.audit.points import Difference, in_memory, values_at
from hindcast.audit.published import PREDICT_AT, SPAN
from hindcast.audit.reach import Source, since
from hindcast.audit.workshop import Workshop, World
from hindcast.sql import instant, quote, select

GROWTH = 4
SHOWN = 3


@dataclass(frozen=True)
class Trace:
    """The records that changed a value; `loaded_at` is None where no record did.

    `records` are the first of `count`: those that name the entity come first.
    """

    difference: Difference
    loaded_at: datetime | None
    records: tuple[tuple[str, str], ...]
    count: int


def trace(workshop: Workshop, difference: Difference, tell: Callable[[str], None]) -> Trace:
    """Find the records a difference came from."""
    sources = _sources(workshop, difference.view)
    instants = _loaded_after(workshop, sources, difference.as_of)

    def changed(place: int) -> bool:
        as_of = f"{instants[place]:%Y-%m-%d %H:%M}"
        tell(f"tracing {difference.view}.{difference.feature}: as of {as_of}")
        limits = since(workshop.sources, difference.at - SPAN)
        workshop.rebuild(World(instants[place], limits), [difference.view])
        with workshop.connected() as connection:
            return bool(_value(connection, workshop, difference) != difference.rebuilt)

    low, high = -1, 0  # at `low` the value is that of T, at `high` it is not
    while high < len(instants) and not changed(high):
        low, high = high, high * GROWTH + 1
    if high >= len(instants):
        high = len(instants) - 1
        if low >= high or not changed(high):
            return Trace(difference, None, (), 0)
    found = bisect_left(range(high), True, lo=low + 1, key=changed)
    return _records(workshop, sources, difference, instants[found])


def _sources(workshop: Workshop, view: str) -> list[Source]:
    return [
        s
        for s in workshop.sources
        if s.loaded_at and (view in s.views or not _is_view(workshop, view))
    ]


def _is_view(workshop: Workshop, name: str) -> bool:
    return any(view.name == name for view in workshop.spec.views)


def _loaded_after(workshop: Workshop, sources: list[Source], after: datetime) -> list[datetime]:
    parts = [
        select([f"{quote(s.loaded_at or '')} as loaded"], workshop.copied(s.name)) for s in sources
    ]
    with in_memory() as connection:
        rows = connection.execute(
            f"select distinct loaded from ({' union all '.join(parts)}) "
            f"where loaded > {instant(after)} order by 1"
        ).fetchall()
    return [row[0] for row in rows]


def _value(
    connection: duckdb.DuckDBPyConnection, workshop: Workshop, difference: Difference
) -> Any:
    table = workshop.relation(difference.view)
    keys = ", ".join(f"$k{place} as {quote(name)}" for place, name in enumerate(difference.keys))
    at = f"{instant(difference.at)} as at"
    values = {f"k{place}": value for place, value in enumerate(difference.keys.values())}
    point = f"select {keys + ', ' if keys else ''}{at}"
    view = next((v for v in workshop.spec.views if v.name == difference.view), None)
    if view is not None:
        sql = values_at(view, table, point, difference.at, difference.at)
        row = connection.execute(
            f"select {quote(difference.feature)} from ({sql})", values
        ).fetchone()
        return row[0] if row else None
    others = {k: v for k, v in difference.keys.items() if k != difference.feature}
    match = " and ".join(f"{quote(k)} is not distinct from ?" for k in others) or "true"
    when = (
        "true" if difference.feature == PREDICT_AT else f"{PREDICT_AT} = {instant(difference.at)}"
    )
    wanted = "'known'" if difference.feature == "(row)" else quote(difference.feature)
    row = connection.execute(
        f"select {wanted} from {table} where {match} and {when} "
        f"order by {wanted} is not distinct from ? desc limit 1",
        [*others.values(), difference.full],
    ).fetchone()
    return row[0] if row else "not known yet"


def _records(
    workshop: Workshop, sources: list[Source], difference: Difference, at: datetime
) -> Trace:
    """The records loaded at an instant, those with the most of the entity's keys first."""
    found: list[tuple[int, str, str]] = []
    keys = [str(value) for value in difference.keys.values() if value is not None]
    with in_memory() as connection:
        for source in sources:
            loaded_then = f"{quote(source.loaded_at or '')} = {instant(at)}"
            read = connection.sql(f"from {workshop.copied(source.name)} where {loaded_then}")
            for record in read.to_arrow_table().to_pylist():
                parts = [
                    part for v in record.values() for part in (v if isinstance(v, list) else [v])
                ]
                texts = {str(part) for part in parts}
                named = sum(key in texts for key in keys)
                found.append((named, source.name, _text(record)))
    found.sort(key=lambda item: -item[0])
    shown = tuple((source, text) for _, source, text in found[:SHOWN])
    return Trace(difference, at, shown, len(found))


def _text(record: dict[str, Any]) -> str:
    """A record on one line: as delivered where the source keeps that, else its values."""
    if isinstance(line := record.get("_line"), str):
        where = f"{record['_file']}:{record['_line_no']}  " if "_file" in record else ""
        return where + line
    return ", ".join(f"{name}={value}" for name, value in record.items() if value is not None)
