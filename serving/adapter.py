"""Stands in for hindcast.online until it lands: the same interface over Feast's own read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

from feast import FeatureStore

from hindcast.errors import HindcastError, MissingInputError


class OnlineStoreUnavailableError(HindcastError):
    pass


class EntityKeyError(HindcastError):
    pass


class Status(IntEnum):
    INVALID = 0
    PRESENT = 1
    NULL_VALUE = 2
    NOT_FOUND = 3
    OUTSIDE_MAX_AGE = 4


@dataclass(frozen=True)
class FieldSpec:
    name: str
    view: str
    dtype: Any


@dataclass(frozen=True)
class OnlineRows:
    values: dict[str, list[Any]]
    statuses: dict[str, list[Status]]
    event_us: dict[str, list[int | None]]
    as_of: dict[str, datetime | None]
    snapshot: str | None


class OnlineReader:
    def __init__(self, store: FeatureStore, service: str) -> None:
        self._store = store
        try:
            self._service = store.get_feature_service(service)
        except Exception:
            raise MissingInputError(f"feature service {service} is not registered") from None
        keys: dict[str, None] = {}
        self.request: dict[str, Any] = {}
        self.features: dict[str, FieldSpec] = {}
        on_demand = {view.name: view for view in store.list_on_demand_feature_views()}
        self._views = []
        for projection in self._service.feature_view_projections:
            for field in projection.features:
                self.features[field.name] = FieldSpec(
                    field.name, projection.name_to_use(), field.dtype
                )
            if projection.name in on_demand:
                schema = on_demand[projection.name].source_request_sources.values()
                self.request.update({f.name: f.dtype for r in schema for f in r.schema})
            else:
                self._views.append(projection.name)
                keys.update(dict.fromkeys(store.get_feature_view(projection.name).join_keys))
        self.keys = tuple(keys)

    def read(self, columns: Mapping[str, Sequence[Any]]) -> OnlineRows:
        try:
            answer = self._store.get_online_features(
                features=self._service, entity_rows={k: list(v) for k, v in columns.items()}
            )
        except HindcastError:
            raise
        except Exception as fault:
            raise OnlineStoreUnavailableError(f"the online store cannot be read: {fault}") from None
        table = answer.to_dict()
        values = {
            name: [None if isinstance(v, float) and v != v else v for v in table[name]]
            for name in self.features
        }
        proto = answer.proto
        statuses: dict[str, list[Status]] = {}
        event_us: dict[str, list[int | None]] = {}
        for name, result in zip(proto.metadata.feature_names.val, proto.results, strict=True):
            spec = self.features.get(name)
            if spec is None or spec.view not in self._views or spec.view in statuses:
                continue
            statuses[spec.view] = [Status(s) for s in result.statuses]
            event_us[spec.view] = [
                t.seconds * 1_000_000 + t.nanos // 1000 if s == 1 else None
                for t, s in zip(result.event_timestamps, result.statuses, strict=True)
            ]
        as_of = {
            name: self._store.get_feature_view(name).most_recent_end_time for name in self._views
        }
        return OnlineRows(values, statuses, event_us, as_of, None)

    def check(self) -> None:
        from pathlib import Path

        path = Path(self._store.config.online_store.path)
        if not path.is_absolute():
            path = Path(self._store.repo_path) / path
        if not path.exists():
            raise OnlineStoreUnavailableError("the online store is not there")

    def close(self) -> None:
        pass
