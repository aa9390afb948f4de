"""The model in use: switched in one step, recorded, brought back."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from retrain_lab import AT, Lab

from hindcast import champion
from hindcast.errors import HindcastError, MissingInputError


def test_no_model_is_in_use_at_first_and_scoring_reads_the_newest_run(lab: Lab) -> None:
    assert champion.current(lab.root) is None
    assert champion.history(lab.root) == []
    assert champion.in_use(lab.artifacts).resolve().name == lab.good


def test_what_is_in_use_is_known_with_its_reason(lab: Lab) -> None:
    champion.install(
        lab.root,
        lab.dull,
        action=champion.PROMOTED,
        at=AT,
        reason="it was there",
        figures={"rows": 3},
    )
    now = champion.current(lab.root)
    assert now is not None and now.promotion is not None
    assert now.model.run == lab.dull == champion.in_use(lab.artifacts).resolve().name
    assert now.model.trained_until.isoformat() == "2013-11-12T00:00:00-05:00"
    assert (now.promotion.at, now.promotion.reason) == (AT, "it was there")
    assert now.promotion.figures == {"rows": 3}
    assert now.promotion.previous is None


def test_rolling_back_goes_back_one_by_one_and_never_to_and_fro(
    lab: Lab, put_in_use: Callable[[str], None]
) -> None:
    third = f"{lab.good}-again"
    shutil.copytree(lab.artifacts / lab.good, lab.artifacts / third)
    for run in (lab.dull, lab.good, third):
        put_in_use(run)
    assert champion.roll_back(lab.root, at=AT).model.run == lab.good
    assert champion.roll_back(lab.root, at=AT).model.run == lab.dull
    with pytest.raises(HindcastError, match="no model was in use before"):
        champion.roll_back(lab.root, at=AT)
    assert champion.roll_back(lab.root, at=AT, to=third).model.run == third
    assert [(each.action, each.run) for each in champion.history(lab.root)][3:] == [
        ("rolled back", lab.good),
        ("rolled back", lab.dull),
        ("rolled back", third),
    ]
    assert all((lab.artifacts / run / "model.skops").exists() for run in (lab.dull, third))


def test_a_run_that_is_gone_or_half_there_is_never_put_in_use(
    lab: Lab, put_in_use: Callable[[str], None]
) -> None:
    put_in_use(lab.dull)
    put_in_use(lab.good)
    shutil.rmtree(lab.artifacts / lab.dull)
    with pytest.raises(MissingInputError, match="no trained model"):
        champion.roll_back(lab.root, at=AT)
    (lab.artifacts / "half").mkdir()
    (lab.artifacts / "half" / "manifest.json").write_text('{"run": "half"}')
    with pytest.raises(MissingInputError, match="trained_until"):
        put_in_use("half")
    assert lab.in_use == lab.good
    assert len(champion.history(lab.root)) == 2


@pytest.mark.parametrize("moment", ["before the switch", "after the switch"])
def test_a_promotion_killed_half_way_is_done_or_not_and_the_records_say_so(
    lab: Lab, put_in_use: Callable[[str], None], moment: str
) -> None:
    put_in_use(lab.dull)
    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, signal, sys\n"
            "from datetime import UTC, datetime\n"
            "from pathlib import Path\n"
            "from hindcast import champion\n"
            "switch = os.replace\n"
            "def dies(*paths):\n"
            f"    if {moment!r} == 'after the switch': switch(*paths)\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
            "os.replace = dies\n"
            "champion.install(Path(sys.argv[1]), sys.argv[2], action='promoted',"
            " at=datetime(2013, 12, 21, tzinfo=UTC), reason='killed')\n",
            str(lab.root),
            lab.good,
        ],
        check=False,
    )
    assert killed.returncode == -9
    runs = [each.run for each in champion.history(lab.root)]
    if moment == "before the switch":
        assert (lab.in_use, runs) == (lab.dull, [lab.dull])
    else:
        assert (lab.in_use, runs) == (lab.good, [lab.dull, lab.good])
        assert champion.roll_back(lab.root, at=AT + timedelta(days=2)).model.run == lab.dull


def test_a_reader_finds_the_old_model_or_the_new_one_at_every_moment(
    lab: Lab, put_in_use: Callable[[str], None]
) -> None:
    put_in_use(lab.dull)
    seen: set[str] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            file = os.path.realpath(lab.artifacts / "champion")
            seen.add(os.path.basename(file) if os.path.exists(file) else "nothing")

    looking = threading.Thread(target=look)
    looking.start()
    for run in [lab.good, lab.dull] * 4:
        put_in_use(run)
    done.set()
    looking.join()
    assert seen == {lab.dull, lab.good}
