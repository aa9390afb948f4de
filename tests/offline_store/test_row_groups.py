"""Row groups that pyarrow reads give what looking at every row does, and what DuckDB gives."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conformance import HOUR, NOON, TICK, UTC_US, Store
from feast import Entity, FeatureView, Field, FileSource
from feast.types import Int64
from feast.value_type import ValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hindcast import row_groups
from hindcast.errors import ReplacedError, RetrievalError
from hindcast.history import History
from hindcast.row_groups import ARROW, Crew, KeyedRows, LocalFiles
from hindcast.sources import PLACES_OF_A_FILE, Source
from hindcast.sweep import NONE

KEY_TYPES = [pa.int8(), pa.uint8(), pa.int32(), pa.uint32(), pa.int64()]
LOWEST, HIGHEST = -(2**63), 2**63 - 1
COLUMNS = {kind: name for name, kind in ARROW.items()}


def local_files(folder: Path, tables: list[pa.Table], **options: Any) -> LocalFiles:
    """Tables in files with row groups of three rows, and several threads to read them."""
    paths = [str(folder / f"{number}.parquet") for number in range(len(tables))]
    for path, content in zip(paths, tables, strict=True):
        pq.write_table(content, path, row_group_size=3, **options)
    columns = {field.name: COLUMNS.get(field.type, "?") for field in tables[0].schema}
    files = LocalFiles.of(Source("test", "", columns, "", tuple(paths)), Crew(3))
    assert files is not None
    return files


def places_of(tables: list[pa.Table]) -> list[int]:
    """The place of each row, one file after the other."""
    return [
        file * PLACES_OF_A_FILE + row
        for file, table in enumerate(tables)
        for row in range(len(table))
    ]


# --- which rows are whose -----------------------------------------------------------------


@st.composite
def keyed(draw: st.DrawFn) -> tuple[pa.DataType, list[list[tuple[int | None, int | None]]]]:
    """A type of keys, and (key, time) of the rows of some files."""
    kind = draw(st.sampled_from(KEY_TYPES))
    signed, bits = pa.types.is_signed_integer(kind), kind.bit_width
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    some = st.integers(max(-3, ends[0]), 6) | st.sampled_from(ends)
    at = st.none() | st.integers(-4, 12) | st.sampled_from([LOWEST + 1, HIGHEST])
    rows = st.lists(st.tuples(st.none() | some, at), max_size=9)
    return kind, draw(st.lists(rows, min_size=1, max_size=3))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    history=keyed(),
    asked=st.lists(st.integers(-5, 9), min_size=1, max_size=6),
    wanted=st.sets(st.integers(0, 5)),
    span=st.tuples(st.integers(-5, 13), st.integers(-5, 13)).map(sorted),
    statistics=st.booleans(),
    shared_out=st.booleans(),
)
def test_the_rows_of_some_entities_are_those_that_looking_at_every_row_finds(
    history: tuple[pa.DataType, list[list[tuple[int | None, int | None]]]],
    asked: list[int],
    wanted: set[int],
    span: list[int],
    statistics: bool,
    shared_out: bool,
) -> None:
    kind, contents = history
    tables = [
        pa.table(
            {
                "k": pa.array([key for key, _ in rows], kind),
                "at": pa.array([at for _, at in rows], pa.int64()).cast(UTC_US),
            }
        )
        for rows in contents
    ]
    keys = sorted(set(asked))
    numbers = sorted(number for number in wanted if number < len(keys)) or [0]
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_groups, "SHARED_OUT", 0 if shared_out else HIGHEST)
        files = local_files(Path(folder), tables, write_statistics=statistics)
        rows = KeyedRows.of(files, "k", "at", pa.chunked_array([asked]))
        assert rows is not None
        assert [keys[number] for number in rows.numbers] == asked
        assert rows.entities(keys[0] + 1, keys[-1]).tolist() == list(range(1, len(keys) - 1))
        assert rows.entities(None, None).tolist() == list(range(len(keys)))
        for some in (numbers, [len(keys) - 1]):  # the second time as if it were the first
            found = rows.read(np.array(some), *span)
            since, until = span
            assert list(zip(*(column.tolist() for column in found), strict=True)) == [
                (keys.index(key), at, place)
                for place, (key, at) in zip(places_of(tables), chain(*contents), strict=True)
                if key in {keys[number] for number in some}
                and at is not None
                and since <= at < until
            ]


def test_keys_that_no_array_can_have_are_left_to_duckdb(tmp_path: Path) -> None:
    times = pa.array([NOON], UTC_US)
    wide, text = pa.array([2**40]), pa.array(["a"])
    unsigned = pa.array([1], pa.uint64())
    near = pa.chunked_array([[1, 5]])
    for keys, asked in [
        (wide, pa.chunked_array([[1, 2**40]])),
        (text, pa.chunked_array([["a"]])),
        (unsigned, near),
        (wide, near.cast(pa.uint64())),
        (wide, pa.chunked_array([[]], pa.int64())),
    ]:
        files = local_files(tmp_path, [pa.table({"k": keys, "at": times})])
        assert KeyedRows.of(files, "k", "at", asked) is None
    files = local_files(tmp_path, [pa.table({"k": wide, "at": times.cast(pa.timestamp("ms"))})])
    assert KeyedRows.of(files, "k", "at", near) is None
    files = local_files(tmp_path, [pa.table({"k": wide, "at": times})])
    assert KeyedRows.of(files, "k", "at", near) is not None


# --- the values at some places ------------------------------------------------------------

MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1))
VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.bool_(): st.booleans(),
    pa.float32(): st.floats(width=32),
    pa.float64(): st.floats(),
    pa.string(): st.text(max_size=5),
    pa.date32(): st.dates(date(1, 1, 1)),
    pa.timestamp("us"): MOMENTS,
    UTC_US: MOMENTS.map(lambda at: at.replace(tzinfo=UTC)),
}
WHOLE = [kind for kind in ARROW.values() if pa.types.is_integer(kind)]
for kind_ in WHOLE:
    low = -(2 ** (kind_.bit_width - 1)) if pa.types.is_signed_integer(kind_) else 0
    VALUES[kind_] = st.integers(low, low + 2**kind_.bit_width - 1)


@st.composite
def contents(draw: st.DrawFn, most_files: int = 3) -> list[pa.Table]:
    """Files with a column of each type."""
    sizes = draw(st.lists(st.integers(0, 8), min_size=1, max_size=most_files))
    return [
        pa.table(
            {
                name: pa.array(
                    draw(st.lists(st.none() | VALUES[kind], min_size=size, max_size=size)), kind
                )
                for name, kind in ARROW.items()
            }
        )
        for size in sizes
    ]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    tables=contents(),
    chosen=st.lists(st.none() | st.integers(0, 99), max_size=12),
    at_once=st.sampled_from([1, 7, 1000]),
    shared_out=st.booleans(),
)
def test_the_values_at_places_are_those_that_were_written_there(
    tables: list[pa.Table], chosen: list[int | None], at_once: int, shared_out: bool
) -> None:
    places, whole = places_of(tables), pa.concat_tables(tables)
    rows = [None if one is None or not places else one % len(places) for one in chosen]
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_groups, "AT_ONCE", at_once)
        patch.setattr(row_groups, "OF_A_RESULT", 5)
        patch.setattr(row_groups, "SHARED_OUT", 0 if shared_out else HIGHEST)
        files = local_files(Path(folder), tables)
        at = np.array([NONE if row is None else places[row] for row in rows], np.int64)
        columns = [*ARROW, "BIGINT"]  # a column may be asked for twice
        found = files.take(at, columns)
    expected = whole.take(pa.array(rows, pa.int64()))
    for name, values in zip(columns, found, strict=True):
        assert values.type == ARROW[name]
        assert pa.table({"v": values}).to_pylist().__repr__() == (
            pa.table({"v": expected[name]}).to_pylist().__repr__()
        )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store("hindcast.offline_store.DuckDBOfflineStore", tmp_path_factory.mktemp("store"))


def over(path: Path, *features: str, created: str = "") -> FeatureView:
    """A view with the key `k` over files that are there."""
    return FeatureView(
        name="over",
        entities=[Entity(name="entity_k", join_keys=["k"], value_type=ValueType.UNKNOWN)],
        schema=[Field(name=name, dtype=Int64) for name in ("k", *features)],
        source=FileSource(
            name="files", path=str(path), timestamp_field="at", created_timestamp_column=created
        ),
    )


def joined(store: Store, view: FeatureView, keys: list[int]) -> tuple[pa.Table, str]:
    """The view joined to some keys at noon, and who read its values."""
    frame = pa.table({"k": keys, "event_timestamp": pa.array([NOON] * len(keys), UTC_US)})
    readers, values = list[str](), History.values

    def noted(self: History, places: Any) -> Any:
        found = values(self, places)
        readers.append("DuckDB" if found is None else "pyarrow")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(History, "values", noted)
        result = store.job(frame, [view]).to_arrow()
    (reader,) = readers
    return result, reader


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(tables=contents(most_files=2))
def test_each_type_comes_as_duckdb_reads_it(store: Store, tables: list[pa.Table]) -> None:
    with TemporaryDirectory() as folder:
        at = 0
        for number, content in enumerate(tables):
            rows = range(at, at := at + len(content))
            content = content.append_column("k", pa.array(rows, pa.int64()))
            content = content.append_column("at", pa.array([NOON - HOUR] * len(content), UTC_US))
            pq.write_table(content, Path(folder) / f"{number}.parquet", row_group_size=3)
        view = over(Path(folder), *ARROW)
        keys = [*range(-1, at + 1), 0]
        ours, reader = joined(store, view, keys)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(row_groups, "LARGEST", -1)
            theirs, other = joined(store, view, keys)
    assert (reader, other) == ("pyarrow", "DuckDB")
    assert ours.schema == theirs.schema
    assert ours.to_pylist().__repr__() == theirs.to_pylist().__repr__()


@pytest.mark.parametrize("name", ["a.b", 'quo"ted', "ü ñ", "Event"])
def test_a_column_is_read_whatever_its_name(store: Store, tmp_path: Path, name: str) -> None:
    pq.write_table(
        pa.table({"k": [1], "at": pa.array([NOON], UTC_US), "a": [7], name: [8]}),
        tmp_path / "named.parquet",
    )
    found, reader = joined(store, over(tmp_path / "named.parquet", name), [1])
    assert found[name].to_pylist() == [8]
    assert reader == ("DuckDB" if "." in name else "pyarrow")


def test_files_that_differ_are_left_to_duckdb(store: Store, tmp_path: Path) -> None:
    """It casts what differs to a type for both, and finds no column where there is none."""
    at = pa.array([NOON], UTC_US)
    one = pa.table({"k": [1], "at": at, "v": pa.array([1], pa.int32()), "w": ["x"]})
    two = pa.table({"k": [2], "at": at, "v": pa.array([2**40], pa.int64())})
    pq.write_table(one, tmp_path / "1.parquet")
    pq.write_table(two, tmp_path / "2.parquet")
    for feature, values in (("v", [1, 2**40]), ("w", ["x", None])):
        found, reader = joined(store, over(tmp_path, feature), [1, 2])
        assert (found[feature].to_pylist(), reader) == (values, "DuckDB")


@pytest.mark.parametrize("names", [["V", "v"], ["v", "V"], ["v", "v"]])
def test_names_that_differ_in_case_alone_are_left_to_duckdb(
    store: Store, tmp_path: Path, names: list[str]
) -> None:
    """It takes the first; the first file's names are refused by name."""
    at = pa.array([NOON], UTC_US)
    pq.write_table(pa.table({"k": [0], "at": at, "v": [0]}), tmp_path / "1.parquet")
    columns = [pa.array([1]), at, pa.array([7]), pa.array([8])]
    pq.write_table(pa.table(columns, ["k", "at", *names]), tmp_path / "2.parquet")
    found, reader = joined(store, over(tmp_path, "v"), [0, 1])
    assert (found["v"].to_pylist(), reader) == ([0, 7], "DuckDB")


