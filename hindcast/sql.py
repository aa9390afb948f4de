"""Writing SQL: quoting, and statements laid out to be read. Not for what a query is about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta


def select(columns: Sequence[str], source: str, where: Sequence[str] = (), tail: str = "") -> str:
    """One SELECT, laid out to be read."""
    listed = ",\n".join(f"    {column}" for column in columns)
    conditions = "\n    and ".join(where)
    lines = [f"select\n{listed}", f"from {source}", f"where {conditions}" if where else "", tail]
    return "\n".join(line for line in lines if line)


def best_first(partition: Iterable[str], rank: Iterable[str]) -> str:
    """A window in which the row of the greatest rank comes first."""
    by = f"partition by {', '.join(keys)} " if (keys := list(partition)) else ""
    return f"{by}order by {', '.join(f'{term} desc nulls last' for term in rank)}"


def quote(name: str) -> str:
    """An identifier."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def literal(text: str) -> str:
    """A string."""
    escaped = text.replace("'", "''")
    return f"'{escaped}'"


def micros(span: timedelta) -> int:
    """A span in whole microseconds."""
    return span // timedelta(microseconds=1)


def instant(time: datetime) -> str:
    """SQL for an instant."""
    return f"timestamptz '{time.astimezone(UTC)}'"
