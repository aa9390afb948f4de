"""The small project of the training tests, with a dbt project beside it that says thresholds."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

sys.path += [str(Path(__file__).parents[1] / room) for room in ("training", "running")]

from training_project import Project, flights, make_project, weather

MODEL_YAML = {
    "models": [
        {
            "name": "origin_weather",
            "description": "One row per origin and known_at.",
            "config": {"meta": {"monitor": {"psi": [0.3, 2.0]}}},
            "columns": [
                {"name": "origin"},
                {"name": "known_at"},
                {"name": "wind_mph"},
                # it counts up for ever, so it always drifts
                {
                    "name": "reports",
                    "config": {"meta": {"monitor": {"psi": "off", "ks": "off", "range": "off"}}},
                },
            ],
        }
    ],
    "exposures": [
        {
            "name": "late_arrival",
            "type": "ml",
            "owner": {"name": "flight-ops"},
            "depends_on": ["ref('origin_weather')"],
            "config": {
                "meta": {
                    "monitor": {
                        "roc_auc": [0.05, 0.15],
                        "features": {
                            "flight_calendar": {"range": [0.03, None]},
                            "flight_calendar.flight_distance_mi": {"ks": "off"},
                        },
                    }
                }
            },
        }
    ],
}
MONITOR = {
    "days": 14,
    "reference_days": 14,
    "model": {
        "manifest": "artifacts/latest/manifest.json",
        "id": "run",
        "snapshot": "snapshot",
        "trained_from": "settings.fit_from",
        "trained_until": "settings.tune_from",
        "time_zone": "settings.zone",
        "threshold": "threshold",
        "flag_cost": "settings.flag_cost",
        "flag_benefit": "settings.late_benefit",
    },
    "outcome": {"label": "is_late", "known_at": "label_known_at"},
    "predictions": [
        {"path": "artifacts/latest/predictions.parquet", "score": "p", "keys": ["flight_id"]}
    ],
}
AT = "2013-12-30T15:00:00Z"


def make(path: Path) -> Project:
    """Published, registered, trained, and known to dbt and hindcast.yml."""
    from training import run

    made = make_project(path)
    (path / "models").mkdir()
    (path / "models" / "origin_weather.sql").write_text("select 1 as one\n")
    (path / "models" / "origin_weather.yml").write_text(yaml.safe_dump(MODEL_YAML))
    (path / "dbt_project.yml").write_text("name: small\nprofile: small\nversion: '1.0'\n")
    (path / "profiles.yml").write_text(
        "small: {target: dev, outputs: {dev: {type: duckdb, path: ':memory:'}}}\n"
    )
    settings = {
        "feature_repo": "feature_repo",
        "feature_service": "late_arrival",
        "spine": "flight_spine",
        "at": AT,
        "model": "artifacts/latest",
        "steps": [],
        "monitor": MONITOR,
    }
    (path / "hindcast.yml").write_text(yaml.safe_dump(settings))
    parse(path)
    run.train(made.settings)
    return made


def parse(path: Path) -> None:
    """`dbt parse`, in this process."""
    from dbt.cli.main import dbtRunner

    folder = ["--project-dir", str(path), "--profiles-dir", str(path)]
    done = dbtRunner().invoke(["--quiet", "parse", "--no-partial-parse", *folder])
    assert done.success, done.exception


def publish(path: Path, spine: pd.DataFrame, reports: pd.DataFrame, name: str = "later") -> None:
    """Publish other tables beside those that the model was trained on."""
    folder = path / "data" / "published" / name
    folder.mkdir()
    spine.to_parquet(folder / "flight_spine.parquet", index=False)
    reports.to_parquet(folder / "origin_weather.parquet", index=False)
    link = folder.parent / "new"
    link.symlink_to(name)
    os.replace(link, folder.parent / "current")


def spoiled() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The project's tables with a fault of each kind since 16 December."""
    spine, reports = flights(), weather()
    late = reports["known_at"] >= pd.Timestamp("2013-12-16", tz="UTC")
    numbers = np.arange(late.sum())
    reports.loc[late, "wind_mph"] += 60
    reports.loc[late, "sky"] = np.where(numbers % 3 == 0, "purple", "calm")
    reports.loc[late, "reports"] = pd.NA
    reports = reports[~late | (reports["known_at"].dt.hour % 2 == 0)]
    reports = reports[reports["known_at"] < pd.Timestamp("2013-12-30", tz="UTC")]
    recent = spine["predict_at"] >= pd.Timestamp("2013-12-16", tz="UTC")
    wrong = recent & spine["is_late"].notna()
    spine.loc[wrong, "is_late"] = ~spine.loc[wrong, "is_late"].astype(bool)
    return spine, reports


def as_json(output: str) -> dict:
    """The JSON of a command's output."""
    return json.loads(output[output.index("{") :])
