"""What must be true after the worst day, each as a check with a name.

The run is held against a reference: the same feed, landed, built and materialized in one go in a
room where nothing went wrong. Equal means bit for bit. Not for making faults: see `faults`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from hindcast import snapshot
from hindcast.config import ProjectConfig
from hindcast.replay.outcomes import log_files
from hindcast.sql import literal, quote

BOOKKEEPING = ("hindcast",)
"""Schemas that say when a file was taken in: never equal in two runs."""


@dataclass(frozen=True)
class Check:
    """One thing that must be true: whether it is, and what was looked at."""

    name: str
    passed: bool
    found: str


@dataclass
class Watch:
    """Looks at what is published all the time, as a reader would, until it is told to stop."""

    published: Path
    looks: int = 0
    snapshots: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin at once."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        last = ""
        while not self._stop.is_set():
            if not (self.published / snapshot.CURRENT).is_symlink():
                time.sleep(0.05)
                continue
            fault = half_published(self.published)
            self.looks += 1
            now = self.published / snapshot.CURRENT
            name = now.readlink().name if now.is_symlink() else ""
            self.snapshots.add(name)
            if fault and fault not in self.faults:
                self.faults.append(fault)
            time.sleep(0.01 if name != last else 0.1)
            last = name


def half_published(published: Path) -> str | None:
    """What is wrong with the current snapshot: its files against its own description."""
    path = (published / snapshot.CURRENT).resolve()
    try:
        described = snapshot.read(path)
        for name, rows in described.tables.items():
            files = _table_files(path / f"{name}.parquet")
            found = sum(pq.read_metadata(file).num_rows for file in files)
            if not files or found != rows:
                return f"{path.name}: {name} has {found} rows, not {rows}"
    except Exception as error:
        if not path.exists():
            return None  # pruned while we looked: a reader of it would have read on
        return f"{path.name}: {error!r}"
    return None


def raw_equal(raw: Path, reference: Path) -> Check:
    """No raw record lost or counted twice: the same files, byte for byte, as the feed delivers."""
    here, there = _files(raw), _files(reference)
    different = [name for name in here.keys() | there.keys() if here.get(name) != there.get(name)]
    lines = sum(content.count(b"\n") - 1 for content in there.values())
    found = f"{len(there)} files with {lines:,} records"
    if different:
        found += f"; {len(different)} differ: {', '.join(sorted(different)[:5])}"
    return Check("raw records are those of the feed", not different, found)


def quarantined(
    warehouse: Path, table: str, project: Path, raw: Path
) -> dict[tuple[str, int], str | None]:
    """The reason for each line in quarantine, by its file's path from `raw` and its number.

    By the path, not the name: files of two sources may have the same. What lies elsewhere is left
    out. The table's paths are as dbt saw them, from the project's folder.
    """
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        rows = connection.execute(f"select file_path, line_number, reason from {table}").fetchall()
    home = Path(os.path.realpath(raw))
    found = [(Path(os.path.realpath(project / file)), line, reason) for file, line, reason in rows]
    return {
        (file.relative_to(home).as_posix(), line): reason
        for file, line, reason in found
        if file.is_relative_to(home)
    }


def warehouse_equal(
    one: Path, other: Path, stamps: Mapping[str, Iterable[str]] | None = None
) -> Check:
    """Every table and view of the warehouse, quarantine included, bit for bit.

    `stamps`: columns, by `schema.table`, that are never equal in two runs.
    """
    left_out = {
        ".".join(map(quote, table.split("."))): set(names)
        for table, names in (stamps or {}).items()
    }
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        for name, file in (("one", one), ("other", other)):
            _take_views(connection, name, file)
            connection.execute(f"attach {literal(str(file))} as {name} (read_only)")
        tables = {name: _tables(connection, name) for name in ("one", "other")}
        faults = [f"{t} is in one only" for t in sorted(tables["one"] ^ tables["other"])]
        rows = 0
        for table in sorted(tables["one"] & tables["other"]):
            fault, count = _differ(
                connection, f"one.{table}", f"other.{table}", left_out.get(table, set())
            )
            rows += count
            faults += [f"{table}: {fault}"] * bool(fault)
        views = {name: _tables(connection, f"views_{name}") for name in ("one", "other")}
        faults += [f"{v} is in one only" for v in sorted(views["one"] ^ views["other"])]
        for view in sorted(views["one"] & views["other"]):
            fault, count = _differ(connection, f"views_one.{view}", f"views_other.{view}")
            rows += count
            faults += [f"{view}: {fault}"] * bool(fault)
    found = f"{len(tables['other'])} tables, {len(views['other'])} views, {rows:,} rows"
    return Check("the warehouse equals a run without faults", not faults, _with(found, faults))


def published_equal(one: Path, other: Path) -> Check:
    """Every published table, bit for bit."""
    a, b = snapshot.current(one), snapshot.current(other)
    faults = [f"{name} is in one only" for name in sorted(a.tables.keys() ^ b.tables.keys())]
    rows = 0
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        for name in sorted(a.tables.keys() & b.tables.keys()):
            fault, count = _differ(
                connection, *(f"read_parquet({_pattern(s.path, name)})" for s in (a, b))
            )
            rows += count
            faults += [f"{name}: {fault}"] * bool(fault)
    found = f"{len(b.tables)} tables, {rows:,} rows"
    return Check("what is published equals it", not faults, _with(found, faults))


def all_served(repo: Path, config: ProjectConfig, start: datetime, end: datetime) -> Check:
    """Every row of the spine predicted in the period is in the log of what was served.

    A row is there again where its tick was tried again after it was logged: with the same score.
    """
    from feast import FeatureStore

    from hindcast.offline_store import query

    assert config.replay is not None
    store = FeatureStore(repo_path=str(repo))
    key, score = [*config.replay.row], config.replay.score
    due = query(
        store.config,
        f"select {', '.join(map(quote, key))} from {config.spine} "
        f"where predict_at >= timestamptz {literal(start.isoformat())} "
        f"and predict_at < timestamptz {literal(end.isoformat())}",
    ).to_pandas()
    parts = [pq.read_table(file, columns=[*key, score]) for file in log_files(store, config)]
    logged = pa.concat_tables(parts).to_pandas() if parts else due.assign(**{score: 0.0})[:0]
    served = logged.drop_duplicates()
    both = due.merge(served, on=key, how="outer", indicator=True)["_merge"].value_counts()
    faults = [
        f"{number:,} {what}"
        for what, number in (
            ("not served", both["left_only"]),
            ("served that were not due", both["right_only"]),
            ("served with two scores", int(served.duplicated(key).sum())),
        )
        if number
    ]
    again = len(logged) - len(served)
    found = f"{len(due):,} predictions due, {again:,} logged again as they were"
    return Check("every prediction was served and logged", not faults, _with(found, faults))


def online_equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> Check:
    """Every row of the online store, by view and key as `online_rows` gives them."""
    faults = []
    for view in sorted(one.keys() | other.keys()):
        a, b = one.get(view, {}), other.get(view, {})
        different = sum(a.get(key) != b.get(key) for key in a.keys() | b.keys())
        faults += [f"{view}: {different} entities"] * bool(different)
    found = f"{len(other)} views, {sum(map(len, other.values())):,} entities"
    return Check("the online store equals it", not faults, _with(found, faults))


def online_rows(repo: Path) -> dict[str, dict[bytes, Any]]:
    """What an online store of this library would serve: values by view and key.

    A row past its view's TTL is as good as none, and is left out: a store that is filled anew goes
    back no further.
    """
    from feast import FeatureStore

    from hindcast.online_store import PackedOnlineStore, read_state, table_name
    from hindcast.packed import whole

    store = FeatureStore(repo_path=str(repo))
    online = store._get_provider().online_store
    if not isinstance(online, PackedOnlineStore):
        return {}
    found = {}
    for view in store.list_feature_views():
        with online.engine(store.config).writing(table_name(store.config, view)) as writer:
            rows = {bytes(key): whole(bytes(row)) for key, row in writer.scan()}
            state, _ = read_state(bytes(writer.description() or b""))
        ttl = view.ttl // timedelta(microseconds=1) if view.ttl else None
        oldest = None if ttl is None or state.until is None else state.until - ttl
        found[view.name] = {
            key: repr(row) for key, row in rows.items() if oldest is None or row[0] >= oldest
        }
    return found


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.csv"))
    }


def _take_views(connection: duckdb.DuckDBPyConnection, name: str, file: Path) -> None:
    """What a warehouse's views say, as tables: they name the warehouse by its file."""
    own = quote(file.stem)
    connection.execute(f"attach {literal(str(file))} as {own} (read_only)")
    connection.execute(f"attach ':memory:' as views_{name}")
    rows = connection.execute(
        "select schema_name, view_name from duckdb_views() "
        "where database_name = ? and not internal",
        [file.stem],
    ).fetchall()
    for schema, view in rows:
        connection.execute(f"create schema if not exists views_{name}.{quote(schema)}")
        connection.execute(
            f"create table views_{name}.{quote(schema)}.{quote(view)} as "
            f"from {own}.{quote(schema)}.{quote(view)}"
        )
    connection.execute(f"detach {own}")


