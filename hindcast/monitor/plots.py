"""The monitor's pictures, as SVG to put into a page. What they show is decided elsewhere."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hindcast.monitor.checks import Check, Verdict
from hindcast.monitor.history import Latest

if TYPE_CHECKING:
    from hindcast.monitor.watch import Report

COLORS = {"ok": "#1a7f4b", "warn": "#d29922", "fail": "#b42318"}
THEN, NOW = "#c3cad3", "#0b5cad"
ACROSS, BARS, CATEGORIES = 3, 30, 12
TITLES = {
    "roc_auc": "ROC AUC",
    "log_loss": "log loss saved",
    "calibration": "mean score less what came true",
    "cost": "possible savings made",
}


def distributions(report: Report, subjects: Sequence[str]) -> str:
    """Then and now of each subject, side by side in one picture; empty where there is none."""
    features = {feature.subject: feature for feature in report.features}
    worst: dict[str, Check] = {}
    for check in report.checks:
        worst.setdefault(check.subject, check)
    shown = []
    for subject in subjects:
        if subject in features:
            feature = features[subject]
            shown.append((subject, report.baseline.values(feature), report.now.values(feature)))
        elif report.scores[0] is not None:
            first, recent = report.scores[0], report.scores[1]
            shown.append((subject, pd.Series(first.score), pd.Series(recent.score)))
    if not shown:
        return ""
    down = -(-len(shown) // ACROSS)
    figure, axes = plt.subplots(down, ACROSS, figsize=(11, 2.5 * down), squeeze=False)
    for ax in axes.flat[len(shown) :]:
        ax.axis("off")
    for ax, (subject, then, now) in zip(axes.flat, shown, strict=False):
        if pd.api.types.is_numeric_dtype(then):
            _numbers(ax, then, now)
        else:
            _categories(ax, then, now)
        check = worst[subject]
        view, _, name = subject.partition(".")
        ax.set_title(f"{view}\n{name}", loc="left", fontsize=8, fontweight="bold")
        ax.text(
            1,
            1.12,  # beside the view: a feature's name may be long
            f"{check.name} {check.value:.2f}, {check.verdict}",
            transform=ax.transAxes,
            ha="right",
            va="bottom",
            fontsize=8,
            color=COLORS[check.verdict],
        )
        ax.tick_params(labelsize=7)
        ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")
        ax.spines[["top", "right"]].set_visible(False)
    return _svg(figure)


def _numbers(ax: Axes, then: pd.Series, now: pd.Series) -> None:
    """Shares of bins of equal width from the hundredth to the hundredth but one."""
    old, new = then.dropna().to_numpy(float), now.dropna().to_numpy(float)
    both = np.concatenate([np.quantile(side, [0.005, 0.995]) for side in (old, new) if len(side)])
    low, high = (both.min(), both.max()) if len(both) else (0.0, 1.0)
    few = np.unique(old[(old >= low) & (old <= high)])
    if len(few) <= BARS and np.array_equal(few, np.round(few)):
        edges = np.arange(low - 0.5, high + 1)
    else:
        edges = np.linspace(low, high if high > low else low + 1, BARS + 1)
    middle, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    for values, is_now in ((old, False), (new, True)):
        inside = np.clip(values, edges[0], edges[-1])
        share = np.histogram(inside, edges)[0] / max(len(values), 1)
        if is_now:
            ax.stairs(share, edges, color=NOW, linewidth=1.6)
        else:
            ax.bar(middle, share, width, color=THEN)


def _categories(ax: Axes, then: pd.Series, now: pd.Series) -> None:
    """Shares of the commonest values, of then and of now."""
    old, new = (side.dropna().value_counts(normalize=True) for side in (then, now))
    order = old.add(new, fill_value=0).sort_values(ascending=False).index[:CATEGORIES]
    place = np.arange(len(order))
    ax.bar(place, old.reindex(order).fillna(0), 0.85, color=THEN)
    ax.hlines(new.reindex(order).fillna(0), place - 0.42, place + 0.42, color=NOW, linewidth=2)
    long = max((len(str(name)) for name in order), default=0) > 3
    ax.set_xticks(place, [str(name)[:10] for name in order], rotation=60 if long else 0)


def performance(checks: Sequence[Check]) -> str:
    """Each measure of the window with its interval, and of the model's first days."""
    figure, axes = plt.subplots(1, len(checks), figsize=(11, 1.7), squeeze=False)
    for ax, check in zip(axes.flat, checks, strict=True):
        assert check.now is not None and check.low is not None and check.high is not None
        color = COLORS[check.verdict]
        ax.errorbar(
            check.now,
            0,
            xerr=[[check.now - check.low], [check.high - check.now]],
            fmt="o",
            color=color,
            capsize=4,
        )
        then = 0.0 if check.baseline is None else check.baseline
        ax.axvline(then, color="#5a6675", linewidth=1, linestyle="--")
        label = "0" if check.baseline is None else f"first days {then:.3f}"
        ax.annotate(label, (then, 0.55), fontsize=7, color="#5a6675", ha="center")
        ax.set_title(f"{TITLES[check.name]} {check.now:.3f}", fontsize=9, loc="left")
        ax.set_ylim(-0.8, 0.9)
        ax.margins(x=0.25)
        ax.set_yticks([])
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right", "left"]].set_visible(False)
    return _svg(figure)


def trend(runs: Sequence[Latest]) -> str:
    """The worst verdict of each view and of the model, run by run, with what spoke up."""
    ordered = sorted(runs, key=lambda run: run.at)
    subjects = sorted({check.subject.partition(".")[0] for run in ordered for check in run.checks})
    figure, ax = plt.subplots(figsize=(11, 0.32 * len(subjects) + 1.1))
    for column, run in enumerate(ordered):
        for row, subject in enumerate(subjects):
            here = [c for c in run.checks if c.subject.partition(".")[0] == subject]
            if not here:
                continue
            speaking = [check for check in here if check.verdict is not Verdict.OK]
            color = COLORS[max(here, key=lambda check: check.weight).verdict]
            shade = color if speaking else "#e3efe8"
            ax.add_patch(plt.Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, color=shade))
            if speaking:
                ax.text(
                    column, row, len(speaking), ha="center", va="center", color="white", fontsize=8
                )
    ax.set_xlim(-0.6, len(ordered) - 0.4)
    ax.set_ylim(len(subjects) - 0.4, -0.6)
    ax.set_yticks(range(len(subjects)), subjects, fontsize=8)
    turned = 45 if len(ordered) > 8 else 0
    ax.set_xticks(
        range(len(ordered)),
        [f"{run.at:%-d %b %Y}" for run in ordered],
        fontsize=8,
        rotation=turned,
        ha="right" if turned else "center",
    )
    ax.set_title(
        "checks that speak up, by view and by the instant of the run", fontsize=9, loc="left"
    )
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    """A figure as SVG without its header, text as text."""
    figure.tight_layout()
    buffer = io.StringIO()
    options: dict[str, Any] = {"svg.fonttype": "none", "svg.hashsalt": "hindcast"}
    with matplotlib.rc_context(options):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    # without what it says of its maker, which names addresses
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
