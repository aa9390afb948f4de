"""Is what the online store serves equal to what training would read for the same instant?

Takes rows of the spine, asks Feast for the same features of the same entities at one instant T,
online and by the point-in-time join, and compares every value exactly: floats to the last bit,
NULL equal to NULL only. Not for comparing models or predictions.
"""

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
from feast import FeatureService, FeatureStore
from feast.errors import FeatureServiceNotFoundException

from hindcast.errors import HindcastError, MissingInputError
from hindcast.offline_store import query


@dataclass(frozen=True)
class Mismatch:
    """One value that differs."""

    feature: str
    row: dict[str, Any]
    online: Any
    offline: Any


@dataclass(frozen=True)
class Parity:
    """The outcome of one comparison: how many values were compared, and which differ."""

    at: datetime
    rows: int
    features: tuple[str, ...]
    mismatches: tuple[Mismatch, ...]
    nulls: int

    @property
    def values(self) -> int:
        """How many pairs of values were compared."""
        return self.rows * len(self.features)


def compare(store: FeatureStore, service_name: str, spine: str, at: datetime, rows: int) -> Parity:
    """Compare `rows` rows of the published spine at the instant `at`.

    The rows are spread over the spine by a hash of their keys, the same for every run.

    Raises:
        MissingInputError: the service is not registered, or a view was not materialized up to
            `at`.
    """
    try:
        service = store.get_feature_service(service_name)
    except FeatureServiceNotFoundException as error:
        raise MissingInputError(
            f"Feast knows no feature service {service_name}: run `feast apply` in the feature "
            "repository first."
        ) from error
    _refuse_other_instants(store, service, at)
    keys, request = _inputs(store, service)
    columns = ", ".join(f'"{name}"' for name in (*keys, *request))
    sample = f"select {columns} from {spine} order by hash({columns}) limit {rows}"
    entity_rows = query(store.config, sample)

    spine_at = entity_rows.append_column(
        "event_timestamp", pa.array([at] * entity_rows.num_rows, pa.timestamp("us", tz="UTC"))
    )
    offline = store.get_historical_features(
        entity_df=spine_at.to_pandas(), features=service
    ).to_arrow()
    online = store.get_online_features(
        features=service, entity_rows=entity_rows.to_pylist()
    ).to_dict()

    features = tuple(name for name in online if name not in (*keys, *request))
    inputs = entity_rows.to_pylist()
    mismatches = []
    nulls = 0
    for name in features:
        for row, served, joined in zip(
            inputs, online[name], offline[name].to_pylist(), strict=True
        ):
            nulls += joined is None
            if not _same(served, joined):
                mismatches.append(Mismatch(name, row, served, joined))
    return Parity(at, entity_rows.num_rows, features, tuple(mismatches), nulls)


def _same(served: Any, joined: Any) -> bool:
    """Exactly equal, types included; a NaN of an on-demand feature is its NULL."""
    served, joined = (
        None if isinstance(value, float) and math.isnan(value) else value
        for value in (served, joined)
    )
    return type(served) is type(joined) and bool(served == joined)


def _inputs(store: FeatureStore, service: FeatureService) -> tuple[list[str], list[str]]:
    """Join keys and request columns that the service needs, in order."""
    keys: dict[str, None] = {}
    request: dict[str, None] = {}
    on_demand = {view.name: view for view in store.list_on_demand_feature_views()}
    for projection in service.feature_view_projections:
        if projection.name in on_demand:
            view = on_demand[projection.name]
            request.update(dict.fromkeys(view.get_request_data_schema()))
        else:
            keys.update(dict.fromkeys(store.get_feature_view(projection.name).join_keys))
    return list(keys), [name for name in request if name not in keys]


def _refuse_other_instants(store: FeatureStore, service: FeatureService, at: datetime) -> None:
    on_demand = {view.name for view in store.list_on_demand_feature_views()}
    for projection in service.feature_view_projections:
        if projection.name in on_demand:
            continue
        end = store.get_feature_view(projection.name).most_recent_end_time
        if end is not None and end > at:
            raise MissingInputError(
                f"{projection.name} was materialized up to {end.isoformat()}, after "
                f"{at.isoformat()}, and Feast cannot go back: remove the registry and the online "
                "store named in feature_store.yaml, then `feast apply` and `feast materialize`."
            )
        if end != at:
            found = "never" if end is None else f"up to {end.isoformat()}"
            raise MissingInputError(
                f"{projection.name} was materialized {found}, not up to {at.isoformat()}: run "
                f"`feast -c feature_repo materialize-incremental {at.isoformat()}` first."
            )


def require_rows(outcome: Parity) -> None:
    """Raise HindcastError where nothing was compared: an empty check proves nothing."""
    if outcome.values == 0:
        raise HindcastError("no value was compared: the spine or the feature service is empty.")
