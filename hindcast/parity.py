"""Is what the online store serves, or a service has served, equal to what training would read?

`compare` takes rows of the spine and asks for the same features of the same entities at one
instant T, online and by the point-in-time join. `compare_log` takes the rows that a service logged
as served and joins the same entities at the instant their features stood at, on the snapshot they
came from. Every value is compared exactly: floats to the last bit, types included, NULL equal to
NULL only. Not for comparing models or predictions.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureService, FeatureStore
from feast.errors import FeatureServiceNotFoundException

from hindcast.errors import HindcastError, MissingInputError
from hindcast.offline_store import query
from hindcast.online import OnlineReader, OnlineRows
from hindcast.packed import micros
from hindcast.sources import Session, Snapshot, Source
from hindcast.sql import literal, quote, select

EXAMPLES = 3  # of each feature, the worst first
LOG_TIME, AS_OF, SNAPSHOT = "__log_timestamp", "as_of", "snapshot"
"""Columns of a log beside keys, request columns and `view__feature`: when it was served, the
instant its features stood at, and the snapshot they came from."""


@dataclass(frozen=True)
class Mismatch:
    """One value that differs."""

    feature: str
    kind: str
    row: dict[str, Any]
    at: datetime
    online: Any
    offline: Any

    @property
    def size(self) -> float:
        """How far apart the values are; what has no distance is further than what has."""
        if isinstance(self.online, int | float) and isinstance(self.offline, int | float):
            return abs(float(self.online) - float(self.offline))
        return math.inf


@dataclass
class Counts:
    """How the values of one feature compare.

    `missing`: offline there is a value and online none; `extra`: the other way round. `stale`: a
    value was served that was older than its TTL.
    """

    matched: int = 0
    mismatched: int = 0
    missing: int = 0
    extra: int = 0
    stale: int = 0

    @property
    def wrong(self) -> int:
        """All that must not be."""
        return self.mismatched + self.missing + self.extra + self.stale


@dataclass
class Parity:
    """The outcome of one comparison. `at` is T: of a log the first and the last one."""

    at: tuple[datetime, datetime]
    rows: int = 0
    nulls: int = 0
    mixed: int = 0
    """Rows of a log that were served from views at several instants: compared with none."""
    features: dict[str, Counts] = field(default_factory=dict)
    examples: dict[str, list[Mismatch]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def values(self) -> int:
        """How many pairs of values were compared."""
        return self.rows * len(self.features)

    @property
    def wrong(self) -> int:
        """How many values are not as they must be; each of a mixed row is one."""
        mixed = self.mixed * len(self.features)
        return mixed + sum(counts.wrong for counts in self.features.values())

    @property
    def mismatches(self) -> list[Mismatch]:
        """The worst values of each feature."""
        return [miss for misses in self.examples.values() for miss in misses]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        total = Counts()
        for counts in self.features.values():
            for name, value in vars(counts).items():
                setattr(total, name, getattr(total, name) + value)
        return {
            "at": [moment.isoformat().replace("+00:00", "Z") for moment in self.at],
            "rows": self.rows,
            "features": len(self.features),
            "values": self.values,
            "nulls": self.nulls,
            "mixed_rows": self.mixed,
            "wrong": self.wrong,
            **vars(total),
            "by_feature": {n: vars(c) for n, c in self.features.items() if c.wrong},
            "notes": self.notes,
        }

    def add(
        self,
        feature: str,
        rows: Sequence[Mapping[str, Any]],
        at: Sequence[datetime],
        online: Sequence[Any],
        offline: Sequence[Any],
        stale: Sequence[bool],
    ) -> None:
        """Compare a column."""
        counts = self.features.setdefault(feature, Counts())
        worst = self.examples.setdefault(feature, [])
        for row, when, served, joined, old in zip(rows, at, online, offline, stale, strict=True):
            self.nulls += joined is None
            if old and served is not None:
                kind = "stale"  # the join has no value then
            elif _same(served, joined):
                kind = "matched"
            elif served is None or joined is None:
                kind = "missing" if served is None else "extra"
            else:
                kind = "mismatched"
            setattr(counts, kind, getattr(counts, kind) + 1)
            if kind != "matched":
                worst.append(Mismatch(feature, kind, dict(row), when, served, joined))
        worst.sort(key=lambda miss: -miss.size)
        del worst[EXAMPLES:]


def compare(
    store: FeatureStore, service_name: str, spine: str, at: datetime, rows: int | None
) -> Parity:
    """Compare `rows` rows of the published spine (None: all) at the instant `at`.

    The rows are spread over the spine by a hash of their keys, the same for every run.

    Raises:
        MissingInputError: the service is not registered, or a view was not materialized up to
            `at`.
    """
    service = _service(store, service_name)
    _refuse_other_instants(store, service, at)
    reader = OnlineReader(store, service_name, full_feature_names=True)
    inputs = [*reader.keys, *reader.request]
    columns = ", ".join(map(quote, inputs))
    limit = "" if rows is None else f" limit {rows}"
    asked = query(store.config, f"select {columns} from {spine} order by hash({columns}){limit}")
    served = reader.read(asked.to_pydict())
    instants = [at] * asked.num_rows
    outcome = Parity((at, at), asked.num_rows)
    joined = _join(store, service, asked, instants)
    ages = _stale(reader, served, at)
    entities = asked.to_pylist()
    for name, spec in reader.features.items():
        outcome.add(
            name,
            entities,
            instants,
            served.values[name],
            _joined(joined, name, spec.view in reader.ttls),
            ages.get(spec.view, [False] * asked.num_rows),
        )
    return outcome


def compare_log(
    store: FeatureStore, service_name: str, rows: int | None, since: datetime | None = None
) -> Parity:
    """Compare what was logged as served with the join at the instant the features stood at.

    The newest `rows` rows (None: all) that were served at or after `since`. A row is joined on the
    snapshot it was served from; where that was pruned, on the current one, and a note says so.

    Raises:
        MissingInputError: the service is not registered, has no log, or the log has no rows.
        HindcastError: the log lacks a column.
    """
    service = _service(store, service_name)
    if service.logging_config is None:
        raise MissingInputError(
            f"feature service {service_name} has no log: give its exposure `log: <folder>` under "
            "meta.feature_service, then `dbt parse` and `feast apply`."
        )
    return compare_rows(store, service_name, _logged(store, service, rows, since))


def compare_rows(store: FeatureStore, service_name: str, logged: pa.Table) -> Parity:
    """As `compare_log`, of rows of the log that the caller has read."""
    service = _service(store, service_name)
    reader = OnlineReader(store, service_name, full_feature_names=True)
    needed = [*reader.keys, *reader.request, AS_OF, SNAPSHOT]
    needed += reader.features
    missing = [name for name in needed if name not in logged.column_names]
    if missing:
        raise HindcastError(
            f"the log of {service_name} lacks {', '.join(missing)}, so what it was served from "
            "cannot be told. Expected keys, request columns, `view__feature`, as_of and snapshot."
        )
    untold = pc.sum(pc.is_null(logged[AS_OF])).as_py() or 0
    logged = logged.filter(pc.is_valid(logged[AS_OF]))
    mixed = (
        f"{untold:,} rows were served from views that stood at several instants, so no join "
        "gives what they had: fill all views up to one instant (`feast materialize`)"
    )
    if logged.num_rows == 0:
        nothing = f"the log of {service_name} has no rows to compare"
        raise MissingInputError(f"{nothing}: all {mixed}." if untold else f"{nothing} yet.")
    bounds = pc.min_max(logged[AS_OF]).as_py()
    outcome = Parity((bounds["min"], bounds["max"]), logged.num_rows, mixed=untold)
    if untold:
        outcome.notes.append(mixed)
    for snapshot in sorted(pc.unique(logged[SNAPSHOT]).to_pylist(), key=str):
        same = pc.equal(logged[SNAPSHOT], snapshot) if snapshot else pc.is_null(logged[SNAPSHOT])
        part = logged.filter(same)
        on = _opened_on(store, snapshot, outcome, part.num_rows)
        asked = part.select([*reader.keys, *reader.request])
        instants = part[AS_OF].to_pylist()
        joined = _join(on, service, asked, instants)
        entities = asked.to_pylist()
        for name, spec in reader.features.items():
            is_stored = spec.view in reader.ttls
            ttl = reader.ttls.get(spec.view, timedelta(0))
            outcome.add(
                name,
                entities,
                instants,
                part[name].to_pylist(),
                _joined(joined, name, is_stored),
                _stale_logged(ttl, part, f"{name}__timestamp", instants),
            )
    return outcome


def _service(store: FeatureStore, name: str) -> FeatureService:
    try:
        return store.get_feature_service(name)
    except FeatureServiceNotFoundException as error:
        raise MissingInputError(
            f"Feast knows no feature service {name}: run `feast apply` in the feature "
            "repository first."
        ) from error


def _join(
    store: FeatureStore, service: FeatureService, asked: pa.Table, at: Sequence[datetime]
) -> pa.Table:
    """The features of the rows, each at its instant."""
    times = pa.array(at, pa.timestamp("us", tz="UTC"))
    spine = asked.append_column("event_timestamp", times)
    return store.get_historical_features(
        entity_df=spine, features=service, full_feature_names=True
    ).to_arrow()


def _joined(table: pa.Table, name: str, is_stored: bool) -> list[Any]:
    """A joined column; a NaN of an on-demand feature is its NULL."""
    values: list[Any] = table[name].to_pylist()
    return values if is_stored else [None if v != v else v for v in values]


def _logged(
    store: FeatureStore, service: FeatureService, rows: int | None, since: datetime | None
) -> pa.Table:
    """The newest rows of a service's log."""
    source = service.logging_config.destination.to_data_source()
    session, snapshot = Session.of(store.config), Snapshot.of(store.config)
    with session.run() as connection:
        found = Source.of(source, store.config, snapshot, connection)
        served = found.utc(LOG_TIME)
        where = [f"{served} >= timestamptz {literal(since.isoformat())}"] if since else []
        tail = f"order by {served} desc" + ("" if rows is None else f" limit {rows}")
        return connection.execute(select(["*"], found.reader, where, tail)).to_arrow_table()


