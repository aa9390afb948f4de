"""Which feature row each prediction sees, found by going through history once.

History comes in pieces: of time, the newest first (`Sweep`), or of entities (`SweepByKey`). Both
hold the predictions of a join, and each piece answers those that it can. `pieces` and
`pieces_by_key` say where to cut and whether it is worth while; the pieces are read in `asof`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from hindcast.sources import Key, RowGroup

Integers = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int32]
CreatedAt = Callable[[Integers], Integers]
"""Gives the created times of the rows at some places, in microseconds since 1970, or `NEVER`."""
Rows = slice | npt.NDArray[np.intp]

NONE = -1
"""The place of the row that a prediction sees, where it sees none."""
LATEST = 2**63 - 1
"""The last microsecond that there is."""
NEVER = -(2**63)
"""The created time of a row without."""
ROW = 0xFFFF_FFFF
"""The bits of the row where an entity and a row are in one integer."""
AT_ONCE = 2**15
"""Rows that are looked at together: few enough for the processor's cache."""
BLOCKS = 100
"""Blocks of rows in order, above which they are sorted."""
PIECE = 1_000_000
"""Rows to read at once, about. A history of no more is swept in whatever order it is (measured)."""
ROWS_PER_FILE = 10_000
"""Rows of a piece for each file, at least: a query opens them all."""
LARGEST = 4_000_000
"""Rows of a piece, above which it takes too much memory."""
OVERLAP = 0.25
"""The share of rows that may lie in time that row groups before theirs reach into, about."""
REREAD = 2
"""How often a row may almost be decoded, on average: a row group is for each piece it reaches into,
and large ones whose times touch reach into two."""


class Answers:
    """The predictions of a join with a feature view, and the row that each sees so far.

    `entity` and `asked_at` are the predictions: the number of the entity, from 0 to below
    `entities`, and the time in microseconds since 1970. Both have shape (predictions,). Rows older
    than `ttl` microseconds are not seen; 0 is unlimited.
    """

    def __init__(
        self, order: npt.NDArray[np.intp], entity: Numbers, asked_at: Integers, ttl: int
    ) -> None:
        """Put the predictions in an order; nothing is seen yet."""
        self._order, self._ttl = order, ttl
        self._entity, self._asked_at = entity[order], asked_at[order]
        self._place = np.full(len(entity), NONE, np.int64)
        self._event_at = np.empty(len(entity) if ttl else 0, np.int64)

    def _see(self, asked: npt.NDArray[np.intp], place: Integers, event_at: Integers) -> None:
        """Answer predictions."""
        self._place[asked] = place
        if self._ttl:  # else nobody asks how old a row is
            self._event_at[asked] = event_at

    def seen(self) -> Integers:
        """The place of the row that each prediction sees, as they were given; NONE if none.

        For when all history was read.
        """
        place = np.empty_like(self._place)
        if self._ttl:
            # without a sign, since an age may need all 64 bits
            age = self._asked_at.astype(np.uint64) - self._event_at.astype(np.uint64)
            self._place[age > min(self._ttl, 2**64 - 1)] = NONE
        place[self._order] = self._place
        return place


