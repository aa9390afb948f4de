"""The whole of it, on a small Feast store: train, report, reproduce, score, leaks, exit codes."""

import json
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from training_project import STANDS_AT, Project, publish

from hindcast.errors import HindcastError, MissingInputError
from training import __main__ as training_main
from training import console, dataset, leaks, model, run, score, summary
from training.evaluate import METRICS

ROOT = Path(__file__).parents[2]
PREDICTORS = ["model", "schedule only", "carrier x hour", "base rate"]


def exit_code(monkeypatch: pytest.MonkeyPatch, module: ModuleType, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", [module.__name__, *words])
    with pytest.raises(SystemExit) as ended:
        console.run(module.app)
    return int(ended.value.code or 0)


def test_a_run_leaves_all_it_promises_and_latest_points_to_it(run_dir: Path) -> None:
    assert sorted(file.name for file in run_dir.iterdir()) == [
        "manifest.json",
        "metrics.json",
        "model.skops",
        "model_card.html",
        "model_card.md",
        "overview.png",
        "predictions.parquet",
        "report.html",
        "thousand.png",
    ]
    assert (run_dir.parent / "latest").resolve() == run_dir.resolve()
    assert not list(run_dir.parent.glob(".*"))


def test_every_predictor_is_judged_by_every_metric_with_an_interval(run_dir: Path) -> None:
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert list(metrics["metrics"]) == PREDICTORS
    for figures in metrics["metrics"].values():
        assert list(figures) == list(METRICS)
    for name in PREDICTORS[:3]:
        for metric in ("roc_auc", "log_loss", "brier"):
            estimate = metrics["metrics"][name][metric]
            assert estimate["low"] < estimate["value"] < estimate["high"]
    assert list(metrics["gains"]) == PREDICTORS[1:]
    assert metrics["metrics"]["model"]["roc_auc"]["value"] > 0.75


def test_the_report_is_one_file_with_all_sections_and_pictures(run_dir: Path) -> None:
    report = (run_dir / "report.html").read_text()
    first_line = report.split('<p class="lead">')[1].split("</p>")[0]
    assert "how likely a flight from New York is to arrive 15 minutes or more late" in first_line
    sections = (
        "plain figures calibration money importance dependence served slices fairness months "
        "computing leaks made"
    )
    for section in sections.split(" "):
        assert f'<section id="{section}">' in report
    assert report.count('src="data:image/png;base64,') == 8 + 2 + 4 + 6
    assert "http://" not in report and "https://" not in report
    for predictor in PREDICTORS:
        assert f"<td>{predictor}</td>" in report


def test_the_manifest_names_everything_the_run_was_made_of(run_dir: Path, project: Project) -> None:
    manifest = json.loads((run_dir / "manifest.json").read_text())
    assert manifest["snapshot"] == "first"
    assert manifest["feature_service"] == "late_arrival"
    assert [f["name"] for f in manifest["features"]] == [
        "origin",
        "carrier",
        "dest",
        "wind_mph",
        "sky",
        "reports",
        "flight_distance_mi",
    ]
    assert manifest["settings"] == project.settings.as_dict()
    assert all(len(manifest["hashes"][of]) == 64 for of in ("spine", "features", "predictions"))
    assert set(manifest["packages"]) == set(run.PACKAGES)


def test_rows_without_a_label_are_scored_but_not_judged(run_dir: Path) -> None:
    predictions = pd.read_parquet(run_dir / "predictions.parquet")
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert predictions["p"].between(0, 1).all()
    assert 0 < predictions["label"].isna().sum() < len(predictions)
    assert predictions["label"].notna().sum() == metrics["test_flights"]


def test_the_same_run_again_is_equal_bit_for_bit_though_a_newer_snapshot_is_published(
    run_dir: Path, project: Project, tmp_path: Path
) -> None:
    published = project.path / "data" / "published"
    publish(project.path, "second", seed=5)
    try:
        assert dataset.load(project.settings).snapshot == "second"
        assert run.reproduce(run_dir / "manifest.json")
    finally:
        (published / "current").unlink()
        (published / "current").symlink_to("first")


@pytest.mark.parametrize("what", ["spine", "features", "predictions"])
def test_a_run_that_differs_in_anything_is_not_called_equal(
    run_dir: Path, tmp_path: Path, what: str
) -> None:
    manifest = json.loads((run_dir / "manifest.json").read_text())
    manifest["hashes"][what] = "0" * 64
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert not run.reproduce(tmp_path / "manifest.json")


def test_a_manifest_whose_snapshot_is_gone_is_refused(run_dir: Path, tmp_path: Path) -> None:
    manifest = json.loads((run_dir / "manifest.json").read_text()) | {"snapshot": "pruned"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MissingInputError, match="snapshot pruned is not in"):
        run.reproduce(tmp_path / "manifest.json")


def test_a_pruned_snapshot_is_asked_for_as_dbt_replays_it_and_then_read_from_there(
    run_dir: Path, project: Project, tmp_path: Path
) -> None:
    manifest = json.loads((run_dir / "manifest.json").read_text())
    manifest |= {"snapshot": "pruned", "loaded_until": "2013-06-01T05:00:00Z"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        MissingInputError, match=r"dbt build --vars '{as_of: 2013-06-01T05:00:00Z}'"
    ):
        run.reproduce(tmp_path / "manifest.json")

    data = project.path / "data"
    replayed = data / "published_as_of" / "20130601T050000Z"
    shutil.copytree(data / "published", replayed, symlinks=True)
    publish(project.path, "later", seed=7)  # neither its spine nor its features are read
    try:
        assert run.reproduce(tmp_path / "manifest.json")
    finally:
        (data / "published" / "current").unlink()
        (data / "published" / "current").symlink_to("first")
        shutil.rmtree(replayed)


def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"hashes": {}}')
    with pytest.raises(HindcastError, match="is not the manifest of a run"):
        run.reproduce(tmp_path / "manifest.json")


