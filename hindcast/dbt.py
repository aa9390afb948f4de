"""Feature definitions as dbt holds them, read and checked.

For turning `target/manifest.json` and the entities of `dbt_project.yml` into frozen specs that
the registry, the stores and the proofs share. Every fault of a project is found in one run and
reported with the file and line to mend. Not for running dbt, and not for anything of Feast's:
`hindcast.registry` makes Feast objects of these specs.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from hindcast.errors import DefinitionError, MissingInputError
from hindcast.types import (
    FeastType,
    UnsupportedTypeError,
    canonical,
    feast_type,
    is_timestamptz,
)

KNOWN_AT = "known_at"
MANIFEST = Path("target/manifest.json")
PROJECT_FILE = "dbt_project.yml"
FEATURES_FOLDER = "features"  # under a model path: every model in it is a feature view

_VIEW_KEYS = ("entities", "ttl", "owner", "created_timestamp", "tags", "online")
_SERVICE_KEYS = ("on_demand", "tags", "log")
_ENTITY_KEYS = ("join_key", "type", "description")
_TTL = re.compile(r"([1-9]\d*)\s*(sec|second|min|minute|hour|day|week)s?", re.IGNORECASE)
_TTL_UNITS = {"sec": "seconds", "min": "minutes"}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SPINE_TIME = "event_timestamp"  # Feast's name for T in the rows it joins features to


@dataclass(frozen=True, slots=True, order=True)
class Location:
    """A place in a project's file, as an editor wants it: `models/features/x.yml:12`."""

    path: str
    line: int = 1

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class EntitySpec:
    """What features are about. `data_type` is DuckDB's own spelling of the key's type."""

    name: str
    join_key: str
    data_type: str
    feast_type: FeastType
    description: str
    at: Location


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """A key or a feature. `data_type` is DuckDB's own spelling of its type."""

    name: str
    data_type: str
    feast_type: FeastType
    description: str
    at: Location


@dataclass(frozen=True, slots=True)
class FeatureViewSpec:
    """One feature table: one row per key and `known_at`. A `ttl` of zero means unlimited.

    `keys` are in the order of `entities`, `features` in the order of the contract.
    """

    name: str
    entities: tuple[EntitySpec, ...]
    keys: tuple[ColumnSpec, ...]
    features: tuple[ColumnSpec, ...]
    ttl: timedelta
    owner: str
    description: str
    tags: Mapping[str, str]
    created_timestamp: str | None
    online: bool
    at: Location


@dataclass(frozen=True, slots=True)
class FeatureServiceSpec:
    """What one model consumes: whole feature views, and on-demand views by name.

    `log` is the folder in the project where served features are logged, if they are.
    """

    name: str
    views: tuple[str, ...]
    on_demand: tuple[str, ...]
    log: str | None
    description: str
    owner: str
    tags: Mapping[str, str]
    at: Location


@dataclass(frozen=True, slots=True)
class ProjectSpec:
    """Everything a dbt project declares for Feast."""

    name: str
    entities: tuple[EntitySpec, ...]
    views: tuple[FeatureViewSpec, ...]
    services: tuple[FeatureServiceSpec, ...]


def load_project(project_dir: Path, manifest: Path | None = None) -> ProjectSpec:
    """Read and check the feature definitions of the dbt project in `project_dir`.

    `manifest` is `target/manifest.json` of the project unless given. Raises MissingInputError
    if there is no manifest, or one older than the YAML it was parsed from, and DefinitionError
    with every fault found.
    """
    manifest = project_dir / MANIFEST if manifest is None else manifest
    definition_stamp(project_dir, manifest)
    return _Reader(project_dir, _read_manifest(manifest)).read()


