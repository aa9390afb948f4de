"""The monitor's page: one HTML file that needs nothing else. What it shows is decided elsewhere."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from hindcast.config import ProjectConfig, utc_text
from hindcast.monitor import history, plots
from hindcast.monitor.checks import Check
from hindcast.monitor.watch import Report, options_of

SHOWN = 12
PERFORMANCE = ("roc_auc", "log_loss", "calibration", "cost")


def write(project_dir: Path, config: ProjectConfig, report: Report) -> Path:
    """Write the page where `hindcast.yml` says, whole or not at all. Returns its path."""
    options = options_of(config)
    environment = Environment(
        loader=PackageLoader("hindcast.monitor", "."), autoescape=select_autoescape()
    )
    table = environment.get_template("checks.html")

    def checks_table(checks: Sequence[Check], id: str = "") -> Markup:
        return Markup(table.render(checks=checks, id=id, figure=figure, breakable=breakable))

    model_checks = [check for check in report.checks if check.name in PERFORMANCE]
    runs = history.history(project_dir, newest=24)
    text = environment.get_template("page.html").render(
        verdict=report.verdict.value,
        service=config.feature_service,
        days=report.window.days,
        at=utc_text(report.at),
        rows=report.rows,
        from_log=report.from_log,
        model=report.model.id,
        trained=report.model.trained,
        counts=report.counts,
        run_at=f"{report.run_at:%Y-%m-%d %H:%M} UTC",
        seconds=f"{report.seconds:.0f}",
        notes=report.notes,
        alarms=f"At most {options.false_alarms:.0%}",
        speaking=[check for check in report.checks if check.verdict != "ok"],
        checks=report.checks,
        model_checks=model_checks,
        performance=Markup(plots.performance(model_checks)) if model_checks else "",
        distributions=Markup(plots.distributions(report, _worst_subjects(report.checks))),
        trend=Markup(plots.trend(runs)) if len(runs) > 1 else "",
        features=_feature_rows(report),
        checks_table=checks_table,
        breakable=breakable,
    )
    page = project_dir / options.page
    page.parent.mkdir(parents=True, exist_ok=True)
    unfinished = page.with_suffix(".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, page)
    return options.page


def breakable(name: str) -> Markup:
    """A name that a browser may break after its dots and underscores."""
    return Markup("<wbr>").join(re.split(r"(?<=[._])", name))


def figure(value: Any) -> str:
    """A figure short enough for a table; nothing for none."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _worst_subjects(checks: Sequence[Check]) -> list[str]:
    """The subjects that have a distribution, by their worst check."""
    names = ("psi", "ks", "js", "range", "unseen")
    found = dict.fromkeys(check.subject for check in checks if check.name in names)
    return list(found)[:SHOWN]


def _feature_rows(report: Report) -> list[list[str]]:
    then, now = report.statistics
    rows = []
    for feature in report.features:
        one, other = then[feature.subject], now[feature.subject]
        cells = [feature.subject, str(other["feature_type"])]
        cells.append(f"{one['null_rate']:.1%} → {other['null_rate']:.1%}")
        for name in ("mean", "p50", "min_val", "max_val"):
            pair = one[name], other[name]
            cells.append("" if None in pair else f"{figure(pair[0])} → {figure(pair[1])}")
        rows.append(cells)
    return rows
