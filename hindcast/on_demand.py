"""On-demand features written once, over columns, for training frames and single requests alike.

Feast calls the function of a pandas-mode on-demand view with a DataFrame, which costs
milliseconds for one row. A view with the tag `TAG` promises that its function also takes a plain
dict of NumPy arrays; `OnlineReader` then calls it so. `Columns` makes both look the same. Feast
keeps the function's source text and runs it elsewhere, so it must import this module in its body:

    def flight_context(inputs: pd.DataFrame) -> pd.DataFrame:
        from hindcast.on_demand import Columns

        columns = Columns(inputs)
        gap = columns.times("sched_dep_at") - columns.times("last_arrival_at")
        return columns.result({"slack_min": minutes(gap)})

Not for features that can be computed before T: those are dbt models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
from feast.value_type import ValueType

from hindcast.packed import instant, micros

TAG = {"hindcast": "columns"}
"""The tag of an on-demand view whose function takes a dict of NumPy arrays too."""

_NUMBERS = (
    ValueType.INT32,
    ValueType.INT64,
    ValueType.FLOAT,
    ValueType.DOUBLE,
    ValueType.BOOL,
)
_NAT = np.iinfo(np.int64).min
_QUARTER = 15 * 60 * 10**6  # no zone has changed its clock at another time since 1970


class Columns:
    """The inputs of an on-demand function, by name: a DataFrame, or a dict of NumPy arrays."""

    def __init__(self, inputs: pd.DataFrame | Mapping[str, np.ndarray]) -> None:
        """Nothing is converted yet."""
        self._inputs = inputs

    def times(self, name: str) -> np.ndarray:
        """Instants as datetime64[us] in UTC; NaT where missing."""
        values = self._inputs[name]
        if isinstance(values, np.ndarray):
            return values
        utc = pd.to_datetime(values, utc=True)
        return utc.dt.tz_localize(None).to_numpy("datetime64[us]")

    def numbers(self, name: str) -> np.ndarray:
        """Numbers as float64; NaN where missing."""
        values = self._inputs[name]
        if isinstance(values, np.ndarray):
            return values
        return pd.to_numeric(values).to_numpy("float64", na_value=np.nan)

    def result(self, outputs: Mapping[str, np.ndarray]) -> Any:
        """The outputs in the form of the inputs."""
        if isinstance(self._inputs, pd.DataFrame):
            return pd.DataFrame(dict(outputs), index=self._inputs.index)
        return outputs


class LazyArrays(dict[str, np.ndarray]):
    """A dict of arrays that are made when they are asked for: most inputs never are.

    `sources` are, by name, a function and what to call it with.
    """

    def __init__(
        self, sources: Mapping[str, tuple[Callable[[Sequence[Any]], np.ndarray], Sequence[Any]]]
    ) -> None:
        """Nothing is made yet."""
        self._sources = sources

    def __missing__(self, name: str) -> np.ndarray:
        """Make an array and keep it."""
        make, values = self._sources[name]
        self[name] = made = make(values)
        return made


def minutes(gap: np.ndarray) -> np.ndarray:
    """A timedelta64 in minutes as float64; NaN for NaT."""
    quotient: np.ndarray = gap / np.timedelta64(60_000_000, "us")
    return quotient


def local(times: np.ndarray, zone: str) -> np.ndarray:
    """Instants (datetime64[us], UTC) as the wall clock of a zone shows them."""
    us = times.astype("datetime64[us]").view("int64")
    quarters, places = np.unique(us // _QUARTER, return_inverse=True)
    offsets = np.array(
        [0 if q == _NAT // _QUARTER else _offset(q * _QUARTER, zone) for q in quarters.tolist()],
        dtype="int64",
    )
    shown: np.ndarray = times + offsets[places].view("timedelta64[us]")
    return shown


@lru_cache(maxsize=100_000)
def _offset(us: int, zone: str) -> int:
    """A zone's offset from UTC at an instant, both in microseconds."""
    offset = instant(us).astimezone(ZoneInfo(zone)).utcoffset()
    assert offset is not None
    return round(offset.total_seconds() * 10**6)


_kept: dict[str, Any] = {}


def once(name: str, make: Callable[[], Any]) -> Any:
    """What `make` gives, made once in a process: for tables that a function looks things up in."""
    if name not in _kept:
        _kept[name] = make()
    return _kept[name]


def array_maker(kind: ValueType) -> Callable[[Sequence[Any]], np.ndarray]:
    """What makes of Python values (or stored microseconds) what `Columns` takes from a dict."""
    if kind is ValueType.UNIX_TIMESTAMP:
        return _instants
    return _numbers if kind in _NUMBERS else _objects


def _instants(values: Sequence[Any]) -> np.ndarray:
    us = [_NAT if v is None else v if type(v) is int else micros(v) for v in values]
    return np.array(us, dtype="int64").view("datetime64[us]")


def _numbers(values: Sequence[Any]) -> np.ndarray:
    return np.array(values, dtype="float64")


def _objects(values: Sequence[Any]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def values_of(made: Any, kind: ValueType) -> list[Any]:
    """A computed column as Python values of its Feast type, None where it is missing."""
    values = made.tolist() if isinstance(made, np.ndarray) else list(made)
    if kind in (ValueType.INT32, ValueType.INT64):
        return [None if v is None or v != v else int(v) for v in values]
    if kind in (ValueType.FLOAT, ValueType.DOUBLE):
        return [None if v is None or v != v else float(v) for v in values]
    if kind is ValueType.BOOL:
        return [None if v is None or v != v else bool(v) for v in values]
    if kind is ValueType.UNIX_TIMESTAMP:
        return [None if v is None or v is pd.NaT else _utc(v) for v in values]
    return [None if v is None or v is pd.NaT else v for v in values]


def _utc(value: Any) -> datetime:
    moment: datetime = value.to_pydatetime() if isinstance(value, pd.Timestamp) else value
    return moment.replace(tzinfo=moment.tzinfo or UTC)
