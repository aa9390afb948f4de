"""Tests of one folder stay in one process: they share what is costly to set up."""

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """`pytest -n` gives each folder of tests to one process."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFolder(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return nodeid.partition("::")[0].rpartition("/")[0]

    config.option.loadscopereorder = False  # the order of `testpaths`: the longest folder first
    return ByFolder(config, log)
