"""The history of one feature view, read as a sweep wants it: in pieces, then the rows it found.

Local files are read by their row groups where they can be (`row_groups`), all others by DuckDB.
Not for which rows are seen (see `sweep`), nor for where to cut (see `asof`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hindcast.errors import ReplacedError
from hindcast.row_groups import Crew, KeyedRows, LocalFiles, Rows
from hindcast.sql import literal, micros, select
from hindcast.sweep import NEVER, NONE, Integers, Sweep, SweepByKey
from hindcast.view import View

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


class History:
    """The feature rows of a view, for the entities and predictions in tables of a connection."""

    def __init__(
        self,
        view: View,
        key_set: int,
        prefix: str,
        connection: duckdb.DuckDBPyConnection,
        crew: Crew,
    ) -> None:
        """`key_set` and `prefix` are in the names of the tables, see `asof`."""
        self._view, self._prefix, self._connection = view, prefix, connection
        self._entities = f"{prefix}entities_{key_set}"
        self._times = f"{prefix}times_{key_set}"
        self._files = LocalFiles.of(view.source, crew)

    def sweep(self, pieces: list[Piece], rows: int) -> Integers:
        """The place of the feature row that each of the spine's rows sees, NONE if none."""
        asked = self._connection.execute(
            f"select {self._prefix}row, {self._prefix}entity, asked_at from {self._times}"
        ).to_arrow_table()
        row, entity, asked_at = (column.to_numpy() for column in asked.columns)
        kind = SweepByKey if pieces[0].key else Sweep
        count = int(entity.max(initial=0)) + 1
        found = kind(entity, asked_at, count, micros(self._view.ttl))
        del asked, entity, asked_at
        keyed = self._keyed()
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

    def _keyed(self) -> KeyedRows | None:
        """The rows by their key, if that is one that can be looked up in an array."""
        if self._files is None or len(self._view.keys) != 1:
            return None
        p, ((_, key),) = self._prefix, self._view.keys
        known = self._connection.execute(
            f"select {p}entity, {p}key_1 from {self._entities}"
        ).to_arrow_table()
        columns = (column.combine_chunks() for column in known.columns)
        return KeyedRows.of(self._files, key, self._view.timestamp, *columns)

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

    def _by_sql(self, piece: Piece, found: Sweep | SweepByKey) -> Rows | None:
        """Likewise."""
        p, source, view = self._prefix, self._view.source, self._view
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
        p = self._prefix
        if isinstance(found, Sweep):
            wanted = found.wanted(piece.since, piece.until)
            if not len(wanted):
                return None
            if len(wanted) >= WANTED * found.entities:
                return self._entities
            numbers = pa.table({f"{p}entity": wanted.astype(np.int32)})
            self._connection.register(f"{p}wanted", numbers)
            return f"(\nfrom {self._entities} semi join {p}wanted using ({p}entity)\n)"
        assert piece.key
        number = [column for _, column in self._view.keys].index(piece.key) + 1
        inside = _between_keys(piece, f"{p}key_{number}")
        within = select(["1"], self._entities, inside, "limit 1")
        return self._entities if self._connection.execute(within).fetchone() else None

    def _created_at(self, piece: Piece, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The created times of rows of a piece, by their places.

        Raises ReplacedError if there are no such rows any more.
        """
        created = self._view.created
        assert created
        if self._files is not None and self._files.read_alike([created]):
            return self._files.micros(places, created)
        p, source = self._prefix, self._view.source
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
        in_order: npt.NDArray[np.int64] = found["created_at"].to_numpy()
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
