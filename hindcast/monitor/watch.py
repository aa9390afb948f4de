"""One run of the monitor, in order: rows, statistics, distances, scores, outcomes, verdicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from feast import FeatureService, FeatureStore
from feast.errors import FeatureServiceNotFoundException

from hindcast import champion
from hindcast.config import Limits, Monitor, ProjectConfig, utc_text
from hindcast.errors import HindcastError, MissingInputError
from hindcast.monitor import drift, history, performance, population, statistics
from hindcast.monitor.checks import Check, Verdict, worst, worst_first
from hindcast.monitor.period import Period, before
from hindcast.monitor.population import Feature, Population
from hindcast.monitor.predictions import Model, Scored, scored
from hindcast.monitor.thresholds import OFF, Thresholds

SHARES = {"features": 0.6, "score": 0.2, "performance": 0.2}
"""How the false alarms of a run are shared out among what is drawn from different days."""
STALE = 99.0
"""Ages are told up to so many TTLs."""


@dataclass(frozen=True)
class Report:
    """What one run found, and what its page shows."""

    run_at: datetime
    at: datetime
    window: Period
    model: Model
    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    rows: tuple[int, int]
    """Of the baseline and of the window."""
    features: tuple[Feature, ...]
    baseline: Population
    now: Population
    statistics: tuple[statistics.Statistics, statistics.Statistics]
    scores: tuple[Scored | None, Scored]
    """Of the reference, where there is one, and of the window."""
    from_log: bool
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """The worst of all."""
        return worst(self.checks)

    @property
    def counts(self) -> dict[str, int]:
        """How many checks have each verdict."""
        return {it.value: sum(c.verdict is it for c in self.checks) for it in Verdict}


def watch(
    project_dir: Path,
    config: ProjectConfig,
    at: datetime,
    *,
    days: int | None = None,
    from_log: bool = False,
    seed: int = 0,
    tell: Callable[[str], object] = lambda text: None,
) -> Report:
    """Hold the days before an instant against the training, and keep the verdicts.

    Raises:
        MissingInputError: nothing is published, registered or trained yet, or has no rows.
        HindcastError: `hindcast.yml` has no `monitor:`, or names something that is not there.
    """
    began = datetime.now(UTC)
    options = in_use(project_dir, config)
    store, service = _opened(project_dir, config)
    thresholds = Thresholds.of(project_dir, options)
    model = Model.of(project_dir, options.model)
    notes: list[str] = []
    window = before(at, days or options.days)
    trained = Period(model.trained.start, min(model.trained.end, at))
    if trained.end > window.start:
        notes.append("the window overlaps with what the model was trained on")

    watched = population.features(store, service, config.spine)
    tell("the rows the model was trained on")
    baseline, is_new = population.baseline(
        project_dir, store, service, config.spine, trained, model.snapshot, notes
    )
    tell(f"the rows of {window.days} days")
    now = (
        population.served(store, service, window)
        if from_log
        else population.joined(store, service, config.spine, window)
    )
    watched = [it for it in watched if it.column in now.table.column_names]
    tell("Feast's statistics of both")
    both = _statistics(project_dir, store, watched, baseline, now, is_new, from_log)
    tell("distances")
    checks = _features(config, options, thresholds, store, service, watched, baseline, now, seed)
    checks += _freshness(thresholds, store, service, at)
    tell("scores and outcomes")
    said = scored(project_dir, store, config.spine, options, model, at, notes)
    reference, recent = _reference(said, window, options, notes)
    checks += _model(config, options, thresholds, model, reference, recent, seed, notes)
    report = Report(
        run_at=began,
        at=at,
        window=window,
        model=model,
        checks=tuple(worst_first(checks)),
        notes=tuple(notes),
        rows=(baseline.table.num_rows, now.table.num_rows),
        features=tuple(watched),
        baseline=baseline,
        now=now,
        statistics=both,
        scores=(reference, recent),
        from_log=from_log,
        seconds=(datetime.now(UTC) - began).total_seconds(),
    )
    history.save(project_dir, began, at, window.days, model.id, report.checks)
    return report


def options_of(config: ProjectConfig) -> Monitor:
    """The `monitor:` section of `hindcast.yml`. Raises HindcastError where it has none."""
    if config.monitor is None:
        raise HindcastError(
            "hindcast.yml has no `monitor:`, which says where the model in use and its predictions "
            "are: see docs/monitoring.md"
        )
    return config.monitor


def in_use(project_dir: Path, config: ProjectConfig) -> Monitor:
    """The `monitor:` section with the files of the champion, once there is one.

    A challenger that lost is the newest run too: its figures are not those of what answers.
    """
    options = options_of(config)

    def follow(path: Path) -> Path:
        return champion.followed(project_dir, config, path)

    manifest = follow(options.model.manifest)
    return options.model_copy(
        update={
            "model": options.model.model_copy(update={"manifest": manifest}),
            "predictions": tuple(
                each.model_copy(update={"path": follow(each.path)}) for each in options.predictions
            ),
        }
    )


def _opened(project_dir: Path, config: ProjectConfig) -> tuple[FeatureStore, FeatureService]:
    store = FeatureStore(repo_path=str(project_dir / config.feature_repo))
    try:
        return store, store.get_feature_service(config.feature_service)
    except FeatureServiceNotFoundException:
        raise MissingInputError(
            f"Feast knows no feature service {config.feature_service}: run "
            f"`feast -c {config.feature_repo} apply` first."
        ) from None


def _statistics(
    project_dir: Path,
    store: FeatureStore,
    watched: list[Feature],
    baseline: Population,
    now: Population,
    is_new: bool,
    from_log: bool,
) -> tuple[statistics.Statistics, statistics.Statistics]:
    """Feast's statistics of the baseline, where they are not kept yet, and of the window.

    Those of its last day are kept too.
    """
    folder = project_dir / population.KEPT
    file = folder / "window.parquet"
    pq.write_table(now.table, file)
    recent = statistics.compute(store, file, watched, now.period)
    statistics.keep(store, recent, watched, now.period, is_baseline=False, from_log=from_log)
    if now.period.days > 1:  # Feast's page opens on single days
        day = before(now.period.end, 1)
        of_day = statistics.compute(store, file, watched, day)
        statistics.keep(store, of_day, watched, day, is_baseline=False, from_log=from_log)
    then = None if is_new else statistics.kept_baseline(store, watched)
    if then is None:
        file = folder / "baseline.parquet"
        then = statistics.compute(store, file, watched, baseline.period)
        statistics.keep(store, then, watched, baseline.period, is_baseline=True, from_log=False)
    return then, recent


def _features(
    config: ProjectConfig,
    options: Monitor,
    thresholds: Thresholds,
    store: FeatureStore,
    service: FeatureService,
    watched: list[Feature],
    baseline: Population,
    now: Population,
    seed: int,
) -> list[Check]:
    """Distances of features, and volumes of the spine and of the views."""
    then, recent = counted(config, store, service, watched, baseline, now)
    share = options.false_alarms * SHARES["features"]
    return drift.compare(then, recent, thresholds, false_alarms=share, seed=seed)


def counted(
    config: ProjectConfig,
    store: FeatureStore,
    service: FeatureService,
    watched: list[Feature],
    baseline: Population,
    now: Population,
) -> tuple[dict[str, drift.Days], dict[str, drift.Days]]:
    """What is compared, by day, of the baseline and of now."""
    then: dict[str, drift.Days] = {}
    recent: dict[str, drift.Days] = {}
    for feature in watched:
        values = baseline.values(feature)
        bins = drift.Bins.of(values)
        then[feature.subject] = bins.count_baseline(values, baseline.day, baseline.period.days)
        recent[feature.subject] = bins.count(now.values(feature), now.day, now.period.days)
    then[config.spine] = _volume(np.bincount(baseline.day, minlength=baseline.period.days))
    recent[config.spine] = _volume(np.bincount(now.day, minlength=now.period.days))
    for view in _stored(store, service):
        then[view] = _volume(population.view_rows(store, view, baseline.period))
        recent[view] = _volume(population.view_rows(store, view, now.period))
    return then, recent


def _freshness(
    thresholds: Thresholds, store: FeatureStore, service: FeatureService, at: datetime
) -> list[Check]:
    """The age of each view's newest row, in TTLs."""
    checks = []
    for view in _stored(store, service):
        ttl = store.get_feature_view(view).ttl
        limits = thresholds(view, "freshness")
        if not ttl or limits == OFF:
            continue
        known = population.newest(store, view, at)
        age = STALE * ttl if known is None else at - known
        told = "no row" if known is None else f"newest row {utc_text(known.astimezone(UTC))}"
        checks.append(
            Check(
                view,
                "freshness",
                min(age / ttl, STALE),
                limits,
                detail=f"{told}, TTL {_span(ttl)}",
            )
        )
    return checks


