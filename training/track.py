"""A run in MLflow, through Feast's own integration: only if `feature_store.yaml` switches it on.

    mlflow: {enabled: true, tracking_uri: "sqlite:///data/mlflow.db"}

What was asked of Feast is logged by Feast itself; settings, figures, the whole run's folder and
the model are added here. Not needed for anything else: without it a run is its folder.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hindcast import tracking
from training import dataset, model
from training.console import console, step
from training.settings import Settings

Log = Callable[[Path], None]


@contextmanager
def tracked(settings: Settings) -> Iterator[Log]:
    """An MLflow run around a training; what it yields logs the finished run's folder.

    Raises:
        HindcastError: MLflow is switched on, and its store cannot be used.
    """
    store = dataset.open_store(settings)
    if not tracking.is_on(store.config.mlflow):
        yield lambda run: None
        return
    client = store.mlflow
    if client is None:
        console.print(
            "[yellow]note[/yellow]: feature_store.yaml switches MLflow on, but it is not "
            "installed: pip install 'hindcast[mlflow]'; the run is its folder"
        )
        yield lambda run: None
        return
    with tracking.clear_errors(store), client.start_run():
        yield lambda run: log(client, run, settings)


def log(client: Any, run: Path, settings: Settings) -> None:
    """Log a finished run, and register its model as the challenger."""
    with step("Run and model logged to MLflow") as tell:
        logging.getLogger("mlflow").setLevel(logging.ERROR)  # Feast calls it in its older way
        mlflow = client.mlflow
        manifest = json.loads((run / model.MANIFEST).read_text())
        metrics = json.loads((run / "metrics.json").read_text())
        mlflow.set_tags(
            {
                "mlflow.runName": run.name,
                tracking.RUN: run.name,
                "hindcast.snapshot": manifest["snapshot"],
                "hindcast.trained_until": manifest["trained_until"],
                **{f"hindcast.hash.{name}": value for name, value in manifest["hashes"].items()},
                "hindcast.git": f"{manifest['git']['commit']}",
            }
        )
        mlflow.log_params(settings.as_dict())
        for predictor, figures in metrics["metrics"].items():
            prefix = "" if predictor == "model" else f"{predictor.replace(' ', '_')}."
            for name, estimate in figures.items():
                for part in ("value", "low", "high"):
                    suffix = "" if part == "value" else f"_{part}"
                    if estimate[part] is not None:
                        mlflow.log_metric(f"{prefix}{name}{suffix}", estimate[part])
        saved = metrics["decisions"]["model"]["saved_per_1000"]["value"]
        mlflow.log_metric("saved_per_1000", saved)
        mlflow.log_artifacts(str(run), "bundle")
        estimator = model.read_trusted(run / model.MODEL)
        client.log_model(
            estimator,
            "model",
            skops_trusted_types=list(model.TRUSTED),
            pip_requirements=[f"{n}=={v}" for n, v in manifest["packages"].items()],
            pyfunc_predict_fn="predict_proba",
        )
        version = tracking.register(client, f"runs:/{client.active_run_id}/model", run.name)
        tell(f"{manifest['feature_service']} version {version}")
