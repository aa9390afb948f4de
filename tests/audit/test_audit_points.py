"""How values are compared, and how the scramble treats records: rules small enough to read."""

from datetime import UTC, datetime, timedelta
from random import Random
from types import SimpleNamespace

import duckdb
import pytest

from hindcast.audit.points import compare, values_at
from hindcast.audit.reach import since
from hindcast.audit.scramble import scrambled

T = datetime(2024, 3, 1, 12, tzinfo=UTC)


def view(ttl=timedelta(0), created=None):
    return SimpleNamespace(
        name="v",
        keys=[SimpleNamespace(name="k")],
        features=[SimpleNamespace(name="x")],
        ttl=ttl,
        created_timestamp=created,
    )


@pytest.fixture
def db():
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        yield connection


def value(db, rows, at=T, **declared):
    """x of entity 'a' at T, of rows (known_at, created_at, x)."""
    db.execute("create table rows (k varchar, known_at timestamptz, created_at timestamptz, x int)")
    db.executemany("insert into rows values ('a', ?, ?, ?)", rows)
    point = f"select 1 as point, 'a' as k, timestamptz '{at}' as at"
    return db.sql(values_at(view(**declared), "rows", point, at, at)).fetchone()[-1]


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("rows", "declared", "expected"),
    [
        ([(T - HOUR, T, 1), (T + HOUR, T, 2)], {}, 1),
        ([(T - HOUR, T, 1), (T, T, 2)], {}, 2),
        ([(T - HOUR, T, 1)], {"ttl": HOUR}, 1),
        ([(T - HOUR, T, 1)], {"ttl": HOUR - timedelta(microseconds=1)}, None),
        ([(T, T, 1), (T, T + HOUR, 2)], {"created": "created_at"}, 2),
        ([], {}, None),
    ],
)
def test_a_value_is_that_of_the_newest_row_known_by_then_and_alive(db, rows, declared, expected):
    if not rows:
        rows = [(T + HOUR, T, 9)]
    assert value(db, rows, **declared) == expected


@pytest.mark.parametrize(
    ("ours", "theirs", "differ"),
    [
        ("1.5::double", "1.5::double", 0),
        ("null::double", "null::double", 0),
        ("0.1::double + 0.2", "0.3::double", 1),
        ("0.0::double", "-0.0::double", 1),
        ("null::double", "0.0::double", 1),
        ("1::integer", "1::bigint", 1),
        ("'a'", "'A'", 1),
    ],
)
def test_values_are_compared_to_the_last_bit_types_included(db, ours, theirs, differ):
    point = f"select 1 as point, 'a' as k, timestamptz '{T}' as at"
    found = compare(db, view(), f"{point}, {ours} as x", f"{point}, {theirs} as x", T, ["k"])
    assert (found.values, found.differ) == (1, differ)
    assert len(found.examples) == differ


def records(count, start, prefix):
    """Records of a feed kept as typed columns and as a list of texts, both saying when it came."""
    return [
        {
            "id": f"{prefix}{n}",
            "amount": n,
            "fields": [f"{prefix}{n}", str(n), f"{start + n * HOUR:%Y-%m-%dT%H:%M:%SZ}"],
            "loaded_at": start + n * HOUR,
        }
        for n in range(count)
    ]


def test_no_scrambled_record_claims_to_be_loaded_before_the_cut():
    made = scrambled(
        records(200, T + HOUR, "late"), records(300, T - 300 * HOUR, "old"), "loaded_at", Random(3)
    )
    assert min(record["loaded_at"] for record in made) > T
    for record in made:
        assert datetime.fromisoformat(record["fields"][2]) == record["loaded_at"]


def test_records_are_dropped_changed_repeated_and_invented():
    late = records(200, T + HOUR, "late")
    made = scrambled(late, records(300, T - 300 * HOUR, "old"), "loaded_at", Random(3))
    ids = [record["id"] for record in made]
    assert {record["id"] for record in late} - set(ids), "dropped"
    assert len([i for i in ids if i.startswith("late")]) > len({i for i in ids if i[0] == "l"})
    assert any(i.startswith("old") for i in ids), "corrections of early records"
    untouched = [record for record in made if record in late]
    assert len(untouched) <= 2, "one may be dated like itself"


def test_the_same_seed_scrambles_the_same_way():
    late = records(50, T + HOUR, "late")
    assert scrambled(late, [], "loaded_at", Random(1)) == scrambled(
        late, [], "loaded_at", Random(1)
    )
    assert scrambled(late, [], "loaded_at", Random(1)) != scrambled(
        late, [], "loaded_at", Random(2)
    )


def test_a_source_that_does_not_say_how_long_it_matters_is_read_from_its_beginning():
    known = SimpleNamespace(name="a.b", lookback=timedelta(days=2))
    unknown = SimpleNamespace(name="a.c", lookback=None)
    assert since((known, unknown), T) == {"a.b": T - timedelta(days=2)}