def _model(
    config: ProjectConfig,
    options: Monitor,
    thresholds: Thresholds,
    model: Model,
    reference: Scored | None,
    recent: Scored,
    seed: int,
    notes: list[str],
) -> list[Check]:
    """Drift of the scores at once, and performance as far as outcomes are known."""
    if len(recent.score) == 0:
        notes.append("the model in use predicted nothing in the window")
        return []
    subject = config.feature_service
    checks = []
    if reference is not None:
        share = options.false_alarms * SHARES["score"]
        checks = score_drift(
            reference, recent, thresholds, subject=subject, false_alarms=share, seed=seed
        )
    judged = performance.judge(
        recent,
        reference,
        model,
        thresholds,
        subject=subject,
        false_alarms=options.false_alarms * SHARES["performance"],
        seed=seed,
    )
    if not judged:
        notes.append("too few outcomes are known to judge the model's performance")
    waiting = int(np.isnan(recent.outcome).sum())
    notes.append(f"{waiting:,} of {len(recent.outcome):,} predictions have no outcome (yet)")
    return checks + judged


def score_drift(
    reference: Scored,
    recent: Scored,
    thresholds: Thresholds,
    *,
    subject: str,
    false_alarms: float,
    seed: int = 0,
) -> list[Check]:
    """How far the scores of now are from those of the model's first days, outcomes or not."""

    def of_scores(of: str, name: str) -> Limits:
        return thresholds(of, name) if name in ("psi", "ks") else OFF

    name, then, now = f"{subject}.score", pd.Series(reference.score), pd.Series(recent.score)
    bins = drift.Bins.of(then)
    return drift.compare(
        {name: bins.count_baseline(then, reference.day, reference.period.days)},
        {name: bins.count(now, recent.day, recent.period.days)},
        of_scores,
        false_alarms=false_alarms,
        seed=seed,
    )