def _tables(connection: duckdb.DuckDBPyConnection, database: str) -> set[str]:
    rows = connection.execute(
        "select schema_name, table_name from duckdb_tables() where database_name = ?", [database]
    ).fetchall()
    return {f"{quote(s)}.{quote(t)}" for s, t in rows if s not in BOOKKEEPING}


def _differ(
    connection: duckdb.DuckDBPyConnection,
    one: str,
    other: str,
    left_out: Collection[str] = (),
) -> tuple[str | None, int]:
    """How two tables differ, and how many rows they have. As text, every value is exact."""
    shapes = [
        [(name, kind) for name, kind, *_ in connection.execute(f"describe from {t}").fetchall()]
        for t in (one, other)
    ]
    if shapes[0] != shapes[1]:
        return "columns or types differ", 0
    text = ", ".join(f"{quote(name)}::varchar" for name, _ in shapes[0] if name not in left_out)
    counted = connection.execute(
        f"""
        with a as (select {text} from {one}), b as (select {text} from {other})
        select (select count(*) from a), (select count(*) from b),
            (select count(*) from (from a except all from b))
        """
    ).fetchone()
    assert counted is not None
    mine, theirs, apart = counted
    if mine != theirs or apart:
        return f"{mine:,} rows against {theirs:,}, {apart:,} of them others", int(theirs)
    return None, int(theirs)


def _table_files(table: Path) -> list[Path]:
    """A published table is a directory of files; a single file is one too."""
    return [table] if table.is_file() else sorted(table.rglob("*.parquet"))


def _pattern(path: Path, name: str) -> str:
    table = path / f"{name}.parquet"
    return literal(str(table if table.is_file() else table / "**" / "*.parquet"))


def _with(found: str, faults: Iterable[str]) -> str:
    return "; ".join([found, *list(faults)[:5]])
