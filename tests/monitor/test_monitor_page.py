"""The page in a real browser: whatever the names are, a window of 1200 px shows all of it."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
import yaml
from browser_look import look
from monitor_project import AT, MONITOR
from running_web import chromium

from hindcast.config import load_config
from hindcast.monitor import page, watch
from hindcast.monitor.checks import Check
from hindcast.monitor.period import Period
from hindcast.monitor.population import Feature, Population
from hindcast.monitor.predictions import Model, Scored

NOW = datetime.fromisoformat(AT).astimezone(UTC)
VIEW = "carrier_at_airport_state"
NAMES = ["carrier_late_arrival_rate_7d", "destination_air_time_excess_mean_6h_min"]
CUT = """() => [...document.querySelectorAll("body *")].filter(it => {
  const at = it.getBoundingClientRect();
  const beyond = at.right > document.documentElement.clientWidth + 0.5;
  const box = it instanceof HTMLElement && it.clientWidth > 0;
  return at.width > 0 && (beyond || box && it.scrollWidth > it.clientWidth + 1);
}).map(it => `${it.tagName}: ${it.textContent.trim().slice(0, 60)}`)"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page of a run with names and figures as wide as the demo's widest."""
    root = tmp_path_factory.mktemp("page")
    config = {"feature_repo": "r", "feature_service": "late_arrival", "spine": "flight_spine"}
    config |= {"at": AT, "steps": [], "monitor": MONITOR}
    (root / "hindcast.yml").write_text(yaml.safe_dump(config))
    features = tuple(Feature(name, f"{VIEW}.{name}", VIEW, name) for name in NAMES)
    period = Period(NOW - timedelta(days=14), NOW)
    rows = pa.table({name: np.arange(50.0) for name in NAMES})
    days = Population(rows, period, np.zeros(50, dtype=int))
    told = {"feature_type": "categorical", "null_rate": 0.98765, "mean": -1234567.8}
    told |= {"p50": -1234567.8, "min_val": -9876543.2, "max_val": 9876543.2}
    performance = ("calibration", "roc_auc", "log_loss", "cost")
    checks = [
        *(Check(f.subject, "unseen", 0.001234, (0.01, 0.1), 0.00123) for f in features),
        *(
            Check("late_arrival", name, -0.0277, (0.03, 0.08), 0.0477, 0.148, -0.0175, -0.0409,
                  -0.0144, "log loss 0.534 at a base rate of 35.0%")
            for name in performance
        ),
        Check(VIEW, "freshness", 4.83, (0.5, 1.0),
              detail="newest row 2013-12-30T15:00:00.123456Z, TTL 36 hours"),
    ]  # fmt: skip
    report = watch.Report(
        run_at=NOW,
        at=NOW,
        window=period,
        model=Model("20261126T142255Z-54be922", "s", period, 0.25, 200.0, 800.0),
        checks=tuple(checks),
        notes=("1,374 of 25,394 predictions have no outcome (yet)",),
        rows=(224_910, 25_394),
        features=features,
        baseline=days,
        now=days,
        statistics=({f.subject: told for f in features},) * 2,
        scores=(None, Scored(period, *(np.zeros(0) for _ in range(3)))),
        from_log=False,
        seconds=30.0,
    )
    return root / page.write(root, load_config(root), report)


def test_nothing_runs_out_of_a_window_of_1200_pixels(written):
    with chromium() as browser:
        tab = browser.new_page(viewport={"width": 1200, "height": 900})
        tab.goto(written.as_uri())
        tab.locator("summary").click()
        assert tab.locator("table:visible").count() == 4
        assert tab.evaluate("document.documentElement.scrollWidth") == 1200
        assert tab.evaluate(CUT) == []
        look(tab, "What speaks up, worst first", regions=("table", "figure svg"))
        # a name is broken after its dots and underscores, and is still one name to find
        tab.fill("#find", f"{VIEW}.{NAMES[1]}")
        assert tab.locator("#all tbody tr:visible").count() == 1
