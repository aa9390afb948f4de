"""The explanation and the card: figures by hand, bad slices named, nothing typed."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from training_project import Project

from hindcast.resample import day_weights
from training import cost, dataset, dependence, explain, model, report, run, words
from training.evaluate import Estimate, evaluate
from training.pictures_explained import whole_thousand
from training.settings import Settings

Parts = tuple[dataset.Dataset, run.Trained, dict[str, np.ndarray], Settings]


def weights_of(day: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return day_weights(day, 50, seed=0)


def test_1000_flights_by_hand() -> None:
    late = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], dtype=float)
    flag = np.array([1, 1, 0, 1, 0, 0, 0, 0, 0, 0], dtype=float)
    day = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 1])
    weights, position = weights_of(day)
    told = cost.thousand(late, flag, position, weights, Settings(flag_cost=200, late_benefit=800))
    assert told.hits.value == pytest.approx(200)
    assert told.false_alarms.value == pytest.approx(100)
    assert told.misses.value == pytest.approx(100)
    assert told.left_alone.value == pytest.approx(600)
    assert told.false_alarm_rate.value == pytest.approx(1 / 7)
    assert told.saved_by_hits.value == pytest.approx(200 * 600)
    assert told.spent_on_false_alarms.value == pytest.approx(100 * 200)
    assert told.saved.value == pytest.approx(200 * 600 - 100 * 200)
    assert told.forgone_by_misses.value == pytest.approx(100 * 600)
    assert whole_thousand(told) == [200, 100, 100, 600]
    assert told.losing_days == 1  # the second day: a false alarm and no hit


def test_cpu_time_is_that_of_work_and_not_of_waiting() -> None:
    import time

    def busy() -> None:
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass

    assert cost.cpu_seconds(busy) == pytest.approx(0.2, abs=0.05)
    assert cost.cpu_seconds(lambda: time.sleep(0.2)) < 0.1


def test_work_is_measured_for_1000_flights_and_priced_by_the_cpu_hour() -> None:
    frame, scored = pd.DataFrame({"x": np.arange(1500.0)}), []

    def predict(rows: pd.DataFrame) -> np.ndarray:
        scored.append(len(rows))
        return np.zeros(len(rows))

    told = cost.computing(predict, frame, (2000, 3.0), 720.0, Settings(cpu_hour_price=0.1))
    assert scored == [cost.BATCH, *[1] * cost.SINGLE]
    join = told.predictions[0]
    assert join.cpu_seconds == pytest.approx(1.5)
    assert join.money == pytest.approx(1.5 / 3600 * 0.1)
    assert told.training_money == pytest.approx(0.02)
    assert "CPU" in told.machine


def test_partial_dependence_is_the_mean_with_a_feature_set_for_all() -> None:
    from test_training_model import COLUMNS, SMALL, rows

    inputs, _ = rows(3, 120)
    pipeline, _ = model.choose(rows(0), rows(1), COLUMNS, SMALL)
    wind, origin = COLUMNS[1], COLUMNS[0]
    for told in dependence.dependence(pipeline, inputs, [wind, origin]):
        assert told.values[-1] == dependence.UNKNOWN  # both are missing in some rows
        for value, mean, low, high in zip(told.values, told.mean, told.low, told.high, strict=True):
            changed = inputs.copy()
            changed[told.feature] = np.nan if value == dependence.UNKNOWN else value
            changed[told.feature] = changed[told.feature].astype(inputs[told.feature].dtype)
            p = pipeline.predict_proba(changed)[:, 1]
            assert mean == pytest.approx(p.mean())
            assert (low, high) == pytest.approx(tuple(np.quantile(p, [0.25, 0.75])))
        assert told.known_share == pytest.approx(inputs[told.feature].notna().mean())


def test_probabilities_are_held_against_what_came() -> None:
    p = np.repeat([0.1, 0.5], 50)
    late = np.concatenate([np.arange(50) < 10, np.arange(50) < 25]).astype(float)
    low, high = explain.reliability(late, p, 2)
    assert (low.flights, low.said, low.came) == (50, pytest.approx(0.1), 0.2)
    assert (high.flights, high.said, high.came) == (50, 0.5, 0.5)


def test_figures_are_put_into_words() -> None:
    assert words.of_100(Estimate(0.4707, 0.424, 0.5201)) == "47 (42 to 52)"
    assert words.span(Estimate(64184.7, 45003.1, 85641.3)) == "64,185 (45,003 to 85,641)"
    assert words.span(Estimate(np.nan, np.nan, np.nan)) == "-"
    assert [words.small_money(x) for x in (0.00069, 0.021, 3.456, 0)] == [
        "0.00069",
        "0.021",
        "3.46",
        "0.00",
    ]
    assert [words.p_value(p) for p in (1e-9, 0.0312, 0.55)] == ["below 0.001", "0.031", "0.55"]
    winter = pd.Series(pd.to_datetime(["2013-11-30", "2013-12-01", "2014-01-15"]))
    assert words.untested_seasons(winter) == ["spring", "summer"]


# -- whole cards -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts(project: Project) -> Parts:
    settings = project.settings
    data = dataset.load(settings)
    return data, run.learn(data, settings), run.baselines(data, settings), settings


def card(parts: Parts, p: np.ndarray, late: np.ndarray, to: Path) -> str:
    """The card of a model that says `p` of flights that turn out `late`."""
    data, trained, others, settings = parts
    data = replace(data, late=late)
    predictions = {run.MODEL: p, **others}
    judged = evaluate(data, predictions, trained.scoring.predict_proba, settings)
    cpu = {"features": 1.0, "training": 2.0}
    told = explain.explain(data, p, trained.scoring, judged, cpu, settings)
    manifest = run.describe(data, trained, judged.decisions[run.MODEL].threshold, settings)
    to.mkdir()
    report.write(to, data, predictions, judged, told, manifest)
    return (to / "model_card.md").read_text()


def test_a_card_names_a_planted_bad_slice_and_none_where_all_are_equal(
    parts: Parts, tmp_path: Path
) -> None:
    data, draw = parts[0], np.random.default_rng(3)
    p = 1 / (1 + np.exp(1 - draw.normal(0, 1.8, len(data.late))))
    late = np.where(np.isnan(data.late), np.nan, draw.random(len(p)) < p)
    text = card(parts, p, late, tmp_path / "equal")
    assert "No slice is worse than the other flights beyond chance." in text
    assert "▼" not in text.replace("▼ worse", "").replace("▼ more", "")

    spoiled = p.copy()
    here = np.flatnonzero(data.frame["carrier"] == "B6")
    spoiled[here] = draw.permutation(p[here])
    text = card(parts, spoiled, late, tmp_path / "spoiled")
    named = re.findall(r"^- (.*) flights, .* late one the higher risk", text, re.MULTILINE)
    assert len(named) == 1
    assert named[0].startswith("Carrier B6 (")
    page = (tmp_path / "spoiled" / "report.html").read_text()
    assert "<li>Carrier B6 (" in page


def test_the_card_says_in_plain_words_what_the_predictions_say(run_dir: Path) -> None:
    """Every figure of the first page again, from predictions.parquet alone."""
    text = (run_dir / "model_card.md").read_text()
    told = pd.read_parquet(run_dir / "predictions.parquet").dropna()
    late = told["label"].to_numpy(dtype=float)
    flag = (
        told["p"] >= json.loads((run_dir / "manifest.json").read_text())["threshold"]
    ).to_numpy()
    rounded = {
        r"Of 100 flights it flags, \*\*(\d+) \(": late[flag].mean(),
        r"Of 100 late flights, it finds \*\*(\d+) \(": flag[late == 1].mean(),
        r"Of 100 punctual flights, it flags (\d+) \(": flag[late == 0].mean(),
        r"the higher risk (\d+) \(": roc_auc_score(late, told["p"]),
    }
    for pattern, share in rounded.items():
        assert int(re.search(pattern, text)[1]) == round(100 * share), pattern  # type: ignore[index]
    saved = 1000 * np.mean(flag * (800 * late - 200))
    assert f"**saves {saved:,.0f} (" in text
    assert f"| late and flagged: the cost is worth it | {1000 * np.mean(flag * late):.0f} (" in text


def test_the_card_tells_of_slices_fairness_data_costs_and_limits(run_dir: Path) -> None:
    text = (run_dir / "model_card.md").read_text()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == [
        "What it predicts",
        "How good it is",
        "What it costs when it is wrong",
        "Where it is worse",
        "Fairness: who bears the errors",
        "What it looks at",
        "What data it used",
        "What computing costs",
        "Known limits",
        "Technical",
        "To make it again",
    ]
    for group in ("Origin", "Carrier", "Distance", "Destination", "Hour of departure", "Month"):
        assert text.count(f"| {group} |") >= 2
    assert "| winter |" not in text
    assert "spring and summer and autumn are not among the test days" in text
    assert "{{" not in text


def test_the_card_as_a_page_is_one_file_with_its_picture(run_dir: Path) -> None:
    page = (run_dir / "model_card.html").read_text()
    assert "<h1>Model card: late arrivals from New York</h1>" in page
    assert page.count('src="data:image/png;base64,') == 1
    assert page.count("<table>") > 15
    assert "http://" not in page and "https://" not in page
    assert "&lt;!--" not in page


def test_what_a_carrier_calls_itself_runs_nothing_in_the_pages(tmp_path: Path) -> None:
    (tmp_path / "model_card.md").write_text("# Card\n\n| <script>alert(1)</script> |\n|---|\n")
    report.write_card_page(tmp_path)
    assert "<script" not in (tmp_path / "model_card.html").read_text()


def test_the_raw_records_of_the_snapshot_are_told_if_it_counts_them(project: Project) -> None:
    store = dataset.open_store(project.settings)
    assert dataset.raw_records(store, project.settings) == []
    counts = pd.DataFrame(
        {
            "source_name": ["planes", "flights"],
            "first_loaded_at": [None, pd.Timestamp("2013-01-01T05:00Z")],
            "last_loaded_at": [None, pd.Timestamp("2013-12-31T05:00Z")],
            "record_count": [0, 2392],
            "quarantined_count": [0, 3],
        }
    )
    file = project.path / "data/published/current/raw_records.parquet"
    counts.to_parquet(file, index=False)
    try:
        flights, planes = dataset.raw_records(store, project.settings)
    finally:
        file.unlink()
    assert (flights.source, flights.records, flights.quarantined) == ("flights", 2392, 3)
    assert words.day(str(flights.first_loaded_at)) == "1 January 2013"
    assert planes.first_loaded_at is None


def test_filling_a_section_twice_leaves_the_last_content_only(tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.write_text("a <!-- x:begin -->old<!-- x:end --> b")
    report.fill(page, "x", r"one \1")
    report.fill(page, "x", "two")
    assert page.read_text() == "a <!-- x:begin -->\ntwo\n<!-- x:end --> b"
