"""Read a feature service's values from a packed online store without Feast's per-value objects.

    reader = OnlineReader(FeatureStore("feature_repo"), "late_arrival")
    rows = reader.read({"origin": ["JFK"], "dest": ["LAX"], ...})

The answers are those of `store.get_online_features` over the same store, value for value, but for
times, which keep their microseconds here (Feast's messages hold whole seconds). All views are read
as of one instant. Not for writing, and not for services of other online stores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureStore, FeatureView, Field, OnDemandFeatureView
from feast.errors import FeatureServiceNotFoundException, FeatureViewNotFoundException
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.types import FeastType
from feast.value_type import ValueType

from hindcast.errors import MissingInputError, RetrievalError
from hindcast.on_demand import TAG, LazyArrays, array_maker, values_of
from hindcast.online_store import (
    PackedOnlineStore,
    Status,
    oldest_to_serve,
    read_state,
    table_name,
)
from hindcast.packed import (
    HEADER,
    Layout,
    checked_key,
    instant,
    kind_of,
    pack_key,
    pack_keys,
    whole,
)

Load = Callable[[Any], Any] | None
Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class FieldSpec:
    """A feature of the service: its name in the answer, its view there, and its Feast type."""

    name: str
    view: str
    dtype: FeastType


@dataclass(frozen=True)
class OnlineRows:
    """What one read gave; every list has one element a row.

    `values`: a feature's Python values, None where it is missing. `statuses` and `event_us`: of
    each view, whether its row is served, and the row's event time (known_at) in microseconds since
    1970, None where there is no row. `as_of`: the instant up to which a view was materialized.
    `snapshots`: the published snapshot it was materialized from.
    """

    values: dict[str, list[Any]]
    statuses: dict[str, list[Status]]
    event_us: dict[str, list[int | None]]
    as_of: dict[str, datetime | None]
    snapshots: dict[str, str | None]

    @property
    def snapshot(self) -> str | None:
        """The snapshot that every view was materialized from, None if they differ."""
        found = set(self.snapshots.values())
        return found.pop() if len(found) == 1 else None


@dataclass(frozen=True)
class _Read:
    """One view as the service takes it: its table, its keys in the request, its features."""

    name: str
    view: FeatureView
    table: str
    keys: tuple[tuple[str, ValueType], ...]
    layout: Layout
    """The view's features as the registry has them."""
    features: tuple[tuple[str, str, Load], ...]
    """Each feature's name in the table and in the answer, and what makes values of it."""

    def packed_keys(self, columns: Mapping[str, Sequence[Any]], rows: int) -> list[bytes | None]:
        """The key of each row as it is stored, None where a part of it is NULL."""
        if not self.keys:
            return [pack_key((DUMMY_ENTITY_VAL,))] * rows
        asked = [columns[name] for name, _ in self.keys]
        parts = zip(*asked, strict=True)
        if any(None in column for column in asked):
            return [None if None in part else pack_key(part) for part in parts]
        return [*pack_keys(parts)]


@dataclass(frozen=True)
class _OnDemand:
    """One on-demand view: what it takes, and what the answer has of it."""

    view: OnDemandFeatureView
    inputs: tuple[tuple[str, str, Callable[[Sequence[Any]], np.ndarray], Load], ...]
    """Each input's view ("": the request), its name, and what makes arrays and values of it."""
    outputs: tuple[tuple[str, str, ValueType], ...]
    """Each output's name, its name in the answer, and its type."""
    takes_arrays: bool


