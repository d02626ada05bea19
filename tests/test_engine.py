"""The engine with learning curves in place of training, a clock that tests turn, and no Ray."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from search_kit import (
    ENDED,
    EPOCHS,
    METRIC,
    Clock,
    KilledError,
    Session,
    after_the_first_session,
    ends,
    files,
    outcome,
    possible,
)

from raudio.config.axes import Choice
from raudio.records import (
    BEST,
    LAST,
    RECORDS,
    TrialHistory,
    read_history,
    read_records,
)
from raudio.search.space import Param, Space


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    return clock


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna's journal syncs every line to the disk, which takes most of the time."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], int]:
    """An uninterrupted search's outcome, and its number of records."""
    run = tmp_path_factory.mktemp("whole")
    session = Session(run, Clock())
    session.finish()
    return outcome(run), session.records.count


# --- one session -------------------------------------------------------------------------------


def test_every_trial_ends_in_exactly_one_named_way(tmp_path: Path, clock: Clock) -> None:
    session = Session(tmp_path, clock, trials=30)
    session.drive(slots=3)
    history = session.finish()
    assert ends(tmp_path) == {f"{number:04d}": 1 for number in range(30)}
    states = Counter(trial.state for trial in history.trials.values())
    assert set(states) == set(ENDED)  # the curves see to all three
    for trial in history.trials.values():
        if trial.state == "completed":
            assert (trial.epochs, trial.reason) == (EPOCHS, None)
        elif trial.state == "pruned":
            assert trial.epochs < EPOCHS
            assert trial.reason == f"worse than others of its rung at epoch {trial.epochs}"
        else:
            assert trial.kind == "configuration"
            assert "model.width=99" in (trial.reason or "")
            assert trial.epochs == 0


def test_nothing_is_seen_that_is_not_recorded_and_the_history_follows(
    tmp_path: Path, clock: Clock
) -> None:
    session = Session(tmp_path, clock)
    history = session.finish()
    assert session.seen == list(read_records(tmp_path))
    assert session.engine.history.ranked() == history.ranked()
    assert [record["event"] for record in session.seen[:2]] == ["search_start", "trial_start"]
    assert session.seen[-1]["event"] == "search_end"
    assert history.rungs == tuple(session.engine.scheduler.milestones()) != ()


def test_optuna_knows_what_the_records_know(whole: tuple[dict[str, Any], int]) -> None:
    found, _ = whole
    names = {
        "completed": TrialState.COMPLETE,
        "pruned": TrialState.PRUNED,
        "failed": TrialState.PRUNED,  # and infeasible: see the sampler
    }
    by_id = {trial[0]: trial for trial in found["ranked"]}
    for number, (state, value, params, intermediate) in enumerate(found["study"]):
        _, ended, _, _, best, epochs, drawn = by_id[f"{number:04d}"]
        assert state == names[ended]
        assert value == (best if ended == "completed" else None) or ended == "pruned"
        assert params == drawn
        assert list(intermediate) == list(range(1, epochs + 1))


def test_at_most_slots_run_and_a_slot_is_never_empty(tmp_path: Path, clock: Clock) -> None:
    session = Session(tmp_path, clock, trials=10)
    while True:
        session.drive(slots=3, steps=1)
        left = 10 - len(session.engine.history.trials)
        assert len(session.engine.running) == len(session.trainers) <= 3
        if not session.trainers and not left:
            break
    assert session.engine.exhausted
    assert session.engine.next() is None


def test_a_known_report_changes_nothing(tmp_path: Path, clock: Clock) -> None:
    session = Session(tmp_path, clock)
    engine = session.engine
    spec = engine.next()
    assert spec is not None
    assert engine.report(spec.id, 1, {METRIC: 0.5}, 1.0, False)
    assert engine.report(spec.id, 2, {METRIC: 0.6}, 1.0, False)
    count, rungs = session.records.count, engine.scheduler.rungs()
    # Its process was lost: it goes on from a checkpoint, and reports that one's epoch again.
    engine.lost(spec.id, "process gone")
    assert engine.report(spec.id, 1, {METRIC: 0.1}, 1.0, False)
    assert engine.report(spec.id, 2, {METRIC: 0.1}, 1.0, False)
    assert session.records.count == count + 1  # the loss
    assert engine.scheduler.rungs() == rungs
    trial = engine.history.trials[spec.id]
    assert (trial.value(METRIC, "max"), trial.epochs, trial.lost) == (0.6, 2, 1)
    assert trial.state == "running"


