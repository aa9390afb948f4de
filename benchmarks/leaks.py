"""Classic leaks, each injected into a copy of one of this project's models, and the copy itself.

A leak is a feature view of its own beside the honest ones, so one audit of one project has to
tell them apart. `changes` are made in a copy of the model `base` (old text, new text), `helpers`
are changed copies of models that it reads; a leak without a base is a model of its own.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np

from hindcast.audit.check import Audit
from hindcast.errors import HindcastError
from landing.feed import REFERENCE, build, read_sources
from landing.write import day_files, write

ROOT = Path(__file__).parents[1]
PARTS = ("models", "macros", "seeds", "feature_repo")
FILES = ("dbt_project.yml", "profiles.yml", "hindcast.yml")
COMMANDS = ("dbt build --exclude-resource-type test unit_test", "feast -c feature_repo apply")

ZONE = "America/New_York"
LOCAL = f"timezone('{ZONE}', known_at)"
MIDNIGHT = f"date_trunc('day', {LOCAL})"


@dataclass(frozen=True)
class Leak:
    """One leak: `name` is its feature view, `what` is what somebody did."""

    name: str
    what: str
    base: str = ""
    changes: tuple[tuple[str, str], ...] = ()
    helpers: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = ()
    sql: str = ""
    keys: tuple[str, ...] = ()
    features: tuple[tuple[str, str], ...] = ()


LEAKS = (
    Leak(
        "event_time_for_known_time",
        "a weather report counts from the hour it is about, not from when it came",
        base="origin_weather",
        changes=(
            (
                "        known_at,\n        observed_at as",
                "        observed_at as known_at,\n        observed_at as",
            ),
        ),
    ),
    Leak(
        "centred_window",
        "a moving window with the hour after in it",
        base="origin_weather",
        changes=(
            (
                "range between interval 2 hours preceding and current row",
                "range between interval 1 hour preceding and interval 1 hour following",
            ),
            (
                "pressure_mb - first_value(pressure_mb) over three_hours_before",
                "temperature_f - avg(temperature_f) over last_3h",
            ),
        ),
    ),
    Leak(
        "same_day_aggregate",
        "grouped by day: the morning knows the evening",
        sql=f"""
with departures as (select * from {{{{ ref('int_departures') }}}}),

final as (
    select
        origin,
        timezone('{ZONE}', {MIDNIGHT}) as known_at,
        avg(departure_delay_min) as day_delay_mean_min,
    from departures
    group by all
)

select * from final
""",
        keys=("origin",),
        features=(("day_delay_mean_min", "double"),),
    ),
    Leak(
        "label_in_feature",
        "the flight's own label, as the history of its number",
        sql="""
with flights as (select * from {{ ref('flight_spine') }}),

final as (
    select
        carrier,
        flight,
        origin,
        dest,
        predict_at as known_at,
        is_late as line_was_late,
    from flights
)

select * from final
""",
        keys=("carrier", "flight", "origin", "dest"),
        features=(("line_was_late", "boolean"),),
    ),
    Leak(
        "current_dimension_on_old_facts",
        "what is known of the aircraft today, joined to its old flights",
        sql="""
with departures as (select * from {{ ref('int_departures') }}),

arrivals as (select * from {{ ref('int_arrivals') }}),

aircraft as (
    select
        tailnum,
        max(arrival_delay_min) as worst_delay_min,
    from arrivals
    group by tailnum
),

final as (
    select
        departures.tailnum,
        departures.known_at,
        max(aircraft.worst_delay_min) as tail_worst_delay_min,
    from departures
    inner join aircraft on departures.tailnum = aircraft.tailnum
    group by all
)

select * from final
""",
        keys=("tailnum",),
        features=(("tail_worst_delay_min", "integer"),),
    ),
    Leak(
        "backfilled_value",
        "the arrival delay, once known, written into the row of the departure",
        base="aircraft_last_leg",
        changes=(
            (
                "null::bigint as tail_last_arrival_delay_min",
                "arrival_delay_min as tail_last_arrival_delay_min",
            ),
        ),
    ),
    Leak(
        "forward_fill_from_the_future",
        "a missing gust is filled from the next report that has one",
        base="origin_weather",
        changes=(
            (
                "coalesce(wind_gust_mph, wind_speed_mph)",
                "first_value(wind_gust_mph ignore nulls) over (\n            partition by origin "
                "order by observed_at rows between current row and unbounded following\n        )",
            ),
        ),
    ),
    Leak(
        "time_zone_off_by_hours",
        "New York's clock taken for UTC",
        base="airport_state",
        changes=(
            (
                "        origin,\n        known_at,\n        departures_1h as",
                f"        origin,\n        timezone('UTC', {LOCAL}) as known_at,\n"
                "        departures_1h as",
            ),
        ),
    ),
    Leak(
        "dst_hour",
        "local clocks turned into UTC with the offset of the day's midnight",
        base="airport_state",
        changes=(
            (
                "        origin,\n        known_at,\n        departures_1h as",
                f"        origin,\n        timezone('{ZONE}', {MIDNIGHT}) + ({LOCAL} - {MIDNIGHT})"
                " as known_at,\n        departures_1h as",
            ),
        ),
    ),
    Leak(
        "dedup_keeps_the_latest",
        "one row a flight, its last message under the time of its first",
        sql="""
with messages as (select * from {{ ref('stg_flights') }}),

final as (
    select
        carrier,
        flight,
        origin,
        dest,
        min(_loaded_at) as known_at,
        arg_max(record_kind, _loaded_at) as line_last_record,
    from messages
    group by flight_id, carrier, flight, origin, dest
)

