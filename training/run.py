"""One training run from Feast to `artifacts/<run>/`, and the same run again from its manifest.

The order of a run is told here and the work is done in `dataset`, `model`, `evaluate` and
`report`. Not for settings (`settings`) or for the command line (`__main__`).
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hindcast.errors import HindcastError
from training import dataset, evaluate, explain, model, report, track
from training.console import console, step
from training.settings import Settings

PACKAGES = (
    "duckdb",
    "feast",
    "numpy",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "scipy",
    "skops",
)
"""Those whose version can change a figure."""

MODEL, SCHEDULE, LOOKUP, BASE = "model", "schedule only", "carrier x hour", "base rate"


@dataclass(frozen=True)
class Trained:
    """A model, what was chosen for it, and its P(late) by row: NaN on the fitting days."""

    scoring: model.ScoringModel
    choice: model.Choice
    p: np.ndarray


def train(settings: Settings) -> Path:
    """Train, evaluate and write everything down. Returns the run's folder."""
    with track.tracked(settings) as log:
        run = trained_run(settings)
        log(run)
    return run


def trained_run(settings: Settings) -> Path:
    """The training itself, whether or not it is tracked."""
    started = time.process_time()
    data = load(settings)
    joined = time.process_time()
    trained = learn(data, settings)
    cpu = {"features": joined - started, "training": time.process_time() - joined}
    predictions = {MODEL: trained.p, **baselines(data, settings)}
    with step("Evaluation on the untouched test days") as tell:
        predict = trained.scoring.predict_proba
        judged = evaluate.evaluate(data, predictions, predict, settings, tell)
        tell(f"{judged.test_flights:,} flights, {judged.test_days} days")
    with step("Explanation: slices, money, partial dependence") as tell:
        told = explain.explain(data, trained.p, trained.scoring, judged, cpu, settings, tell)
        tell(f"{told.comparisons} comparisons of slices")
    manifest = describe(data, trained, judged.decisions[MODEL].threshold, settings)
    with step("Model, figures and report written") as tell:
        run = write(data, trained, predictions, judged, told, manifest, settings)
        tell(run.name)
    return run


def load(settings: Settings) -> dataset.Dataset:
    """The dataset, with a line on the console."""
    with step("Features from Feast, as of each prediction") as tell:
        data = dataset.load(settings)
        tell(f"{len(data.frame):,} rows x {len(data.columns)}")
    return data


def learn(data: dataset.Dataset, settings: Settings) -> Trained:
    """Fit, choose and calibrate the model, and score with it. All that a manifest pins down."""
    with step("Model: trees, then calibration") as tell:
        estimator, choice = model.train(data, data.columns, settings, tell)
        tell(f"{choice.rounds} rounds of {choice.leaves} leaves")
    with step("Scores of the tuning and the test days"):
        scoring = model.ScoringModel(estimator, data.columns, np.nan, {})
        p = on_later_days(data, scoring.predict_proba)
    if settings.refit:
        with step("Trees again, on the tuning days too"):
            estimator = model.refitted(estimator, data, data.columns, choice, settings)
            scoring = model.ScoringModel(estimator, data.columns, np.nan, {})
            test = data.rows("test", labelled=False)
            p[test] = scoring.predict_proba(data.frame.iloc[test])
    return Trained(scoring, choice, p)


def baselines(data: dataset.Dataset, settings: Settings) -> dict[str, np.ndarray]:
    """P(late) of the three predictors that the model has to beat."""
    with step("Baselines") as tell:
        views = ("keys", settings.timetable_view)
        columns = tuple(column for column in data.columns if column.view in views)
        short = settings.but(max_rounds=min(settings.schedule_rounds, settings.max_rounds))
        estimator, choice = model.train(data, columns, short, tell, calibrate=False)
        schedule = model.ScoringModel(estimator, columns, np.nan, {})

        fit = data.rows("fit")
        local = data.frame["sched_dep_at"].dt.tz_convert(settings.zone)
        keys = pd.DataFrame({"carrier": data.frame["carrier"], "hour": local.dt.hour})
        table = model.LookupTable.fit(keys.iloc[fit], data.late[fit], settings.lookup_prior)
        tell(f"{SCHEDULE} in {choice.rounds} rounds, {LOOKUP}, {BASE}")
        return {
            SCHEDULE: on_later_days(data, schedule.predict_proba),
            LOOKUP: table.predict(keys),
            BASE: np.full(len(data.frame), table.base),
        }


def on_later_days(
    data: dataset.Dataset, predict: Callable[[pd.DataFrame], np.ndarray]
) -> np.ndarray:
    """P(late) of every flight after the fitting days, labelled or not; NaN before."""
    later = np.flatnonzero(data.part != "fit")
    p = np.full(len(data.frame), np.nan)
    p[later] = predict(data.frame.iloc[later])
    return p