def test_processes_that_are_lost_in_vain_end_the_search(tmp_path: Path, clock: Clock) -> None:
    """A lost process costs nothing, but one that can never start must not be started for ever."""
    session = Session(tmp_path, clock)
    engine = session.engine
    spec = engine.next()
    assert spec is not None
    for _ in range(9):
        assert engine.lost(spec.id, "no raudio there", blameless=True)
    assert engine.report(spec.id, 1, {METRIC: 0.5}, 1.0, False)  # it did start after all
    for _ in range(9):
        assert engine.lost(spec.id, "no raudio there", blameless=True)
    assert engine.broken is None
    engine.lost(spec.id, "no raudio there", blameless=True)
    assert engine.broken == "processes are lost before they report anything: no raudio there"
    assert engine.exhausted


def test_many_machines_that_go_at_once_end_nothing(tmp_path: Path, clock: Clock) -> None:
    """A provider takes a whole pool of spot machines back: each trial is lost once."""
    engine = Session(tmp_path, clock, scheduler="none", trials=40, max_failures=40).engine
    specs = list(iter(engine.next, None))
    assert len(specs) > 20
    for spec in [*specs, *specs]:
        assert engine.lost(spec.id, "its machine is gone", blameless=True)
    assert engine.broken is None
    for spec in specs:
        engine.lost(spec.id, "its machine is gone", blameless=True)
    assert engine.broken == "processes are lost before they report anything: its machine is gone"


def test_a_trial_that_is_queued_anew_is_started_before_new_ones(
    tmp_path: Path, clock: Clock
) -> None:
    session = Session(tmp_path, clock, scheduler="none", trials=3)
    engine = session.engine
    first, second = engine.next(), engine.next()
    assert first is not None
    assert second is not None
    engine.report(first.id, 1, {METRIC: 0.5}, 1.0, False)
    engine.requeue(first.id)
    assert [trial.id for trial in engine.running] == [second.id]
    assert not engine.exhausted
    engine.report(first.id, 2, {METRIC: 0.7}, 1.0, False)  # of a process that nobody waits for
    again = engine.next()
    assert again is not None
    assert again.id == first.id
    assert engine.history.trials[first.id].epochs == 1
    engine.requeue("0007")
    engine.report(again.id, 2, {METRIC: 0.6}, 1.0, True)
    assert engine.history.trials[first.id].state == "completed"


def test_a_trial_that_dies_in_one_place_is_to_blame_and_one_that_gets_on_is_not(
    tmp_path: Path, clock: Clock
) -> None:
    session = Session(tmp_path, clock, scheduler="none")
    engine = session.engine
    spec = engine.next()
    assert spec is not None
    for epoch in range(1, 5):  # twice in each epoch, and with its machine as often as one likes
        assert engine.lost(spec.id, "killed")
        assert engine.lost(spec.id, "its machine is gone", blameless=True)
        engine.preempted(spec.id, "its machine is being taken away")
        assert engine.lost(spec.id, "killed")
        assert engine.report(spec.id, epoch, {METRIC: 0.5}, 1.0, False)
        assert engine.report(spec.id, epoch, {METRIC: 0.5}, 1.0, False)  # again, nothing new
    assert engine.lost(spec.id, "killed")
    assert engine.lost(spec.id, "killed")
    assert not engine.lost(spec.id, "killed")
    trial = engine.history.trials[spec.id]
    assert (trial.state, trial.kind, trial.lost, trial.preemptions) == ("failed", "crash", 15, 4)
    assert trial.reason == "its process died 3 times in the same epoch: killed"
    assert engine.broken is None
    assert not engine.lost(spec.id, "killed")


