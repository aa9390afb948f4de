"""What retraining is worth: the year of flights, month by month, with and without it.

    python -m benchmarks.retrain            # about twenty minutes; writes docs/images/retrain.png
    python -m benchmarks.retrain --redraw   # the tables and the picture of the last run again

Four models score the flights of each month from March on. Nothing that was not known at the
month's first instant reaches any of them:

- frozen: trained once, at the end of February, and never again;
- monthly: trained again at each month's start on all that is known;
- rolling: the same on the last three months only;
- rule: the rule of `hindcast retrain`, asked at each month's start. The challenger is what was
  trained a month ago on all that was known then; it and the champion are judged on the month
  since, which neither has trained on.

The figures are of the flights of the month, all of them after the training; the threshold is
the one the model's own tuning days gave it. The trees are those of `training`, with a learning
rate of 0.1 and at most 200 rounds, which takes half the time. Models are kept in --models, so a
run that was stopped goes on. Not for a single retraining: `hindcast retrain`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import typer

from hindcast.compare import Figure, Money, compare, day_weights, days_of, figures
from hindcast.config import Retrain, load_config
from hindcast.retrain import decide
from training import dataset, model
from training.console import PLAIN_HELP, console, run, step
from training.dataset import Dataset
from training.evaluate import best_threshold
from training.settings import Settings

FIRST, LAST = date(2013, 3, 1), date(2013, 12, 1)
ROLLING_MONTHS = 3
SETTINGS = Settings(learning_rate=0.1, max_rounds=200)
POLICIES = ("frozen", "monthly", "rule", "rolling")
COLOURS = {"frozen": "#9a9a9a", "monthly": "#1f6fb2", "rolling": "#d08a1d", "rule": "#1b9e77"}

app = typer.Typer(add_completion=False, context_settings=PLAIN_HELP)


@dataclass(frozen=True)
class Fitted:
    """A model, the day up to which it was trained, and the threshold of its tuning days."""

    scoring: model.ScoringModel
    until: date
    threshold: float


@dataclass(frozen=True)
class Cell:
    """A policy in a month."""

    policy: str
    month: str
    flights: int
    trained_until: str
    figures: dict[str, Figure]


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Where the table goes, as JSON.")] = Path(
        "artifacts/retrain-backtest.json"
    ),
    plot: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path(
        "docs/images/retrain.png"
    ),
    models: Annotated[Path, typer.Option(help="Where the models are kept.")] = Path(
        "target/retrain-models"
    ),
    redraw: Annotated[
        bool, typer.Option(help="Only draw and print what an earlier run wrote to --out.")
    ] = False,
) -> None:
    """Backtest retraining over the year, and draw it."""
    if not redraw:
        for told in backtest(models):
            out.write_text(json.dumps(told, indent=1) + "\n")
    told = json.loads(out.read_text())
    cells = pd.json_normalize(told["cells"])
    draw(cells, told["decisions"], plot)
    show(cells, told["decisions"])


def backtest(models: Path) -> Iterator[dict[str, Any]]:
    """All cells and the rule's decisions so far, as plain values, after each policy."""
    config = load_config(Path())
    rule = config.retrain
    assert rule is not None, "hindcast.yml has no `retrain`"
    with step("Features of the year, as of each prediction"):
        data = dataset.load(SETTINGS)
    models.mkdir(parents=True, exist_ok=True)
    year = Year(data, rule, models)
    cells: list[Cell] = []
    decisions: list[dict[str, Any]] = []
    for policy in POLICIES:
        champion = year.fitted(FIRST)
        with step(policy) as tell:
            for month in months():
                if policy == "monthly":
                    champion = year.fitted(month)
                elif policy == "rolling":
                    champion = year.fitted(month, months_before(month, ROLLING_MONTHS))
                elif policy == "rule" and month > FIRST:
                    champion, decision = year.retrained(champion, month)
                    decisions.append(decision)
                cells.append(year.judged(policy, champion, month))
                tell(f"{month:%B} {cells[-1].figures['roc_auc'].value:.4f}")
        yield {"cells": [asdict(cell) for cell in cells], "decisions": decisions}


