"""The engine with learning curves in place of training, a clock that tests turn, and no Ray.

`Trainer` stands for a trial's process: it keeps its epoch in `last.pt`, goes on from there, and
reports its checkpoint again when it does. A driver that is killed is a record writer that raises
after, or before, the record in question.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from raudio.config.axes import Choice, Interval
from raudio.config.schema import Search
from raudio.core.errors import ConfigError
from raudio.records import (
    BEST,
    JOURNAL,
    LAST,
    RECORDS,
    History,
    RecordWriter,
    TrialHistory,
    read_history,
    read_records,
    trial_folder,
)
from raudio.search.engine import Engine, TrialSpec
from raudio.search.sampler import Sampler
from raudio.search.scheduler import Scheduler
from raudio.search.space import Param, Space

METRIC = "valid/accuracy"
EPOCHS = 9
SPACE = Space(
    "test",
    params=(
        Param("model.width", Choice((8, 16, 99)), {}, "model.width"),
        Param("optimizer.lr", Interval(1e-4, 1.0, log=True), {}, "optimizer.lr"),
    ),
)
ENDED = ("completed", "pruned", "failed")


class KilledError(Exception):
    """The driver is gone."""


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("raudio.records.time.time", clock)
    return clock


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna's journal syncs every line to the disk, which takes most of the time."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


class Writer(RecordWriter):
    """Dies at a record: after it is on the disk, or just before."""

    def __init__(self, path: Path, deadline: float = math.inf, before: bool = False) -> None:
        super().__init__(path)
        self.deadline, self.before, self.count = deadline, before, 0

    def append(self, event: str, **fields: Any) -> dict[str, Any]:
        self.count += 1
        if self.before and self.count >= self.deadline:
            raise KilledError
        record = super().append(event, **fields)
        if self.count >= self.deadline:
            raise KilledError
        return record


def curve(params: Mapping[str, Any]) -> list[float]:
    """A trial's accuracy by epoch: best around lr 0.01, with a wobble of its own."""
    distance = abs(math.log10(params["optimizer.lr"]) + 2)
    level = 0.9 - 0.2 * distance + 0.02 * (params["model.width"] == 16)
    wobble = np.random.default_rng(int(params["optimizer.lr"] * 1e9)).normal(0, 0.005, EPOCHS)
    return [float(level * (1 - math.exp(-(e + 1) / 2)) + wobble[e]) for e in range(EPOCHS)]


def impossible(params: Mapping[str, Any]) -> Any:
    if params["model.width"] == 99:
        raise ConfigError("model.width=99 does not go with features.n_mels=8")
    return params


class Session:
    """One driver on a run folder, from opening it to its end or death."""

    def __init__(
        self,
        run: Path,
        clock: Clock,
        *,
        deadline: float = math.inf,
        before: bool = False,
        time_budget: float | None = None,
        experiment_for: Any = impossible,
        mode: str = "max",
        space: Space = SPACE,
        **settings: Any,
    ) -> None:
        self.run, self.clock, self.mode = run, clock, mode
        search = Search(**{"trials": 12, "keep": 2, "seed": 1, **settings})
        resumed = (run / RECORDS).exists()
        past = list(read_records(run)) if resumed else []
        history = read_history(run) if resumed else History()
        self.records = Writer(run / RECORDS, deadline, before)
        self.seen: list[Mapping[str, Any]] = []
        self.engine = Engine(
            run,
            search,
            sampler=Sampler(space, search, mode, run / JOURNAL),
            scheduler=Scheduler(search, mode, EPOCHS, 1),
            experiment_for=experiment_for,
            signature=lambda experiment: "signature",
            records=self.records,
            history=history,
            past=past,
            time_budget=time_budget,
            watch=self.seen.append,
            clock=clock,
        )
        self.engine.begin("0", METRIC, mode)
        self.trainers: dict[str, Trainer] = {}

    def drive(self, slots: int = 1, steps: float = math.inf, values: Any = curve) -> None:
        """Trains on `slots` until there is nothing left, or for some steps."""
        while steps > 0:
            while len(self.trainers) < slots and (spec := self.engine.next()) is not None:
                self.trainers[spec.id] = Trainer(self, spec, values)
            if not self.trainers or self.engine.broken or self.engine.out_of_time:
                return
            name = next(iter(self.trainers))
            trainer = self.trainers.pop(name)
            if trainer.step():
                self.trainers[name] = trainer  # behind the others
            steps -= 1

    def finish(self) -> History:
        self.drive()
        self.engine.close("completed", None)
        self.records.close()
        return read_history(self.run)


class Trainer:
    """A trial's process."""

    def __init__(self, session: Session, spec: TrialSpec, values: Any) -> None:
        self.session, self.id = session, spec.id
        self.folder = trial_folder(session.run, spec.id)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.values = values(session.engine.history.trials[spec.id].params)
        last = self.folder / LAST
        self.epoch = json.loads(last.read_text()) if last.exists() else 0
        self.repeat = self.epoch > 0

    def step(self) -> bool:
        """An epoch and its report, or that of the checkpoint again; whether it goes on."""
        if not self.repeat:
            self.epoch += 1
            self.session.clock.now += 1
            sign = -1 if self.session.mode == "min" else 1
            so_far = [sign * value for value in self.values[: self.epoch]]
            if so_far[-1] == max(so_far):
                (self.folder / BEST).write_text(json.dumps(self.epoch))
            (self.folder / LAST).write_text(json.dumps(self.epoch))
        self.repeat = False
        value = self.values[self.epoch - 1]
        return self.session.engine.report(
            self.id, self.epoch, {METRIC: value}, 1.0, self.epoch == EPOCHS
        )


