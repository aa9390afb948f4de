"""Feast objects made of a dbt project's feature definitions.

For `feature_repo/definitions.py`, which hands every object over to `feast apply`, and for
on-demand features, which take a view as their source. Nothing is described here: names, types,
owners and texts all come from `hindcast.dbt`. Not for reading or writing feature values.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import feast.types
from feast import Entity, FeatureService, FeatureView, Field, FileSource, OnDemandFeatureView
from feast.data_format import ParquetFormat
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination

from hindcast.dbt import (
    KNOWN_AT,
    MANIFEST,
    ColumnSpec,
    EntitySpec,
    FeatureServiceSpec,
    FeatureViewSpec,
    ProjectSpec,
    definition_stamp,
    load_project,
)
from hindcast.errors import DefinitionError
from hindcast.snapshot import PUBLISHED as PUBLISHED
from hindcast.types import FeastType

FEATURE_REPO = Path("feature_repo")

OnDemand = Mapping[str, OnDemandFeatureView] | Iterable[OnDemandFeatureView]


class PublishedSource(FileSource):  # type: ignore[misc]  # Feast is untyped
    """A published table as Feast's FileSource, without the moment it was made.

    Feast stamps a source when the object is made and compares the stamps, so that every
    `feast plan` would show every view as updated. The registry keeps the stamps of the views.
    """

    _NEVER = datetime(1970, 1, 1, tzinfo=UTC)
    created_timestamp = property(lambda self: self._NEVER, lambda self, moment: None)
    last_updated_timestamp = property(lambda self: self._NEVER, lambda self, moment: None)


# Feast writes the name of a source's class into the registry and reads a plain FileSource back;
# another name would be one more difference in every plan.
PublishedSource.__module__, PublishedSource.__name__ = FileSource.__module__, FileSource.__name__


@dataclass(frozen=True, slots=True)
class FeatureRepo:
    """What a dbt project declares, as Feast objects by name."""

    spec: ProjectSpec
    root: Path
    """The project's root as seen from the folder of `feature_store.yaml`."""
    entities: Mapping[str, Entity]
    sources: Mapping[str, FileSource]
    views: Mapping[str, FeatureView]

    def services(self, on_demand: OnDemand = ()) -> dict[str, FeatureService]:
        """A feature service for each `ml` exposure.

        `on_demand` are the on-demand feature views there are, in a mapping or a plain iterable.
        Raises DefinitionError if a service names one that is not among them, or if one of them
        has the name of a feature view.
        """
        transformed = _by_name(on_demand)
        self._check(transformed)
        return {
            service.name: FeatureService(
                name=service.name,
                features=[
                    *(self.views[name] for name in service.views),
                    *(transformed[name] for name in service.on_demand),
                ],
                description=service.description,
                owner=service.owner,
                tags=dict(service.tags),
                logging_config=self._logging(service),
            )
            for service in self.spec.services
        }

    def objects(self, on_demand: OnDemand = ()) -> dict[str, object]:
        """Everything to register, by a name that is free in a module.

        `feast apply` collects what stands at the top of a feature repository's modules, so a
        module there says `globals().update(repo.objects(...))`. Raises as `services` does.
        """
        kinds: dict[str, Mapping[str, object]] = {
            "entity": self.entities,
            "source": self.sources,
            "view": self.views,
            "on_demand": _by_name(on_demand),
            "service": self.services(on_demand),
        }
        return {
            f"{kind}__{name}": made
            for kind, objects in kinds.items()
            for name, made in objects.items()
        }

    def _logging(self, service: FeatureServiceSpec) -> LoggingConfig | None:
        if service.log is None:
            return None
        return LoggingConfig(FileLoggingDestination(path=(self.root / service.log).as_posix()))

    def _check(self, on_demand: Mapping[str, OnDemandFeatureView]) -> None:
        known = ", ".join(sorted(on_demand)) or "none"
        faults = [
            f"{service.at}: feature service {service.name} names on-demand feature view {name!r}, "
            f"which is not there; known: {known}; define it in the feature repository or drop it"
            for service in self.spec.services
            for name in service.on_demand
            if name not in on_demand
        ]
        taken = {name.lower() for name in on_demand}
        faults += [
            f"{view.at}: feature view {view.name} has the name of an on-demand feature view, which "
            "Feast takes for one name whatever its case; rename one of them"
            for view in self.spec.views
            if view.name.lower() in taken
        ]
        if faults:
            raise DefinitionError(faults)