class Year:
    """The year's flights, and models of parts of it. A model of the same days is fitted once."""

    def __init__(self, data: Dataset, rule: Retrain, models: Path) -> None:
        """Nothing is fitted yet, but what an earlier run left in `models`."""
        self.data, self.rule, self.models = data, rule, models
        self.late = data.frame[dataset.LABEL].astype("float64").to_numpy()
        self.day = local_days(data.frame["predict_at"], SETTINGS.zone)
        self.reference: Figure | None = None
        """The champion's ROC AUC on the days it was chosen on."""

    def fitted(self, until: date, first: date | None = None) -> Fitted:
        """A model of the days before `until`, with what was known at its first instant."""
        first = first or self.rule.first_day
        file = self.models / f"{first}-{until}-{self.data.snapshot}.skops"
        threshold = file.with_suffix(".threshold")
        if not threshold.exists():
            estimator, value = self._fit(first, until)
            model.save(estimator, file)
            threshold.write_text(repr(value))
        scoring = model.ScoringModel(
            model.read_trusted(file), self.data.columns, float(threshold.read_text()), {}
        )
        return Fitted(scoring, until, scoring.threshold)

    def _fit(self, first: date, until: date) -> tuple[Any, float]:
        frame = self.data.frame
        known = frame["label_known_at"] <= self.instant(until)
        tune_from = until - timedelta(days=self.rule.tune_days)
        part = np.select(
            [self.day < day64(first), self.day < day64(tune_from), self.day < day64(until)],
            ["none", "fit", "tune"],
            "none",
        )
        data = replace(self.data, late=np.where(known, self.late, np.nan), part=part)
        estimator, choice = model.train(data, data.columns, SETTINGS)
        tune = data.rows("tune")
        p = model.ScoringModel(estimator, data.columns, np.nan, {}).predict_proba(frame.iloc[tune])
        threshold = best_threshold(data.late[tune], p, self.rule.act_cost, self.rule.act_benefit)
        return model.refitted(estimator, data, data.columns, choice, SETTINGS), threshold

    def retrained(self, champion: Fitted, month: date) -> tuple[Fitted, dict[str, Any]]:
        """What the rule would have in use after being asked at the month's start."""
        first = months_before(month, 1)
        challenger = self.fitted(first)
        told: dict[str, Any] = {
            "month": f"{month:%Y-%m}",
            "champion": str(champion.until),
            "challenger": str(challenger.until),
        }
        if challenger.until == champion.until:
            return champion, told | {"action": "kept", "reason": "it is the challenger"}
        at = self.instant(month)
        scores = [self.scores(each, first, month, at) for each in (champion, challenger)]
        comparison = compare(
            scores[0],
            scores[1],
            (champion.threshold, challenger.threshold),
            Money(self.rule.act_cost, self.rule.act_benefit),
            self.rule.time_zone,
            resamples=self.rule.resamples,
        )
        verdict = decide(comparison, self.reference, self.rule)
        told |= {"reason": verdict.reason, "figures": comparison.as_dict()}
        if verdict.promote:
            self.reference = comparison.challenger["roc_auc"]
            return challenger, told | {"action": "promoted"}
        return champion, told | {"action": "kept"}

    def scores(self, fitted: Fitted, first: date, until: date, at: datetime) -> pd.DataFrame:
        """The scores of some days, with the labels known at an instant."""
        here = (self.day >= day64(first)) & (self.day < day64(until))
        frame = self.data.frame[here]
        known = frame["label_known_at"] <= at
        return pd.DataFrame(
            {
                "flight_id": frame["flight_id"],
                "predict_at": frame["predict_at"],
                "p": fitted.scoring.predict_proba(frame),
                "label": frame[dataset.LABEL].astype("boolean").where(known),
            }
        )

    def judged(self, policy: str, fitted: Fitted, month: date) -> Cell:
        """A model's figures in a month, all of whose flights came after its training."""
        until = next_month(month)
        scores = self.scores(fitted, month, until, datetime.max.replace(tzinfo=UTC))
        scores = scores[scores["label"].notna()]
        day, days = days_of(scores["predict_at"], SETTINGS.zone)
        found = figures(
            np.asarray(scores["label"], dtype="float64"),
            scores["p"].to_numpy(),
            fitted.threshold,
            Money(self.rule.act_cost, self.rule.act_benefit),
            day,
            day_weights(len(days), self.rule.resamples, 0),
        )
        return Cell(
            policy,
            f"{month:%Y-%m}",
            len(scores),
            str(fitted.until),
            {name: Figure.of(values, len(days)) for name, values in found.items()},
        )

    def instant(self, day: date) -> datetime:
        """The first instant of a day."""
        return SETTINGS.instant(str(day))


