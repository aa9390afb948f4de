"""The classic mistakes, one at a time, on the data and the model of the honest training.

Each changes one thing: fitted on the same days and judged on the same flights. The leaking
features are made right here, from the outcomes, in a few lines of pandas: that is how easily it
happens. Nothing of this file is used anywhere but in `python -m training.leaks`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from rich.table import Table
from threadpoolctl import threadpool_limits

from hindcast.resample import day_weights, log_losses, means, roc_auc
from training import pictures, report
from training.console import console, step
from training.dataset import Column, Dataset, open_store, spine_sql
from training.evaluate import Estimate
from training.model import design, fitted
from training.settings import Settings

HONEST = "none"
WEATHER = "weather of the hour of departure"
SCHEDULED = "recent flights by timetable"
RANDOM = "random split"
SAME_DAY = "group by day"
DELAY = "departure delay as a feature"

REASONS = {
    HONEST: "only what was known two hours before departure",
    WEATHER: "joined on the hour; its report came two to three hours after the prediction",
    SCHEDULED: "delays of flights due out in the 3 hours before; some had not landed, or not left",
    RANDOM: "flights of the same hour are on both sides",
    SAME_DAY: "mean delay of the day; the evening is in it, and the flight itself",
    DELAY: "known when the flight has left",
}


@dataclass(frozen=True)
class Result:
    """How a mistake looks on the test days, and by how much it flatters."""

    mistake: str
    reason: str
    roc_auc: Estimate
    log_loss: Estimate
    roc_auc_flattery: Estimate


@dataclass(frozen=True)
class Bench:
    """What every mistake has in common: the data, brought to numbers once, and the settings."""

    data: Dataset
    inputs: pd.DataFrame
    settings: Settings

    def scores(self, extra: pd.DataFrame, fit: np.ndarray, test: np.ndarray) -> np.ndarray:
        """P(late) of some rows by a model fitted on others, with columns added or replaced."""
        had = {column.name for column in self.data.columns}
        added = [Column(str(name), "Float64", "leak") for name in extra if name not in had]
        columns = [*self.data.columns, *added]
        changed = design(extra, [column for column in columns if column.name in extra])
        inputs = self.inputs.assign(**{str(name): changed[name] for name in changed})
        settings = self.settings
        with threadpool_limits(settings.threads):
            rows = inputs.iloc[fit], self.data.late[fit]
            model = fitted(rows, columns, settings, settings.leaves[0], settings.max_rounds)
            p: np.ndarray = model.predict_proba(inputs.iloc[test])[:, 1]
        return p


def score_all(data: Dataset, weather: pd.DataFrame, settings: Settings) -> dict[str, np.ndarray]:
    """P(late) of the test flights under each mistake, each model fitted anew."""
    changed = {
        HONEST: data.frame[[]],
        WEATHER: weather,
        SCHEDULED: by_timetable(data.frame),
        SAME_DAY: by_day(data.frame, settings.zone),
        DELAY: data.frame[["departure_delay_min"]],
    }
    bench = Bench(data, design(data.frame, data.columns), settings)
    fit, test = data.rows("fit"), data.rows("test")
    scores = {}
    for mistake, extra in changed.items():
        with step(f"Mistake: {mistake}"):
            scores[mistake] = bench.scores(extra, fit, test)
    with step(f"Mistake: {RANDOM}"):
        scores[RANDOM] = random_split(bench)
    return {mistake: scores[mistake] for mistake in REASONS}


# -- the mistakes ------------------------------------------------------------------------


def weather_of_departure_hour(data: Dataset, view: str, settings: Settings) -> pd.DataFrame:
    """The weather view asked as of an hour after the departure hour began, not as of T.

    That is when the report of this hour exists: the answer is the textbook join of flights and
    weather on `time_hour`. Nothing but the spine's event_timestamp is changed.
    """
    features = data.views[view]
    asked_at = "date_trunc('hour', sched_dep_at) + interval 1 hour"
    answer: pd.DataFrame = (
        open_store(settings)
        .get_historical_features(
            entity_df=spine_sql(settings, join_at=asked_at),
            features=[f"{view}:{feature}" for feature in features],
        )
        .to_df()
    )
    return answer[features].set_axis(data.frame.index)


def by_timetable(flights: pd.DataFrame) -> pd.DataFrame:
    """Arrival delays of flights scheduled in the 3 hours before T, landed or not."""
    found = {}
    delay = flights["arrival_delay_min"].to_numpy("float64")
    minute = flights["sched_dep_at"].astype("int64").to_numpy() // 60_000_000
    at = flights["predict_at"].astype("int64").to_numpy() // 60_000_000
    for keys in (["origin"], ["dest"], ["carrier", "origin"]):
        name = "leak_scheduled_" + "_".join(keys)
        mean = np.full(len(flights), np.nan)
        for rows in flights.groupby(keys).indices.values():
            landed = rows[~np.isnan(delay[rows])]
            landed = landed[np.argsort(minute[landed], kind="stable")]
            total = np.append(0, np.cumsum(delay[landed]))
            first = np.searchsorted(minute[landed], at[rows] - 180, side="right")
            last = np.searchsorted(minute[landed], at[rows], side="right")
            with np.errstate(invalid="ignore"):
                mean[rows] = (total[last] - total[first]) / (last - first)
        found[name] = mean
    return pd.DataFrame(found, index=flights.index)


def by_day(flights: pd.DataFrame, zone: str) -> pd.DataFrame:
    """Mean arrival delay of the local day: `groupby(...).transform("mean")`, and done."""
    day = flights["sched_dep_at"].dt.tz_convert(zone).dt.date.rename("day")
    return pd.DataFrame(
        {
            "leak_day_" + "_".join(keys): flights["arrival_delay_min"]
            .groupby([day, *(flights[key] for key in keys)])
            .transform("mean")
            for keys in (["origin"], ["dest"], ["carrier", "origin"])
        }
    )


def random_split(bench: Bench) -> np.ndarray:
    """The test flights scored by models fitted on a random half of all days' flights.

    Two halves, each scored by the model of the other, so that the flights judged are the same.
    """
    data = bench.data
    labelled, test = np.flatnonzero(~np.isnan(data.late)), data.rows("test")
    half = np.random.default_rng(bench.settings.seed).random(len(data.late)) < 0.5
    p = np.empty(len(test))
    for side in (half, ~half):
        judged = side[test]
        p[judged] = bench.scores(data.frame[[]], labelled[~side[labelled]], test[judged])
    return p


# -- what it shows -----------------------------------------------------------------------


def judge(scores: Mapping[str, np.ndarray], data: Dataset, settings: Settings) -> list[Result]:
    """Each mistake's figures, and the difference to the honest ones on the same days."""
    test = data.rows("test")
    late = data.late[test]
    weights, position = day_weights(data.day[test], settings.resamples, settings.seed)
    honest = roc_auc(late, scores[HONEST], position, weights)
    results = []
    for mistake, p in scores.items():
        auc = roc_auc(late, p, position, weights)
        (loss,) = means(position, weights, log_losses(late, p))
        figures = (Estimate.of(each) for each in (auc, loss, auc - honest))
        results.append(Result(mistake, REASONS[mistake], *figures))
    return results


