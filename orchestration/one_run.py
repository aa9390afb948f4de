"""One run of Dagster's as one run of Hindcast's: its lock, and its record, from first step to last.

For `orchestration.definitions`. Dagster says when a step's time has come; what a step is and how
it is written down is `hindcast.loop`'s, as in `hindcast run`.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dagster import (
    AssetCheckExecutionContext,
    AssetExecutionContext,
    ConfigurableResource,
    InitResourceContext,
    ResourceDefinition,
    RetryRequested,
)
from dagster_dbt import DbtCliResource

from hindcast import lock, loop
from hindcast.config import ProjectConfig, Step
from hindcast.runs import StepRun

TRIES, SECONDS_BETWEEN = 5, 60  # while another run is at work

Context = AssetExecutionContext | AssetCheckExecutionContext


class Instant(ConfigurableResource):  # type: ignore[type-arg]
    """The instant a run stands at, an ISO time with its zone; empty: `at` of `hindcast.yml`."""

    at: str = ""

    def of(self, config: ProjectConfig) -> datetime:
        """The instant, in UTC."""
        return (datetime.fromisoformat(self.at) if self.at else config.at).astimezone(UTC)


class OneRun:
    """What the steps of one Dagster run share.

    `steps_of`: the steps that each of Dagster's ops runs.
    """

    def __init__(
        self, root: Path, config: ProjectConfig, steps_of: Mapping[str, Sequence[Step]]
    ) -> None:
        """Nothing is locked or written before the first step."""
        self.root, self.config, self.steps_of = root, config, steps_of
        self._until_its_end = ExitStack()
        self._work: loop.Work | None = None

    def run(self, step: Step, context: Context, instant: Instant) -> dict[str, Any]:
        """Run one step as `hindcast run` does; what it took."""
        work = self._begun(context, instant)
        if step in work.left_out:
            return {"run": work.record.run_id, "exit_code": 0, "left_out": str(step.unless)}
        return _said(work, work.run(step))

    def dbt(
        self, step: Step, context: AssetExecutionContext, instant: Instant, dbt: DbtCliResource
    ) -> Iterator[Any]:
        """Run the step that is dbt's own, with its own flags; what dbt says, as Dagster has it."""
        work = self._begun(context, instant)
        if step in work.left_out:
            return
        _, *words = shlex.split(work.commands[step.name])
        with work.noted(step) as note:
            note.peak_mb = None  # dagster-dbt waits for the process, and does not ask
            # into the project's own target folder: Feast and the proofs read its manifest
            called = dbt.cli(words, context=context, target_path=self.root / "target")
            work.held.at_step(step.name, called.process.pid)
            try:
                yield from called.stream()
            finally:
                note.exit_code = loop.stop(called.process)  # if it has not ended yet
        context.log.info(f"on record: {_said(work, work.ran[-1])}")

    def close(self) -> None:
        """End the run on record, and let others begin."""
        self._until_its_end.close()

    def _begun(self, context: Context, instant: Instant) -> loop.Work:
        if self._work is None:
            at = instant.of(self.config)
            enter = self._until_its_end.enter_context
            try:
                held = enter(lock.held(self.root, at))
            except lock.LockedError as fault:
                raise RetryRequested(TRIES, SECONDS_BETWEEN) from fault
            chosen = self._chosen(context)
            self._work = enter(loop.at_work(self.root, self.config, at, chosen, held))
        return self._work

    def _chosen(self, context: Context) -> list[Step]:
        """The steps of this Dagster run, which may be of some assets only."""
        keys = context.run.step_keys_to_execute or [node.name for node in context.job_def.nodes]
        names = {step.name for key in keys for step in self.steps_of.get(key, ())}
        return [step for step in self.config.steps if step.name in names]


def resource(
    root: Path, config: ProjectConfig, steps_of: Mapping[str, Sequence[Step]]
) -> ResourceDefinition:
    """`OneRun` as Dagster wants it: made once a run, and closed when that ends."""

    @contextmanager
    def shared(_: InitResourceContext) -> Iterator[OneRun]:
        one = OneRun(root, config, steps_of)
        try:
            yield one
        finally:
            one.close()

    return ResourceDefinition(shared)


def _said(work: loop.Work, done: StepRun) -> dict[str, Any]:
    return {
        "run": work.record.run_id,
        "command": done.command,
        "exit_code": done.exit_code,
        "seconds": done.seconds,
        "peak_mb": done.peak_mb,
        "snapshot": done.snapshot,
    }
