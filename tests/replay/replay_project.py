"""A copy of this project whose `replay:` section fits a few days of January."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
START = "2013-01-06T17:00:00Z"
TRAIN = (
    "python -m training --tune-from {day-2} --test-from {day-1} --test-until {day} "
    "--max-rounds 8 --schedule-rounds 8 --round-step 8 --resamples 5 --importance-rows 50 "
    "--min-leaf 20"
)


def copied(root: Path) -> Path:
    """Links to all but what a run writes, and a `hindcast.yml` of its own."""
    for name in ("models", "macros", "seeds", "training", "landing", "serving"):
        (root / name).symlink_to(ROOT / name)
    for name in ("dbt_project.yml", "profiles.yml"):
        (root / name).symlink_to(ROOT / name)
    (root / "feature_repo").symlink_to(ROOT / "feature_repo")
    (root / "tests").mkdir()
    (root / "tests" / "data").symlink_to(ROOT / "tests" / "data")
    config = yaml.safe_load((ROOT / "hindcast.yml").read_text())
    section = config["replay"]
    prepare = []
    for step in section["prepare"]:
        if step["name"] == "build":
            prepare += [{"name": "seed", "run": "dbt seed"}, {"name": "build", "run": "dbt run"}]
        else:
            prepare.append(step | ({"run": TRAIN} if step["name"] == "train" else {}))
    section["prepare"] = prepare
    section["start"] = section["faults"]["start"] = START
    del section["faults"]["prepare"]
    section["faults"]["disk_mb"] = 300
    (root / "hindcast.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    return root


def run(command: str, project: Path) -> subprocess.CompletedProcess[str]:
    """A command as a user gives it, in a project."""
    programs = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": programs + os.pathsep + os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }
    return subprocess.run(
        command.split(), cwd=project, env=environment, capture_output=True, text=True, check=False
    )
