"""Which feature row each prediction sees, found by going through history once in order of time.

A `Sweep` holds the predictions of a join and, for every entity, the newest row so far. History
comes in pieces, each with all rows from the end of the last one up to an instant, after which all
predictions before that instant can be answered. `pieces` says where to cut and whether it is worth
while; the pieces are read in `asof`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from hindcast.sources import RowGroup

Integers = npt.NDArray[np.int64]

NONE = -1
"""The place of the row that a prediction sees, where it sees none."""
NEVER = -(2**63)
"""The event time where there is no row, and the created time of a row without."""
AT_ONCE = 2**15
"""Rows that are looked at together: few enough for the processor's cache."""
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


class Sweep:
    """One pass through the history of a feature view.

    `entity` and `asked_at` are the predictions: the number of the entity, from 0 to below
    `entities`, and the time in microseconds since 1970. Both have shape (predictions,).
    """

    def __init__(self, entity: npt.NDArray[np.int32], asked_at: Integers, entities: int) -> None:
        """Put the predictions in order of time; nothing is seen yet."""
        self._order = np.argsort(asked_at)
        self._entity, self._asked_at = entity[self._order], asked_at[self._order]
        self._newest = np.full(entities, NONE, np.int64)
        self._newest_at = np.full(entities, NEVER, np.int64)
        self._asked_here = np.zeros(entities, np.bool_)
        self._place = np.empty(len(entity), np.int64)
        self._event_at = np.empty(len(entity), np.int64)
        self._answered = 0

    def read(
        self,
        until: int,
        entity: npt.NDArray[np.int32],
        event_at: Integers,
        place: Integers,
        created_at: Integers | None = None,
    ) -> None:
        """Take in the feature rows from the last `until` on that are older than this one.

        They may be in any order, but all must be there. Of rows with equal event time the one
        with the latest `created_at` counts, then that with the greatest `place`: places are unique
        and not negative. All arrays have shape (rows,), times are microseconds since 1970.
        """
        order = _in_order(event_at, place, created_at)
        if order is not None:
            entity, event_at, place = entity[order], event_at[order], place[order]
        for start in range(0, len(entity), AT_ONCE):
            rows, stop = slice(start, start + AT_ONCE), start + AT_ONCE
            before = event_at[stop] if stop < len(entity) else until
            end = int(np.searchsorted(self._asked_at, before))
            if end > self._answered:
                self._answer(end, entity[rows], event_at[rows], place[rows])
            whose = entity[rows].astype(np.intp)
            self._newest[whose] = place[rows]  # of an entity's rows the last one stays
            self._newest_at[whose] = event_at[rows]

    def _answer(
        self, end: int, entity: npt.NDArray[np.int32], event_at: Integers, place: Integers
    ) -> None:
        """Answer the predictions up to number `end` from rows in order of time."""
        asked = slice(self._answered, end)
        whose = self._entity[asked]
        self._place[asked], self._event_at[asked] = self._newest[whose], self._newest_at[whose]
        self._asked_here[whose] = True
        rows = np.flatnonzero(self._asked_here[entity])
        self._asked_here[whose] = False
        # entity and row in one integer: sorted, the last one below a prediction's is what it sees
        known = (entity[rows].astype(np.int64) << 32) | rows
        known.sort()
        wanted = whose.astype(np.int64) << 32
        wanted |= np.searchsorted(event_at, self._asked_at[asked], side="right")
        below = np.searchsorted(known, wanted) - 1
        if len(known):
            seen = known[below]
            own = np.flatnonzero((below >= 0) & (seen >> 32 == whose))
            row = seen[own] & 0xFFFF_FFFF
            self._place[self._answered + own] = place[row]
            self._event_at[self._answered + own] = event_at[row]
        self._answered = end

    def seen(self, ttl: int) -> Integers:
        """The place of the row that each prediction sees, as they were given; NONE if none.

        Rows older than `ttl` microseconds are not seen; 0 is unlimited. Call it once, when all
        history was read.
        """
        left = slice(self._answered, None)
        whose = self._entity[left]
        self._place[left], self._event_at[left] = self._newest[whose], self._newest_at[whose]
        if ttl:
            # without a sign, since an age may need all 64 bits
            age = self._asked_at.astype(np.uint64) - self._event_at.astype(np.uint64)
            self._place[age > min(ttl, 2**64 - 1)] = NONE
        place = np.empty_like(self._place)
        place[self._order] = self._place
        return place


def _in_order(
    event_at: Integers, place: Integers, created_at: Integers | None
) -> npt.NDArray[np.intp] | None:
    """The order of event time, then created time, then place; None if the rows are in it."""
    order = None
    if np.any(place[1:] < place[:-1]):
        order = np.argsort(place, kind="stable")  # nearly sorted as a rule, which is quick
        event_at = event_at[order]
    if np.any(event_at[1:] < event_at[:-1]):
        by_time = np.argsort(event_at, kind="stable")
        order = by_time if order is None else order[by_time]
        event_at = event_at[by_time]
    if created_at is None:
        return order
    tied = event_at[1:] == event_at[:-1]
    if tied.any():
        created = created_at if order is None else created_at[order]
        if np.any(created[1:][tied] < created[:-1][tied]):
            rows = np.flatnonzero(np.append(tied, False) | np.append(False, tied))
            moved = rows[np.lexsort((created[rows], event_at[rows]))]
            order = np.arange(len(event_at)) if order is None else order
            order[rows] = order[moved]
    return order


def pieces(
    groups: Iterable[RowGroup], since: int, last: int, *, skips: bool, files: int = 1
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
