"""What a run says: pictures, the HTML report, the model card and the summary on the console.

Everything shown is taken from the evaluation; nothing is computed here but curves to draw.
Not for judging: a figure that is missing belongs in `evaluate`.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from training.dataset import Dataset
from training.evaluate import (
    HIGHER_IS_BETTER,
    METRICS,
    Estimate,
    Evaluation,
    Importance,
    bins_of_equal_size,
    day_weights,
    means,
    savings,
)
from training.settings import Settings

COLOURS = ["#0b6e99", "#d9730d", "#7a8b99", "#b8b8b8"]
"""Model, schedule only, lookup table, base rate: the order of the predictions."""

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa5ad",
    "axes.grid": True,
    "grid.color": "#eceff1",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.dpi": 110,
}


def write(
    run: Path,
    data: Dataset,
    predictions: Mapping[str, np.ndarray],
    judged: Evaluation,
    manifest: Mapping[str, Any],
) -> None:
    """Write report.html (one file, pictures inside) and model_card.md into a run's folder."""
    settings = Settings.from_dict(manifest["settings"])
    test = data.rows("test")
    late, on_test = data.late[test], {name: p[test] for name, p in predictions.items()}
    model = next(iter(on_test))
    with rc_context(STYLE):
        pictures = {
            "calibration": calibration(late, on_test, data.day[test], settings),
            "scores": score_histogram(late, on_test[model], judged.decisions[model].threshold),
            "ranking": ranking(late, on_test, judged),
            "importance": importances(judged),
            "months": months(judged, settings),
            "money": money(late, on_test, judged, settings),
        }
    words = {
        "settings": settings,
        "manifest": manifest,
        "judged": judged,
        "model": model,
        "metrics": METRICS,
        "decision": judged.decisions[model],
        "headline": headline(judged, settings),
        "views": data.views,
        "period": {
            part: (data.frame["predict_at"].iloc[data.rows(part)].agg(["min", "max"]))
            .dt.tz_convert(settings.zone)
            .dt.strftime("%-d %B %Y")
            .tolist()
            + [len(data.rows(part))]
            for part in ("fit", "tune", "test")
        },
    }
    for template in ("report.html", "model_card.md"):
        (run / template).write_text(render(template, words | {"pictures": pictures}))


