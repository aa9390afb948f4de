"""The ordinary commands do what a user of dbt and Feast expects, again and in any order."""

import json

import duckdb

from hindcast.config import load_config
from hindcast.kv import LmdbEngine
from hindcast.monitor.thresholds import DEFAULTS, OFF, Thresholds
from hindcast.online_store import read_state
from hindcast.packed import header, pack, pack_key, unpack

UNTIL = "2013-01-04T00:00:00Z"


def test_online_equals_offline_for_a_thousand_rows(project):
    outcome = json.loads(project.must(f"hindcast parity --at {UNTIL} --rows 1000 --json"))
    assert outcome["rows"] == 1000
    assert outcome["wrong"] == 0
    # an answer of NULLs alone would prove nothing
    assert outcome["nulls"] < outcome["values"] / 2


def test_parity_fails_when_one_online_value_is_changed(project):
    engine = LmdbEngine(project.root / "data" / "online", 2**30)
    table = "hindcast_flights_airport_state"
    ((description, (kept,)),) = engine.read([(table, [pack_key(["JFK"])])])
    layout = read_state(description)[1][-1]
    values = unpack(kept)
    place = layout.names.index("origin_departures_1h")
    values[place] += 1

    def put(row):
        with engine.writing(table) as writer:
            writer.put({pack_key(["JFK"]): row})

    put(pack(*header(kept), values))
    try:
        done = project.run(f"hindcast parity --at {UNTIL} --rows 50")
        assert done.returncode == 1
        assert "origin_departures_1h" in done.stdout
    finally:
        put(kept)
        engine.close()


def test_feast_apply_a_second_time_changes_nothing(project):
    for _ in range(2):
        said = project.feast("-c feature_repo plan")
        assert "No changes to registry" in said
        assert "No changes to infrastructure" in said
        project.feast("-c feature_repo apply")


def test_the_limits_beside_the_features_are_those_the_monitor_goes_by(project):
    limits = Thresholds.of(project.root, load_config(project.root).monitor)
    assert limits("origin_weather.weather_visibility_mi", "nulls") == (0.01, 0.05)
    assert limits("origin_weather.weather_pressure_mb", "nulls") == DEFAULTS["nulls"]
    assert limits("flight_calendar.days_from_holiday", "psi") == OFF
    assert limits("flight_calendar.days_from_holiday", "nulls") == DEFAULTS["nulls"]
    assert limits("late_arrival.score", "psi") == (0.2, None)


def test_materializing_again_changes_nothing(project):
    project.feast(f"-c feature_repo materialize-incremental {UNTIL}")
    outcome = json.loads(project.must(f"hindcast parity --at {UNTIL} --rows 200 --json"))
    assert outcome["wrong"] == 0


def test_parity_at_another_instant_names_the_command_to_run_first(project):
    done = project.hindcast("parity --at 2013-01-05T00:00:00Z")
    assert done.exit_code == 1
    assert "materialize-incremental 2013-01-05T00:00:00+00:00" in done.stderr
    done = project.hindcast("parity --at 2013-01-03T00:00:00Z")
    assert done.exit_code == 1
    assert "remove the registry and the online store" in done.stderr


def test_an_instant_without_a_zone_is_a_wrong_call(project):
    assert project.run("hindcast parity --at 2013-01-03T00:00:00").returncode == 2


def test_a_run_of_some_models_publishes_nothing(project):
    before = project.snapshot_id()
    said = project.must("dbt run --select origin_weather")
    assert "Nothing published: this run built 1 of 11" in said
    assert project.snapshot_id() == before


def test_dbt_run_publishes_one_new_snapshot_while_a_reader_holds_the_old_one(project):
    before = project.snapshot_id()
    published = project.root / "data" / "published"
    old = (published / "current").resolve()
    count = f"select count(*) from read_parquet('{old}/flight_spine.parquet')"
    reader = duckdb.connect()
    (rows,) = reader.sql(count).fetchone()
    project.must("dbt run")
    assert project.snapshot_id() != before
    assert reader.sql(count).fetchone() == (rows,)
    assert {file.stem for file in (published / "current").glob("*.parquet")} == {
        file.stem for file in old.glob("*.parquet")
    }


def test_a_failed_test_publishes_nothing(project):
    before = project.snapshot_id()
    broken = project.root / "tests" / "data" / "always_fails.sql"
    broken.write_text("select * from {{ ref('int_airports') }}\n")
    try:
        done = project.run("dbt build --select +origin_weather always_fails")
        assert done.returncode == 1
        assert "Nothing published" in done.stdout
        assert project.snapshot_id() == before
    finally:
        broken.unlink()
