"""What the model in use said, and what came true of it, as far as that was known at an instant.

The files that hold it, and their columns, are named in `hindcast.yml`. Not for judging it (see
`performance`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from feast import FeatureStore

from hindcast.config import ModelFacts, Monitor, Predictions
from hindcast.errors import HindcastError, MissingInputError
from hindcast.monitor.period import Period
from hindcast.monitor.population import PREDICT_AT
from hindcast.offline_store import query
from hindcast.sql import instant, literal, quote


@dataclass(frozen=True)
class Model:
    """What must be known of the model in use."""

    id: str
    snapshot: str
    trained: Period
    threshold: float
    flag_cost: float
    flag_benefit: float

    @classmethod
    def of(cls, project_dir: Path, facts: ModelFacts) -> Model:
        """Read the model's manifest.

        Raises:
            MissingInputError: there is none.
            HindcastError: it lacks something that `hindcast.yml` names.
        """
        file = project_dir / facts.manifest
        if not file.exists():
            raise MissingInputError(
                f"{facts.manifest} is not there, which tells of the model in use: train one, or "
                "correct monitor.model.manifest in hindcast.yml"
            )
        manifest = json.loads(file.read_text())

        def told(field: str) -> Any:
            value: Any = manifest
            for step in getattr(facts, field).split("."):
                if not isinstance(value, Mapping) or step not in value:
                    raise HindcastError(
                        f"{facts.manifest} has no {getattr(facts, field)!r}, which "
                        f"monitor.model.{field} in hindcast.yml names"
                    )
                value = value[step]
            return value

        zone = ZoneInfo(str(told("time_zone"))) if facts.time_zone else ZoneInfo("UTC")
        return cls(
            id=str(told("id")),
            snapshot=str(told("snapshot")),
            trained=Period(
                _moment(told("trained_from"), zone), _moment(told("trained_until"), zone)
            ),
            threshold=float(told("threshold")),
            flag_cost=float(told("flag_cost")),
            flag_benefit=float(told("flag_benefit")),
        )


@dataclass(frozen=True)
class Scored:
    """Predictions of a period, by the seconds since its start that they are for.

    `outcome` is NaN where it was not known yet.
    """

    period: Period
    seconds: np.ndarray
    score: np.ndarray
    outcome: np.ndarray

    @property
    def day(self) -> np.ndarray:
        """The day of the period that each is for."""
        days: np.ndarray = (self.seconds // 86400).astype(int)
        return days

    def within(self, period: Period) -> Scored:
        """Those of a part of the period."""
        seconds = self.seconds - (period.start - self.period.start).total_seconds()
        inside = (seconds >= 0) & (seconds < (period.end - period.start).total_seconds())
        return Scored(period, seconds[inside], self.score[inside], self.outcome[inside])


def scored(
    project_dir: Path,
    store: FeatureStore,
    spine: str,
    config: Monitor,
    model: Model,
    until: datetime,
    notes: list[str],
) -> Scored:
    """Every prediction of the model for before an instant, from its first on."""
    sources = [it for it in config.predictions if _files(project_dir, it)]
    for missing in set(config.predictions) - set(sources):
        notes.append(f"no predictions in {missing.path} yet")
    none = Scored(Period(until, until), *(np.zeros(0) for _ in range(3)))
    if not sources:
        return none
    joins: list[str] = []
    scores: list[str] = []
    for number, source in enumerate(sources):
        name = f"said_{number}"
        said = ", ".join(map(quote, source.keys))
        which = (
            f"max_by({quote(source.score)}, {quote(source.at)})"
            if source.at
            else (f"max({quote(source.score)})")
        )
        where = f"where {quote(source.model)} = {literal(model.id)}" if source.model else ""
        joins.append(
            f"left join (select {said}, {which} as score from {_files(project_dir, source)} "
            f"{where} group by {said}) as {name} using ({said})"
        )
        scores.insert(0, f"{name}.score")
    outcome = config.outcome
    found = query(
        store.config,
        f"select * from (select {PREDICT_AT} as moment, "
        f"cast(coalesce({', '.join(scores)}) as double) as score, "
        f"case when {quote(outcome.known_at)} <= {instant(until)} "
        f"then cast({quote(outcome.label)} as double) end as outcome "
        f"from {spine} {' '.join(joins)} where {PREDICT_AT} < {instant(until)}) "
        "where score is not null order by moment",
    )
    if found.num_rows == 0:
        return none
    first = found["moment"][0].as_py().astimezone(UTC)
    seconds = found["moment"].to_pandas().astype("int64").to_numpy() / 1e6 - first.timestamp()
    return Scored(
        Period(first, until),
        seconds,
        found["score"].to_numpy(),
        found["outcome"].to_numpy(zero_copy_only=False).astype(float),
    )


def _files(project_dir: Path, source: Predictions) -> str:
    """SQL for a source's rows, empty where it has no file."""
    path = project_dir / source.path
    files = sorted(path.glob("**/*.parquet")) if path.is_dir() else [path] * path.exists()
    if not files:
        return ""
    listed = ", ".join(literal(str(file)) for file in files)
    if path.suffix == ".csv":
        return f"read_csv([{listed}])"
    return f"read_parquet([{listed}], union_by_name = true)"


def _moment(told: Any, zone: ZoneInfo) -> datetime:
    try:
        moment = datetime.fromisoformat(str(told))
    except ValueError:
        raise HindcastError(f"the model's manifest says {told!r} where a day is expected") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
