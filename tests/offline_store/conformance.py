"""What a point-in-time join must do, for any Feast offline store of Parquet files.

`PROMISES` are short functions: each states one promise, sets up the smallest case of it and
raises if the store breaks it. `generated` draws cases at random for the comparison with
`expected`, an oracle that a reader can check by eye. pytest runs both against Hindcast's store
(`test_conformance.py`); `make conformance` runs them against Feast's own stores too and writes
`docs/offline-stores.md`. Not for what only our store has (SQL spines, snapshots, settings).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.infra.offline_stores.offline_utils import get_offline_store_from_config
from feast.repo_config import RepoConfig
from feast.types import Bool, Float64, Int64, String, UnixTimestamp
from feast.value_type import ValueType
from hypothesis import strategies as st

UTC_US = pa.timestamp("us", tz="UTC")
FEAST_TYPES = {
    pa.string(): String,
    pa.int64(): Int64,
    pa.float64(): Float64,
    pa.bool_(): Bool,
    UTC_US: UnixTimestamp,
}
NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)
HOUR, TICK = timedelta(hours=1), timedelta(microseconds=1)


class Store:
    """A store under test: somewhere to write feature tables, and its join."""

    def __init__(self, type_: str, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.type, self.root = type_, root
        self.config = RepoConfig(
            project="conformance",
            provider="local",
            registry=str(root / "registry.db"),
            online_store=None,
            offline_store={"type": type_},
            entity_key_serialization_version=3,
        )
        self.config.repo_path = root
        self.registry = FeatureStore(config=self.config).registry
        self.store = get_offline_store_from_config(self.config.offline_store)
        self.views = 0
        self.files = 1
        """Into how many files a table is cut."""

    def view(
        self,
        columns: dict[str, Iterable[Any]],
        keys: Iterable[str] = ("k",),
        *,
        types: dict[str, pa.DataType] | None = None,
        ttl: timedelta = timedelta(0),
        created: str = "",
        name: str = "",
        field_mapping: dict[str, str] | None = None,
    ) -> FeatureView:
        """Write a table with the event time `at`; what is no key and no time is a feature."""
        self.views += 1
        keys, mapping = list(keys), field_mapping or {}
        kinds = {"at": UTC_US, "made": UTC_US, **(types or {})}
        table = pa.table({n: pa.array(list(c), kinds.get(n)) for n, c in columns.items()})
        path = self.root / f"{self.views}.parquet"
        if self.files > 1:
            path = path.with_suffix("")
            path.mkdir()
        rows = -(-len(table) // self.files)
        for number in range(self.files):
            file = path / f"{number}.parquet" if self.files > 1 else path
            part = table.slice(number * rows, rows)
            pq.write_table(part, file, row_group_size=3)  # so that some are skipped
        times = {"at", "made"}
        return FeatureView(
            name=name or f"view_{self.views}",
            entities=[
                Entity(name=f"entity_{key}", join_keys=[key], value_type=ValueType.UNKNOWN)
                for key in keys
            ],
            schema=[
                Field(name=mapping.get(f.name, f.name), dtype=FEAST_TYPES[f.type])
                for f in table.schema
                if f.name not in times
            ],
            source=FileSource(
                name=f"source_{self.views}",
                path=str(path),
                timestamp_field="at",
                created_timestamp_column=created,
                field_mapping=mapping,
            ),
            ttl=ttl,
        )

    def job(self, spine: Any, views: Iterable[FeatureView], **options: Any) -> Any:
        """The store's retrieval job for every feature of the views."""
        views = list(views)
        refs = [f"{v.projection.name_to_use()}:{f.name}" for v in views for f in v.features]
        options.setdefault("full_feature_names", False)
        return self.store.get_historical_features(
            self.config, views, refs, spine, self.registry, "conformance", **options
        )

    def join(self, spine: Any, *views: FeatureView, **options: Any) -> pd.DataFrame:
        """The result in pandas."""
        return self.job(spine, views, **options).to_df()


