"""Hindcast's store keeps every promise, and equals the oracle in at least 2,000 generated cases."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from conformance import (
    HOUR,
    NOON,
    PROMISES,
    START,
    TICK,
    WORLDS,
    Case,
    Declared,
    Row,
    Store,
    cells,
    generated,
    spine,
)
from hypothesis import HealthCheck, given, settings

from hindcast import asof, history, row_groups, sweep

HINDCAST = "hindcast.offline_store.DuckDBOfflineStore"
CASES = int(os.environ.get("HINDCAST_CASES", "2000"))
IN_PIECES = {"PIECE": 2, "ROWS_PER_FILE": 0, "OVERLAP": 1, "REREAD": math.inf, "AT_ONCE": 2}
ALWAYS_ASKED_FOR = {"WANTED": math.inf}
NO_SWEEP = {"PIECE": -1, "LARGEST": -1}
PLANS: dict[str, dict[ModuleType, dict[str, Any]]] = {
    "sweep": {},
    "sweep in pieces": {
        row_groups: {"SHARED_OUT": 0},
        history: ALWAYS_ASKED_FOR,
        sweep: IN_PIECES,
    },
    "sweep by key": {asof: {"pieces": lambda *_, **__: None}, sweep: IN_PIECES},
    "sweep by DuckDB": {
        row_groups: {"LARGEST": -1},
        history: ALWAYS_ASKED_FOR,
        sweep: IN_PIECES,
    },
    "slots": {asof: {"HISTORY_PER_SPINE_ROW": 0, "CROWDED": math.inf}, sweep: NO_SWEEP},
    "merge": {asof: {"HISTORY_PER_SPINE_ROW": math.inf}, sweep: NO_SWEEP},
}
CUT = ("sweep in pieces", "sweep by key", "sweep by DuckDB")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(HINDCAST, tmp_path_factory.mktemp("store"))


@pytest.fixture(params=PLANS)
def plan(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, store: Store) -> str:
    """Every join by one plan, whatever its size; pieces are cut from several files."""
    monkeypatch.setattr(store, "files", 3 if request.param in CUT else 1)
    for module, settings_ in PLANS[request.param].items():
        for name, value in settings_.items():
            monkeypatch.setattr(module, name, value)
    return str(request.param)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_the_store_keeps_the_promise(
    promise: Callable[[Store], None], store: Store, plan: str
) -> None:
    promise(store)


@settings(
    max_examples=math.ceil(CASES / WORLDS / len(PLANS)),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(case=generated())
def test_every_generated_join_equals_the_oracle(store: Store, plan: str, case: Case) -> None:
    frame = case.frame()
    job = store.job(frame, case.declare(store), filter_by_created_timestamp=case.cutoff)
    result = job.to_arrow()
    assert result.select(frame.column_names).equals(frame)
    for number in range(len(case.views)):
        assert result[f"value_{number}"].to_pylist() == case.answers(number)


def test_each_plan_is_the_one_that_runs(store: Store, plan: str) -> None:
    job = store.job(
        spine([NOON]), [store.view({"k": ["a"], "at": [NOON], "v": [1]}, name="view_once")]
    )
    sql = job.to_sql()
    assert ("view_once: Hindcast sweeps" in sql) == plan.startswith("sweep")
    if not plan.startswith("sweep"):
        assert ("asof join" in sql) == (plan == "merge")


def test_history_is_swept_in_the_pieces_that_it_is_cut_into(
    store: Store, plan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [NOON + i * TICK for i in range(9)]
    view = store.view({"k": [*"aabbbcccc"], "at": times, "v": range(9)})
    pieces = list[int]()
    read, read_by_key = sweep.Sweep.read, sweep.SweepByKey.read

    def noted(self: sweep.Sweep, *args: Any, **columns: Any) -> None:
        pieces.append(len(columns["place"]))
        read(self, *args, **columns)

    def noted_by_key(self: sweep.SweepByKey, **columns: Any) -> None:
        pieces.append(len(columns["place"]))
        read_by_key(self, **columns)

    monkeypatch.setattr(sweep.Sweep, "read", noted)
    monkeypatch.setattr(sweep.SweepByKey, "read", noted_by_key)
    answers = store.join(spine([times[4], times[8]] * 3, "aabbcc"), view)["v"]
    assert cells(answers) == [1, 1, 4, 4, None, 8]
    # in pieces of time, from the newest, nobody asks for the first row of b any more
    in_time = [3, 3, 2]
    cut = {"sweep": [9], "sweep in pieces": in_time, "sweep by DuckDB": in_time}
    cut["sweep by key"] = [2, 3, 4]
    assert pieces == cut.get(plan, [])


@pytest.mark.parametrize(
    ("sizes", "asof_join"),
    [((100, 10), True), ((100, 5000), False)],
    ids=["a spine as large as history is merged", "a small spine is joined by slots"],
)
def test_the_plan_follows_the_sizes(store: Store, sizes: tuple[int, int], asof_join: bool) -> None:
    rows, history = sizes
    view = store.view(
        {"k": ["a"] * history, "at": [NOON + i * TICK for i in range(history)], "v": range(history)}
    )
    job = store.job(spine([NOON + i * TICK for i in range(rows)]), [view])
    assert ("asof join" in job.to_sql()) == asof_join


def test_crowded_slots_are_merged_whatever_the_sizes(store: Store) -> None:
    """One entity whose times all fall in one moment but for one: buckets would be no help."""
    view = store.view(
        {"k": ["a"] * 20_000, "at": [NOON + i * TICK for i in range(20_000)], "v": range(20_000)}
    )
    times = [NOON - 10_000 * HOUR, *(NOON + i * TICK for i in range(1_000))]
    job = store.job(spine(times), [view])
    assert "asof join" in job.to_sql()
    assert job.to_df()["v"].tolist()[1:] == list(range(1_000))


def test_the_oracle_says_what_can_be_checked_by_eye() -> None:
    row = Row(("a",), START + TICK, None, 7)
    case = Case(
        [[(("a", 1, "x"), START), (("a", 1, "x"), START + TICK)]],
        1,
        [Declared(["k1"], TICK * 0, False, [[row]])],
        False,
    )
    assert case.answers(0) == [None, 7]
