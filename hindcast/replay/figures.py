"""What a replay comes to: the live figures beside the offline ones, parity, and what a tick costs.

Live: the scores that were served, each by the features as they stood at its tick. Offline: the
same model and the same predictions with the point-in-time join at each one's own T. Both are held
against what came true since, by the published spine. Not for showing it: that is `show`.

How the two are compared. The same predictions are scored twice, so the difference is paired; days
are drawn with replacement, since predictions of one day share its weather. The noise of a figure
on so many days is half the width of its own 95 % interval. Live and offline *agree* where the
whole 95 % interval of their difference lies within that noise: an equivalence test, which a large
difference fails and a short replay, whose noise is large, cannot turn into a proof of equality.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hindcast.errors import HindcastError
from hindcast.replay.ticks import OWN, YARDSTICK, Notebook
from hindcast.resample import calibration_error, day_weights, log_losses, means, roc_auc

RESAMPLES = 1_000
BINS = 10
Floats = npt.NDArray[np.float64]

ON_TIME = 0.999
"""The share of ticks that must be on time."""


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval; None where it cannot be had."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Figure:
    """One figure, live and offline, and whether they agree. See the module for how."""

    name: str
    live: float
    offline: Interval
    difference: Interval
    noise: float
    agree: bool


@dataclass(frozen=True)
class Growth:
    """How a tick's cost moves with history, per day, as a share of the mean tick.

    `proportional`: what it would be if the cost followed all of history. Judged is how many times
    the CPU seconds of the yardstick, done beside it, a tick took. Seconds depend on what else the
    machine does, and are told only.
    """

    what: str
    is_judged: bool
    per_day: Interval
    proportional: float
    grows: bool


@dataclass(frozen=True)
class Outcome:
    """All that a replay found.

    `passed`: nothing differs, figures agree, cost does not grow, ticks are on time.
    """

    start: datetime
    end: datetime
    tick: timedelta
    ticks: int
    planned: int
    retried: int
    on_time: int
    longest_s: float
    median_s: float
    predictions: int
    outcomes_known: int
    """Predictions that were scored at the tick at which their outcome was known."""
    outcomes_corrected: int
    """Of those, the ones whose outcome was another at the end."""
    compared: int
    wrong: int
    figures: tuple[Figure, ...]
    growth: tuple[Growth, ...]
    unserved: int
    """Predictions of the spine that no tick served."""
    steps: dict[str, dict[str, float]]

    @property
    def disagree(self) -> list[str]:
        """The names of figures that do not agree."""
        return [figure.name for figure in self.figures if not figure.agree]

    @property
    def passed(self) -> bool:
        """Whether the replay shows what it should."""
        return (
            self.ticks == self.planned
            and not self.wrong
            and not self.unserved
            and not self.disagree
            and self.predictions > 0
            and self.on_time >= ON_TIME * self.ticks
            and not any(trend.grows for trend in self.growth if trend.is_judged)
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        found = asdict(self)
        found["tick_minutes"] = self.tick / timedelta(minutes=1)
        del found["tick"]
        for name in ("start", "end"):
            found[name] = found[name].isoformat().replace("+00:00", "Z")
        return found | {"passed": self.passed}


def measured(
    late: Floats, p: Floats, position: npt.NDArray[Any], weights: Floats
) -> dict[str, Floats]:
    """Every figure for all resamples of days, the first being the data as it is."""
    return {
        "ROC AUC": roc_auc(late, p, position, weights),
        "log loss": means(position, weights, log_losses(late, p))[0],
        "calibration error": calibration_error(late, p, position, weights, BINS),
    }


def compare(
    late: Floats, live: Floats, offline: Floats, day: npt.NDArray[Any], seed: int = 0
) -> tuple[Figure, ...]:
    """Every figure of both, with intervals by drawing whole days."""
    weights, position = day_weights(day, RESAMPLES, seed)
    ours = measured(late, live, position, weights)
    theirs = measured(late, offline, position, weights)
    found = []
    for name, off in theirs.items():
        apart = ours[name] - off
        own = np.nanpercentile(off[1:], [2.5, 97.5])
        spread = np.nanpercentile(apart[1:], [2.5, 97.5])
        noise = float(own[1] - own[0]) / 2
        found.append(
            Figure(
                name,
                float(ours[name][0]),
                Interval(float(off[0]), *map(float, own)),
                Interval(float(apart[0]), *map(float, spread)),
                noise,
                bool(np.abs(spread).max() <= noise),
            )
        )
    return tuple(found)


def growth(
    what: str,
    cost: Floats,
    days: Floats,
    history_days: float,
    seed: int = 0,
    is_judged: bool = True,
) -> Growth | None:
    """The trend of a cost over days, with an interval by drawing whole days; None for too few.

    The first tick of a process is left out by the caller: it pays for starting up.
    """
    whole = np.floor(days).astype(int)
    rows = [np.flatnonzero(whole == day) for day in np.unique(whole)]
    if len(rows) < 3:
        return None
    draw = np.random.default_rng(seed)

    def slope(some: npt.NDArray[np.int64]) -> float:
        return float(np.polyfit(days[some], cost[some], 1)[0] / cost[some].mean())

    drawn = [
        slope(np.concatenate([rows[i] for i in draw.integers(0, len(rows), len(rows))]))
        for _ in range(RESAMPLES)
    ]
    low, high = map(float, np.percentile(drawn, [2.5, 97.5]))
    everything = np.arange(len(cost))
    middle = history_days + float(days.mean())
    return Growth(what, is_judged, Interval(slope(everything), low, high), 1 / middle, low > 0)


class Judge:
    """Makes an outcome of what a replay left. The commands are run by the caller's `Inside`."""

    def __init__(self, loop: Any) -> None:
        """Of a loop whose ticks are done."""
        self.loop, self.notebook = loop, loop.notebook
        self.room, self.plan, self.section = loop.room, loop.plan, loop.section

    @cached_property
    def store(self) -> Any:
        """The copy's feature store."""
        from feast import FeatureStore

        return FeatureStore(repo_path=str(self.room.config.feature_repo))

    def outcome(self) -> Outcome:
        """Everything. Raises HindcastError where nothing was served, or a column is not there."""
        from hindcast.replay.commands import filled

        out = self.room.folder / "offline.parquet"
        self.loop.inside.run(
            filled(self.section.offline, self.plan.placeholders(self.plan.end, out))
        )
        served = self.loop.outcomes.served(self.store)
        if served.empty:
            raise HindcastError("no tick served anything: the log of the service is empty")
        both = served.merge(
            pd.read_parquet(out)[[*self.section.row, "score"]],
            on=[*self.section.row],
            how="outer",
            suffixes=("", "_offline"),
            indicator=True,
            validate="one_to_one",
        )
        unserved = int((both["_merge"] == "right_only").sum())
        both = both[both["_merge"] == "both"]
        if both.empty:
            raise HindcastError("nothing was served that the offline command scored too")
        arrived = self.loop.outcomes.frame()[["row_key", "label"]]
        known = self.loop.outcomes.keyed(both).merge(arrived, on="row_key", validate="one_to_one")
        late = np.asarray(known["label"], np.float64)
        day = known["predict_at"].dt.floor("D").to_numpy() if len(known) else np.array([])
        figures = (
            compare(
                late,
                np.asarray(known["score"], np.float64),
                np.asarray(known["score_offline"], np.float64),
                day,
            )
            if 0 < late.sum() < len(late)
            else ()
        )
        return self._summed(served, len(known), unserved, figures)

    def _summed(
        self, served: pd.DataFrame, known: int, unserved: int, figures: tuple[Figure, ...]
    ) -> Outcome:
        ticks = costs(self.notebook)
        limit = self.plan.tick.total_seconds()
        going = ticks[~ticks["is_first"]]
        first = served["predict_at"].min() if len(served) else self.plan.start
        history = self._history_days(first)
        trends = [
            growth(
                what,
                going[column].to_numpy("float64"),
                going["day"].to_numpy("float64"),
                history,
                is_judged=column == "yardsticks",
            )
            for what, column in (
                ("CPU per tick, in yardsticks", "yardsticks"),
                ("CPU seconds per tick", "cpu_seconds"),
                ("wall seconds per tick", "seconds"),
            )
        ]
        return Outcome(
            start=self.plan.start,
            end=self.plan.end,
            tick=self.plan.tick,
            ticks=len(ticks),
            planned=self.plan.count,
            retried=int((ticks["attempts"] > 1).sum()),
            on_time=int((ticks["elapsed_seconds"] <= limit).sum()),
            longest_s=float(ticks["elapsed_seconds"].max()),
            median_s=float(ticks["seconds"].median()),
            predictions=len(served),
            outcomes_known=known,
            outcomes_corrected=self.loop.outcomes.corrected(self.store, self.plan.end),
            compared=int(ticks["compared"].sum()),
            wrong=int(ticks["wrong"].sum()),
            figures=figures,
            growth=tuple(trend for trend in trends if trend),
            unserved=unserved,
            steps=step_costs(self.notebook),
        )

    def _history_days(self, first: datetime) -> float:
        """Days of history at the start, by the oldest prediction of the spine."""
        from hindcast.offline_store import query

        oldest = query(
            self.store.config, f"select min(predict_at) as oldest from {self.room.config.spine}"
        )["oldest"][0].as_py()
        return float((self.plan.start - oldest.astimezone(UTC)) / timedelta(days=1))


