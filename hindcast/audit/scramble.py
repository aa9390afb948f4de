"""Test 2, scramble: what is loaded after a cut must not move a single feature before it.

Every record loaded after the cut is changed: dropped, given other numbers, mixed out of several
records, delivered twice with other numbers, or at another time; records are invented that correct
what was delivered before; and what comes later than a week after the cut is dropped altogether.
Everything is rebuilt from that. Of the rows predicted up to the cut no feature may move by a bit;
of those after it features must, or the scramble would have shown nothing. Independent of `replay`:
there records are left out, here they are there and wrong. Not for making sense: most of these
records could never exist.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import duckdb
import pyarrow as pa

from hindcast.audit.points import Compared, Outcome, added, in_memory
from hindcast.audit.published import SPAN, Published
from hindcast.audit.reach import since
from hindcast.audit.replay import compare_inputs, compare_view
from hindcast.audit.workshop import Workshop, World
from hindcast.errors import HindcastError
from hindcast.sql import instant, literal, quote

Record = dict[str, Any]

SCRAMBLED = "scrambled"
AFTER = timedelta(days=7)
"""How long after the cut records are scrambled; later ones are dropped."""


@dataclass(frozen=True)
class Scrambled(Outcome):
    """One cut: what was done to the records, and what moved before and after it."""

    at: datetime
    rows: int
    records: int
    moved: tuple[Compared, ...]
    seconds: float

    @property
    def moved_after(self) -> int:
        """How many values after the cut moved."""
        return sum(view.differ for view in self.moved)

    @property
    def unmoved(self) -> tuple[str, ...]:
        """Views of which no value moved after the cut: of these the test shows nothing."""
        return tuple(view.view for view in self.moved if not view.differ)


def scramble(
    workshop: Workshop, published: Published, cut: datetime, seed: int, tell: Callable[[str], None]
) -> Scrambled:
    """Scramble what was loaded after `cut` and compare what is rebuilt with what is published.

    Raises HindcastError if nothing was loaded after the cut.
    """
    tell(f"scramble: every record loaded after {cut:%Y-%m-%d %H:%M} changed")
    started = time.perf_counter()
    records = _write(workshop, cut, seed)
    if records == 0:
        raise HindcastError(f"no record was loaded after {cut}; scramble at an earlier instant")
    end = cut + AFTER
    limits = since(workshop.sources, cut - SPAN)
    rows = published.rows([(cut - SPAN, cut), (cut, cut + SPAN)])
    joined = published.joined(rows)
    workshop.rebuild(World(end, limits, SCRAMBLED))
    outcomes: list[list[Compared]] = []
    with workshop.connected() as connection:
        connection.register("every_row", joined)
        for period, until in ((0, cut), (1, cut + SPAN)):
            connection.execute(
                f"create or replace temp table spine_rows as from every_row where period = {period}"
            )
            parts = [compare_inputs(connection, workshop, published, end)] if period == 0 else []
            for view in published.spec.views:
                parts += compare_view(connection, workshop, published, view, until, SPAN)
            outcomes.append(added(parts))
    before = sum(period == 0 for period in rows["period"].to_pylist())
    shutil.rmtree(workshop.corner / SCRAMBLED)
    return Scrambled(
        tuple(outcomes[0]),
        cut,
        before,
        records,
        tuple(outcomes[1]),
        time.perf_counter() - started,
    )


def _write(workshop: Workshop, cut: datetime, seed: int) -> int:
    """The sources with everything after the cut scrambled; returns how many records that were."""
    folder = workshop.corner / SCRAMBLED
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    records = 0
    with in_memory() as connection:
        for source in workshop.sources:
            copied = workshop.copied(source.name)
            kept, added_records = f"from {copied}", ""
            if source.loaded_at is not None:
                made, late = _scrambled_source(connection, source.loaded_at, copied, cut, seed)
                records += late
                connection.register("scrambled", made)
                kept += f" where not coalesce({quote(source.loaded_at)} > {instant(cut)}, false)"
                added_records = " union all by name from scrambled"
            file = literal(str(folder / f"{source.name}.parquet"))
            connection.execute(
                f"copy ({kept}{added_records}) to {file} (format parquet, row_group_size 20480)"
            )
    return records


def _scrambled_source(
    connection: duckdb.DuckDBPyConnection, loaded_at: str, copied: str, cut: datetime, seed: int
) -> tuple[pa.Table, int]:
    """What becomes of a source's records after the cut, and how many of them there were."""
    at = quote(loaded_at)
    late = connection.sql(
        f"from {copied} where {at} > {instant(cut)} and {at} <= {instant(cut + AFTER)} order by all"
    ).to_arrow_table()
    columns = ", ".join(map(quote, late.column_names))
    early = connection.sql(
        f"from {copied} where {at} <= {instant(cut)} order by {at} desc, {columns} "
        f"limit {3 * late.num_rows}"
    ).to_arrow_table()
    made = scrambled(late.to_pylist(), early.to_pylist(), loaded_at, Random(seed))
    if any(record[loaded_at] <= cut for record in made):
        raise AssertionError("a scrambled record claims to be loaded before the cut")
    return pa.Table.from_pylist(made, late.schema), late.num_rows