def load(
    project_dir: Path,
    *,
    published: Path = PUBLISHED,
    feature_repo: Path = FEATURE_REPO,
    manifest: Path = MANIFEST,
) -> FeatureRepo:
    """The Feast objects of the dbt project in `project_dir`.

    `published` is where the newest snapshot's Parquet files are, `feature_repo` the folder of
    `feature_store.yaml`, `manifest` what dbt parsed; all relative to the project unless absolute.
    While the definitions stay as they are, every call gives the same objects, so that all modules
    of a feature repository speak of one view. Raises MissingInputError or DefinitionError as
    `hindcast.dbt.load_project` does.
    """
    root = Path(os.path.abspath(project_dir))
    # Feast resolves a source's path against the folder of feature_store.yaml, wherever a command
    # is run; a relative one keeps the registry valid when the project moves.
    up = Path(os.path.relpath(root, root / feature_repo))
    if not published.is_absolute():
        published = Path(os.path.relpath(root / published, root / feature_repo))
    return _load(root, up, published, root / manifest, definition_stamp(root, root / manifest))


@lru_cache(maxsize=8)
def _load(
    project_dir: Path,
    up: Path,
    published: Path,
    manifest: Path,
    stamp: tuple[int, int],  # part of the cache's key: new definitions, new objects
) -> FeatureRepo:
    spec = load_project(project_dir, manifest)
    entities = {entity.name: _entity(entity) for entity in spec.entities}
    sources = {view.name: _source(view, published) for view in spec.views}
    views = {view.name: _view(view, entities, sources[view.name]) for view in spec.views}
    return FeatureRepo(spec, up, entities, sources, views)


def _by_name(on_demand: OnDemand) -> dict[str, OnDemandFeatureView]:
    views: Iterable[OnDemandFeatureView] = (
        on_demand.values() if isinstance(on_demand, Mapping) else on_demand
    )
    return {view.name: view for view in views}


def _entity(spec: EntitySpec) -> Entity:
    return Entity(
        name=spec.name,
        join_keys=[spec.join_key],
        value_type=_dtype(spec.feast_type).to_value_type(),
        description=spec.description,
    )


def _source(spec: FeatureViewSpec, published: Path) -> FileSource:
    return PublishedSource(
        name=f"{spec.name}_source",
        path=(published / f"{spec.name}.parquet").as_posix(),
        file_format=ParquetFormat(),
        timestamp_field=KNOWN_AT,
        created_timestamp_column=spec.created_timestamp or "",
        description=spec.description,  # Feast's page shows a view's source, and this there
        owner=spec.owner,
    )


def _view(spec: FeatureViewSpec, entities: Mapping[str, Entity], source: FileSource) -> FeatureView:
    return FeatureView(
        name=spec.name,
        entities=[entities[entity.name] for entity in spec.entities],
        schema=[_field(column) for column in (*spec.keys, *spec.features)],
        source=source,
        ttl=spec.ttl,
        online=spec.online,
        description=spec.description,
        owner=spec.owner,
        tags=dict(spec.tags),
    )


def _field(spec: ColumnSpec) -> Field:
    return Field(name=spec.name, dtype=_dtype(spec.feast_type), description=spec.description)


def _dtype(kind: FeastType) -> feast.types.FeastType:
    scalar = getattr(feast.types, kind.name)
    return feast.types.Array(scalar) if kind.is_list else scalar
