"""The training set, asked of Feast: one row per flight, features as known at its prediction time.

Everything comes through the feature service, so what the model learns from is what the online
store will serve. Not for opening a DuckDB or Parquet file, and not for making features: a
feature that is wished for here belongs in `models/features/` or `feature_repo/on_demand.py`.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from hindcast.errors import HindcastError, MissingInputError
from training.settings import Settings

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore

LABEL = "is_late"
OUTCOMES = (LABEL, "outcome", "departure_delay_min", "arrival_delay_min", "label_known_at")
"""Spine columns that are known only after the flight: never features."""

NUMBERS = ("Bool", "Int32", "Int64", "Float32", "Float64")
"""Feast types used as numbers. String is a category; other types are refused, but for instants
(UnixTimestamp), which are left out: the age of a thing is a feature, its date is not."""


class LeakError(HindcastError):
    """A column that tells the outcome was about to become a feature."""


@dataclass(frozen=True)
class Column:
    """A feature of the model: its name, its Feast type, its view, and what its YAML says of it."""

    name: str
    dtype: str
    view: str
    description: str = ""

    @property
    def is_category(self) -> bool:
        """Whether it is text, one of a set of values, rather than a number."""
        return self.dtype == "String"


@dataclass(frozen=True)
class Records:
    """What the raw files of a source held when the snapshot was built."""

    source: str
    records: int
    quarantined: int
    first_loaded_at: str | None
    last_loaded_at: str | None


@dataclass(frozen=True)
class Dataset:
    """Spine and features of all flights of the period, and where they came from.

    `frame` has the spine's columns, then the features, ordered by prediction time. `late` is
    1.0, 0.0 or NaN (no label: cancelled, diverted). `part` is fit, tune or test. `day` counts
    local days.
    """

    frame: pd.DataFrame
    columns: tuple[Column, ...]
    snapshot: str
    spine_hash: str
    features_hash: str
    late: np.ndarray
    part: np.ndarray
    day: np.ndarray
    records: list[Records] = field(default_factory=list)

    def rows(self, part: str, labelled: bool = True) -> np.ndarray:
        """Positions of the rows of a part, with a label unless told otherwise."""
        chosen = self.part == part
        return np.flatnonzero(chosen & ~np.isnan(self.late) if labelled else chosen)

    @property
    def views(self) -> dict[str, list[str]]:
        """The features of each view, in order."""
        views: dict[str, list[str]] = {}
        for column in self.columns:
            views.setdefault(column.view, []).append(column.name)
        return views


def load(settings: Settings) -> Dataset:
    """Ask Feast for the labelled spine with the features of the service.

    Raises:
        MissingInputError: nothing published or registered yet; the message names the command.
        LeakError: the service holds a column that tells the outcome.
    """
    store = open_store(settings)
    service = feature_service(store, settings)
    columns = service_columns(service, settings)
    job = store.get_historical_features(entity_df=spine_sql(settings), features=service)
    table = job.to_arrow()
    data = assemble(table, columns, Path(job.snapshot_path).name, settings)
    return replace(data, records=raw_records(store, settings))


def raw_records(store: "FeatureStore", settings: Settings) -> list[Records]:
    """What was read to build the snapshot, by source; nothing if it does not say."""
    from hindcast.offline_store import query

    views = query(store.config, "select view_name from duckdb_views()")
    if settings.records not in views["view_name"].to_pylist():
        return []
    table = query(store.config, f"select * from {settings.records} order by record_count desc")
    return [
        Records(
            row["source_name"],
            row["record_count"],
            row["quarantined_count"],
            *(at and at.isoformat() for at in (row["first_loaded_at"], row["last_loaded_at"])),
        )
        for row in table.to_pylist()
    ]


def spine_sql(settings: Settings, join_at: str = "predict_at") -> str:
    """The spine of the period; `join_at` is the instant as of which features are joined."""
    start, end = settings.instant(settings.fit_from), settings.instant(settings.test_until)
    return spine_between(settings, start, end, join_at)


def spine_between(
    settings: Settings, start: datetime, end: datetime, join_at: str = "predict_at"
) -> str:
    """The spine of the predictions from `start` on and before `end`, in order."""
    return (
        f"select *, {join_at} as event_timestamp from {settings.spine} "
        f"where predict_at >= timestamptz '{start.isoformat()}' "
        f"and predict_at < timestamptz '{end.isoformat()}' "
        "order by predict_at, flight_id"
    )


def days(settings: Settings, first: str, until: str) -> pd.DataFrame:
    """Spine and features of the days from `first` on and before `until`, whatever they are for."""
    store = open_store(settings)
    sql = spine_between(settings, settings.instant(first), settings.instant(until))
    job = store.get_historical_features(entity_df=sql, features=feature_service(store, settings))
    frame: pd.DataFrame = job.to_df()
    if frame.empty:
        raise MissingInputError(
            f"{settings.spine} has no flight from {first} to {until}; land those days "
            "(`python -m landing`) and run `dbt build`, or choose others"
        )
    return frame


def assemble(
    table: pa.Table, columns: Iterable[Column], snapshot: str, settings: Settings
) -> Dataset:
    """Check a retrieved table, hash it and split it by time."""
    columns = tuple(columns)
    names = [column.name for column in columns]
    refuse_outcomes(names)
    missing = sorted(set(names) - set(table.column_names))
    if missing:
        raise MissingInputError(
            f"Feast's answer lacks {', '.join(missing)}, which the service {settings.service} "
            "declares; run `feast -c feature_repo apply` after `dbt build`"
        )
    made = set(names) - set(settings.keys)
    frame = table.to_pandas()
    local = frame["predict_at"].dt.tz_convert(settings.zone).dt.tz_localize(None).dt.normalize()
    late = frame[LABEL].where(known(frame, settings)).astype("float64").to_numpy()
    part = np.select(
        [local < settings.tune_from, local < settings.test_from], ["fit", "tune"], "test"
    )
    for name in ("fit", "tune", "test"):
        if not (part[~np.isnan(late)] == name).any():
            raise MissingInputError(
                f"no labelled flight on the {name} days; land them (`python -m landing`) and run "
                "`dbt build`, or choose other dates (`python -m training --help`)"
            )
    return Dataset(
        frame=frame,
        columns=columns,
        snapshot=snapshot,
        spine_hash=content_hash(table, [c for c in table.column_names if c not in made]),
        features_hash=content_hash(table, [c for c in names if c in made]),
        late=late,
        part=part,
        day=(local - local.min()).dt.days.to_numpy(),
    )


def known(frame: pd.DataFrame, settings: Settings) -> pd.Series:
    """Whether each flight's outcome may be used: all may, unless the settings say `known_by`."""
    if not settings.known_by:
        return pd.Series(True, index=frame.index)
    by = pd.Timestamp(settings.known_by)
    first_test = pd.Timestamp(settings.instant(settings.test_from))
    at, before_test = frame["label_known_at"], frame["predict_at"] < first_test
    return (at <= by) & (~before_test | (at <= first_test))


