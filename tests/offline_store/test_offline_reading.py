"""What a query reads, how a job behaves, and what materialization is given."""

from __future__ import annotations

import logging
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, FileSource
from feast.data_format import DeltaFormat, ParquetFormat
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.infra.offline_stores.offline_utils import get_offline_store_from_config
from offline_lab import UTC_US, Lab, at, rows
from pydantic import ValidationError

from hindcast.errors import MissingInputError, RetrievalError
from hindcast.offline_store import DuckDBOfflineStore, DuckDBRetrievalJob

NOON = at("2013-07-01T12:00:00")
HOUR = timedelta(hours=1)
KEYED = {"origin": pa.string(), "known_at": UTC_US, "departures": pa.int64()}
FLIGHTS = {"flight_id": pa.string(), "origin": pa.string(), "predict_at": UTC_US}
SPINE_SQL = """
    -- the flights to predict; newest first
    select *, predict_at as event_timestamp
    from flight_spine
    order by flight_id desc; """


@pytest.fixture(scope="module")
def view(lab: Lab) -> FeatureView:
    return departures(lab, 1)


def departures(lab: Lab, value: int) -> FeatureView:
    """Publish one feature view and a spine of two flights in the current snapshot."""
    lab.publish("flight_spine", rows(FLIGHTS, ("a", "JFK", NOON), ("b", None, NOON)))
    return lab.view("departures", rows(KEYED, ("JFK", NOON, value)), ["origin"])


# --- snapshots ----------------------------------------------------------------------------


def test_one_query_reads_one_snapshot(lab: Lab, view: FeatureView) -> None:
    job = lab.join(SPINE_SQL, [view])
    lab.switch_to("second")
    try:
        departures(lab, 2)
        lab.publish("flight_spine", rows(FLIGHTS, ("c", "JFK", NOON)))
        assert job.to_df()["departures"].tolist()[1:] == [1]
        assert job.to_df()["flight_id"].tolist() == ["b", "a"]
        assert job.snapshot_path == str(lab.published / "first")
        later = lab.join(SPINE_SQL, [view])
        assert later.snapshot_path == str(lab.published / "second")
        assert later.to_df()["departures"].tolist() == [2]
    finally:
        lab.switch_to("first")


def test_a_snapshot_reached_by_another_path_is_pinned_too(lab: Lab, view: FeatureView) -> None:
    detour = lab.root / "detour"
    detour.symlink_to(lab.root / "data")
    path = str(detour / "published" / "current" / "departures.parquet")
    source = FileSource(path=path, timestamp_field="known_at")
    job = DuckDBOfflineStore.pull_all_from_table_or_query(
        lab.config, source, ["origin"], ["departures"], "known_at"
    )
    assert f"{lab.published}/first/departures.parquet" in job.to_sql()


