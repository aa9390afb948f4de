"""What a training run left for serving, and whether the feature service still fits it.

The bundle is a folder of `artifacts/`: the model, its manifest and its figures. Not for
scoring, and not for reading features.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from hindcast import fit
from hindcast.errors import HindcastError, MissingInputError
from hindcast.online import OnlineReader
from serving.requests import Flight
from serving.trees import TreeModel
from training import model
from training.dataset import Column
from training.settings import Settings

KEYS = "keys"  # the view of a model's column that is a key


class MisfitError(HindcastError):
    """A bundle that the registered feature service does not fit. `differences` lists them."""

    def __init__(self, bundle: Bundle, differences: list[str]) -> None:
        """Keep the differences and show them one a line."""
        self.differences = differences
        lines = "\n".join(f"  {difference}" for difference in differences)
        super().__init__(
            f"model {bundle.id} does not fit the feature service {bundle.service}:\n{lines}\n"
            "put one in use that fits (`hindcast retrain`), or bring back what it was trained on "
            "(`dbt build`, `feast -c feature_repo apply`)"
        )


@dataclass(frozen=True)
class Bundle:
    """A trained model with all that is needed to answer with it."""

    id: str
    folder: Path
    service: str
    snapshot: str
    """The snapshot it was trained on."""
    trees: TreeModel
    columns: tuple[Column, ...]
    threshold: float
    base_rate: float
    horizon: timedelta
    settings: Settings
    manifest: dict[str, Any]
    metrics: dict[str, Any]
    card: str

    def differences(self, reader: OnlineReader) -> list[str]:
        """What the model was trained on and is not served in this way, and the other way round."""
        asked = Flight.__struct_fields__
        found = [
            f"{name}: needed to read the features, but no request has it"
            for name in (*reader.keys, *reader.request)
            if name not in asked
        ]
        found += [
            f"{column.name}: a key in training, but no request has it"
            for column in self.columns
            if column.view == KEYS and column.name not in asked
        ]
        given = {name: (spec.view, str(spec.dtype)) for name, spec in reader.features.items()}
        features = [(c.name, c.dtype, c.view) for c in self.columns if c.view != KEYS]
        return [*found, *fit.changes(features, given)]

    def refuse_misfit(self, reader: OnlineReader) -> None:
        """Raise MisfitError if there are differences."""
        found = self.differences(reader)
        if found:
            raise MisfitError(self, found)


def load(run_dir: Path) -> Bundle:
    """The bundle of a run such as `artifacts/champion`.

    Raises:
        MissingInputError: there is none, or it lacks something.
        UntrustedModelError: the model file is not one that training writes.
        ModelFormError: the model cannot be brought into the form that serving uses.
    """
    run = run_dir.resolve()  # the link may be pointed at another run meanwhile
    scoring = model.load(run)
    manifest = scoring.manifest
    try:
        return Bundle(
            id=manifest["run"],
            folder=run,
            service=manifest["feature_service"],
            snapshot=manifest["snapshot"],
            trees=TreeModel(scoring),
            columns=scoring.columns,
            threshold=scoring.threshold,
            base_rate=float(manifest["base_rate"]),
            horizon=timedelta(minutes=manifest["horizon_min"]),
            settings=Settings.from_dict(manifest["settings"]),
            manifest=manifest,
            metrics=json.loads((run / "metrics.json").read_text()),
            card=(run / "model_card.md").read_text(),
        )
    except (KeyError, TypeError, ValueError, FileNotFoundError) as fault:
        raise MissingInputError(
            f"{run_dir} is not a complete bundle ({fault!r}); train again with `python -m training`"
        ) from None