select * from final
""",
        keys=("carrier", "flight", "origin", "dest"),
        features=(("line_last_record", "varchar"),),
    ),
    Leak(
        "queue_knows_who_is_cancelled",
        "flights that never leave are taken out of the queue at once",
        base="airport_state",
        changes=(("int_overdue_changes", "leak_overdue_changes"),),
        helpers=(
            (
                "int_overdue_changes",
                "leak_overdue_changes",
                (
                    (
                        "    from flights\n    left join departures",
                        "    from flights\n    anti join (\n        select flight_id from "
                        "{{ ref('stg_flights') }} where record_kind = 'closed'\n    ) as closed on "
                        "flights.flight_id = closed.flight_id\n    left join departures",
                    ),
                ),
            ),
        ),
    ),
    Leak(
        "next_leg",
        "where the aircraft goes next, as if its rotation were known",
        base="aircraft_last_leg",
        changes=(
            (
                "        lead(departure_known_at) over (",
                "        lead(origin) over (\n            partition by tailnum order by "
                "departure_known_at\n        ) as next_origin,\n"
                "        lead(departure_known_at) over (",
            ),
            ("        origin as tail_last_origin", "        next_origin as tail_last_origin"),
        ),
    ),
    Leak(
        "mean_of_the_whole_history",
        "target encoding over all rows, later ones too",
        sql="""
with arrivals as (select * from {{ ref('int_arrivals') }}),

final as (
    select
        carrier,
        origin,
        known_at,
        avg(arrival_delay_min) over (partition by carrier, origin) as carrier_delay_mean_min,
    from arrivals
    qualify row_number() over (partition by carrier, origin, known_at order by flight_id) = 1
)

select * from final
""",
        keys=("carrier", "origin"),
        features=(("carrier_delay_mean_min", "double"),),
    ),
    Leak(
        "rounded_down",
        "events count from the quarter of an hour they fall in, not from its end",
        sql="""
with departures as (select * from {{ ref('int_departures') }}),

final as (
    select
        origin,
        time_bucket(interval {{ var('serving_grid') }}, known_at) as known_at,
        count(*) as departures_15min,
    from departures
    group by all
)

select * from final
""",
        keys=("origin",),
        features=(("departures_15min", "bigint"),),
    ),
    Leak(
        "clock_of_the_build",
        "an age measured from now() instead of from T",
        base="aircraft_attributes",
        changes=(
            ("        year_built as plane", "        year(now())::integer - year_built as plane"),
        ),
    ),
)


def inject(leak: Leak, root: Path) -> None:
    """Write a leak's models into a copy of this project."""
    features = root / "models" / "features"
    for base, name, changes in leak.helpers:
        source = (root / "models" / "intermediate" / f"{base}.sql").read_text()
        (root / "models" / "intermediate" / f"{name}.sql").write_text(_changed(source, changes))
    if leak.base:
        sql = _changed((features / f"{leak.base}.sql").read_text(), leak.changes)
        described = _changed(
            (features / f"{leak.base}.yml").read_text(),
            ((f"- name: {leak.base}\n", f"- name: {leak.name}\n"),),
        )
    else:
        sql, described = leak.sql.lstrip(), _described(leak)
    (features / f"{leak.name}.sql").write_text(sql)
    (features / f"{leak.name}.yml").write_text(described)


def _changed(text: str, changes: tuple[tuple[str, str], ...]) -> str:
    for old, new in changes:
        assert old in text, f"the model no longer has {old!r}: renew this leak"
        text = text.replace(old, new)
    return text


def _described(leak: Leak) -> str:
    types = {"flight": "bigint"}
    columns = [
        *((key, types.get(key, "varchar")) for key in leak.keys),
        ("known_at", "timestamptz"),
        *leak.features,
    ]
    listed = "\n".join(
        f"      - {{name: {name}, data_type: {kind}, description: A column.}}"
        for name, kind in columns
    )
    return f"""models:
  - name: {leak.name}
    description: "A leak: {leak.what}."
    config:
      contract: {{enforced: true}}
      meta:
        feature_view:
          entities: [{", ".join(leak.keys)}]
          ttl: 2 days
          owner: nobody
    columns:
{listed}
"""


def make_project(root: Path, start: datetime, end: datetime) -> None:
    """A copy of this project with every leak beside the honest views, built on part of the feed.

    It has what was loaded from `start` to `end`, and the reference data from before.
    """
    for part in PARTS:
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in FILES:
        shutil.copy(ROOT / file, root / file)
    for leak in LEAKS:
        inject(leak, root)
    first, last = (np.datetime64(int(at.timestamp()), "s") for at in (start, end))
    for records in build(read_sources()):
        wanted = (records.loaded_at >= first) | (records.source in REFERENCE)
        table, loaded_at = records.table.filter(wanted), records.loaded_at[wanted]
        kept = replace(records, table=table, loaded_at=loaded_at)
        for _ in write(day_files(kept, root / "data" / "raw", last)):
            pass
    for command in COMMANDS:
        run(root, command)


def run(root: Path, command: str) -> str:
    """What a command says in a project. Raises HindcastError with it if the command fails."""
    programs = str(Path(sys.executable).parent)
    env = os.environ | {
        "PATH": programs + os.pathsep + os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "NO_COLOR": "1",
    }
    done = subprocess.run(
        command.split(), cwd=root, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise HindcastError(f"{command} failed:\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
    return done.stdout


def caught_by(audit: Audit, view: str) -> list[str]:
    """Which tests of an audit accuse a view."""
    accused = {
        "replay": any(
            one.differ for at in audit.replayed or () for one in at.views if one.view == view
        ),
        "scramble": audit.scrambled is not None
        and any(one.differ for one in audit.scrambled.views if one.view == view),
        "static": audit.read is not None and any(f.model == view for f in audit.read.findings),
    }
    return [test for test, caught in accused.items() if caught]
