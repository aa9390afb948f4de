"""The history of one feature view, read as a sweep wants it: in pieces, then the rows it found.

Local files are read by their row groups where they can be (`row_groups`), all others by DuckDB.
Not for which rows are seen (see `sweep`), nor for where to cut (see `asof`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from hindcast.errors import ReplacedError
from hindcast.row_groups import Crew, KeyedRows, LocalFiles, Rows
from hindcast.sql import literal, micros, select
from hindcast.sweep import NEVER, NONE, Integers, Numbers, Sweep, SweepByKey
from hindcast.view import INTEGERS, View

WANTED = 0.5
"""The share of entities below which DuckDB reads a piece for these alone; above, that saves nothing
(measured)."""


@dataclass(frozen=True)
class Piece:
    """Rows of history that are read together: those from a time to before another, in microseconds
    since 1970, and where history is in order of key, from one key to before another; None is no
    end."""

    since: int
    until: int
    key: str | None = None
    """The column of the key; None where history is in order of time."""
    first: int | str | None = None
    before: int | str | None = None


@dataclass(frozen=True)
class Asked:
    """What a view is asked for: the entities and times of the table of the spine, in SQL."""

    prefix: str
    """What internal names start with."""
    keys: tuple[str, ...]
    """The keys in `spine`."""
    number: int
    """Of the set of keys, in the names of tables."""

    @property
    def entities(self) -> str:
        """The table of the entities that are asked for at some time, numbered from 1 on."""
        return f"{self.prefix}entities_{self.number}"

    @property
    def times(self) -> str:
        """The table of the predictions: number of the row, of its entity, and the time."""
        return f"{self.prefix}times_{self.number}"

    @property
    def tables(self) -> list[str]:
        """The statements that make both tables, unless they are there."""
        p = self.prefix
        named = [f"{key} as {p}key_{place}" for place, key in enumerate(self.keys, 1)]
        asked = self.rows(named or [f"true as {p}only"], tail="group by all")
        numbered = select(["*", f"(row_number() over ())::int as {p}entity"], f"(\n{asked}\n)")
        same = [f"{key} = entity.{p}key_{place}" for place, key in enumerate(self.keys, 1)]
        times = self.rows(
            [f"spine.{p}row", f"entity.{p}entity", f"{self.at} as asked_at"],
            f"\njoin {self.entities} as entity\n    on {' and '.join(same) or 'true'}",
        )
        return [
            f"create temp table if not exists {self.entities} as\n{numbered}",
            f"create temp table if not exists {self.times} as\n{times}",
        ]

    @property
    def at(self) -> str:
        """The time of a row in microseconds since 1970."""
        return f"epoch_us(spine.{self.prefix}at)"

    def rows(self, columns: list[str], joined: str = "", tail: str = "") -> str:
        """Columns of the rows of the spine that ask for something: they have keys and a time."""
        known = [f"isfinite(spine.{self.prefix}at)", *(f"{key} is not null" for key in self.keys)]
        return select(columns, f"{self.prefix}spine as spine{joined}", known, tail)


class Predictions(NamedTuple):
    """What a view is asked for: the row of the spine, from 1 on, the number of the entity, and the
    time in microseconds since 1970. Each has shape (predictions,)."""

    row: Integers
    entity: Numbers
    asked_at: Integers


class History:
    """The feature rows of a view, for the predictions on a connection."""

    def __init__(
        self, view: View, asked: Asked, connection: duckdb.DuckDBPyConnection, crew: Crew
    ) -> None:
        """The connection has the spine."""
        self._view, self._asked, self._connection = view, asked, connection
        self._files = LocalFiles.of(view.source, crew)

    def sweep(self, pieces: list[Piece], rows: int) -> Integers:
        """The place of the feature row that each of the spine's rows sees, NONE if none."""
        (row, entity, asked_at), keyed = self._keyed() or (self._numbered(), None)
        kind = SweepByKey if pieces[0].key else Sweep
        count = int(entity.max(initial=0)) + 1
        found = kind(entity, asked_at, count, micros(self._view.ttl))
        del entity, asked_at
        for piece in pieces:
            history = self._by_key(piece, keyed, found) if keyed else self._by_sql(piece, found)
            if history is None:
                continue
            created_at = partial(self._created_at, piece) if self._view.created else None
            if isinstance(found, Sweep):
                found.read(piece.since, piece.until, **history._asdict(), created_at=created_at)
            else:
                found.read(**history._asdict(), created_at=created_at)
            del history  # before the next one is there
        places = np.full(rows, NONE, np.int64)
        places[row - 1] = found.seen()
        return places

    def values(self, places: Integers) -> list[pa.ChunkedArray] | None:
        """The features of the rows at some places; None if only DuckDB can read them."""
        features = list(self._view.features.values())
        if self._files is None or not self._files.read_alike(features):
            return None
        return self._files.take(places, features)

    # --- by row groups --------------------------------------------------------------------

    def _keyed(self) -> tuple[Predictions, KeyedRows] | None:
        """The predictions, and the feature rows by their key; None if no array can be one's."""
        if self._files is None or len(self._view.keys) != 1:
            return None
        ((_, column),), (key,) = self._view.keys, self._asked.keys
        if self._view.source.columns[column] not in INTEGERS:
            return None
        asked = self._asked.rows([f"spine.{self._asked.prefix}row", key, self._asked.at])
        row, keys, asked_at = self._connection.execute(asked).to_arrow_table().columns
        keyed = KeyedRows.of(self._files, column, self._view.timestamp, keys)
        if keyed is None:
            return None
        return Predictions(row.to_numpy(), keyed.numbers, asked_at.to_numpy()), keyed

    def _by_key(self, piece: Piece, keyed: KeyedRows, found: Sweep | SweepByKey) -> Rows | None:
        """The rows of a piece that are asked for, None if there is no need to look."""
        if isinstance(found, Sweep):
            wanted = found.wanted(piece.since, piece.until)
        else:
            assert not isinstance(piece.first, str)
            assert not isinstance(piece.before, str)
            wanted = keyed.entities(piece.first, piece.before)
        return keyed.read(wanted, piece.since, piece.until) if len(wanted) else None

    # --- by DuckDB ------------------------------------------------------------------------

    def _numbered(self) -> Predictions:
        """The predictions, their entities numbered by DuckDB."""
        for statement in self._asked.tables:
            self._connection.execute(statement)
        p, times = self._asked.prefix, self._asked.times
        asked = f"select {p}row, {p}entity, asked_at from {times}"
        columns = self._connection.execute(asked).to_arrow_table().columns
        return Predictions(*(column.to_numpy() for column in columns))

    def _by_sql(self, piece: Piece, found: Sweep | SweepByKey) -> Rows | None:
        """The rows of a piece that are asked for, None if there is no need to look."""
        p, source, view = self._asked.prefix, self._view.source, self._view
        entities = self._asked_for(piece, found)
        if entities is None:
            return None
        rows = select(
            [
                f"entity.{p}entity as entity",
                f"{source.micros(view.timestamp)} as event_at",
                f"{source.place} as place",
            ],
            f"{source.reader}\njoin {entities} as entity\n"
            f"    on {' and '.join(view.matches(p)) or 'true'}",
            self._inside(piece),
        )
        # a relation's threads write Arrow themselves, which costs a fifth less
        history = self._connection.sql(rows).to_arrow_table()
        return Rows(*(column.to_numpy() for column in history.columns))

    def _asked_for(self, piece: Piece, found: Sweep | SweepByKey) -> str | None:
        """SQL for the entities of which rows of a piece are to be read, None if there are none.

        A time piece may ask for a table `wanted`, which is registered until the next one.
        """
        p = self._asked.prefix
        if isinstance(found, Sweep):
            wanted = found.wanted(piece.since, piece.until)
            if not len(wanted):
                return None
            if len(wanted) >= WANTED * found.entities:
                return self._asked.entities
            numbers = pa.table({f"{p}entity": wanted.astype(np.int32)})
            self._connection.register(f"{p}wanted", numbers)
            return f"(\nfrom {self._asked.entities} semi join {p}wanted using ({p}entity)\n)"
        assert piece.key
        number = [column for _, column in self._view.keys].index(piece.key) + 1
        inside = _between_keys(piece, f"{p}key_{number}")
        within = select(["1"], self._asked.entities, inside, "limit 1")
        return self._asked.entities if self._connection.execute(within).fetchone() else None

    def _created_at(self, piece: Piece, places: Integers) -> Integers:
        """The created times of rows of a piece, by their places.

        Raises ReplacedError if there are no such rows any more.
        """
        p, source, created = self._asked.prefix, self._view.source, self._view.created
        assert created
        whole_micros = source.skips_by(created)
        if whole_micros and self._files is not None and self._files.read_alike([created]):
            return self._files.micros(places, created)
        self._connection.register(
            f"{p}tied", pa.table({"place": places, "number": np.arange(len(places))})
        )
        created_at = select(
            [f"coalesce({source.micros(created)}, {NEVER}) as created_at"],
            f"{source.reader}\njoin {p}tied as tied on tied.place = {source.place}",
            self._inside(piece),
            "order by tied.number",
        )
        found = self._connection.sql(created_at).to_arrow_table()
        self._connection.unregister(f"{p}tied")
        if len(found) != len(places):
            raise ReplacedError
        in_order: Integers = found["created_at"].to_numpy()
        return in_order

    def _inside(self, piece: Piece) -> list[str]:
        """The conditions that a row of the source lies in a piece."""
        view = self._view
        times = view.between(">=", piece.since) + view.between("<=", piece.until - 1)
        return times + (_between_keys(piece, view.source.column(piece.key)) if piece.key else [])


def _between_keys(piece: Piece, column: str) -> list[str]:
    """The conditions that a key lies in a piece."""
    ends = ((">=", piece.first), ("<", piece.before))
    return [
        f"{column} {sign} {literal(key) if isinstance(key, str) else key}"
        for sign, key in ends
        if key is not None
    ]
