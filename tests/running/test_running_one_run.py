"""A run of Dagster's is one of Hindcast's: order, verdicts, what is left out, the lock, the record.

With steps that only write down that they ran, around a dbt project of one model, really built.
"""

import shutil
from contextlib import ExitStack

import duckdb
import pytest
from dagster import (
    AssetCheckSeverity,
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    RetryRequested,
    build_asset_context,
)
from running_projects import AT, Toy

from hindcast import lock, runs
from hindcast.config import load_config
from orchestration import one_run
from orchestration.definitions import definitions

BUILD = """dbt build --vars "{note: of hindcast.yml}" """.strip()
STEPS = (
    "{name: land, run: python mark.py land}",
    "{name: build, run: '%s'}",
    "{name: filled, run: python mark.py filled}",
    """{name: judge, run: 'python -c "raise SystemExit(1)"', verdict: true}""",
    "{name: doubt, run: python mark.py doubt, verdict: true}",
    "{name: again, run: python mark.py again}",
    "{name: train, run: python mark.py train, unless: how}",
    "{name: after, run: 'python mark.py {at}'}",
)
NAMES = ("land", "build", "filled", "judge", "doubt", "again", "train", "after")
FILES = {
    "dbt_project.yml": "{name: toy, profile: toy, models: {toy: {features: {+schema: features, "
    "+materialized: table}}}, "
    "flags: {send_anonymous_usage_stats: false}}",
    "profiles.yml": "toy: {target: dev, outputs: {dev: {type: duckdb, path: toy.duckdb}}}",
    "models/features/thing.sql": """select id, '{{ var("note", "none") }}' as note
from {{ source("raw", "things") }}""",
    "models/sources.yml": "sources: [{name: raw, tables: [{name: things, "
    "config: {meta: {external_location: things.csv}}}]}]",
    "things.csv": "id\n1\n",
}


