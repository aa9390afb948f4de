"""`hindcast run`: each step once, one run at a time, and on from where it stopped."""

import os
import signal
from datetime import UTC, datetime

import pytest
from running_projects import AT, Toy, wait_for_end

from hindcast import runs
from hindcast.monitor import Check
from hindcast.monitor.history import save


@pytest.fixture
def toy(tmp_path):
    return Toy(tmp_path)


def test_a_run_does_every_step_in_order_and_is_on_record(toy):
    said = toy.must("run")
    assert toy.ran == ["first", "second", AT]
    assert "2/3 second" in said
    (run,) = runs.last(toy.root, 5)
    assert (run.outcome, run.exit_code, run.attempts) == ("done", 0, 1)
    assert run.at == datetime.fromisoformat(AT)
    assert run.started_at < run.ended_at
    assert [step.step for step in run.ran] == ["first", "second", "third"]
    assert all(step.seconds > 0 and step.peak_mb > 1 for step in run.ran)
    assert run.ran[2].command == f"python mark.py {AT}"
    # the next run can say what to expect
    assert "last time" in toy.must("run")


def test_a_run_ends_with_the_status_and_what_the_monitor_found_last(toy):
    checks = [
        Check("origin_wind", "psi", 0.3, (0.2, 0.5)),
        Check("tail_seats", "nulls", 0.01, (0.05, 0.2)),
    ]
    save(toy.root, datetime(2026, 1, 1, tzinfo=UTC), datetime.fromisoformat(AT), 28, "m1", checks)
    said = toy.must("run")
    assert said.index(" third ") < said.index(" summary ") < said.index(f" status at {AT} ")
    status = said[said.index(f" status at {AT} ") :]
    assert status.strip().endswith(toy.must("status").split(f" status at {AT} ")[1].strip())
    lines = [line.replace("│", " ").split() for line in status.splitlines()]
    assert any(line[:2] == ["1", AT] and line[-2:] == ["3", "done"] for line in lines)
    assert f"monitoring at {AT}, of model m1: 1 ok, 1 warn, 0 fail" in status
    assert ["origin_wind", "psi", "0.3", "warn"] in lines


def test_a_run_that_failed_goes_on_at_the_step_that_failed(toy):
    toy.how("fail")
    done = toy.hindcast("run")
    assert done.exit_code == 1
    assert "step second failed (exit code 3)" in done.stderr
    assert f"hindcast run --resume --at {AT}" in done.stderr
    assert toy.ran == ["first"]
    (run,) = runs.last(toy.root, 5)
    assert (run.outcome, run.stopped_at, run.exit_code) == ("failed", "second", 3)

    toy.how("go")
    said = toy.must("run --resume")
    assert "Done by an earlier attempt: first." in said
    assert toy.ran == ["second", AT]
    (run,) = runs.last(toy.root, 5)
    assert (run.outcome, run.attempts) == ("done", 2)
    assert [(step.attempt, step.step) for step in run.ran] == [
        (1, "first"),
        (1, "second"),
        (2, "second"),
        (2, "third"),
    ]
    assert "Nothing to go on with: run 1" in toy.must("run --resume")
    assert toy.ran == []


def test_a_run_killed_without_warning_goes_on_at_the_step_it_was_killed_in(toy):
    step = toy.kill_in_second("sleep 60")
    os.kill(step, signal.SIGKILL)  # and the step with it, as a reboot does
    wait_for_end(step)
    assert toy.ran == ["first"]
    (run,) = runs.last(toy.root, 5)
    assert (run.outcome, run.stopped_at, run.ended_at) == ("killed", "second", None)
    toy.how("go")
    toy.must("run --resume")
    assert toy.ran == ["second", AT]
    (run,) = runs.last(toy.root, 5)
    assert (run.outcome, run.attempts) == ("done", 2)


def test_a_second_run_is_refused_and_told_who_is_at_work(toy):
    toy.how("sleep 60")
    first = toy.start("run")
    step = toy.until_second()
    refused = toy.hindcast("run")
    assert refused.exit_code == 1
    (run,) = runs.last(toy.root, 5)
    assert f"process {first.pid}" in refused.stderr
    assert f"since {run.started_at:%Y-%m-%dT%H:%M}" in refused.stderr
    assert "now at step second" in refused.stderr
    assert run.outcome == "running"
    assert f"process {first.pid}" in toy.must("status")
    os.kill(step, signal.SIGKILL)
    assert first.wait(60) == 1
    assert runs.last(toy.root, 1)[0].outcome == "failed"


