"""Is an installation and a project fit to run? Each thing looked at, and what to do about it.

A check looks at one thing for real: it opens the file, reads the registry, asks the online store.
One that cannot be made because another found the cause is left out. Nothing is changed. Not for
the quality of features or of the model: that is `hindcast audit`, `parity` and `monitor`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from hindcast import fit, lock, loop, records, runs, snapshot, status
from hindcast.config import FILE, ProjectConfig, load_config, utc_text
from hindcast.errors import HindcastError

if TYPE_CHECKING:
    from feast import FeatureStore

DISTRIBUTION = "hindcast"
OK, WARN, WRONG = "ok", "warn", "wrong"


@dataclass(frozen=True)
class Finding:
    """What one check found. `todo` says what to do, where something is to be done."""

    check: str
    state: str
    found: str
    todo: str = ""

    def as_dict(self) -> dict[str, str]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Patient:
    """The project under examination."""

    root: Path
    config: ProjectConfig
    at: datetime

    @property
    def repo(self) -> str:
        return str(self.config.feature_repo)


def examine(project_dir: Path, at: datetime | None = None) -> Iterator[Finding]:
    """Every finding, in the order to mend them in, each as soon as it is there.

    `at` is the instant to judge freshness at; None: that of `hindcast.yml`.
    """
    yield from _python()
    yield from _packages()
    try:
        config = load_config(project_dir)
    except HindcastError as fault:
        yield Finding("hindcast.yml", WRONG, str(fault), f"mend {FILE}, or go to its directory")
        return
    yield Finding("hindcast.yml", OK, f"{len(config.steps)} steps")
    patient = _Patient(project_dir, config, at or config.at)
    for check in (_paths, _writable, _disk, _commands, _running, _records, _warehouse, _published):
        yield from _told(check.__name__, check(patient))
    manifest = list(_told("definitions", _definitions(patient)))
    yield from manifest
    try:
        store = status.open_store(project_dir, config)
    except Exception as fault:  # Feast's own errors are of every kind
        yield Finding(
            "registry",
            WRONG,
            f"it cannot be read: {fault}",
            f"feast -c {patient.repo} apply  # and see {patient.repo}/feature_store.yaml",
        )
        return
    if manifest[-1].state != WRONG:
        yield from _told("registry", _registry(patient, store))
    yield from _told("online store", _online(patient, store))
    yield from _told("freshness", _fresh(patient, store))
    yield from _told("model", _model(patient))
    yield from _told("model fit", _model_fit(patient))


def _told(name: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """A check that runs into a mistake of the project's has found it."""
    try:
        yield from findings
    except (HindcastError, OSError, duckdb.Error) as fault:
        yield Finding(
            name.strip("_"), WRONG, str(fault), "see what it says; then `hindcast doctor` again"
        )


# --- the installation -----------------------------------------------------------------------


def _python() -> Iterator[Finding]:
    wanted = importlib.metadata.metadata(DISTRIBUTION)["Requires-Python"]
    version = ".".join(map(str, sys.version_info[:3]))
    if SpecifierSet(wanted).contains(version):
        yield Finding("python", OK, f"{version} ({sys.executable})")
    else:
        yield Finding(
            "python",
            WRONG,
            f"{version}, and {wanted} is needed",
            "make the environment anew with such a Python: make PYTHON=python3.12 setup",
        )


def _packages() -> Iterator[Finding]:
    """Each requirement of this package against what is installed; extras if they are there."""
    count, faults, without = 0, [], set()
    for text in importlib.metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(text)
        extras = _extras(requirement)
        if requirement.name == DISTRIBUTION:
            continue
        if not extras and requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            without |= extras
            if not extras:
                faults.append(f"{requirement.name} is not installed")
            continue
        count += 1
        if not requirement.specifier.contains(installed, prereleases=True):
            faults.append(f"{requirement.name} is {installed}, not {requirement.specifier}")
    if faults:
        yield Finding("packages", WRONG, "; ".join(faults), "make setup  # from the lock file")
    else:
        extra = f"; extras not installed: {', '.join(sorted(without))}" if without else ""
        yield Finding("packages", OK, f"{count} as required{extra}")


def _extras(requirement: Requirement) -> set[str]:
    """The extras that a requirement belongs to."""
    names = importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    marker = requirement.marker
    if marker is None or marker.evaluate({"extra": ""}):
        return set()
    return {name for name in names if marker.evaluate({"extra": name})}


