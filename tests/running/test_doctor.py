"""`hindcast doctor` names what is spoiled, for each thing it looks at, and what to do about it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest
from running_projects import Toy

from hindcast import runs, snapshot
from hindcast.kv import LmdbEngine


@contextmanager
def kept(*files):
    """Files as they were, afterwards."""
    before = [(file, file.read_bytes()) for file in files]
    try:
        yield
    finally:
        for file, content in before:
            file.write_bytes(content)


def found(project, options=""):
    """The findings by check, with the exit code that belongs to them."""
    done = project.hindcast(f"doctor --json {options}")
    said = json.loads(done.stdout)
    assert done.exit_code == (0 if said["ok"] else 1)
    return {finding["check"]: finding for finding in said["findings"]}


def wrong(project, options=""):
    findings = found(project, options)
    return {name: f for name, f in findings.items() if f["state"] == "wrong"}


def test_a_project_that_is_well_has_nothing_wrong(ours):
    findings = found(ours.project)
    assert {name for name, f in findings.items() if f["state"] == "wrong"} == set()
    assert set(findings) >= {
        *("python", "packages", "hindcast.yml", "paths", "permissions", "disk", "commands"),
        *("lock", "runs", "warehouse", "snapshot", "definitions", "registry", "online store"),
        "freshness",
    }
    assert "0 wrong" in ours.project.must("doctor")


def test_a_package_of_another_version_is_named(ours, tmp_path):
    """In an environment whose DuckDB says that it is 2.0."""
    other = tmp_path / "duckdb-2.0.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: duckdb\nVersion: 2.0.0\n")
    code = (
        "from hindcast.doctor import _packages\n"
        "for finding in _packages(): print(finding.state, finding.found, finding.todo)"
    )
    path = os.pathsep.join([str(tmp_path), ours.project.env["PYTHONPATH"]])
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=ours.project.env | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.startswith("wrong duckdb is 2.0.0, not <2,>=1.5.6")
    assert "make setup" in said


def test_a_setting_that_does_not_fit_is_the_only_thing_told(ours):
    file = ours.project.root / "hindcast.yml"
    with kept(file):
        file.write_text(file.read_text() + "no_such_setting: 1\n")
        assert "no_such_setting" in wrong(ours.project)["hindcast.yml"]["found"]


def test_a_missing_file_and_an_unknown_command_are_named(ours):
    file, profiles = ours.project.root / "hindcast.yml", ours.project.root / "profiles.yml"
    with kept(file, profiles):
        profiles.unlink()
        text = file.read_text().replace("python -m landing", "python -m no_such.module")
        file.write_text(text.replace("dbt build", "no-such-program build"))
        findings = wrong(ours.project)
    assert "profiles.yml" in findings["paths"]["found"]
    assert "step land: no module no_such.module" in findings["commands"]["found"]
    assert "step build: no program no-such-program" in findings["commands"]["found"]


def test_a_disk_without_room_is_named(ours):
    file = ours.project.root / "hindcast.yml"
    with kept(file):
        file.write_text(file.read_text() + "doctor: {free_gb: 10000000}\n")
        assert "10,000,000" in wrong(ours.project)["disk"]["found"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_files_that_may_not_be_written_are_named():
    """For a user that is neither their owner nor root."""
    code = (
        "import os\n"
        "from pathlib import Path\n"
        "from hindcast import config, doctor\n"
        "project = config.load_config(Path('.'))\n"
        "patient = doctor._Patient(Path('.'), project, project.at)\n"
        "for user in (0, 65534):\n"
        "    os.setuid(user)\n"
        "    for it in doctor._writable(patient): print(it.state, it.found, it.todo)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        project = Toy(Path(folder))
        (project.root / "data").mkdir(mode=0o755)
        (project.root / "data/hindcast.duckdb").touch(mode=0o644)
        (project.root / "target").mkdir()
        os.chmod(project.root / "target", 0o777)
        said = subprocess.run(
            [sys.executable, "-c", code],
            cwd=project.root,
            env=project.env,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    good, bad = said.splitlines()
    assert good.startswith("ok root may write data, target")
    assert bad.startswith("wrong")
    assert "may not write data, data/hindcast.duckdb" in bad
    assert "target" not in bad
    assert "chown -R" in bad


def test_a_run_that_was_killed_is_named_with_the_way_on(ours):
    at = runs.now().replace(microsecond=0)
    runs.begin(ours.project.root, at, ["land"], True, pid=2**22 - 1)
    try:
        finding = found(ours.project)["runs"]
        assert finding["state"] == "warn"
        assert "killed" in finding["found"]
        assert "hindcast run --resume --at" in finding["todo"]
    finally:
        with duckdb.connect(ours.project.root / "data/hindcast.duckdb") as con:
            con.execute(f"delete from runs where pid = {2**22 - 1}")


def test_records_and_a_warehouse_that_are_no_database_are_named(ours):
    files = [ours.project.root / "data" / name for name in ("hindcast.duckdb", "warehouse.duckdb")]
    with kept(*files):
        for file in files:
            file.write_bytes(b"not a database" * 1000)
        findings = wrong(ours.project)
    assert "move it away" in findings["runs"]["todo"]
    assert "dbt build" in findings["warehouse"]["todo"]


def test_a_warehouse_that_another_process_holds_is_told(ours):
    code = (
        "import duckdb, sys\n"
        "con = duckdb.connect('data/warehouse.duckdb')\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ours.project.root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        finding = found(ours.project)["warehouse"]
        assert finding["state"] == "warn"
        assert str(holder.pid) in finding["found"]
    finally:
        holder.communicate("")


def test_a_snapshot_that_is_not_whole_is_named_table_by_table(ours):
    current = ours.project.root / "data/published/current"
    cut, short = (
        min((current / f"{name}.parquet").iterdir()) for name in ("airport_state", "route_history")
    )
    gone = current / "origin_weather.parquet"
    lost = duckdb.sql(f"from read_parquet('{short}')").count("*").fetchall()[0][0] - 5
    with kept(cut, short):
        cut.write_bytes(cut.read_bytes()[:-100])
        gone.rename(away := gone.with_suffix(".away"))
        duckdb.sql(
            f"copy (select * from read_parquet('{short}') limit 5) to '{short}.new' "
            "(format parquet)"
        )
        os.replace(f"{short}.new", short)
        said = wrong(ours.project)["snapshot"]
        away.rename(gone)
    assert "airport_state.parquet cannot be read" in said["found"]
    assert "origin_weather.parquet is not there" in said["found"]
    rows = snapshot.read(current).tables["route_history"]
    short_of = f"route_history.parquet has {rows - lost:,} rows and should have {rows:,}"
    assert short_of in said["found"]
    assert said["todo"].startswith("dbt build")


def test_definitions_changed_since_dbt_read_them_are_named(ours):
    file = ours.project.root / "models/features/airport_state.yml"
    manifest = ours.project.root / "target/manifest.json"
    with kept(file):
        file.write_text(file.read_text() + "\n")
        assert "airport_state.yml" in wrong(ours.project)["definitions"]["found"]
    os.utime(manifest)


def test_a_registry_that_differs_from_dbt_is_named_object_by_object(ours):
    """dbt has read another TTL, and one view less; nobody has applied it."""
    manifest = ours.project.root / "target/manifest.json"
    with kept(manifest):
        said = json.loads(manifest.read_text())
        node = said["nodes"]["model.hindcast_flights.airport_state"]
        for meta in (node["meta"], node["config"]["meta"]):
            meta["feature_view"]["ttl"] = "5 days"
        manifest.write_text(json.dumps(said))
        finding = wrong(ours.project)["registry"]
    assert "feature view airport_state: ttl" in finding["found"]
    assert "destination_state" not in finding["found"]
    assert finding["todo"] == "feast -c feature_repo apply"


def test_nothing_registered_and_an_unreadable_registry_are_named(ours):
    registry = ours.project.root / "data/registry.db"
    with kept(registry):
        registry.write_bytes(b"\xff\xfe not a registry")
        assert "feast -c feature_repo apply" in wrong(ours.project)["registry"]["todo"]
        registry.unlink()
        assert "nothing is registered" in wrong(ours.project)["registry"]["found"]


def test_an_online_store_that_is_empty_or_gone_is_named(ours, tmp_path):
    online = ours.project.root / "data/online"
    aside = tmp_path / "online"
    shutil.move(online, aside)
    try:
        finding = wrong(ours.project)["online store"]
        assert "is not there" in finding["found"]
        assert "materialize-incremental 2013-01-03T00:00:00Z" in finding["todo"]
        shutil.rmtree(online, ignore_errors=True)
        online.write_text("a file where the store's folder should be")
        assert "cannot be read" in wrong(ours.project)["online store"]["found"]
        online.unlink()
    finally:
        shutil.move(aside, online)
    LmdbEngine(online, 2**30).close()
    assert "online store" not in wrong(ours.project)


def test_features_past_their_ttl_are_named_with_their_age(ours):
    finding = wrong(ours.project, "--at 2013-01-03T09:00:00Z")["freshness"]
    assert "origin_weather is 9:00:00 old, its TTL is 6:00:00" in finding["found"]
    assert "hindcast run --at 2013-01-03T09:00:00Z" in finding["todo"]


def test_a_model_of_another_service_is_named(ours):
    file = ours.project.root / "hindcast.yml"
    bundle = ours.project.root / "artifacts/latest/manifest.json"
    bundle.parent.mkdir(parents=True)
    with kept(file):
        file.write_text(file.read_text() + "model: artifacts/latest\n")
        try:
            assert found(ours.project)["model"]["state"] == "warn"
            bundle.write_text(json.dumps({"run": "r1", "feature_service": "another"}))
            assert "another" in wrong(ours.project)["model"]["found"]
            bundle.write_text("{")
            assert "does not describe a model" in wrong(ours.project)["model"]["found"]
        finally:
            shutil.rmtree(bundle.parents[1])