def spine(
    at: Iterable[datetime | None], k: Iterable[Any] | None = None, **more: Any
) -> pd.DataFrame:
    """An entity frame with times in UTC."""
    times = pd.Series(list(at), dtype="datetime64[us, UTC]")
    keys = ["a"] * len(times) if k is None else list(k)
    return pd.DataFrame({"k": keys, "event_timestamp": times, **more})


def cells(column: pd.Series) -> list[Any]:
    """Values of a pandas column, every missing one as None."""
    return [
        None if missing else value for value, missing in zip(column, column.isna(), strict=True)
    ]


def equal(found: Any, wanted: Any) -> None:
    """Raise AssertionError, saying both, unless they are equal."""
    assert found == wanted, f"{found} instead of {wanted}"


# --- the promises -------------------------------------------------------------------------


def a_value_from_the_future_is_never_joined(store: Store) -> None:
    view = store.view({"k": ["a", "a"], "at": [NOON, NOON + TICK], "v": [1, 2]})
    result = store.join(spine([NOON - TICK, NOON], row=[0, 1]), view).sort_values("row")
    equal(cells(result["v"]), [None, 1])


def ttl_is_inclusive_and_a_value_past_it_is_null(store: Store) -> None:
    view = store.view({"k": ["a"], "at": [NOON], "v": [1]}, ttl=HOUR)
    frame = spine([NOON + HOUR, NOON + HOUR + TICK], row=[0, 1])
    result = store.join(frame, view).sort_values("row")
    equal(cells(result["v"]), [1, None])


def ttl_of_zero_is_unlimited(store: Store) -> None:
    view = store.view({"k": ["a"], "at": [datetime(1970, 1, 2, tzinfo=UTC)], "v": [1]})
    equal(cells(store.join(spine([NOON]), view)["v"]), [1])


def a_null_that_is_newest_is_not_filled_with_an_older_value(store: Store) -> None:
    view = store.view(
        {"k": ["a", "a"], "at": [NOON - HOUR, NOON], "v": [1, None]}, types={"v": pa.int64()}
    )
    equal(cells(store.join(spine([NOON]), view)["v"]), [None])


def of_equal_event_times_the_latest_created_wins_and_null_is_last(store: Store) -> None:
    view = store.view(
        {
            "k": ["a"] * 3,
            "at": [NOON] * 3,
            "made": [NOON - HOUR, NOON, None],
            "v": [1, 2, 3],
        },
        created="made",
    )
    equal(cells(store.join(spine([NOON]), view)["v"]), [2])


def rows_created_after_the_prediction_are_hidden_when_asked(store: Store) -> None:
    view = store.view(
        {
            "k": ["a"] * 2,
            "at": [NOON - 2 * HOUR, NOON - HOUR],
            "made": [NOON - 2 * HOUR, NOON + TICK],
            "v": [1, 2],
        },
        created="made",
    )
    result = store.join(spine([NOON]), view, filter_by_created_timestamp=True)
    equal(cells(result["v"]), [1])


def rows_keep_the_callers_order(store: Store) -> None:
    view = store.view({"k": ["a", "b"], "at": [NOON, NOON], "v": [1, 2]})
    chance = random.Random(1)
    keys = [chance.choice("ab") for _ in range(500)]
    times = [NOON + chance.randrange(1000) * TICK for _ in keys]
    result = store.join(spine(times, keys, row=range(500)), view)
    equal(list(result["row"]), list(range(500)))


def duplicate_rows_are_kept(store: Store) -> None:
    view = store.view({"k": ["a"], "at": [NOON], "v": [1]})
    equal(cells(store.join(spine([NOON, NOON, NOON]), view)["v"]), [1, 1, 1])