def costs(notebook: Notebook) -> pd.DataFrame:
    """Every tick that is done: its day since the first, seconds, CPU seconds, and counts.

    `yardsticks` are its CPU seconds in those of the fixed piece of work done after it.
    """
    ticks: pd.DataFrame = notebook.table(
        "select ticks.*, ticks.cpu_seconds / steps.cpu_seconds as yardsticks "
        "from replay_ticks as ticks join replay_steps as steps on ticks.tick_at = steps.tick_at "
        f"and attempt = attempts and step = '{YARDSTICK}' order by ticks.tick_at"
    ).to_pandas()
    since = ticks["tick_at"] - ticks["tick_at"].min()
    return ticks.assign(day=since / pd.Timedelta(days=1))


def step_costs(notebook: Notebook) -> dict[str, dict[str, float]]:
    """Of each step in ticks that were done: median and greatest wall seconds, mean CPU seconds."""
    rows = notebook.rows(
        "select step, median(s.seconds), max(s.seconds), avg(s.cpu_seconds) from replay_steps as s "
        "join replay_ticks using (tick_at) where attempt = attempts "
        "group by step order by min(started_at)"
    )
    return {
        name: {"median_s": median, "longest_s": longest, "mean_cpu_s": cpu}
        for name, median, longest, cpu in rows
    }


def by_step(notebook: Notebook) -> pd.DataFrame:
    """Each step of each tick: wall seconds, CPU seconds, and those in yardsticks of the tick."""
    steps: pd.DataFrame = notebook.table(
        "select tick_at, step, s.seconds, s.cpu_seconds from replay_steps as s "
        "join replay_ticks using (tick_at) where attempt = attempts order by started_at"
    ).to_pandas()
    yardstick = steps[steps["step"] == YARDSTICK].set_index("tick_at")["cpu_seconds"]
    steps = steps.assign(yardsticks=steps["cpu_seconds"] / steps["tick_at"].map(yardstick))
    return steps[~steps["step"].isin(OWN)]


def folder_of(project_dir: Path, name: str) -> Path:
    """Where a replay of that name works."""
    from hindcast.replay.room import CORNER

    return project_dir / CORNER / name