def test_the_lock_of_a_dead_run_does_not_block_but_the_step_it_left_behind_does(toy):
    step = toy.kill_in_second("sleep 60")
    refused = toy.hindcast("run")
    assert refused.exit_code == 1
    assert "is dead, but its step second" in refused.stderr
    assert f"process {step}" in refused.stderr
    os.kill(step, signal.SIGKILL)
    wait_for_end(step)
    toy.how("go")
    toy.must("run")
    assert toy.ran == ["first", "first", "second", AT]


def test_a_run_asked_to_end_ends_its_step_first_and_says_how_to_go_on(toy):
    toy.how("sleep 60")
    run = toy.start("run")
    step = toy.until_second()
    run.terminate()
    assert run.wait(60) == 1
    said = (toy.root / "said").read_text()
    assert "asked to end" in said
    assert "--resume" in said
    wait_for_end(step)
    (found,) = runs.last(toy.root, 5)
    assert (found.outcome, found.exit_code, found.stopped_at) == ("failed", 143, "second")
    assert found.ran[-1].exit_code == -signal.SIGTERM


def test_a_plain_run_begins_anew_and_resume_looks_at_its_instant_only(toy):
    toy.how("fail")
    toy.hindcast("run")
    toy.how("go")
    toy.must("run --resume --at 2013-01-04T00:00:00Z")
    assert toy.ran == ["first", "first", "second", "2013-01-04T00:00:00Z"]
    toy.must("run --resume --at 2013-01-03T00:00:00+00:00")
    assert toy.ran == ["second", AT]
    toy.must("run")
    assert toy.ran == ["first", "second", AT]


def test_a_step_whose_command_was_changed_is_done_again_with_all_after_it(toy):
    toy.how("fail")
    toy.hindcast("run")
    toy.how("go")
    toy.steps("{name: first, run: python mark.py other}", "{name: second, run: python second.py}")
    toy.must("run --resume")
    assert toy.ran == ["first", "other", "second"]


def test_what_is_made_once_is_left_out_from_then_on(toy):
    toy.steps("{name: train, run: python mark.py train, unless: ran}")
    toy.must("run")
    said = toy.must("run")
    assert "Left out: train, since ran is there" in said
    toy.must("run --everything")
    assert toy.ran == ["train", "train"]


def test_a_run_of_everything_goes_on_with_everything(toy):
    toy.steps(
        "{name: second, run: python second.py}",
        "{name: train, run: python mark.py train, unless: how}",
    )
    toy.how("fail")
    said = toy.hindcast("run --everything").stderr
    go_on = f"run --resume --everything --at {AT}"
    assert f"hindcast {go_on}" in said
    toy.how("go")
    toy.must(go_on)
    assert toy.ran == ["second", "train"]


def test_a_verdict_is_noted_and_the_loop_goes_on(toy):
    toy.steps(
        "{name: judge, run: 'python -c \"raise SystemExit(1)\"', verdict: true}",
        "{name: after, run: python mark.py after}",
    )
    assert "Step judge found something" in toy.must("run")
    assert toy.ran == ["after"]
    # what is no verdict is an accident, of a step of verdicts too
    toy.steps("{name: judge, run: 'python -c \"raise SystemExit(2)\"', verdict: true}")
    assert toy.hindcast("run").exit_code == 1


def test_a_step_without_a_program_is_named(toy):
    toy.steps("{name: odd, run: no-such-program --at all}")
    done = toy.hindcast("run")
    assert done.exit_code == 1
    assert "step odd cannot run: there is no no-such-program" in done.stderr
    assert runs.last(toy.root, 1)[0].ran[0].exit_code == 127


def test_some_steps_only_are_no_whole_run(toy):
    toy.must("run --only first --only third")
    assert toy.ran == ["first", AT]
    assert runs.last_whole(toy.root, None) is None
    assert toy.hindcast("run --only nothing").exit_code == 2
    assert toy.hindcast("run --only first --resume").exit_code == 2