def definition_stamp(project_dir: Path, manifest: Path) -> tuple[int, int]:
    """When the manifest and the newest YAML file of a project were written, in nanoseconds.

    Two calls give the same stamp as long as the definitions are the same. Raises
    MissingInputError if `dbt parse` has to run first.
    """
    project_file = project_dir / PROJECT_FILE
    if not project_file.is_file():
        raise MissingInputError(
            f"{project_dir} has no {PROJECT_FILE}; expected the root of a dbt project"
        )
    if not manifest.is_file():
        raise MissingInputError(
            f"{manifest} is not there; run `dbt parse`, or `dbt build` which makes the tables too"
        )
    model_paths = _load_yaml(project_file).get("model-paths") or ["models"]
    files = [
        path
        for folder in model_paths
        for pattern in ("*.yml", "*.yaml")
        for path in (project_dir / folder).rglob(pattern)
    ]
    newest = max([project_file, *files], key=lambda path: path.stat().st_mtime_ns)
    parsed, written = manifest.stat().st_mtime_ns, newest.stat().st_mtime_ns
    if written > parsed:
        raise MissingInputError(
            f"{newest.relative_to(project_dir)} was changed after {manifest.name} was made from "
            "it; run `dbt parse`"
        )
    return parsed, written


@dataclass(frozen=True, slots=True)
class Declared:
    """What one model, column or exposure says under a key of its `meta`, and where."""

    kind: str
    """`models` or `exposures`."""
    name: str
    column: str | None
    value: Any
    at: Location


def declared(project_dir: Path, key: str, manifest: Path | None = None) -> list[Declared]:
    """Everything declared under `meta: <key>` in the project, in the files' order.

    For what is no feature definition but stands beside one, such as thresholds. Raises as
    `load_project` does where there is no manifest.
    """
    manifest = project_dir / MANIFEST if manifest is None else manifest
    definition_stamp(project_dir, manifest)
    reader = _Reader(project_dir, _read_manifest(manifest))
    found: list[Declared] = []
    for kind, part in (("models", "nodes"), ("exposures", "exposures")):
        wanted = {"resource_type": "model"} if kind == "models" else {}
        for one in reader.resources(part, kind, **wanted):
            if key in one.meta:
                found.append(Declared(kind, one.name, None, one.meta[key], one.meta_at(key)))
            for name, entry in (one.columns if kind == "models" else {}).items():
                meta = {**entry.get("meta", {}), **entry.get("config", {}).get("meta", {})}
                if key in meta:
                    at = one.at("columns", _Item(name))
                    found.append(Declared(kind, one.name, name, meta[key], at))
    return found


def parse_ttl(value: object) -> timedelta:
    """Read `36 hours`, `90 minutes`, `15 min`, `7 days`; 0 and `unlimited` are timedelta(0).

    Raises ValueError for anything else.
    """
    text = "" if isinstance(value, bool) else str(value).strip()
    if text == "0" or text.lower() == "unlimited":
        return timedelta(0)
    match = _TTL.fullmatch(text)
    if match is None:
        raise ValueError(text)
    unit = match[2].lower()
    try:
        return timedelta(**{_TTL_UNITS.get(unit, f"{unit}s"): int(match[1])})
    except OverflowError:
        raise ValueError(text) from None


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        schema = str(manifest["metadata"]["dbt_schema_version"])
    except (ValueError, LookupError, TypeError):
        raise MissingInputError(f"{path} is not a dbt manifest; run `dbt parse`") from None
    if not schema.endswith("/v12.json"):
        raise MissingInputError(
            f"{path} has schema {schema}; Hindcast reads manifest v12: run `dbt parse` with dbt "
            "1.8 to 1.11"
        )
    return manifest


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = Location(path.name, mark.line + 1 if mark else 1)
        raise DefinitionError([f"{at}: this is not YAML; mend it and run `dbt parse`"]) from None
    return content if isinstance(content, dict) else {}


@dataclass(frozen=True, slots=True)
class _Item:
    """A step into a YAML list: the mapping whose `name` is this."""

    name: str


_Step = str | _Item


