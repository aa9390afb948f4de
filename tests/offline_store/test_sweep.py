"""A sweep answers as looking at every row does, however it is cut; and it is cut where it pays."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindcast import sweep
from hindcast.sources import RowGroup
from hindcast.sweep import NONE, CreatedAt, Integers, Sweep, SweepByKey, pieces, pieces_by_key

ENTITIES = 3
entities = st.integers(0, ENTITIES - 1)
instants = st.integers(-4, 12)
Row = tuple[int, int, int, int]
"""Entity, event time, created time, place."""


def oracle(history: list[Row], entity: int, asked_at: int, ttl: int) -> int:
    """The place of the row that is seen, by looking at every row."""
    seen = [
        (event_at, created_at, place)
        for whose, event_at, created_at, place in history
        if whose == entity and event_at <= asked_at and (not ttl or event_at >= asked_at - ttl)
    ]
    return max(seen)[-1] if seen else NONE


@st.composite
def histories(draw: st.DrawFn) -> list[Row]:
    """Rows in any order, with ties of event and created time."""
    rows = draw(st.lists(st.tuples(entities, instants, st.integers(0, 2)), max_size=30))
    places = draw(st.permutations(range(len(rows))))
    return [(*row, place) for row, place in zip(rows, places, strict=True)]


def created_times(history: list[Row]) -> CreatedAt:
    """The created time of a row, by its place."""
    created = {place: created_at for _, _, created_at, place in history}
    return lambda places: np.array([created[place] for place in places.tolist()])


def read(
    found: Sweep | SweepByKey,
    rows: list[Row],
    created_at: CreatedAt | None,
    since: int = -100,
    until: int = 100,
) -> None:
    entity, event_at, _, place = np.array(rows, np.int64).reshape(-1, 4).T
    piece = (entity.astype(np.int32), event_at, place, created_at)
    if isinstance(found, Sweep):
        found.read(since, until, *piece)
    else:
        found.read(*piece)


def swept_in_time(
    found: Sweep, history: list[Row], cuts: list[int], created_at: CreatedAt | None
) -> None:
    """Piece after piece, cut at instants: a third of all entities, a third with other times."""
    ends = sorted(cuts)
    for since, until in reversed(list(zip([-100, *ends], [*ends, 100], strict=True))):
        wanted = found.wanted(since, until)
        whose = range(ENTITIES) if until % 3 == 0 else wanted
        piece = [row for row in history if row[0] in whose]
        if until % 3 != 1:
            piece = [row for row in piece if since <= row[1] < until]
        if len(wanted) or until % 3 == 1:
            read(found, piece, created_at, since, until)


def swept_by_key(
    found: SweepByKey, history: list[Row], cuts: list[int], created_at: CreatedAt | None
) -> None:
    """A piece for each group of entities."""
    groups = {entity: cuts[entity] if entity < len(cuts) else 0 for entity in range(ENTITIES)}
    for group in set(groups.values()):
        read(found, [row for row in history if groups[row[0]] == group], created_at)


@pytest.mark.parametrize("at_once", [1, 2, 3, 2**15])
@pytest.mark.parametrize("blocks", [0, 1, 100])
@pytest.mark.parametrize("kind", [Sweep, SweepByKey])
@settings(deadline=None)
@given(
    history=histories(),
    predictions=st.lists(st.tuples(entities, instants), max_size=12),
    cuts=st.lists(instants, max_size=4, unique=True),
    ttl=st.sampled_from([0, 1, 3, 10, 2**70]),
    has_created=st.booleans(),
)
def test_a_sweep_sees_what_looking_at_every_row_sees(
    kind: type[Sweep | SweepByKey],
    blocks: int,
    at_once: int,
    history: list[Row],
    predictions: list[tuple[int, int]],
    cuts: list[int],
    ttl: int,
    has_created: bool,
) -> None:
    if not has_created:
        history = [(entity, at, 0, place) for entity, at, _, place in history]
    whose, asked_at = np.array(predictions, np.int64).reshape(-1, 2).T
    created_at = created_times(history) if has_created else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "AT_ONCE", at_once)
        patch.setattr(sweep, "BLOCKS", blocks)
        found = kind(whose.astype(np.int32), asked_at, ENTITIES, ttl)
        if isinstance(found, Sweep):
            swept_in_time(found, history, cuts, created_at)
        else:
            swept_by_key(found, history, cuts, created_at)
    wanted = [oracle(history, *prediction, ttl) for prediction in predictions]
    assert found.seen().tolist() == wanted


@given(
    groups=st.lists(
        st.tuples(st.integers(1, 4), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=9
    ),
    seed=st.integers(0, 2**32),
    has_created=st.booleans(),
)
@settings(deadline=None)
@pytest.mark.parametrize("blocks", [2, 100])
def test_row_groups_that_threads_hand_over_in_turns_are_put_in_order(
    blocks: int, groups: list[tuple[int, int, int]], seed: int, has_created: bool
) -> None:
    """A file in order of time; row groups come in order from each of three threads."""
    chance = random.Random(seed)
    threads: tuple[list[Row], ...] = ([], [], [])
    at = place = 0
    for rows, thread, gap in groups:
        for _ in range(rows):
            row = (chance.randrange(ENTITIES), at, chance.randrange(2) * has_created, place)
            threads[thread].append(row)
            at, place = at + chance.randrange(2), place + 1
        at, place = at + gap, place + gap
    history = [row for thread in threads for row in thread]
    predictions = [(entity, asked) for entity in range(ENTITIES) for asked in range(-1, at + 2)]
    whose, asked_at = np.array(predictions, np.int64).T
    created_at = created_times(history) if has_created else None
    for kind in (Sweep, SweepByKey):
        found = kind(whose.astype(np.int32), asked_at, ENTITIES, 0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sweep, "BLOCKS", blocks)
            read(found, history, created_at)
        assert found.seen().tolist() == [oracle(history, *p, 0) for p in predictions]


def test_rows_that_tie_are_seen_to_though_they_come_from_two_threads() -> None:
    """Rows 0 and 2 come first, then row 1, which is of the same time as row 0."""
    history = [(0, 5, 9, 0), (0, 7, 0, 2), (0, 5, 8, 1)]
    found = Sweep(np.zeros(1, np.int32), np.array([6]), ENTITIES, 0)
    read(found, history, created_times(history))
    assert found.seen().tolist() == [0]


@pytest.mark.parametrize("kind", [Sweep, SweepByKey])
def test_created_times_are_read_for_rows_that_tie_and_no_others(
    kind: type[Sweep | SweepByKey],
) -> None:
    """Place 3 and 4 are of one entity and time; 1 and 2 of one time, 0 and 3 of one entity."""
    history = [(0, 1, 0, 0), (0, 5, 0, 1), (1, 5, 0, 2), (0, 7, 9, 3), (0, 7, 8, 4), (1, 8, 0, 5)]
    created, asked = created_times(history), list[int]()

    def noted(places: Integers) -> Integers:
        asked.extend(places.tolist())
        return created(places)

    found = kind(np.zeros(1, np.int32), np.array([7]), ENTITIES, 0)
    read(found, history, noted)
    assert found.seen().tolist() == [3]
    assert asked == [3, 4]


@pytest.mark.parametrize("kind", [Sweep, SweepByKey])
def test_the_ends_of_time_are_no_age(kind: type[Sweep | SweepByKey]) -> None:
    """The age of the oldest row for the latest prediction does not fit into 64 bits with a sign."""
    first, last = -9_223_372_022_400_000_000, 2**63 - 2
    for ttl, seen in [(0, 7), (last - first, 7), (last - first - 1, NONE)]:
        found = kind(np.zeros(1, np.int32), np.array([last]), 1, ttl)
        if isinstance(found, Sweep):
            read(found, [], None, 0, last + 1)
        read(found, [(0, first, 0, 7)], None, first, 0)
        assert found.seen().tolist() == [seen]


def test_entities_are_wanted_as_long_as_a_row_of_theirs_can_be_seen() -> None:
    """Entity 0 is asked for at 9, entity 1 at 19 and entity 2 at 29; only 2 has a row by then."""
    found = Sweep(np.arange(3, dtype=np.int32), np.array([9, 19, 29]), ENTITIES, ttl=20)
    wanted = []
    for since, until, history in [
        (20, 30, [(2, 25, 0, 7)]),
        (10, 20, []),
        (0, 10, []),
        (-9, 0, []),
    ]:
        wanted.append(found.wanted(since, until).tolist())
        read(found, history, None, since, until)
    assert wanted == [[2], [1], [0, 1], [0, 1]]
    assert found.wanted(-29, -9).tolist() == [0]
    assert found.wanted(-49, -29).tolist() == []


# --- where to cut -------------------------------------------------------------------------

DAY = 100


def days(count: int, rows: int = 400_000) -> list[RowGroup]:
    """A row group for each day, in order of time."""
    return [RowGroup(rows, day * DAY, day * DAY + DAY - 1) for day in range(count)]


def test_history_in_order_of_time_is_cut_into_pieces_of_about_a_million_rows() -> None:
    assert pieces(days(6), -1000, 1000, skips=True) == [200, 400, 1001]


def test_pieces_are_larger_where_each_opens_many_files() -> None:
    assert pieces(days(6), -1000, 1000, skips=True, files=170) == [400, 1001]
    assert pieces(days(12), -1000, 2000, skips=True, files=500) is None


def test_row_groups_that_no_prediction_can_see_do_not_count() -> None:
    assert pieces(days(6), 250, 449, skips=True) == [400, 450]
    assert pieces(days(6), 5000, 6000, skips=True) == [6001]


def test_history_that_would_be_read_again_and_again_is_not_swept() -> None:
    """In order of key every row group has rows of every day."""
    by_key = [RowGroup(400_000, key, 599 - key) for key in range(6)]
    assert pieces(by_key, -1000, 1000, skips=True) is None
    assert pieces(by_key[:3], -1000, 1000, skips=True) is None


def test_large_row_groups_may_touch() -> None:
    touching = [RowGroup(1_000_000, day, day + 1) for day in range(9)]
    assert pieces(touching, -1000, 1000, skips=True) == [*range(1, 9), 1001]


def test_a_few_late_rows_in_each_row_group_do_no_harm() -> None:
    late = [RowGroup(400_000, group.first - 20, group.last) for group in days(6)]
    assert pieces(late, -1000, 1000, skips=True) == [180, 380, 1001]


@pytest.mark.parametrize(
    "groups",
    [[RowGroup(400_000, None, None), *days(6)], [RowGroup(5_000_000, 0, 100), *days(6)[2:]]],
    ids=["times unknown", "too large"],
)
def test_row_groups_that_cannot_be_cut_are_not_swept(groups: list[RowGroup]) -> None:
    assert pieces(groups, -1000, 1000, skips=True) is None


def test_a_small_history_is_swept_in_any_order() -> None:
    assert pieces([RowGroup(1000, None, None)] * 5, 0, 9, skips=True) == [10]
    assert pieces(days(2), 0, 9, skips=False) == [10]
    assert pieces(days(3), 0, 9, skips=False) is None


def test_history_in_order_of_key_is_cut_where_a_key_begins() -> None:
    """All rows of a key are in one piece, though row groups end within its rows."""
    ends = [("a", "c"), ("c", "c"), ("c", "f"), ("f", "k"), ("k", "m"), ("m", "z")]
    groups = [RowGroup(400_000, *keys) for keys in ends]
    assert pieces_by_key(groups) == ["c", "k"]
    assert pieces_by_key(groups, files=170) == ["k"]


@pytest.mark.parametrize(
    "ends",
    [[("a", "z")] * 6, [*[("a", "b")] * 5, (None, None)]],
    ids=["in no order of key", "keys unknown"],
)
def test_history_in_other_order_is_not_cut_by_key(ends: list[tuple[str, str]]) -> None:
    assert pieces_by_key([RowGroup(400_000, *keys) for keys in ends]) is None


@settings(deadline=None)
@given(
    groups=st.lists(
        st.tuples(st.integers(1, 3_000_000), st.integers(-50, 50), st.integers(0, 30)).map(
            lambda group: RowGroup(group[0], group[1], group[1] + group[2])
        ),
        max_size=12,
    ),
    period=st.tuples(st.integers(-60, 60), st.integers(0, 60)),
)
def test_pieces_cover_the_period_in_order(groups: list[RowGroup], period: tuple[int, int]) -> None:
    since, last = period[0], period[0] + period[1]
    ends = pieces(groups, since, last, skips=True)
    if ends is not None:
        assert ends[-1] == last + 1
        assert all(a < b for a, b in zip([since, *ends], ends, strict=False))
