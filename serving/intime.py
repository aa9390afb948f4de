"""Whether the features that were read may be used for a prediction at T.

Training reads a row only if it was known at T and not older then than its TTL. The online store
knows nothing of T: it serves the rows it has. Here each flight's rows are held against its own
T. Not for what is done about one that does not pass (`scorer`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hindcast.online import OnlineRows
from hindcast.online_store import Status

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def micros(at: datetime) -> int:
    """Microseconds since 1970."""
    return (at - EPOCH) // MICROSECOND


@dataclass(frozen=True)
class OutOfTime:
    """Features that a prediction at T would not have had in training.

    `known_until`: the latest instant at which one of them became known. `expired`: a view whose
    row is past its TTL at T, None if none is: then one is of after T.
    """

    known_until: datetime
    expired: str | None


def out_of_time(
    rows: OnlineRows, at: Sequence[datetime], ttls: Mapping[str, timedelta]
) -> dict[int, OutOfTime]:
    """The rows that may not be used for predictions at these instants, by their place.

    A TTL of zero is unlimited.
    """
    if not at:
        return {}
    at_us = [micros(each) for each in at]
    first, last = min(at_us), max(at_us)
    stand = max((micros(each) for each in rows.as_of.values() if each is not None), default=None)
    found = {i for i, each in enumerate(at_us) if stand is not None and stand > each}
    expired: dict[int, str] = {}
    for view, times in rows.event_us.items():
        there = [each for each in times if each is not None]
        ttl = ttls[view] // MICROSECOND
        if not there or (max(there) <= first and (not ttl or min(there) >= last - ttl)):
            continue
        for i, (each, status) in enumerate(zip(times, rows.statuses[view], strict=True)):
            if each is None or status is not Status.PRESENT:
                continue
            if each > at_us[i]:
                found.add(i)
            elif ttl and each < at_us[i] - ttl:
                expired.setdefault(i, view)
    return {
        i: OutOfTime(_known_until(rows, i, stand), None if i in found else expired[i])
        for i in sorted(found | expired.keys())
    }


def _known_until(rows: OnlineRows, i: int, stand: int | None) -> datetime:
    """When the last of a row's features became known; never before the store's own instant."""
    served = (
        times[i]
        for view, times in rows.event_us.items()
        if rows.statuses[view][i] is Status.PRESENT
    )
    known = [each for each in (stand, *served) if each is not None]
    return EPOCH + max(known) * MICROSECOND


def only(rows: OnlineRows, places: Sequence[int]) -> OnlineRows:
    """The rows at some places."""
    return OnlineRows(
        {name: [column[i] for i in places] for name, column in rows.values.items()},
        {view: [column[i] for i in places] for view, column in rows.statuses.items()},
        {view: [column[i] for i in places] for view, column in rows.event_us.items()},
        rows.as_of,
        rows.snapshots,
    )
