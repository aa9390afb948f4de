"""What Prometheus is told of the service.

Counted in plain numbers while answering, since a metric object a feature would cost more than
the score; put into Prometheus' words when `/metrics` is asked for. Not for logs of answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
ROWS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
DECILES = tuple(tenth / 10 for tenth in range(1, 11))


class Metrics:
    """All metrics of one service, in a registry of their own."""

    def __init__(self, features: Sequence[str]) -> None:
        """Count NULLs of these features."""
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._requests = Counter(
            "hindcast_requests", "Requests to /v1/score.", ["status"], registry=self._registry
        )
        self.latency = Histogram(
            "hindcast_score_seconds",
            "Seconds from a request's body to its answer.",
            buckets=SECONDS,
            registry=self._registry,
        )
        self.batch = Histogram(
            "hindcast_batch_flights", "Flights a request.", buckets=ROWS, registry=self._registry
        )
        self.score = Histogram(
            "hindcast_score", "P(late) as answered.", buckets=DECILES, registry=self._registry
        )
        self.flights = 0
        self._features = list(features)
        self._nulls = [0] * len(self._features)
        self._ages: dict[str, float] = {}
        self._log = (0, 0)

    def count(self, status: int) -> None:
        """Count a request by the status of its answer."""
        self._requests.labels(str(status)).inc()

    def served(
        self,
        values: Mapping[str, Sequence[Any]],
        p: Sequence[float],
        event_us: Mapping[str, Sequence[int | None]],
        now_us: int,
    ) -> None:
        """Count the flights of one answer."""
        self.flights += len(p)
        for i, name in enumerate(self._features):
            self._nulls[i] += values[name].count(None)
        for score in p:
            self.score.observe(score)
        for view, times in event_us.items():
            newest = max((at for at in times if at is not None), default=None)
            if newest is not None:
                self._ages[view] = (now_us - newest) / 1e6

    def collect(self) -> Iterable[Metric]:
        """What was counted in plain numbers."""
        yield CounterMetricFamily("hindcast_flights", "Flights scored.", self.flights)
        nulls = CounterMetricFamily(
            "hindcast_feature_nulls", "Flights for which a feature was NULL.", labels=["feature"]
        )
        for name, count in zip(self._features, self._nulls, strict=True):
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
