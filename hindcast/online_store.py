"""Feast online stores that keep one packed row per entity and feature view.

Use one with `online_store: {type: hindcast.online_store.LmdbOnlineStore, path: ...}` (embedded,
nothing to start) or `hindcast.online_store.RedisOnlineStore`, and beside it
`batch_engine: {type: hindcast.compute_engine.ArrowEngine}`, which fills it column-wise. Every
client of Feast reads them; `hindcast.online.OnlineReader` reads them without Feast's objects. Not
for vector search or Feast's precomputed feature vectors. How rows are packed is in `packed`, where
they are kept in `kv`.

What they promise:

- **The TTL holds online**, by the rule of the offline join: T is the latest instant up to which a
  view was materialized, and a value older than T - ttl is NULL, with status OUTSIDE_MAX_AGE. A view
  that was only pushed to has no T: its values are served at any age.
- **What was materialized is what the source says.** A row that the source no longer has goes; a
  correction with the same event time replaces; an older range never replaces what is newer. What
  was pushed stays until something newer comes.
- **An entity is wholly old or wholly new**, whenever a run is killed: its row is one value. With
  LMDB that holds for a whole view.
- **A NULL key has no values**; a key of the wrong type is refused by name (Feast's stores cut 1.9
  to 1).
- **Times are exact to the microsecond**, but for what Feast's own messages hold: whole seconds.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
from feast import Entity, FeatureView
from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.registry.base_registry import BaseRegistry
from feast.online_response import OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.utils import _get_table_entity_values
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import StrictInt, StrictStr

from hindcast.errors import OnlineStoreUnavailableError, RetrievalError
from hindcast.kv import Engine, LmdbEngine, Writer
from hindcast.packed import (
    NEVER,
    Layout,
    checked_key,
    header,
    instant,
    key_columns,
    key_of_proto,
    micros,
    pack,
    pack_columns,
    to_proto,
    unpack,
)
from hindcast.sources import absolute

BATCH = 20_000
FORM = 1
"""Of the rows; another number when `packed` changes what it writes."""

# The views that reach `_read_features_per_fv` lose their materialization times on the way (a
# projection is a copy without them), so they are looked up in the registry of the request.
_registry_of_request: ContextVar[BaseRegistry | None] = ContextVar("registry", default=None)


class Status(IntEnum):
    """Whether an entity's row of a view is served, by Feast's numbers."""

    PRESENT = FieldStatus.PRESENT
    NOT_FOUND = FieldStatus.NOT_FOUND
    OUTSIDE_MAX_AGE = FieldStatus.OUTSIDE_MAX_AGE


class TableState(msgspec.Struct):
    """What is kept beside the rows of a view.

    `until` is T in microseconds; `source` and `snapshot` say from what it was materialized last;
    `form` is that of the rows, so that rows of another version of Hindcast are not misread.
    """

    form: int = 0
    until: int | None = None
    source: str | None = None
    snapshot: str | None = None
    layouts: list[list[tuple[str, str]]] = []

    def number(self, layout: Layout) -> int:
        """The layout's number, a new one if rows are written with it for the first time."""
        written = layout.written()
        if written not in self.layouts:
            self.layouts.append(written)
        return self.layouts.index(written)


_write_state = msgspec.msgpack.Encoder().encode


@lru_cache(maxsize=1024)
def read_state(description: bytes) -> tuple[TableState, tuple[Layout, ...]]:
    """A table's description as it is kept. Raises OnlineStoreUnavailableError for another form."""
    try:
        state = msgspec.msgpack.decode(description, type=TableState)
    except msgspec.DecodeError as error:
        raise OnlineStoreUnavailableError(
            "what the online store says of a view cannot be read: fill it anew with `feast "
            "materialize` and a start."
        ) from error
    if state.form != FORM:
        raise OnlineStoreUnavailableError(
            "the online store was filled by another version of Hindcast, whose rows are of another "
            "form: fill it anew with `feast materialize` and a start."
        )
    return state, tuple(Layout.loaded(layout) for layout in state.layouts)


@dataclass
class Loaded:
    """What one materialization of a view did, in entities."""

    entities: int = 0
    written: int = 0
    removed: int = 0


class TiesError(RetrievalError):
    """One entity came with several rows of the same time; nothing is lost, ask for ties."""


