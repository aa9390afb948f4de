"""Does a model still fit the feature service? What it was trained on, against what is registered.

A run's manifest lists its `features` (`name`, `dtype`, `view`); one that lists none is taken at
its word. Not for how good the model is: that is `monitor`.
"""

from __future__ import annotations

import json
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
    found = []
    for each in needed:
        name, dtype, view = each["name"], each["dtype"], each["view"]
        if name not in given:
            if name not in spine:  # a key, which every row has
                found.append(f"{view}.{name} ({dtype}) is not there any more")
        elif given[name] != (view, dtype):
            now = " ".join(given[name])
            found.append(f"{name} was {view} {dtype} and is {now} now")
    return found
