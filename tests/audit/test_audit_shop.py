"""The audit of a small project that has nothing to do with flights, by its commands.

Its sales are corrected later; its opening hours do not say when they were loaded.
"""

import contextlib
import json
import random
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest
from dbt.cli.main import dbtRunner
from typer.testing import CliRunner

from benchmarks.leaks import ROOT, run
from hindcast.cli import app
from hindcast.snapshot import current

SHOP = Path(__file__).parent / "shop"
MACROS = ("as_of", "generate_schema_name", "publish")
START = datetime(2024, 3, 1, tzinfo=UTC)
HONEST = "order by loaded_at) = 1"
LEAKY = "order by loaded_at desc) = 1"


def write_raw(folder):
    """A sale every few minutes; every fifth is corrected within the hour, to a larger one."""
    chance = random.Random(1)
    sales = []
    for sale in range(1200):
        store, at = chance.choice("NS"), START + timedelta(minutes=4 * sale + 4)
        amount = chance.randrange(10, 900)
        sales.append((sale, store, amount, at))
        if sale % 5 == 0:
            later = at + timedelta(minutes=chance.randrange(30, 60))
            sales.append((sale, store, amount + 2000 + sale, later))
    folder.mkdir(parents=True)
    lines = [f"{s},{store},{amount},{at:%Y-%m-%dT%H:%M:%SZ}" for s, store, amount, at in sales]
    (folder / "sales.csv").write_text("\n".join(["sale_id,store,amount,loaded_at", *lines, ""]))
    (folder / "opening_hours.csv").write_text("store,opens_at_hour\nN,9\nS,10\n")


def make_shop(root):
    shutil.copytree(SHOP, root)
    (root / "macros").mkdir()
    for name in MACROS:
        shutil.copy(ROOT / "macros" / f"{name}.sql", root / "macros")
    write_raw(root / "data" / "raw")
    return root


def dbt(root, *arguments):
    with contextlib.chdir(root):
        answer = dbtRunner().invoke([*arguments, "--quiet", "--profiles-dir", "."])
    return answer


def hindcast(root, *arguments):
    return CliRunner().invoke(app, [arguments[0], "--project", str(root), *arguments[1:]])


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    root = make_shop(tmp_path_factory.mktemp("audit") / "shop")
    assert dbt(root, "run").success
    run(root, "feast -c feature_repo apply")
    return root


@pytest.fixture(scope="module")
def passed(shop):
    """What the audit of the honest project says."""
    return hindcast(shop, "audit", "--instants", "3")


def test_an_honest_project_passes_with_one_line_that_says_what_was_compared(passed):
    assert passed.exit_code == 0, passed.output
    last = passed.stdout.strip().splitlines()[-1]
    assert last.startswith("Audit passed: 3 instants, ")
    assert " 0 differ; " in last


def test_a_source_that_does_not_say_when_it_was_loaded_is_loudly_unaudited(passed):
    assert "UNAUDITED: source till.opening_hours declares no loaded_at_field" in passed.stdout
    assert "1 source UNAUDITED" in passed.stdout.strip().splitlines()[-1]


def test_a_leak_ends_in_exit_code_1_with_the_record_it_came_from(shop, tmp_path):
    root = tmp_path / "shop"
    shutil.copytree(shop, root, symlinks=True)
    model = root / "models" / "features" / "store_sales.sql"
    model.write_text(model.read_text().replace(HONEST, LEAKY))
    assert dbt(root, "run").success

    done = hindcast(root, "audit", "--at", "2024-03-02T12:00:00Z", "--json")

    assert done.exit_code == 1, done.output
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    (replayed,) = found["replay"]
    differ = {view["view"]: view["differ"] for view in replayed["views"] if view["differ"]}
    assert set(differ) == {"store_sales"}
    (trace,) = found["traces"]
    assert trace["view"] == "store_sales"
    at = datetime.fromisoformat(trace["loaded_at"])
    assert datetime(2024, 3, 2, 12, tzinfo=UTC) < at
    corrections = [text for _, text in trace["records"] if "amount=2" in text or "amount=3" in text]
    assert corrections, "what was loaded at that instant is a correction"
    assert {source for source, _ in trace["records"]} == {"till.sales"}
    assert {(f["model"], f["check"]) for f in found["static"]["findings"]} == {
        ("store_sales", "forward window")
    }


