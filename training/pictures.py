"""The pictures of the evaluation, and what all pictures have in common.

Everything drawn is taken from the evaluation; nothing is computed here but curves. Not for
pictures of the explanation: those are in `pictures_explained`.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hindcast.resample import bins_of_equal_size, day_weights, means
from training.evaluate import Estimate, Evaluation, Importance, savings
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

Draw = Callable[[Axes], None]


def picture(draws: Sequence[Draw], width: float, height: float) -> Figure:
    """A figure with the drawings in rows of at most two; not known to pyplot's global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    columns = min(len(draws), 2)
    grid = figure.subplots(-(-len(draws) // columns), columns, squeeze=False)
    for draw, ax in zip(draws, grid.flat, strict=True):
        draw(ax)
    return figure


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def png(figure: Figure) -> str:
    """The figure as text to put into an `img`, so that the report is one file."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(figure)).decode()


def coloured(
    predictions: Mapping[str, np.ndarray], most: int = 4
) -> list[tuple[str, np.ndarray, str]]:
    """The first predictors, each with its colour."""
    return [(n, p, c) for (n, p), c in zip(predictions.items(), COLOURS, strict=True)][:most]


def spread(estimates: Sequence[Estimate]) -> np.ndarray:
    """Interval ends as matplotlib wants them: distances below and above."""
    ends = [[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]]
    return np.maximum(ends, 0)


def curve(late: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Late flights found and flights flagged, from the highest threshold to the lowest."""
    order = np.argsort(-p, kind="stable")
    last_of_tie = np.flatnonzero(np.append(np.diff(p[order]) != 0, True))
    return np.cumsum(late[order])[last_of_tie], last_of_tie + 1.0


def roc(
    ax: Axes, late: np.ndarray, predictions: Mapping[str, np.ndarray], judged: Evaluation
) -> None:
    """Late flights found against punctual ones flagged."""
    for name, p, colour in coloured(predictions):
        found, flagged = curve(late, p)
        x, y = (flagged - found) / (1 - late).sum(), found / late.sum()
        area = judged.metrics[name]["roc_auc"].value
        ax.plot(np.append(0, x), np.append(0, y), color=colour, label=f"{name}  {area:.3f}")
    ax.set(title="ROC", xlabel="share of punctual flights flagged", ylabel="share of late found")
    ax.legend(title="area", loc="lower right")


def precision_recall(
    ax: Axes, late: np.ndarray, predictions: Mapping[str, np.ndarray], judged: Evaluation
) -> None:
    """How many of the flagged were late, against late flights found."""
    for name, p, colour in coloured(predictions):
        found, flagged = curve(late, p)
        area = judged.metrics[name]["pr_auc"].value
        ax.plot(
            found / late.sum(),
            found / flagged,
            color=colour,
            marker="o" if len(found) == 1 else None,
            label=f"{name}  {area:.3f}",
        )
    ax.set(
        title="Precision and recall",
        xlabel="share of late found",
        ylabel="share of flagged that was late",
        ylim=(0, 1.02),
    )
    ax.legend(title="area", loc="upper right")


def calibration(
    ax: Axes,
    late: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    day: np.ndarray,
    settings: Settings,
) -> None:
    """Predicted against observed late share, in bins of equal size, with intervals."""
    ax.plot([0, 1], [0, 1], color=COLOURS[-1], linestyle="--", label="perfect")
    weights, position = day_weights(day, settings.resamples, settings.seed)
    for name, p, colour in coloured(predictions, 2):
        place = bins_of_equal_size(p, settings.calibration_bins)
        bins = [place == b for b in np.unique(place)]
        shares = [Estimate.of(means(position[b], weights, late[b])[0]) for b in bins]
        ax.errorbar(
            [p[b].mean() for b in bins],
            [share.value for share in shares],
            spread(shares),
            fmt="o-",
            color=colour,
            capsize=2,
            label=name,
        )
    ax.set(title="Calibration", xlabel="predicted P(late)", ylabel="share that was late")
    ax.legend(loc="upper left")


def score_histogram(ax: Axes, late: np.ndarray, p: np.ndarray, threshold: float) -> None:
    """The model's probabilities for flights that were late and that were not."""
    bins = np.linspace(0, 1, 41).tolist()
    ax.hist(p[late == 0], bins, color="#9fc5d8", label="on time")
    ax.hist(p[late == 1], bins, color=COLOURS[1], alpha=0.75, label="late")
    if threshold <= 1:
        ax.axvline(threshold, color="#37474f", linestyle=":", label=f"flag from {threshold:.2f}")
    ax.set(title="Scores", xlabel="predicted P(late)", ylabel="flights")
    ax.legend(loc="upper right")


def money(
    ax: Axes,
    late: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    judged: Evaluation,
    settings: Settings,
) -> None:
    """Money saved per 1,000 test flights, by threshold."""
    thresholds = np.linspace(0, 1, 101)
    cost = (settings.flag_cost, settings.late_benefit)
    for name, p, colour in coloured(predictions, 3):
        saved = [1000 * savings(late, p, t, *cost).mean() for t in thresholds]
        ax.plot(thresholds, saved, color=colour, label=name)
        decision = judged.decisions[name]
        ax.plot(min(decision.threshold, 1), decision.saved_per_1000.value, "o", color=colour)
    ax.axhline(0, color=COLOURS[-1], linestyle="--")
    lowest, highest = ax.get_ylim()
    ax.set_ylim(max(lowest, -highest / 2))  # losses may be huge; the gains are to be read
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.set(
        title="Saved per 1,000 flights",
        xlabel="flag from this P(late) on; dots: as chosen on the tuning days",
    )
    ax.legend(loc="upper right")


def months(ax: Axes, judged: Evaluation, settings: Settings) -> None:
    """ROC AUC in each month that the trees were not fitted on."""
    names = list(judged.months)
    for name, colour in list(zip(judged.metrics, COLOURS, strict=True))[:3]:
        values = [judged.months[month][name] for month in names]
        y = [value.value for value in values]
        ax.errorbar(names, y, spread(values), fmt="o-", color=colour, capsize=3, label=name)
    first_test = sum(month < settings.test_from[:7] for month in names)
    ax.axvspan(-0.5, first_test - 0.5, color="#eef1f4", zorder=0, label="used for tuning")
    ax.set(title="ROC AUC by month", xlim=(-0.5, len(names) - 0.5))
    ax.margins(y=0.35)
    ax.legend(loc="upper center", ncols=2)


def importances(ax: Axes, title: str, items: Sequence[Importance]) -> None:
    """ROC AUC lost by shuffling a view, or a feature."""
    lost = [item.auc_lost for item in items]
    ax.barh(
        [item.name for item in items],
        [each.value for each in lost],
        xerr=spread(lost),
        color=COLOURS[0],
        error_kw={"ecolor": "#37474f", "elinewidth": 1},
    )
    ax.invert_yaxis()
    ax.tick_params(axis="y", labelsize=8)
    ax.set(title=title, xlabel="ROC AUC lost when shuffled")
