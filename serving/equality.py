"""Are the scores of the service's form of the model those that training wrote down?

Every test row of a run is scored again: its features as of its prediction, from the snapshot the
run was trained on, through the form that serving uses, against `predictions.parquet`. Not for
features: `hindcast parity` compares those that are served with those of training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from hindcast.errors import HindcastError
from serving.bundle import Bundle
from training.dataset import feature_service, open_store

AT_ONCE = 5_000


@dataclass(frozen=True)
class Equality:
    """How many rows were scored again, how many came out bit for bit, and the farthest apart."""

    rows: int
    identical: int
    farthest: float


def compare(bundle: Bundle, run_dir: Path) -> Equality:
    """Score the test rows of a run again.

    Raises:
        MissingInputError: the run's snapshot is gone.
        HindcastError: the spine has other rows than were scored in training.
    """
    settings = bundle.settings.but(snapshot=bundle.snapshot)
    start, end = settings.instant(settings.test_from), settings.instant(settings.test_until)
    store = open_store(settings)
    table = store.get_historical_features(
        entity_df=(
            f"select *, predict_at as event_timestamp from {settings.spine} "
            f"where predict_at >= timestamptz '{start.isoformat()}' "
            f"and predict_at < timestamptz '{end.isoformat()}' order by predict_at, flight_id"
        ),
        features=feature_service(store, settings),
    ).to_arrow()
    written = pq.read_table(run_dir / "predictions.parquet")
    if table["flight_id"].to_pylist() != written["flight_id"].to_pylist():
        raise HindcastError(
            f"the test rows of {bundle.snapshot} are not those of {run_dir}; "
            "train again with `python -m training`"
        )
    names = [column.name for column in bundle.columns]
    again = np.concatenate(
        [
            bundle.trees.score({name: part[name].to_pylist() for name in names}).p
            for part in (table.slice(first, AT_ONCE) for first in range(0, table.num_rows, AT_ONCE))
        ]
    )
    then = written["p"].to_numpy()
    apart = np.abs(again - then)
    return Equality(len(then), int((apart == 0).sum()), float(apart.max()))
