"""The real dbt project over a feed that a test writes line by line, and its full rebuild.

The incremental side is dbt itself, in this process. The full side is the SQL that dbt compiles for
a first build, run as it is by a DuckDB of its own: nothing of how increments work is in it.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb

from hindcast import snapshot
from hindcast.replay.commands import let_go

ROOT = Path(__file__).parents[2]
PARTS = ["models", "macros", "seeds", "feature_repo"]
FILES = ["dbt_project.yml", "profiles.yml"]
OLD = 1_500_000_000
"""Where files are given a time of change: long ago, so that those left alone are not read again."""


class Lab:
    """A copy of the project, its feed, and what a full rebuild of that gives."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for part in PARTS:
            shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
        for file in FILES:
            shutil.copy(ROOT / file, root / file)
        self.raw = root / "data" / "raw"
        self._clock = OLD

    # ---- the feed

    def write(self, source: str, file: str, lines: Iterable[str]) -> None:
        """A file of the feed, with its header, put in place in one step."""
        header = self.headers[source]
        path = self.raw / source / file
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text("\n".join([header, *lines]) + "\n")
        self._clock += 1
        os.utime(part, (self._clock, self._clock))
        os.replace(part, path)

    def land(self, until: str) -> dict[str, list[str]]:
        """The real feed up to an instant: its lines by source. Nothing of it stays on disk."""
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        out = self.root / "landed"
        command = [sys.executable, "-m", "landing", "--until", until, "--out", str(out)]
        subprocess.run(command, cwd=self.root, env=env, check=True, capture_output=True)
        self.headers, lines = {}, {}
        for folder in sorted(out.iterdir()):
            if folder.is_dir():
                texts = [file.read_text().splitlines() for file in sorted(folder.glob("*.csv"))]
                self.headers[folder.name] = texts[0][0]
                lines[folder.name] = [line for text in texts for line in text[1:]]
        shutil.rmtree(out)
        return lines

    def fields(self, source: str, line: str) -> dict[str, str]:
        """A line's fields by name."""
        return dict(
            zip(self.headers[source].split(","), next(csv.reader(io.StringIO(line))), strict=True)
        )

    # ---- dbt

    def start(self) -> None:
        """Parse, compile what a first build runs, and load the seeds."""
        from dbt.cli.main import dbtRunner

        parsed = dbtRunner().invoke(["parse", *self._places()])
        assert parsed.success, parsed.exception
        self._runner = dbtRunner(manifest=parsed.result)
        nodes = parsed.result.nodes.values()
        self.models = {node.name: node for node in nodes if node.resource_type == "model"}
        self.dbt("seed")
        self.dbt("compile")
        self._full = self._in_order()

    def dbt(self, verb: str, *arguments: str, publish: bool = False) -> None:
        """Run dbt here; it must succeed."""
        settings = ["--vars", f"{{publish: {str(publish).lower()}}}"]
        answer = self._runner.invoke([verb, *arguments, *settings, *self._places()])
        failed = [
            (result.node.name, result.message)
            for result in answer.result or []
            if result.status in ("error", "fail")
        ]
        assert answer.success, (answer.exception, failed)

    def stop(self) -> None:
        """Let go of the warehouse: dbt would take that of another lab in this process for it."""
        let_go()

    def _places(self) -> list[str]:
        home = ["--project-dir", str(self.root), "--profiles-dir", str(self.root)]
        return [*home, "--quiet", "--no-write-json", "--log-level-file", "none"]

    def _in_order(self) -> list[tuple[str, str]]:
        """Each model's table and the SQL of its first build, parents first."""
        done: list[tuple[str, str]] = []
        left = {node.unique_id: node for node in self.models.values() if node.name != "raw_files"}
        while left:
            for name, node in list(left.items()):
                if not set(node.depends_on.nodes) & set(left):
                    done.append((node.relation_name, node.compiled_code))
                    del left[name]
        return done

    def forget(self) -> None:
        """Take the warehouse back to where nothing was built but the seeds."""
        with self.connected() as warehouse:
            for schema in ("staging", "intermediate", "features", "training", "hindcast"):
                warehouse.execute(f"drop schema if exists {schema} cascade")
        shutil.rmtree(self.raw, ignore_errors=True)

    def connected(self) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect(str(self.root / "data" / "warehouse.duckdb"))
        connection.execute("set TimeZone = 'UTC'")
        return connection

    # ---- the comparison

    def differences(self) -> list[str]:
        """Tables that are not, row for row and bit for bit, what a full rebuild gives."""
        found = []
        with self.connected() as warehouse, duckdb.connect() as full:
            full.execute("set TimeZone = 'UTC'; set threads = 1")
            full.execute("attach ':memory:' as warehouse; use warehouse")
            full.execute(_raw_lines())
            seed = warehouse.execute("from extra_airports").to_arrow_table()
            full.register("seeded", seed)
            full.execute("create table warehouse.main.extra_airports as from seeded")
            for schema in ("staging", "intermediate", "features", "training"):
                full.execute(f"create schema {schema}")
            for table, sql in self._full:
                full.execute(f"create table {table} as {sql}")
                for say in ("describe", "from"):
                    order = " order by all" if say == "from" else ""
                    expected = full.execute(f"{say} {table}{order}").fetchall()
                    got = warehouse.execute(f"{say} {table}{order}").fetchall()
                    if repr(got) != repr(expected):  # repr tells -0.0 from 0.0
                        odd = set(map(repr, got)) ^ set(map(repr, expected))
                        found.append(f"{table}: {len(odd)} rows, such as {sorted(odd)[:3]}")
        return found

    def unlike_published(self) -> list[str]:
        """Published tables that are not the warehouse's, or not as their snapshot says they are."""
        now = snapshot.current(self.root / "data" / "published")
        before = now.path.parent / (now.previous or now.id)
        found = []
        with self.connected() as warehouse:
            for name, rows in now.tables.items():
                node = self.models[name]
                period = "known_at" if "feature_view" in node.config.meta else "predict_at"
                here = f"from read_parquet('{now.path}/{name}.parquet')"
                there = f"from read_parquet('{before}/{name}.parquet')"
                counted = warehouse.execute(f"select count(*) {here}").fetchone()
                if counted != (rows,) or _unlike(warehouse, here, f"from {node.relation_name}"):
                    found.append(f"{name}: published is not what was built")
                changed = now.changed_from[name]
                as_before = "" if changed is None else f" where {period} < '{changed.isoformat()}'"
                if changed != snapshot.BEGINNING and _unlike(
                    warehouse, here + as_before, there + as_before
                ):
                    found.append(f"{name}: changed before {changed}")
        return found

    def noted(self) -> list[Any]:
        """What the next run would build again."""
        with self.connected() as warehouse:
            return warehouse.execute("from hindcast.pending").fetchall()


def _unlike(warehouse: duckdb.DuckDBPyConnection, one: str, other: str) -> list[Any]:
    return warehouse.execute(
        f"(({one}) except all ({other})) union all (({other}) except all ({one}))"
    ).fetchall()


def _raw_lines() -> str:
    text = (ROOT / "macros" / "raw_files.sql").read_text()
    found = re.search(r"{% macro create_raw_lines\(\) %}(.*?){% endmacro %}", text, re.DOTALL)
    assert found
    return found[1]
