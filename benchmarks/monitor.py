"""What does `hindcast monitor` flag in a real year, and is it silent where nothing changes?

    python -m benchmarks.monitor

Trains one model on January and February and never again, then runs the monitor at the end of
every later month, as it would have run then: outcomes that came later are not seen. Then, on data
that is stable because its weeks are drawn from the training itself, counts the runs that say
anything. Works below `target/monitor-year/`, on what is published; prints the tables of
docs/monitoring.md and draws its picture.
"""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from shutil import copy, copytree, ignore_patterns
from typing import Annotated
from zoneinfo import ZoneInfo

import numpy as np
import typer
import yaml
from feast import FeatureStore

from hindcast.config import ProjectConfig, load_config
from hindcast.monitor import drift, history, page, performance, plots, population
from hindcast.monitor.checks import Check, worst_first
from hindcast.monitor.period import Period
from hindcast.monitor.predictions import Scored
from hindcast.monitor.thresholds import Thresholds
from hindcast.monitor.watch import SHARES, Report, counted, options_of, score_drift, watch

ROOT = Path(__file__).parent.parent
WORK = ROOT / "target" / "monitor-year"
ZONE = ZoneInfo("America/New_York")
STARTS = [datetime(2013, month, 1, tzinfo=ZONE) for month in range(4, 13)]
ENDS = [*STARTS[1:], datetime(2014, 1, 1, tzinfo=ZONE)]
FEW = 5


def main(
    resamples: Annotated[int, typer.Option(help="Runs on stable data.")] = 100,
    picture: Annotated[Path, typer.Option(help="Where to draw the year.")] = Path(
        "docs/images/monitor-year.svg"
    ),
) -> None:
    """Monitor a year with a model that is never trained again."""
    project = make_project()
    config = load_config(project)
    print("| month | verdict | ok | warn | fail | ROC AUC | came true | what speaks up most |")
    print("|---|---|---|---|---|---|---|---|")
    report: Report | None = None
    for end in ENDS:
        at = end.astimezone(UTC)
        days = (end - end.replace(year=2013, month=(end.month - 2) % 12 + 1)).days
        report = watch(project, config, at, days=days)
        print(row(report, end), flush=True)
    assert report is not None
    page.write(project, config, report)
    runs = history.history(project, newest=len(ENDS))
    picture.write_text(plots.trend(runs) + "\n")
    print(f"\nPage: {WORK / options_of(config).page}. Picture: {picture}.\n")
    growing(project, config, report)
    stable(project, config, report, resamples)


def growing(project: Path, config: ProjectConfig, report: Report) -> None:
    """Each month against all that was known before it, as if trained anew every month."""
    options = options_of(config)
    store = FeatureStore(repo_path=str(project / config.feature_repo))
    service = store.get_feature_service(config.feature_service)
    whole = Period(report.baseline.period.start, ENDS[-1].astimezone(UTC))
    year = population.joined(store, service, config.spine, whole)
    thresholds = Thresholds.of(project, options)
    print("| month | ok | warn | fail | what speaks up, of features and volumes |")
    print("|---|---|---|---|---|")
    for start, end in pairwise([STARTS[0], *ENDS]):
        then, now = (
            year.within(Period(a, b.astimezone(UTC)))
            for a, b in ((whole.start, start), (start.astimezone(UTC), end))
        )
        checks = drift.compare(
            *counted(config, store, service, list(report.features), then, now),
            thresholds,
            false_alarms=options.false_alarms * SHARES["features"],
        )
        found = Counter(check.verdict.value for check in checks)
        speaking = [check for check in worst_first(checks) if check.verdict != "ok"]
        month = start.strftime("%B")
        counts = " | ".join(str(found[name]) for name in ("ok", "warn", "fail"))
        print(f"| {month} | {counts} | {said(speaking)} |", flush=True)
    print()


def said(speaking: list[Check]) -> str:
    """The worst subjects with what they say."""
    loud: dict[str, list[str]] = {}
    for check in speaking:
        name = check.subject.rpartition(".")[2]
        loud.setdefault(name, []).append(f"{check.name} {check.value:.2f}")
    return "; ".join(f"{name} {', '.join(each[:2])}" for name, each in list(loud.items())[:FEW])


