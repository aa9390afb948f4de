"""The pictures of the explanation: 1,000 flights, money, slices, and curves by feature.

Drawn narrow, so that they can be read on a phone. Everything is taken from the explanation. Not
for the pictures of the evaluation, nor for what all pictures share: that is `pictures`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from training.cost import Thousand
from training.dependence import UNKNOWN, Dependence
from training.evaluate import Estimate, Evaluation
from training.pictures import COLOURS, spread
from training.slices import RATES, Slice

HIT, ALARM, MISS, ALONE = "#0b6e99", "#e8a64c", "#c0392b", "#dfe5e9"
INK = "#37474f"
FORETOLD = "by its risks alone"
VERDICTS = {"worse": "#c0392b", "": "#7a8b99", "better": "#0b6e99"}
TITLES = {
    "ranking": ("Telling late from punctual", "ROC AUC: 0.5 is chance, 1 is perfect"),
    "bias": ("Too high or too low", "points too high (+) or too low (-)"),
    "misses": ("Late flights missed", "of 100 late flights, not flagged"),
    "false_alarms": ("False alarms", "of 100 punctual flights, flagged"),
}


def whole_thousand(told: Thousand) -> list[int]:
    """Hits, false alarms, misses as whole flights, and the rest of 1,000."""
    counts = [round(e.value) for e in (told.hits, told.false_alarms, told.misses)]
    return [*counts, 1000 - sum(counts)]


def thousand(ax: Axes, told: Thousand) -> None:
    """One square for each of 1,000 flights."""
    counts = whole_thousand(told)
    labels = ("late, flagged", "on time, flagged", "late, not flagged", "on time, left alone")
    first = 0
    for count, label, colour in zip(counts, labels, (HIT, ALARM, MISS, ALONE), strict=True):
        place = np.arange(first, first + count)
        ax.scatter(
            place // 25, 24 - place % 25, s=26, marker="s", color=colour, label=f"{count} {label}"
        )
        first += count
    ax.set(title="What becomes of 1,000 flights", aspect="equal")
    ax.set_axis_off()
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, handletextpad=0.2)


def money(ax: Axes, told: Thousand) -> None:
    """What flags save and cost per 1,000 flights, and what the missed flights would have saved."""
    spent = told.spent_on_false_alarms
    bars = (
        ("late, flagged", told.saved_by_hits, HIT),
        ("on time, flagged", Estimate(-spent.value, -spent.high, -spent.low), ALARM),
        ("saved", told.saved, INK),
        ("late, not flagged:\nwould have saved", told.forgone_by_misses, MISS),
    )
    names = [name for name, _, _ in bars]
    values = [each for _, each, _ in bars]
    ax.barh(
        names,
        [each.value for each in values],
        xerr=spread(values),
        color=[*(colour for _, _, colour in bars[:3]), to_rgba(MISS, 0.25)],
        error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 2},
    )
    for i, each in enumerate(values):
        ends = (each.high, "left", 5) if each.value >= 0 else (each.low, "right", -5)
        ax.annotate(
            f"{each.value:,.0f}",
            (ends[0], i),
            (ends[2], 0),
            textcoords="offset points",
            va="center",
            ha=ends[1],
        )
    ax.axvline(0, color=INK, linewidth=1)
    ax.invert_yaxis()
    ax.margins(x=0.35)
    ax.grid(axis="y", visible=False)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.set(title="Money per 1,000 flights")


def overall(
    late: np.ndarray, p: np.ndarray, flag: np.ndarray, judged: Evaluation
) -> dict[str, float]:
    """Each measure on all test flights: the dashed line."""
    decision = next(iter(judged.decisions.values()))
    return {
        "ranking": next(iter(judged.metrics.values()))["roc_auc"].value,
        "bias": float(p.mean() - late.mean()),
        "misses": 1 - decision.recall.value,
        "false_alarms": float(flag[late == 0].mean()),
    }


def slice_height(slices: Mapping[str, Sequence[Slice]], measure: str) -> float:
    """Inches that `slice_dots` needs."""
    rows = [sum(measure in each.compared for each in group) for group in slices.values()]
    return max(2.4, 1.1 + 0.2 * sum(rows) + 0.3 * sum(count > 0 for count in rows))


def slice_dots(
    ax: Axes, slices: Mapping[str, Sequence[Slice]], measure: str, overall: float
) -> None:
    """A measure in every slice that is compared, with its interval and the figure of all flights.

    For error rates a mark shows what comes of the slice's own risks, if they are right.
    """
    scale = 1 if measure == "ranking" else 100
    ax.axvline(scale * overall, color=COLOURS[-1], linestyle="--", linewidth=1.2)
    y, names, places = 0.0, [], []
    for group, rows in slices.items():
        shown = [each for each in rows if measure in each.compared]
        if not shown:
            continue
        ax.text(
            0, y, group, transform=ax.get_yaxis_transform(), va="center", ha="right", weight="bold"
        )
        y += 1.1
        for each in shown:
            told = each.compared[measure]
            here, colour = told.here, VERDICTS[told.verdict]
            if measure in RATES:
                ax.plot(scale * each.foretold[measure], y, "|", color=INK, markersize=9, zorder=2)
            ax.errorbar(
                scale * here.value,
                y,
                xerr=scale * spread([here]),
                fmt="o",
                color=colour,
                markersize=5,
                capsize=2,
                elinewidth=1.4,
            )
            names.append(f"{each.name}  ({each.n:,})")
            places.append(y)
            y += 1
        y += 0.5
    ax.set_yticks(places, names, fontsize=8.5)
    ax.set_ylim(y, -1)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    title, unit = TITLES[measure]
    ax.set_title(title)
    ax.set_xlabel(unit)
    told_of = {
        "worse": "more errors" if measure in RATES else "worse",
        "": "no clear difference",
        "better": "fewer errors" if measure in RATES else "better",
    }
    handles = [
        Line2D([], [], marker="o", linestyle="-", color=colour, label=told_of[verdict])
        for verdict, colour in VERDICTS.items()
    ]
    if measure in RATES:
        handles.append(
            Line2D([], [], marker="|", markersize=9, linestyle="", color=INK, label=FORETOLD)
        )
    ax.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.3, -0.55 / slice_height(slices, measure)),
        ncols=2,
        fontsize=8.5,
    )


def curve(ax: Axes, told: Dependence, highest: float) -> None:
    """P(late) by one feature; steps are equal shares of flights, so labels are not evenly apart."""
    place = np.arange(len(told.values), dtype=float)
    known = [i for i, value in enumerate(told.values) if value != UNKNOWN]
    is_text = isinstance(told.values[0], str)
    mean, low, high = (100 * np.array(each) for each in (told.mean, told.low, told.high))
    around = np.vstack([mean - low, high - mean]).clip(0)
    if not is_text:
        ax.fill_between(place[known], low[known], high[known], color=HIT, alpha=0.15, linewidth=0)
        ax.plot(place[known], mean[known], "o-", color=HIT, markersize=3.5)
    for i in range(len(place)):
        if is_text or i not in known:
            colour = HIT if i in known else COLOURS[2]
            ax.errorbar(place[i], mean[i], around[:, [i]], fmt="o", color=colour, alpha=0.9)
    step = 1 if is_text else 2
    shown = [*known[::step], *(i for i in range(len(place)) if i not in known)]
    labels = [short(told.values[i]) for i in shown]
    ax.set_xticks(place[shown], labels, rotation=45, ha="right", fontsize=8)
    ax.set_ylim(0, 100 * highest)
    ax.yaxis.set_major_formatter("{x:.0f} %")
    ax.set_title(told.feature, fontsize=10)


def short(value: float | str) -> str:
    """A value as a tick label."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2g}"