def _opened_on(
    store: FeatureStore, snapshot: str | None, outcome: Parity, rows: int
) -> FeatureStore:
    """The store reading a snapshot, the current one where that is gone."""
    published = Snapshot.of(store.config).link
    if snapshot is None or not (published.parent / snapshot).is_dir():
        outcome.notes.append(
            f"{rows:,} rows were served from snapshot {snapshot}, which is gone: they are compared "
            "with the current one"
        )
        return store
    opened = FeatureStore(repo_path=str(store.repo_path))
    opened.config.offline_store.published = str(published.parent / snapshot)
    return opened


def _stale(reader: OnlineReader, served: OnlineRows, at: datetime) -> dict[str, list[bool]]:
    """By view, whether each row's time is before T - ttl."""
    stale = {}
    for view, times in served.event_us.items():
        ttl = reader.ttls[view]
        oldest = micros(at - ttl)
        stale[view] = [bool(ttl) and us is not None and us < oldest for us in times]
    return stale


def _stale_logged(ttl: timedelta, part: pa.Table, times: str, at: Sequence[datetime]) -> list[bool]:
    """Whether each row's logged time is before T - ttl."""
    if not ttl or times not in part.column_names:
        return [False] * part.num_rows
    known = part[times].to_pylist()
    return [
        seen is not None and seen.astimezone(UTC) < when - ttl
        for seen, when in zip(known, at, strict=True)
    ]


def _same(one: Any, other: Any) -> bool:
    """Equal to the last bit, and of one type."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack("<d", one) == struct.pack("<d", other) or (one != one and other != other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


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