@pytest.mark.parametrize("largest", [row_groups.LARGEST, -1], ids=["pyarrow", "DuckDB"])
def test_text_that_is_not_utf8_is_refused(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int
) -> None:
    monkeypatch.setattr(row_groups, "LARGEST", largest)
    text = pa.array([b"\xff"], pa.binary()).view(pa.string())
    at = pa.array([NOON], UTC_US)
    pq.write_table(pa.table({"k": [1], "at": at, "v": text}), tmp_path / "text.parquet")
    with pytest.raises(RetrievalError, match=r"text\.parquet"):
        joined(store, over(tmp_path / "text.parquet", "v"), [1])


@pytest.mark.parametrize("more", [{}, {"v": [7]}], ids=["the folder's alone", "the file's too"])
def test_partitions_are_left_to_duckdb(
    store: Store, tmp_path: Path, more: dict[str, list[int]]
) -> None:
    folder = tmp_path / "v=7"
    folder.mkdir()
    rows = {"k": [1], "at": pa.array([NOON], UTC_US), **more}
    pq.write_table(pa.table(rows), folder / "rows.parquet")
    found, reader = joined(store, over(tmp_path, "v"), [1])
    assert (found["v"].to_pylist(), reader) == ([7], "DuckDB")


@pytest.mark.parametrize("largest", [row_groups.LARGEST, -1], ids=["pyarrow", "DuckDB"])
def test_created_at_no_time_at_all_is_never_the_latest(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int
) -> None:
    """DuckDB writes the infinities as the last microseconds that there are."""
    path = tmp_path / "infinite.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            "copy (select 1 as k, timestamptz '2013-01-01' as at, v, made::timestamptz as made "
            "from (values (1, '2013-01-02'), (2, 'infinity'), (3, '-infinity'), (4, null)) "
            f"as rows(v, made)) to '{path}' (format parquet)"
        )
    monkeypatch.setattr(row_groups, "LARGEST", largest)
    found, _ = joined(store, over(path, "v", created="made"), [1])
    assert found["v"].to_pylist() == [1]


