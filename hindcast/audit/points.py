"""What is compared, and how: the values that hold for an entity at an instant.

A *point* is an entity and an instant. A view's value at a point is that of the entity's newest
row known by then and within the TTL, found here by a plain as-of join that shares nothing with
the store's. Values are compared exactly: types too, doubles to the sign of zero, NULL equal to
NULL only. Not for making the tables that are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import duckdb

from hindcast.dbt import KNOWN_AT, FeatureViewSpec
from hindcast.sql import instant, micros, quote, select

EXAMPLES = 5
"""Differences of one feature that are shown; all are counted."""


@dataclass(frozen=True)
class Difference:
    """A value that is one with all records and another with those of an instant only.

    `at` is the instant of the value, `as_of` that of the world it was rebuilt in.
    """

    view: str
    feature: str
    keys: Mapping[str, Any]
    at: datetime
    as_of: datetime
    full: Any
    rebuilt: Any


@dataclass(frozen=True)
class Compared:
    """How many values of a view were compared, how many differ by feature, and the first."""

    view: str
    values: int
    counts: Mapping[str, int]
    examples: tuple[Difference, ...] = ()

    @property
    def differ(self) -> int:
        """How many values differ."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class Outcome:
    """What was compared, by view."""

    views: tuple[Compared, ...]

    @property
    def values(self) -> int:
        """How many values were compared."""
        return sum(view.values for view in self.views)

    @property
    def differ(self) -> int:
        """How many of them differ. None may."""
        return sum(view.differ for view in self.views)


@contextmanager
def in_memory() -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB without tables, whose clock is UTC."""
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        yield connection


def key_names(view: FeatureViewSpec) -> list[str]:
    """The columns of a view that say which entity."""
    return [key.name for key in view.keys]


def value_names(view: FeatureViewSpec) -> list[str]:
    """The features of a view."""
    return [feature.name for feature in view.features]


def known_within(
    view: FeatureViewSpec, tables: Sequence[str], start: datetime, end: datetime
) -> str:
    """Points at which a view's tables say that something became known: (start, end]."""
    columns = [*map(quote, key_names(view)), f"{KNOWN_AT} as at"]
    within = [f"{KNOWN_AT} > {instant(start)}", f"{KNOWN_AT} <= {instant(end)}"]
    return "\nunion\n".join(select(columns, table, within) for table in tables)


def values_at(
    view: FeatureViewSpec, table: str, points: str, start: datetime, end: datetime
) -> str:
    """The values of a view at points of [start, end]: a relation with its keys and `at`."""
    limits = [f"{KNOWN_AT} <= {instant(end)}"]
    if view.ttl:
        limits.append(f"{KNOWN_AT} >= {instant(start - view.ttl)}")
    by = ", ".join([*map(quote, key_names(view)), KNOWN_AT])
    newest = f"order by {quote(view.created_timestamp or '')} desc nulls last"
    tail = f"qualify row_number() over (partition by {by} {newest}) = 1"
    rows = f"({select(['*'], table, limits, tail if view.created_timestamp else '')})"
    match = [f"point.{key} = feature.{key}" for key in map(quote, key_names(view))]
    match.append(f"point.at >= feature.{KNOWN_AT}")
    alive = f"feature.{KNOWN_AT} >= point.at - to_microseconds({micros(view.ttl)})"
    values = [
        f"case when {alive} then feature.{name} end as {name}" if view.ttl else f"feature.{name}"
        for name in map(quote, value_names(view))
    ]
    return select(
        ["point.*", *values],
        f"({points}) as point asof left join {rows} as feature\n    on " + " and ".join(match),
    )


def compare(
    connection: duckdb.DuckDBPyConnection,
    view: FeatureViewSpec,
    full: str,
    rebuilt: str,
    as_of: datetime,
    keys: Sequence[str],
) -> Compared:
    """Compare two relations with the same points: `point`, keys, `at`, and the view's features."""
    names = value_names(view)
    connection.execute(f"create or replace temp table full_values as {full}")
    connection.execute(f"create or replace temp table rebuilt_values as {rebuilt}")
    (ours, points), (theirs, others) = (
        (_types(connection, table), _count(connection, table))
        for table in ("full_values", "rebuilt_values")
    )
    assert points == others, f"{view.name}: {points} points against {others}"
    wrong = {name for name in names if ours[name] != theirs[name]}
    joined = "full_values as ours join rebuilt_values as theirs using (point)"
    differs = {name: "true" if name in wrong else _differs(name, ours[name]) for name in names}
    counted = connection.execute(
        select([f"count(*) filter (where {test})" for test in differs.values()], joined)
    ).fetchone()
    counts = {name: n for name, n in zip(names, counted or (), strict=True) if n}
    examples: list[Difference] = []
    for name in counts:
        columns = [*(f"ours.{quote(key)}" for key in keys), "ours.at"]
        values = [f"ours.{quote(name)}", f"theirs.{quote(name)}"]
        found = connection.execute(
            select(
                [*columns, *values],
                joined,
                [differs[name]],
                f"order by ours.at desc, {', '.join(columns)} limit {EXAMPLES}",
            )
        ).fetchall()
        for *entity, at, full_value, rebuilt_value in found:
            examples.append(
                Difference(
                    view.name,
                    name,
                    dict(zip(keys, entity, strict=True)),
                    at,
                    as_of,
                    full_value,
                    rebuilt_value,
                )
            )
    return Compared(view.name, points * len(names), counts, tuple(examples))


def added(parts: Iterable[Compared]) -> list[Compared]:
    """One outcome for each view, in the order they first come."""
    by_view: dict[str, list[Compared]] = {}
    for part in parts:
        by_view.setdefault(part.view, []).append(part)
    return [
        Compared(
            view,
            sum(part.values for part in same),
            {
                name: sum(part.counts.get(name, 0) for part in same)
                for name in dict.fromkeys(name for part in same for name in part.counts)
            },
            tuple(example for part in same for example in part.examples),
        )
        for view, same in by_view.items()
    ]


def _differs(name: str, data_type: str) -> str:
    ours, theirs = f"ours.{quote(name)}", f"theirs.{quote(name)}"
    test = f"{ours} is distinct from {theirs}"
    if data_type in ("DOUBLE", "FLOAT"):
        test += f" or signbit({ours}) is distinct from signbit({theirs})"
    return f"({test})"


def _types(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    described = connection.execute(f"describe {table}").fetchall()
    return {row[0]: row[1] for row in described}


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    (count,) = connection.execute(f"select count(*) from {table}").fetchone() or (0,)
    return int(count)


def span_text(span: timedelta | None) -> str:
    """A span as the docs write it: `58 days`, `6 hours`; None is `everything`."""
    if span is None:
        return "everything"
    hours = span / timedelta(hours=1)
    if hours >= 48 and hours % 24 == 0:
        return f"{hours / 24:.0f} days"
    if hours < 1:
        return f"{hours * 60:g} minutes"
    return "1 hour" if hours == 1 else f"{hours:g} hours"
