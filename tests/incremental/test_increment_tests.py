"""An incremental `dbt build` tests what no test has passed yet: all of that, and not the rest."""

import os

import pytest
from incremental_lab import Lab

TESTS = ("build", "--select", "resource_type:test")
OF_ONE = ("build", "--select", "airport_state,resource_type:test")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    before = os.getcwd()
    made = Lab(tmp_path_factory.mktemp("increment_tests"))
    os.chdir(made.root)
    made.lines = made.land("2013-01-02T12:00:00Z")
    deliver(made, until="2013-01-02T10:00:00Z")
    made.start()
    made.dbt("run")
    made.dbt(*TESTS)
    yield made
    made.stop()
    os.chdir(before)


def deliver(lab, until):
    for source, lines in lab.lines.items():
        kept = [line for line in lines if line.rsplit(",", 1)[1] < until]
        lab.write(source, "1.csv", kept)


def untested(lab):
    with lab.connected() as warehouse:
        return warehouse.execute("from hindcast.untested").fetchall()


def spoil(lab, which):
    """Set the origin of the earliest or latest rows of a view to NULL, which a test forbids."""
    with lab.connected() as warehouse:
        at = f"(select {which}(known_at) from features.airport_state)"
        of_it = f"features.airport_state where known_at = {at}"
        rows = warehouse.execute(f"from {of_it}").fetchall()
        warehouse.execute(f"update features.airport_state set origin = null where known_at = {at}")
    return rows


def repair(lab, rows):
    with lab.connected() as warehouse:
        warehouse.execute("delete from features.airport_state where origin is null")
        marks = ", ".join("?" * len(rows[0]))
        warehouse.executemany(f"insert into features.airport_state values ({marks})", rows)


def test_what_was_built_stays_untested_until_every_test_has_passed(lab):
    assert untested(lab) == []

    old = spoil(lab, "min")
    lab.dbt(*OF_ONE)  # not looked at again
    with pytest.raises(AssertionError, match="not_null_airport_state_origin"):
        lab.dbt("test", "--select", "airport_state")  # this one looks at every row
    repair(lab, old)

    deliver(lab, until="2013-01-02T11:00:00Z")
    lab.dbt("run")
    assert untested(lab)
    new = spoil(lab, "max")
    for _ in range(2):
        with pytest.raises(AssertionError, match="not_null_airport_state_origin"):
            lab.dbt(*OF_ONE)
    repair(lab, new)

    lab.dbt(*OF_ONE)
    assert untested(lab)
    lab.dbt(*TESTS)
    assert untested(lab) == []


def test_a_key_that_comes_again_is_found_wherever_it_was_before(lab):
    deliver(lab, until="2013-01-02T12:00:00Z")
    lab.dbt("run")
    with lab.connected() as warehouse:
        told = "select changed_from from hindcast.untested where source_name = 'raw.flights'"
        copied = "from intermediate.int_flights order by known_at, flight_id limit 1"
        warehouse.execute(
            f"insert into intermediate.int_flights select * replace (({told}) as known_at) {copied}"
        )
    keys = ("build", "--select", "int_flights,resource_type:test")
    with pytest.raises(AssertionError, match="unique_combination_int_flights_flight_id"):
        lab.dbt(*keys)

    with lab.connected() as warehouse:
        warehouse.execute(
            "delete from intermediate.int_flights where (flight_id, known_at) in ("
            f"select flight_id, ({told}) {copied})"
        )
    lab.dbt(*TESTS)
    assert untested(lab) == []


def test_rows_that_messages_tell_of_are_looked_at_and_no_others(lab):
    with lab.connected() as warehouse:
        (until,) = warehouse.execute("select max(_loaded_at) from staging.stg_flights").fetchone()
    deliver(lab, until=f"{until:%Y-%m-%dT%H:%M:%SZ}")  # takes the last messages back: all is new
    lab.dbt("run")
    lab.dbt(*TESTS)
    deliver(lab, until="2013-01-02T12:00:00Z")
    lab.dbt("run")
    with lab.connected() as warehouse:
        warehouse.execute(
            "create temp table told as select distinct flight_id from "
            "staging.stg_flights where _loaded_at = ?",
            [until],
        )
        spine = "insert into training.flight_spine select s.* from training.flight_spine s"
        warehouse.execute(f"{spine} anti join told using (flight_id) order by flight_id limit 1")
    keys = ("build", "--select", "flight_spine,resource_type:test")
    lab.dbt(*keys)
    with lab.connected() as warehouse:
        warehouse.execute(
            "create temp table told as select distinct flight_id from "
            "staging.stg_flights where _loaded_at = ?",
            [until],
        )
        warehouse.execute(f"{spine} semi join told using (flight_id) order by flight_id limit 1")
    with pytest.raises(AssertionError, match="unique_flight_spine_flight_id"):
        lab.dbt(*keys)
