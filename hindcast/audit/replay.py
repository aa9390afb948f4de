"""Test 1, replay: the features rebuilt from the world as it stood at T must be those of training.

For each instant T, dbt rebuilds feature views and spine from the records loaded by T. Compared
are, with what the full history gives:

- every row of the spine predicted in the day up to T: its entity keys and request data, and each
  feature, which the full history gives by Feast's point-in-time join;
- every entity and instant in that hour at which either table of a view says that something
  became known.

A row predicted at p <= T may use what was known by p, so it must be equal in both worlds: no
difference is ever legitimate. Rows nearer to T show more, since a leak of what was loaded between
p and T is in both worlds; those at T show everything. Not for finding out why: see `trace`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa

from hindcast.audit.points import (
    EXAMPLES,
    Compared,
    Difference,
    Outcome,
    added,
    compare,
    key_names,
    known_within,
    value_names,
    values_at,
)
from hindcast.audit.published import PREDICT_AT, SPAN, Published
from hindcast.audit.reach import since
from hindcast.audit.workshop import Workshop, World
from hindcast.dbt import FeatureViewSpec
from hindcast.sql import instant, quote, select

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Replayed(Outcome):
    """One instant: how many spine rows and values were compared, and what differs."""

    at: datetime
    rows: int
    seconds: float
    too_short: bool
    """The lookback left out something that matters, so everything was read after all."""


def replay(
    workshop: Workshop, published: Published, instants: list[datetime], tell: Tell
) -> list[Replayed]:
    """Replay each instant, in order."""
    rows = published.rows([(at - SPAN, at) for at in instants])
    joined = published.joined(rows)
    found = []
    for number, at in enumerate(instants):
        tell(f"replay {number + 1} of {len(instants)}: the world as of {at:%Y-%m-%d %H:%M}")
        started = time.perf_counter()
        limits = since(workshop.sources, at - SPAN)
        views = _rebuilt(workshop, published, World(at, limits), joined, number)
        too_short = False
        if limits and any(view.differ for view in views):
            again = _rebuilt(workshop, published, World(at, {}), joined, number)
            differed = sum(view.differ for view in views)
            too_short = sum(view.differ for view in again) < differed
            views = again
        asked = sum(period == number for period in rows["period"].to_pylist())
        found.append(Replayed(tuple(views), at, asked, time.perf_counter() - started, too_short))
    return found


def _rebuilt(
    workshop: Workshop, published: Published, world: World, joined: pa.Table, number: int
) -> list[Compared]:
    workshop.rebuild(world)
    with workshop.connected() as connection:
        connection.register("every_row", joined)
        connection.execute(
            f"create temp table spine_rows as from every_row where period = {number}"
        )
        parts = [compare_inputs(connection, workshop, published, world.as_of)]
        for view in published.spec.views:
            parts += compare_view(connection, workshop, published, view, world.as_of, SPAN)
    return added(parts)


def compare_view(
    connection: duckdb.DuckDBPyConnection,
    workshop: Workshop,
    published: Published,
    view: FeatureViewSpec,
    until: datetime,
    span: timedelta,
) -> list[Compared]:
    """Compare a rebuilt view at the rows of `spine_rows`, and where something became known.

    `spine_rows` has what Feast joined, its time being `event_timestamp`.
    """
    keys = [quote(key) for key in key_names(view)]
    rebuilt = workshop.relation(view.name)
    place = ["point", *keys, "event_timestamp as at"]
    by_feast = select(
        [*place, *(f"{quote(f'{view.name}__{n}')} as {quote(n)}" for n in value_names(view))],
        "spine_rows",
    )
    start = until - span
    asked = values_at(view, rebuilt, select(place, "spine_rows"), start, until)
    at_rows = compare(connection, view, by_feast, asked, until, key_names(view))

    tables = [published.table(view.name), rebuilt]
    known = known_within(view, tables, start, until)
    connection.execute(
        "create or replace temp table known_points as "
        f"select row_number() over () as point, * from ({known})"
    )
    full, theirs = (values_at(view, table, "from known_points", start, until) for table in tables)
    return [at_rows, compare(connection, view, full, theirs, until, key_names(view))]


def compare_inputs(
    connection: duckdb.DuckDBPyConnection,
    workshop: Workshop,
    published: Published,
    as_of: datetime,
) -> Compared:
    """Compare keys and request data of `spine_rows` with those of the rebuilt spine.

    A row that the rebuilt spine lacks was not known by then, or not with these values.
    """
    inputs = published.inputs()
    columns = [*map(quote, inputs), "event_timestamp"]
    ours = select(columns, "spine_rows")
    rebuilt = select(
        [*map(quote, inputs), f"{PREDICT_AT} as event_timestamp"],
        workshop.relation(published.spine),
    )
    (rows,) = connection.execute("select count(*) from spine_rows").fetchone() or (0,)
    lacking = connection.execute(f"{ours}\nexcept all\n{rebuilt}").fetchall()
    names = [*inputs, PREDICT_AT]
    counts: dict[str, int] = {}
    examples: list[Difference] = []
    for row in lacking:
        nearest = _nearest(connection, rebuilt, columns, row)
        for place, name in enumerate(names):
            if nearest is not None and nearest[place] == row[place]:
                continue
            if nearest is None and place > 0:
                break
            feature = name if nearest is not None else "(row)"
            counts[feature] = counts.get(feature, 0) + 1
            if counts[feature] <= EXAMPLES:
                full = row[place] if nearest is not None else "known"
                theirs = nearest[place] if nearest is not None else "not known yet"
                entity = dict(zip(inputs, row[:-1], strict=True))
                examples.append(
                    Difference(published.spine, feature, entity, row[-1], as_of, full, theirs)
                )
    return Compared(published.spine, rows * len(names), counts, tuple(examples))


def _nearest(
    connection: duckdb.DuckDBPyConnection, rebuilt: str, columns: list[str], row: tuple[Any, ...]
) -> tuple[Any, ...] | None:
    """The rebuilt spine's row that shares the most columns, more than half of them."""
    names = ["event_timestamp" if name == "event_timestamp" else name for name in columns]
    shared = " + ".join(f"({name} is not distinct from ?)::int" for name in names)
    found: tuple[Any, ...] | None = connection.execute(
        f"select {', '.join(names)} from ({rebuilt}) where {shared} > {len(names) / 2} "
        f"and event_timestamp between {instant(row[-1] - timedelta(days=1))} "
        f"and {instant(row[-1] + timedelta(days=1))} "
        f"order by {shared} desc limit 1",
        [*row, *row],
    ).fetchone()
    return found