class OnlineReader:
    """Reads one feature service. Safe to share between threads.

    `keys` are the join keys a request must have, `request` the columns that on-demand views take
    from it, `features` what the answer has, in order.
    """

    def __init__(
        self, store: FeatureStore, service: str, *, full_feature_names: bool = False
    ) -> None:
        """Look the service up in the registry.

        Raises MissingInputError if it is not registered, RetrievalError if the repository's online
        store is not a packed one or two features have one name.
        """
        online = store._get_provider().online_store
        if not isinstance(online, PackedOnlineStore):
            raise RetrievalError(
                f"the online store is {type(online).__name__}. Expected one of "
                "hindcast.online_store: set its type in feature_store.yaml."
            )
        self._store, self._config = store, store.config
        self._engine = online.engine(store.config)
        try:
            projections = store.get_feature_service(service).feature_view_projections
        except FeatureServiceNotFoundException as error:
            raise MissingInputError(
                f"Feast knows no feature service {service}: run `feast apply` first."
            ) from error
        self.features: dict[str, FieldSpec] = {}
        self.request: dict[str, FeastType] = {}
        self._reads: dict[str, _Read] = {}
        self._on_demand: list[_OnDemand] = []
        self._prefixed = full_feature_names
        on_demand = {view.name: view for view in store.list_on_demand_feature_views()}
        for projection in projections:
            if projection.name not in on_demand:
                try:
                    view = store.get_feature_view(projection.name).with_projection(projection)
                except FeatureViewNotFoundException as error:
                    raise MissingInputError(
                        f"feature service {service} names {projection.name}, which Feast does not "
                        "know: run `feast apply`."
                    ) from error
                self._add_read(view, [(f.name, f.dtype) for f in projection.features])
        for projection in projections:
            if projection.name in on_demand:
                self._add_on_demand(on_demand[projection.name].with_projection(projection))
        self.keys = tuple(
            dict.fromkeys(name for read in self._reads.values() for name, _ in read.keys)
        )
        self._states: dict[tuple[str, bytes], _State] = {}

    def _add_read(self, view: FeatureView, features: list[tuple[str, FeastType]]) -> None:
        """A view whose features (by name and type) are in the answer."""
        name = view.projection.name_to_use()
        answered = [
            (feature, self._named(name, feature, dtype), kind_of(dtype.to_value_type()).load)
            for feature, dtype in features
        ]
        mapped = view.projection.join_key_map
        keys = sorted(
            (field.name, field.dtype.to_value_type())
            for field in view.entity_columns
            if field.name != DUMMY_ENTITY_ID
        )
        self._reads[name] = _Read(
            name,
            view,
            table_name(self._config, view),
            tuple((mapped.get(key, key), kind) for key, kind in keys),
            Layout.of_fields(view.features),
            tuple(answered),
        )

    def _add_on_demand(self, view: OnDemandFeatureView) -> None:
        if view.write_to_online_store:
            raise RetrievalError(
                f"on-demand view {view.name} is written to the online store, and not computed on "
                "demand. Read its service by get_online_features."
            )
        inputs = []
        for source in view.source_feature_view_projections.values():
            name = source.name_to_use()
            if name not in self._reads:
                read = self._store.get_feature_view(source.name).with_projection(source)
                self._add_read(read, [])
            inputs += [(name, *_input(field)) for field in source.features]
        for source in view.source_request_sources.values():
            self.request |= {field.name: field.dtype for field in source.schema}
            inputs += [("", *_input(field)) for field in source.schema]
        name = view.projection.name_to_use()
        outputs = tuple(
            (f.name, self._named(name, f.name, f.dtype), f.dtype.to_value_type())
            for f in view.projection.features
        )
        takes_arrays = view.mode == "pandas" and TAG.items() <= view.tags.items()
        self._on_demand.append(_OnDemand(view, tuple(inputs), outputs, takes_arrays))

    def _named(self, view: str, feature: str, dtype: FeastType) -> str:
        """The feature's name in the answer, noted down."""
        name = f"{view}__{feature}" if self._prefixed else feature
        if name in self.features:
            raise RetrievalError(
                f"{view} and {self.features[name].view} both have a feature {name}. "
                "Read them with full_feature_names."
            )
        self.features[name] = FieldSpec(name, view, dtype)
        return name

    def read(self, columns: Mapping[str, Sequence[Any]]) -> OnlineRows:
        """The features of entities given by columns: the join keys and the request columns.

        Other columns are ignored. A NULL key has no values. Raises EntityKeyError for a key of
        the wrong type, RetrievalError for a column that is missing or of another length,
        OnlineStoreUnavailableError where the store cannot be read.
        """
        columns, count = self._checked(columns)
        reads = list(self._reads.values())
        keys = [read.packed_keys(columns, count) for read in reads]
        wanted = [
            (read.table, [key for key in asked if key is not None])
            for read, asked in zip(reads, keys, strict=True)
        ]
        answer = OnlineRows({}, {}, {}, {}, {})
        stored: dict[str, Columns] = {}
        for read, asked, (description, rows) in zip(
            reads, keys, self._engine.read(wanted), strict=True
        ):
            state = self._state(read, description)
            answer.as_of[read.name] = state.until
            answer.snapshots[read.name] = state.snapshot
            known = rows if description else [None] * len(rows)
            stored[read.name] = self._take(read, asked, known, state, answer)
        for view in self._on_demand:
            self._compute(view, columns, stored, answer)
        return answer

    @property
    def ttls(self) -> dict[str, timedelta]:
        """The TTL of every view that is read, by the name it is read under; zero is unlimited."""
        return {name: read.view.ttl or timedelta(0) for name, read in self._reads.items()}

    def check(self) -> None:
        """Raise OnlineStoreUnavailableError if the store cannot be read now."""
        self._engine.read([])

    def unfilled(self) -> list[str]:
        """The views of which nothing was ever stored. Raises OnlineStoreUnavailableError."""
        reads = self._reads.values()
        found = self._engine.read([(read.table, ()) for read in reads])
        return [read.name for read, (kept, _) in zip(reads, found, strict=True) if not kept]

    def close(self) -> None:
        """Let go of files and connections; the reader may be used again."""
        self._engine.close()

    def _checked(
        self, columns: Mapping[str, Sequence[Any]]
    ) -> tuple[dict[str, Sequence[Any]], int]:
        """The columns that are needed, keys as they are stored, and how many rows they have."""
        needed = [*self.keys, *self.request]
        missing = [name for name in needed if name not in columns]
        if missing:
            raise RetrievalError(
                f"the request lacks {', '.join(missing)}. Expected {', '.join(needed)}."
            )
        lengths = {name: len(columns[name]) for name in needed}
        if len(set(lengths.values())) > 1:
            raise RetrievalError(f"the request's columns differ in length: {lengths}.")
        checked = {name: columns[name] for name in needed}
        types = {name: kind for read in self._reads.values() for name, kind in read.keys}
        checked |= {name: checked_key(name, kind, columns[name]) for name, kind in types.items()}
        count = next(iter(lengths.values())) if lengths else len(next(iter(columns.values()), ()))
        return checked, count

    def _state(self, read: _Read, description: bytes | None) -> _State:
        if not description:
            return _State(None, None, None, [])
        cached = self._states.get((read.name, description))
        if cached is None or cached.until is None:  # T may be in the registry, and move there
            state, layouts = read_state(description)
            oldest = oldest_to_serve(read.view, state, self._store.registry, self._config.project)
            cached = self._states[read.name, description] = _State(
                None if state.until is None else instant(state.until),
                state.snapshot,
                oldest,
                [None if each == read.layout else _order(read.layout, each) for each in layouts],
            )
            for old in [key for key in self._states if key[0] == read.name][:-4]:
                del self._states[old]
        return cached

    def _take(
        self,
        read: _Read,
        keys: list[bytes | None],
        rows: list[bytes | None],
        state: _State,
        answer: OnlineRows,
    ) -> Columns:
        """Add a view's features to the answer; the stored values of all it has, by name."""
        width = len(read.layout.names)
        nothing = [None] * (HEADER + width)
        there: Iterable[bytes | None] = rows
        if len(rows) < len(keys):
            rest = iter(rows)
            there = (None if key is None else next(rest) for key in keys)
        nobody = nothing, Status.NOT_FOUND, None
        # many rows of a request are of one entity: each is unpacked once
        unpacked: dict[bytes | None, tuple[list[Any], Status, int | None]] = {None: nobody}
        taken = []
        for row in there:
            found = unpacked.get(row)
            if found is None and row is not None:
                found = unpacked[row] = _unpacked(row, state, nothing)
            taken.append(found or nobody)
        stored, statuses, event_us = map(list, zip(*taken, strict=True)) if taken else ([], [], [])
        answer.statuses[read.name], answer.event_us[read.name] = statuses, event_us
        by_column = list(zip(*stored, strict=True))[HEADER:] or [()] * width
        columns = dict(zip(read.layout.names, by_column, strict=True))
        for feature, name, load in read.features:
            answer.values[name] = _loaded(columns[feature], load)
        return columns

    def _compute(
        self,
        on_demand: _OnDemand,
        columns: Mapping[str, Sequence[Any]],
        stored: Mapping[str, Columns],
        answer: OnlineRows,
    ) -> None:
        """Add an on-demand view's features to the answer."""
        view = on_demand.view
        if on_demand.takes_arrays:
            arrays = LazyArrays(
                {
                    name: (to_array, (stored[source] if source else columns)[name])
                    for source, name, to_array, _ in on_demand.inputs
                }
            )
            made = view.feature_transformation.udf(arrays)
            for feature, name, kind in on_demand.outputs:
                answer.values[name] = values_of(made[feature], kind)
            return
        plain: dict[str, list[Any]] = {}
        for source, name, _, load in on_demand.inputs:
            if source:
                plain[f"{source}__{name}"] = _loaded(stored[source][name], load)  # as Feast has it
            else:
                plain[name] = list(columns[name])
        if view.mode == "python":
            made = view.transform_dict(plain)
        else:
            made = view.transform_arrow(pa.Table.from_pydict(plain)).to_pydict()
        for feature, name, kind in on_demand.outputs:
            answer.values[name] = values_of(made[feature], kind)