def test_files_outside_the_published_directory_are_read_as_they_are(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    view = departures(lab, 1)
    config = lab.configured(published="nowhere")
    spine = rows({"origin": pa.string(), "event_timestamp": UTC_US}, ("JFK", NOON))
    job = lab.join(spine, [view], config=config)
    assert job.snapshot_path is None
    assert job.to_df()["departures"].tolist() == [1]


# --- a spine in SQL -----------------------------------------------------------------------


def test_sql_sees_published_tables_by_name_and_its_order_is_kept(
    lab: Lab, view: FeatureView
) -> None:
    result = lab.join(SPINE_SQL, [view]).to_arrow()
    assert result.column_names == [*FLIGHTS, "event_timestamp", "departures"]
    assert result.select(["flight_id", "departures"]).to_pylist() == [
        {"flight_id": "b", "departures": None},
        {"flight_id": "a", "departures": 1},
    ]


def test_sql_order_is_kept_when_there_are_many_rows(lab: Lab, view: FeatureView) -> None:
    sql = f"""
        with numbers as (from range(200_000) as numbers(n))
        select 'JFK' as origin, timestamptz '{NOON}' as event_timestamp, hash(n) as h
        from numbers order by h
    """
    result = lab.join(sql, [view], config=lab.configured(threads=2)).to_arrow()
    assert result["h"].to_pylist() == sorted(result["h"].to_pylist())
    assert result["departures"].null_count == 0


def test_sql_that_does_not_run_is_refused_with_the_published_tables(
    lab: Lab, view: FeatureView
) -> None:
    with pytest.raises(
        RetrievalError, match=r"tables: departures, flight_spine(.|\n)*fligth_spine"
    ):
        lab.join("select * from fligth_spine", [view])
    with pytest.raises(RetrievalError, match="does not run"):
        lab.join("selct 1", [view])
    with pytest.raises(RetrievalError, match="does not run"):
        lab.join("select 1; drop table x", [view])


def test_sql_that_names_two_columns_alike_is_refused(lab: Lab, view: FeatureView) -> None:
    sql = "select *, predict_at as event_timestamp, flight_id as Origin from flight_spine"
    with pytest.raises(RetrievalError, match="'origin' and 'Origin'"):
        lab.join(sql, [view])


def test_sql_over_nothing_published_says_which_command_publishes(
    lab: Lab, view: FeatureView
) -> None:
    with pytest.raises(MissingInputError, match="`dbt build` publishes it"):
        lab.join(SPINE_SQL, [view], config=lab.configured(published="nowhere"))


def test_sql_sees_the_warehouse_read_only_where_it_is_configured(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    view = departures(lab, 1)
    config = lab.configured(warehouse="../warehouse.duckdb")
    sql = f"select *, timestamptz '{NOON}' as event_timestamp from warehouse.staging.flights"
    with pytest.raises(MissingInputError, match=r"warehouse.duckdb is not there.*`dbt build`"):
        lab.join(sql, [view], config=config)
    with duckdb.connect(tmp_path / "warehouse.duckdb") as warehouse:
        warehouse.execute("create schema staging")
        warehouse.execute("create table staging.flights as select 'JFK' as origin")
    assert lab.join(sql, [view], config=config).to_df()["departures"].tolist() == [1]
    with pytest.raises(RetrievalError, match="does not run"):
        lab.join(sql, [view])
    with pytest.raises(RetrievalError, match="does not run"):
        lab.join(f"delete from warehouse.staging.flights; {sql}", [view], config=config)


def test_a_warehouse_that_dbt_is_writing_is_said_to_be_in_use(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    view = departures(lab, 1)
    hold = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); input()"
    command = [sys.executable, "-c", hold, str(tmp_path / "warehouse.duckdb")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"held\n"
        with pytest.raises(RetrievalError, match=r"is in use: dbt is writing it"):
            lab.join(
                f"select 'JFK' as origin, timestamptz '{NOON}' as event_timestamp from warehouse.x",
                [view],
                config=lab.configured(warehouse="../warehouse.duckdb"),
            )
        writer.communicate(b"\n")


def test_the_sql_of_a_job_runs_by_hand(lab: Lab, view: FeatureView) -> None:
    job = lab.join(SPINE_SQL, [view])
    with duckdb.connect() as connection:
        assert connection.execute(job.to_sql()).to_arrow_table().equals(job.to_arrow())


def test_the_sql_of_a_frames_job_names_the_frame_to_register(lab: Lab, view: FeatureView) -> None:
    spine = rows({"origin": pa.string(), "event_timestamp": UTC_US}, ("JFK", NOON))
    job = lab.join(spine, [view])
    assert job.to_sql().startswith('-- "_entity_rows": the 1 rows of entity_df')
    with duckdb.connect() as connection:
        connection.register("_entity_rows", spine)
        by_hand = connection.execute(job.to_sql()).to_arrow_table()
    assert by_hand.to_pylist() == [{"departures": 1}]


# --- the job ------------------------------------------------------------------------------


def test_metadata_names_features_keys_and_the_range_of_times(lab: Lab, view: FeatureView) -> None:
    metadata = lab.join(SPINE_SQL, [view]).metadata
    assert metadata.features == ["departures:departures"]
    assert metadata.keys == list(FLIGHTS)
    assert (metadata.min_event_timestamp, metadata.max_event_timestamp) == (NOON, NOON)


def test_a_result_is_persisted_whole_and_never_over_another_by_accident(
    lab: Lab, view: FeatureView
) -> None:
    job = lab.join(SPINE_SQL, [view])
    storage = SavedDatasetFileStorage(path="../saved/training.parquet")
    job.persist(storage)
    assert pq.read_table(lab.root / "saved" / "training.parquet").equals(job.to_arrow())
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(storage)
    job.persist(storage, allow_overwrite=True)
    with pytest.raises(RetrievalError, match="Expected a SavedDatasetFileStorage"):
        job.persist(None)


@pytest.mark.parametrize("format_", [ParquetFormat(), DeltaFormat()])
def test_a_result_is_persisted_in_a_directory_and_replaces_what_was_there(
    lab: Lab, view: FeatureView, tmp_path: Path, format_: object
) -> None:
    storage = SavedDatasetFileStorage(path=str(tmp_path), file_format=format_)
    source = storage.to_data_source()
    source.timestamp_field = "event_timestamp"
    for sql in (SPINE_SQL, SPINE_SQL.replace("*,", "flight_id, origin,")):
        job = lab.join(sql, [view])
        with pytest.raises(SavedDatasetLocationAlreadyExists):
            job.persist(storage)
        job.persist(storage, allow_overwrite=True)
        saved = DuckDBOfflineStore.pull_all_from_table_or_query(
            lab.config, source, [], job.to_arrow().column_names, "event_timestamp"
        )
        names = job.to_arrow().column_names
        assert sorted(saved.to_arrow().select(names).to_pylist(), key=str) == (
            sorted(job.to_arrow().to_pylist(), key=str)
        )


def test_limits_are_set_and_change_no_result(lab: Lab, view: FeatureView) -> None:
    limited = lab.configured(memory_limit="100MB", threads=1, temp_directory="spill")
    assert lab.join(SPINE_SQL, [view], config=limited).to_arrow() == (
        lab.join(SPINE_SQL, [view]).to_arrow()
    )
    with pytest.raises(RetrievalError, match=r"'memory_limit': 'lots'"):
        lab.join(SPINE_SQL, [view], config=lab.configured(memory_limit="lots"))
    with pytest.raises(RetrievalError, match="memory"):
        lab.join(
            f"select 'JFK' as origin, timestamptz '{NOON}' as event_timestamp, "
            "list(n) as everything from range(9_000_000) as numbers(n)",
            [view],
            config=lab.configured(memory_limit="30MB"),
        ).to_arrow()


@pytest.mark.parametrize(
    ("rows_per_spine_row", "order"),
    [(10, "hash(n)"), (40, "hash(n)"), (10, "known_at")],
    ids=["by merge", "by slots", "by sweep"],
)
def test_a_join_larger_than_its_memory_spills_and_changes_no_result(
    tmp_path: Path, rows_per_spine_row: int, order: str
) -> None:
    lab, count = Lab(tmp_path), 1_500_000
    with duckdb.connect() as connection:
        history = connection.execute(f"""
            select
                (hash(n) % 5000)::bigint as k,
                timestamptz '{NOON}' + to_seconds((hash(n, 1) % 3000000)::int) as known_at,
                n as v
            from range({count}) as numbers(n)
            order by {order}
        """).to_arrow_table()
    view = lab.view("large", history, ["k"])
    spine = history.take(list(range(0, count, rows_per_spine_row))).select(["k", "known_at"])
    spine = spine.rename_columns(["k", "event_timestamp"])
    limited = lab.configured(memory_limit="60MB", threads=1, temp_directory="spill")
    job = lab.join(spine, [view], config=limited)
    assert ("sweeps" in job.to_sql()) == (order == "known_at")
    assert job.to_arrow().equals(lab.join(spine, [view]).to_arrow())


def test_a_misspelled_setting_is_refused(lab: Lab) -> None:
    with pytest.raises(ValidationError, match="publised"):
        lab.configured(publised="x").offline_store  # noqa: B018 - read lazily


def test_feast_finds_the_store_by_its_configuration(lab: Lab) -> None:
    assert isinstance(get_offline_store_from_config(lab.config.offline_store), DuckDBOfflineStore)


# --- materialization ----------------------------------------------------------------------

HISTORY = {**KEYED, "created_at": UTC_US}


def pull(lab: Lab, table: pa.Table, how: str = "latest", **options) -> DuckDBRetrievalJob:
    pulls = {
        "latest": DuckDBOfflineStore.pull_latest_from_table_or_query,
        "all": DuckDBOfflineStore.pull_all_from_table_or_query,
    }
    source = FileSource(
        name="pulled", path=lab.publish("pulled", table), timestamp_field="known_at"
    )
    arguments = {
        "join_key_columns": ["origin"],
        "feature_name_columns": ["departures"],
        "timestamp_field": "known_at",
        "created_timestamp_column": None,
        "start_date": NOON - HOUR,
        "end_date": NOON + HOUR,
        **options,
    }
    return pulls[how](lab.config, source, **arguments)


def test_the_newest_row_of_each_key_in_the_period_is_pulled_both_ends_included(lab: Lab) -> None:
    second = timedelta(seconds=1)
    history = rows(
        KEYED,
        ("JFK", NOON - HOUR, 1),
        ("LGA", NOON - HOUR - second, 2),
        ("EWR", NOON, 3),
        ("EWR", NOON + HOUR, 4),
        ("EWR", NOON + HOUR + second, 5),
    )
    pulled = pull(lab, history).to_arrow()
    assert pulled.schema.field("known_at").type == UTC_US
    assert sorted(pulled.to_pylist(), key=str) == [
        {"origin": "EWR", "departures": 4, "known_at": NOON + HOUR},
        {"origin": "JFK", "departures": 1, "known_at": NOON - HOUR},
    ]


def test_pulled_ties_follow_the_rule_of_the_join(lab: Lab) -> None:
    early = NOON - HOUR
    history = rows(
        HISTORY, ("JFK", NOON, 1, early), ("JFK", NOON, 2, early), ("JFK", NOON, 3, None)
    )
    pulled = pull(lab, history, created_timestamp_column="created_at").to_arrow()
    assert pulled["departures"].to_pylist() == [2]
    assert pull(lab, history).to_arrow()["departures"].to_pylist() == [3]


def test_rows_without_a_key_are_left_out_and_counted(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    history = rows(
        KEYED, (None, NOON, 1), (None, NOON, 2), (None, NOON + 2 * HOUR, 3), ("JFK", NOON, 4)
    )
    with caplog.at_level(logging.WARNING):
        assert pull(lab, history).to_arrow()["departures"].to_pylist() == [4]
    assert caplog.messages == ["pulled: 2 rows left out, their origin is NULL"]


@pytest.mark.parametrize("how", ["latest", "all"])
def test_a_start_after_the_end_is_no_start(lab: Lab, how: str) -> None:
    """What `feast materialize-incremental 2013-...` passes for a view new to the store."""
    history = rows(KEYED, ("JFK", at("2013-01-01T00:00:00"), 1), ("JFK", NOON + 2 * HOUR, 2))
    period = {"start_date": datetime.now(UTC) - HOUR, "end_date": NOON}
    assert pull(lab, history, how, **period).to_arrow()["departures"].to_pylist() == [1]


@pytest.mark.parametrize("how", ["latest", "all"])
def test_dates_without_a_zone_are_utc(lab: Lab, how: str) -> None:
    period = {"start_date": datetime(2013, 7, 1, 12), "end_date": datetime(2013, 7, 1, 12)}
    history = rows({**KEYED, "known_at": pa.timestamp("us")}, ("JFK", datetime(2013, 7, 1, 12), 1))
    assert pull(lab, history, how, **period).to_arrow().to_pylist() == [
        {"origin": "JFK", "departures": 1, "known_at": NOON}
    ]


def test_all_rows_of_the_period_are_pulled_oldest_first(lab: Lab) -> None:
    history = rows(KEYED, ("JFK", NOON, 2), (None, NOON, 3), ("JFK", NOON - HOUR, 1))
    assert pull(lab, history, "all").to_arrow()["departures"].to_pylist() == [1, 2, 3]
    unbounded = pull(lab, history, "all", start_date=None, end_date=NOON - HOUR)
    assert unbounded.to_arrow()["departures"].to_pylist() == [1]
    assert unbounded.metadata is None


@pytest.mark.parametrize("how", ["latest", "all"])
def test_a_view_without_entities_is_pulled_under_feasts_own_key(lab: Lab, how: str) -> None:
    history = rows(KEYED, ("JFK", NOON, 2), ("JFK", NOON - HOUR, 1))
    pulled = pull(lab, history, how, join_key_columns=[]).to_arrow()
    assert pulled["departures"].to_pylist()[-1] == 2
    assert set(pulled["__dummy_id"].to_pylist()) == {""}


def test_a_missing_source_stops_materialization_with_the_command_to_run(lab: Lab) -> None:
    gone = FileSource(name="gone", path="../data/published/current/gone.parquet")
    with pytest.raises(MissingInputError, match=r"gone.*`dbt build` publishes it"):
        DuckDBOfflineStore.pull_latest_from_table_or_query(
            lab.config, gone, ["origin"], [], "known_at", None, NOON, NOON
        )


# --- through Feast ------------------------------------------------------------------------


def test_feast_itself_retrieves_saves_and_reads_back(tmp_path: Path) -> None:
    """The whole way with a `feature_store.yaml`, as training goes it."""
    lab = Lab(tmp_path)
    view = departures(lab, 5)
    (tmp_path / "feature_repo" / "feature_store.yaml").write_text(
        "project: lab\nprovider: local\nregistry: ../registry.db\n"
        "online_store: {type: sqlite, path: ../online.db}\n"
        "offline_store: {type: hindcast.offline_store.DuckDBOfflineStore}\n"
        "entity_key_serialization_version: 3\n"
    )
    store = FeatureStore(repo_path=str(tmp_path / "feature_repo"))
    origin = Entity(name="entity_origin", join_keys=["origin"])
    service = FeatureService(name="late_arrival", features=[view])
    store.apply([origin, view, service])
    job = store.get_historical_features(SPINE_SQL, store.get_feature_service("late_arrival"))
    assert job.to_df()["departures"].tolist()[1] == 5
    frame = pd.DataFrame({"origin": ["JFK"], "event_timestamp": [NOON]})
    for spine in (frame, pa.Table.from_pandas(frame)):
        again = store.get_historical_features(spine, ["departures:departures"])
        assert again.to_df()["departures"].tolist() == [5]
    of_a_day = store.get_historical_features(
        features=["departures:departures"], start_date=NOON - HOUR, end_date=NOON
    )
    assert of_a_day.to_df()["departures"].tolist() == [5]
    saved = store.create_saved_dataset(
        again, "training", SavedDatasetFileStorage(path="../saved.parquet")
    )
    assert saved.to_df()["departures"].tolist() == [5]
