"""The published flights around now: what a caller may leave out, and what the page lists.

Read from the snapshot's spine, a few days before the service's clock until two weeks after it,
and again when another snapshot is published. Not for outcomes: no column that is known only
after the flight is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from feast.repo_config import RepoConfig

from hindcast.offline_store import query
from hindcast.sources import Snapshot

BEFORE, AFTER = timedelta(days=2), timedelta(days=16)
COLUMNS = (
    "flight_id",
    "carrier",
    "flight",
    "origin",
    "dest",
    "tailnum",
    "sched_dep_at",
    "sched_arr_at",
    "distance_mi",
    "block_min",
)
Key = tuple[str, int, str, str, datetime]


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A flight as the published schedule has it; times are UTC."""

    flight_id: str
    carrier: str
    flight: int
    origin: str
    dest: str
    tailnum: str | None
    sched_dep_at: datetime
    sched_arr_at: datetime
    distance_mi: float
    block_min: float


@dataclass(frozen=True)
class Schedule:
    """The flights of one snapshot around an instant, in the order they depart."""

    snapshot: str
    flights: tuple[Scheduled, ...]
    by_key: dict[Key, Scheduled]

    def find(
        self, carrier: str, flight: int, origin: str, dest: str, sched_dep_at: datetime
    ) -> Scheduled | None:
        """The flight that departs then, if it is published."""
        return self.by_key.get((carrier, flight, origin, dest, sched_dep_at))

    def departing(self, start: datetime, end: datetime) -> list[Scheduled]:
        """The flights with `start <= sched_dep_at < end`."""
        return [flight for flight in self.flights if start <= flight.sched_dep_at < end]


def published_snapshot(config: RepoConfig) -> str | None:
    """The id of the snapshot that is current."""
    path = Snapshot.of(config).path
    return Path(path).name if path is not None else None


def load(config: RepoConfig, spine: str, now: datetime) -> Schedule:
    """Read the flights around `now`.

    Raises:
        MissingInputError: nothing is published.
    """
    snapshot = published_snapshot(config)
    rows = query(
        config,
        f"select {', '.join(COLUMNS)} from {spine} "
        f"where sched_dep_at >= timestamptz '{(now - BEFORE).isoformat()}' "
        f"and sched_dep_at < timestamptz '{(now + AFTER).isoformat()}' "
        "order by sched_dep_at, flight_id",
    ).to_pylist()
    flights = tuple(Scheduled(**row) for row in rows)
    return Schedule(
        snapshot or "",
        flights,
        {(f.carrier, f.flight, f.origin, f.dest, f.sched_dep_at): f for f in flights},
    )
