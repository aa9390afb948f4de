"""`hindcast retrain` and `hindcast rollback`, with the real training and scoring commands."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from retrain_lab import AT, Lab

from hindcast import champion, retrain
from hindcast.config import load_config
from hindcast.errors import HindcastError


def asked(lab: Lab, at: datetime = AT, **how: bool) -> retrain.Outcome:
    """`hindcast retrain` without the command line."""
    return retrain.retrain(lab.root, load_config(lab.root), at, **how)


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

    # it says itself that it learned from the tuning days too
    made = lab.artifacts / told["challenger"]
    assert json.loads((made / "manifest.json").read_text())["fitted_until"] == "2013-12-06"
    assert "then the trees again" in (made / "model_card.md").read_text()

    # nothing known later than the instant reached the challenger or its judgement
    scored = pd.read_parquet(lab.artifacts / told["challenger"] / "predictions.parquet")
    spine = pd.read_parquet(lab.root / "data/published/current/flight_spine.parquet")
    both = scored.merge(spine[["flight_id", "label_known_at", "is_late"]], on="flight_id")
    assert both["predict_at"].max() < pd.Timestamp("2013-12-20", tz="America/New_York")
    unknown = both["label_known_at"] > AT
    assert both.loc[unknown, "label"].isna().all()
    assert told["figures"]["rows"] == (both["is_late"].notna() & ~unknown).sum() > 300

    # what was just decided is not tried again at once, nor is what was decided by hand
    assert asked(lab, AT + timedelta(days=1), dry_run=True).action == "nothing to do"
    back = lab.told("rollback")
    assert (back["champion"], back["previous"]) == (lab.dull, told["champion"])
    assert lab.in_use == lab.dull
    assert asked(lab, dry_run=True).action == "nothing to do"
    none = lab.hindcast("rollback")
    assert none.returncode == 1 and "no model was in use before" in none.stderr


def test_a_challenger_that_is_only_as_good_is_not_put_in_use_nor_tried_again_at_once(
    lab: Lab, put_in_use: Callable[[str], None]
) -> None:
    put_in_use(lab.good)
    config = (lab.root / "hindcast.yml").read_text()
    train = config.split("train: >-\n")[1].split("  score:")[0]
    again = f"{lab.good}-again"
    lab.configure(
        train,
        '    python -c "import os, shutil;'
        f" shutil.copytree('artifacts/{lab.good}', 'artifacts/{again}');"
        f" os.remove('artifacts/latest'); os.symlink('{again}', 'artifacts/latest')\"\n",
    )
    told = asked(lab)
    assert (told.action, told.champion, told.challenger) == ("kept", lab.good, again)
    assert told.comparison is not None and told.comparison.gain["roc_auc"].value == 0
    assert lab.in_use == lab.good
    assert champion.history(lab.root)[-1].figures == told.comparison.as_dict()

    same_day = asked(lab)
    assert (same_day.action, same_day.champion) == ("nothing to do", lab.good)
    assert asked(lab, AT + timedelta(days=28), dry_run=True).action == "would retrain"


def test_the_newest_run_is_put_in_use_where_none_was(lab: Lab) -> None:
    assert asked(lab, dry_run=True).action == "would retrain"
    assert champion.current(lab.root) is None
    told = asked(lab)
    assert (told.action, told.champion) == ("adopted", lab.good)
    assert lab.in_use == lab.good


def test_a_champion_that_was_trained_up_to_yesterday_is_let_be(
    lab: Lab, put_in_use: Callable[[str], None]
) -> None:
    put_in_use(lab.good)
    told = asked(lab, datetime(2013, 11, 15, 12, tzinfo=UTC), force=True)
    assert told.action == "nothing to do"
    assert "3 whole days since, and 7 are needed" in told.reason


def test_a_champion_that_has_decayed_is_due_before_its_time(
    lab: Lab, put_in_use: Callable[[str], None]
) -> None:
    put_in_use(lab.good)
    at = datetime(2013, 12, 2, 12, tzinfo=UTC)  # 20 days after its training
    file = lab.artifacts / lab.good / "predictions.parquet"
    then = pd.read_parquet(file)
    then["p"] = then["label"].astype("float64").fillna(0)  # on the days it was chosen on: perfect
    then.to_parquet(file, index=False)
    told = asked(lab, at, dry_run=True)
    assert told.action == "would retrain"
    assert "the champion has decayed" in told.reason


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("python -c 'raise SystemExit(3)'", "ended with exit code 3"),
        ("python -c pass", "left no new run"),
        ("no-such-program", "no program 'no-such-program'"),
        ("python -m training {days}", "stands for nothing"),
        ("ln -sfn cheat artifacts/latest", "has seen the days that judge it"),
    ],
)
def test_a_training_that_fails_or_saw_the_days_that_judge_it_changes_nothing(
    lab: Lab, put_in_use: Callable[[str], None], command: str, said: str
) -> None:
    put_in_use(lab.dull)
    cheat = lab.artifacts / "cheat"
    cheat.mkdir()
    manifest = (lab.artifacts / lab.dull / "manifest.json").read_text()
    (cheat / "manifest.json").write_text(manifest.replace('"2013-11-12T', '"2013-12-10T'))
    train = (lab.root / "hindcast.yml").read_text().split("train: >-\n")[1].split("  score:")[0]
    lab.configure(train, f"    {command}\n")
    with pytest.raises(HindcastError, match=said):
        asked(lab)
    assert lab.in_use == lab.dull


def test_without_a_section_in_hindcast_yml_it_says_what_is_missing(lab: Lab) -> None:
    file = lab.root / "hindcast.yml"
    file.write_text(file.read_text().split("retrain:")[0])
    with pytest.raises(HindcastError, match="no section `retrain`"):
        asked(lab)