@pytest.mark.parametrize(
    ("made", "latest"),
    [
        (pa.array([date(2013, 1, 3), date(2013, 1, 2)]), 1),
        (pa.array([3, 2], pa.timestamp("ms")), 1),
        (pa.array([2, 3]), r"made is BIGINT\. Expected a timestamp"),
        (pa.array(["2013-01-02", "2013-01-03"]), r"made is VARCHAR\. Expected a timestamp"),
        (None, "no column 'made'"),
    ],
    ids=["dates", "milliseconds", "integers", "text", "none"],
)
def test_created_times_are_times_of_any_kind_and_nothing_else(
    store: Store, tmp_path: Path, made: pa.Array | None, latest: int | str
) -> None:
    columns = {"k": [1, 1], "at": pa.array([NOON] * 2, UTC_US), "v": [1, 2]}
    pq.write_table(
        pa.table(columns if made is None else columns | {"made": made}), tmp_path / "made.parquet"
    )
    view = over(tmp_path / "made.parquet", "v", created="made")
    if isinstance(latest, int):
        assert joined(store, view, [1])[0]["v"].to_pylist() == [latest]
    else:
        with pytest.raises(RetrievalError, match=latest):
            joined(store, view, [1])


def test_a_file_that_is_replaced_by_one_of_far_keys_is_no_wrong_answer(tmp_path: Path) -> None:
    """Of the same size, so that the old footer still finds its pages."""
    plain = {"use_dictionary": False, "compression": "none"}
    times = pa.array([NOON] * 3, UTC_US)
    files = local_files(tmp_path, [pa.table({"k": [1, 2, 3], "at": times})], **plain)
    rows = KeyedRows.of(files, "k", "at", pa.chunked_array([[1, 2, 3]]))
    assert rows is not None
    pq.write_table(pa.table({"k": [10**9, -1, 2], "at": times}), files.source.paths[0], **plain)
    found = rows.read(np.array([0, 1, 2]), LOWEST, HIGHEST)
    assert (found.entity.tolist(), found.place.tolist()) == ([1], [2])


