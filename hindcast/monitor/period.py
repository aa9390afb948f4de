"""A time that rows are predicted in, of whole days of 24 hours."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from hindcast.config import utc_text


@dataclass(frozen=True)
class Period:
    """From `start` on, before `end`."""

    start: datetime
    end: datetime

    @property
    def days(self) -> int:
        """Its days, a begun one included."""
        return -((self.start - self.end) // timedelta(days=1))

    def __str__(self) -> str:
        return f"from {utc_text(self.start)} to {utc_text(self.end)}"


def before(at: datetime, days: int) -> Period:
    """The days up to an instant."""
    return Period(at - timedelta(days=days), at)