class Sweep(Answers):
    """One pass through the history of a feature view, from the newest piece to the oldest."""

    def __init__(self, entity: Numbers, asked_at: Integers, entities: int, ttl: int) -> None:
        """Put the predictions in order of time."""
        super().__init__(np.argsort(asked_at), entity, asked_at, ttl)
        self.entities = entities
        self._open = np.empty(0, np.intp)
        self._newest = np.full(entities, NONE, np.int64)
        self._newest_at = np.empty(entities if ttl else 0, np.int64)
        self._asked_here = np.zeros(entities, np.bool_)
        self._answered = 0

    def wanted(self, since: int, until: int) -> npt.NDArray[np.intp]:
        """The entities of which a row from `since` to before `until` can be seen.

        Those of the predictions in that time, and of later ones that have not seen a row. Later
        ones that cannot see any that is older are forgotten, so ask from the newest piece on.
        """
        if self._ttl:  # what nothing older can answer is never asked again
            limit = min(until + self._ttl, LATEST)
            self._open = self._open[: np.searchsorted(self._asked_at[self._open], limit)]
        wanted = np.zeros(self.entities, np.bool_)
        wanted[self._entity[self._open]] = True
        wanted[self._entity[self._asked(since, until)]] = True
        return np.flatnonzero(wanted)

    def read(
        self,
        since: int,
        until: int,
        entity: Numbers,
        event_at: Integers,
        place: Integers,
        created_at: CreatedAt | None = None,
    ) -> None:
        """Take in the feature rows from `since` to before `until`, which was the last `since`.

        A piece may be left out if nothing of it is `wanted`. Rows may be in any order, and others
        among them, but all of the entities that are wanted must be there. Of an entity's rows with
        equal event time the one with the latest created time counts, then that with the greatest
        `place`: places are unique and not negative. `created_at` is only called if there are such
        rows. All arrays have shape (rows,), times are microseconds since 1970.
        """
        if len(entity) and (event_at.min() < since or event_at.max() >= until):
            # by a condition on times DuckDB lets more of a column of dates pass (issue 24900)
            inside = (event_at >= since) & (event_at < until)
            entity, event_at, place = entity[inside], event_at[inside], place[inside]
        asked = self._asked(since, until)
        self._answered = asked.start
        for rows, before in _steps(until, entity, event_at, place, created_at):
            whose, at = entity[rows], event_at[rows]
            end = int(np.searchsorted(self._asked_at, before))
            if end > self._answered:
                self._answer(end, whose, at, place[rows])
            whose = whose.astype(np.intp)
            self._newest[whose] = place[rows]  # of an entity's rows the last one stays
            if self._ttl:
                self._newest_at[whose] = at
        self._remember(self._open)
        self._newest[entity if len(entity) < self.entities else slice(None)] = NONE
        # the numbers of a piece's predictions are below those of newer ones: in order, that is
        asked_now = np.concatenate([np.arange(asked.start, asked.stop), self._open])
        self._open = asked_now[self._place[asked_now] == NONE]

    def _asked(self, since: int, until: int) -> slice:
        """The predictions of a piece."""
        return slice(*np.searchsorted(self._asked_at, [since, until]).tolist())

    def _answer(self, end: int, entity: Numbers, event_at: Integers, place: Integers) -> None:
        """Answer the predictions up to number `end` from rows in order of time."""
        asked = np.arange(self._answered, end)
        self._remember(asked)
        whose = self._entity[asked]
        self._asked_here[whose] = True
        rows = np.flatnonzero(self._asked_here[entity])
        self._asked_here[whose] = False
        # entity and row in one integer: sorted, the last one below a prediction's is what it sees
        known = _by_entity(entity[rows], rows)
        limits = whose.astype(np.int64) << 32
        limits |= np.searchsorted(event_at, self._asked_at[asked], side="right")
        below = np.searchsorted(known, limits) - 1
        if len(known):
            seen = known[below]
            own = np.flatnonzero((below >= 0) & (seen >> 32 == whose))
            row = seen[own] & ROW
            self._see(asked[own], place[row], event_at[row])
        self._answered = end

    def _remember(self, asked: npt.NDArray[np.intp]) -> None:
        """Answer predictions by the newest rows of the piece so far."""
        whose = self._entity[asked]
        place = self._newest[whose]
        self._see(asked, place, self._newest_at[whose] if self._ttl else place)


class SweepByKey(Answers):
    """One pass through the history of a feature view, all rows of some entities at a time."""

    def __init__(self, entity: Numbers, asked_at: Integers, entities: int, ttl: int) -> None:
        """Put the predictions in order of entity."""
        super().__init__(np.argsort(entity), entity, asked_at, ttl)
        self._first = np.append(0, np.cumsum(np.bincount(entity, minlength=entities)))

    def read(
        self,
        entity: Numbers,
        event_at: Integers,
        place: Integers,
        created_at: CreatedAt | None = None,
    ) -> None:
        """Take in all feature rows of some entities, once; otherwise as `Sweep.read`."""
        if not len(entity):
            return
        parts: list[Rows] = [*_blocks(place)] or [np.argsort(place, kind="stable")]
        if len(parts) > 1 or not isinstance(parts[0], slice):
            entity, event_at, place = (
                np.concatenate([column[rows] for rows in parts])
                for column in (entity, event_at, place)
            )
        order = _order_by_key(entity, event_at, place, created_at)
        if order is not None:
            entity, event_at, place = entity[order], event_at[order], place[order]
        starts = np.flatnonzero(np.append(True, entity[1:] != entity[:-1]))
        first, stop = self._first[entity[starts]], self._first[entity[starts] + 1]
        asked = _ranges(first, stop)
        before = np.repeat(starts - 1, stop - first)
        last = np.repeat(np.append(starts[1:], len(entity)) - 1, stop - first)
        asked_at, at = self._asked_at[asked], before
        step = 1 << int((last - before).max(initial=0)).bit_length()
        while step := step >> 1:  # a binary search for each, all at once
            further = np.minimum(at + step, last)
            at = np.where(event_at[further] <= asked_at, further, at)
        own = at > before
        self._see(asked[own], place[at[own]], event_at[at[own]])


