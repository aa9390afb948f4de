"""What predictions bring, what errors cost, and what computing them costs on this machine.

Not for choosing a threshold (`evaluate`), and not for the service's own cost: `serving.demo`
measures that where it runs.
"""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hindcast.resample import day_sums, means
from training.evaluate import Estimate
from training.settings import Settings

BATCH = 1_000
SINGLE = 30
"""Flights scored one at a time: enough to average over, and over in a second."""


@dataclass(frozen=True)
class Thousand:
    """What becomes of 1,000 flights under the model's threshold, in flights and in money."""

    hits: Estimate
    false_alarms: Estimate
    misses: Estimate
    left_alone: Estimate
    false_alarm_rate: Estimate
    """The share of punctual flights that are flagged."""
    saved_by_hits: Estimate
    """A late flight that was flagged saves the benefit less the cost of acting."""
    spent_on_false_alarms: Estimate
    saved: Estimate
    forgone_by_misses: Estimate
    """What the hits' saving would have been for the late flights that were not flagged."""
    losing_days: int
    """Days on which acting on the flags cost more than it saved."""


def thousand(
    late: np.ndarray,
    flag: np.ndarray,
    position: np.ndarray,
    weights: np.ndarray,
    settings: Settings,
) -> Thousand:
    """Counts and money per 1,000 flights, with intervals."""
    cells = means(
        position,
        weights,
        late * flag,
        (1 - late) * flag,
        late * (1 - flag),
        (1 - late) * (1 - flag),
    )
    hits, alarms, misses, alone = (1000 * each for each in cells)
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = Estimate.of(alarms / (alarms + alone))
    gain, cost = settings.late_benefit - settings.flag_cost, settings.flag_cost
    by_day = day_sums(position, weights.shape[1], flag * (settings.late_benefit * late - cost))
    return Thousand(
        hits=Estimate.of(hits),
        false_alarms=Estimate.of(alarms),
        misses=Estimate.of(misses),
        left_alone=Estimate.of(alone),
        false_alarm_rate=rate,
        saved_by_hits=Estimate.of(gain * hits),
        spent_on_false_alarms=Estimate.of(cost * alarms),
        saved=Estimate.of(gain * hits - cost * alarms),
        forgone_by_misses=Estimate.of(gain * misses),
        losing_days=int((by_day < 0).sum()),
    )


@dataclass(frozen=True)
class Work:
    """CPU time of one kind of work, all threads together, per 1,000 flights, and its price."""

    what: str
    flights: int
    cpu_seconds: float
    money: float


@dataclass(frozen=True)
class Computing:
    """What computing costs on the machine of the run."""

    machine: str
    cpu_hour_price: float
    predictions: list[Work]
    training_cpu_seconds: float
    training_money: float


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process, in all its threads, while it does the work."""
    before = time.process_time()
    work()
    return time.process_time() - before


def computing(
    predict: Callable[[pd.DataFrame], np.ndarray],
    frame: pd.DataFrame,
    features: tuple[int, float],
    training_cpu_seconds: float,
    settings: Settings,
) -> Computing:
    """Measure scoring now; `features` has the flights that were joined, and the seconds it took."""
    batch, single = frame.iloc[:BATCH], frame.iloc[:SINGLE]
    rows = [single.iloc[[i]] for i in range(len(single))]
    measured = (
        ("features: the point-in-time join, all flights at once", *features),
        ("probability: the flights in one batch", len(batch), cpu_seconds(lambda: predict(batch))),
        (
            "probability: one flight at a time, with scikit-learn",
            len(rows),
            cpu_seconds(lambda: [predict(row) for row in rows]),
        ),
    )
    per_second = settings.cpu_hour_price / 3600
    works = []
    for what, flights, seconds in measured:
        each = 1000 * seconds / flights
        works.append(Work(what, flights, each, each * per_second))
    return Computing(
        machine(),
        settings.cpu_hour_price,
        works,
        training_cpu_seconds,
        training_cpu_seconds * per_second,
    )


def machine() -> str:
    """The processor and its number of CPUs, as far as the system tells."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} CPUs"
