"""Each classic leak is caught by name, no honest view is accused, and nothing else is touched."""

import pytest

from benchmarks.leaks import LEAKS, caught_by
from hindcast.audit import show

LEAKY = [leak.name for leak in LEAKS]


@pytest.mark.parametrize("name", LEAKY)
def test_a_classic_leak_is_caught_by_name(audited, name):
    assert caught_by(audited, name)


def test_no_honest_view_is_accused(audited):
    honest = [view.name for view in audited.views if view.name not in LEAKY]
    assert len(honest) == 9
    assert {name: caught_by(audited, name) for name in honest} == {name: [] for name in honest}


@pytest.mark.parametrize("test", ["replay", "scramble", "static"])
def test_each_test_catches_most_leaks_without_the_others(audited, test):
    assert sum(test in caught_by(audited, name) for name in LEAKY) >= 8


def test_the_scramble_shows_that_it_has_power(audited):
    moved = {view.view: view.differ for view in audited.scrambled.moved}
    assert audited.scrambled.records > 1000
    # of registered aircraft no record comes after the cut, and the audit says so
    still = {"aircraft_attributes", "clock_of_the_build"}
    assert set(audited.scrambled.unmoved) == still
    assert all(moved[name] > 0 for name in moved if name not in still)


def test_every_row_predicted_in_the_day_up_to_an_instant_is_replayed(audited):
    assert [one.rows > 700 for one in audited.replayed] == [True, True]
    assert all(one.values > 100_000 for one in audited.replayed)


def test_the_audit_touches_nothing_that_is_published_or_built(audited, files, before):
    assert len(before) > 50
    assert files() == before


def test_the_summary_counts_what_was_compared_and_what_differs(audited):
    line = show.summary(audited)
    assert line.startswith("Audit FAILED: 2 instants, ")
    assert f"{sum(one.differ for one in audited.replayed):,} differ" in line


def test_a_script_reads_the_same_as_a_person(audited):
    found = show.as_json(audited)
    assert found["passed"] is False and found["differ"] == audited.differ > 0
    assert {f["model"] for f in found["static"]["findings"]} <= set(LEAKY)
