"""A project full of leaks, on ten days of the real feed, audited once.

The days are those around the night in which New York's clocks change.
"""

from datetime import UTC, datetime

import pytest

from benchmarks.leaks import make_project
from hindcast.audit import check
from hindcast.config import load_config

FROM, UNTIL = datetime(2013, 10, 26, tzinfo=UTC), datetime(2013, 11, 5, 6, tzinfo=UTC)
INSTANTS = [
    datetime(2013, 11, 2, 14, 10, tzinfo=UTC),
    datetime(2013, 11, 3, 20, 25, tzinfo=UTC),  # the day after the clocks changed
]


@pytest.fixture(scope="session")
def leaky(tmp_path_factory):
    """The project's root, built, published and registered."""
    root = tmp_path_factory.mktemp("leaky")
    make_project(root, FROM, UNTIL)
    return root


@pytest.fixture(scope="session")
def files(leaky):
    """Gives every file that is published or built, and when it was written."""
    return lambda: {
        str(file): file.stat().st_mtime_ns
        for place in ("data", "target")
        for file in (leaky / place).rglob("*")
        if file.is_file() and "audit" not in file.relative_to(leaky).parts
    }


@pytest.fixture(scope="session")
def before(files):
    """Those files before the audit ran."""
    return files()


@pytest.fixture(scope="session")
def audited(leaky, before):
    """The outcome of one audit of it."""
    config = load_config(leaky)
    tests = [test for test in check.TESTS if test != "model"]  # which finds no leak by itself
    return check.audit(
        leaky, config, count=2, seed=0, at=INSTANTS, only=tests, traced=0, tell=lambda text: None
    )