class _YamlLines:
    """Where things stand in the YAML files, which a manifest does not say."""

    def __init__(self, project_dir: Path) -> None:
        self._project_dir = project_dir
        self._roots: dict[str, yaml.Node | None] = {}

    def at(self, path: str, *steps: _Step) -> Location:
        """The line of the last step, or of the last one before it that the file has."""
        node, line = self._root(path), 1
        for step in steps:
            found = _step_into(node, step)
            if found is None:
                break
            mark, node = found
            line = mark.start_mark.line + 1
        return Location(path, line)

    def find(self, path: str, *steps: _Step) -> yaml.Node | None:
        """The node behind the last step, or None if the file has no such thing."""
        node = self._root(path)
        for step in steps:
            found = _step_into(node, step)
            node = None if found is None else found[1]
        return node

    def _root(self, path: str) -> yaml.Node | None:
        if path not in self._roots:
            file = self._project_dir / path
            is_yaml = file.suffix in (".yml", ".yaml") and file.is_file()
            text = file.read_text(encoding="utf-8") if is_yaml else ""
            self._roots[path] = yaml.compose(text, Loader=yaml.SafeLoader)
        return self._roots[path]


def _step_into(node: yaml.Node | None, step: _Step) -> tuple[yaml.Node, yaml.Node] | None:
    """The node to point at and the node to go on from."""
    if isinstance(step, str):
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        return next(((key, value) for key, value in pairs if key.value == step), None)
    for item in node.value if isinstance(node, yaml.SequenceNode) else []:
        name = _step_into(item, "name")
        if name is not None and name[1].value == step.name:
            return name[1], item
    return None


@dataclass(frozen=True, slots=True)
class _Resource:
    """A model or an exposure as the manifest has it, and where it stands in its YAML file."""

    entry: dict[str, Any]
    section: str
    lines: _YamlLines

    @property
    def name(self) -> str:
        return str(self.entry["name"])

    @property
    def description(self) -> str:
        return str(self.entry["description"]).strip()

    @property
    def columns(self) -> dict[str, dict[str, Any]]:
        return dict(self.entry["columns"])

    @property
    def meta(self) -> dict[str, Any]:
        """`config.meta`, and the older `meta` beside it."""
        return {**self.entry["meta"], **self.entry["config"].get("meta", {})}

    @property
    def is_in_features(self) -> bool:
        return Path(self.entry["path"]).parts[0] == FEATURES_FOLDER

    def at(self, *steps: _Step) -> Location:
        return self.lines.at(self._path, self.section, _Item(self.name), *steps)

    def meta_at(self, *steps: str) -> Location:
        inside = (self.section, _Item(self.name), "config", "meta")
        if self.lines.find(self._path, *inside) is None:
            return self.at("meta", *steps)
        return self.at("config", "meta", *steps)

    @property
    def _path(self) -> str:
        """The YAML file it is described in, or else its SQL file."""
        described_in = self.entry.get("patch_path")
        return str(described_in or self.entry["original_file_path"]).rpartition("://")[2]