def test_checkpoints_that_the_records_do_not_know_are_removed(tmp_path: Path, clock: Clock) -> None:
    """A trial's process writes before the driver does, and may write after its trial's end."""
    session = Session(tmp_path, clock, trials=2)
    session.drive()
    for name in ("0000", "0001", "0002"):
        (tmp_path / "trials" / name).mkdir(exist_ok=True)
        (tmp_path / "trials" / name / LAST).write_text("left")
    kept = {f"trials/{name}/{BEST}" for name in ("0000", "0001")}
    session.engine.close("completed", None)
    session.records.close()
    assert set(outcome(tmp_path)["files"]) == kept
    (tmp_path / "trials" / "0002" / LAST).write_text("left")
    again = Session(tmp_path, clock, trials=2)
    assert set(outcome(tmp_path)["files"]) == kept
    again.records.close()


def test_what_comes_after_the_end_is_ignored(tmp_path: Path, clock: Clock) -> None:
    session = Session(tmp_path, clock)
    engine = session.engine
    spec = engine.next()
    assert spec is not None
    engine.report(spec.id, EPOCHS, {METRIC: 0.5}, 1.0, True)
    count = session.records.count
    assert not engine.report(spec.id, EPOCHS, {METRIC: 0.5}, 1.0, True)
    engine.fail(spec.id, "error", "too late")
    engine.lost(spec.id, "too late")
    assert session.records.count == count
    assert engine.history.trials[spec.id].state == "completed"


def test_a_value_that_is_not_finite_is_no_value(tmp_path: Path, clock: Clock) -> None:
    session = Session(tmp_path, clock, trials=1)
    engine = session.engine
    spec = engine.next()
    assert spec is not None
    assert engine.report(spec.id, 1, {METRIC: math.nan}, 1.0, False)
    assert not engine.report(spec.id, 2, {METRIC: math.inf}, 1.0, True)
    assert engine.history.trials[spec.id].value(METRIC, "max") is None
    assert engine.history.best() is None
    assert outcome(tmp_path)["study"][0][:2] == (TrialState.PRUNED, None)


def test_a_smaller_grid_ends_the_search(tmp_path: Path, clock: Clock) -> None:
    grid = Space(
        "grid",
        params=(
            Param("model.width", Choice((8, 16)), {}, "model.width"),
            Param("optimizer.lr", Choice((0.1, 0.01, 0.001)), {}, "optimizer.lr"),
        ),
    )
    session = Session(tmp_path, clock, space=grid, sampler="grid", scheduler="none", trials=100)
    history = session.finish()
    drawn = [tuple(trial.params.values()) for trial in history.trials.values()]
    assert sorted(drawn) == sorted(itertools.product((8, 16), (0.1, 0.01, 0.001)))
    assert {trial.state for trial in history.trials.values()} == {"completed"}


@pytest.mark.parametrize("mode", ["max", "min"])
def test_checkpoints_of_losers_go_and_the_best_stay(
    tmp_path: Path, clock: Clock, mode: str
) -> None:
    session = Session(tmp_path, clock, trials=12, keep=2, mode=mode)
    while True:
        session.drive(slots=2, steps=1)
        history = session.engine.history
        ended = [t for t in history.ranked() if t.state in ("completed", "pruned")]
        best = {f"trials/{trial.id}/{BEST}" for trial in ended[:2]}
        running = {f"trials/{trial.id}/" for trial in session.engine.running}
        found = set(files(tmp_path))
        assert best <= found
        assert {name for name in found - best if not name.startswith(tuple(running))} == set()
        if not session.trainers:
            break
    assert len(files(tmp_path)) == 2


# --- time --------------------------------------------------------------------------------------