def render(template: str, words: Mapping[str, Any]) -> str:
    """Fill one of our templates. A name that it needs and does not get is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: str(name).endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"interval": interval, "percent": percent, "thousands": thousands}
    return environment.get_template(template).render(words)


def headline(judged: Evaluation, settings: Settings) -> str:
    """What the model does and how good it is, in words anyone understands."""
    model = next(iter(judged.decisions))
    decision, auc = judged.decisions[model], judged.metrics[model]["roc_auc"]
    return (
        "Two hours before departure this model says how likely a flight from New York is to "
        "arrive 15 minutes or more late. "
        f"On {judged.test_flights:,} flights of {judged.test_days} days it had never seen, "
        f"{round(100 * decision.precision.value)} of 100 flights it flagged were late, against "
        f"{round(100 * judged.late_share)} of 100 of all flights, and it found "
        f"{round(100 * decision.recall.value)} of 100 late ones. Of a late and a punctual flight "
        f"it gives the late one the higher risk {round(100 * auc.value)} times in 100."
    )


def interval(estimate: Estimate | None, digits: int = 3) -> str:
    """`0.775 [0.746, 0.795]`, or a dash where there is no figure."""
    if estimate is None or np.isnan(estimate.value):
        return "–"
    value, low, high = (
        f"{x:,.{digits}f}" for x in (estimate.value, estimate.low, estimate.high)
    )
    return value if low == high == value else f"{value} [{low}, {high}]"


def percent(value: float) -> str:
    """`48 %`, or a dash."""
    return "–" if np.isnan(value) else f"{100 * value:.0f} %"


def thousands(value: float) -> str:
    """`12,345`, or a dash."""
    return "–" if np.isnan(value) else f"{value:,.0f}"


# -- pictures ----------------------------------------------------------------------------


def canvas(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with axes side by side, not known to pyplot's global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, columns)))


def png(figure: Figure) -> Markup:
    """The figure as text to put into an `img`, so that the report is one file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return Markup("data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode())


def calibration(
    late: np.ndarray, predictions: Mapping[str, np.ndarray], day: np.ndarray, settings: Settings
) -> Markup:
    """Predicted against observed late share, in bins of equal size, with intervals."""
    figure, (axes,) = canvas(5.6, 4.6)
    axes.plot([0, 1], [0, 1], color="#9aa5ad", linestyle="--", label="perfect")
    for (name, p), colour in list(zip(predictions.items(), COLOURS, strict=True))[:2]:
        weights, position = day_weights(day, settings.resamples, settings.seed)
        place = bins_of_equal_size(p, settings.calibration_bins)
        points = []
        for b in np.unique(place):
            here = place == b
            (share,) = means(position[here], weights, late[here])
            points.append((p[here].mean(), Estimate.of(share)))
        x, y = [x for x, _ in points], [e.value for _, e in points]
        spread = [[e.value - e.low for _, e in points], [e.high - e.value for _, e in points]]
        axes.errorbar(x, y, np.maximum(spread, 0), fmt="o-", color=colour, capsize=2, label=name)
    axes.set(xlabel="predicted probability of late", ylabel="share that was late")
    axes.legend()
    return png(figure)


def score_histogram(late: np.ndarray, p: np.ndarray, threshold: float) -> Markup:
    """The model's probabilities for flights that were late and that were not."""
    figure, (axes,) = canvas(5.6, 4.6)
    bins = np.linspace(0, 1, 41)
    axes.hist(p[late == 0], bins, color="#9fc5d8", label="on time")
    axes.hist(p[late == 1], bins, color="#d9730d", alpha=0.75, label="late")
    if threshold <= 1:
        axes.axvline(threshold, color="#37474f", linestyle=":", label=f"flag from {threshold:.2f}")
    axes.set(xlabel="predicted probability of late", ylabel="flights")
    axes.legend()
    return png(figure)


def ranking(
    late: np.ndarray, predictions: Mapping[str, np.ndarray], judged: Evaluation
) -> Markup:
    """ROC and precision-recall curves of the model and the baselines."""
    figure, (left, right) = canvas(11.2, 4.6, 2)
    for (name, p), colour in zip(predictions.items(), COLOURS, strict=True):
        order = np.argsort(-p, kind="stable")
        last = np.flatnonzero(np.append(np.diff(p[order]) != 0, True))
        found, flagged = np.cumsum(late[order])[last], last + 1.0
        n_late, figures = late.sum(), judged.metrics[name]
        false = (flagged - found) / (len(late) - n_late)
        left.plot(
            np.append(0, false),
            np.append(0, found / n_late),
            color=colour,
            label=f"{name}  {figures['roc_auc'].value:.3f}",
        )
        right.plot(
            found / n_late,
            found / flagged,
            color=colour,
            marker="o" if len(last) == 1 else None,
            label=f"{name}  {figures['pr_auc'].value:.3f}",
        )
    left.set(title="ROC", xlabel="share of punctual flights flagged", ylabel="share of late found")
    right.set(title="Precision and recall", xlabel="share of late found", ylabel="share of flagged late")
    right.set_ylim(0, 1.02)
    left.legend(title="area")
    right.legend(title="area")
    return png(figure)


def importances(judged: Evaluation, most: int = 20) -> Markup:
    """ROC AUC lost by shuffling a view, and by shuffling a feature."""
    figure, axes = canvas(11.2, 6.0, 2)
    shown: list[tuple[Axes, str, Sequence[Importance]]] = [
        (axes[0], "By view", judged.views),
        (axes[1], f"By feature, the first {most}", judged.features[:most]),
    ]
    for ax, title, items in shown:
        lost = [item.auc_lost for item in items]
        spread = [[e.value - e.low for e in lost], [e.high - e.value for e in lost]]
        ax.barh(
            [item.name for item in items],
            [e.value for e in lost],
            xerr=np.maximum(spread, 0),
            color=COLOURS[0],
            error_kw={"ecolor": "#37474f", "elinewidth": 1},
        )
        ax.invert_yaxis()
        ax.tick_params(axis="y", labelsize=8)
        ax.set(title=title, xlabel="ROC AUC lost when shuffled")
    return png(figure)


def months(judged: Evaluation, settings: Settings) -> Markup:
    """ROC AUC in each month that the trees were not fitted on."""
    figure, (axes,) = canvas(5.6, 4.6)
    names = list(judged.months)
    for name, colour in list(zip(judged.metrics, COLOURS, strict=True))[:3]:
        values = [judged.months[month][name] for month in names]
        spread = [[e.value - e.low for e in values], [e.high - e.value for e in values]]
        y = [e.value for e in values]
        axes.errorbar(names, y, np.maximum(spread, 0), fmt="o-", color=colour, capsize=3, label=name)
    first_test = sum(month < settings.test_from[:7] for month in names)
    axes.axvspan(-0.5, first_test - 0.5, color="#f4f6f8", zorder=0, label="used for tuning")
    axes.set(ylabel="ROC AUC", xlim=(-0.5, len(names) - 0.5))
    axes.legend()
    return png(figure)


def money(
    late: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    judged: Evaluation,
    settings: Settings,
) -> Markup:
    """Money saved per 1,000 test flights, by threshold."""
    figure, (axes,) = canvas(5.6, 4.6)
    thresholds = np.linspace(0, 1, 101)
    for (name, p), colour in list(zip(predictions.items(), COLOURS, strict=True))[:3]:
        saved = [
            1000 * savings(late, p, t, settings.flag_cost, settings.late_benefit).mean()
            for t in thresholds
        ]
        axes.plot(thresholds, saved, color=colour, label=name)
        decision = judged.decisions[name]
        axes.plot(min(decision.threshold, 1), decision.saved_per_1000.value, "o", color=colour)
    axes.axhline(0, color="#9aa5ad", linestyle="--")
    axes.set(
        xlabel="flag from this probability on (dots: chosen on the tuning days)",
        ylabel="saved per 1,000 flights",
        ylim=(min(0.0, judged.decisions["flag everybody"].saved_per_1000.value) - 5000, None),
    )
    axes.legend()
    return png(figure)


# -- console -----------------------------------------------------------------------------


def summary(console: Console, run: Path, seconds: float) -> None:
    """The last words of a run: figures against the baselines, and where everything is."""
    metrics = json.loads((run / "metrics.json").read_text())
    threshold = json.loads((run / "manifest.json").read_text())["threshold"]
    table = Table(
        title=f"{metrics['test_flights']:,} test flights, {metrics['test_days']} days; "
        "95 % intervals by bootstrap over days",
        title_justify="left",
    )
    table.add_column("")
    for name in metrics["metrics"]:
        table.add_column(name, justify="right", style="bold" if name == "model" else None)
    for metric, title in METRICS.items():
        figures = [each[metric] for each in metrics["metrics"].values()]
        table.add_row(
            f"{title}\n[dim]{'higher' if metric in HIGHER_IS_BETTER else 'lower'} is better[/dim]",
            *(f"{e['value']:.4f}\n[dim]{e['low']:.3f}–{e['high']:.3f}[/dim]" for e in figures),
        )
    console.print(table)
    decision = metrics["decisions"]["model"]
    console.print(
        f"Flagging from {threshold:.2f} on: of 100 flagged "
        f"{100 * decision['precision']['value']:.0f} were late, "
        f"{100 * decision['recall']['value']:.0f} % of the late were found; "
        f"saved per 1,000 flights {decision['saved_per_1000']['value']:,.0f} "
        f"({metrics['saved_more']['carrier x hour']['value']:+,.0f} against the lookup table)."
    )
    console.print(f"Report: [bold]{run / 'report.html'}[/bold]   {seconds:.0f} s")