def a_row_without_a_match_is_kept(store: Store) -> None:
    view = store.view({"k": ["a"], "at": [NOON], "v": [1]})
    result = store.join(spine([NOON, NOON], ["a", "nobody"]), view).sort_values("k")
    equal(cells(result["v"]), [1, None])


def a_null_key_gives_null_features(store: Store) -> None:
    view = store.view({"k": ["a", None], "at": [NOON, NOON], "v": [1, 2]})
    result = store.join(spine([NOON, NOON], ["a", None], row=[0, 1]), view).sort_values("row")
    equal(cells(result["v"]), [1, None])


def a_null_time_gives_null_features(store: Store) -> None:
    view = store.view({"k": ["a"], "at": [NOON], "v": [1]})
    result = store.join(spine([NOON, None], row=[0, 1]), view).sort_values("row")
    equal(cells(result["v"]), [1, None])


def composite_keys_are_compared_one_by_one(store: Store) -> None:
    pairs = [(1, 12), (11, 2), (1, 1), (111, 2), (11, 12)]
    view = store.view(
        {"a": [a for a, _ in pairs], "b": [b for _, b in pairs], "at": [NOON] * 5, "v": range(5)},
        ["a", "b"],
    )
    frame = pd.DataFrame(pairs, columns=["a", "b"]).assign(event_timestamp=NOON)
    result = store.join(frame, view)
    found = {(row.a, row.b): row.v for row in result.itertuples()}
    equal(found, {pair: number for number, pair in enumerate(pairs)})


def one_view_can_be_joined_twice_under_aliases(store: Store) -> None:
    view = store.view({"k": ["a", "b"], "at": [NOON, NOON], "v": [1, 2]}, name="side")
    here = view.with_name("here")
    there = view.with_name("there").with_join_key_map({"k": "other"})
    result = store.join(spine([NOON], other=["b"]), here, there, full_feature_names=True)
    equal((cells(result["here__v"]), cells(result["there__v"])), ([1], [2]))


def a_view_without_entities_is_joined_on_time(store: Store) -> None:
    view = store.view({"at": [NOON, NOON + HOUR], "v": [1, 2]}, [])
    frame = spine([NOON, NOON + HOUR], row=[0, 1])
    equal(cells(store.join(frame, view).sort_values("row")["v"]), [1, 2])


def field_mappings_are_undone(store: Store) -> None:
    view = store.view({"k": ["a"], "at": [NOON], "raw": [1]}, field_mapping={"raw": "v"})
    equal(cells(store.join(spine([NOON]), view)["v"]), [1])


def naive_times_are_utc(store: Store) -> None:
    naive = NOON.replace(tzinfo=None)
    view = store.view(
        {"k": ["a"], "at": [naive], "v": [1]}, types={"at": pa.timestamp("us")}, ttl=TICK
    )
    frame = pd.DataFrame({"k": ["a"], "event_timestamp": [naive]})
    equal(cells(store.join(frame, view)["v"]), [1])


def times_in_another_zone_are_the_same_instants(store: Store) -> None:
    view = store.view({"k": ["a"], "at": [NOON], "v": [1]}, ttl=TICK)
    frame = spine([NOON])
    frame["event_timestamp"] = frame["event_timestamp"].dt.tz_convert("America/New_York")
    equal(cells(store.join(frame, view)["v"]), [1])


def a_time_finer_than_a_microsecond_sees_nothing_later(store: Store) -> None:
    view = store.view({"k": ["a", "a"], "at": [NOON, NOON + TICK], "v": [1, 2]})
    frame = spine([NOON])
    frame["event_timestamp"] = frame["event_timestamp"].astype("datetime64[ns, UTC]")
    frame["event_timestamp"] += pd.Timedelta(999, "ns")
    equal(cells(store.join(frame, view)["v"]), [1])


