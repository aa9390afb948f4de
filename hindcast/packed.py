"""One packed row for each entity of a feature view: how the online stores keep values as bytes.

A row is one MessagePack array: event time, created time, layout, whether it was pushed, and the
values in the order that the layout names. A layout is the names and types of the features
at the time of writing; it is kept beside the rows, so that rows written before a feature was added
are still read right. Not for where rows are kept: that is `kv`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import repeat
from typing import Any

import msgspec
import pyarrow as pa
from feast.field import Field
from feast.protos.feast.types import Value_pb2
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values
from feast.value_type import ValueType

from hindcast.errors import EntityKeyError, RetrievalError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
NEVER = -(2**63)
"""The created time of a row that has none: before all others."""

HEADER = 4
"""Before the values: event time and created time in microseconds since 1970, the layout's number,
and whether the row was pushed."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


@dataclass(frozen=True)
class Kind:
    """How values of one Feast type are packed.

    `store` makes of a Python value what MessagePack holds exactly, `load` makes the value of it
    again (None: nothing to do). `proto` is the field of Feast's `Value` message, and `to_proto`
    and `of_proto` change what stands there from and to what is stored. Columns are cast to
    `arrow` first.
    """

    proto: str
    arrow: pa.DataType | None = None
    store: Callable[[Any], Any] | None = None
    load: Callable[[Any], Any] | None = None
    to_proto: Callable[[Any], Any] | None = None
    of_proto: Callable[[Any], Any] | None = None

    def listed(self) -> Kind:
        """The kind of a list of such values."""

        def each(change: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
            return change and (lambda values: [change(value) for value in values])

        return Kind(
            self.proto.replace("_val", "_list_val"),
            self.arrow and pa.list_(self.arrow),
            each(self.store),
            each(self.load),
            each(self.to_proto),
            each(self.of_proto),
        )


def micros(instant: datetime) -> int:
    """Microseconds since 1970; an instant without a zone is UTC."""
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return (instant - EPOCH) // MICROSECOND


def instant(us: int) -> datetime:
    """The instant of microseconds since 1970, in UTC."""
    return EPOCH + us * MICROSECOND


_SCALARS = {
    ValueType.INT32: Kind("int32_val", pa.int32()),
    ValueType.INT64: Kind("int64_val", pa.int64()),
    ValueType.FLOAT: Kind("float_val", pa.float32()),
    ValueType.DOUBLE: Kind("double_val", pa.float64()),
    ValueType.BOOL: Kind("bool_val", pa.bool_()),
    ValueType.STRING: Kind("string_val", pa.string()),
    ValueType.BYTES: Kind("bytes_val", pa.binary()),
    # Feast's message has whole seconds; the packed row keeps the microseconds.
    ValueType.UNIX_TIMESTAMP: Kind(
        "unix_timestamp_val",
        pa.timestamp("us", "UTC"),
        micros,
        instant,
        lambda us: us // 10**6,
        lambda s: s * 10**6,
    ),
    ValueType.DECIMAL: Kind("decimal_val", None, str, Decimal),
}
KINDS: dict[ValueType, Kind] = _SCALARS | {
    ValueType[f"{t.name}_LIST"]: kind.listed() for t, kind in _SCALARS.items()
}


@lru_cache(maxsize=256)
def kind_of(value_type: ValueType) -> Kind:
    """The kind of a Feast type; what MessagePack has no form for is kept as Feast's own message."""
    if value_type in KINDS:
        return KINDS[value_type]

    def store(value: Any) -> bytes:
        return bytes(python_values_to_proto_values([value], value_type)[0].SerializeToString())

    def load(stored: bytes) -> Any:
        return feast_value_type_to_python_type(Value.FromString(stored), value_type)

    return Kind("", None, store, load)


@dataclass(frozen=True)
class Layout:
    """The features of a view in the order their values stand in a row."""

    names: tuple[str, ...]
    types: tuple[ValueType, ...]
    kinds: tuple[Kind, ...] = field(compare=False, repr=False)
    places: Mapping[tuple[str, ValueType], int] = field(compare=False, repr=False)
    """Where the values of a feature of that type stand."""

    @classmethod
    def of(cls, names: Sequence[str], types: Sequence[ValueType]) -> Layout:
        """The layout of features by name and Feast type."""
        kinds = tuple(kind_of(value_type) for value_type in types)
        places = {each: place for place, each in enumerate(zip(names, types, strict=True))}
        return cls(tuple(names), tuple(types), kinds, places)

    @classmethod
    def of_fields(cls, fields: Sequence[Field]) -> Layout:
        """The layout of a view's features."""
        return cls.of([f.name for f in fields], [f.dtype.to_value_type() for f in fields])

    @classmethod
    def loaded(cls, written: Sequence[Sequence[str]]) -> Layout:
        """The reverse of `written`."""
        return cls.of([name for name, _ in written], [ValueType[kind] for _, kind in written])

    def written(self) -> list[tuple[str, str]]:
        """Names and types as plain values, to be kept beside the rows."""
        return [(n, t.name) for n, t in zip(self.names, self.types, strict=True)]

    def columns(self, batch: pa.RecordBatch) -> list[list[Any]]:
        """The batch's features as what is stored, one list a feature.

        Raises RetrievalError, naming the feature, for values that its type cannot hold.
        """
        stored = []
        for name, value_type, kind in zip(self.names, self.types, self.kinds, strict=True):
            column = batch.column(name)
            try:
                stored.append(_stored_column(column, kind))
            except (pa.ArrowException, ArithmeticError, ValueError, TypeError) as error:
                raise RetrievalError(
                    f"feature {name} is {value_type.name}, and its column of {column.type} has "
                    f"values that this cannot hold: {error}"
                ) from error
        return stored

    def of_protos(self, values: Mapping[str, Value]) -> list[Any]:
        """Feast's messages of one row as what is stored; a feature that is left out is NULL."""
        return [
            _stored_proto(values[name], kind) if name in values else None
            for name, kind in zip(self.names, self.kinds, strict=True)
        ]


def _stored_column(column: pa.Array, kind: Kind) -> list[Any]:
    """A column as what MessagePack holds; None where it is NULL."""
    if kind.arrow is not None and column.type != kind.arrow:
        narrows = pa.types.is_timestamp(kind.arrow) or pa.types.is_floating(kind.arrow)
        column = column.cast(kind.arrow, safe=not narrows)
    if kind.arrow is not None and pa.types.is_timestamp(kind.arrow):
        us: list[Any] = column.cast(pa.int64()).to_pylist()
        if (late := max((v for v in us if v is not None), key=abs, default=0)) and late:
            instant(late)  # an infinity, or a year that Python has not
        return us
    store = kind.store
    if store is None and column.null_count == 0 and pa.types.is_primitive(column.type):
        return column.to_numpy(zero_copy_only=False).tolist()  # type: ignore[no-any-return]
    values: list[Any] = column.to_pylist()
    if kind.proto.endswith("_list_val") and any(v is not None and None in v for v in values):
        raise ValueError("a list has a NULL in it")
    if store is None:
        return values
    return [None if value is None else store(value) for value in values]


def _stored_proto(value: Value, kind: Kind) -> Any:
    found = value.WhichOneof("val")
    if found is None:
        return None
    if not kind.proto:
        return value.SerializeToString()
    held = getattr(value, found)
    held = list(held.val) if hasattr(held, "val") else held
    return kind.of_proto(held) if kind.of_proto else held


def to_proto(stored: Any, kind: Kind) -> Value:
    """Feast's message of a stored value."""
    if stored is None:
        return Value()
    message = Value()
    if not kind.proto:
        message.ParseFromString(stored)
        return message
    held = kind.to_proto(stored) if kind.to_proto else stored
    if kind.proto.endswith("_list_val"):
        getattr(message, kind.proto).val.extend(held)
    else:
        setattr(message, kind.proto, held)
    return message


def pack(event_us: int, created_us: int, layout: int, pushed: bool, values: Sequence[Any]) -> bytes:
    """One row as bytes."""
    return _encode((event_us, created_us, layout, pushed, *values))


def pack_columns(
    event_us: Iterable[int],
    created_us: Iterable[int | None],
    layout: int,
    columns: Sequence[Sequence[Any]],
) -> list[bytes]:
    """Rows that were not pushed, from columns."""
    created = (NEVER if us is None else us for us in created_us)
    rows = zip(event_us, created, repeat(layout), repeat(False), *columns, strict=False)
    return [_encode(row) for row in rows]


def whole(row: bytes) -> list[Any]:
    """The header's parts and the stored values, in one list."""
    return _decode(row)  # type: ignore[no-any-return]


def header(row: bytes) -> tuple[int, int, int, bool]:
    """Event time, created time, layout and whether it was pushed."""
    event_us, created_us, layout, pushed = _decode(row)[:HEADER]
    return event_us, created_us, layout, pushed


def unpack(row: bytes) -> list[Any]:
    """The stored values of a row, in the order of its layout."""
    return _decode(row)[HEADER:]  # type: ignore[no-any-return]


# --- entity keys -------------------------------------------------------------------------------

Key = tuple[Any, ...]

_KEY_PROTOS = ("string_val", "bytes_val", "int32_val", "int64_val", "unix_timestamp_val")
_BOUNDS = {ValueType.INT32: 2**31, ValueType.INT64: 2**63}
_KEY_TYPES: dict[ValueType, tuple[type, str]] = {
    ValueType.STRING: (str, "text"),
    ValueType.BYTES: (bytes, "bytes"),
    ValueType.INT32: (int, "a whole number from -2**31 to 2**31 - 1"),
    ValueType.INT64: (int, "a whole number from -2**63 to 2**63 - 1"),
    ValueType.UNIX_TIMESTAMP: (datetime, "a datetime"),
}


LONGEST_KEY = 480
"""In bytes: LMDB takes 511, and the table's name needs some of them."""


def pack_key(parts: Sequence[Any]) -> bytes:
    """The bytes of an entity key, its parts in the order of their join keys' names.

    A key too long for LMDB is kept by its start and its SHA-256.
    """
    return _shortened(_encode(parts))


def _shortened(key: bytes) -> bytes:
    if len(key) <= LONGEST_KEY:
        return key
    return key[: LONGEST_KEY - 32] + hashlib.sha256(key).digest()


def key_of_proto(key: EntityKey) -> bytes | None:
    """The bytes of Feast's entity key; None if a part of it is NULL."""
    parts = []
    for _, value in sorted(zip(key.join_keys, key.entity_values, strict=True)):
        found = value.WhichOneof("val")
        if found is None:
            return None
        if found not in _KEY_PROTOS:
            raise EntityKeyError(
                f"a join key holds {found}. Expected text, bytes, an integer or a time."
            )
        parts.append(getattr(value, found))
    return pack_key(parts)


def key_columns(batch: pa.RecordBatch, keys: Mapping[str, ValueType]) -> list[bytes]:
    """The bytes of each row's entity key; the columns hold no NULL.

    Raises RetrievalError for a column that is not of its key's type.
    """
    columns = []
    for name, value_type in sorted(keys.items()):
        column = batch.column(name)
        wanted = KINDS[value_type].arrow if value_type in _KEY_TYPES else None
        alike = next((is_ for is_ in _ALIKE if wanted is not None and is_(wanted)), None)
        if wanted is None or alike is None or not alike(column.type):
            raise RetrievalError(
                f"join key {name} is {value_type.name}, and its column is {column.type}. Cast the "
                "column to the key's type, or declare the key of the column's."
            )
        try:
            column = column.cast(wanted)
            if pa.types.is_timestamp(wanted):  # Feast's key has whole seconds
                column = column.cast(pa.timestamp("s", "UTC")).cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise RetrievalError(
                f"join key {name} is {value_type.name}, which cannot hold all of its column: "
                f"{error}"
            ) from error
        columns.append(column.to_pylist())
    return pack_keys(zip(*columns, strict=True))


_ALIKE = (
    pa.types.is_integer,
    lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    lambda kind: pa.types.is_binary(kind) or pa.types.is_large_binary(kind),
    pa.types.is_timestamp,
)


def pack_keys(parts: Iterable[Sequence[Any]]) -> list[bytes]:
    """`pack_key` of each."""
    keys = [_encode(each) for each in parts]
    return list(map(_shortened, keys)) if max(map(len, keys), default=0) > LONGEST_KEY else keys


def checked_key(name: str, value_type: ValueType, values: Sequence[Any]) -> Sequence[Any]:
    """A request's values of one join key as they are stored; NULL stays None.

    Raises EntityKeyError, naming the key and the row, for a value that is not of the key's type:
    1.9 or True or a text for an integer, an integer its type cannot hold, a number for a text.
    """
    if value_type not in _KEY_TYPES:
        return values
    fits, expected = _KEY_TYPES[value_type]
    if fits is str and set(map(type, values)) <= {str, type(None)}:
        return values
    bound: Any = _BOUNDS.get(value_type)
    for row, value in enumerate(values):
        if value is None:
            continue
        if type(value) is not fits:
            plain = _plain(value)
            if type(plain) is fits:
                return checked_key(name, value_type, [_plain(each) for each in values])
            if not isinstance(value, fits) or isinstance(value, bool):
                raise EntityKeyError(
                    f"row {row}: {name} is {value!r} ({type(value).__name__}). Expected {expected}."
                )
        if bound is not None and not -bound <= value < bound:
            raise EntityKeyError(
                f"row {row}: {name} is {value}, which {value_type.name.lower()} cannot hold. "
                f"Expected {expected}."
            )
    if value_type == ValueType.UNIX_TIMESTAMP:
        return [None if value is None else micros(value) // 10**6 for value in values]
    return values


def _plain(value: Any) -> Any:
    """NumPy's scalars and Feast's messages as Python's own values; other values as they are."""
    if isinstance(value, Value_pb2.Value):
        found = value.WhichOneof("val")
        return None if found is None else getattr(value, found)
    return value.item() if hasattr(value, "item") and hasattr(value, "dtype") else value