def test_a_row_group_that_has_other_rows_than_its_footer_said_was_replaced(tmp_path: Path) -> None:
    files = local_files(tmp_path, [pa.table({"v": [1, 1, 1]})])
    pq.write_table(pa.table({"v": [1, 1]}), files.source.paths[0])
    with pytest.raises(ReplacedError):
        files.take(np.array([2]), ["v"])


# --- threads ------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 4, 5, 23])
def test_work_that_is_shared_out_comes_back_in_order(threads: int, count: int) -> None:
    with Crew(threads) as crew:
        assert crew.do(lambda number: number * 2, range(count)) == [n * 2 for n in range(count)]


def test_threads_work_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=30)
    with Crew(3) as crew:
        crew.do(lambda _: together.wait(), range(3))


@pytest.mark.parametrize("broken", [0, 5])
def test_an_error_in_any_thread_is_raised(broken: int) -> None:
    def work(number: int) -> int:
        return 1 // (number - broken)

    with Crew(2) as crew, pytest.raises(ZeroDivisionError):
        crew.do(work, range(6))


def test_small_histories_are_read_by_the_callers_thread_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set[int]()
    read = LocalFiles.read

    def noted(self: LocalFiles, *args: Any) -> pa.Table:
        threads.add(threading.get_ident())
        return read(self, *args)

    monkeypatch.setattr(LocalFiles, "read", noted)
    files = local_files(tmp_path, [pa.table({"v": range(30)})])
    files.take(np.arange(30), ["v"])
    assert threads == {threading.get_ident()}
    monkeypatch.setattr(row_groups, "SHARED_OUT", 30)
    files.take(np.arange(30), ["v"])
    assert len(threads) > 1


def test_a_join_whose_work_is_shared_out_is_the_same(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_groups, "SHARED_OUT", 0)
    times = pa.array([NOON - (20 - i) * TICK for i in range(20)], UTC_US)
    path = tmp_path / "shared.parquet"
    pq.write_table(
        pa.table({"k": [i % 4 for i in range(20)], "at": times, "v": range(20)}),
        path,
        row_group_size=2,
    )
    found, reader = joined(store, over(path, "v"), [3, 0, 9])
    assert (found["v"].to_pylist(), reader) == ([19, 16, None], "pyarrow")
