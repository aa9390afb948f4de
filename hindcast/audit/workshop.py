"""Where the audit rebuilds: a copy of the sources, a warehouse of its own, and dbt in this process.

Everything is below `target/audit/`, so nothing that is published or built elsewhere is touched.
dbt parses the project once; a rebuild as of another instant starts with other vars at once. Not
for saying what is right or wrong.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import duckdb
import yaml

from hindcast.audit.points import in_memory
from hindcast.audit.reach import Source, ancestors, parents, sources_of
from hindcast.config import utc_text
from hindcast.dbt import PROJECT_FILE, ProjectSpec, load_project
from hindcast.dbt_answer import why
from hindcast.errors import HindcastError, MissingInputError
from hindcast.sql import literal, quote

CORNER = Path("target/audit")
COPIED = "world"
WAREHOUSE = "audit.duckdb"
ANY_INSTANT = "1970-01-01T00:00:00Z"
"""dbt names schemas when it parses: any instant will do to keep them apart from the published."""


@dataclass(frozen=True)
class World:
    """Which records exist: those of a copy, loaded up to `as_of` and after `since` (by source)."""

    as_of: datetime
    since: Mapping[str, datetime]
    copy: str = COPIED


class Workshop:
    """A project set up for rebuilding. Make one with `opened`."""

    def __init__(self, project_dir: Path, spine: str) -> None:
        """Say where the project is; nothing is run yet."""
        self.project_dir = project_dir.resolve()
        self.corner = self.project_dir / CORNER
        self.spine = spine
        self._manifest: Any = None
        self._has_constants = False

    @contextmanager
    def opened(self, *, sources: bool = True) -> Iterator[Workshop]:
        """The workshop with its project parsed and its sources copied, from the project's root.

        Without `sources` nothing can be rebuilt, only `compile` be called.

        Raises:
            MissingInputError: dbt's profile is not there.
            HindcastError: dbt cannot parse the project or read its sources, or a source is read
                past `source()`.
        """
        before = Path.cwd()
        os.chdir(self.project_dir)
        try:
            self.parse()
            if sources:
                self._copy_sources()
            yield self
        finally:
            os.chdir(before)

    def parse(self) -> None:
        """Read the project anew, its warehouse being the audit's own."""
        shutil.rmtree(self.corner / COPIED, ignore_errors=True)
        (self.corner / COPIED).mkdir(parents=True)
        (self.corner / WAREHOUSE).unlink(missing_ok=True)
        profile = _own_profile(self.project_dir, self.corner / WAREHOUSE)
        (self.corner / "profiles.yml").write_text(yaml.safe_dump(profile))
        self._manifest = self._dbt("parse", {"as_of": ANY_INSTANT})
        if not any(
            macro.name == "source" and macro.package_name == self._manifest.metadata.project_name
            for macro in self._manifest.macros.values()
        ):
            raise MissingInputError(
                "this project has no macro source(), which limits every source to what was "
                "loaded by an instant: copy macros/as_of.sql of Hindcast into its macros"
            )

    @cached_property
    def spec(self) -> ProjectSpec:
        """The feature definitions, as dbt parsed them here."""
        return load_project(self.project_dir, self.corner / "dbt" / "manifest.json")

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """Every source a feature view or the spine is made of."""
        return sources_of(self._manifest, self.spec, self.spine)

    @property
    def nodes(self) -> Mapping[str, Any]:
        """dbt's models and seeds, by unique id."""
        return dict(self._manifest.nodes)

    def compile(self) -> None:
        """Have dbt compile every model: then `nodes` have their SQL as the project writes it."""
        self._dbt("compile", {})

    def relation(self, model: str) -> str:
        """The table that a rebuild makes of a model, as SQL."""
        return str(self._node(model).relation_name)

    def rebuild(self, world: World, models: Iterable[str] | None = None) -> None:
        """Build feature views and spine (or only `models`), and what they need, in a world.

        Raises HindcastError with dbt's message where a model fails, or where one reads a source
        past `source()`, so that no limit would hold.
        """
        wanted = [*models] if models is not None else [*self._views, self.spine]
        settings = {
            "as_of": utc_text(world.as_of),
            "as_of_from": {name: utc_text(at) for name, at in world.since.items()},
            "as_of_world": str(self.corner / world.copy),
            "publish": False,
        }
        select = [f"+{name}" for name in wanted]
        if self._has_constants and self._constants:
            select += ["--exclude", *self._constants]
        self._dbt("run", settings, "--full-refresh", "--select", *select)
        self._has_constants = self._has_constants or models is None
        self._check_sources(wanted, str(self.corner / world.copy))

    @contextmanager
    def connected(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection that sees the rebuilt tables. No rebuild while it is open."""
        with duckdb.connect(str(self.corner / WAREHOUSE)) as connection:
            connection.execute("set TimeZone = 'UTC'")
            yield connection

    def copied(self, source: str, copy: str = COPIED) -> str:
        """SQL that reads the copy of a source."""
        return f"read_parquet({literal(str(self.corner / copy / f'{source}.parquet'))})"

    def last_loaded(self) -> datetime:
        """When the last record of any source was loaded.

        Raises HindcastError if no source says when its records were.
        """
        latest = [
            f"select max({quote(source.loaded_at)}) as loaded from {self.copied(source.name)}"
            for source in self.sources
            if source.loaded_at
        ]
        if latest:
            with in_memory() as connection:
                (at,) = connection.execute(
                    f"select max(loaded) from ({' union all '.join(latest)})"
                ).fetchone() or (None,)
            if at is not None:
                return cast(datetime, at)
        raise HindcastError(
            "no source of the features says when its records were loaded, or none has a record: "
            "declare `loaded_at_field` in the YAML of the sources"
        )

    @cached_property
    def _constants(self) -> list[str]:
        """Models that are made of no source: the same in every world, so built once."""
        nodes = self._manifest.nodes
        return [
            node.name
            for name, node in nodes.items()
            if node.resource_type == "model"
            and not any(parent.startswith("source.") for parent in ancestors(nodes, name))
        ]

    @property
    def _views(self) -> list[str]:
        return [view.name for view in self.spec.views]

    def _node(self, model: str) -> Any:
        for node in self._manifest.nodes.values():
            if node.resource_type == "model" and node.name == model:
                return node
        raise MissingInputError(
            f"dbt has no model {model}; `spine` in hindcast.yml names the model of the spine"
        )

    def _copy_sources(self) -> None:
        self._node(self.spine)
        settings = {"as_of": ANY_INSTANT}
        self._dbt("seed", settings, "--full-refresh")
        arguments = json.dumps({"folder": str(self.corner / COPIED)})
        self._dbt("run-operation", settings, "copy_sources", "--args", arguments)

    def _check_sources(self, models: Iterable[str], folder: str) -> None:
        """A source that is read in another way would be read whole, and every replay be equal."""
        nodes = self._manifest.nodes
        built = {self._node(model).unique_id for model in models}
        for name in built.union(*(ancestors(nodes, one) for one in built)) & set(nodes):
            node = nodes[name]
            reads = [parent for parent in parents(node) if parent.startswith("source.")]
            if reads and folder not in (node.compiled_code or ""):
                raise HindcastError(
                    f"{node.original_file_path} does not read {reads[0]} through the source() of "
                    "macros/as_of.sql, so it cannot be limited to what was loaded by an instant"
                )

    def _dbt(self, verb: str, settings: Mapping[str, Any], *arguments: str) -> Any:
        from dbt.cli.main import dbtRunner  # takes seconds

        answer = dbtRunner(manifest=self._manifest).invoke(
            [
                verb,
                *arguments,
                *("--vars", json.dumps(settings), "--quiet", "--log-level-file", "none"),
                *("--no-partial-parse" if verb == "parse" else "--no-write-json",),
                *("--project-dir", str(self.project_dir), "--profiles-dir", str(self.corner)),
                *("--target-path", str(self.corner / "dbt"), "--log-path", str(self.corner)),
            ]
        )
        if not answer.success:
            raise HindcastError(f"dbt {verb} did not succeed: {why(answer)}")
        return answer.result


def _own_profile(project_dir: Path, warehouse: Path) -> dict[str, Any]:
    """The project's profile with its warehouse replaced."""
    project = yaml.safe_load((project_dir / PROJECT_FILE).read_text())
    name = str(project.get("profile"))
    places = [os.environ.get("DBT_PROFILES_DIR"), project_dir, Path.home() / ".dbt"]
    files = [Path(place, "profiles.yml") for place in places if place]
    for file in files:
        profile = (yaml.safe_load(file.read_text()) or {}).get(name) if file.is_file() else None
        if profile is None:
            continue
        target = str(profile.get("target", "default"))
        output = dict(profile["outputs"].get(target) or {})
        if output.get("type") != "duckdb":
            raise HindcastError(
                f"target {target} in {file} is of type {output.get('type')}; the audit rebuilds "
                "in DuckDB: give the profile a target of type duckdb and make it the default"
            )
        return {name: {"target": target, "outputs": {target: output | {"path": str(warehouse)}}}}
    raise MissingInputError(
        f"no profile {name!r} in {' or '.join(map(str, files))}; {PROJECT_FILE} names it"
    )
