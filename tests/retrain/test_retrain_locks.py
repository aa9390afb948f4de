"""Retraining, rollback and loop keep out of each other's way, and lock out none of their own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from retrain_lab import AT, Lab

from hindcast import champion, lock, loop, retrain
from hindcast.config import load_config

WAITS = (
    "import os, pathlib, time\n"
    "pathlib.Path('at_work').write_text(str(os.getpid()))\n"
    "while not pathlib.Path('go_on').exists(): time.sleep(0.02)\n"
)


@pytest.fixture
def busy(lab: Lab, put_in_use: Callable[[str], None]) -> Lab:
    """A project whose training waits until it is told to go on, and then leaves nothing."""
    put_in_use(lab.dull)
    put_in_use(lab.good)
    (lab.root / "wait.py").write_text(WAITS)
    told = {"id": "first", "created_at": "2026-01-01T00:00:00+00:00", "tables": {}}
    (lab.root / "data/published/first/snapshot.json").write_text(json.dumps(told))
    train = (lab.root / "hindcast.yml").read_text().split("train: >-\n")[1].split("  score:")[0]
    lab.configure(train, f"    {sys.executable} wait.py\n")
    return lab


@contextmanager
def started(lab: Lab, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A command in a process of its own, and the process of `wait.py`, once that is at work."""
    program = Path(sys.executable).parent / "hindcast"
    with (lab.root / "said").open("w") as said:
        process = subprocess.Popen([program, *words], cwd=lab.root, stdout=said, stderr=said)
    waiting = lab.root / "at_work"
    try:
        until = time.monotonic() + 60
        while not waiting.exists() or not waiting.read_text():
            assert process.poll() is None, (lab.root / "said").read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        yield process, int(waiting.read_text())
    finally:
        (lab.root / "go_on").touch()
        process.wait(60)


def ask(lab: Lab, **how: bool) -> retrain.Outcome:
    return retrain.retrain(lab.root, load_config(lab.root), AT, **how)


def free(lab: Lab) -> bool:
    until = time.monotonic() + 30
    while any(lock.holder(lab.root, which) for which in (lock.FILE, lock.MODEL)):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def test_a_retraining_at_work_keeps_out_another_a_rollback_and_the_loop_and_is_named(
    busy: Lab,
) -> None:
    with started(busy, "retrain", "--at", "2013-12-20T15:00:00Z", "--force") as (process, _):
        told = rf"a retraining \(process {process.pid}\) is at work since .*, now at step train\. "
        with pytest.raises(lock.LockedError, match=told):
            ask(busy, force=True)
        with pytest.raises(lock.LockedError, match=told):
            champion.roll_back(busy.root, at=AT)
        with pytest.raises(lock.LockedError, match=told):
            loop.run(busy.root, load_config(busy.root), AT)
        assert ask(busy, dry_run=True, force=True).action == "would retrain"  # changes nothing
    assert free(busy)
    assert busy.in_use == busy.good
    assert champion.roll_back(busy.root, at=AT).model.run == busy.dull


def test_a_training_whose_retraining_was_killed_still_keeps_others_out(busy: Lab) -> None:
    with started(busy, "retrain", "--force") as (process, training):
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        told = rf"is dead, but its step train \(process {training}\) is still at work"
        with pytest.raises(lock.LockedError, match=told):
            ask(busy, force=True)
        with pytest.raises(lock.LockedError, match=told):
            champion.roll_back(busy.root, at=AT)
    assert free(busy)


def test_a_retraining_that_is_told_to_end_ends_its_training_first(busy: Lab) -> None:
    with started(busy, "retrain", "--force") as (process, training):
        process.terminate()
        assert process.wait(30) == 1
        with pytest.raises(ProcessLookupError):
            os.kill(training, 0)
        assert free(busy)
    assert "the retraining was asked to end" in (busy.root / "said").read_text()
    assert busy.in_use == busy.good


def test_the_loop_does_not_lock_out_its_own_retraining_and_a_rollback_need_not_wait_for_it(
    busy: Lab,
) -> None:
    steps = (
        f"steps:\n  - {{name: wait, run: {sys.executable} wait.py}}\n"
        "  - {name: retrain, run: 'hindcast retrain --at {at}'}"
    )
    busy.configure("steps: []", steps)
    with started(busy, "run") as (process, _):
        told = rf"a run \(process {process.pid}\) is at work since .*, now at step wait"
        with pytest.raises(lock.LockedError, match=told):
            ask(busy, force=True)
        assert champion.roll_back(busy.root, at=AT).model.run == busy.dull
    said = (busy.root / "said").read_text()
    assert process.returncode == 0, said
    # by hand it was decided a moment ago, so the loop's own step finds nothing to do
    assert re.search(r"Nothing to do: the model in use was trained up to", said)
    assert busy.in_use == busy.dull


def test_a_rollback_is_kept_out_while_the_loop_is_at_its_retraining(busy: Lab) -> None:
    steps = "steps:\n  - {name: retrain, run: 'hindcast retrain --force --at {at}'}"
    busy.configure("steps: []", steps)
    with started(busy, "run") as (process, _):
        with pytest.raises(lock.LockedError, match=r"a retraining .* now at step train"):
            champion.roll_back(busy.root, at=AT)
        held = lock.holder(busy.root)
        assert held is not None
        assert (held.pid, held.what, held.step) == (process.pid, "run", "retrain")


def test_a_run_may_not_be_a_step_of_a_run(busy: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    busy.configure("steps: []", "steps:\n  - {name: again, run: hindcast run}")
    with pytest.raises(loop.StepFailedError, match="step again failed"):
        loop.run(busy.root, load_config(busy.root), AT)
    assert f"a run (process {os.getpid()}) is at work" in capfd.readouterr().err
