"""Which Feast type holds a DuckDB type, exactly.

For the definitions: a column whose values could change on their way through an offline join,
a materialization and an online read is refused here, with what to write instead. Not for
converting values, and free of any Feast import, which takes seconds.

Two losses are Feast's own and depend on the data, so a type cannot show them: an online
`timestamptz` keeps whole seconds, and a list must not hold NULL.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from hindcast.errors import HindcastError

_SCALARS = {
    "boolean": "Bool",
    "tinyint": "Int32",
    "smallint": "Int32",
    "integer": "Int32",
    "bigint": "Int64",
    "utinyint": "Int32",
    "usmallint": "Int32",
    "uinteger": "Int64",
    "float": "Float32",
    "double": "Float64",
    "decimal": "Decimal",
    "varchar": "String",
    "blob": "Bytes",
    "timestamp with time zone": "UnixTimestamp",
}
# Feast's online stores encode a key from these only (feast/infra/key_encoding_utils.py).
_KEYS = ("String", "Int32", "Int64", "Bytes")

_NAIVE = "a time without a zone; use timestamptz (UTC)"
_REFUSED = {
    "timestamp": _NAIVE,
    "timestamp_s": _NAIVE,
    "timestamp_ms": _NAIVE,
    "timestamp_ns": _NAIVE,
    "date": "a date offline and a timestamp online; use timestamptz, a number of days or varchar",
    "time": "Feast has no time of day; use a number of minutes or seconds",
    "time with time zone": "Feast has no time of day; use a number of minutes or seconds",
    "interval": "Feast has no interval; use a number of minutes or seconds",
    "ubigint": "wider than Feast's Int64; cast to bigint, decimal or varchar",
    "hugeint": "wider than Feast's Int64; cast to bigint, decimal or varchar",
    "uhugeint": "wider than Feast's Int64; cast to bigint, decimal or varchar",
    "bignum": "wider than Feast's Int64; cast to bigint, decimal or varchar",
    "uuid": "Feast reads it back as text offline and as a UUID online; cast to varchar",
    "enum": "Feast has no enum; cast to varchar",
    "bit": "Feast has no bit string; cast to varchar",
    "struct": "a feature is one value or a list; make each field a column",
    "map": "a feature is one value or a list; make each key a column",
    "union": "a feature is one value or a list; make each member a column",
    "array": "Feast has no list of fixed length; use a plain list, such as double[]",
}
_JSON = "text offline and parsed values online; cast to varchar, or make each field a column"
_NESTED = "Feast holds lists of one level; flatten it, or make each element a column"


class UnsupportedTypeError(HindcastError):
    """A type that DuckDB does not know or that Feast cannot hold. The message says what to do."""


@dataclass(frozen=True, slots=True)
class FeastType:
    """A name in `feast.types`, and whether the column is a list of it."""

    name: str
    is_list: bool = False

    @property
    def is_key(self) -> bool:
        """Whether Feast can look an entity up by a value of this type."""
        return not self.is_list and self.name in _KEYS


def canonical(data_type: str) -> str:
    """DuckDB's own lower-case spelling of a type: `text` is `varchar`, `int8` is `bigint`.

    Raises UnsupportedTypeError if DuckDB does not know the type.
    """
    return str(_parse(data_type)).lower()


def is_timestamptz(data_type: str) -> bool:
    """Whether a column of this type holds an instant rather than a wall clock."""
    try:
        return canonical(data_type) == "timestamp with time zone"
    except UnsupportedTypeError:
        return False


def feast_type(data_type: str) -> FeastType:
    """The Feast type that holds every value of a DuckDB type.

    Raises UnsupportedTypeError where there is none, or where values would not survive.
    """
    parsed = _parse(data_type)
    if parsed.id != "list":
        return FeastType(_scalar(parsed))
    element = _parse(str(parsed).removesuffix("[]"))
    if element.id in ("list", "array"):
        raise UnsupportedTypeError(_NESTED)
    return FeastType(_scalar(element), is_list=True)


def _scalar(parsed: duckdb.sqltypes.DuckDBPyType) -> str:
    if str(parsed) == "JSON":  # to DuckDB an alias of varchar, to Feast a document
        raise UnsupportedTypeError(_JSON)
    if parsed.id in _SCALARS:
        return _SCALARS[parsed.id]
    raise UnsupportedTypeError(_REFUSED.get(parsed.id, "Feast has no such type; cast to varchar"))


def _parse(data_type: str) -> duckdb.sqltypes.DuckDBPyType:
    try:
        return duckdb.sqltype(data_type)
    except duckdb.Error:
        raise UnsupportedTypeError("DuckDB knows no such type; correct the name") from None