def _reference(
    said: Scored, window: Period, options: Monitor, notes: list[str]
) -> tuple[Scored | None, Scored]:
    """The predictions of the model's first days, before the window; and those of the window.

    Of a model that is new, the first two weeks are held against what came after them.
    """
    first, start = said.period.start, window.start
    least = timedelta(days=2 * drift.BLOCK_DAYS)
    if start - first < least <= (window.end - first) / 2:
        start = first + least
        notes.append(
            f"the model is new: what it said from {utc_text(start.astimezone(UTC))} on is held "
            f"against its first {least.days} days"
        )
    recent = said.within(Period(start, window.end))
    end = min(first + timedelta(days=options.reference_days), start)
    days = (end - first) / timedelta(days=1)
    if len(said.score) == 0 or days < 2 * drift.BLOCK_DAYS:
        if len(said.score):
            notes.append(
                "the model has too few days behind it for its scores and performance to be held "
                f"against ({max(days, 0):.0f}; needed are {2 * drift.BLOCK_DAYS} before the window)"
            )
        return None, recent
    return said.within(Period(first, end)), recent


def _volume(rows: np.ndarray) -> drift.Days:
    none = np.zeros(len(rows))
    return drift.Days(drift.VOLUME, rows, none, none, none[:, None])


def _stored(store: FeatureStore, service: FeatureService) -> list[str]:
    on_demand = {view.name for view in store.list_on_demand_feature_views()}
    names = [projection.name for projection in service.feature_view_projections]
    return [name for name in names if name not in on_demand]


def _span(ttl: timedelta) -> str:
    hours = ttl / timedelta(hours=1)
    return f"{hours / 24:g} days" if hours >= 48 else f"{hours:g} hours"
