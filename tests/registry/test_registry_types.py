"""A DuckDB type maps to the one Feast type that holds it, or is refused with what to write."""

import contextlib

import duckdb
import pytest

from hindcast.types import FeastType, UnsupportedTypeError, canonical, feast_type

HELD = {
    "boolean": "Bool",
    "tinyint": "Int32",
    "smallint": "Int32",
    "integer": "Int32",
    "bigint": "Int64",
    "utinyint": "Int32",
    "usmallint": "Int32",
    "uinteger": "Int64",
    "real": "Float32",
    "double": "Float64",
    "decimal": "Decimal",
    "varchar": "String",
    "blob": "Bytes",
    "timestamptz": "UnixTimestamp",
}
SPELT_ANOTHER_WAY = {
    "decimal(10, 2)": "Decimal",
    "varchar(20)": "String",
    "text": "String",
    "string": "String",
    "TIMESTAMP WITH TIME ZONE": "UnixTimestamp",
}


@pytest.mark.parametrize(("data_type", "name"), [*HELD.items(), *SPELT_ANOTHER_WAY.items()])
def test_a_scalar_and_a_list_of_it_keep_every_value(data_type, name):
    assert feast_type(data_type) == FeastType(name)
    assert feast_type(f"{data_type}[]") == FeastType(name, is_list=True)


@pytest.mark.parametrize(
    ("data_type", "advice"),
    [
        ("timestamp", "use timestamptz"),
        ("timestamp_ns", "use timestamptz"),
        ("date", "use timestamptz, a number of days or varchar"),
        ("time", "a number of minutes or seconds"),
        ("interval", "a number of minutes or seconds"),
        ("ubigint", "cast to bigint, decimal or varchar"),
        ("hugeint", "cast to bigint, decimal or varchar"),
        ("uuid", "cast to varchar"),
        ("json", "cast to varchar"),
        ("json[]", "cast to varchar"),
        ("enum('a')", "cast to varchar"),
        ("bit", "cast to varchar"),
        ("struct(a integer)", "make each field a column"),
        ("struct(a integer)[]", "make each field a column"),
        ("map(varchar, integer)", "make each key a column"),
        ("union(a integer)", "make each member a column"),
        ("integer[][]", "flatten it"),
        ("integer[3]", "such as double[]"),
        ("double[3][]", "flatten it"),
        ("foo", "DuckDB knows no such type"),
        ("", "DuckDB knows no such type"),
    ],
)
def test_what_would_be_lost_is_refused_with_what_to_write(data_type, advice):
    with pytest.raises(UnsupportedTypeError) as refused:
        feast_type(data_type)
    assert advice in str(refused.value)


def test_no_other_type_of_duckdb_is_let_through():
    held = set()
    for (name,) in duckdb.sql("select distinct logical_type from duckdb_types()").fetchall():
        with contextlib.suppress(UnsupportedTypeError):
            feast_type(name)
            held.add(canonical(name))
    assert held == {canonical(data_type) for data_type in HELD}


def test_types_are_compared_by_duckdbs_own_names():
    assert canonical("text") == canonical("VARCHAR(20)") == "varchar"
    assert canonical("int8") == "bigint"


def test_only_types_that_feast_can_look_up_are_keys():
    assert all(feast_type(key).is_key for key in ("varchar", "blob", "integer", "bigint"))
    assert not any(feast_type(no).is_key for no in ("double", "boolean", "timestamptz", "bigint[]"))
