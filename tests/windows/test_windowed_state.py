"""The window macro, rendered and run in DuckDB, against a count that a reader can check by eye."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import duckdb
import pandas as pd
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jinja2 import Environment

MACRO = Path(__file__).parents[2] / "macros" / "windowed_state.sql"
INCREMENTS = MACRO.with_name("incremental.sql")
GRID = timedelta(minutes=15)
START = datetime(2013, 3, 9, 22, tzinfo=UTC)  # the DST night of March is in reach
WINDOWS = {"n": ["1 hour", "3 hours"], "delay": ["3 hours"], "queue": [None]}
SPANS = {"1h": timedelta(hours=1), "3h": timedelta(hours=3)}


def rendered(windows: dict = WINDOWS, since: datetime | None = None) -> str:
    """The macro's SQL of a first build, or of one that builds anew from an instant on."""
    environment = Environment(extensions=["jinja2.ext.do"])
    environment.globals |= {
        "var": {"serving_grid": "15 minutes"}.__getitem__,
        "return": lambda value: value,
        "is_increment": lambda: since is not None,
        "changed_from": lambda: since and since.isoformat(sep=" "),
    }
    filters = re.search(r"{% macro since\(.*?{%- endmacro %}", INCREMENTS.read_text(), re.DOTALL)
    assert filters
    module = environment.from_string(filters[0] + MACRO.read_text()).module
    return module.windowed_state("events", keys=["key"], windows=windows)


def state_by_hand(events: list, key: str, at: datetime) -> dict:
    """What is known at the grid instant `at`: an event is in a window (at - w, at]."""
    mine = [event for event in events if event[0] == key and event[1] <= at]
    state = {"queue": sum(event[3] for event in mine)}
    for name, span in SPANS.items():
        window = [event for event in mine if event[1] > at - span]
        state[f"n_{name}"] = len(window)
        state[f"delay_{name}"] = sum(event[2] for event in window)
    return {name: state[name] for name in ("n_1h", "n_3h", "delay_3h", "queue")}


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["JFK", "LGA", None]),
        # whole quarters of an hour, a microsecond beside them, and anything between
        st.one_of(
            st.integers(0, 40).map(lambda n: START + n * GRID),
            st.integers(0, 40).map(lambda n: START + n * GRID + timedelta(microseconds=1)),
            st.integers(0, 36000).map(lambda n: START + timedelta(seconds=n)),
        ),
        st.integers(-30, 300),
        st.sampled_from([-1, 0, 1]),
    ),
    max_size=12,
)


@contextmanager
def events_in_duckdb(events: list) -> Iterator[duckdb.DuckDBPyConnection]:
    frame = pd.DataFrame(events, columns=["key", "known_at", "delay", "queue"]).assign(n=1)
    with duckdb.connect() as con:
        con.execute("set timezone = 'UTC'")
        con.execute(
            "create table events (key varchar, known_at timestamptz, n int, delay int, queue int)"
        )
        if events:
            con.register("frame", frame)
            con.execute("insert into events select key, known_at, n, delay, queue from frame")
        yield con


@settings(max_examples=80, deadline=None)
@given(events=EVENTS)
def test_state_equals_a_direct_count_at_every_grid_instant(events):
    with events_in_duckdb(events) as con:
        rows = con.execute(rendered() + " order by key, known_at").fetchall()

    assert all(key is not None for key, *_ in rows)
    assert len({(key, at) for key, at, *_ in rows}) == len(rows)
    for key in ("JFK", "LGA"):
        told = [(at, tuple(values)) for k, at, *values in rows if k == key]
        latest = (0, 0, 0, 0)
        at = START
        while at <= START + timedelta(hours=16):
            latest = next((values for when, values in told if when == at), latest)
            assert latest == tuple(state_by_hand(events, key, at).values()), (key, at)
            at += GRID
        # sparse: a row only where something changes
        states = [(0, 0, 0, 0), *(values for _, values in told)]
        assert all(before != after for before, after in pairwise(states))


# without the queue: nothing of that is left out by time
FORGETTING = {"n": ["1 hour", "3 hours"], "delay": ["3 hours"]}


@settings(max_examples=40, deadline=None)
@given(events=EVENTS, since=st.integers(0, 60_000).map(lambda n: START + timedelta(seconds=n)))
# entered the grid within the longest window before `since`, though it was known before that: that
# it leaves is the one change of its instant
@example(
    events=[("JFK", START + timedelta(minutes=2), 5, 0)],
    since=START + timedelta(hours=3, minutes=7),
)
def test_an_increment_is_the_end_of_a_whole_build(events, since):
    with events_in_duckdb(events) as con:
        whole, end = (
            con.execute(f"{sql} order by key, known_at").fetchall()
            for sql in (rendered(FORGETTING), rendered(FORGETTING, since))
        )
    assert end == [row for row in whole if row[1] >= since]