def test_the_time_budget_ends_the_search_and_its_trials_can_go_on(
    tmp_path: Path, clock: Clock
) -> None:
    session = Session(tmp_path, clock, time_budget=20.0, scheduler="none", experiment_for=possible)
    session.drive(slots=2)
    assert session.engine.used_up == "time budget of 20.0 s"
    assert session.engine.next() is None
    session.engine.close("completed", "time budget of 20 s")
    session.records.close()
    history = read_history(tmp_path)
    assert 20 <= history.seconds < 22
    stopped = [trial for trial in history.trials.values() if trial.state == "stopped"]
    assert len(stopped) == 2
    assert all((tmp_path / f"trials/{trial.id}/{LAST}").exists() for trial in stopped)
    assert {trial.state for trial in history.trials.values()} <= {*ENDED, "stopped"}


def test_time_counts_over_all_sessions_but_not_between_them(tmp_path: Path, clock: Clock) -> None:
    settings = {"trials": 100, "scheduler": "none", "experiment_for": possible}
    first = Session(tmp_path, clock, time_budget=30.0, **settings)
    first.drive(steps=12)
    first.engine.close("stopped", "interrupted")
    first.records.close()
    spent = read_history(tmp_path).seconds
    assert spent == pytest.approx(12, abs=1)
    clock.now += 10_000
    second = Session(tmp_path, clock, time_budget=30.0, **settings)
    assert second.engine.elapsed == pytest.approx(spent)
    second.drive()
    assert second.engine.elapsed == pytest.approx(30, abs=1)
    second.engine.close("completed", "time budget")
    second.records.close()
    # Nothing is left to do, so that a third session does not even start Ray.
    assert Session(tmp_path, clock, time_budget=30.0, **settings).engine.exhausted
    # A larger one goes on with the trial that was stopped.
    (stopped,) = [t for t in read_history(tmp_path).trials.values() if t.state == "stopped"]
    spec = Session(tmp_path, clock, time_budget=60.0, **settings).engine.next()
    assert spec is not None
    assert spec.id == stopped.id


# --- interruptions -----------------------------------------------------------------------------


def test_stopped_trials_go_on(
    tmp_path: Path, clock: Clock, whole: tuple[dict[str, Any], int]
) -> None:
    for steps in itertools.repeat(5):
        session = Session(tmp_path, clock)
        session.drive(steps=steps)
        if not session.trainers:
            break
        session.engine.close("stopped", "interrupted")
        session.records.close()
        history = read_history(tmp_path)
        assert history.state == "stopped"
        states = {trial.state for trial in history.trials.values()}
        assert "running" not in states
        assert "stopped" in states
    session.finish()
    assert outcome(tmp_path) == whole[0]


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_at_every_record_it_ends_as_if_nothing_had_happened(
    tmp_path: Path, clock: Clock, before: bool
) -> None:
    # Random draws take no time; that TPE draws the same again is seen below, and in test_sampler.
    settings = {"trials": 10, "sampler": "random", "seed": 5}
    whole = Session(tmp_path / "whole", clock, **settings)
    whole.finish()
    expected, count = outcome(tmp_path / "whole"), whole.records.count
    assert {ended for _, ended, *_ in expected["ranked"]} == set(ENDED)
    assert count > 30
    for deadline in range(2, count + 1):
        run = tmp_path / str(deadline)
        with pytest.raises(KilledError):
            Session(run, clock, deadline=deadline, before=before, **settings).finish()
        if deadline == count and not before:
            assert outcome(run) == expected
            continue
        finished = ends(run)
        Session(run, clock, **settings).finish()
        assert outcome(run) == expected, f"killed at record {deadline}"
        assert set(ends(run).values()) == {1}
        started = [r["id"] for r in after_the_first_session(run) if r["event"] == "trial_start"]
        assert not set(started) & set(finished), "a finished trial ran again"


def test_killed_again_and_again(
    tmp_path: Path, clock: Clock, whole: tuple[dict[str, Any], int]
) -> None:
    """Every session writes a few records and dies, mostly in the middle of a trial."""
    for deadline in itertools.cycle((4, 7, 5)):
        try:
            Session(tmp_path, clock, deadline=deadline).finish()
        except KilledError:
            continue
        break
    assert outcome(tmp_path) == whole[0]
    assert set(ends(tmp_path).values()) == {1}