class _Reader:
    """One reading of one project.

    What is faulty is noted and read on with a stand-in; `read` hands out nothing if any is.
    """

    def __init__(self, project_dir: Path, manifest: dict[str, Any]) -> None:
        self._manifest = manifest
        self._lines = _YamlLines(project_dir)
        self._vars: dict[str, Any] = _load_yaml(project_dir / PROJECT_FILE).get("vars") or {}
        self._entities: dict[str, EntitySpec | None] = {}  # None: declared, but with a fault
        self._views: dict[str, str] = {}  # the model's unique_id: the view's name
        self._faults: list[tuple[Location, str]] = []

    def read(self) -> ProjectSpec:
        models = self.resources("nodes", "models", resource_type="model")
        consumers = self.resources("exposures", "exposures", type="ml")
        declared = [model for model in models if "feature_view" in model.meta]
        self._views = {model.entry["unique_id"]: model.name for model in declared}

        self._read_entities()
        for model in models:
            if model.is_in_features and "feature_view" not in model.meta:
                self._report_undeclared(model)
        if not declared:
            self._fault(
                Location(PROJECT_FILE),
                "no feature view found; declare one by config.meta.feature_view of a model",
            )
        views = [self._read_view(model) for model in declared]
        services = [self._read_service(exposure) for exposure in consumers]
        for kind, resources in (("feature view", declared), ("feature service", consumers)):
            self._check_distinct(kind, [(resource.name, resource.at()) for resource in resources])
            for resource in resources:
                self._check_name(kind, resource.name, resource.at())
        self._raise_faults()
        return ProjectSpec(
            name=self._manifest["metadata"]["project_name"],
            entities=tuple(entity for entity in self._entities.values() if entity is not None),
            views=tuple(views),
            services=tuple(services),
        )

    def resources(self, kind: str, section: str, **wanted: str) -> list[_Resource]:
        """The manifest's entries of a kind that have the wanted values, in the files' order."""
        resources = [
            _Resource(entry, section, self._lines)
            for entry in self._manifest[kind].values()
            if all(entry[key] == value for key, value in wanted.items())
        ]
        return sorted(resources, key=lambda resource: resource.at())

    def _fault(self, at: Location, message: str) -> None:
        self._faults.append((at, message))

    def _raise_faults(self) -> None:
        if self._faults:
            raise DefinitionError([f"{at}: {message}" for at, message in sorted(self._faults)])

    # Entities

    def _read_entities(self) -> None:
        declared = self._vars.get("entities")
        if not isinstance(declared, dict) or not declared:
            self._fault(
                self._lines.at(PROJECT_FILE, "vars", "entities"),
                "no entities found; declare each under vars: entities: as "
                "<name>: {join_key: <column>, type: <DuckDB type>, description: <text>}",
            )
            return
        for name, body in declared.items():
            at = self._lines.at(PROJECT_FILE, "vars", "entities", str(name))
            self._check_name("entity", str(name), at)
            self._entities[str(name)] = self._read_entity(str(name), body, at)
        # Reading YAML keeps the last of two equal keys; the file itself shows both.
        node = self._lines.find(PROJECT_FILE, "vars", "entities")
        keys = [key for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        self._check_distinct(
            "entity",
            [(key.value, Location(PROJECT_FILE, key.start_mark.line + 1)) for key in keys],
        )

    def _read_entity(self, name: str, body: object, at: Location) -> EntitySpec | None:
        if not isinstance(body, dict):
            self._fault(
                at,
                f"entity {name} is {body!r}; expected "
                "{join_key: <column>, type: <DuckDB type>, description: <text>}",
            )
            return None
        self._check_keys(f"entity {name}", body, _ENTITY_KEYS, lambda _: at)
        missing = [key for key in _ENTITY_KEYS if not str(body.get(key) or "").strip()]
        for key in missing:
            self._fault(at, f"entity {name} has no {key}; add it")
        if missing:
            return None
        data_type = str(body["type"])
        try:
            kind = feast_type(data_type)
        except UnsupportedTypeError as error:
            self._fault(
                at, f"entity {name} is of type {data_type}, which Feast cannot hold: {error}"
            )
            return None
        if not kind.is_key:
            self._fault(
                at,
                f"entity {name} is of type {data_type}, which Feast cannot look up online; "
                "expected varchar, blob or an integer type",
            )
        return EntitySpec(
            name=name,
            join_key=str(body["join_key"]),
            data_type=canonical(data_type),
            feast_type=kind,
            description=str(body["description"]).strip(),
            at=at,
        )

    # Feature views

    def _report_undeclared(self, model: _Resource) -> None:
        self._fault(
            model.at(),
            f"model {model.name} is in the {FEATURES_FOLDER} folder but is no feature view; add "
            "config.meta.feature_view with entities, ttl and owner, or move the model elsewhere"
            + "".join(f" (its meta has {key!r})" for key in _nearest("feature_view", model.meta)),
        )

    def _read_view(self, model: _Resource) -> FeatureViewSpec:
        meta = self._read_meta(model, "feature_view", _VIEW_KEYS)
        entities = self._read_view_entities(model, meta)
        created = meta.get("created_timestamp")
        keys = [entity.join_key for entity in entities]
        times = {KNOWN_AT} if created is None else {KNOWN_AT, str(created)}
        if not model.entry["config"]["contract"]["enforced"]:
            self._fault(
                model.at(),
                f"feature view {model.name} has no enforced contract, so its columns and types "
                "could change unseen; add config: contract: {enforced: true}",
            )
        if not model.description:
            self._fault(model.at(), f"feature view {model.name} has no description; add one")
        columns = self._read_columns(model, times)
        self._check_times(model, created)
        self._check_entity_columns(model, entities, columns)
        features = tuple(column for column in columns.values() if column.name not in keys)
        for feature in features:
            self._check_feature_name(model, feature)
        if not model.columns.keys() - set(keys) - times:
            self._fault(
                model.at(),
                f"feature view {model.name} has only keys and times; add a feature column",
            )
        return FeatureViewSpec(
            name=model.name,
            entities=tuple(entities),
            keys=tuple(columns[key] for key in keys if key in columns),
            features=features,
            ttl=self._read_ttl(model, meta),
            owner=self._read_owner(model, meta),
            description=model.description,
            tags=self._read_tags(model, "feature_view", meta),
            created_timestamp=None if created is None else str(created),
            online=self._read_online(model, meta),
            at=model.at(),
        )

    def _read_view_entities(self, model: _Resource, meta: dict[str, Any]) -> list[EntitySpec]:
        names, at = meta.get("entities"), model.meta_at("feature_view", "entities")
        known = ", ".join(sorted(self._entities)) or "none"
        if not isinstance(names, list) or not names:
            self._fault(
                at,
                f"feature view {model.name} has entities {names!r}; expected a list of one or "
                f"more, such as entities: [<name>]; known: {known}",
            )
            return []
        entities: dict[str, EntitySpec] = {}
        for name in map(str, names):
            if name not in self._entities:
                self._fault(
                    at,
                    f"feature view {model.name} names entity {name!r}, which is not declared; "
                    f"known: {known}; declare it under vars: entities: in {PROJECT_FILE}"
                    + _did_you_mean(name, self._entities),
                )
            entity = self._entities.get(name)
            if entity is None:
                continue
            if entity.join_key in entities:
                self._fault(
                    at,
                    f"feature view {model.name} names entities {entities[entity.join_key].name!r} "
                    f"and {name!r} with one key {entity.join_key!r}; keep one of them",
                )
            entities[entity.join_key] = entity
        return list(entities.values())

    def _read_columns(self, model: _Resource, times: Collection[str]) -> dict[str, ColumnSpec]:
        """Every column but the times; those without a type Feast can hold are left out."""
        columns: dict[str, ColumnSpec] = {}
        for name, entry in model.columns.items():
            at = model.at("columns", _Item(name))
            data_type, description = entry["data_type"], str(entry["description"]).strip()
            if not description:
                self._fault(at, f"column {model.name}.{name} has no description; add one")
            if not data_type:
                self._fault(at, f"column {model.name}.{name} has no data_type; add its DuckDB type")
            elif name not in times:
                try:
                    kind = feast_type(data_type)
                except UnsupportedTypeError as error:
                    self._fault(
                        at,
                        f"column {model.name}.{name} is {data_type}, which Feast cannot hold: "
                        f"{error}",
                    )
                else:
                    columns[name] = ColumnSpec(name, canonical(data_type), kind, description, at)
        self._check_distinct(
            f"column of {model.name}",
            [(name, model.at("columns", _Item(name))) for name in model.columns],
        )
        return columns

    def _check_times(self, model: _Resource, created: object) -> None:
        if KNOWN_AT not in model.columns:
            self._fault(
                model.at(),
                f"feature view {model.name} has no column {KNOWN_AT}; add it as timestamptz: the "
                "instant from which a row could have been used",
            )
        if created is not None and created not in model.columns:
            self._fault(
                model.meta_at("feature_view", "created_timestamp"),
                f"feature view {model.name} names created_timestamp {created!r}, which is not one "
                f"of its columns: {', '.join(model.columns)}"
                + _did_you_mean(str(created), model.columns),
            )
        for name in dict.fromkeys((KNOWN_AT, created)):
            data_type = model.columns.get(str(name), {}).get("data_type")
            if data_type and not is_timestamptz(data_type):
                self._fault(
                    model.at("columns", _Item(str(name))),
                    f"column {model.name}.{name} is {data_type}; expected timestamptz: an instant "
                    "(UTC), since a time without a zone fits several",
                )

    def _check_entity_columns(
        self, model: _Resource, entities: list[EntitySpec], columns: dict[str, ColumnSpec]
    ) -> None:
        for entity in entities:
            if entity.join_key not in model.columns:
                self._fault(
                    model.at(),
                    f"feature view {model.name} has no column {entity.join_key!r}, the key of its "
                    f"entity {entity.name!r}; add the column or drop the entity"
                    + _did_you_mean(entity.join_key, model.columns),
                )
            column = columns.get(entity.join_key)
            if column is not None and column.data_type != entity.data_type:
                self._fault(
                    column.at,
                    f"column {model.name}.{column.name} is {column.data_type}, but entity "
                    f"{entity.name!r} is {entity.data_type} ({entity.at}); make them the same",
                )

    def _check_feature_name(self, model: _Resource, feature: ColumnSpec) -> None:
        if feature.name == _SPINE_TIME:
            self._fault(
                feature.at,
                f"column {model.name}.{feature.name} has the name Feast gives to the time of a "
                "prediction; rename it",
            )
        self._check_name(f"feature of {model.name}", feature.name, feature.at)

    def _read_ttl(self, model: _Resource, meta: dict[str, Any]) -> timedelta:
        at = model.meta_at("feature_view", "ttl")
        expected = "such as ttl: 36 hours, or ttl: unlimited"
        if meta.get("ttl") is None:
            self._fault(
                at,
                f"feature view {model.name} has no ttl; say how old a row may be at a prediction "
                f"and still be used, {expected}",
            )
            return timedelta(0)
        try:
            return parse_ttl(meta["ttl"])
        except ValueError:
            self._fault(
                at,
                f"feature view {model.name} has ttl {meta['ttl']!r}; expected a whole number of "
                f"seconds, minutes, hours, days or weeks, {expected}",
            )
            return timedelta(0)

    def _read_owner(self, model: _Resource, meta: dict[str, Any]) -> str:
        owner = meta.get("owner")
        if not isinstance(owner, str) or not owner.strip():
            self._fault(
                model.meta_at("feature_view", "owner"),
                f"feature view {model.name} has no owner; add owner: <team or address>",
            )
        return str(owner)

    def _read_online(self, model: _Resource, meta: dict[str, Any]) -> bool:
        online = meta.get("online", True)
        if not isinstance(online, bool):
            self._fault(
                model.meta_at("feature_view", "online"),
                f"feature view {model.name} has online {online!r}; expected true or false",
            )
        return bool(online)

    # Feature services

    def _read_service(self, exposure: _Resource) -> FeatureServiceSpec:
        meta = self._read_meta(exposure, "feature_service", _SERVICE_KEYS)
        owner = exposure.entry["owner"]
        on_demand = meta.get("on_demand", [])
        if not isinstance(on_demand, list) or not all(isinstance(name, str) for name in on_demand):
            self._fault(
                exposure.meta_at("feature_service", "on_demand"),
                f"feature service {exposure.name} has on_demand {on_demand!r}; expected a list of "
                "names of on-demand feature views",
            )
            on_demand = []
        if not exposure.description:
            self._fault(
                exposure.at(), f"feature service {exposure.name} has no description; add one"
            )
        return FeatureServiceSpec(
            name=exposure.name,
            views=self._read_service_views(exposure),
            on_demand=tuple(dict.fromkeys(on_demand)),
            log=self._read_log(exposure, meta),
            description=exposure.description,
            owner=str(owner.get("email") or owner.get("name")),
            tags=self._read_tags(exposure, "feature_service", meta),
            at=exposure.at(),
        )

    def _read_log(self, exposure: _Resource, meta: dict[str, Any]) -> str | None:
        log = meta.get("log")
        if log is not None and (not isinstance(log, str) or not log.strip()):
            self._fault(
                exposure.meta_at("feature_service", "log"),
                f"feature service {exposure.name} has log {log!r}; expected a folder of the "
                "project, such as data/log/served",
            )
            return None
        return log

    def _read_service_views(self, exposure: _Resource) -> tuple[str, ...]:
        """The feature views it depends on. What else it depends on, such as a spine, is its own."""
        at = exposure.at("depends_on")
        needed = dict.fromkeys(exposure.entry["depends_on"]["nodes"])
        for unique_id in needed:
            node = self._manifest["nodes"].get(unique_id)
            if unique_id in self._views or node is None or node["resource_type"] != "model":
                continue
            model = _Resource(node, "models", self._lines)
            if model.is_in_features:
                self._fault(
                    at,
                    f"feature service {exposure.name} depends on {model.name}, which is in the "
                    f"{FEATURES_FOLDER} folder but is no feature view ({model.at()}); declare it "
                    "there or drop it here",
                )
        views = tuple(self._views[unique_id] for unique_id in needed if unique_id in self._views)
        if not views:
            self._fault(
                at,
                f"feature service {exposure.name} depends on no feature view; add "
                "ref('<feature view>') to its depends_on",
            )
        return views

    # What views and services share

    def _read_meta(
        self, resource: _Resource, section: str, known: Collection[str]
    ) -> dict[str, Any]:
        meta = resource.meta.get(section, {})
        if not isinstance(meta, dict):
            self._fault(
                resource.meta_at(section),
                f"meta.{section} of {resource.name} is {meta!r}; expected a mapping with the keys "
                f"{', '.join(known)}",
            )
            return {}
        self._check_keys(
            f"meta.{section} of {resource.name}",
            meta,
            known,
            lambda key: resource.meta_at(section, key),
        )
        return meta

    def _read_tags(
        self, resource: _Resource, section: str, meta: dict[str, Any]
    ) -> Mapping[str, str]:
        tags = meta.get("tags", {})
        if not isinstance(tags, dict) or not all(
            isinstance(text, str) for pair in tags.items() for text in pair
        ):
            self._fault(
                resource.meta_at(section, "tags"),
                f"meta.{section} of {resource.name} has tags {tags!r}; expected a mapping of text "
                'to text: quote numbers and booleans, such as {tier: "1"}',
            )
            return {}
        return tags

    def _check_keys(
        self,
        what: str,
        found: Iterable[object],
        known: Collection[str],
        at: Callable[[str], Location],
    ) -> None:
        for key in map(str, found):
            if key not in known:
                self._fault(
                    at(key),
                    f"{what} has an unknown key {key!r}; expected {', '.join(known)}"
                    + _did_you_mean(key, known),
                )

    def _check_distinct(self, kind: str, named: Iterable[tuple[str, Location]]) -> None:
        first: dict[str, tuple[str, Location]] = {}
        for name, at in named:
            if name.lower() not in first:
                first[name.lower()] = (name, at)
                continue
            other, other_at = first[name.lower()]
            if name == other:
                self._fault(at, f"{kind} {name} is there twice ({other_at}); keep one of them")
            else:
                self._fault(
                    at,
                    f"{kind} {name} differs from {other} ({other_at}) only in upper and lower "
                    "case, which DuckDB and Feast take for one name; rename one of them",
                )

    def _check_name(self, kind: str, name: str, at: Location) -> None:
        if not _NAME.fullmatch(name):
            self._fault(at, f"{kind} {name!r} has a name Feast cannot use; keep to a-z, 0-9 and _")
        elif "__" in name:
            self._fault(
                at,
                f"{kind} {name} has a double underscore, by which Feast parts a view's name from "
                "a feature's; use a single one",
            )


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    return "".join(f"; did you mean {name!r}?" for name in _nearest(word, known))


def _nearest(word: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(word, list(known), n=1)
