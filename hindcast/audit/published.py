"""The full-history side of the audit: the published snapshot, read as training reads it.

The spine's rows and their features come from Feast's point-in-time join, everything else from the
snapshot's own files. Not for anything rebuilt.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from zoneinfo import ZoneInfo

import pyarrow as pa
from feast import FeatureStore

from hindcast import snapshot
from hindcast.audit.points import in_memory
from hindcast.config import ProjectConfig
from hindcast.dbt import PROJECT_FILE, ProjectSpec
from hindcast.errors import HindcastError, MissingInputError
from hindcast.registry import PUBLISHED
from hindcast.sql import instant, literal, quote

PREDICT_AT = "predict_at"
SPAN = timedelta(days=1)
"""Rows predicted, and feature rows known, this long before a replayed instant are compared."""


@dataclass(frozen=True)
class Published:
    """A project's published snapshot, and the Feast store that joins it."""

    store: FeatureStore
    path: Path
    spine: str
    spec: ProjectSpec

    @classmethod
    def of(cls, project_dir: Path, config: ProjectConfig, spec: ProjectSpec) -> Published:
        """Open what is published.

        Raises MissingInputError where nothing is, or where the project was changed since.
        """
        current = snapshot.current(project_dir / PUBLISHED.parent)
        _refuse_changed(project_dir, current.created_at)
        repo = project_dir / config.feature_repo
        if not (repo / "feature_store.yaml").is_file():
            raise MissingInputError(
                f"no feature_store.yaml in {repo}; `feature_repo` in hindcast.yml names its folder"
            )
        store = FeatureStore(repo_path=str(repo))
        found = cls(store, current.path, config.spine, spec)
        registered = {view.name for view in store.list_feature_views()}
        missing = sorted({view.name for view in spec.views} - registered)
        if missing:
            raise MissingInputError(
                f"Feast does not know {', '.join(missing)}: run `feast -c {config.feature_repo} "
                "apply` first"
            )
        return found

    def table(self, name: str) -> str:
        """SQL that reads a published table."""
        return f"read_parquet({literal(str(self.path / f'{name}.parquet'))})"

    def inputs(self) -> list[str]:
        """The spine's columns that a prediction is made of: entity keys and request data."""
        wanted = dict.fromkeys(key.name for view in self.spec.views for key in view.keys)
        for view in self.store.list_on_demand_feature_views():
            wanted.update(dict.fromkeys(view.get_request_data_schema()))
        with in_memory() as connection:
            described = connection.sql(f"describe from {self.table(self.spine)}").fetchall()
        columns = [row[0] for row in described]
        if PREDICT_AT not in columns:
            raise HindcastError(
                f"the spine {self.spine} has no column {PREDICT_AT}, the instant of each prediction"
            )
        return [name for name in columns if name in wanted and name != PREDICT_AT]

    def rows(self, periods: Sequence[tuple[datetime, datetime]]) -> pa.Table:
        """The spine's rows predicted in (start, end] of some periods, with a number `point`.

        The rows' `at` is when they are predicted, their `period` the number of the period.
        """
        columns = ", ".join(map(quote, self.inputs()))
        parts = [
            f"select {number} as period, {columns}, {PREDICT_AT} as at "
            f"from {self.table(self.spine)} "
            f"where {PREDICT_AT} > {instant(start)} and {PREDICT_AT} <= {instant(end)}"
            for number, (start, end) in enumerate(periods)
        ]
        with in_memory() as connection:
            every = " union all ".join(parts)
            return connection.sql(
                f"select row_number() over () as point, * from ({every})"
            ).to_arrow_table()

    def joined(self, rows: pa.Table, views: Collection[str] | None = None) -> pa.Table:
        """The rows with every feature as `view__feature`, by Feast's own join.

        Of all views, or of those in `views`.
        """
        asked = rows.rename_columns(
            ["event_timestamp" if name == "at" else name for name in rows.column_names]
        )
        features = [
            f"{view.name}:{feature.name}"
            for view in self.spec.views
            if views is None or view.name in views
            for feature in view.features
        ]
        job = self.store.get_historical_features(
            entity_df=asked.to_pandas(), features=features, full_feature_names=True
        )
        return job.to_arrow()

    def instants(self, count: int, seed: int, zone: str | None, before: datetime) -> list[datetime]:
        """Instants at which rows are predicted: one by chance from each of `count` equal parts.

        Where local clocks change within the spine, an instant of the day after is among them.
        All are before the instant at which something was loaded last: what comes after that shows
        nothing. Raises HindcastError if the spine has no such rows.
        """
        with in_memory() as connection:
            found = connection.execute(
                f"select distinct {PREDICT_AT} from {self.table(self.spine)} "
                f"where isfinite({PREDICT_AT}) and {PREDICT_AT} < {instant(before)} order by 1"
            ).fetchall()
        times = [row[0] for row in found]
        if not times:
            raise HindcastError(
                f"the published spine {self.spine} has no rows predicted before {before}, when the "
                "last record was loaded: there is nothing to audit"
            )
        chance = Random(seed)
        chosen = [
            times[
                chance.randrange(
                    len(times) * part // count, max(len(times) * (part + 1) // count, 1)
                )
            ]
            for part in range(min(count, len(times)))
        ]
        for change in _clock_changes(zone, times[0], times[-1])[: count // 2]:
            after = [at for at in times if change < at <= change + timedelta(days=1)]
            if after:
                nearest = min(chosen, key=lambda at: abs(at - change))
                chosen[chosen.index(nearest)] = chance.choice(after)
        return sorted(set(chosen))


def _clock_changes(zone: str | None, first: datetime, last: datetime) -> list[datetime]:
    """The instants at which the clocks of a zone change, within a day."""
    if zone is None:
        return []
    clock, day = ZoneInfo(zone), timedelta(days=1)
    found, at = [], first
    while at < last:
        if at.astimezone(clock).utcoffset() != (at + day).astimezone(clock).utcoffset():
            found.append(at + day)
        at += day
    return found


def _refuse_changed(project_dir: Path, built: datetime) -> None:
    """What is published must be what the models give today."""
    files = [project_dir / PROJECT_FILE]
    for folder, kinds in (("models", "sql yml"), ("macros", "sql"), ("seeds", "csv")):
        files += [
            file for kind in kinds.split() for file in (project_dir / folder).rglob(f"*.{kind}")
        ]
    newest = max(files, key=lambda file: file.stat().st_mtime)
    if newest.stat().st_mtime > built.timestamp() + 1:
        raise MissingInputError(
            f"{newest.relative_to(project_dir)} was changed after the snapshot was published: run "
            "`dbt build`, so that what is audited is what the models give"
        )
