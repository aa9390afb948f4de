"""Generated joins against an oracle that a reader can check by eye."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from conftest import UTC_US, Lab
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

START = datetime(2013, 3, 10, 6, 59, 59, 999_990, UTC)  # New York's clocks change at 07:00 UTC
KEYS = {"k1": pa.string(), "k2": pa.int64(), "k3": pa.string()}


@dataclass(frozen=True)
class Row:
    """One row of a view's history."""

    keys: tuple[Any, ...]
    event_at: datetime | None
    created_at: datetime | None
    value: int | None


def expected(
    history: list[Row], keys: tuple[Any, ...], t: datetime | None, ttl: timedelta, cutoff: bool
) -> int | None:
    """The oracle: the value known at t, by looking at every row."""
    best = None
    for place, row in enumerate(history):
        if t is None or None in keys or row.keys != keys or row.event_at is None:
            continue
        if row.event_at > t or (ttl and row.event_at < t - ttl):
            continue
        if cutoff and (row.created_at is None or row.created_at > t):
            continue
        rank = (row.event_at, row.created_at is not None, row.created_at or START, place)
        if best is None or rank > best[0]:
            best = (rank, row.value)
    return best[1] if best else None


KEY_VALUES = {
    "k1": st.sampled_from(["a", "a|", "|", "1", "11", "", None]),
    "k2": st.sampled_from([1, 12, 11, 2, 2**62 + 1, 2**62 + 2, None]),
    "k3": st.sampled_from(["x", "1", None]),
}
instants = st.none() | st.integers(0, 12).map(lambda us: START + timedelta(microseconds=us))


@st.composite
def cases(draw: st.DrawFn) -> Any:
    """A spine and one or two views; few entities and instants, so that they meet and tie."""
    entities = st.sampled_from(
        draw(st.lists(st.tuples(*KEY_VALUES.values()), min_size=1, max_size=3))
    )
    views = []
    for _ in range(draw(st.integers(1, 2))):
        keys = draw(st.lists(st.sampled_from(list(KEY_VALUES)), max_size=3, unique=True))
        places = [list(KEY_VALUES).index(key) for key in keys]
        entity = entities.map(lambda entity, places=places: tuple(entity[i] for i in places))
        rows = st.builds(Row, entity, instants, instants, st.none() | st.integers(0, 99))
        ttl = timedelta(microseconds=draw(st.sampled_from([0, 1, 3, 10])))
        views.append((keys, draw(st.lists(rows, max_size=12)), ttl, draw(st.booleans())))
    spine = draw(st.lists(st.tuples(entities, instants), max_size=12))
    # DuckDB joins 64 rows or more in another way than fewer: try both.
    return spine, draw(st.sampled_from([1, 64])), views, draw(st.booleans())


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(case=cases())
def test_every_join_equals_the_oracle(lab: Lab, case: Any) -> None:
    spine, times, declared, cutoff = case
    views = []
    for number, (keys, history, ttl, has_created) in enumerate(declared):
        columns = {
            **{key: ([row.keys[i] for row in history], KEYS[key]) for i, key in enumerate(keys)},
            "known_at": ([row.event_at for row in history], UTC_US),
            "created_at": ([row.created_at for row in history], UTC_US),
            f"value_{number}": ([row.value for row in history], pa.int64()),
        }
        table = pa.table({name: pa.array(*column) for name, column in columns.items()})
        created = "created_at" if has_created else ""
        views.append(lab.view(f"view_{number}", table, keys, ttl=ttl, created=created))
    columns = {
        "event_timestamp": ([t for _, t in spine] * times, UTC_US),
        **{
            key: ([e[i] for e, _ in spine] * times, kind)
            for i, (key, kind) in enumerate(KEYS.items())
        },
    }
    frame = pa.table({name: pa.array(*column) for name, column in columns.items()})
    result = lab.join(frame, views, filter_by_created_timestamp=cutoff).to_arrow()

    assert result.select(frame.column_names).equals(frame)
    for number, (keys, history, ttl, has_created) in enumerate(declared):
        if not has_created:
            history = [replace(row, created_at=None) for row in history]
        places = [list(KEYS).index(key) for key in keys]
        answers = [
            expected(history, tuple(entity[i] for i in places), t, ttl, cutoff and has_created)
            for entity, t in spine
        ]
        assert result[f"value_{number}"].to_pylist() == answers * times