def the_callers_frame_is_untouched(store: Store) -> None:
    view = store.view({"k": ["a"], "at": [NOON], "v": [1]})
    frame = pd.DataFrame({"k": ["a"], "event_timestamp": ["2013-07-01 12:00"]}, index=[7])
    before = frame.copy(deep=True)
    store.join(frame, view)
    pd.testing.assert_frame_equal(frame, before)


def extra_columns_are_kept(store: Store) -> None:
    view = store.view({"k": ["a"], "at": [NOON], "v": [1]})
    result = store.join(spine([NOON], note=["mine"], label=[0.5]), view)
    equal((list(result["note"]), list(result["label"])), (["mine"], [0.5]))


def large_integers_survive_a_missing_neighbour(store: Store) -> None:
    view = store.view({"k": ["a"], "at": [NOON], "v": [2**53 + 1]})
    frame = spine([NOON, NOON], ["a", "b"], row=[0, 1])
    equal(cells(store.join(frame, view).sort_values("row")["v"]), [2**53 + 1, None])


def booleans_with_missing_values_stay_booleans(store: Store) -> None:
    view = store.view({"k": ["a"], "at": [NOON], "v": [True]})
    frame = spine([NOON, NOON], ["a", "b"], row=[0, 1])
    found = cells(store.join(frame, view).sort_values("row")["v"])
    assert found[0] is True, f"{found[0]!r} instead of True"
    equal(found[1], None)


def _odd_name(feature: str) -> Callable[[Store], None]:
    def check(store: Store) -> None:
        view = store.view({"k": ["a"], "at": [NOON], feature: [1]})
        equal(cells(store.join(spine([NOON]), view)[feature]), [1])

    check.__name__ = f"a_feature_may_be_called {feature}"
    return check


def _odd_column(column: str) -> Callable[[Store], None]:
    def check(store: Store) -> None:
        view = store.view({"k": ["a"], "at": [NOON], "v": [1]})
        result = store.join(spine([NOON]).assign(**{column: [5]}), view)
        equal((cells(result[column]), cells(result["v"])), ([5], [1]))

    check.__name__ = f"the_spine_may_have_a_column {column}"
    return check


def a_feature_named_like_a_spine_column_is_refused_by_name(store: Store) -> None:
    view = store.view({"k": ["a"], "at": [NOON], "taken": [1]})
    _refused(store, spine([NOON], taken=[9]), view, "taken")


def names_that_differ_in_case_only_work_or_are_refused_by_name(store: Store) -> None:
    view = store.view({"k": ["a"], "at": [NOON], "Speed": [1]})
    frame = spine([NOON], speed=[9])
    try:
        result = store.join(frame, view)
    except Exception as error:
        assert "speed" in str(error).lower(), f"{type(error).__name__}: {error}"
    else:
        equal((cells(result["speed"]), cells(result["Speed"])), ([9], [1]))


def key_types_that_differ_are_refused_naming_both(store: Store) -> None:
    view = store.view({"k": ["1"], "at": [NOON], "v": [1]})
    try:
        store.join(spine([NOON], [1]), view)
    except Exception as error:
        text = str(error)
        known = "k" in text and "VARCHAR" in text and "BIGINT" in text
        assert known, f"{type(error).__name__}: {text[:80]}"
    else:
        raise AssertionError("no error")


def _refused(store: Store, frame: pd.DataFrame, view: FeatureView, name: str) -> None:
    try:
        result = store.join(frame, view)
    except Exception as error:
        assert name in str(error), f"{type(error).__name__}: {error}"
    else:
        raise AssertionError(f"no error, and {name} is {cells(result[name])}")


def the_spine_may_be_an_arrow_table(store: Store) -> None:
    view = store.view({"k": ["a"], "at": [NOON], "v": [1]})
    equal(cells(store.join(pa.Table.from_pandas(spine([NOON])), view)["v"]), [1])


