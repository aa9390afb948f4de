"""Small real dbt projects and feature repositories for the tests of this room."""

import contextlib
import json
import shutil
import sys
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner
from dbt.cli.main import dbtRunner
from feast.cli.cli import cli

HERE = Path(__file__).parent


def copy_project(name, destination):
    """A fresh copy of one of the projects beside this file; copies keep their times."""
    return Path(shutil.copytree(HERE / name, destination))


def dbt(project_dir, *args):
    """dbt's command line, without the seconds that starting it takes."""
    with contextlib.chdir(project_dir), pytest.MonkeyPatch.context() as patch:
        patch.setenv("DBT_SEND_ANONYMOUS_USAGE_STATS", "0")
        result = dbtRunner().invoke([*args, "--quiet", "--profiles-dir", "."])
    assert result.success, result.exception or "dbt failed; it has printed why"


def feast(project_dir, *args):
    """Feast's command line, run from the project's root, likewise; gives what it printed."""
    with contextlib.chdir(project_dir), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        for module in ("definitions", "on_demand"):
            patch.delitem(sys.modules, module, raising=False)
        result = CliRunner().invoke(cli, ["-c", "feature_repo", *args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def publish(project_dir):
    """What a build publishes: a folder of Parquet files behind a link."""
    snapshot = project_dir / "data/published/snapshot-1"
    snapshot.mkdir(parents=True)
    with duckdb.connect(project_dir / "shop.duckdb") as connection:
        for (table,) in connection.sql("show tables").fetchall():
            connection.sql(f"from {table}").write_parquet(str(snapshot / f"{table}.parquet"))
    (snapshot.parent / "current").symlink_to(snapshot.name)


def edit(file, old, new):
    """Change a file as a user would, after the manifest was made."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def edit_manifest(project_dir, change):
    """Make the manifest say what no single dbt project can, such as one name twice."""
    path = project_dir / "target/manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
