"""A small project to retrain in: real Feast, real training, real commands."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from training_project import STANDS_AT, make_project

from training.settings import Settings

AT = STANDS_AT  # 2013-12-20, 15:00 UTC
SMALL = (
    "--max-rounds 12 --schedule-rounds 12 --round-step 4 --leaves 4 --min-leaf 20 "
    "--learning-rate 0.3 --column-share 0.9 --resamples 40 --importance-rows 100 "
    "--min-slice 50 --threads 1"
)
CONFIG = f"""\
feature_repo: feature_repo
feature_service: late_arrival
spine: flight_spine
at: 2013-12-20T15:00:00Z
steps: []
retrain:
  train: >-
    python -m training --refit --fit-from {{fit_from}} --tune-from {{tune_from}}
    --test-from {{test_from}} --test-until {{until}} --known-by {{at}} --artifacts {{artifacts}}
    {SMALL}
  score: >-
    python -m training.judge --run {{run}} --from {{first}} --until {{until}} --known-by {{at}}
    --out {{out}}
  time_zone: America/New_York
  first_day: 2013-10-01
  tune_days: 14
  judge_days: 14
  every_days: 28
  act_cost: 200
  act_benefit: 800
  resamples: 200
"""


@dataclass(frozen=True)
class Lab:
    """Where it is, and its two runs: one that learned nothing, one that learned well."""

    root: Path
    dull: str
    good: str

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def in_use(self) -> str:
        return os.readlink(self.artifacts / "champion")

    def hindcast(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The command, in a process of its own, at the project's root."""
        program = Path(sys.executable).parent / "hindcast"
        return subprocess.run(
            [program, *words], cwd=self.root, capture_output=True, text=True, timeout=900
        )

    def told(self, *words: str) -> Any:
        """The JSON of a command that must succeed."""
        done = self.hindcast(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def configure(self, old: str, new: str) -> None:
        """Change hindcast.yml."""
        file = self.root / "hindcast.yml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))


def make_lab(path: Path) -> Lab:
    """Publish, register, fill, and train the two."""
    from training import run

    project = make_project(path)
    (path / "hindcast.yml").write_text(CONFIG)
    # as hindcast.yml's commands see it, from the root
    settings = project.settings.but(tune_from="2013-10-25", test_from="2013-11-12", leaves=(4,))
    here = Path.cwd()
    os.chdir(path)
    try:
        settings = settings.but(
            repo="feature_repo", artifacts="artifacts", importance_rows=50, resamples=20
        )
        good = run.train(settings)
        dull = make_dull(good, settings)
    finally:
        os.chdir(here)
    return Lab(path, dull, good.name)


def make_dull(good: Path, settings: Settings) -> str:
    """A run like another, but with so few flights that no tree splits even once."""
    from training import dataset, model

    data = dataset.load(settings)
    estimator, _ = model.train(data, data.columns, settings.but(min_leaf=100_000))
    dull = good.with_name("20131112T000000Z-0000000")
    shutil.copytree(good, dull)
    model.save(estimator, dull / model.MODEL)
    manifest = json.loads((dull / model.MANIFEST).read_text())
    (dull / model.MANIFEST).write_text(json.dumps(manifest | {"run": dull.name, "threshold": 0.5}))
    scores = pd.read_parquet(dull / "predictions.parquet")
    scores["p"] = model.load(dull).predict_proba(data.frame.iloc[data.rows("test", False)])
    scores.to_parquet(dull / "predictions.parquet", index=False)
    return dull.name
