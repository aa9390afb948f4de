"""The loop of `hindcast.yml` as Dagster assets, on an hourly schedule, with checks of freshness.

    DAGSTER_HOME=$PWD/orchestration dagster dev -m orchestration.definitions

dbt's part comes from its manifest by dagster-dbt: one asset a model, its tests as checks. Every
other step is an asset that runs the step's own command, on Hindcast's record and under its lock.
Nothing here says what the loop does: that is `hindcast.yml`.
"""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster
from dagster import (
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSelection,
    AssetSpec,
    ConfigurableResource,
    Definitions,
    FreshnessPolicy,
    MaterializeResult,
    RetryRequested,
    RunRequest,
    asset,
    asset_check,
    define_asset_job,
    in_process_executor,
    multi_asset,
    schedule,
)
from dagster_dbt import DbtCliResource, dbt_assets

from hindcast import lock, loop, runs, status
from hindcast.config import ProjectConfig, Step, load_config, utc_text
from hindcast.dbt import MANIFEST

HOURLY = "0 * * * *"
LATE_AFTER = timedelta(hours=2)  # an asset of an hourly loop that is older has missed a run
DBT_STEP = ("dbt", "build")  # the step that is dbt's own: its assets come from the manifest
TRIES, SECONDS_BETWEEN = 5, 60  # while another run is at work


class Instant(ConfigurableResource):  # type: ignore[type-arg]
    """The instant a run stands at, an ISO time with its zone; empty: `at` of `hindcast.yml`."""

    at: str = ""

    def of(self, config: ProjectConfig) -> datetime:
        """The instant, in UTC."""
        return (datetime.fromisoformat(self.at) if self.at else config.at).astimezone(UTC)


def definitions(root: Path) -> Definitions:
    """Everything that Dagster shows of the project in `root`."""
    root = root.resolve()
    config = load_config(root)
    manifest = _manifest(root)
    place = next(i for i, step in enumerate(config.steps) if _is_dbt(step))
    before, after = config.steps[:place], config.steps[place + 1 :]

    built = _dbt(root, config, manifest)
    views = [key for key in built.keys if key.path[-2:-1] == ["features"]]
    assets: list[Any] = [_landing(root, config, before, built), built]
    checks: list[AssetChecksDefinition] = []
    upstream = sorted(views)
    for step in after:
        if step.verdict:
            checks.append(_verdict(root, config, step, upstream[0]))
            continue
        assets.append(_step(root, config, step, upstream))
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
        resources={
            "instant": Instant(),
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


def _dbt(root: Path, config: ProjectConfig, manifest: Path) -> AssetsDefinition:
    @dbt_assets(manifest=manifest, name="build")
    def build(
        context: AssetExecutionContext, dbt: DbtCliResource, instant: Instant
    ) -> Iterator[Any]:
        with _alone(root, instant.of(config)):
            # into the project's own target folder: Feast and the proofs read its manifest
            yield from dbt.cli(["build"], context=context, target_path=root / "target").stream()

    return build.map_asset_specs(
        lambda spec: spec.replace_attributes(
            group_name=_folder(spec.key),
            freshness_policy=FreshnessPolicy.time_window(fail_window=LATE_AFTER),
        )
    )


def _folder(key: AssetKey) -> str:
    """The part of the graph that a model or source is in: its schema."""
    return key.path[0] if len(key.path) > 1 else "seeds"


def _landing(
    root: Path, config: ProjectConfig, steps: Sequence[Step], built: AssetsDefinition
) -> AssetsDefinition:
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
    def land(context: AssetExecutionContext, instant: Instant) -> Iterator[MaterializeResult[Any]]:
        for step in steps:
            _run(root, config, step, instant)
        for key in sources:
            yield MaterializeResult(asset_key=key)

    return land


def _step(
    root: Path, config: ProjectConfig, step: Step, upstream: Sequence[AssetKey]
) -> AssetsDefinition:
    @asset(name=step.name, deps=upstream, description=_said([step]), group_name="loop")
    def made(context: AssetExecutionContext, instant: Instant) -> MaterializeResult[Any]:
        return MaterializeResult(metadata=_run(root, config, step, instant))

    return made


def _verdict(root: Path, config: ProjectConfig, step: Step, of: AssetKey) -> AssetChecksDefinition:
    """A step whose exit code is what it found."""

    @asset_check(asset=of, name=step.name, description=_said([step]))
    def check(instant: Instant) -> AssetCheckResult:
        found = _run(root, config, step, instant)
        return AssetCheckResult(
            passed=found["exit_code"] == 0, severity=AssetCheckSeverity.WARN, metadata=found
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


def _run(root: Path, config: ProjectConfig, step: Step, instant: Instant) -> dict[str, Any]:
    """Run one step as `hindcast run --only` does; what it took."""
    try:
        ran = loop.run(root, config, instant.of(config), only=[step.name])
    except lock.LockedError as fault:
        raise RetryRequested(TRIES, SECONDS_BETWEEN) from fault
    if not ran.steps:
        return {"exit_code": 0, "left_out": str(step.unless)}
    done: runs.StepRun = ran.steps[0]
    return {
        "run": ran.run.run_id,
        "command": done.command,
        "exit_code": done.exit_code,
        "seconds": done.seconds,
        "peak_mb": done.peak_mb,
        "snapshot": done.snapshot,
    }


@contextmanager
def _alone(root: Path, at: datetime) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(lock.held(root, at))
        except lock.LockedError as fault:
            raise RetryRequested(TRIES, SECONDS_BETWEEN) from fault
        yield


@dagster.definitions
def here() -> Definitions:
    """The project in the folder that Dagster was started in."""
    return definitions(Path())
