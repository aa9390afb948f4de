"""The loop of `hindcast.yml` as Dagster assets, on an hourly schedule, with checks of freshness.

    DAGSTER_HOME=$PWD/orchestration dagster dev -m orchestration.definitions

dbt's part comes from its manifest by dagster-dbt: one asset a model, its tests as checks. Every
other step is an asset that runs the step's own command. A run of Dagster's is one run on Hindcast's
record and under its lock (`orchestration.one_run`).
Nothing here says what the loop does: that is `hindcast.yml`.
"""

import subprocess
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import dagster
from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSelection,
    AssetSpec,
    Definitions,
    FreshnessPolicy,
    MaterializeResult,
    ResourceParam,
    RunRequest,
    asset,
    asset_check,
    define_asset_job,
    in_process_executor,
    multi_asset,
    multi_asset_check,
    schedule,
)
from dagster_dbt import DbtCliResource, dbt_assets

from hindcast import loop, status
from hindcast.config import ProjectConfig, Step, load_config, utc_text
from hindcast.dbt import MANIFEST
from orchestration.one_run import Instant, OneRun, resource

HOURLY = "0 * * * *"
LATE_AFTER = timedelta(hours=2)  # an asset of an hourly loop that is older has missed a run
DBT_STEP = ("dbt", "build")  # the step that is dbt's own: its assets come from the manifest


def definitions(root: Path) -> Definitions:
    """Everything that Dagster shows of the project in `root`."""
    root = root.resolve()
    config = load_config(root)
    manifest = _manifest(root)
    place = next(i for i, step in enumerate(config.steps) if _is_dbt(step))
    before, after = config.steps[:place], config.steps[place + 1 :]

    dbt_step = config.steps[place]
    built = _dbt(dbt_step, manifest)
    land = _landing(before, built)
    assets: list[Any] = [land, built]
    checks: list[AssetChecksDefinition] = []
    steps_of: dict[str, Sequence[Step]] = {land.op.name: before, built.op.name: [dbt_step]}
    upstream = sorted(key for key in built.keys if key.path[-2:-1] == ["features"])
    for is_verdict, group in groupby(after, key=lambda step: step.verdict):
        steps = list(group)
        if is_verdict:
            checks.append(_verdicts(steps, upstream[0]))
            steps_of[checks[-1].op.name] = steps
            continue
        for step in steps:
            assets.append(_step(step, upstream))
            steps_of[assets[-1].op.name] = [step]
            upstream = [AssetKey(step.name)]
            if "materialize" in step.run:
                checks.append(_within_ttl(root, config, AssetKey(step.name)))
    job = define_asset_job("loop", selection=AssetSelection.all(), executor_def=in_process_executor)

    @schedule(job=job, cron_schedule=HOURLY, execution_timezone="UTC")
    def hourly() -> RunRequest:
        """Every hour, at the instant that `hindcast.yml` says (`at: now` is the clock)."""
        at = utc_text(load_config(root).at)
        return RunRequest(run_config={"resources": {"instant": {"config": {"at": at}}}})

    return Definitions(
        assets=assets,
        asset_checks=checks,
        jobs=[job],
        schedules=[hourly],
        executor=in_process_executor,  # of assets picked by hand too: one process has the lock
        resources={
            "instant": Instant(),
            "one_run": resource(root, config, steps_of),
            "dbt": DbtCliResource(project_dir=str(root), profiles_dir=str(root)),
        },
    )


def _is_dbt(step: Step) -> bool:
    return tuple(step.run.split()[:2]) == DBT_STEP


def _manifest(root: Path) -> Path:
    """dbt's manifest, made where it is not there yet."""
    file = root / MANIFEST
    if not file.exists():
        subprocess.run(
            ["dbt", "parse", "--quiet"], cwd=root, env=loop.environment(root), check=True
        )
    return file


def _dbt(step: Step, manifest: Path) -> AssetsDefinition:
    @dbt_assets(manifest=manifest, name="build")
    def build(
        context: AssetExecutionContext,
        dbt: DbtCliResource,
        instant: Instant,
        one_run: ResourceParam[OneRun],
    ) -> Iterator[Any]:
        yield from one_run.dbt(step, context, instant, dbt)

    return build.map_asset_specs(
        lambda spec: spec.replace_attributes(
            group_name=_folder(spec.key),
            freshness_policy=FreshnessPolicy.time_window(fail_window=LATE_AFTER),
        )
    )


def _folder(key: AssetKey) -> str:
    """The part of the graph that a model or source is in: its schema."""
    return key.path[0] if len(key.path) > 1 else "seeds"


def _landing(steps: Sequence[Step], built: AssetsDefinition) -> AssetsDefinition:
    """What comes before dbt makes dbt's sources."""
    sources = sorted(
        {key for keys in built.asset_deps.values() for key in keys if key not in built.keys}
    )

    @multi_asset(
        name="land",
        specs=[
            AssetSpec(key, group_name=_folder(key), description=_said(steps)) for key in sources
        ],
    )
    def land(
        context: AssetExecutionContext, instant: Instant, one_run: ResourceParam[OneRun]
    ) -> Iterator[MaterializeResult[Any]]:
        for step in steps:
            one_run.run(step, context, instant)
        for key in sources:
            yield MaterializeResult(asset_key=key)

    return land


def _step(step: Step, upstream: Sequence[AssetKey]) -> AssetsDefinition:
    @asset(name=step.name, deps=upstream, description=_said([step]), group_name="loop")
    def made(
        context: AssetExecutionContext, instant: Instant, one_run: ResourceParam[OneRun]
    ) -> MaterializeResult[Any]:
        return MaterializeResult(metadata=one_run.run(step, context, instant))

    return made


def _verdicts(steps: Sequence[Step], of: AssetKey) -> AssetChecksDefinition:
    """Steps, one after the other, whose exit codes are what they found.

    They block, so that the next step waits for them; and only warn, so that it then runs.
    """

    @multi_asset_check(
        name="_".join(step.name for step in steps),
        specs=[
            AssetCheckSpec(step.name, asset=of, description=_said([step]), blocking=True)
            for step in steps
        ],
    )
    def check(
        context: AssetCheckExecutionContext, instant: Instant, one_run: ResourceParam[OneRun]
    ) -> Iterator[AssetCheckResult]:
        for step in steps:
            found = one_run.run(step, context, instant)
            yield AssetCheckResult(
                asset_key=of,
                check_name=step.name,
                passed=found["exit_code"] == 0,
                severity=AssetCheckSeverity.WARN,
                metadata=found,
            )

    return check


def _within_ttl(root: Path, config: ProjectConfig, of: AssetKey) -> AssetChecksDefinition:
    @asset_check(asset=of, name="features_are_within_their_ttl")
    def check(instant: Instant) -> AssetCheckResult:
        """No feature view is older than its TTL at the instant, so all of them can be served."""
        ages = status.view_ages(status.open_store(root, config), root, instant.of(config))
        return AssetCheckResult(
            passed=all(view.state == "fresh" for view in ages),
            metadata={view.view: f"{view.state}, {view.age} of {view.ttl}" for view in ages},
        )

    return check


def _said(steps: Sequence[Step]) -> str:
    return "; ".join(f"`{step.run}`" for step in steps)


@dagster.definitions
def here() -> Definitions:
    """The project in the folder that Dagster was started in."""
    return definitions(Path())
