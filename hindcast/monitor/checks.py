"""One check and its verdict."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from hindcast.config import Limits


class Verdict(StrEnum):
    """What a check says."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"

    @property
    def rank(self) -> int:
        """The higher the worse."""
        return list(Verdict).index(self)


@dataclass(frozen=True)
class Check:
    """One figure, what it is held against, and the verdict.

    The greater `value`, the worse: from the first of `limits` on it is a warning, from the second
    a failure; None is never. `noise` is what chance alone may make of it, None where chance
    has no part in it. `baseline` and `now` are the two figures the value compares, where there
    are two; `low` and `high` the 95 % interval of `now`.
    """

    subject: str
    name: str
    value: float
    limits: Limits
    noise: float | None = None
    baseline: float | None = None
    now: float | None = None
    low: float | None = None
    high: float | None = None
    detail: str = ""

    @property
    def verdict(self) -> Verdict:
        """A value counts from its limit on, if it is beyond chance."""
        warn, fail = self.limits
        if self.noise is not None and self.value <= self.noise:
            return Verdict.OK
        if fail is not None and self.value >= fail:
            return Verdict.FAIL
        return Verdict.WARN if warn is not None and self.value >= warn else Verdict.OK

    @property
    def weight(self) -> tuple[int, float]:
        """To sort by: the verdict, then how far the value is beyond its first limit."""
        first = next((limit for limit in self.limits if limit), None)
        return self.verdict.rank, self.value / first if first else 0.0


def worst_first(checks: Iterable[Check]) -> list[Check]:
    """Failures, then warnings, then the rest; each kind by how far it is beyond its limit."""
    return sorted(checks, key=lambda check: check.weight, reverse=True)


def worst(checks: Iterable[Check]) -> Verdict:
    """The worst verdict of all, ok where there is none."""
    return max((check.verdict for check in checks), key=lambda it: it.rank, default=Verdict.OK)