def make_project() -> Path:
    """A project that shares what this one publishes, with a model, records and registry of its
    own."""
    if not (WORK / "artifacts" / "latest").exists():
        frozen = ["--tune-from", "2013-02-15", "--test-from", "2013-03-01"]
        command = [sys.executable, "-m", "training", *frozen]
        subprocess.run([*command, "--artifacts", str(WORK / "artifacts")], cwd=ROOT, check=True)
    (WORK / "data").mkdir(parents=True, exist_ok=True)
    (WORK / "data" / "hindcast.duckdb").unlink(missing_ok=True)
    copy(ROOT / "data" / "registry.db", WORK / "data")
    kept = ignore_patterns("feast_monitoring")  # that of this project has another baseline
    copytree(ROOT / "feature_repo", WORK / "feature_repo", ignore=kept, dirs_exist_ok=True)
    for name in ("data/published", "models", "dbt_project.yml", "target"):
        link = WORK / name
        if not link.is_symlink():
            link.symlink_to(ROOT / name)
    settings = yaml.safe_load((ROOT / "hindcast.yml").read_text())
    settings["monitor"]["predictions"] = settings["monitor"]["predictions"][:1]
    (WORK / "hindcast.yml").write_text(yaml.safe_dump(settings))
    return WORK


def row(report: Report, end: datetime) -> str:
    """One month of the table."""
    by_name = {check.name: check for check in report.checks if check.low is not None}
    auc, calibration = by_name["roc_auc"], by_name["calibration"]
    speaking = [check for check in report.checks if check.verdict != "ok" and check.low is None]
    month = (end.replace(day=1, month=(end.month - 2) % 12 + 1)).strftime("%B")
    counts = report.counts
    return (
        f"| {month} | {report.verdict} | {counts['ok']} | {counts['warn']} | {counts['fail']} "
        f"| {auc.now:.3f} [{auc.low:.3f}, {auc.high:.3f}] {auc.verdict} "
        f"| {calibration.detail.split()[0]}, gap {calibration.now:+.3f} {calibration.verdict} "
        f"| {said(speaking)} |"
    )


def stable(project: Path, config: ProjectConfig, report: Report, resamples: int) -> None:
    """How often the monitor speaks up where nothing has changed.

    Features: weeks drawn from the training. The model, its scores and their outcomes: weeks drawn
    from its first days, of which the mean score is put right first, since a model that is off is
    off in stable data too.
    """
    options = options_of(config)
    thresholds = Thresholds.of(project, options)
    store = FeatureStore(repo_path=str(project / config.feature_repo))
    service = store.get_feature_service(config.feature_service)
    then, _ = counted(
        config, store, service, list(report.features), report.baseline, report.baseline
    )
    first = report.scores[0]
    assert first is not None
    gap = np.nanmean(first.score[~np.isnan(first.outcome)]) - np.nanmean(first.outcome)
    first = replace(first, score=np.clip(first.score - gap, 0, 1))
    random = np.random.default_rng(1)
    days, length = report.baseline.period.days, options.days
    spoke: Counter[str] = Counter()
    any_spoke = 0
    for number, chosen in enumerate(drift.block_days(days, length, resamples, random)):
        features = drift.compare(
            then,
            {name: each.take(chosen) for name, each in then.items()},
            thresholds,
            false_alarms=options.false_alarms * SHARES["features"],
            seed=number,
            resamples=300,
        )
        recent = redrawn(first, random)
        scores = score_drift(
            first,
            recent,
            thresholds,
            subject=config.feature_service,
            false_alarms=options.false_alarms * SHARES["score"],
            seed=number,
        )
        model = performance.judge(
            recent,
            first,
            report.model,
            thresholds,
            subject=config.feature_service,
            false_alarms=options.false_alarms * SHARES["performance"],
            seed=number,
        )
        loud = [
            f"{part} {check.name}"
            for part, checks in (("feature", features), ("score", scores), ("model", model))
            for check in checks
            if check.verdict != "ok"
        ]
        spoke.update(set(loud))
        any_spoke += bool(loud)
    print(
        f"Stable data: {any_spoke} of {resamples} runs say anything ({any_spoke / resamples:.1%}; "
        f"stated: at most {options.false_alarms:.0%}); by check: {dict(spoke) or 'none'}."
    )


def redrawn(scored: Scored, random: np.random.Generator) -> Scored:
    """As many days, drawn in blocks from those there are."""
    days = scored.period.days
    (chosen,) = drift.block_days(days, days, 1, random)
    rows = [np.flatnonzero(scored.day == day) for day in chosen]
    take = np.concatenate(rows)
    day = np.repeat(np.arange(days), [len(each) for each in rows])
    return Scored(scored.period, day * 86400.0, scored.score[take], scored.outcome[take])


if __name__ == "__main__":
    typer.run(main)
