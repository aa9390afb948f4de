"""MLflow's registry follows the model in use, where Feast's MLflow integration is switched on.

A registered model has the feature service's name, one version for each run, and two aliases:
`champion` is the version of the run in use, `challenger` the newest one that is not. The link
`artifacts/champion` is what counts; this only tells others of it, so a registry that cannot be
reached is a note and stops nothing. Without the extra nothing of it is needed.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from hindcast.config import ProjectConfig
from hindcast.errors import HindcastError

CHAMPION, CHALLENGER = "champion", "challenger"
RUN = "hindcast.run"
"""The tag by which a version is found again."""

# a server that is away is not asked for minutes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")


def is_on(config: Any) -> bool:
    """Whether `mlflow:` of a feature_store.yaml, as Feast read it, says so."""
    return bool(config and config.enabled)


def register(client: Any, model_uri: str, run: str) -> str:
    """Register a logged model of the active MLflow run as the challenger. Returns its version."""
    service = client.client.get_run(client.active_run_id).data.tags["feast.feature_service"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        version = client.register_model(model_uri, service).version  # prints what we say ourselves
    client.client.set_model_version_tag(service, version, RUN, run)
    client.client.set_registered_model_alias(service, CHALLENGER, version)
    return str(version)


def promoted(
    project_dir: Path, config: ProjectConfig, run: str, instead: str | None = None
) -> str | None:
    """Move the alias `champion` to a run's version. What hindered it, or None.

    `instead`: a run that was rolled back from, and is a challenger again.
    """
    if not _switched_on(project_dir / config.feature_repo):
        return None
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(project_dir / config.feature_repo))
    if store.mlflow is None:
        return "MLflow is switched on in feature_store.yaml but not installed, so no alias moved"
    try:
        with clear_errors(store):
            return _move(store.mlflow.client, config.feature_service, run, instead)
    except HindcastError as fault:
        return f"{fault}. The model is in use all the same"


def _move(client: Any, name: str, run: str, instead: str | None) -> str | None:
    version = _version(client, name, run)
    if version is None:
        return f"the registry has no version of {name} made by run {run}, so no alias moved"
    client.set_registered_model_alias(name, CHAMPION, version)
    aliases = client.get_registered_model(name).aliases
    if str(aliases.get(CHALLENGER)) == version:
        client.delete_registered_model_alias(name, CHALLENGER)
    if instead and (other := _version(client, name, instead)):
        client.set_registered_model_alias(name, CHALLENGER, other)
    return None


def _version(client: Any, name: str, run: str) -> str | None:
    """The version that a run made, the newest if there are several."""
    found = [
        version
        for version in client.search_model_versions(f"name = '{name}'")
        if version.tags.get(RUN) == run
    ]
    return str(max(found, key=lambda each: int(each.version)).version) if found else None


def _switched_on(feature_repo: Path) -> bool:
    """Read by itself, since Feast takes seconds to start."""
    text = os.path.expandvars((feature_repo / "feature_store.yaml").read_text())
    section = (yaml.safe_load(text) or {}).get("mlflow")
    return bool(section and section.get("enabled"))


@contextlib.contextmanager
def clear_errors(store: Any) -> Iterator[None]:
    """Turn a tracking store that fails into a message that says which one."""
    try:
        from mlflow.exceptions import MlflowException
    except ImportError:  # the extra is not installed: nothing here can raise it
        yield
        return
    try:
        yield
    except MlflowException as fault:
        uri = store.config.mlflow.get_tracking_uri() or "MLflow's own default"
        raise HindcastError(
            f"MLflow's tracking store ({uri}) cannot be used: {fault}; start it, correct "
            "tracking_uri in feature_store.yaml, or switch `mlflow` off there"
        ) from fault