class RemovedError(RetrievalError):
    """Rows of the period are gone, and it is not all that could be served: what was there before
    them has to come in the same run. Nothing is removed yet, nothing is lost; load the whole."""


class PackedOnlineStore(OnlineStore):  # type: ignore[misc]  # Feast is untyped
    """What the stores share. See the module for what they promise."""

    @abstractmethod
    def engine(self, config: RepoConfig) -> Engine:
        """Where this repository's rows are kept."""

    def plan(self, config: RepoConfig, desired_registry_proto: Any) -> list[Any]:
        """Nothing for `feast plan` to list: Feast records the tables of its own stores only."""
        return []

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Forget the rows of views that are no more."""
        if tables_to_delete:
            self.engine(config).drop(table_name(config, view) for view in tables_to_delete)

    def teardown(
        self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]
    ) -> None:
        """Forget everything."""
        self.engine(config).drop(table_name(config, view) for view in tables)

    async def close(self) -> None:
        """Let go of nothing: engines are shared by the stores of a process."""

    def _check_versioned_read_support(self, grouped_refs: Any) -> None:
        """Versions of views are tables of their own."""

    # --- writing -------------------------------------------------------------------------------

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Store pushed rows; those older than what is there change nothing."""
        layout = Layout.of_fields(table.features)
        with self.engine(config).writing(table_name(config, table)) as writer:
            state = _state(writer)
            number = state.number(layout)
            newest: dict[bytes, bytes] = {}
            for entity_key, values, event_at, created_at in data:
                key = key_of_proto(entity_key)
                if key is None:
                    continue
                created = NEVER if created_at is None else micros(created_at)
                row = pack(micros(event_at), created, number, True, layout.of_protos(values))
                if key not in newest or header(row)[:2] >= header(newest[key])[:2]:
                    newest[key] = row
            stored = writer.get(list(newest))
            writer.put(
                {
                    key: row
                    for (key, row), old in zip(newest.items(), stored, strict=True)
                    if old is None or header(row)[:2] >= header(old)[:2]
                }
            )
            writer.describe(_write_state(state))
        if progress:
            progress(len(data))

    def takes_back(self, config: RepoConfig) -> bool:
        """Whether a load that fails leaves everything as it was."""
        return self.engine(config).takes_back

    def materialized_from(self, config: RepoConfig, view: FeatureView) -> TableState:
        """What is known of a view's last materialization."""
        with self.engine(config).writing(table_name(config, view)) as writer:
            return _state(writer)

    def load(
        self,
        config: RepoConfig,
        view: FeatureView,
        batches: Iterable[pa.RecordBatch],
        entities: int,
        period: tuple[datetime | None, datetime],
        origin: tuple[str | None, str | None],
        progress: Callable[[int], Any],
        *,
        is_whole: bool = True,
    ) -> Loaded:
        """Make the view's rows of a period what the batches say: each entity's newest row in it.

        `origin` is what they were read from: the stamp of the source, None if the period is not all
        that could be served, and the snapshot's id. Raises TiesError if there are more rows than
        `entities`; RemovedError if rows of the period are gone, unless it `is_whole`: so no reader
        finds nothing where there was a row before the one that went; RetrievalError for values
        that their type cannot hold.
        """
        layout = Layout.of_fields(view.features)
        keys = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
        source = view.batch_source
        named = source.field_mapping.get
        times = (
            named(source.timestamp_field, source.timestamp_field),
            named(source.created_timestamp_column, source.created_timestamp_column),
        )
        start, end = NEVER if period[0] is None else micros(period[0]), micros(period[1])
        done, seen = Loaded(), array("q")
        with self.engine(config).writing(table_name(config, view)) as writer:
            state = _state(writer)
            number = state.number(layout)
            writer.describe(_write_state(state))  # a row's layout is known before the row
            for batch in batches:
                packed = key_columns(batch, keys)
                new = _packed_rows(batch, packed, layout, number, times)
                if len(new) != batch.num_rows:
                    raise TiesError(f"{view.name}: an entity has several rows of one time")
                changed = _changed(new, writer.get(packed), end)
                writer.put(changed)
                seen.extend(map(hash, packed))
                done.entities += batch.num_rows
                done.written += len(changed)
                progress(batch.num_rows)
            if done.entities != entities:
                raise TiesError(f"{view.name}: an entity has several rows of one time")
            if writer.count() > done.entities:
                gone = _gone(writer, seen, start, end)
                if gone and not is_whole:
                    raise RemovedError(f"{view.name}: {len(gone):,} rows of the period are gone")
                writer.delete(gone)
                done.removed = len(gone)
            state.until = max(end, NEVER if state.until is None else state.until)
            state.source, state.snapshot = origin
            writer.describe(_write_state(state))
        return done

    # --- reading -------------------------------------------------------------------------------

    def get_online_features(
        self,
        config: RepoConfig,
        features: Any,
        entity_rows: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:
        """As in Feast, with the TTL applied and keys of the wrong type refused."""
        if isinstance(entity_rows, list):
            entity_rows = _by_column(entity_rows)
        entity_rows = _checked(entity_rows, self._types_of_keys(registry, project))
        token = _registry_of_request.set(registry)
        try:
            return super().get_online_features(
                config,
                features,
                entity_rows,
                registry,
                project,
                full_feature_names,
                include_feature_view_version_metadata,
            )
        finally:
            _registry_of_request.reset(token)

    def _types_of_keys(self, registry: BaseRegistry, project: str) -> dict[str, ValueType]:
        """As `_key_types`, looked up again when the registry's content is another."""
        content = getattr(registry, "cached_registry_proto", None)
        known, types = getattr(self, "_known_types", (None, {}))
        if content is None or known is not content:
            types = _key_types(registry, project)
            self._known_types = content, types
        return types

    def _read_features_per_fv(
        self,
        config: RepoConfig,
        grouped_refs: list[tuple[FeatureView, list[str]]],
        join_key_values: dict[str, list[Value]],
        entity_name_to_join_key_map: dict[str, str],
        online_features_response: Any,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> None:
        """Every view's rows in one read, so that all are as of one instant."""
        asked = []
        for view, _ in grouped_refs:
            by_key = _get_table_entity_values(view, entity_name_to_join_key_map, join_key_values)
            missing = set(view.join_keys) - set(by_key)
            if missing:
                raise RetrievalError(
                    f"feature view {view.name} needs {', '.join(sorted(missing))} of each entity. "
                    f"The request has {', '.join(join_key_values)}."
                )
            names = list(by_key)
            asked.append(
                [
                    key_of_proto(EntityKey(join_keys=names, entity_values=parts))
                    for parts in zip(*by_key.values(), strict=True)
                ]
            )
        answers = self._read(config, [view for view, _ in grouped_refs], asked)
        for (view, names), rows in zip(grouped_refs, answers, strict=True):
            _append(online_features_response, view, names, rows, full_feature_names)
            if include_feature_view_version_metadata:
                metadata = online_features_response.metadata.feature_view_metadata.add()
                metadata.name = view.projection.name_alias or view.projection.name
                metadata.version = getattr(view, "current_version_number", 0) or 0

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """One (event time, values) for each key, (None, None) where nothing is to be served."""
        (rows,) = self._read(config, [table], [[key_of_proto(key) for key in entity_keys]])
        wanted = _types(table, requested_features or [field.name for field in table.features])
        answer: list[tuple[datetime | None, dict[str, Value] | None]] = []
        for row in rows:
            if row.status is Status.PRESENT:
                answer.append((instant(row.event_us), row.protos(wanted)))
            else:
                answer.append((None, None))
        return answer

    def _read(
        self,
        config: RepoConfig,
        views: Sequence[FeatureView],
        asked: Sequence[Sequence[bytes | None]],
    ) -> list[list[_Row]]:
        wanted = [
            (table_name(config, view), [key for key in keys if key is not None])
            for view, keys in zip(views, asked, strict=True)
        ]
        answer = []
        for view, keys, (description, rows) in zip(
            views, asked, self.engine(config).read(wanted), strict=True
        ):
            state, layouts = read_state(description) if description else (TableState(), ())
            rows = rows if description else [None] * len(rows)
            oldest = oldest_to_serve(view, state, _registry_of_request.get(), config.project)
            found = iter(rows)
            answer.append(
                [_Row.of(None if key is None else next(found), oldest, layouts) for key in keys]
            )
        return answer


@dataclass(frozen=True)
class _Row:
    """One entity's row of a view, as it is to be served."""

    status: Status
    event_us: int
    layout: Layout | None = None
    stored: Sequence[Any] = ()

    @classmethod
    def of(cls, row: bytes | None, oldest: int | None, layouts: Sequence[Layout]) -> _Row:
        if row is None:
            return cls(Status.NOT_FOUND, 0)
        event_us, _, number, _ = header(row)
        if oldest is not None and event_us < oldest:
            return cls(Status.OUTSIDE_MAX_AGE, event_us)
        return cls(Status.PRESENT, event_us, layouts[number], unpack(row))

    def protos(self, wanted: Mapping[str, ValueType]) -> dict[str, Value]:
        """Feast's messages of those features asked for, by name and type, that the row has."""
        if self.layout is None:
            return {}
        places = ((name, self.layout.places.get((name, kind))) for name, kind in wanted.items())
        return {
            name: to_proto(self.stored[place], self.layout.kinds[place])
            for name, place in places
            if place is not None
        }


def _types(view: FeatureView, names: Iterable[str]) -> dict[str, ValueType]:
    """The types of a view's features by name."""
    types = {field.name: field.dtype.to_value_type() for field in view.features}
    return {name: types[name] for name in names if name in types}


def _append(
    response: Any, view: FeatureView, names: list[str], rows: list[_Row], full_names: bool
) -> None:
    """Add a view's features to Feast's answer."""
    prefix = f"{view.projection.name_to_use()}__" if full_names else ""
    response.metadata.feature_names.val.extend(prefix + name for name in names)
    times = [
        Timestamp(seconds=row.event_us // 10**6, nanos=row.event_us % 10**6 * 1000) for row in rows
    ]
    types = _types(view, names)
    protos = [row.protos(types) for row in rows]
    nothing = Value()
    for name in names:
        statuses = [
            Status.NOT_FOUND if row.status is Status.PRESENT and name not in values else row.status
            for row, values in zip(rows, protos, strict=True)
        ]
        response.results.append(
            GetOnlineFeaturesResponse.FeatureVector(
                values=[values.get(name, nothing) for values in protos],
                statuses=[status.value for status in statuses],
                event_timestamps=times,
            )
        )


def oldest_to_serve(
    view: FeatureView, state: TableState, registry: BaseRegistry | None, project: str
) -> int | None:
    """T - ttl in microseconds: rows with an earlier event time are past their TTL. None: no limit.

    Where another engine than ours wrote the rows, T is known to the registry only.
    """
    if not getattr(view, "ttl", None):
        return None
    until = state.until
    if until is None and registry is not None:
        known = registry.get_any_feature_view(view.name, project, allow_cache=True)
        until = known.most_recent_end_time and micros(known.most_recent_end_time)
    return None if until is None else until - int(view.ttl.total_seconds() * 10**6)


def table_name(config: RepoConfig, view: FeatureView) -> str:
    """The name of a view's table."""
    name: str = compute_table_id(
        config.project, view, config.registry.enable_online_feature_view_versioning
    )
    return name


def _state(writer: Writer) -> TableState:
    """A copy of what is kept beside the rows, to be changed and written back.

    Rows of another form are removed: they cannot be read.
    """
    description = writer.description()
    if description is not None:
        state = msgspec.msgpack.decode(description, type=TableState)
        if state.form == FORM:
            return state
        writer.delete([key for key, _ in writer.scan()])
    return TableState(form=FORM)


def _packed_rows(
    batch: pa.RecordBatch,
    keys: list[bytes],
    layout: Layout,
    number: int,
    times: tuple[str, str | None],
) -> dict[bytes, bytes]:
    """The rows of a batch by key."""
    events = _micros_of(batch.column(times[0]))
    created = _micros_of(batch.column(times[1])) if times[1] else repeat(None)
    rows = pack_columns(events, created, number, layout.columns(batch))
    return dict(zip(keys, rows, strict=True))


def _micros_of(column: pa.Array) -> list[Any]:
    return column.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_pylist()  # type: ignore[no-any-return]


def _changed(
    new: Mapping[bytes, bytes], stored: Sequence[bytes | None], end: int
) -> dict[bytes, bytes]:
    """The new rows that are to be stored: see "What was materialized" above."""
    changed = {}
    for (key, row), old in zip(new.items(), stored, strict=True):
        if old == row:
            continue
        if old is not None:
            event_us, created_us, _, pushed = header(old)
            if event_us > end or (pushed and (event_us, created_us) > header(row)[:2]):
                continue
        changed[key] = row
    return changed


def _gone(writer: Writer, seen: array[int], start: int, end: int) -> list[bytes]:
    """The keys of rows of the period that were materialized before and not seen this time."""
    known = np.sort(np.frombuffer(seen, dtype=np.int64)) if seen else np.empty(0, np.int64)
    gone: list[bytes] = []
    for key, row in writer.scan():
        event_us, _, _, pushed = header(row)
        if start <= event_us <= end and not pushed:
            at = np.searchsorted(known, hash(key))
            if at == len(known) or known[at] != hash(key):
                gone.append(key)
    return gone


def _by_column(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns. Raises RetrievalError if they do not all have the same names."""
    if not rows:
        raise RetrievalError("no entity was asked for. Give at least one row.")
    names = set(rows[0])
    for number, row in enumerate(rows):
        if set(row) != names:
            raise RetrievalError(
                f"row {number} has {', '.join(row)}. Expected {', '.join(rows[0])} as in the first."
            )
    return {name: [row[name] for row in rows] for name in rows[0]}


def _checked(columns: Any, types: Mapping[str, ValueType]) -> Any:
    """The request with every join key's values checked by its type."""
    return {
        name: checked_key(name, types[name], list(values.val if hasattr(values, "val") else values))
        if name in types
        else values
        for name, values in columns.items()
    }


def _key_types(registry: BaseRegistry, project: str) -> dict[str, ValueType]:
    """The type of every join key, and of every name that a feature service gives one."""
    types = {
        column.name: column.dtype.to_value_type()
        for view in registry.list_all_feature_views(project, allow_cache=True)
        for column in getattr(view, "entity_columns", ())
    }
    renamed = [
        pair
        for service in registry.list_feature_services(project, allow_cache=True)
        for projection in service.feature_view_projections
        for pair in projection.join_key_map.items()
    ]
    return types | {alias: types[key] for key, alias in renamed if key in types}


class LmdbOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """The `online_store:` section of `feature_store.yaml`."""

    type: Literal["hindcast.online_store.LmdbOnlineStore"] = "hindcast.online_store.LmdbOnlineStore"
    path: StrictStr = "../data/online"
    """The directory of the store; relative to `feature_store.yaml`."""
    size_limit: StrictInt = 64 * 2**30
    """The most bytes it may grow to. Nothing is reserved."""


class LmdbOnlineStore(PackedOnlineStore):
    """Keeps feature values in an embedded LMDB directory of this machine."""

    def engine(self, config: RepoConfig) -> Engine:
        """The directory's engine, one in each process."""
        options = config.online_store
        return LmdbEngine.at(Path(absolute(options.path, config)), options.size_limit)

    def teardown(
        self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]
    ) -> None:
        """Remove the directory."""
        engine = self.engine(config)
        assert isinstance(engine, LmdbEngine)
        engine.remove()


class RedisOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """The `online_store:` section of `feature_store.yaml`."""

    type: Literal["hindcast.online_store.RedisOnlineStore"] = (
        "hindcast.online_store.RedisOnlineStore"
    )
    url: StrictStr = "redis://127.0.0.1:6379/0"
    """Where the server is. Feast fills in `${REDIS_URL}` from the environment."""
    prefix: StrictStr = "hindcast"
    """What the names of all keys begin with."""
    timeout: float = 0.8
    """Seconds after which a call has failed."""


class RedisOnlineStore(PackedOnlineStore):
    """Keeps feature values on a Redis server."""

    def engine(self, config: RepoConfig) -> Engine:
        """The server's engine, one for each setting."""
        options = config.online_store
        return _redis_engine(options.url, options.prefix, options.timeout)


@lru_cache(maxsize=32)
def _redis_engine(url: str, prefix: str, timeout: float) -> Engine:
    from hindcast.kv_redis import RedisEngine  # needs an extra

    return RedisEngine(url, prefix, timeout)