def test_a_run_that_fails_leaves_no_half_run(
    run_dir: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(run_dir.parent.iterdir())
    monkeypatch.setattr("training.report.write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.train(project.settings)
    assert sorted(run_dir.parent.iterdir()) == before


def test_online_features_give_the_scores_of_the_point_in_time_join(
    run_dir: Path, project: Project
) -> None:
    flights, at, threshold, _ = score.score(run_dir, None)
    assert at == STANDS_AT
    assert (flights["predict_at"] >= STANDS_AT).all()
    assert (flights["predict_at"] < STANDS_AT + timedelta(hours=1)).all()
    assert flights["p"].is_monotonic_decreasing
    assert (flights["flag"] == (flights["p"] >= threshold)).all()
    offline = pd.read_parquet(run_dir / "predictions.parquet").set_index("flight_id")["p"]
    assert len(flights) > 0
    np.testing.assert_array_equal(flights["p"], offline.reindex(flights["flight_id"]))


def test_scoring_refuses_an_online_store_that_knows_the_future(run_dir: Path) -> None:
    with pytest.raises(MissingInputError, match="would know the future"):
        score.score(run_dir, STANDS_AT - timedelta(days=1))


def test_scoring_refuses_an_online_store_that_is_behind(run_dir: Path) -> None:
    with pytest.raises(MissingInputError, match="materialize-incremental 2013-12-21T15:00:00Z"):
        score.score(run_dir, STANDS_AT + timedelta(days=1))


def test_the_score_command_prints_flights_with_what_became_of_them(
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_copy = shutil.copytree(run_dir, tmp_path / "run")
    monkeypatch.chdir(tmp_path)  # what is said is kept below data/
    assert exit_code(monkeypatch, score, "--run", str(run_copy)) == 0
    shown = capsys.readouterr().out
    upcoming = pd.read_csv(run_copy / "upcoming.csv")
    assert f"of {len(upcoming)} flights flagged" in shown.replace("\n", " ")
    for _, flight in upcoming.iterrows():
        assert f"{flight['carrier']} {flight['flight']}" in shown
    (file,) = (tmp_path / "data/predictions").rglob("*.parquet")
    assert str(file.relative_to(tmp_path)) == "data/predictions/run/20131220T150000Z.parquet"
    kept = pd.read_parquet(file)
    assert dict(zip(kept["flight_id"], kept["p"], strict=True)) == pytest.approx(
        dict(zip(upcoming["flight_id"], upcoming["p"], strict=True))
    )


def test_what_was_said_at_an_instant_is_kept_until_it_is_said_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flights = pd.DataFrame({"flight_id": ["a"], "predict_at": [STANDS_AT], "p": [0.1], "x": [0]})
    for hour, p in ((0, 0.1), (1, 0.2), (0, 0.3)):
        score.keep(flights.assign(p=p), Path("artifacts/r"), STANDS_AT + timedelta(hours=hour))
    kept = pd.read_parquet(tmp_path / "data/predictions").sort_values("said_at")
    assert kept["p"].tolist() == [0.3, 0.2]
    assert kept["model"].tolist() == ["r", "r"]
    assert not list(tmp_path.rglob("*.unfinished"))


def test_the_summary_shows_every_figure_of_the_run(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, summary, "--run", str(run_dir)) == 0
    shown = capsys.readouterr().out
    metrics = json.loads((run_dir / "metrics.json").read_text())
    for figures in metrics["metrics"].values():
        for estimate in figures.values():
            assert f"{estimate['value']:.4f}" in shown


@pytest.mark.parametrize(("spoil", "code"), [(False, 0), (True, 1)])
def test_reproduce_ends_with_exit_code_0_only_if_equal(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: bool, code: int
) -> None:
    manifest = json.loads((run_dir / "manifest.json").read_text())
    manifest["settings"]["learning_rate"] += 0.01 * spoil
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    found = exit_code(monkeypatch, training_main, "--reproduce", str(tmp_path / "manifest.json"))
    assert found == code


def test_each_leak_flatters_and_the_report_gets_its_section(
    run_dir: Path, project: Project, tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_text((run_dir / "report.html").read_text())
    leaks.compare(project.settings, "origin_weather", tmp_path)
    results = {each["mistake"]: each for each in json.loads((tmp_path / "leaks.json").read_text())}
    auc = {mistake: each["roc_auc"]["value"] for mistake, each in results.items()}
    assert next(iter(auc)) == "none"
    assert len(auc) == 6
    assert auc["departure delay as a feature"] > auc["none"] + 0.05
    assert auc["group by day"] > auc["none"]
    report = (tmp_path / "report.html").read_text()
    assert all(mistake in report for mistake in auc)
    assert (tmp_path / "leaks.png").read_bytes().startswith(b"\x89PNG")


def test_help_shows_every_setting_with_its_default_and_loads_nothing_heavy() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "training", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in ("--learning-rate", "--test-from", "--flag-cost", "--seed", "--reproduce"):
        assert name in shown
    assert "2013-11-01" in shown
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, training.__main__, training.score, training.leaks, training.summary; "
            "print([m for m in ('sklearn', 'feast', 'pandas', 'matplotlib') if m in sys.modules])",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.strip() == "[]"


def test_a_missing_step_is_named_with_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, summary, "--run", str(tmp_path)) == 1
    assert "MissingInputError" in capsys.readouterr().err
    assert exit_code(monkeypatch, training_main, "--repo", str(tmp_path)) == 1
    assert "no feature_store.yaml" in capsys.readouterr().err


def test_what_is_not_registered_or_not_published_names_the_command(
    project: Project, tmp_path: Path
) -> None:
    repo = tmp_path / "feature_repo"
    repo.mkdir()
    config = Path(project.settings.repo, "feature_store.yaml").read_text()
    (repo / "feature_store.yaml").write_text(config)
    with pytest.raises(MissingInputError, match="feast -c feature_repo apply"):
        dataset.load(project.settings.but(repo=str(repo)))
    (repo / "feature_store.yaml").write_text(
        config.replace("../data/registry.db", str(project.path / "data/registry.db"))
    )
    with pytest.raises(MissingInputError, match="dbt build"):
        dataset.load(project.settings.but(repo=str(repo)))


def test_a_wrong_call_ends_with_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    for module, *words in (
        (training_main, "--fit-from", "2014-06-01"),
        (training_main, "--flag-cost", "900"),
        (training_main, "--zone", "New York"),
        (training_main, "--reproduce", str(tmp_path / "none.json")),
        (training_main, "--seed", "1", "--reproduce", str(tmp_path / "manifest.json")),
        (score, "--at", "2013-12-30T15:00:00"),
        (score, "--at", "noon"),
    ):
        assert exit_code(monkeypatch, module, *words) == 2, words


def test_the_saved_model_scores_as_the_trained_one(run_dir: Path, project: Project) -> None:
    scoring = model.load(run_dir)
    data = dataset.load(project.settings)
    test = data.rows("test", labelled=False)
    saved = pd.read_parquet(run_dir / "predictions.parquet")
    np.testing.assert_array_equal(scoring.predict_proba(data.frame.iloc[test]), saved["p"])
    assert scoring.features == [column.name for column in data.columns]
    assert scoring.threshold == scoring.manifest["threshold"]
