"""The point-in-time join: which feature row each spine row sees, and the values in it.

A view is joined in two steps. The first finds which feature row each row of the spine sees; it
reads keys and times only. The second reads the features of those rows. The first step has three
plans with equal answers:

- *sweep*: history is read once, piece by piece, and numpy finds the rows (`hindcast.sweep`): in
  order of time it keeps the newest row of each entity, in order of key each piece has all rows of
  its entities. Best wherever the files let it: where they are in one of these orders, or small.
  The other two are SQL alone, and leave ties for the second step to decide.
- *slots*: the spine cuts each entity's time into slots, from one prediction to the next. A
  feature row falls in exactly one slot, only the newest row of a slot can be seen, and an empty
  slot sees what the slot before it sees. History is read once, hash-joined and never sorted.
  Best where the spine is small beside the history.
- *merge*: DuckDB's ASOF JOIN of keys and times alone. It sorts the history. Best where the
  spine is nearly as large, and where a few entities have nearly all of it.

`docs/concepts/point-in-time.md` explains them. Not for running the statements: see `offline_store`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import duckdb
import numpy as np
import pyarrow as pa

from hindcast.history import Asked, History, Piece
from hindcast.row_groups import Crew
from hindcast.sources import RowGroup, Session, Spine, published_views
from hindcast.sql import micros, quote, select
from hindcast.sweep import NONE, pieces, pieces_by_key
from hindcast.view import INTEGERS, View

HISTORY_PER_SPINE_ROW = 16
"""From this many feature rows per spine row on, slots cost less than a merge (measured)."""
EARLIEST = -9_223_372_022_400_000_000
"""The first microsecond that DuckDB has a timestamp for."""
CROWDED = 32
"""Slots that share a bucket, on average, above which a merge costs less (measured)."""


@dataclass(frozen=True)
class PointInTimeJoin:
    """The statements of one point-in-time join.

    `session` prepares a temporary table, the spine with a row number. For each set of join keys
    there are tables of its entities and its prediction times, once they are needed. `statements`
    join the views to them, in the spine's order. `swept` has the numbers of the views (from 1)
    that are joined by sweep, with the pieces to read; `merged` those that are joined by merge. The
    others are joined by slots.
    """

    spine: Spine
    views: list[View]
    filter_by_created_timestamp: bool
    swept: dict[int, list[Piece]] = field(default_factory=dict)
    merged: frozenset[int] = field(default_factory=frozenset)
    period: tuple[int, int] | None = None
    """The first and the last time of the spine in microseconds since 1970, once it was read."""

    @cached_property
    def prefix(self) -> str:
        """What internal names start with: more underscores than any other name here."""
        names = [*self.spine.columns, *self.spine.tables]
        names += [feature for view in self.views for feature in view.features]
        return "_" * (1 + max(len(name) - len(name.lstrip("_")) for name in names))

    @cached_property
    def key_sets(self) -> dict[tuple[str, ...], int]:
        """SQL for the join keys in the spine -> the number of the set; views may share one."""
        found: dict[tuple[str, ...], int] = {}
        for view in self.views:
            found.setdefault(self._keys_of(view), len(found) + 1)
        return found

    def _keys_of(self, view: View) -> tuple[str, ...]:
        return tuple(view.match(self.spine, key, column) for key, column in view.keys)

    def _key_set(self, view: View) -> int:
        return self.key_sets[self._keys_of(view)]

    # --- the tables that are joined to ----------------------------------------------------

    def session(self, base: Session) -> Session:
        """The connection with the spine in place.

        Raises RetrievalError if keys of the spine and of a view are of different kinds.
        """
        p, spine = self.prefix, self.spine
        for view in self.views:
            self._keys_of(view)  # which refuses them now, not when the job runs
        columns = [f"row_number() over () as {p}row", f"{spine.time()} as {p}at"]
        frames = {}
        if spine.sql is not None:
            columns.append("*")
            rows = f"(\n{spine.sql}\n)"
        else:
            keys = list(dict.fromkeys(key for view in self.views for key, _ in view.keys))
            frames = {f"{p}entity_rows": spine.narrow(keys)}
            columns += [quote(key) for key in keys]
            rows = f"{p}entity_rows"
        prelude = (
            *base.prelude,
            *spine.attached,
            *published_views(spine.tables),
            f"create temp table {p}spine as\n{select(columns, rows)}",
        )
        return replace(base, prelude=prelude, frames=frames)

    def _asked(self, view: View) -> Asked:
        """What a view is asked for."""
        keys = self._keys_of(view)
        return Asked(self.prefix, keys, self.key_sets[keys])

    # --- which plan -----------------------------------------------------------------------

    def dated(self, connection: duckdb.DuckDBPyConnection) -> PointInTimeJoin:
        """The join with its period, by the spine of a connection set up by `session`."""
        at = f"{self.prefix}at"
        first, last = connection.execute(
            f"select epoch_us(min({at})), epoch_us(max({at})) from {self.prefix}spine "
            f"where isfinite({at})"
        ).fetchone() or (None, None)
        return replace(self, period=None if first is None else (first, last))

    def planned(
        self, connection: duckdb.DuckDBPyConnection, only_sql: bool = False
    ) -> PointInTimeJoin:
        """The join with its period and a plan for each view, by what the spine of a connection
        set up by `session` turns out to be. `only_sql`: without sweeps.
        """
        swept, merged = dict[int, list[Piece]](), set()
        dated = self.dated(connection)
        for number, view in enumerate(self.views, 1):
            groups = view.source.times(view.timestamp, connection)
            found = [] if only_sql else dated._pieces(view, groups, connection)
            if found:
                swept[number] = found
            elif self._best_merged(view, sum(group.rows for group in groups), connection):
                merged.add(number)
        return replace(dated, swept=swept, merged=frozenset(merged))

    def _best_merged(self, view: View, history: int, connection: duckdb.DuckDBPyConnection) -> bool:
        """Whether a merge costs less than slots, for so many rows of history."""
        asked = self._asked(view)
        for statement in asked.tables:
            connection.execute(statement)
        (rows,) = connection.execute(f"select count(*) from {asked.times}").fetchone() or (0,)
        return history < HISTORY_PER_SPINE_ROW * rows or self._crowd(view, connection) > CROWDED

    def _pieces(
        self, view: View, groups: list[RowGroup[int]], connection: duckdb.DuckDBPyConnection
    ) -> list[Piece]:
        """The pieces in which to sweep the history of a view; none if it cannot be swept.

        With `filter_by_created_timestamp` it cannot: in order of event time, rows are in no order
        of when they can be seen. Nor where DuckDB might number the files of one query otherwise
        than those of the next.
        """
        source, columns = view.source, [view.timestamp, *(column for _, column in view.keys)]
        if self.period is None or self._cuts_off(view) or source.may_leave_out_files(columns):
            return []
        (since, last), files = self._span(view), len(source.paths)
        skips = source.skips_by(view.timestamp)
        ends = pieces(groups, since, last, skips=skips, files=files)
        if ends is not None:
            return [Piece(*times) for times in pairwise([since, *ends])][::-1]
        for _, column in view.keys:
            keys: list[int] | list[str] | None = None
            if source.columns[column] in INTEGERS:
                keys = pieces_by_key(source.integers(column, connection), files=files)
            elif source.columns[column] == "VARCHAR":
                keys = pieces_by_key(source.strings(column, connection), files=files)
            if keys is not None:
                return [
                    Piece(since, last + 1, column, *ends) for ends in pairwise([None, *keys, None])
                ]
        return []

    def _span(self, view: View) -> tuple[int, int]:
        """The first and the last event time that some prediction may see."""
        assert self.period is not None
        first, last = self.period
        return max(first - micros(view.ttl), EARLIEST) if view.ttl else EARLIEST, last

    def _crowd(self, view: View, connection: duckdb.DuckDBPyConnection) -> float:
        """How many slots share the bucket of a spine row, on average."""
        p, number = self.prefix, self._key_set(view)
        connection.execute(self._spans(number))
        in_bucket = select(
            ["count(distinct times.asked_at) as slots"],
            f"{p}times_{number} as times join {p}spans_{number} as entity using ({p}entity)",
            tail="group by entity.base + ((times.asked_at - entity.first_at) >> entity.shift)",
        )
        answer = connection.execute(
            f"select sum(slots * slots) / sum(slots) from (\n{in_bucket}\n)"
        ).fetchone()
        return float(answer[0] or 0) if answer else 0.0

    # --- the sweep ------------------------------------------------------------------------

    def sweep(
        self, connection: duckdb.DuckDBPyConnection, *, fetch: bool = False
    ) -> dict[int, list[pa.ChunkedArray]]:
        """Find the rows that the swept views' predictions see, and keep their places in a table.

        `fetch`: where the files let it, give the features of those rows instead, by the numbers of
        the views.
        """
        p, fetched = self.prefix, dict[int, list[pa.ChunkedArray]]()
        if not self.swept:
            return fetched
        asked = f"select count(*), current_setting('threads') from {p}spine"
        rows, threads = connection.execute(asked).fetchone() or (0, 1)
        columns = {f"{p}row": np.arange(1, rows + 1)}
        with Crew(threads) as crew:
            for number, pieces_ in self.swept.items():
                view = self.views[number - 1]
                history = History(view, self._asked(view), connection, crew)
                places = history.sweep(pieces_, rows)
                values = history.values(places) if fetch else None
                if values is None:
                    columns[f"{p}place_{number}"] = pa.array(places, mask=places == NONE)
                else:
                    fetched[number] = values
        if len(columns) > 1:
            connection.register(f"{p}found", pa.table(columns))
            connection.execute(f"create temp table {p}places as from {p}found")
            connection.unregister(f"{p}found")
        return fetched

    def table(self, connection: duckdb.DuckDBPyConnection) -> pa.Table:
        """What the last of the statements would give."""
        fetched = self.sweep(connection, fetch=True)
        own = list(self.spine.columns) if self.spine.sql is not None else []
        columns = dict[str, pa.ChunkedArray]()
        features = [feature for view in self.views for feature in view.features]
        if own or not features or len(fetched) < len(self.views):
            for statement in self.statements(without=fetched):
                connection.execute(statement)
            result = connection.to_arrow_table()
            columns |= zip(result.column_names, result.columns, strict=True)
        for number, values in fetched.items():
            columns |= zip(self.views[number - 1].features, values, strict=True)
        named = [*own, *features] or columns  # or the numbers of the rows alone
        return pa.table({name: columns[name] for name in named})

    # --- the query ------------------------------------------------------------------------

    def statements(self, without: Collection[int] = ()) -> list[str]:
        """The join itself. The last statement gives all columns for a spine in SQL, and for a
        frame only those it does not have. `without` some views, by their numbers.

        What each view's first step finds is kept in a temporary table, so that the memory of one
        step is free for the next.
        """
        p, made = self.prefix, list[str]()
        for number in sorted(set(self.key_sets.values())):
            views = [n for n, v in enumerate(self.views, 1) if self._key_set(v) == number]
            in_sql = [n for n in views if n not in self.swept]
            by_slots = [n for n in in_sql if n not in self.merged]
            if in_sql:
                made += [*self._asked(self.views[in_sql[0] - 1]).tables, self._spans(number)]
            if by_slots:
                made.append(self._slots(number))
            made += [self._seen(n) for n in in_sql]
            if by_slots:
                made.append(f"drop table {p}slots_{number}")
        return [*made, self._query(without)]

    def _query(self, without: Collection[int]) -> str:
        p, steps = self.prefix, list[str]()
        own = self.spine.columns if self.spine.sql is not None else []
        columns = [f"spine.{quote(name)}" for name in own]
        tables = [f"{p}spine as spine"]
        for number, view in enumerate(self.views, 1):
            if number in without:
                continue
            alias = f"view_{number}"
            made = self._at_place if number in self.swept else self._values
            steps += [f"{name} as (\n{sql}\n)" for name, sql in made(number, view)]
            tables.append(
                f"left join {quote(self._name(number))} as {alias} on {alias}.{p}row = spine.{p}row"
            )
            columns += [f"{alias}.{quote(feature)}" for feature in view.features]
        ctes = "with " + ",\n".join(steps) + "\n" if steps else ""
        return ctes + select(
            columns or [f"spine.{p}row"], "\n".join(tables), tail=f"order by spine.{p}row"
        )

    def _name(self, number: int, step: str = "") -> str:
        return f"{self.prefix}{number} {self.views[number - 1].name}{step}"

    def _spans(self, number: int) -> str:
        """Each entity with its first and last time in the spine, and its buckets.

        An entity's span is cut into about as many buckets as it has rows, each 2^shift
        microseconds wide. Buckets are numbered through all entities, from `base` on.
        """
        p = self.prefix
        spans = select(
            [
                f"{p}entity",
                "min(asked_at) as first_at",
                "max(asked_at) as last_at",
                "count(*) as row_count",
            ],
            f"{p}times_{number}",
            tail=f"group by {p}entity",
        )
        width = "case when last_at > first_at then floor(log2(last_at - first_at)) + 1 else 0 end"
        shifted = select(
            ["*", f"greatest(0, {width} - ceil(log2(row_count)))::int as shift"],
            f"{p}entities_{number}\njoin (\n{spans}\n) as span using ({p}entity)",
        )
        columns = [
            "*",
            "coalesce(sum(((last_at - first_at) >> shift) + 1) over (\n"
            "        rows between unbounded preceding and 1 preceding\n"
            "    ), 0)::bigint as base",
        ]
        numbered = select(columns, f"(\n{shifted}\n)")
        return f"create temp table if not exists {p}spans_{number} as\n{numbered}"

    def _slots(self, number: int) -> str:
        """The slots of a set of keys, and which buckets each of them touches.

        A slot holds what becomes known after the entity's prediction before (`after`) and up to
        this one (`asked_at`). Of rows that ask for the same entity and time only the first has
        one.
        """
        p = self.prefix
        before = f"lag(asked_at) over (partition by {p}entity order by asked_at)"
        cut = select(
            [f"{p}row", f"{p}entity", "asked_at", f"{before} as after"], f"{p}times_{number}"
        )
        first = "entity.base + (coalesce(slot.after - entity.first_at, 0) >> entity.shift)"
        last = "entity.base + ((slot.asked_at - entity.first_at) >> entity.shift)"
        touched = select(
            [
                f"slot.{p}row",
                "slot.asked_at",
                f"coalesce(slot.after, {-(2**63)}) as after",
                f"unnest(range(\n        {first},\n        {last} + 1\n    )) as bucket",
            ],
            f"(\n{cut}\n) as slot\njoin {p}spans_{number} as entity using ({p}entity)",
            ["slot.after is null or slot.after < slot.asked_at"],
        )
        return f"create temp table {p}slots_{number} as\n{touched}"

    def _seen(self, number: int) -> str:
        """For each row of the spine the event time of the feature row it sees."""
        view = self.views[number - 1]
        first = self._merge if number in self.merged else self._fill
        name = quote(self._name(number, ", seen"))
        return f"create temp table {name} as\n{first(view, self._history(view))}"

    def _at_place(self, number: int, view: View) -> list[tuple[str, str]]:
        """The features of a swept view; one row per spine row that sees one."""
        p, source = self.prefix, view.source
        features = [f"{source.column(column)} as {quote(n)}" for n, column in view.features.items()]
        rows = (
            f"{source.reader}\njoin {p}places as place on place.{p}place_{number} = {source.place}"
        )
        return [(quote(self._name(number)), select([f"place.{p}row", *features], rows))]

    def _values(self, number: int, view: View) -> list[tuple[str, str]]:
        """The named steps to the features; the last has one row per spine row that sees one."""
        p, found = self.prefix, quote(self._name(number, ", found"))
        tied = quote(self._name(number, ", tied"))
        ties = view.source.tie_break(view.created)
        places = [f"{p}tie_{place}" for place in range(1, len(ties) + 1)]
        ranked = ", ".join(f"{place} desc nulls last" for place in places)
        values = select([f"{p}row", *map(quote, view.features)], found)
        best = (
            f"{values}\nanti join {tied} using ({p}row)\n"
            f"union all\n"
            f"{values}\nsemi join {tied} using ({p}row)\n"
            f"qualify row_number() over (partition by {p}row order by {ranked}) = 1"
        )
        return [
            (found, self._found(number, view, ties, places)),
            (tied, select([f"{p}row"], found, tail=f"group by {p}row having count(*) > 1")),
            (quote(self._name(number)), best),
        ]

    def _cuts_off(self, view: View) -> bool:
        return self.filter_by_created_timestamp and view.created is not None

    def _history(self, view: View) -> str:
        """Times of the feature rows of the spine's entities that some prediction may see.

        `known_at` is the time from which on a row can be seen: its event time, or with
        `filter_by_created_timestamp` the later of event and created time. Only then is there
        an `event_at` beside it.
        """
        p, source, event = self.prefix, view.source, self._event(view)
        event_at = source.micros(view.timestamp)
        keys = [
            f"{source.column(column)} as {p}key_{place}"
            for place, (_, column) in enumerate(view.keys, 1)
        ]
        times = [f"{event_at} as {event}"]
        if self._cuts_off(view) and view.created:
            created = source.micros(view.created)
            latest = f"case when {created} is not null then greatest({event_at}, {created}) end"
            times.append(f"{latest} as known_at")
        read = select(
            [*keys, *times],
            source.reader,
            self._needed(view),
        )
        match = [
            f"feature.{p}key_{place} = entity.{p}key_{place}" for place in range(1, len(keys) + 1)
        ]
        limits = ["feature.known_at <= entity.last_at"]
        if view.ttl:
            limits.append(f"feature.{event} >= entity.first_at - {micros(view.ttl)}")
        return select(
            [
                f"entity.{p}entity",
                "entity.base + (greatest(feature.known_at - entity.first_at, 0) >> entity.shift)"
                " as bucket",
                *(f"feature.{column}" for column in dict.fromkeys([event, "known_at"])),
            ],
            f"(\n{read}\n) as feature\njoin {p}spans_{self._key_set(view)} as entity\n"
            f"    on {' and '.join(match) or 'true'}",
            limits,
        )

    def _event(self, view: View) -> str:
        """The column of `_history` with the event time."""
        return "event_at" if self._cuts_off(view) else "known_at"

    def _needed(self, view: View) -> list[str]:
        """Conditions that let DuckDB skip what no prediction can see, by the files' statistics."""
        if self.period is None:
            return []
        first, last = self._span(view)
        since = view.between(">=", first) if first > EARLIEST else []
        return [*view.between("<=", last), *since]

    def _fill(self, view: View, history: str) -> str:
        """By slots: the newest row of each slot, carried on to the predictions after it."""
        p, number = self.prefix, self._key_set(view)
        newest = select(
            [f"slot.{p}row", f"max(history.{self._event(view)}) as event_at"],
            f"(\n{history}\n) as history\njoin {p}slots_{number} as slot\n"
            "    on slot.bucket = history.bucket\n"
            "    and history.known_at > slot.after and history.known_at <= slot.asked_at",
            tail=f"group by slot.{p}row",
        )
        carried = (
            f"max(newest.event_at) over (partition by times.{p}entity order by times.asked_at)"
        )
        return select(
            [f"times.{p}row", f"times.{p}entity", "times.asked_at", f"{carried} as event_at"],
            f"{p}times_{number} as times\nleft join (\n{newest}\n) as newest using ({p}row)",
        )

    def _merge(self, view: View, history: str) -> str:
        """By merge: DuckDB's ASOF JOIN of keys and times."""
        p, number = self.prefix, self._key_set(view)
        columns = [f"{p}entity", "known_at"]
        if self._cuts_off(view):
            newest = f"max(event_at) over (partition by {p}entity order by known_at)"
            columns.append(f"{newest} as event_at")
        else:
            columns.append("known_at as event_at")
        rows = select(columns, f"(\n{history}\n)")
        return select(
            [f"times.{p}row", f"times.{p}entity", "times.asked_at", "history.event_at"],
            f"{p}times_{number} as times\nasof join (\n{rows}\n) as history\n"
            f"    on times.{p}entity = history.{p}entity\n"
            "    and times.asked_at >= history.known_at",
        )

    def _found(self, number: int, view: View, ties: list[str], places: list[str]) -> str:
        """The feature rows of those entities and event times: more than one where they tie."""
        p, source = self.prefix, view.source
        match = view.matches(self.prefix)
        match.append(
            f"{source.moment(view.timestamp)} = {source.as_moment(view.timestamp, 'seen.event_at')}"
        )
        if self._cuts_off(view) and view.created:
            match.append(f"{source.micros(view.created)} <= seen.asked_at")
        wanted = [f"seen.event_at >= seen.asked_at - {micros(view.ttl)}"] if view.ttl else []
        rows = select(
            ["seen.*", *(f"entity.{p}key_{place}" for place in range(1, len(view.keys) + 1))],
            f"{quote(self._name(number, ', seen'))} as seen\n"
            f"join {p}entities_{self._key_set(view)} as entity using ({p}entity)",
            [*wanted, "seen.event_at is not null"],
        )
        return select(
            [
                f"seen.{p}row",
                *(f"{tie} as {place}" for tie, place in zip(ties, places, strict=True)),
                *(f"{source.column(column)} as {quote(n)}" for n, column in view.features.items()),
            ],
            f"{source.reader}\njoin (\n{rows}\n) as seen\n    on "
            + "\n    and ".join(match).replace("entity.", "seen."),
        )
