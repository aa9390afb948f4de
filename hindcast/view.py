"""A feature view as a retrieval asks for it: its source, its keys, and the SQL that both make.

Not for how it is joined: see `asof`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import duckdb
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.repo_config import RepoConfig

from hindcast.errors import RetrievalError
from hindcast.sources import Snapshot, Source, Spine
from hindcast.sql import quote

INTEGERS = {
    f"{sign}{size}INT" for sign in ("", "U") for size in ("TINY", "SMALL", "BIG", "HUGE", "")
} | {"INTEGER", "UINTEGER"}
FLOATS = {"FLOAT", "DOUBLE"}


@dataclass(frozen=True)
class View:
    """What one feature view adds: the columns to match, to take, and the rows that count."""

    name: str
    source: Source
    keys: tuple[tuple[str, str], ...]
    """(spine column, source column)."""
    features: dict[str, str]
    """Output name -> source column."""
    timestamp: str
    created: str | None
    ttl: timedelta

    @classmethod
    def of(
        cls,
        view: FeatureView,
        feature_refs: Iterable[str],
        full_feature_names: bool,
        config: RepoConfig,
        snapshot: Snapshot,
        connection: duckdb.DuckDBPyConnection,
    ) -> View:
        """Read a feature view's declaration and its source's columns.

        Raises RetrievalError if the source lacks a column that the view declares.
        """
        if view.batch_source is None:
            raise RetrievalError(f"feature view {view.name} has no source to read history from.")
        source = Source.of(view.batch_source, config, snapshot, connection)
        in_source = {
            mapped: raw
            for raw, mapped in view.batch_source.field_mapping.items()
            if raw in source.columns
        }
        projection = view.projection
        prefix = f"{projection.name_to_use()}:"
        asked = {ref.removeprefix(prefix) for ref in feature_refs if ref.startswith(prefix)}
        shown = f"{projection.name_alias or view.name}__" if full_feature_names else ""
        names = [feature.name for feature in view.features if feature.name in asked]
        if unknown := sorted(asked.difference(names)):
            raise RetrievalError(
                f"feature view {view.name} has no feature {', '.join(unknown)}. It has "
                f"{', '.join(feature.name for feature in view.features)}."
            )
        keys = [key.name for key in view.entity_columns if key.name != DUMMY_ENTITY_ID]
        created = view.batch_source.created_timestamp_column
        declared = cls(
            name=projection.name_to_use(),
            source=source,
            keys=tuple(
                (projection.join_key_map.get(key, key), in_source.get(key, key)) for key in keys
            ),
            features={f"{shown}{name}": in_source.get(name, name) for name in names},
            timestamp=in_source.get(
                view.batch_source.timestamp_field, view.batch_source.timestamp_field
            ),
            created=in_source.get(created, created) if created else None,
            ttl=view.ttl or timedelta(0),
        )
        for column in [*(column for _, column in declared.keys), *declared.features.values()]:
            source.require(column)
        return declared

    def match(self, spine: Spine, spine_key: str, column: str) -> str:
        """SQL for a key of the spine in the type of this view's key.

        Integers of every width match each other, and a float that holds a whole number (what
        pandas makes of integers with missing values) matches that integer; so does a decimal
        that the other's type holds exactly. Other differences
        of type are refused: `1` and `'1'` may be the same entity, but we do not guess.
        """
        theirs = self.source.require(column)
        ours = spine.columns[spine_key]
        key = f"spine.{quote(spine_key)}"
        if spine.has_no_value(spine_key):
            return f"try_cast({key} as {theirs})"
        if ours in FLOATS and theirs in INTEGERS:
            return f"case when {key} = trunc({key}) then try_cast({key} as {theirs}) end"
        if _kind(ours) != _kind(theirs):
            raise RetrievalError(
                f"{spine_key!r} is {ours} in entity_df, but {column!r} is {theirs} in feature "
                f"view {self.name} ({self.source.label}). Cast one of them: they must be alike."
            )
        if _kind(ours) == "decimal" and ours != theirs:  # no decimal may be wide enough for both
            fitting = f"try_cast({key} as {theirs})"
            return f"case when try_cast({fitting} as {ours}) = {key} then {fitting} end"
        return key

    def matches(self, prefix: str) -> list[str]:
        """The conditions that a row of the source is of an `entity`."""
        return [
            f"{self.source.column(column)} = entity.{prefix}key_{place}"
            for place, (_, column) in enumerate(self.keys, 1)
        ]

    def between(self, sign: str, bound: int) -> list[str]:
        """The condition that an event time lies on one side of an instant."""
        source = self.source
        moment = source.moment(self.timestamp)
        return [f"{moment} {sign} {source.as_moment(self.timestamp, str(bound))}"]


def _kind(duckdb_type: str) -> str:
    """Types that can be compared without loss or surprise share a kind."""
    if duckdb_type in INTEGERS:
        return "integer"
    if duckdb_type.startswith("DECIMAL"):
        return "decimal"
    return "VARCHAR" if duckdb_type.startswith("ENUM") else duckdb_type