def horizon_min(frame: pd.DataFrame) -> float:
    """Minutes from the prediction to the scheduled departure, the same for every flight.

    Raises:
        HindcastError: it is not the same: then nobody could tell when to ask for a prediction.
    """
    minutes = (frame["sched_dep_at"] - frame["predict_at"]).dt.total_seconds() / 60
    if minutes.min() != minutes.max():
        raise HindcastError(
            f"the spine has predictions from {minutes.min():g} to {minutes.max():g} minutes before "
            "departure; a model is trained for one horizon: the var `horizon` of dbt_project.yml"
        )
    return float(minutes.iloc[0])


def refuse_outcomes(names: Iterable[str]) -> None:
    """The guard: no column that is known only after the flight may be a feature.

    Raises:
        LeakError: naming the columns.
    """
    found = sorted(set(names) & set(OUTCOMES))
    if found:
        raise LeakError(
            f"{', '.join(found)} is known only after the flight, so it can't be a feature; "
            "take it out of the feature views"
        )


def content_hash(table: pa.Table, names: Iterable[str]) -> str:
    """SHA-256 over the values of columns, in row order: equal content, equal hash.

    Independent of how Arrow has chunked the table and of the bytes that lie under NULLs.
    """
    digest = hashlib.sha256()
    for name in names:
        column = table.column(name).combine_chunks()
        if pa.types.is_temporal(column.type):
            column = column.cast(pa.int64())
        digest.update(f"{name} {column.type} {len(column)}".encode())
        digest.update(column.is_null().to_numpy(zero_copy_only=False).tobytes())
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = column.fill_null("")
            digest.update(pc.binary_length(column).to_numpy().astype("int64").tobytes())
            digest.update("".join(column.to_pylist()).encode())
        else:
            zero = pa.scalar(0, pa.int64()).cast(column.type)
            values = column.fill_null(zero).to_numpy(zero_copy_only=False)
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def open_store(settings: Settings) -> "FeatureStore":
    """The Feast store of the repository, reading the snapshot that the settings name.

    Raises:
        MissingInputError: there is no such repository, or no such snapshot any more.
    """
    from feast import FeatureStore

    repo = Path(settings.repo)
    if not (repo / "feature_store.yaml").exists():
        raise MissingInputError(
            f"no feature_store.yaml in {repo.resolve()}; stand in the project's root, "
            "or name the Feast repository with --repo"
        )
    store = FeatureStore(repo_path=str(repo))
    if settings.snapshot != "current":
        published = Path(store.config.offline_store.published).parent / settings.snapshot
        if not (repo / published).is_dir():
            raise MissingInputError(
                f"snapshot {settings.snapshot} is not in {(repo / published.parent).resolve()}: it "
                "was pruned, or never was; `--snapshot current` reads the newest one"
            )
        store.config.offline_store.published = str(published)
    return store


