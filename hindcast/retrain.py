"""Retraining with a rule: when a challenger is trained, and when it takes the champion's place.

The training and the scoring are commands of the project (`retrain` in hindcast.yml), which leave
files: a run's folder with its manifest, and scores as Parquet. Here is the rule, and the order.
Not for comparing (`compare`), and not for the model in use (`champion`).
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

from hindcast import champion, fit, lock, loop, tracking
from hindcast.champion import Champion, Model
from hindcast.compare import (
    Comparison,
    Figure,
    Money,
    NothingToJudgeError,
    auc_alone,
    compare,
)
from hindcast.config import ProjectConfig, Retrain, utc_text
from hindcast.errors import HindcastError

NOTHING, WOULD = "nothing to do", "would retrain"
SCORES = "predictions.parquet"
RETRAINING = "retraining"

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Periods:
    """The days of a retraining; each period ends where the next begins."""

    fit_from: date
    tune_from: date
    test_from: date
    until: date

    @classmethod
    def of(cls, rule: Retrain, at: datetime) -> Periods:
        """The periods of a retraining at an instant; its own day is not over and not among them.

        Raises:
            HindcastError: the history is too short.
        """
        until = at.astimezone(ZoneInfo(rule.time_zone)).date()
        test_from = until - timedelta(days=rule.judge_days)
        tune_from = test_from - timedelta(days=rule.tune_days)
        fit_from = rule.first_day
        if rule.window_days is not None:
            fit_from = max(fit_from, test_from - timedelta(days=rule.window_days))
        if fit_from >= tune_from:
            raise HindcastError(
                f"there is too little history at {utc_text(at)}: fitting would begin on {fit_from} "
                f"and tuning on {tune_from}; retrain later, or take fewer tune_days or judge_days "
                "in hindcast.yml"
            )
        return cls(fit_from, tune_from, test_from, until)


@dataclass(frozen=True)
class Verdict:
    """Whether the challenger is to be put in use, and why."""

    promote: bool
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What `hindcast retrain` did. `action` is one of `champion`'s, or NOTHING, or WOULD."""

    action: str
    reason: str
    at: datetime
    champion: str | None
    """The model in use now."""
    challenger: str | None = None
    previous: str | None = None
    comparison: Comparison | None = None
    note: str | None = None
    """What the tracking said, if anything."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "action": self.action,
            "reason": self.reason,
            "at": utc_text(self.at),
            "champion": self.champion,
            "challenger": self.challenger,
            "previous": self.previous,
            "figures": self.comparison.as_dict() if self.comparison else None,
            "note": self.note,
        }


def decide(comparison: Comparison, reference: Figure | None, rule: Retrain) -> Verdict:
    """The rule: better beyond noise, or the champion has decayed and the challenger is better.

    `reference` is the champion's ROC AUC on the days it was chosen on, None if not known.
    """
    gain = comparison.gain["roc_auc"]
    told = f"ROC AUC {gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
    if comparison.better:
        return Verdict(True, f"better beyond noise: {told}")
    if gain.value > 0 and (fallen := decayed(comparison.champion["roc_auc"], reference, rule)):
        return Verdict(True, f"{fallen}; the challenger has {told}")
    if gain.low > 0:
        loss = comparison.gain["log_loss"]
        return Verdict(
            False,
            f"ranks better ({told}), but its probabilities are worse beyond noise: log loss "
            f"gain {loss.value:+.4f} [{loss.low:+.4f}, {loss.high:+.4f}]",
        )
    return Verdict(False, f"not better beyond noise: {told}")


def decayed(now: Figure, reference: Figure | None, rule: Retrain) -> str | None:
    """Why the champion counts as decayed, or None: its ROC AUC fell by more than chance allows."""
    if reference is None or now.high >= reference.value - rule.decay:
        return None
    return (
        f"the champion has decayed: ROC AUC {now.value:.4f} [{now.low:.4f}, {now.high:.4f}], "
        f"{reference.value:.4f} when it was chosen"
    )


def retrain(
    project_dir: Path,
    config: ProjectConfig,
    at: datetime,
    *,
    force: bool = False,
    dry_run: bool = False,
    tell: Tell = lambda text: None,
) -> Outcome:
    """Train a challenger if one is due, judge it, and put it in use if the rule says so.

    Where no model is in use yet, the newest run is; where there is none, one is trained. Nobody
    else may retrain, roll back or run the loop meanwhile, unless this is a step of the loop.

    Raises:
        LockedError: somebody does.
        HindcastError: a command failed, or did not leave what it should.
    """
    if config.retrain is None:
        raise HindcastError(
            "hindcast.yml has no section `retrain`, so it is not known how to train; "
            "docs/retraining.md shows one"
        )
    given = project_dir, config, config.retrain, at, dry_run, tell
    if dry_run:  # changes nothing
        return _Retraining(*given, ()).go(force)
    with (
        lock.held(project_dir, at, what=RETRAINING, may_be_step=True) as project,
        lock.held(project_dir, at, what=RETRAINING, which=lock.MODEL) as model,
        loop.told_to_end(),
    ):
        try:
            return _Retraining(*given, (project, model)).go(force)
        except loop.TerminatedError:
            raise loop.StoppedError(
                "the retraining was asked to end. The model in use is as it was; "
                "`hindcast retrain` begins anew"
            ) from None


class _Retraining:
    """One call of `retrain`."""

    def __init__(
        self,
        project_dir: Path,
        config: ProjectConfig,
        rule: Retrain,
        at: datetime,
        dry_run: bool,
        tell: Tell,
        locks: tuple[lock.Lock, ...],
    ) -> None:
        self.project, self.config, self.rule = project_dir, config, rule
        self.at, self.dry_run, self.tell = at.astimezone(UTC), dry_run, tell
        self.folder, self.locks = project_dir / config.artifacts, locks
        self.zone = ZoneInfo(rule.time_zone)

    def go(self, force: bool) -> Outcome:
        now = champion.current(self.project, self.config.artifacts)
        if now is None:
            return self.first("nothing was in use", None, force=False)
        if lacks := self.misfits(now.model.path):
            told = f"{now.model.run} does not fit the features any more: {'; '.join(lacks)}"
            return self.first(told, now.model.run, force)
        last = self.day(now.model.trained_until)
        until = self.at.astimezone(self.zone).date()
        if (until - last).days < self.rule.least_days:
            return self.nothing(
                now,
                f"the model in use was trained up to {last}: {max((until - last).days, 0)} whole "
                f"days since, and {self.rule.least_days} are needed to judge one",
            )
        why = "asked for (--force)" if force else self.due(now, last, until)
        if why is None:
            return self.nothing(
                now,
                f"the model in use was trained up to {last}, {(until - last).days} days ago, "
                "and has not decayed",
            )
        if self.dry_run:
            periods = Periods.of(self.rule, self.at)
            return Outcome(
                WOULD,
                f"{why}; it would train on {periods.fit_from} to {periods.test_from} and judge on "
                f"{max(periods.test_from, last)} to {periods.until}",
                self.at,
                now.model.run,
            )
        return self.challenge(now, why)

    # --- is one due? --------------------------------------------------------------------

    def due(self, now: Champion, last: date, until: date) -> str | None:
        """Why a challenger is due, or None."""
        looks = [
            each
            for each in champion.history(self.project, self.config.artifacts)
            if each.at <= self.at
        ]
        # a promoted challenger has not seen the days that judged it, and a model that was brought
        # back is an old one: neither is a reason to train again at once
        tried = [self.day(each.at) for each in looks if each.action in champion.DECIDED]
        newest = max([last, *tried])
        if (until - newest).days >= self.rule.every_days:
            return f"the model in use was trained up to {last}, {(until - last).days} days ago"
        if any(self.day(each.at) == until for each in looks if each.run == now.model.run):
            return None  # looked at today already
        first = max(last, until - timedelta(days=self.rule.judge_days))
        self.tell("has the champion decayed?")
        with tempfile.TemporaryDirectory() as scratch:
            scores = self.scores(now.model, first, until, Path(scratch) / "champion.parquet")
        try:
            auc = auc_alone(scores, self.rule.time_zone, resamples=self.rule.resamples)
        except NothingToJudgeError as reason:
            self.tell(f"whether it has decayed cannot be told yet: {reason}")
            return None
        fallen = decayed(auc, self.reference(now.model), self.rule)
        if not fallen and not self.dry_run:
            champion.note(
                self.project,
                now.model.run,
                action=champion.CHECKED,
                at=self.at,
                reason=f"not decayed: ROC AUC {auc.value:.4f} [{auc.low:.4f}, {auc.high:.4f}]",
                artifacts=self.config.artifacts,
            )
        return fallen

    def reference(self, model: Model) -> Figure | None:
        """The ROC AUC on the days that chose a model: those its training left scores of."""
        file = model.path / SCORES
        if not file.exists():
            return None
        scores = pd.read_parquet(file)
        until = model.trained_until + timedelta(days=self.rule.judge_days)
        chosen_on = scores[scores["predict_at"] < min(until, self.at)]
        if chosen_on["label"].nunique() < 2:
            return None
        return auc_alone(chosen_on, self.rule.time_zone, resamples=self.rule.resamples)

    # --- the two ends -------------------------------------------------------------------

    def first(self, why: str, previous: str | None, force: bool) -> Outcome:
        """There is nothing to compare with: the newest run is taken if it fits, or one is trained.

        `previous` is the model in use where that is of no use any more.
        """
        latest = self.folder / champion.LATEST
        found = latest.exists() and not force and not self.misfits(latest)
        told = f"{'the newest run' if found else 'a new one'}: {why}"
        if self.dry_run:
            return Outcome(WOULD, f"it would put in use {told}", self.at, previous)
        run = latest.resolve().name if found else self.train()
        model = champion.read(self.folder / run)
        action = champion.PROMOTED if previous else champion.ADOPTED
        return self.put_in_use(model, action, told, previous, None)

    def misfits(self, run: Path) -> list[str]:
        """What a run's model needs and is not there any more."""
        return fit.misfits(self.project, self.config, run)

    def challenge(self, now: Champion, why: str) -> Outcome:
        """Train a challenger, compare, decide, and act on it."""
        periods = Periods.of(self.rule, self.at)
        self.tell(f"training a challenger: {why}")
        challenger = champion.read(self.folder / self.train())
        first = max(
            periods.test_from, *(self.day(m.trained_until) for m in (now.model, challenger))
        )
        self.tell(f"judging both on {first} to {periods.until}")
        with tempfile.TemporaryDirectory() as scratch:
            scores = [
                self.scores(model, first, periods.until, Path(scratch) / f"{model.run}.parquet")
                for model in (now.model, challenger)
            ]
        comparison = compare(
            scores[0],
            scores[1],
            (now.model.threshold, challenger.threshold),
            Money(self.rule.act_cost, self.rule.act_benefit),
            self.rule.time_zone,
            resamples=self.rule.resamples,
        )
        verdict = decide(comparison, self.reference(now.model), self.rule)
        if verdict.promote:
            return self.put_in_use(
                challenger, champion.PROMOTED, verdict.reason, now.model.run, comparison
            )
        champion.note(
            self.project,
            challenger.run,
            action=champion.KEPT,
            at=self.at,
            reason=verdict.reason,
            figures=comparison.as_dict(),
            artifacts=self.config.artifacts,
        )
        return Outcome(
            champion.KEPT,
            verdict.reason,
            self.at,
            champion=now.model.run,
            challenger=challenger.run,
            comparison=comparison,
        )

    def put_in_use(
        self,
        model: Model,
        action: str,
        reason: str,
        previous: str | None,
        comparison: Comparison | None,
    ) -> Outcome:
        champion.install(
            self.project,
            model.run,
            action=action,
            at=self.at,
            reason=reason,
            figures=comparison.as_dict() if comparison else None,
            artifacts=self.config.artifacts,
        )
        return Outcome(
            action,
            reason,
            self.at,
            champion=model.run,
            challenger=model.run if comparison else None,
            previous=previous,
            comparison=comparison,
            note=tracking.promoted(self.project, self.config, model.run),
        )

    def nothing(self, now: Champion, reason: str) -> Outcome:
        return Outcome(NOTHING, reason, self.at, now.model.run)

    # --- the project's commands ---------------------------------------------------------

    def train(self) -> str:
        """Run the train command. The name of the run it left."""
        periods = Periods.of(self.rule, self.at)
        latest = self.folder / champion.LATEST
        before = latest.resolve() if latest.exists() else None
        self.run(
            "train",
            self.rule.train,
            fit_from=periods.fit_from,
            tune_from=periods.tune_from,
            test_from=periods.test_from,
            until=periods.until,
            artifacts=self.config.artifacts,
        )
        if not latest.exists() or latest.resolve() == before:
            raise HindcastError(
                f"the train command left no new run behind {latest}; `train` in hindcast.yml must "
                "write one there and point `latest` at it"
            )
        made = champion.read(latest.resolve())
        if self.day(made.trained_until) > periods.test_from:
            raise HindcastError(
                f"run {made.run} was trained up to {made.trained_until.isoformat()}, which is past "
                f"{periods.test_from}: it has seen the days that judge it; `train` in hindcast.yml "
                "must use {test_from}"
            )
        return made.run

    def scores(self, model: Model, first: date, until: date, out: Path) -> pd.DataFrame:
        """Run the score command for some days of a model."""
        self.run("score", self.rule.score, run=model.path, first=first, until=until, out=out)
        if not out.exists():
            raise HindcastError(
                f"the score command wrote no {out.name}; `score` in hindcast.yml must write "
                "Parquet to {out}"
            )
        return pd.read_parquet(out)

    def run(self, name: str, command: str, **given: object) -> None:
        """Run a command with its output on stderr, where progress belongs.

        It holds the locks too: a training outlives a retraining that is killed.
        """
        given = {name: _from(self.project, value) for name, value in given.items()}
        try:
            words = [word.format(at=utc_text(self.at), **given) for word in shlex.split(command)]
        except (KeyError, IndexError, ValueError) as fault:
            raise HindcastError(
                f"hindcast.yml: {fault} in {command!r} stands for nothing; there are {{at}}, "
                f"{', '.join(f'{{{name}}}' for name in given)}"
            ) from None
        try:
            process = subprocess.Popen(
                words,
                cwd=self.project,
                env=loop.environment(self.project),
                stdout=sys.stderr,
                pass_fds=[each for held in self.locks for each in held.passed],
            )
        except FileNotFoundError:
            raise HindcastError(f"hindcast.yml: there is no program {words[0]!r}") from None
        for held in self.locks:
            held.at_step(name, process.pid)
        try:
            code = process.wait()
        except BaseException:
            loop.stop(process)
            raise
        if code:
            raise HindcastError(
                f"{shlex.join(words)} ended with exit code {code}; its own lines above "
                "say why. The model in use is as it was"
            )

    def day(self, instant: datetime) -> date:
        """The local day of an instant."""
        return instant.astimezone(self.zone).date()


def _from(project: Path, value: object) -> object:
    """A path as the commands see it, which run in the project's root."""
    if isinstance(value, Path) and not value.is_absolute():
        return value.relative_to(project) if value.is_relative_to(project) else value
    return value