def test_a_build_as_of_an_instant_has_its_own_schemas_and_snapshots(shop):
    before = current(shop / "data" / "published")
    built = dbt(shop, "run", "--vars", "{as_of: 2024-03-02T12:00:00+01:00}")

    assert built.success, built.exception
    assert current(shop / "data" / "published") == before
    own = current(shop / "data" / "published_as_of" / "20240302T110000Z")
    with duckdb.connect() as connection:
        latest = "select max(known_at)::varchar from read_parquet('{}/store_sales.parquet')"
        connection.execute("set TimeZone = 'UTC'")
        (as_of,) = connection.execute(latest.format(own.path)).fetchone()
        (full,) = connection.execute(latest.format(before.path)).fetchone()
    assert as_of == "2024-03-02 11:00:00+00"
    assert full > "2024-03-04"
    with duckdb.connect(shop / "data" / "shop.duckdb") as connection:
        counts = {
            schema: connection.execute(f"select count(*) from {schema}.store_sales").fetchone()[0]
            for schema in ("main", "as_of_20240302T110000Z")
        }
    assert 0 < counts["as_of_20240302T110000Z"] < counts["main"]


@pytest.mark.parametrize("said", ["2024-03-02T12:00:00", "2024-03-02", "yesterday"])
def test_as_of_without_a_time_zone_is_refused(shop, said):
    refused = dbt(shop, "run", "--vars", f"{{as_of: {said}}}")
    assert not refused.success
    assert "expected an instant with its time zone" in str(refused.exception)


def test_a_project_that_changed_since_it_was_published_is_not_audited(shop, tmp_path):
    root = tmp_path / "shop"
    shutil.copytree(shop, root, symlinks=True)
    model = root / "models" / "features" / "store_sales.sql"
    model.write_text(model.read_text().replace(HONEST, LEAKY))
    done = hindcast(root, "audit", "--only", "replay")
    assert done.exit_code == 1, done.output
    assert "store_sales.sql was changed after the snapshot was published" in done.stderr


def test_a_lookback_that_is_too_short_is_noticed_and_accuses_nobody(shop, tmp_path):
    root = tmp_path / "shop"
    shutil.copytree(shop, root, symlinks=True)
    declared = root / "models" / "staging" / "_sources.yml"
    text = declared.read_text().replace("carries: 1 day", "carries: 1 minute")
    declared.write_text(text)  # though the model counts all sales ever
    assert dbt(root, "run").success
    done = hindcast(root, "audit", "--only", "replay", "--at", "2024-03-04T00:00:00Z", "--json")
    assert done.exit_code == 0, done.output
    (replayed,) = json.loads(done.stdout)["replay"]
    assert replayed["lookback_too_short"] is True
    assert replayed["differ"] == 0


def test_a_source_read_past_the_macro_is_refused(shop, tmp_path):
    root = tmp_path / "shop"
    shutil.copytree(shop, root, symlinks=True)
    model = root / "models" / "training" / "hours.sql"
    model.write_text(
        model.read_text().replace("source('till', 'sales')", "builtins.source('till', 'sales')")
    )
    assert dbt(root, "run").success
    done = hindcast(root, "audit", "--only", "replay", "--at", "2024-03-02T12:00:00Z")
    assert done.exit_code == 1, done.output
    assert "hours.sql does not read source.shop.till.sales through the source()" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--only", "everything"], "no test everything; there are replay, scramble, static"),
        (["--at", "2024-03-02T12:00:00"], "has no time zone"),
        (["--instants", "0"], "instants"),
    ],
)
def test_a_wrong_call_says_so_with_exit_code_2(shop, arguments, says):
    done = hindcast(shop, "audit", *arguments)
    assert done.exit_code == 2
    assert says in done.stderr


def test_a_feature_repository_that_is_not_there_is_named(shop, tmp_path):
    root = tmp_path / "shop"
    shutil.copytree(shop, root, symlinks=True)
    shutil.rmtree(root / "feature_repo")
    done = hindcast(root, "audit", "--only", "replay")
    assert done.exit_code == 1
    assert "no feature_store.yaml in" in done.stderr


def test_an_instant_without_rows_proves_nothing_and_is_refused(shop):
    done = hindcast(shop, "audit", "--only", "replay", "--at", "2020-01-01T00:00:00Z")
    assert done.exit_code == 1, done.output
    assert "nothing was compared" in done.stderr