# --- the project's files --------------------------------------------------------------------


def _paths(patient: _Patient) -> Iterator[Finding]:
    needed = ["dbt_project.yml", "profiles.yml", f"{patient.repo}/feature_store.yaml"]
    missing = [name for name in needed if not (patient.root / name).is_file()]
    if missing:
        yield Finding(
            "paths",
            WRONG,
            f"not there: {', '.join(missing)}",
            f"bring them back, or name the right feature_repo in {FILE}",
        )
    else:
        yield Finding("paths", OK, ", ".join(needed))


def _writable(patient: _Patient) -> Iterator[Finding]:
    """What the steps write to: the folders, and what is in them at the top."""
    places = [patient.root / name for name in ("data", "target", "artifacts", "logs")]
    found = [place for place in places if place.exists()] or [patient.root]
    files = [file for place in found if place.is_dir() for file in place.iterdir()]
    closed = [p for p in [*found, *files] if not os.access(p, os.W_OK) and not p.is_symlink()]
    if closed:
        names = ", ".join(str(path.relative_to(patient.root)) for path in closed[:5])
        yield Finding(
            "permissions",
            WRONG,
            f"process owner {_user()} may not write {names}"
            + (f" and {len(closed) - 5} more" if len(closed) > 5 else ""),
            f"run as their owner, or: chown -R {_user()} {names.split(',')[0]}",
        )
    else:
        yield Finding("permissions", OK, f"{_user()} may write {_names(found, patient.root)}")


def _names(paths: list[Path], root: Path) -> str:
    return ", ".join("." if path == root else path.name for path in paths)


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _disk(patient: _Patient) -> Iterator[Finding]:
    """Room for one build more: the warehouse and a snapshot once again, and what is asked for."""
    data = patient.root / "data"
    place = data if data.exists() else patient.root
    free = shutil.disk_usage(place).free
    current = data / "published" / snapshot.CURRENT
    files = [*data.glob("*.duckdb"), *(current.rglob("*.parquet") if current.exists() else ())]
    needed = sum(file.stat().st_size for file in files) + patient.config.doctor.free_gb * 1e9
    said = f"{free / 1e9:,.1f} GB free at {place}, {needed / 1e9:,.1f} GB needed for the next build"
    if free < needed:
        yield Finding(
            "disk", WRONG, said, "make room: old runs in artifacts/, then keep_snapshots of dbt"
        )
    else:
        yield Finding("disk", OK, said)


def _commands(patient: _Patient) -> Iterator[Finding]:
    config = patient.config
    commands = [(f"step {step.name}", step.run) for step in config.steps]
    if config.summary:
        commands.append(("summary", config.summary))
    commands += [(f"ui {page.name}", page.run) for page in config.ui]
    path = loop.environment(patient.root)["PATH"]
    missing = []
    for name, command in commands:
        words = shlex.split(command)
        if shutil.which(words[0], path=path) is None:
            missing.append(f"{name}: no program {words[0]}")
        elif words[1:2] == ["-m"] and not _is_module(words[2], patient.root):
            missing.append(f"{name}: no module {words[2]}")
    if missing:
        yield Finding(
            "commands",
            WRONG,
            "; ".join(missing),
            f"mend the command in {FILE}, or install what it needs (make setup)",
        )
    else:
        yield Finding("commands", OK, f"{len(commands)} commands of {FILE} found")


def _is_module(name: str, root: Path) -> bool:
    path = Path(root, *name.split("."))
    if path.with_suffix(".py").exists() or (path / "__main__.py").exists():
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


# --- what is at work, and what was ----------------------------------------------------------


def _running(patient: _Patient) -> Iterator[Finding]:
    holder = lock.holder(patient.root)
    if holder is None:
        yield Finding("lock", OK, "no run is at work")
    elif holder.is_alive:
        yield Finding("lock", WARN, str(holder), "what is below may change while it works")
    else:
        yield Finding(
            "lock",
            WRONG,
            str(holder),
            f"let that step end, or end it (kill {holder.step_pid}); then "
            f"`hindcast {'run --resume' if holder.what == 'run' else 'retrain'}`",
        )