@pytest.mark.parametrize("slots", [2, 3])
def test_killed_with_several_slots_nothing_is_lost_and_nothing_runs_twice(
    tmp_path: Path, clock: Clock, slots: int
) -> None:
    """The order of reports, and so what is drawn and pruned, is another one; the rules are not."""
    for deadline in range(3, 40, 5):
        run = tmp_path / str(deadline)
        first = Session(run, clock, deadline=deadline)
        with pytest.raises(KilledError):
            first.drive(slots)
        first.records.close()
        known = {trial.id: trial.reports for trial in read_history(run).trials.values()}
        finished = set(ends(run))
        second = Session(run, clock)
        second.drive(slots)
        history = second.finish()
        assert ends(run) == {f"{number:04d}": 1 for number in range(12)}
        assert all(history.trials[name].reports[: len(r)] == r for name, r in known.items())
        again = {r["id"] for r in after_the_first_session(run) if r["event"] == "trial_start"}
        assert not again & finished
        assert len(files(run)) == 2


@pytest.mark.slow
def test_records_that_were_lost_with_the_power_leave_no_hole(
    tmp_path: Path, clock: Clock, whole: tuple[dict[str, Any], int]
) -> None:
    """Checkpoints are on the disk at once, records a second later."""
    expected, count = whole
    for deadline in range(8, count, 7):
        run = tmp_path / str(deadline)
        with pytest.raises(KilledError):
            Session(run, clock, deadline=deadline).drive()
        records = (run / RECORDS).read_bytes().splitlines(keepends=True)
        (run / RECORDS).write_bytes(b"".join(records[: -1 - deadline % 5]))
        Session(run, clock).finish()
        assert outcome(run) == expected, deadline


@pytest.mark.parametrize("torn", [b"{", b'{"event": "report", "id": "0', b'{"event"}\n'])
def test_a_torn_last_line_is_cut_off(
    tmp_path: Path, clock: Clock, whole: tuple[dict[str, Any], int], torn: bytes
) -> None:
    session = Session(tmp_path, clock, deadline=25)
    with pytest.raises(KilledError):
        session.finish()
    with (tmp_path / RECORDS).open("ab") as file:
        file.write(torn)
    Session(tmp_path, clock).finish()
    assert outcome(tmp_path) == whole[0]


def test_a_rebuilt_study_holds_what_was_recorded_not_what_would_be_drawn(
    tmp_path: Path, clock: Clock
) -> None:
    Session(tmp_path, clock, trials=5, seed=1).finish()
    before = outcome(tmp_path)["study"]
    Session(tmp_path, clock, trials=5, seed=2).finish()
    assert outcome(tmp_path)["study"] == before


def test_a_larger_budget_adds_trials(
    tmp_path: Path, clock: Clock, whole: tuple[dict[str, Any], int]
) -> None:
    Session(tmp_path / "a", clock, trials=5).finish()
    assert len(read_history(tmp_path / "a").trials) == 5
    Session(tmp_path / "a", clock, trials=12).finish()
    found, expected = outcome(tmp_path / "a"), dict(whole[0])
    assert found == expected
    third = Session(tmp_path / "a", clock, trials=12)
    assert third.engine.exhausted


def test_a_trial_that_was_waiting_when_the_search_ended_is_stopped_not_running(
    tmp_path: Path, clock: Clock
) -> None:
    """Two trials ran when the driver died; the next session ends before it takes them up."""
    first = Session(tmp_path, clock, deadline=5)
    with pytest.raises(KilledError):
        first.drive(slots=2)
    first.records.close()
    second = Session(tmp_path, clock)
    second.engine.close("stopped", "interrupted")
    second.records.close()
    history: dict[str, TrialHistory] = read_history(tmp_path).trials
    assert {trial.state for trial in history.values()} <= {"stopped", *ENDED}
    third = Session(tmp_path, clock)
    waiting = [trial.id for trial in history.values() if trial.state == "stopped"]
    assert [third.engine.next().id for _ in waiting] == waiting  # type: ignore[union-attr]
