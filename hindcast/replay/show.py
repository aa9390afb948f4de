"""How a replay is shown: a summary on the console, a picture, a page, and JSON.

Not for finding anything: that is `figures`.
"""

from __future__ import annotations

import base64
import html
import json
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from hindcast.config import utc_text
from hindcast.replay.figures import Figure, Growth, Interval, Outcome

if TYPE_CHECKING:
    from rich.console import Console

COLOURS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#bbbbbb")


def interval(found: Interval, digits: int = 4, sign: bool = False) -> str:
    """`0.775 [0.754, 0.793]`."""
    plus = "+" if sign else ""
    if found.value is None:
        return "none"
    text = f"{found.value:{plus}.{digits}f}"
    if found.low is None or found.high is None:
        return text
    return f"{text} [{found.low:{plus}.{digits}f}, {found.high:{plus}.{digits}f}]"


def verdict(outcome: Outcome) -> str:
    """One sentence for all of it."""
    word = "passed" if outcome.passed else "FAILED"
    text = (
        f"Replay {word}: {outcome.ticks:,} of {outcome.planned:,} ticks, "
        f"{outcome.predictions:,} predictions served, {outcome.compared:,} values compared, "
        f"{outcome.wrong:,} differ; "
    )
    auc = next((each for each in outcome.figures if each.name == "ROC AUC"), None)
    if auc is not None:
        text += f"ROC AUC {auc.live:.3f} live, {auc.offline.value:.3f} offline"
        text += " (agree)" if not outcome.disagree else f" ({', '.join(outcome.disagree)} disagree)"
    else:
        text += "too few outcomes are known to compare figures"
    if outcome.unserved:
        text += f"; {outcome.unserved:,} predictions were never served"
    limit = outcome.tick.total_seconds()
    return (
        f"{text}; {outcome.on_time:,} ticks on time, the longest {outcome.longest_s:.1f} s "
        f"of {limit:,.0f} s."
    )


def show(outcome: Outcome, console: Console) -> None:
    """The tables and sentences."""
    from rich.table import Table

    table = Table(
        title=f"live against offline, {outcome.outcomes_known:,} outcomes, scored as they arrived"
    )
    for name in ("figure", "live", "offline", "live - offline", "noise", ""):
        table.add_column(name, justify="left" if name in ("figure", "") else "right")
    for each in outcome.figures:
        table.add_row(*figure_row(each))
    if outcome.figures:
        console.print(table)
    costs = Table(title="seconds per tick")
    for name in ("step", "median", "longest", "mean CPU"):
        costs.add_column(name, justify="left" if name == "step" else "right")
    for name, spent in outcome.steps.items():
        costs.add_row(
            name, *(f"{spent[key]:.2f}" for key in ("median_s", "longest_s", "mean_cpu_s"))
        )
    console.print(costs)
    for trend in outcome.growth:
        console.print(growth_line(trend), highlight=False, soft_wrap=True)
    console.print(verdict(outcome), style="bold", highlight=False, soft_wrap=True)


def figure_row(figure: Figure) -> tuple[str, ...]:
    """One figure's cells."""
    return (
        figure.name,
        f"{figure.live:.4f}",
        interval(figure.offline),
        interval(figure.difference, sign=True),
        f"{figure.noise:.4f}",
        "agree" if figure.agree else "DISAGREE",
    )


def growth_line(trend: Growth) -> str:
    """One sentence about a trend."""
    per_day = trend.per_day
    shares = [
        f"{100 * (value or 0):+.2f} %" for value in (per_day.value, per_day.low, per_day.high)
    ]
    word = "grows" if trend.grows else "no growth shown"
    return (
        f"{trend.what}: {shares[0]} a day [{shares[1]}, {shares[2]}]: {word} "
        f"(if it followed all of history: {100 * trend.proportional:+.2f} %)."
    )


def plot(steps: pd.DataFrame, outcome: Outcome, file: Path) -> None:
    """What every tick took over the days, stacked by step: CPU in yardsticks, and wall seconds."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 1, figsize=(10, 6), sharex=True, constrained_layout=True)
    for axis, (column, title) in zip(
        axes,
        (("yardsticks", "CPU per tick, in yardsticks"), ("seconds", "wall seconds per tick")),
        strict=True,
    ):
        wide = steps.pivot_table(index="tick_at", columns="step", values=column, sort=False)
        axis.stackplot(
            wide.index, wide.fillna(0).to_numpy().T, labels=wide.columns, colors=COLOURS, step="mid"
        )
        total = wide.sum(axis=1)
        daily = total.rolling(24, center=True, min_periods=12).mean()
        axis.plot(daily.index, daily, color="black", linewidth=1.2, label="mean of 24 ticks")
        axis.set_ylabel(title)
        axis.set_ylim(0, float(total.quantile(0.995)) * 1.25)
        axis.margins(x=0)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].legend(handles[::-1], labels[::-1], ncols=len(labels), frameon=False, loc="upper right")
    limit = outcome.tick / timedelta(seconds=1)
    axes[0].set_title(
        f"{outcome.ticks} ticks of {outcome.tick / timedelta(hours=1):g} h: what each costs "
        f"(it has {limit:,.0f} s)",
        loc="left",
    )
    figure.savefig(file, dpi=110)
    plt.close(figure)


def write(outcome: Outcome, steps: pd.DataFrame, folder: Path) -> None:
    """`outcome.json`, `ticks.png` and `index.html` into the replay's folder."""
    (folder / "outcome.json").write_text(json.dumps(outcome.as_dict(), indent=2) + "\n")
    picture = folder / "ticks.png"
    plot(steps, outcome, picture)
    (folder / "index.html").write_text(_page(outcome, picture))


def _page(outcome: Outcome, picture: Path) -> str:
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in figure_row(each)) + "</tr>"
        for each in outcome.figures
    )
    costs = "".join(
        f"<tr><td>{html.escape(name)}</td>"
        + "".join(f"<td>{spent[key]:.2f}</td>" for key in ("median_s", "longest_s", "mean_cpu_s"))
        + "</tr>"
        for name, spent in outcome.steps.items()
    )
    trends = "".join(f"<p>{html.escape(growth_line(trend))}</p>" for trend in outcome.growth)
    image = base64.b64encode(picture.read_bytes()).decode()
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Replay {utc_text(outcome.start)}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: auto; padding: 1rem }}
table {{ border-collapse: collapse; margin: 1rem 0 }} img {{ max-width: 100% }}
td, th {{ border-bottom: 1px solid #ddd; padding: .3rem .8rem; text-align: right }}
td:first-child, th:first-child {{ text-align: left }}
</style>
<h1>Live, in the past</h1>
<p>{utc_text(outcome.start)} to {utc_text(outcome.end)}</p>
<p><strong>{html.escape(verdict(outcome))}</strong></p>
<table><tr><th>figure<th>live<th>offline<th>live - offline<th>noise<th></tr>{rows}</table>
<p>Intervals are of 95 %, by drawing whole days. Live and offline agree where the whole interval of
their difference lies within the noise: half the width of the offline figure's own interval.</p>
<table><tr><th>step<th>median s<th>longest s<th>mean CPU s</tr>{costs}</table>
{trends}
<img alt="Seconds per tick over the days, by step" src="data:image/png;base64,{image}">
</html>
"""