def _records(patient: _Patient) -> Iterator[Finding]:
    if not (patient.root / records.FILE).exists():
        yield Finding("runs", WARN, "no run is on record", "hindcast run")
        return
    try:
        newest = runs.last_whole(patient.root, None)
    except (HindcastError, duckdb.Error) as fault:
        yield Finding(
            "runs",
            WRONG,
            f"{records.FILE} cannot be read: {fault}",
            "move it away: a new one is begun (the history of runs is in the old one)",
        )
        return
    if newest is None:
        yield Finding("runs", WARN, "no run of the whole loop is on record", "hindcast run")
    elif newest.outcome in ("failed", "killed"):
        yield Finding(
            "runs",
            WARN,
            f"run {newest.run_id} for {utc_text(newest.at)} {newest.outcome} at step "
            f"{newest.stopped_at}",
            f"hindcast run --resume --at {utc_text(newest.at)}",
        )
    else:
        yield Finding(
            "runs", OK, f"run {newest.run_id} for {utc_text(newest.at)}: {newest.outcome}"
        )


def _warehouse(patient: _Patient) -> Iterator[Finding]:
    """The files that dbt writes to, as far as they are below `data/`."""
    mine = patient.root / records.FILE
    for file in sorted((patient.root / "data").glob("*.duckdb")):
        if file == mine:
            continue
        try:
            with duckdb.connect(str(file), read_only=True) as con:
                con.execute("select count(*) from duckdb_tables()").fetchone()
        except duckdb.Error as fault:
            is_locked = "lock" in str(fault)
            yield Finding(
                "warehouse",
                WARN if is_locked else WRONG,
                f"{file.relative_to(patient.root)} cannot be opened: {fault}",
                "another process has it open: a build waits for it or fails; see who, and end it"
                if is_locked
                else "move it away and `dbt build`: it is made anew from the raw files",
            )
        else:
            yield Finding("warehouse", OK, f"{file.relative_to(patient.root)} opens")


def _published(patient: _Patient) -> Iterator[Finding]:
    """The current snapshot: every table it names is there, with the rows it says."""
    todo = "dbt build  # publishes a whole one"
    try:
        current = snapshot.current(patient.root / snapshot.PUBLISHED.parent)
    except (HindcastError, OSError, ValueError, KeyError) as fault:
        yield Finding("snapshot", WRONG, f"none that can be read: {fault}", todo)
        return
    faults = []
    with duckdb.connect() as con:
        for name, rows in sorted(current.tables.items()):
            file = current.path / f"{name}.parquet"
            if not file.exists():
                faults.append(f"{file.name} is not there")
                continue
            try:
                (found,) = con.execute(
                    "select count(*) from read_parquet(?)", [str(file)]
                ).fetchone() or (0,)
            except duckdb.Error as fault:
                faults.append(f"{file.name} cannot be read ({str(fault).splitlines()[0]})")
                continue
            if found != rows:
                faults.append(f"{file.name} has {found:,} rows and should have {rows:,}")
    if faults:
        yield Finding("snapshot", WRONG, f"{current.id}: {'; '.join(faults)}", todo)
    else:
        what = f"{len(current.tables)} tables, {current.row_count:,} rows"
        yield Finding("snapshot", OK, f"{current.id} is whole: {what}")


# --- the registry, the online store, the model ----------------------------------------------


def _definitions(patient: _Patient) -> Iterator[Finding]:
    from hindcast.dbt import load_project

    try:
        spec = load_project(patient.root)
    except HindcastError as fault:
        yield Finding(
            "definitions", WRONG, str(fault), "mend what is named, then `dbt parse` (or build)"
        )
        return
    found = f"{len(spec.views)} feature views, {len(spec.services)} services in dbt's manifest"
    if patient.config.feature_service in {service.name for service in spec.services}:
        yield Finding("definitions", OK, found)
    else:
        yield Finding(
            "definitions",
            WRONG,
            f"{FILE} names feature service {patient.config.feature_service}, which no ml exposure "
            f"of dbt declares ({', '.join(s.name for s in spec.services) or 'there is none'})",
            "name one of them, or declare the exposure",
        )


