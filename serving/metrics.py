"""What Prometheus is told of the service.

Counted here in plain numbers and put into Prometheus' words when `/metrics` is asked for: a
metric object a feature would cost more than the score, and importing Feast sends all values of
prometheus_client into files that processes share. Not for logs of answers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
FLIGHTS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
SCORES = tuple(tenth / 10 for tenth in range(1, 11))


class Histogram:
    """How many values were at most each of some bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """Count up to these bounds, in rising order, and beyond."""
        self._bounds, self._counts, self._sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def family(self, name: str, about: str) -> HistogramMetricFamily:
        """In Prometheus' words."""
        buckets, total = [], 0
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        return HistogramMetricFamily(name, about, buckets, self._sum)


class Metrics:
    """All metrics of one service."""

    def __init__(self, features: Sequence[str]) -> None:
        """Begin to count. NULLs of these features are told even before there is one."""
        self.latency, self.batch = Histogram(SECONDS), Histogram(FLIGHTS)
        self._scores = Histogram(SCORES)
        self._requests: Counter[int] = Counter()
        self._flights = 0
        self._nulls = Counter(dict.fromkeys(features, 0))
        self._ages: dict[str, float] = {}
        self._log = (0, 0)
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def count(self, status: int) -> None:
        """Count a request by the status of its answer."""
        self._requests[status] += 1

    def served(
        self,
        values: Mapping[str, Sequence[Any]],
        p: Sequence[float],
        event_us: Mapping[str, Sequence[int | None]],
        now_us: int,
    ) -> None:
        """Count the flights of one answer."""
        self._flights += len(p)
        for name, column in values.items():
            self._nulls[name] += column.count(None)
        for score in p:
            self._scores.observe(score)
        for view, times in event_us.items():
            newest = max((at for at in times if at is not None), default=None)
            if newest is not None:
                self._ages[view] = (now_us - newest) / 1e6

    def collect(self) -> Iterable[Metric]:
        """All that was counted, in Prometheus' words."""
        requests = CounterMetricFamily(
            "hindcast_requests", "Requests to /v1/score by status.", labels=["status"]
        )
        for status, count in sorted(self._requests.items()):
            requests.add_metric([str(status)], count)
        yield requests
        yield self.latency.family(
            "hindcast_score_seconds", "Seconds from a request's body to its answer."
        )
        yield self.batch.family("hindcast_batch_flights", "Flights a request.")
        yield self._scores.family("hindcast_score", "P(late) as answered.")
        yield CounterMetricFamily("hindcast_flights", "Flights scored.", self._flights)
        nulls = CounterMetricFamily(
            "hindcast_feature_nulls", "Flights for which a feature was NULL.", labels=["feature"]
        )
        for name, count in self._nulls.items():
            nulls.add_metric([name], count)
        yield nulls
        ages = GaugeMetricFamily(
            "hindcast_feature_age_seconds",
            "Age of the newest row of a view in the last answer.",
            labels=["view"],
        )
        for view, age in self._ages.items():
            ages.add_metric([view], age)
        yield ages
        waiting, written = self._log
        yield GaugeMetricFamily(
            "hindcast_log_waiting", "Answers not yet written to the log.", waiting
        )
        yield CounterMetricFamily("hindcast_log_written", "Answers written to the log.", written)

    def text(self, log_waiting: int, log_written: int) -> bytes:
        """All of it in Prometheus' text format."""
        self._log = (log_waiting, log_written)
        return generate_latest(self._registry)
