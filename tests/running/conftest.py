"""Our project with two days of the feed, put through the loop once: by Dagster, as assets."""

from dataclasses import dataclass

import pytest
from dagster import DagsterInstance, ExecuteInProcessResult
from running_projects import AT, Project, copy_of_ours


@dataclass(frozen=True)
class Ours:
    """The project, and what Dagster says of the run that made it."""

    project: Project
    made: ExecuteInProcessResult


@pytest.fixture(scope="session")
def ours(tmp_path_factory):
    from orchestration.definitions import definitions

    project = copy_of_ours(tmp_path_factory.mktemp("ours"))
    job = definitions(project.root).get_job_def("loop")
    config = {
        "resources": {"instant": {"config": {"at": AT}}},
        "loggers": {"console": {"config": {"log_level": "ERROR"}}},
    }
    with DagsterInstance.ephemeral() as instance:
        made = job.execute_in_process(instance=instance, run_config=config, raise_on_error=False)
        assert made.success, [e.event_specific_data for e in made.get_step_failure_events()]
        yield Ours(project, made)