def _registry(patient: _Patient, store: FeatureStore) -> Iterator[Finding]:
    """What `feast plan` would change, as Feast itself works it out."""
    apply = f"feast -c {patient.repo} apply"
    try:
        changes = _changes(store, patient.root / patient.config.feature_repo)
    except (HindcastError, ValueError, ImportError) as fault:
        yield Finding("registry", WRONG, f"the definitions cannot be read: {fault}", apply)
        return
    if changes:
        yield Finding(
            "registry", WRONG, f"it differs from dbt's definitions: {'; '.join(changes)}", apply
        )
    else:
        count = len(store.list_feature_views())
        yield Finding("registry", OK, f"its {count} feature views are what dbt's manifest says")


def _changes(store: FeatureStore, repo: Path) -> list[str]:
    from feast import Project
    from feast.diff.property_diff import TransitionType
    from feast.repo_operations import parse_repo

    with chdir(repo), _importable(Path.cwd()):
        contents = parse_repo(Path())
        contents.projects.append(Project(name=store.project))
        difference, _, _ = store.plan(contents)
    return [
        f"{change.feast_object_type.value} {change.name}: "
        + (
            ", ".join(sorted({p.property_name for p in change.feast_object_property_diffs}))
            or change.transition_type.name.lower()
        )
        for change in difference.feast_object_diffs
        if change.transition_type != TransitionType.UNCHANGED
        and change.feast_object_type.value != "project"
    ]


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _online(patient: _Patient, store: FeatureStore) -> Iterator[Finding]:
    from hindcast.online import OnlineReader

    fill = f"feast -c {patient.repo} materialize-incremental {utc_text(patient.at)}"
    try:
        reader = OnlineReader(store, patient.config.feature_service)
        try:
            reader.check()
            unfilled = reader.unfilled()
        finally:
            reader.close()
    except (HindcastError, OSError) as fault:
        yield Finding(
            "online store",
            WRONG,
            f"it cannot be read: {fault}",
            f"start it, or mend online_store in {patient.repo}/feature_store.yaml; then: {fill}",
        )
        return
    if unfilled:
        yield Finding("online store", WRONG, f"never filled: {', '.join(unfilled)}", fill)
    else:
        yield Finding("online store", OK, "it answers, and every view was filled")


def _fresh(patient: _Patient, store: FeatureStore) -> Iterator[Finding]:
    ages = status.view_ages(store, patient.root, patient.at)
    old = [view for view in ages if view.state == "stale"]
    if old:
        said = "; ".join(f"{v.view} is {v.age} old, its TTL is {v.ttl}" for v in old)
        yield Finding(
            "freshness",
            WRONG,
            f"at {utc_text(patient.at)}: {said}",
            f"hindcast run --at {utc_text(patient.at)}  # or see why no newer records are landed",
        )
    else:
        yield Finding(
            "freshness", OK, f"{len(ages)} views within their TTL at {utc_text(patient.at)}"
        )


def _model(patient: _Patient) -> Iterator[Finding]:
    from hindcast.errors import MissingInputError

    try:
        model = status.current_model(patient.root, patient.config)
    except MissingInputError as fault:
        yield Finding("model", WARN, str(fault), "hindcast run")
        return
    if model is None:
        return
    service = patient.config.feature_service
    if model.feature_service not in (None, service):
        yield Finding(
            "model",
            WRONG,
            f"{model.id} reads feature service {model.feature_service}, and {FILE} names {service}",
            "train again, or name the right one",
        )
    else:
        yield Finding("model", OK, f"{model.id} in {model.path}")


def _model_fit(patient: _Patient) -> Iterator[Finding]:
    """Whether the model in use can be given all that it was trained on."""
    from hindcast.errors import MissingInputError

    try:
        model = status.current_model(patient.root, patient.config)
    except MissingInputError:  # told by `model`
        return
    service = patient.config.feature_service
    if model is None or model.feature_service not in (None, service):
        return
    lacks = fit.misfits(patient.root, patient.config, patient.root / model.path)
    if lacks:
        again = f"hindcast retrain --at {utc_text(patient.at)}  # puts one in use that fits"
        yield Finding(
            "model fit",
            WRONG,
            f"{model.id} does not fit feature service {service}: {'; '.join(lacks)}",
            f"{again if patient.config.retrain else 'train again'}; or bring the columns back, "
            f"`dbt build` and `feast -c {patient.repo} apply`",
        )
    else:
        yield Finding("model fit", OK, f"{model.id} fits feature service {service}")


def worst(findings: list[Finding]) -> str:
    """The worst state of all."""
    states: list[Any] = [finding.state for finding in findings]
    return next((state for state in (WRONG, WARN) if state in states), OK)