def kept_or_replayed(settings: Settings, loaded_until: str | None) -> Settings:
    """The settings with a snapshot that is there: their own, or the same replayed from raw.

    `dbt build --vars '{as_of: ...}'` replays what was loaded until an instant.

    Raises:
        MissingInputError: it was pruned and is not replayed yet; the message says how.
    """
    try:
        open_store(settings)
    except MissingInputError as pruned:
        if loaded_until is None:
            raise
        stamp = re.sub("[-:.]", "", loaded_until)
        replayed = settings.but(snapshot=f"../published_as_of/{stamp}/current")
        try:
            open_store(replayed)
        except MissingInputError:
            raise MissingInputError(
                f"{pruned.message.partition(';')[0]}. If its raw records are still there, replay "
                f"it first: dbt build --vars '{{as_of: {loaded_until}}}'"
            ) from None
        return replayed
    return settings


def loaded_until(data: Dataset) -> str | None:
    """When the newest record that the snapshot uses was loaded, as dbt's `as_of` takes it."""
    newest = max((r.last_loaded_at for r in data.records if r.last_loaded_at), default=None)
    return newest and newest.replace("+00:00", "Z")


def feature_service(store: "FeatureStore", settings: Settings) -> "FeatureService":
    """The registered feature service.

    Raises:
        MissingInputError: not registered yet.
    """
    from feast.errors import FeatureServiceNotFoundException

    try:
        return store.get_feature_service(settings.service)
    except FeatureServiceNotFoundException:
        raise MissingInputError(
            f"feature service {settings.service} is not registered; "
            "run `dbt build`, then `feast -c feature_repo apply`"
        ) from None


def plain(description: str) -> str:
    """A description on one line."""
    return " ".join(description.split())


def service_columns(service: Any, settings: Settings) -> tuple[Column, ...]:
    """The model's features: the keys, then all of the service that a model can learn from.

    Raises:
        HindcastError: a feature of a type that is neither a number nor text.
    """
    served = [
        Column(field.name, str(field.dtype), projection.name_to_use(), plain(field.description))
        for projection in service.feature_view_projections
        for field in projection.features
        if str(field.dtype) != "UnixTimestamp"
    ]
    taken = {column.name for column in served}
    columns = [Column(name, "String", "keys") for name in settings.keys if name not in taken]
    columns += served
    refuse_outcomes(column.name for column in columns)
    odd = [f"{c.view}.{c.name} ({c.dtype})" for c in columns if c.dtype not in ("String", *NUMBERS)]
    if odd:
        raise HindcastError(
            f"the model takes numbers and text, found {', '.join(odd)}; "
            "make a number of it in the view, or leave it out of the service"
        )
    return tuple(columns)