def local_days(instants: pd.Series, zone: str) -> npt.NDArray[np.datetime64]:
    """The local day of each instant."""
    local = instants.dt.tz_convert(zone).dt.tz_localize(None)
    days: npt.NDArray[np.datetime64] = local.to_numpy().astype("datetime64[D]")
    return days


def day64(day: date) -> np.datetime64:
    """A day as NumPy has it."""
    return np.datetime64(day, "D")


def months() -> Iterator[date]:
    """The first days of the months that are scored."""
    month = FIRST
    while month <= LAST:
        yield month
        month = next_month(month)


def next_month(month: date) -> date:
    """The first day of the next month."""
    return (month.replace(day=28) + timedelta(days=4)).replace(day=1)


def months_before(month: date, count: int) -> date:
    """The first day so many months before, not before the year begins."""
    for _ in range(count):
        month = max((month - timedelta(days=1)).replace(day=1), date(2013, 1, 1))
    return month


def show(cells: pd.DataFrame, decisions: list[dict[str, Any]]) -> None:
    """The tables, as docs/retraining.md has them."""
    for metric, places, title in (
        ("roc_auc", 4, "ROC AUC by month"),
        ("log_loss", 4, "log loss by month"),
        ("saved_per_1000", 0, "saved per 1,000 flights by month"),
    ):
        table = cells.pivot(index="month", columns="policy", values=f"figures.{metric}.value")
        table = table[list(POLICIES)]
        table.loc["mean"] = table.mean()
        console.print(f"\n{title}")
        console.print(table.to_string(float_format=lambda v, n=places: f"{v:,.{n}f}"))
    console.print("\nwhat the rule did")
    for each in decisions:
        console.print(f"  {each['month']}  {each['action']:<9} {each['reason']}", soft_wrap=True)


def draw(cells: pd.DataFrame, decisions: list[dict[str, Any]], file: Path) -> None:
    """ROC AUC and money by month, one line for each policy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 1, figsize=(9, 7.4), sharex=True, layout="constrained")
    names = [f"{month:%b}" for month in months()]
    for axis, metric, title, scale in (
        (axes[0], "roc_auc", "ROC AUC of the month's flights", 1.0),
        (axes[1], "saved_per_1000", "saved per 1,000 flights, thousands", 1000.0),
    ):
        for policy in POLICIES:
            rows = cells[cells["policy"] == policy]
            values = rows[f"figures.{metric}.value"].to_numpy() / scale
            width = 2.4 if policy in ("monthly", "rule") else 1.6
            label = (
                f"{policy}: {values.mean():.3f}" if scale == 1 else f"{policy}: {values.mean():.1f}"
            )
            axis.plot(names, values, color=COLOURS[policy], lw=width, marker="o", ms=4, label=label)
        axis.set_title(title, loc="left", fontsize=11)
        axis.grid(axis="y", color="#e5e5e5")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(
            frameon=False, ncols=4, fontsize=9, loc="lower center", title="mean of the months"
        )
    rule = cells[cells["policy"] == "rule"]["figures.roc_auc.value"].to_numpy()[1:]
    for place, (decision, value) in enumerate(zip(decisions, rule, strict=True), start=1):
        if decision["action"] == "promoted":
            axes[0].annotate(
                "▲",
                (place, value),
                color=COLOURS["rule"],
                ha="center",
                xytext=(0, 7),
                textcoords="offset points",
                fontsize=9,
            )
    axes[0].set_ylim(axes[0].get_ylim()[0] - 0.015, None)
    axes[1].set_ylim(axes[1].get_ylim()[0] - 8, None)
    figure.suptitle(
        "A model kept as it was in February, against models that go on learning "
        "(▲ the rule put a challenger in use)",
        fontsize=11,
        x=0.01,
        ha="left",
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    run(app)
