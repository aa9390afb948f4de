"""Does a model still fit the feature service? What it was trained on, against what is registered.

A run's manifest lists its `features` (`name`, `dtype`, `view`); one that lists none is taken at
its word. Not for how good the model is: that is `monitor`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from hindcast import status
from hindcast.config import ProjectConfig
from hindcast.errors import MissingInputError


def misfits(project_dir: Path, config: ProjectConfig, run: Path) -> list[str]:
    """What a run's model needs and the registered feature service does not give, one by one.

    Raises:
        MissingInputError: there is no such run, or nothing is registered.
    """
    file = run / "manifest.json"
    if not file.exists():
        raise MissingInputError(f"no trained model in {run}; train one, or name another run")
    needed = json.loads(file.read_text()).get("features", [])
    if not needed:
        return []
    from feast.errors import FeatureServiceNotFoundException

    from hindcast.offline_store import query

    store = status.open_store(project_dir, config)
    try:
        service = store.get_feature_service(config.feature_service)
    except FeatureServiceNotFoundException:
        raise MissingInputError(
            f"feature service {config.feature_service} is not registered: run "
            f"`feast -c {config.feature_repo} apply` first"
        ) from None
    spine = set(query(store.config, f"select * from {config.spine} limit 0").column_names)
    given = {
        field.name: (projection.name_to_use(), str(field.dtype))
        for projection in service.feature_view_projections
        for field in projection.features
    }
    # a key, which every row has, is a column of the spine
    asked = [
        (each["name"], each["dtype"], each["view"])
        for each in needed
        if each["name"] in given or each["name"] not in spine
    ]
    return changes(asked, given)


def changes(
    needed: Iterable[tuple[str, str, str]], given: Mapping[str, tuple[str, str]]
) -> list[str]:
    """How features given (view and type by name) differ from those needed (name, type, view)."""
    found = []
    for name, dtype, view in needed:
        if name not in given:
            found.append(f"{view}.{name} ({dtype}): not served any more")
            continue
        view_now, dtype_now = given[name]
        if dtype_now != dtype:
            found.append(f"{view}.{name}: {dtype} in training, {dtype_now} now")
        if view_now != view:
            found.append(f"{name}: of {view} in training, of {view_now} now")
    return found
