"""`hindcast retrain` and `hindcast rollback`, with the real training and scoring commands."""

from collections.abc import Callable
from datetime import timedelta

import pandas as pd
from retrain_lab import AT, Lab

from hindcast import champion


def test_a_challenger_that_is_better_takes_over_and_the_old_model_comes_back_at_once(
    lab: Lab, put_in_use: Callable[[str], None]
) -> None:
    put_in_use(lab.dull)
    told = lab.told("retrain", "--dry-run")
    assert told["action"] == "would retrain"
    assert (
        "train on 2013-10-01 to 2013-12-06 and judge on 2013-12-06 to 2013-12-20" in told["reason"]
    )
    assert lab.in_use == lab.dull

    told = lab.told("retrain")
    assert (told["action"], told["previous"]) == ("promoted", lab.dull)
    assert told["champion"] == lab.in_use == told["challenger"]
    assert told["figures"]["champion"]["roc_auc"]["value"] == 0.5  # it knows nothing
    assert told["figures"]["gain"]["roc_auc"]["low"] > 0
    assert (told["figures"]["first"], told["figures"]["last"]) == ("2013-12-06", "2013-12-19")

    last = champion.history(lab.root)[-1]
    assert (last.action, last.run, last.previous) == ("promoted", lab.in_use, lab.dull)
    assert last.figures == told["figures"] and "better beyond noise" in last.reason

    again = lab.told("retrain")
    assert again["action"] == "nothing to do"
    assert "14 days ago, and has not decayed" in again["reason"]
    assert champion.history(lab.root)[-1].action == "checked"

    back = lab.told("rollback")
    assert (back["champion"], back["previous"]) == (lab.dull, told["champion"])
    assert lab.in_use == lab.dull
    none = lab.hindcast("rollback")
    assert none.returncode == 1 and "no model was in use before" in none.stderr


def test_nothing_known_later_than_the_instant_reaches_a_challenger_or_its_judgement(
    lab: Lab, put_in_use: Callable[[str], None]
) -> None:
    put_in_use(lab.good)
    told = lab.told("retrain", "--force")
    assert told["action"] == "kept"  # the same model, but for some newer days
    run = lab.artifacts / told["challenger"]
    scored = pd.read_parquet(run / "predictions.parquet")
    spine = pd.read_parquet(lab.root / "data/published/current/flight_spine.parquet")
    both = scored.merge(spine[["flight_id", "label_known_at", "is_late"]], on="flight_id")
    assert both["predict_at"].max() < pd.Timestamp("2013-12-20", tz="America/New_York")
    unknown = both["label_known_at"] > AT
    assert both.loc[unknown, "label"].isna().all()
    assert (both.loc[~unknown, "label"].isna() == both.loc[~unknown, "is_late"].isna()).all()
    known = both["is_late"].notna() & ~unknown
    assert told["figures"]["rows"] == known.sum() > 300

    looked = lab.told("retrain")  # it was tried: not again before another 28 days have passed
    assert looked["action"] == "nothing to do"
    late = champion.history(lab.root)[-1].at + timedelta(days=27)
    assert lab.told("retrain", "--dry-run", "--at", late.isoformat())["action"] != "kept"


def test_the_newest_run_is_put_in_use_where_none_was(lab: Lab) -> None:
    told = lab.told("retrain")
    assert (told["action"], told["champion"]) == ("adopted", lab.good)
    assert lab.in_use == lab.good


def test_a_champion_that_was_trained_up_to_yesterday_is_let_be(
    lab: Lab, put_in_use: Callable[[str], None]
) -> None:
    put_in_use(lab.good)
    told = lab.told("retrain", "--force", "--at", "2013-11-15T12:00:00Z")
    assert told["action"] == "nothing to do"
    assert "3 whole days since, and 7 are needed" in told["reason"]


def test_a_training_that_fails_or_saw_the_days_that_judge_it_changes_nothing(
    lab: Lab, put_in_use: Callable[[str], None]
) -> None:
    put_in_use(lab.dull)
    train = (lab.root / "hindcast.yml").read_text().split("train: >-\n")[1].split("  score:")[0]
    for command, said in (
        ("    python -c 'raise SystemExit(3)'\n", "ended with exit code 3"),
        ("    python -c pass\n", "left no new run"),
        ("    no-such-program\n", "no program 'no-such-program'"),
        ("    python -m training {days}\n", "stands for nothing"),
        (f"    ln -sfn {lab.dull}-cheat artifacts/latest\n", "has seen the days that judge it"),
    ):
        cheat = lab.artifacts / f"{lab.dull}-cheat"
        cheat.mkdir(exist_ok=True)
        manifest = (lab.artifacts / lab.dull / "manifest.json").read_text()
        (cheat / "manifest.json").write_text(manifest.replace('"2013-11-12T', '"2013-12-10T'))
        lab.configure(train, command)
        done = lab.hindcast("retrain")
        assert (done.returncode, said in done.stderr) == (1, True), done.stderr
        assert lab.in_use == lab.dull
        train = command


def test_without_a_section_in_hindcast_yml_it_says_what_is_missing(lab: Lab) -> None:
    file = lab.root / "hindcast.yml"
    file.write_text(file.read_text().split("retrain:")[0])
    done = lab.hindcast("retrain")
    assert done.returncode == 1 and "no section `retrain`" in done.stderr
