"""What retraining is worth: the year of flights, month by month, with and without it.

    python -m benchmarks.retrain            # an hour or two; writes docs/images/retrain.png
    python -m benchmarks.retrain --redraw   # the tables and the picture of the last run again

Four models score the flights of each month from March on. Nothing that was not known at the
month's first instant reaches any of them:

- frozen: trained once, at the end of February, and never again;
- monthly: trained again at each month's start on all that is known;
- rule: the rule of `hindcast retrain`, asked at each month's start. The challenger is what was
  trained a month ago on all that was known then; it and the champion are judged on the month
  since, which neither has trained on;
- rolling: trained at each month's start on the last three months only.

As `hindcast retrain` does, the last month known chooses the rounds and Platt's scaling, with a
model that has not seen it; then the trees learn from that month too. Who is flagged follows from
the costs: P(late) of at least cost / benefit. Models are kept in --models, so a run that was
stopped goes on. Not for a single retraining: `hindcast retrain`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import typer
from threadpoolctl import threadpool_limits

from hindcast.compare import Figure, Floats, Money, compare, days_of, figures
from hindcast.config import Retrain, load_config
from hindcast.resample import day_weights
from hindcast.retrain import decide
from training import dataset, model
from training.console import PLAIN_HELP, console, run, step
from training.dataset import Dataset
from training.settings import Settings

FIRST, LAST = date(2013, 3, 1), date(2013, 12, 1)
ROLLING_MONTHS = 3
ROUNDS = tuple(range(100, 801, 100))
"""Rounds there is a choice of."""
SETTINGS = Settings(learning_rate=0.025, bins=(255, 32))
"""As `retrain.train` in hindcast.yml has them."""
POLICIES = ("frozen", "monthly", "rule", "rolling")
COLOURS = {"frozen": "#9a9a9a", "monthly": "#1f6fb2", "rolling": "#d08a1d", "rule": "#1b9e77"}

app = typer.Typer(add_completion=False, context_settings=PLAIN_HELP)


@dataclass(frozen=True)
class Fitted:
    """A model: the days it learned from, its rounds, and its scaling of log odds."""

    first: date
    until: date
    rounds: int = ROUNDS[-1]
    scaling: model.Scaling | None = None

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.first}-{self.until}"


@dataclass(frozen=True)
class Cell:
    """A policy in a month."""

    policy: str
    month: str
    flights: int
    trained_until: str
    rounds: int
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
        with step(policy) as tell:
            champion = year.fitted(FIRST)
            for month in months():
                if policy == "monthly":
                    champion = year.fitted(month)
                elif policy == "rolling":
                    champion = year.fitted(month, ROLLING_MONTHS)
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
        self.inputs = model.design(data.frame, data.columns)
        self.day = local_days(data.frame["predict_at"], SETTINGS.zone)
        self.money = Money(rule.act_cost, rule.act_benefit)
        self.threshold = rule.act_cost / rule.act_benefit
        bins = "+".join(map(str, SETTINGS.bins))
        self.stem = f"{data.snapshot}-{SETTINGS.learning_rate:g}x{ROUNDS[-1]}-{bins}"
        self.reference: Figure | None = None
        """The champion's ROC AUC on the days it was chosen on."""

    def fitted(self, until: date, months: int = 12) -> Fitted:
        """A model of the `months` before `until`; the last of them chose rounds and scaling."""
        last_month = months_before(until, 1)
        before = Fitted(months_before(last_month, months), last_month)
        known = self.known(last_month, until, self.instant(until))
        came_true = self.late[self.month(last_month)][known]
        tried = self.staged(before, last_month)[:, known]
        scalings = [model.Scaling.fit(p, came_true) for p in tried]
        best = min(range(len(ROUNDS)), key=lambda i: scalings[i].log_loss)
        return Fitted(months_before(until, months), until, ROUNDS[best], scalings[best])

    def raw(self, fitted: Fitted, month: date) -> Floats:
        """P(late) of a month's flights as the trees have it."""
        p: Floats = self.staged(fitted, month)[ROUNDS.index(fitted.rounds)]
        return p

    def staged(self, fitted: Fitted, month: date) -> Floats:
        """The same after each of `ROUNDS` (rows)."""
        file = self.models / f"{self.stem}-{fitted.name}-{month:%Y-%m}.npy"
        if not file.exists():
            np.save(file, self._score(self._trees(fitted), month))
        result: Floats = np.load(file)
        return result

    def _score(self, trees: Any, month: date) -> Floats:
        rows = trees["encode"].transform(self.inputs[self.month(month)])
        with threadpool_limits(SETTINGS.threads):
            stages = model.staged(trees, rows, SETTINGS)
            return np.array([p[:, 1] for done, p in stages if done in ROUNDS])

    def _trees(self, fitted: Fitted) -> Any:
        file = self.models / f"{self.stem}-{fitted.name}.skops"
        if not file.exists():
            at = self.instant(fitted.until)
            rows = (self.day >= day64(fitted.first)) & (self.day < day64(fitted.until))
            rows &= (self.data.frame["label_known_at"] <= at).to_numpy() & ~np.isnan(self.late)
            taught = self.inputs[rows], self.late[rows]
            with threadpool_limits(SETTINGS.threads):
                trees = model.fitted(
                    taught, self.data.columns, SETTINGS, SETTINGS.leaves[0], ROUNDS[-1]
                )
            model.save(trees, file)
        return model.read_trusted(file)

    def month(self, month: date) -> npt.NDArray[np.bool_]:
        """Which flights are of a month."""
        here: npt.NDArray[np.bool_] = self.day >= day64(month)
        return here & (self.day < day64(next_month(month)))

    def known(self, first: date, until: date, at: datetime) -> npt.NDArray[np.bool_]:
        """Which flights of a month had an outcome by an instant."""
        here = self.month(first)
        in_time: npt.NDArray[np.bool_] = (self.data.frame["label_known_at"] <= at).to_numpy()[here]
        return in_time & ~np.isnan(self.late[here])

    def scores(self, fitted: Fitted, month: date, at: datetime | None = None) -> pd.DataFrame:
        """The scores of a month, with the labels known at an instant, or all of them."""
        frame = self.data.frame[self.month(month)]
        assert fitted.scaling is not None, f"{fitted.name} was not chosen by `fitted`"
        label = frame[dataset.LABEL].astype("boolean")
        if at is not None:
            label = label.where(frame["label_known_at"] <= at)
        return pd.DataFrame(
            {
                "flight_id": frame["flight_id"],
                "predict_at": frame["predict_at"],
                "p": fitted.scaling(self.raw(fitted, month)),
                "label": label,
            }
        )

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
            return champion, told | {"action": "kept", "reason": "the challenger is the champion"}
        scores = [self.scores(each, first, self.instant(month)) for each in (champion, challenger)]
        comparison = compare(
            scores[0],
            scores[1],
            (self.threshold, self.threshold),
            self.money,
            self.rule.time_zone,
            resamples=self.rule.resamples,
        )
        verdict = decide(comparison, self.reference, self.rule)
        told |= {"reason": verdict.reason, "figures": comparison.as_dict()}
        if verdict.promote:
            self.reference = comparison.challenger["roc_auc"]
            return challenger, told | {"action": "promoted"}
        return champion, told | {"action": "kept"}

    def judged(self, policy: str, fitted: Fitted, month: date) -> Cell:
        """A model's figures in a month, all of whose flights came after its training."""
        scores = self.scores(fitted, month)
        scores = scores[scores["label"].notna()]
        day, days = days_of(scores["predict_at"], SETTINGS.zone)
        found = figures(
            np.asarray(scores["label"], dtype="float64"),
            scores["p"].to_numpy(),
            self.threshold,
            self.money,
            day,
            day_weights(day, 200, 0)[0],
        )
        return Cell(
            policy,
            f"{month:%Y-%m}",
            len(scores),
            str(fitted.until),
            fitted.rounds,
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
        table = table[[policy for policy in POLICIES if policy in table]]
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
            if rows.empty:  # of a run that was stopped
                continue
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
    for place, (decision, value) in enumerate(zip(decisions, rule, strict=False), start=1):
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