class Orchestrated(Toy):
    """Its steps around `dbt build`, and Dagster to run them."""

    def __init__(self, root):
        super().__init__(root)
        for name, text in FILES.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        self.build(BUILD)

    def build(self, command):
        self.steps(*(step.replace("%s", command) for step in STEPS))

    def dagster(self, instance, *names, **more):
        """The whole loop, or some of its assets picked by hand."""
        job = definitions(self.root).get_job_def("loop")
        if names:
            job = job.get_subset(asset_selection={AssetKey(name) for name in names})
        return job.execute_in_process(
            instance=instance,
            run_config={
                "resources": {"instant": {"config": {"at": AT}}},
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
            raise_on_error=False,
            **more,
        )


@pytest.fixture(scope="module")
def instance():
    with DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture(scope="module")
def made(tmp_path_factory, instance):
    """The project, what Dagster says of its run, and the steps that ran, in that order."""
    project = Orchestrated(tmp_path_factory.mktemp("orchestrated"))
    result = project.dagster(instance)
    assert result.success, [e.event_specific_data for e in result.get_step_failure_events()]
    return project, result, project.ran


@pytest.fixture
def project(made, tmp_path):
    """Such a project, of which dbt's manifest is there and nothing else was done."""
    project = Orchestrated(tmp_path)
    shutil.copytree(made[0].root / "target", tmp_path / "target")
    return project


def test_steps_run_in_their_order_with_verdicts_between(made):
    _, _, ran = made
    assert ran == ["land", "filled", "doubt", "again", AT]


def test_one_dagster_run_is_one_run_on_record_with_every_step(made):
    project, _, _ = made
    (run,) = runs.last(project.root, 10)
    assert (run.outcome, run.is_whole, run.steps) == ("done", True, NAMES)
    codes = {step.step: step.exit_code for step in run.ran}
    assert codes == {name: int(name == "judge") for name in NAMES if name != "train"}
    assert runs.last_whole(project.root, run.at) == run
    assert "Nothing to go on with" in project.must("run --resume")


def test_dbts_step_runs_with_its_own_flags_and_is_on_record(made):
    project, _, _ = made
    (run,) = runs.last(project.root, 1)
    build = run.ran[1]
    assert (build.step, build.position, build.command) == ("build", 2, BUILD)
    assert build.seconds > 0.1
    assert build.dbt_invocation_id is not None
    with duckdb.connect(project.root / "toy.duckdb") as con:
        assert con.sql("from main_features.thing").fetchall() == [(1, "of hindcast.yml")]


def test_a_verdict_is_a_check_that_warns_and_what_is_made_once_is_left_out(made):
    _, result, _ = made
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert (checks["judge"].passed, checks["doubt"].passed) == (False, True)
    assert checks["judge"].severity is AssetCheckSeverity.WARN
    assert checks["judge"].asset_key == AssetKey("filled")
    (train,) = result.asset_materializations_for_node("train")
    assert train.metadata["left_out"].value == "how"


def test_assets_picked_by_hand_are_a_run_of_these_steps(project, instance):
    assert project.dagster(instance, "filled", "again").success
    assert project.ran == ["filled", "doubt", "again"]
    (run,) = runs.last(project.root, 5)
    assert (run.outcome, run.is_whole) == ("done", False)
    assert run.steps == ("filled", "judge", "doubt", "again")
    # of the assets page too, which has a job of Dagster's own
    implicit = definitions(project.root).resolve_implicit_global_asset_job_def()
    assert implicit.executor_def.name == "in_process"


def test_a_build_that_fails_ends_the_run_and_hindcast_goes_on_with_it(project, instance):
    project.build("dbt build --no-such-flag")
    result = project.dagster(instance)
    assert not result.success
    assert project.ran == ["land"]
    (run,) = runs.last(project.root, 5)
    assert (run.outcome, run.stopped_at, run.exit_code) == ("failed", "build", 2)
    assert lock.holder(project.root) is None
    project.build("python mark.py built")
    project.must("run --resume")
    assert project.ran == ["built", "filled", "doubt", "again", AT]
    (run,) = runs.last(project.root, 5)
    assert (run.outcome, run.attempts) == ("done", 2)


def test_while_another_run_is_at_work_it_asks_for_five_tries_a_minute_apart(project):
    config = load_config(project.root)
    with (
        lock.held(project.root),
        pytest.raises(RetryRequested) as asked,
        build_asset_context() as context,
    ):
        one = one_run.OneRun(project.root, config, {})
        one.run(config.steps[-1], context, one_run.Instant(at=AT))
    assert (asked.value.max_retries, asked.value.seconds_to_wait) == (5, 60)
    assert project.ran == []


def test_it_waits_for_another_run_and_then_begins(project, instance, monkeypatch):
    monkeypatch.setattr(one_run, "SECONDS_BETWEEN", 0)
    waited = []
    with ExitStack() as other:
        other.enter_context(lock.held(project.root))

        def heard(event, cursor):
            said = event.dagster_event
            if said and said.event_type is DagsterEventType.STEP_UP_FOR_RETRY:
                waited.append(said.step_retry_data.error.cause.message)
                other.close()

        run_id = "0b1c36d6-8ba4-4a5c-9e4c-6f0a3a6f3a11"
        instance.watch_event_logs(run_id, None, heard)
        assert project.dagster(instance, "after", run_id=run_id).success
    assert len(waited) == 1
    assert "is at work" in waited[0]
    assert project.ran == [AT]
    assert len(runs.last(project.root, 5)) == 1


def test_after_the_last_try_it_fails_and_has_begun_nothing(project, instance, monkeypatch):
    monkeypatch.setattr(one_run, "SECONDS_BETWEEN", 0)
    monkeypatch.setattr(lock, "PATIENCE_S", 0.1)
    with lock.held(project.root):
        result = project.dagster(instance, "after")
    assert not result.success
    tries = [e for e in result.all_events if e.event_type is DagsterEventType.STEP_UP_FOR_RETRY]
    assert len(tries) == 5
    assert project.ran == []
    assert runs.last(project.root, 5) == []