def _by_entity(entity: Numbers, row: npt.NDArray[np.intp]) -> Integers:
    """Entity and row in one integer, sorted."""
    both: Integers = (entity.astype(np.int64) << 32) | row
    both.sort()
    return both


def _ranges(first: npt.NDArray[np.intp], stop: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """The numbers from each `first` to before its `stop`, one range after the other."""
    sizes = stop - first
    return np.repeat(first - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())


# --- order --------------------------------------------------------------------------------


def _steps(
    until: int,
    entity: Numbers,
    event_at: Integers,
    place: Integers,
    created_at: CreatedAt | None,
) -> Iterator[tuple[Rows, int]]:
    """The rows to look at together, in order of event time, then created time, then place, and
    the event time of the row after them, or `until`."""
    if not len(place):
        return
    blocks = _blocks(place)
    order = None
    # with created times, rows that tie must lie side by side
    if not _in_time(event_at, blocks, strictly=created_at is not None):
        order = np.lexsort((place, event_at))
    if created_at is not None:
        tied = _tied(entity, event_at, order)
        if len(tied):
            if order is None:
                order = np.lexsort((place, event_at))
                tied = _tied(entity, event_at, order)
            _settle(order, tied, event_at[order[tied]], place, created_at)
    steps: list[Rows]
    if order is not None:
        steps = [order[start : start + AT_ONCE] for start in range(0, len(order), AT_ONCE)]
    else:
        steps = [
            slice(start, min(start + AT_ONCE, block.stop))
            for block in blocks
            for start in range(block.start, block.stop, AT_ONCE)
        ]
    for rows, following in zip(steps, [*steps[1:], None], strict=True):
        if following is None:
            yield rows, until
        else:
            first = following.start if isinstance(following, slice) else following[0]
            yield rows, int(event_at[first])


def _blocks(place: Integers) -> list[slice]:
    """The blocks of rows that only need to change places to be in order of it.

    DuckDB's threads each hand over some row groups of a file, in order. None at all if the rows
    are in no such order.
    """
    ends = np.flatnonzero(place[1:] < place[:-1]) + 1
    if len(ends) > BLOCKS:
        return []
    runs = [(int(place[start]), start, stop) for start, stop in pairwise([0, *ends, len(place)])]
    heapify(runs)
    blocks = list[slice]()
    while runs and len(blocks) <= BLOCKS:
        _, start, stop = heappop(runs)
        end = stop
        if runs:  # as far as the next block begins
            end = start + int(np.searchsorted(place[start:stop], runs[0][0]))
        blocks.append(slice(start, end))
        if end < stop:
            heappush(runs, (int(place[end]), end, stop))
    return [] if runs else blocks


def _in_time(event_at: Integers, blocks: list[slice], *, strictly: bool) -> bool:
    """Whether there are blocks, and they are in order of time; `strictly`: no two share a time."""
    if not blocks:
        return False
    ends = np.flatnonzero(event_at[1:] < event_at[:-1]) + 1
    firsts = event_at[[block.start for block in blocks[1:]]]
    lasts = event_at[[block.stop - 1 for block in blocks[:-1]]]
    apart = lasts < firsts if strictly else lasts <= firsts
    return bool(apart.all() and np.isin(ends, [block.stop for block in blocks]).all())


def _tied(
    entity: Numbers, event_at: Integers, order: npt.NDArray[np.intp] | None
) -> npt.NDArray[np.intp]:
    """Which rows in order of time have the entity and the event time of another one."""
    at = event_at if order is None else event_at[order]
    rows = _beside(at[1:] == at[:-1])
    known = _by_entity(entity[rows if order is None else order[rows]], rows)
    rows, whose = known & ROW, known >> 32
    return np.sort(rows[_beside((whose[1:] == whose[:-1]) & (at[rows[1:]] == at[rows[:-1]]))])


def _order_by_key(
    entity: Numbers, event_at: Integers, place: Integers, created_at: CreatedAt | None
) -> npt.NDArray[np.intp] | None:
    """The order in which each entity's rows are together, by event time, created time and place.

    None if the rows are in it. They must be in order of place.
    """
    order, whose, at = None, entity, event_at
    same = whose[1:] == whose[:-1]
    starts = whose[np.flatnonzero(np.append(True, ~same))]
    if np.any(same & (at[1:] < at[:-1])) or len(np.unique(starts)) < len(starts):
        order = np.lexsort((event_at, entity))
        whose, at = entity[order], event_at[order]
        same = whose[1:] == whose[:-1]
    if created_at is not None:
        tied = _beside(same & (at[1:] == at[:-1]))
        if len(tied):
            order = np.arange(len(place)) if order is None else order
            apart = np.cumsum(np.append(False, ~same | (at[1:] != at[:-1])))
            _settle(order, tied, apart[tied], place, created_at)
    return order


def _beside(same: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """The rows that are the same as the one before or the one after them."""
    if not same.any():
        return np.empty(0, np.intp)
    return np.flatnonzero(np.append(same, False) | np.append(False, same))


def _settle(
    order: npt.NDArray[np.intp],
    tied: npt.NDArray[np.intp],
    apart: Integers,
    place: Integers,
    created_at: CreatedAt,
) -> None:
    """Put the `tied` rows of an order in order of created time, where `apart` is the same."""
    rows = order[tied]
    order[tied] = rows[np.lexsort((created_at(place[rows]), apart))]


# --- where to cut -------------------------------------------------------------------------


def pieces(
    groups: Iterable[RowGroup[int]], since: int, last: int, *, skips: bool, files: int = 1
) -> list[int] | None:
    """The ends (not included) of the pieces in which to read the rows from `since` to `last`.

    A piece begins where a row group does and has about `PIECE` rows, more where there are many
    files. `skips` says whether row groups that lie outside a piece are left out when it is read.
    None where a sweep is not worth while: the row groups are not in order of time, so that most
    would be read several times, or they are too large.
    """
    needed = [
        group
        for group in groups
        if not skips
        or group.first is None
        or group.last is None
        or (group.first <= last and group.last >= since)
    ]
    end = [last + 1]
    if sum(group.rows for group in needed) <= PIECE:
        return end
    dated = sorted((g.first, g.last, g.rows) for g in needed if None not in (g.first, g.last))
    if not skips or len(dated) < len(needed):
        return None
    firsts, lasts, rows = np.array(dated, np.int64).reshape(-1, 3).T
    reached = np.maximum.accumulate(np.append(firsts[:1], lasts[:-1]))
    spans = np.maximum(lasts.astype(float) - firsts, 1)
    shared = np.clip((reached.astype(float) - firsts) / spans, 0, 1)
    if (shared * rows).sum() > OVERLAP * rows.sum():
        return None
    ends, size, enough = list[int](), 0, max(PIECE, ROWS_PER_FILE * files)
    for first, more in zip(firsts.tolist(), rows.tolist(), strict=True):
        if size and size + more > enough and first > max([since, *ends[-1:]]):
            ends.append(first)
            size = 0
        size += more
    ends += end
    # a row group is decoded for each piece that it reaches into
    begins = np.searchsorted(ends, firsts, side="right")
    stops = np.minimum(np.searchsorted(ends, lasts, side="right"), len(ends) - 1)
    decoded = np.zeros(len(ends) + 1, np.int64)
    np.add.at(decoded, begins, rows)
    np.add.at(decoded, stops + 1, -rows)
    decoded = np.cumsum(decoded)[:-1]
    fits = decoded.max() <= LARGEST and decoded.sum() < REREAD * rows.sum()
    return ends if fits else None


def pieces_by_key(groups: Iterable[RowGroup[Key]], *, files: int = 1) -> list[Key] | None:
    """The keys before which to cut, so that each piece has all rows of its keys.

    As `pieces`, by the first and last key of each row group.
    """
    groups = list(groups)
    ends = {end for group in groups for end in (group.first, group.last)}
    keys: list[Key] = sorted(key for key in ends if key is not None)
    number = {None: None} | {key: number for number, key in enumerate(keys)}
    numbered = [RowGroup(rows, number[first], number[last]) for rows, first, last in groups]
    cuts = pieces(numbered, 0, len(keys) - 1, skips=True, files=files)
    return None if cuts is None else [keys[cut] for cut in cuts[:-1]]