@dataclass(frozen=True)
class _State:
    """What is known of a view's table: T, the snapshot, and the oldest time to serve.

    `orders`: for each layout, where a row has the view's features, None if just as the view.
    """

    until: datetime | None
    snapshot: str | None
    oldest: int | None
    orders: list[list[int | None] | None]


def _unpacked(
    row: bytes, state: _State, nothing: list[Any]
) -> tuple[list[Any], Status, int | None]:
    """A row's header and values in the view's order, whether it is served, and its time."""
    values = whole(row)
    event_us: int = values[0]
    if state.oldest is not None and event_us < state.oldest:
        return nothing, Status.OUTSIDE_MAX_AGE, event_us
    order = state.orders[values[2]]
    if order is not None:
        values = [*values[:HEADER], *(None if at is None else values[at] for at in order)]
    return values, Status.PRESENT, event_us


def _order(wanted: Layout, found: Layout) -> list[int | None]:
    """Where a row of one layout has the features of another; None: not at all, or as a type of
    other values."""
    places = (found.places.get(each) for each in zip(wanted.names, wanted.types, strict=True))
    return [None if place is None else HEADER + place for place in places]


def _input(field: Field) -> tuple[str, Callable[[Sequence[Any]], np.ndarray], Load]:
    """An input's name, and what makes arrays and values of what is stored."""
    kind = field.dtype.to_value_type()
    return field.name, array_maker(kind), kind_of(kind).load


def _loaded(stored: Sequence[Any], load: Load) -> list[Any]:
    """Stored values as the Python values that Feast gives."""
    return list(stored) if load is None else [None if v is None else load(v) for v in stored]