def the_spine_may_be_sql(store: Store) -> None:
    view = store.view({"k": ["a"], "at": [NOON], "v": [1]})
    sql = "select 'a' as k, timestamptz '2013-07-01 12:00:00+00' as event_timestamp"
    equal(cells(store.join(sql, view)["v"]), [1])


def dates_alone_give_every_entity_once(store: Store) -> None:
    view = store.view(
        {"k": ["a", "a", "b", "c"], "at": [NOON - HOUR, NOON, NOON, NOON + HOUR], "v": range(4)}
    )
    result = store.join(None, view, start_date=NOON - HOUR, end_date=NOON)
    found = dict(zip(cells(result["k"]), cells(result["v"]), strict=True))
    equal((found, len(result)), ({"a": 1, "b": 2}, 2))


PROMISES: list[Callable[[Store], None]] = [
    a_value_from_the_future_is_never_joined,
    ttl_is_inclusive_and_a_value_past_it_is_null,
    ttl_of_zero_is_unlimited,
    a_null_that_is_newest_is_not_filled_with_an_older_value,
    of_equal_event_times_the_latest_created_wins_and_null_is_last,
    rows_created_after_the_prediction_are_hidden_when_asked,
    rows_keep_the_callers_order,
    duplicate_rows_are_kept,
    a_row_without_a_match_is_kept,
    a_null_key_gives_null_features,
    a_null_time_gives_null_features,
    composite_keys_are_compared_one_by_one,
    one_view_can_be_joined_twice_under_aliases,
    a_view_without_entities_is_joined_on_time,
    field_mappings_are_undone,
    naive_times_are_utc,
    times_in_another_zone_are_the_same_instants,
    a_time_finer_than_a_microsecond_sees_nothing_later,
    the_callers_frame_is_untouched,
    extra_columns_are_kept,
    large_integers_survive_a_missing_neighbour,
    booleans_with_missing_values_stay_booleans,
    *map(
        _odd_name,
        ["rn", "lat_y", "event_expire_timestamp", "entity_row_id", "event_at", "bucket", "row"],
    ),
    *map(_odd_name, ["with space", 'with "quote"', "ünïcode", "select"]),
    *map(_odd_column, ["entity_row_id", "rn", "at", "slot", "_row", "__at", "source"]),
    a_feature_named_like_a_spine_column_is_refused_by_name,
    names_that_differ_in_case_only_work_or_are_refused_by_name,
    key_types_that_differ_are_refused_naming_both,
    the_spine_may_be_an_arrow_table,
    the_spine_may_be_sql,
    dates_alone_give_every_entity_once,
]


# --- generated cases ----------------------------------------------------------------------

START = datetime(2013, 3, 10, 6, 59, 59, 999_990, UTC)  # New York's clocks change at 07:00 UTC
KEYS = {"k1": pa.string(), "k2": pa.int64(), "k3": pa.string()}
KEY_VALUES = {
    "k1": st.sampled_from(["a", "a|", "|", "1", "11", "", None]),
    "k2": st.sampled_from([1, 12, 11, 2, 2**62 + 1, 2**62 + 2, None]),
    "k3": st.sampled_from(["x", "1", None]),
}
WORLDS = 7
"""Cases that are joined at once, to save time: a key more keeps them apart."""


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


@dataclass(frozen=True)
class Declared:
    """A view of a generated case: `history` holds one list of rows per world."""

    keys: list[str]
    ttl: timedelta
    has_created: bool
    histories: list[list[Row]]
    swapped: bool = False
    """Joined with k1 of the view on k3 of the spine, and the other way round."""

    @property
    def places(self) -> list[int]:
        """Where the spine's entities hold the view's keys."""
        other = {"k1": "k3", "k3": "k1"} if self.swapped else {}
        return [list(KEYS).index(other.get(key, key)) for key in self.keys]


