"""A small autumn of flights in a real Feast repository, with our offline and online stores."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    RequestSource,
)
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from training.settings import Settings

ZONE = "America/New_York"
STANDS_AT = datetime(2013, 12, 20, 15, tzinfo=UTC)
SMALL = Settings(
    fit_from="2013-10-01",
    tune_from="2013-11-10",
    test_from="2013-12-01",
    max_rounds=12,
    schedule_rounds=12,
    round_step=4,
    leaves=(4, 8),
    min_leaf=20,
    learning_rate=0.3,
    column_share=0.9,
    resamples=40,
    importance_rows=200,
    dependence_rows=50,
    min_slice=50,
    threads=1,
)


@dataclass(frozen=True)
class Project:
    """Where the small project is, and the settings that train on it."""

    path: Path
    settings: Settings


DAYS = pd.date_range("2013-10-01", "2013-12-31", freq="D")


def wind_of_days(seed: int) -> np.ndarray:
    """What makes flights late, and what the weather view reports."""
    return np.random.default_rng(seed + 100).gamma(2, 6, len(DAYS))


def flights(seed: int = 0) -> pd.DataFrame:
    """A spine of 92 days of 26 flights; on windy days more of them are late."""
    draw = np.random.default_rng(seed)
    hours = np.arange(26) % 13 + 6
    local = [day + pd.Timedelta(hours=int(hour)) for day in DAYS for hour in hours]
    departure = pd.DatetimeIndex(local).tz_localize(ZONE).tz_convert("UTC")
    n, wind = len(departure), np.repeat(wind_of_days(seed), len(hours))
    carrier = draw.choice(["AA", "B6", "UA"], n)
    delay = np.round(draw.normal(0.9 * wind - 6 + 5 * (carrier == "B6"), 12)).astype("float64")
    outcome = draw.choice(["completed", "cancelled", "diverted"], n, p=[0.96, 0.03, 0.01])
    delay[outcome != "completed"] = np.nan
    distance = draw.choice([200.0, 760.0, 1400.0, 2475.0], n)
    spine = pd.DataFrame(
        {
            "flight": np.arange(n) % 26 + 1,
            "carrier": carrier,
            "origin": draw.choice(["EWR", "JFK", "LGA"], n),
            "dest": draw.choice(["LAX", "ORD", "MIA", "BOS"], n),
            "tailnum": np.where(outcome == "cancelled", None, "N1"),
            "predict_at": (departure - pd.Timedelta(hours=2)).astype("datetime64[us, UTC]"),
            "sched_dep_at": departure.astype("datetime64[us, UTC]"),
            "sched_arr_at": (departure + pd.Timedelta(hours=3)).astype("datetime64[us, UTC]"),
            "distance_mi": distance,
            "block_min": 40 + distance / 7.6,
            "outcome": outcome,
            "departure_delay_min": pd.array(np.round(delay * 0.9)).astype("Int64"),
            "arrival_delay_min": pd.array(delay).astype("Int64"),
            "label_known_at": (departure + pd.Timedelta(hours=5)).astype("datetime64[us, UTC]"),
        }
    )
    late = pd.Series(delay >= 15, dtype=object)
    spine["is_late"] = late.where(~np.isnan(delay), None).astype("boolean")
    day = departure.tz_convert(ZONE).strftime("%Y-%m-%d")
    spine["flight_id"] = [
        f"{d}-{c}-{f}-{o}-{i}"
        for i, (d, c, f, o) in enumerate(
            zip(day, carrier, spine["flight"], spine["origin"], strict=True)
        )
    ]
    return spine.sample(frac=1, random_state=1, ignore_index=True)  # order must come from SQL


def weather(seed: int = 0) -> pd.DataFrame:
    """Hourly reports of the three airports, known an hour later, with the days' wind."""
    by_day = pd.Series(wind_of_days(seed), index=DAYS)
    hours = pd.date_range("2013-09-30", "2013-12-31 23:00", freq="h", tz="UTC")
    local_day = hours.tz_convert(ZONE).tz_localize(None).normalize()
    wind = by_day.reindex(local_day).to_numpy()
    reports = [
        pd.DataFrame(
            {
                "origin": origin,
                "known_at": (hours + pd.Timedelta(hours=1)).astype("datetime64[us, UTC]"),
                "wind_mph": wind,
                "sky": np.where(wind > 15, "wild", "calm"),
                "reports": pd.array(np.arange(len(hours)), dtype="Int64"),
                "observed_at": hours.astype("datetime64[us, UTC]"),
            }
        )
        for origin in ("EWR", "JFK", "LGA")
    ]
    return pd.concat(reports, ignore_index=True)


def publish(project: Path, snapshot: str, seed: int = 0) -> None:
    """Publish a snapshot and make it current."""
    folder = project / "data" / "published" / snapshot
    folder.mkdir(parents=True)
    flights(seed).to_parquet(folder / "flight_spine.parquet", index=False)
    weather(seed).to_parquet(folder / "origin_weather.parquet", index=False)
    link = folder.parent / "new"
    link.symlink_to(snapshot)
    os.replace(link, folder.parent / "current")


def register(project: Path, wind: str = "wind_mph") -> FeatureStore:
    """Register a view, an on-demand view and the service `late_arrival`; `wind` is a column."""
    repo = project / "feature_repo"
    store = FeatureStore(repo_path=str(repo))
    origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING)
    view = FeatureView(
        name="origin_weather",
        entities=[origin],
        ttl=timedelta(hours=6),
        schema=[
            Field(name="origin", dtype=String),
            Field(name=wind, dtype=Float64),
            Field(name="sky", dtype=String),
            Field(name="reports", dtype=Int64),
            Field(name="observed_at", dtype=UnixTimestamp),
        ],
        source=FileSource(
            name="origin_weather",
            path=str(project / "data/published/current/origin_weather.parquet"),
            timestamp_field="known_at",
        ),
    )
    request = RequestSource(name="flight", schema=[Field(name="distance_mi", dtype=Float64)])

    @on_demand_feature_view(
        sources=[request],
        schema=[Field(name="flight_distance_mi", dtype=Float64)],
        mode="pandas",
    )
    def flight_calendar(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame(
            {"flight_distance_mi": pd.to_numeric(inputs["distance_mi"]).astype("float64")}
        )

    service = FeatureService(name="late_arrival", features=[view, flight_calendar])
    store.apply([origin, view, flight_calendar, service])
    return store


def make_project(path: Path) -> Project:
    """Publish a snapshot, register it with Feast and materialize up to STANDS_AT."""
    (path / "feature_repo").mkdir()
    (path / "feature_repo" / "feature_store.yaml").write_text(
        "project: small\n"
        "provider: local\n"
        "registry: ../data/registry.db\n"
        "offline_store:\n"
        "    type: hindcast.offline_store.DuckDBOfflineStore\n"
        "    published: ../data/published/current\n"
        "    threads: 1\n"
        "online_store:\n"
        "    type: hindcast.online_store.LmdbOnlineStore\n"
        "    path: ../data/online\n"
        "batch_engine: {type: hindcast.compute_engine.ArrowEngine}\n"
        "entity_key_serialization_version: 3\n"
    )
    publish(path, "first")
    register(path).materialize(STANDS_AT - timedelta(days=1), STANDS_AT)
    settings = SMALL.but(repo=str(path / "feature_repo"), artifacts=str(path / "artifacts"))
    return Project(path, settings)