def scrambled(
    late: list[Record], early: list[Record], loaded_at: str, chance: Random
) -> list[Record]:
    """What becomes of the late records: a tenth is dropped, the others are shifted, mixed, shifted
    and delivered twice, or dated as if they had been loaded when another was.

    To every third belongs a correction of an early record, loaded at the late one's time.
    """
    clock = _Clock(late, loaded_at)
    made: list[Record] = []
    for record in late:
        fate = chance.random()
        if fate < 0.1:
            pass
        elif fate < 0.4:
            made.append(clock.set(_shifted(record), record))
        elif fate < 0.7:
            made.append(clock.set(_mixed(late, chance), record))
        elif fate < 0.85:
            made += [clock.set(_shifted(record), chance.choice(late)) for _ in range(2)]
        else:
            made.append(clock.set(record, chance.choice(late)))
        if early and chance.random() < 0.33:
            made.append(clock.set(_shifted(chance.choice(early)), record))
    return made


class _Clock:
    """Where a record says when it was loaded: a column, and places in a row kept as a list."""

    def __init__(self, records: list[Record], loaded_at: str) -> None:
        self._column = loaded_at
        self._places: list[tuple[str, int]] = []
        for name, value in records[0].items() if records else ():
            for place in range(len(value)) if isinstance(value, list) else ():
                if all(self._says(record, name, place) for record in records):
                    self._places.append((name, place))

    def set(self, record: Record, like: Record) -> Record:
        """The record as if it had been loaded when another was."""
        changed = {name: [*v] if isinstance(v, list) else v for name, v in record.items()}
        changed[self._column] = like[self._column]
        for name, place in self._places:
            if place < len(changed[name]):
                changed[name][place] = like[name][place]
        return changed

    def _says(self, record: Record, name: str, place: int) -> bool:
        value = record[name]
        try:
            text = str(value[place])
            return bool(datetime.fromisoformat(text) == record[self._column])
        except (ValueError, TypeError, IndexError):
            return False


def _mixed(records: list[Record], chance: Random) -> Record:
    """A record of which each value is another record's."""
    mixed = {}
    for name, value in chance.choice(records).items():
        if isinstance(value, list):
            lists = [chance.choice(records)[name] for _ in value]
            mixed[name] = [
                other[place] if other and place < len(other) else value[place]
                for place, other in enumerate(lists)
            ]
        else:
            mixed[name] = chance.choice(records)[name]
    return mixed


def _shifted(record: Record) -> Record:
    """The record with other numbers, also where a text is one."""
    return {
        name: [_shift(item) for item in value] if isinstance(value, list) else _shift(value)
        for name, value in record.items()
    }


def _shift(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float | Decimal):
        return value + 7
    if isinstance(value, str):
        if value.lstrip("+-").isdigit() and len(value) <= 6:
            return str(int(value) + 7)
        try:
            return str(float(value) + 7) if "." in value else value
        except ValueError:
            return value
    return value