@dataclass(frozen=True)
class Case:
    """Several independent spines and histories that share one set of views."""

    spines: list[list[tuple[tuple[Any, ...], datetime | None]]]
    repeat: int
    """DuckDB joins 64 rows or more in another way than fewer: the spine is repeated to try both."""
    views: list[Declared]
    cutoff: bool

    @property
    def rows(self) -> list[tuple[int, tuple[Any, ...], datetime | None]]:
        """(world, keys, time) of every row of the spine, before repetition."""
        return [(w, keys, t) for w, spine in enumerate(self.spines) for keys, t in spine]

    def frame(self) -> pa.Table:
        """The spine of all worlds."""
        rows = self.rows * self.repeat
        return pa.table(
            {
                "world": pa.array([world for world, _, _ in rows], pa.int64()),
                "event_timestamp": pa.array([t for _, _, t in rows], UTC_US),
                **{
                    key: pa.array([keys[i] for _, keys, _ in rows], kind)
                    for i, (key, kind) in enumerate(KEYS.items())
                },
                "place": pa.array(range(len(rows)), pa.int64()),
            }
        )

    def declare(self, store: Store) -> list[FeatureView]:
        """Write the histories and declare the views."""
        views = []
        for number, view in enumerate(self.views):
            rows = [(world, row) for world, rows in enumerate(view.histories) for row in rows]
            columns = {
                "world": [world for world, _ in rows],
                **{key: [row.keys[i] for _, row in rows] for i, key in enumerate(view.keys)},
                "at": [row.event_at for _, row in rows],
                "made": [row.created_at for _, row in rows],
                f"value_{number}": [row.value for _, row in rows],
            }
            types = {"world": pa.int64(), f"value_{number}": pa.int64(), **KEYS}
            created = "made" if view.has_created else ""
            declared = store.view(
                columns, ["world", *view.keys], types=types, ttl=view.ttl, created=created
            )
            if view.swapped:
                keys = {"k1": "k3", "k3": "k1"}
                own = {key: other for key, other in keys.items() if key in view.keys}
                declared = declared.with_name(f"alias_{number}").with_join_key_map(own)
            views.append(declared)
        return views

    def answers(self, number: int) -> list[int | None]:
        """The oracle's answers for one view, one for each row of the frame."""
        view = self.views[number]
        places = view.places
        histories = [
            rows if view.has_created else [replace(row, created_at=None) for row in rows]
            for rows in view.histories
        ]
        return [
            expected(
                histories[world],
                tuple(keys[i] for i in places),
                t,
                view.ttl,
                self.cutoff and view.has_created,
            )
            for world, keys, t in self.rows
        ] * self.repeat


instants = st.none() | st.integers(0, 12).map(lambda us: START + timedelta(microseconds=us))


@st.composite
def generated(draw: st.DrawFn) -> Case:
    """Few entities and instants in each world, so that they meet and tie."""
    entities = [
        st.sampled_from(draw(st.lists(st.tuples(*KEY_VALUES.values()), min_size=1, max_size=3)))
        for _ in range(WORLDS)
    ]
    views = []
    for _ in range(draw(st.integers(1, 2))):
        keys = draw(st.lists(st.sampled_from(list(KEY_VALUES)), max_size=3, unique=True))
        places = [list(KEY_VALUES).index(key) for key in keys]
        histories = []
        for entity in entities:
            own = entity.map(lambda entity, places=places: tuple(entity[i] for i in places))
            row = st.builds(Row, own, instants, instants, st.none() | st.integers(0, 99))
            histories.append(draw(st.lists(row, max_size=10)))
        ttl = timedelta(microseconds=draw(st.sampled_from([0, 1, 3, 10])))
        swapped = bool({"k1", "k3"} & set(keys)) and draw(st.integers(0, 3)) == 0
        views.append(Declared(keys, ttl, draw(st.booleans()), histories, swapped))
    spines = [draw(st.lists(st.tuples(entity, instants), max_size=8)) for entity in entities]
    return Case(spines, draw(st.sampled_from([1, 16])), views, draw(st.booleans()))
