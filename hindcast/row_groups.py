"""Rows of Parquet files on this machine, read by their place: the file and their number in it.

Once a sweep has found which rows are seen, their values need not be searched for. And where a key
is an integer whose values lie close together, an array says whose a row is, and no join is needed.
Only for columns of which DuckDB tells the very type that the files hold. All else (partitions,
files that differ or lie elsewhere, other types) is for DuckDB to read: see `history`.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hindcast.errors import ReplacedError, RetrievalError
from hindcast.sources import PLACES_OF_A_FILE, Source
from hindcast.sweep import LATEST, NEVER, NONE, Integers, Numbers

Given = TypeVar("Given")
Made = TypeVar("Made")
Numbered = npt.NDArray[np.intp]

ARROW = {
    "BOOLEAN": pa.bool_(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "UTINYINT": pa.uint8(),
    "USMALLINT": pa.uint16(),
    "UINTEGER": pa.uint32(),
    "UBIGINT": pa.uint64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "VARCHAR": pa.string(),
    "DATE": pa.date32(),
    "TIMESTAMP": pa.timestamp("us"),
    "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", "UTC"),
}
"""What DuckDB calls the types of files that it and pyarrow read alike."""
AT_ONCE = 500_000
"""Values of a row group to read at once, about: its columns are read a few at a time."""
LARGEST = 4_000_000
"""Rows of a row group, above which a column of it takes too much memory."""
DENSE = 2**22
"""Keys that lie within so many are looked up in an array."""
SHARED_OUT = 20_000_000
"""Rows of a history from which on threads share out the work. They cost a quarter more processor
time (measured with two), and one alone reads less than that in a second or two."""
OF_A_RESULT = 2**20
"""Values that are put in order at once."""
INFINITIES = (LATEST, -LATEST)
"""The microseconds that stand for no time at all."""


class Rows(NamedTuple):
    """Feature rows of some entities, each of shape (rows,): the entity's number, the event time in
    microseconds since 1970, the place."""

    entity: Numbers
    event_at: Integers
    place: Integers


class Crew:
    """Threads that share out work, the caller's among them: a thread less to hand things to."""

    def __init__(self, threads: int) -> None:
        """`threads` includes the caller's."""
        self._size = threads
        self._others = ThreadPoolExecutor(max(1, threads - 1))

    def __enter__(self) -> Crew:
        """Be ready to work."""
        return self

    def __exit__(self, *error: object) -> None:
        """Wait for those that are at work."""
        self._others.shutdown(cancel_futures=True)

    def do(self, work: Callable[[Given], Made], given: Sequence[Given]) -> list[Made]:
        """Work on each. Raises what any work raises."""
        share = max(1, -(-len(given) // self._size))
        own, *others = [given[at : at + share] for at in range(0, len(given), share)] or [given]
        handed_out = [self._others.submit(lambda part: [*map(work, part)], part) for part in others]
        done = [*map(work, own)]
        return done + [made for part in handed_out for made in part.result()]


@dataclass(frozen=True)
class LocalFiles:
    """The files of a source, and what their footers say. Row groups are numbered through all of
    them, in the order of places."""

    source: Source
    footers: list[pq.FileMetaData]
    crew: Crew
    _opened: threading.local = field(default_factory=threading.local, init=False, compare=False)
    """The file that a thread read last, and its path: opening costs as much as some reading."""

    @classmethod
    def of(cls, source: Source, crew: Crew) -> LocalFiles | None:
        """None where files lie elsewhere, cannot be opened, or have too large row groups."""
        if source.may_leave_out_files([]):
            return None
        try:
            files = cls(source, [pq.read_metadata(path) for path in source.paths], crew)
        except (OSError, pa.ArrowException):  # if anyone can say what is wrong, it is DuckDB
            return None
        return files if files.sizes.max(initial=0) <= LARGEST else None

    @cached_property
    def groups(self) -> list[tuple[int, int]]:
        """The file of each row group, and its number in it."""
        counted = enumerate(footer.num_row_groups for footer in self.footers)
        return [(file, number) for file, count in counted for number in range(count)]

    @cached_property
    def sizes(self) -> Integers:
        """The rows of each row group."""
        rows = (self.footers[file].row_group(number).num_rows for file, number in self.groups)
        return np.fromiter(rows, np.int64)

    @cached_property
    def places(self) -> Integers:
        """The place of the first row of each row group."""
        file = np.fromiter((file for file, _ in self.groups), np.int64)
        before = np.cumsum(self.sizes) - self.sizes
        first_of_file = np.searchsorted(file, file)
        places: Integers = file * PLACES_OF_A_FILE + before - before[first_of_file]
        return places

    @cached_property
    def _kinds(self) -> list[dict[str, pa.DataType]]:
        """The types of each file's columns, but for names that differ in case alone: DuckDB takes
        the first of them."""
        kinds = []
        for footer in self.footers:
            schema = footer.schema.to_arrow_schema()
            alike = Counter(map(str.lower, schema.names))
            kinds.append({of.name: of.type for of in schema if alike[of.name.lower()] == 1})
        return kinds

    def read_alike(self, columns: Iterable[str]) -> bool:
        """Whether pyarrow gives of these columns what DuckDB does."""
        columns = list(columns)
        if self.source.may_leave_out_files(columns) or any("." in column for column in columns):
            return False  # to pyarrow a dot leads into a struct
        kinds = {column: ARROW.get(self.source.require(column)) for column in columns}
        return None not in kinds.values() and all(
            of_file.get(name) == kind for of_file in self._kinds for name, kind in kinds.items()
        )

    def ends(self, column: str) -> tuple[Integers, Integers]:
        """The least and the greatest value in each row group: integers, or times in microseconds.

        The lowest and the highest integer where the footer does not say.
        """
        first = np.full(len(self.groups), NEVER, np.int64)
        last = np.full(len(self.groups), LATEST, np.int64)
        raw = "_raw" * self.source.columns[column].startswith("TIMESTAMP")
        leaves = [
            {footer.schema.column(leaf).path: leaf for leaf in range(footer.num_columns)}[column]
            for footer in self.footers
        ]
        for group, (file, number) in enumerate(self.groups):
            told = self.footers[file].row_group(number).column(leaves[file]).statistics
            if told is not None and told.has_min_max:
                first[group], last[group] = getattr(told, f"min{raw}"), getattr(told, f"max{raw}")
        return first, last

    def each(self, work: Callable[[Given], Made], given: Sequence[Given]) -> list[Made]:
        """Work on each, with other threads if there is much to read."""
        if self.sizes.sum() < SHARED_OUT:
            return [*map(work, given)]
        return self.crew.do(work, given)

    def read(self, group: int, columns: list[str]) -> pa.Table:
        """Some columns of a row group.

        Raises ReplacedError if it has other rows than its footer said, RetrievalError if it cannot
        be read.
        """
        file, number = self.groups[group]
        path = self.source.paths[file]
        try:
            if getattr(self._opened, "path", None) != path:
                self._opened.file = pq.ParquetFile(path, metadata=self.footers[file])
                self._opened.path = path
            table = self._opened.file.read_row_group(number, columns, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise RetrievalError(f"{self.source.label}: {path} cannot be read: {error}") from error
        if table.num_rows != self.sizes[group]:
            raise ReplacedError
        return table

    def take(self, places: Integers, columns: Iterable[str]) -> list[pa.ChunkedArray]:
        """The values of columns in the rows at some places, NULL where that is NONE."""
        asked = list(columns)
        columns = list(dict.fromkeys(asked))
        order = np.argsort(places)
        in_order = places[order]
        in_order = in_order[np.searchsorted(in_order, 0) :]
        ends = np.append(np.searchsorted(in_order, self.places), len(in_order))
        touched = np.flatnonzero(np.diff(ends)).tolist()

        def some(group: int, names: list[str]) -> list[tuple[str, pa.ChunkedArray]]:
            rows = pa.array(in_order[ends[group] : ends[group + 1]] - self.places[group])
            table = self.read(group, names)
            return [(name, self._taken(table[name], rows, group)) for name in names]

        tasks = [
            (group, columns[at : at + at_once])
            for group in touched
            for at_once in [max(1, AT_ONCE // int(self.sizes[group]))]
            for at in range(0, len(columns), at_once)
        ]
        parts: dict[str, list[pa.Array]] = {column: [] for column in columns}
        for name, part in chain.from_iterable(self.each(lambda task: some(*task), tasks)):
            parts[name] += part.chunks
        rank = np.empty_like(places)
        rank[order] = np.arange(len(in_order) - len(places), len(in_order))
        ranks = pa.array(rank, mask=rank < 0)
        found = dict[str, pa.ChunkedArray]()
        for column in columns:
            try:
                kind = ARROW[self.source.columns[column]]
                found[column] = _in_order(parts.pop(column), ranks, kind)
            except pa.ArrowInvalid as error:  # more than 2 GB in a million rows
                raise RetrievalError(
                    f"{self.source.label}: the values of {column} cannot be put together: {error}. "
                    "Ask for fewer rows at once, or read the result by `to_record_batches`."
                ) from error
        return [found[column] for column in asked]

    def _taken(self, column: pa.ChunkedArray, rows: pa.Array, group: int) -> pa.ChunkedArray:
        """Some rows of a column of a row group, so that more than 2 GB can be put together.

        Raises RetrievalError for text that is not UTF-8, as DuckDB does.
        """
        if not pa.types.is_string(column.type):
            return column.take(rows)
        taken = column.cast(pa.large_string()).take(rows)
        try:
            taken.validate(full=True)
        except pa.ArrowInvalid as error:
            path = self.source.paths[self.groups[group][0]]
            raise RetrievalError(
                f"{self.source.label}: {path} has text that is not UTF-8: {error}"
            ) from error
        return taken

    def micros(self, places: Integers, column: str) -> Integers:
        """Likewise times in microseconds since 1970, NEVER for NULL and the infinities."""
        (times,) = self.take(places, [column])
        at = _integers(times, NEVER)
        micros: Integers = np.where(np.isin(at, INFINITIES), NEVER, at)
        return micros


class KeyedRows:
    """The feature rows of entities that have one integer for a key."""

    def __init__(self, files: LocalFiles, key: str, time: str, asked: Integers) -> None:
        """`asked` is the key of each prediction."""
        self._files, self._key, self._time = files, key, time
        low, high = int(asked.min()), int(asked.max())
        self._times, self._ends = files.ends(time), files.ends(key)
        whole = (min(low, 0, *self._ends[0].tolist()), max(high, *self._ends[1].tolist()))
        if whole[1] - whole[0] < DENSE:  # then no row of the files has a key that is outside
            low, high = whole
        self._low, self._size = low, np.uint64(high - low + 1)
        # behind the last one a place for all keys that are too small or too large
        self._entity = np.full(int(self._size) + 1, NONE, np.int32)
        is_asked = np.zeros(len(self._entity), np.bool_)
        is_asked[asked - low] = True
        self._keys = np.flatnonzero(is_asked) + low
        self.numbers: Numbers = (np.cumsum(is_asked, dtype=np.int32) - 1)[asked - low]
        """The number of each prediction's entity: from 0 on, in order of key."""

    @classmethod
    def of(cls, files: LocalFiles, key: str, time: str, keys: pa.ChunkedArray) -> KeyedRows | None:
        """None where the rows are better read by DuckDB. `keys` are those asked for, not NULL."""
        kind, at = (ARROW.get(files.source.columns[column]) for column in (key, time))
        whole = [pa.types.is_integer(of) and of != pa.uint64() for of in (kind, keys.type) if of]
        if whole != [True, True] or not at or not pa.types.is_timestamp(at) or not len(keys):
            return None
        low, high = pc.min_max(keys).as_py().values()
        if high - low >= DENSE or not files.read_alike([key, time]):
            return None
        return cls(files, key, time, _integers(keys, 0))

    def entities(self, first: int | None, before: int | None) -> Numbered:
        """The numbers of the entities whose keys are from one to before another."""
        start = 0 if first is None else int(np.searchsorted(self._keys, first))
        stop = len(self._keys) if before is None else int(np.searchsorted(self._keys, before))
        return np.arange(start, stop)

    def read(self, entities: Numbered, since: int, until: int) -> Rows:
        """The feature rows of some entities with a time from `since` to before `until`."""
        keys = self._keys[entities]
        self._entity[keys - self._low] = entities
        needed = (self._times[0] < until) & (self._times[1] >= since)
        inside = (self._times[0] >= since) & (self._times[1] < until)
        needed &= (self._ends[0] <= keys.max()) & (self._ends[1] >= keys.min())

        def rows_of(group: int) -> Rows:
            table = self._files.read(group, [self._key, self._time])
            entity = self._whose(table[self._key])
            at = _integers(table[self._time], LATEST)
            wanted = entity != NONE
            if not inside[group] or table[self._time].null_count:
                wanted &= (at >= since) & (at < until)
            rows = np.flatnonzero(wanted)
            return Rows(entity[rows], at[rows], rows + self._files.places[group])

        parts = self._files.each(rows_of, np.flatnonzero(needed).tolist())
        self._entity[keys - self._low] = NONE
        if not parts:
            return Rows(np.empty(0, np.int32), *np.empty((2, 0), np.int64))
        return Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _whose(self, key: pa.ChunkedArray) -> Numbers:
        """The number of the entity that each key is of, NONE if of none that is asked for."""
        place = _integers(key, self._low)
        if self._low:
            place = place - self._low
        unsigned = place.view(np.uint64)  # in which those that are too small are too large
        if unsigned.max(initial=0) > self._size:
            place = np.minimum(unsigned, self._size).view(np.int64)
        entity: Numbers = self._entity[place]
        if key.null_count:
            entity[key.is_null().to_numpy()] = NONE
        return entity


def _integers(column: pa.ChunkedArray, null: int) -> Integers:
    """Integers or times as integers of 64 bits."""
    column = column.cast(pa.int64())
    numbers: Integers = (column.fill_null(null) if column.null_count else column).to_numpy()
    return numbers


def _in_order(parts: list[pa.Array], ranks: pa.Array, kind: pa.DataType) -> pa.ChunkedArray:
    """The values at some ranks among the parts', NULL where there is none."""
    if not parts:
        return pa.chunked_array([pa.nulls(len(ranks), kind)])
    whole = pa.concat_arrays(parts)
    parts.clear()
    steps = (ranks.slice(at, OF_A_RESULT) for at in range(0, len(ranks), OF_A_RESULT))
    return pa.chunked_array([pc.take(whole, step).cast(kind) for step in steps], kind)