def show(results: list[Result]) -> None:
    """The table on the console."""
    table = Table(title="What a leak would have shown, on the same test flights")
    table.add_column("mistake")
    for column in ("ROC AUC", "flatters by", "log loss"):
        table.add_column(column, justify="right")
    for each in results:
        honest, auc = each.mistake == HONEST, each.roc_auc
        table.add_row(
            f"[bold]{each.mistake}[/bold]\n[dim]{each.reason}[/dim]",
            f"{auc.value:.3f}\n[dim]{auc.low:.3f}-{auc.high:.3f}[/dim]",
            "" if honest else f"{each.roc_auc_flattery.value:+.3f}",
            f"{each.log_loss.value:.3f}",
            style="green" if honest else None,
        )
    console.print(table)


def write(folder: Path, results: list[Result], settings: Settings) -> None:
    """Write leaks.json, leaks.png and leaks.html; put the section into a report beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    with rc_context(pictures.STYLE):
        figure = pictures.picture([lambda ax: draw(ax, results)], 9.0, 3.6)
        picture = pictures.png_bytes(figure)
        section = report.render(
            "leaks.html",
            {"results": results, "settings": settings, "picture": pictures.png(figure)},
        )
    (folder / "leaks.json").write_text(
        json.dumps([asdict(each) for each in results], indent=2) + "\n"
    )
    (folder / "leaks.png").write_bytes(picture)
    (folder / "leaks.html").write_text(section)
    if (folder / "report.html").exists():
        report.fill(folder / "report.html", "leaks", section)


def draw(ax: Axes, results: list[Result]) -> None:
    """Honest figure against flattering figures, as bars."""
    auc = [each.roc_auc for each in results]
    bars = ax.barh(
        [each.mistake for each in results],
        [each.value for each in auc],
        xerr=pictures.spread(auc),
        color=[pictures.COLOURS[0], *[pictures.COLOURS[1]] * (len(results) - 1)],
        error_kw={"ecolor": "#37474f", "elinewidth": 1},
    )
    ax.bar_label(bars, [f"{each.value:.3f} " for each in auc], label_type="center", color="white")
    ax.axvline(auc[0].value, color=pictures.COLOURS[0], linestyle="--")
    ax.invert_yaxis()
    ax.set(xlabel="ROC AUC on the same test flights", xlim=(0.5, 1))