def outcome(run: Path) -> dict[str, Any]:
    """All that a search leaves behind and that must not depend on interruptions."""
    history = read_history(run)
    storage = JournalStorage(JournalFileBackend(str(run / JOURNAL)))
    study = optuna.load_study(study_name="raudio", storage=storage)
    return {
        "state": history.state,
        "ranked": [
            (t.id, t.state, t.kind, t.reason, t.value(METRIC, history.mode), t.epochs, t.params)
            for t in history.ranked()
        ],
        "reports": {t.id: t.reports for t in history.trials.values()},
        "study": [(t.state, t.value, t.params, t.intermediate_values) for t in study.trials],
        "files": files(run),
    }


def files(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.glob("trials/*/*.pt"))


def ends(run: Path) -> Counter[str]:
    """How often each trial has ended for good."""
    return Counter(
        record["id"]
        for record in read_records(run)
        if record["event"] == "trial_end" and record["state"] in ENDED
    )


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
        engine.lost(spec.id, "no raudio there")
    assert engine.report(spec.id, 1, {METRIC: 0.5}, 1.0, False)  # it did start after all
    for _ in range(9):
        engine.lost(spec.id, "no raudio there")
    assert engine.broken is None
    engine.lost(spec.id, "no raudio there")
    assert engine.broken == "processes are lost before they report anything: no raudio there"
    assert engine.exhausted


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


# --- failures ----------------------------------------------------------------------------------


def run_failing(session: Session, reasons: list[tuple[str, str] | None]) -> int:
    """Trials that fail so, or complete (None); how many ran before the search broke."""
    for count, reason in enumerate(reasons, start=1):
        spec = session.engine.next()
        assert spec is not None
        if reason is None:
            session.engine.report(spec.id, EPOCHS, {METRIC: 0.5}, 1.0, True)
        else:
            session.engine.fail(spec.id, *reason)
        if session.engine.broken:
            return count
    return len(reasons)


def possible(params: Mapping[str, Any]) -> Any:
    return params


SAME = [("error", f"RuntimeError: step {n} of 1.5e-{n:02d} at {n / 7}") for n in range(6)]


def test_the_same_failure_of_the_first_trials_ends_the_search(tmp_path: Path, clock: Clock) -> None:
    session = Session(tmp_path, clock, max_failures=3, experiment_for=possible)
    assert run_failing(session, [*SAME]) == 3
    assert session.engine.broken == f"every trial fails: error: {SAME[0][1]}"


@pytest.mark.parametrize(
    "reasons",
    [
        [None, *SAME],
        [SAME[0], None, *SAME[1:]],
        [("error", "RuntimeError: one thing"), *SAME],
        [("bad data", SAME[0][1]), *SAME],
    ],
)
def test_other_failures_do_not(tmp_path: Path, clock: Clock, reasons: Any) -> None:
    session = Session(tmp_path, clock, max_failures=3, experiment_for=possible)
    assert run_failing(session, reasons) == len(reasons)
    assert session.engine.broken is None
    assert session.engine.next() is not None


def test_rates_and_steps_differ_where_the_error_is_the_same(tmp_path: Path, clock: Clock) -> None:
    said = "the loss is {} at step {} of 9 (learning rate {})"
    reasons: list[tuple[str, str] | None] = [
        ("non-finite loss", said.format(*numbers))
        for numbers in (("nan", 1, "100"), ("inf", 2, "3e+04"), ("-inf", 3, "0.5"))
    ]
    session = Session(tmp_path, clock, max_failures=3, experiment_for=possible)
    assert run_failing(session, reasons) == 3
    assert session.engine.broken


def test_a_search_of_one_trial_that_fails_has_failed(tmp_path: Path, clock: Clock) -> None:
    session = Session(tmp_path, clock, trials=1, experiment_for=possible)
    run_failing(session, [SAME[0]])
    assert session.engine.broken == f"every trial fails: error: {SAME[0][1]}"


def test_a_failed_trial_is_failed_whatever_it_reported(tmp_path: Path, clock: Clock) -> None:
    session = Session(tmp_path, clock, experiment_for=possible)
    spec = session.engine.next()
    assert spec is not None
    folder = trial_folder(tmp_path, spec.id)
    folder.mkdir(parents=True)
    for name in (LAST, BEST):
        (folder / name).write_text("1")
    session.engine.report(spec.id, 1, {METRIC: 0.99}, 1.0, False)
    session.engine.fail(spec.id, "non-finite loss", "the loss is nan at step 7")
    trial = session.engine.history.trials[spec.id]
    assert (trial.state, trial.kind) == ("failed", "non-finite loss")
    assert session.engine.history.best() is None
    assert files(tmp_path) == []


def test_settings_that_never_work_together_end_the_search(tmp_path: Path, clock: Clock) -> None:
    def never(params: Mapping[str, Any]) -> Any:
        raise ConfigError("features.f_max is above half the sample rate")

    session = Session(tmp_path, clock, trials=100, max_failures=3, experiment_for=never)
    assert session.engine.next() is None
    assert (
        session.engine.broken
        == "every trial fails: configuration: features.f_max is above half the sample rate"
    )
    assert len(session.engine.history.trials) == 3


# --- time --------------------------------------------------------------------------------------


def test_the_time_budget_ends_the_search_and_its_trials_can_go_on(
    tmp_path: Path, clock: Clock
) -> None:
    session = Session(tmp_path, clock, time_budget=20.0, scheduler="none", experiment_for=possible)
    session.drive(slots=2)
    assert session.engine.out_of_time
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


def after_the_first_session(run: Path) -> list[Mapping[str, Any]]:
    records = list(read_records(run))
    starts = [n for n, record in enumerate(records) if record["event"] == "search_start"]
    return records[starts[1] :] if len(starts) > 1 else []


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