def describe(
    data: dataset.Dataset, trained: Trained, threshold: float, settings: Settings
) -> dict[str, Any]:
    """The manifest: what the run was made of, enough to make it again."""
    made = {
        "snapshot": data.snapshot,
        "loaded_until": dataset.loaded_until(data),
        "spine_sql": dataset.spine_sql(settings),
        "hashes": {
            "spine": data.spine_hash,
            "features": data.features_hash,
            "predictions": predictions_hash(data, trained.p),
        },
        "feature_service": settings.service,
        "features": [asdict(column) for column in data.columns],
        "trained_until": settings.instant(settings.test_from).isoformat(),
        "fitted_until": settings.fitted_until,
        "base_rate": float(data.late[data.rows("fit")].mean()),
        "horizon_min": dataset.horizon_min(data.frame),
        "choice": asdict(trained.choice),
        "threshold": threshold,
        "settings": settings.as_dict(),
        "seed": settings.seed,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages": {name: version(name) for name in PACKAGES},
        "git": git_state(),
    }
    stamp = datetime.now(UTC)
    short = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:7]
    return {
        "run": f"{stamp:%Y%m%dT%H%M%SZ}-{short}",
        "created_at": stamp.isoformat(timespec="seconds"),
        **made,
    }


def predictions_hash(data: dataset.Dataset, p: np.ndarray) -> str:
    """SHA-256 over the P(late) of all test rows, labelled or not: equal only bit for bit."""
    return hashlib.sha256(p[data.rows("test", labelled=False)].tobytes()).hexdigest()


def git_state() -> dict[str, Any]:
    """The commit, and whether the work tree differed from it; nulls outside of git."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    status = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def write(
    data: dataset.Dataset,
    trained: Trained,
    predictions: Mapping[str, np.ndarray],
    judged: evaluate.Evaluation,
    told: explain.Explanation,
    manifest: dict[str, Any],
    settings: Settings,
) -> Path:
    """Write a run's folder under another name, then move it into place and point `latest` at it."""
    artifacts, name = Path(settings.artifacts), str(manifest["run"])
    run = artifacts / name
    unfinished = artifacts / f".unfinished-{name}"
    unfinished.mkdir(parents=True)
    try:
        model.save(trained.scoring.estimator, unfinished / model.MODEL)
        write_json(unfinished / model.MANIFEST, manifest)
        write_json(unfinished / "metrics.json", asdict(judged) | asdict(told))
        test = data.rows("test", labelled=False)
        pd.DataFrame(
            {
                "flight_id": data.frame["flight_id"].iloc[test],
                "predict_at": data.frame["predict_at"].iloc[test],
                "p": trained.p[test],
                "label": data.frame[dataset.LABEL].iloc[test].astype("boolean"),
            }
        ).to_parquet(unfinished / "predictions.parquet", index=False)
        report.write(unfinished, data, predictions, judged, told, manifest)
        unfinished.rename(run)
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    point_latest_at(run)
    return run


def point_latest_at(run: Path) -> None:
    """Let `artifacts/latest` be this run, in one step: a reader sees the old or the new one."""
    link = run.parent / f".latest-{run.name}"
    link.symlink_to(run.name)
    os.replace(link, run.parent / "latest")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that any reader takes: a figure that does not exist is null, not NaN."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        return None if isinstance(value, float) and np.isnan(value) else value

    path.write_text(json.dumps(plain(content), indent=2, allow_nan=False) + "\n")


def reproduce(manifest_path: Path) -> bool:
    """Make a run again from its manifest and compare bit for bit; nothing is written.

    Raises:
        MissingInputError: its snapshot is gone, and was not replayed from raw.
        HindcastError: it is not a manifest of ours.
    """
    try:
        manifest = json.loads(manifest_path.read_text())
        then = manifest["hashes"]
        settings = Settings.from_dict(manifest["settings"]).but(snapshot=manifest["snapshot"])
    except (ValueError, KeyError, TypeError) as fault:
        raise HindcastError(
            f"{manifest_path} is not the manifest of a run ({fault!r}); "
            "give artifacts/<run>/manifest.json as this version of training wrote it"
        ) from None
    settings = dataset.kept_or_replayed(settings, manifest.get("loaded_until"))
    if settings.snapshot != manifest["snapshot"]:
        console.print(f"snapshot {manifest['snapshot']} was pruned: read as replayed from raw")
    for name, was in manifest["packages"].items():
        if version(name) != was:
            console.print(f"[yellow]note[/yellow]: {name} was {was}, is {version(name)}")
    data = load(settings)
    now = {"spine": data.spine_hash, "features": data.features_hash}
    if all(now[name] == then[name] for name in now):
        now["predictions"] = predictions_hash(data, learn(data, settings).p)
    equal = True
    for name, was in then.items():
        if name not in now:
            console.print(f"[red]✗[/red] {name}: not compared, since the data differs")
        elif now[name] == was:
            console.print(f"[green]✓[/green] {name}: equal bit for bit ({was[:12]})")
        else:
            console.print(f"[red]✗[/red] {name}: was {was[:12]}, is {now[name][:12]}")
        equal &= now.get(name) == was
    return equal
