"""Feast's SQLite online store, serving what the point-in-time join gives at the same instant.

Use it with `online_store: {type: hindcast.online_store.SqliteOnlineStore, path: ...}`. It is
for one machine. It is not for vector search, and not for Feast's precomputed feature vectors,
which Feast serves by a rule of its own.

What differs from Feast's own store:

- **The TTL holds online.** A value older than T - ttl is served as missing (NULL), as the
  offline join leaves it out; T is the latest instant up to which its view was materialized.
  So a store materialized up to a moment of 2013 serves that moment. A view that was only
  pushed to has no T: its values are served at any age.
- **A NULL key has no values**, online as offline: such rows are neither stored nor found.
  Feast's store answers a NULL key with a TypeError.
- **Times are stored in UTC to the microsecond** (as seconds since 1970). Feast's store cuts
  them to seconds and reads them in the time zone of the process.
- **An older value never replaces a newer one**, in whatever order ranges are materialized;
  of equal times the last written stays. What this cannot see is history that was rewritten:
  a stored row that the source no longer has is served until a newer one comes or its TTL ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from feast import utils
from feast.feature_view import FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import compute_table_id, extract_text_and_num
from feast.infra.online_stores.sqlite import SqliteOnlineStore as FeastSqliteOnlineStore
from feast.infra.online_stores.sqlite import (
    SqliteOnlineStoreConfig as FeastSqliteOnlineStoreConfig,
)
from feast.infra.registry.base_registry import BaseRegistry
from feast.online_response import OnlineResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from pydantic import StrictStr

from hindcast.errors import RetrievalError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
KEYS_PER_QUERY = 10_000  # SQLite takes at most 32,766 parameters

# The views that reach `online_read` lose their materialization times on the way (a projection
# is a copy without them), so it looks them up in the registry that the request came with.
_registry_of_request: ContextVar[BaseRegistry | None] = ContextVar("registry", default=None)

StoredRow = tuple[datetime | None, dict[str, Value] | None]


class SqliteOnlineStoreConfig(FeastSqliteOnlineStoreConfig):  # type: ignore[misc]
    """The `online_store:` section of `feature_store.yaml`."""

    type: StrictStr = "hindcast.online_store.SqliteOnlineStore"
    enable_openai_compatible_store: Literal[False] = False


class SqliteOnlineStore(FeastSqliteOnlineStore):  # type: ignore[misc]
    """Serves feature values from one SQLite file. See the module for what it promises."""

    def plan(self, config: RepoConfig, desired_registry_proto: Any) -> list[Any]:
        """Nothing for `feast plan` to list: Feast records the tables of its own store only.

        With another `type`, it would show each of them as about to be created for ever.
        """
        return []

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
        """As in Feast, with the TTL applied."""
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
        """Feast's loop over the views, for keys that may be NULL."""
        for view, features in grouped_refs:
            by_key = utils._get_table_entity_values(
                view, entity_name_to_join_key_map, join_key_values
            )
            missing = set(view.join_keys) - set(by_key)
            if missing:
                raise RetrievalError(
                    f"feature view {view.name} needs {', '.join(sorted(missing))} of each entity. "
                    f"The request has {', '.join(join_key_values)}."
                )
            entities = [
                dict(zip(by_key, row, strict=True)) for row in zip(*by_key.values(), strict=True)
            ]
            keys = utils._get_entity_key_protos(entities)
            utils._populate_response_from_feature_data(
                features,
                self.online_read(config, view, keys, features),
                [[place] for place in range(len(keys))],
                online_features_response,
                full_feature_names,
                view,
                len(keys),
                include_feature_view_version_metadata,
            )

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[StoredRow]:
        """One (event time, values) for each key, (None, None) where nothing is to be served."""
        oldest = _oldest_to_serve(config, table)
        keys = [_serialized(key, config) for key in entity_keys]
        times: dict[bytes, datetime] = {}
        values: dict[bytes, dict[str, Value]] = {}
        wanted = list({key for key in keys if key is not None})
        for start in range(0, len(wanted), KEYS_PER_QUERY):
            batch = wanted[start : start + KEYS_PER_QUERY]
            rows = self._get_conn(config).execute(
                # Adding zero keeps Python from reading the number as a local time.
                f"select entity_key, feature_name, value, event_ts + 0 "
                f"from {_table(config, table)} "
                f"where entity_key in ({', '.join('?' * len(batch))})",
                batch,
            )
            for key, feature, value, seconds in rows:
                times[key] = EPOCH + timedelta(seconds=seconds)
                if oldest is None or times[key] >= oldest:
                    values.setdefault(key, {})[feature] = Value.FromString(value)
        return [
            (times[key], values[key]) if key is not None and key in values else (None, None)
            for key in keys
        ]

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Store the rows in one transaction; those older than what is there change nothing."""
        with self._get_conn(config) as connection:
            connection.executemany(
                f"insert into {_table(config, table)} as stored "
                "(entity_key, feature_name, value, value_text, event_ts, created_ts) "
                "values (?, ?, ?, ?, ?, ?) "
                "on conflict (entity_key, feature_name) do update set "
                "value = excluded.value, value_text = excluded.value_text, "
                "event_ts = excluded.event_ts, created_ts = excluded.created_ts "
                "where excluded.event_ts >= stored.event_ts",
                _cells(config, data),
            )
        if progress:
            progress(len(data))


def _cells(
    config: RepoConfig,
    data: Iterable[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
) -> Iterable[tuple[Any, ...]]:
    """One row of the table for each feature of each entity."""
    for entity_key, values, event_at, created_at in data:
        key = _serialized(entity_key, config)
        if key is None:
            continue
        event_ts = _seconds(event_at)
        created_ts = None if created_at is None else _seconds(created_at)
        for feature, value in values.items():
            text, _ = extract_text_and_num(value, False)
            yield key, feature, value.SerializeToString(), text, event_ts, created_ts


def _oldest_to_serve(config: RepoConfig, table: FeatureView) -> datetime | None:
    """T - ttl: values with an earlier event time are past their TTL. None: no limit."""
    ttl = getattr(table, "ttl", None)
    if not ttl:
        return None
    registry = _registry_of_request.get()
    if registry is not None:
        table = registry.get_any_feature_view(table.name, config.project, allow_cache=True)
    materialized_until: datetime | None = table.most_recent_end_time
    return materialized_until and materialized_until - ttl


def _serialized(key: EntityKey, config: RepoConfig) -> bytes | None:
    """The key as stored; None if a part of it is NULL."""
    if any(value.WhichOneof("val") is None for value in key.entity_values):
        return None
    version = config.entity_key_serialization_version
    return bytes(serialize_entity_key(key, entity_key_serialization_version=version))


def _seconds(time: datetime) -> float:
    """Seconds since 1970; exact to the microsecond. A time without a zone is UTC."""
    return (time.replace(tzinfo=time.tzinfo or UTC) - EPOCH).total_seconds()


def _table(config: RepoConfig, table: FeatureView) -> str:
    versioned = config.registry.enable_online_feature_view_versioning
    name: str = compute_table_id(config.project, table, versioned)
    return '"' + name.replace('"', '""') + '"'
