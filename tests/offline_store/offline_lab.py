"""A small feature repository to join in, without `feast apply`: views are handed to the store."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.repo_config import RepoConfig
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

from hindcast.offline_store import DuckDBOfflineStore, DuckDBRetrievalJob

UTC_US = pa.timestamp("us", tz="UTC")
FEAST_TYPES = {pa.string(): String, pa.int64(): Int64, pa.float64(): Float64}


class Lab:
    """Snapshots to publish in and a store to ask."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.published = root / "data" / "published"
        self.published.mkdir(parents=True)
        (root / "feature_repo").mkdir()
        self.config = self.configured()
        self.registry = FeatureStore(config=self.config).registry
        self.switch_to("first")

    def configured(self, **offline_store: Any) -> RepoConfig:
        config = RepoConfig(
            project="lab",
            provider="local",
            registry=str(self.root / "registry.db"),
            online_store={"type": "sqlite", "path": str(self.root / "online.db")},
            offline_store={"type": "hindcast.offline_store.DuckDBOfflineStore", **offline_store},
            entity_key_serialization_version=3,
        )
        config.repo_path = self.root / "feature_repo"
        return config

    def switch_to(self, snapshot: str) -> Path:
        """Point `current` at a snapshot, as publishing does: by an atomic rename."""
        (self.published / snapshot).mkdir(exist_ok=True)
        link = self.published / "next"
        link.symlink_to(snapshot)
        os.replace(link, self.published / "current")
        return self.published / snapshot

    def publish(self, name: str, table: pa.Table, **options: Any) -> str:
        """Write a table to the current snapshot; the path a FileSource would have."""
        pq.write_table(table, self.published / "current" / f"{name}.parquet", **options)
        return f"../data/published/current/{name}.parquet"

    def view(
        self,
        name: str,
        table: pa.Table,
        keys: Iterable[str],
        *,
        ttl: timedelta = timedelta(0),
        created: str = "",
        timestamp: str = "known_at",
        field_mapping: dict[str, str] | None = None,
    ) -> FeatureView:
        """Publish a table and declare it: what is no key and no time is a feature."""
        keys, mapping = list(keys), field_mapping or {}
        fields = [
            Field(name=mapping.get(field.name, field.name), dtype=FEAST_TYPES[field.type])
            for field in table.schema
            if field.type in FEAST_TYPES
        ]
        source = FileSource(
            name=f"{name}_source",
            path=self.publish(name, table),
            timestamp_field=timestamp,
            created_timestamp_column=created,
            field_mapping=mapping,
        )
        entities = [
            Entity(name=f"entity_{key}", join_keys=[key], value_type=ValueType.UNKNOWN)
            for key in keys
        ]
        return FeatureView(name=name, entities=entities, schema=fields, source=source, ttl=ttl)

    def join(
        self,
        entity_df: Any,
        views: Iterable[FeatureView],
        *,
        config: RepoConfig | None = None,
        **options: Any,
    ) -> DuckDBRetrievalJob:
        """Ask for every feature of the views."""
        views = list(views)
        return DuckDBOfflineStore.get_historical_features(
            config or self.config,
            views,
            [f"{v.projection.name_to_use()}:{f.name}" for v in views for f in v.features],
            entity_df,
            self.registry,
            "lab",
            **options,
        )


def rows(columns: dict[str, pa.DataType], *values: tuple[Any, ...]) -> pa.Table:
    """A table written row by row."""
    by_column = list(zip(*values, strict=True)) if values else [()] * len(columns)
    return pa.table(
        [pa.array(cells, kind) for cells, kind in zip(by_column, columns.values(), strict=True)],
        names=list(columns),
    )


def at(text: str) -> datetime:
    """An instant in UTC."""
    return datetime.fromisoformat(f"{text}+00:00")
