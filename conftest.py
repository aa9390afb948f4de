"""Tests of one folder stay in one process: they share what is costly to set up.

Here and not in `tests/`, which would put that folder on the import path, where `tests/landing`
would hide the package `landing`.
"""

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """`pytest -n` gives each folder of tests to one process."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFolder(LoadScopeScheduling):
        """A test's scope is the folder of its file."""

        def _split_scope(self, nodeid):
            return nodeid.partition("::")[0].rpartition("/")[0]

    config.option.loadscopereorder = False  # the order of `testpaths`: the longest folder first
    return ByFolder(config, log)
