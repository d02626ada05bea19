"""The journal against Optuna's own file backend, and its window by hand."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from raudio.search import journal
from raudio.search.journal import Journal


def fill(storage: JournalStorage, trials: int, directions: str = "maximize") -> optuna.Study:
    """A study in which every third trial is pruned, every seventh was enqueued, every tenth
    failed, and the last two run; the value of a trial is drawn."""
    study = optuna.create_study(storage=storage, study_name="raudio", direction=directions)
    draw = np.random.default_rng(0)
    for number in range(trials):
        study.sampler = optuna.samplers.RandomSampler(seed=number)
        if number % 7 == 0:
            study.enqueue_trial({"x": 0.25})
        trial = study.ask({"x": FloatDistribution(0, 1)})
        trial.set_user_attr("trial", str(number))
        value = float(draw.uniform())
        trial.report(value, 1)
        if number >= trials - 2:
            continue
        if number % 10 == 9:
            study.tell(trial, state=TrialState.FAIL)
        elif number % 3 == 2:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, value)
    return study


def facts(study: optuna.Study) -> list[tuple[Any, ...]]:
    return [
        (t.number, t.state, t.values, t.params, t.user_attrs, t.intermediate_values)
        for t in study.get_trials()
    ]


def test_its_file_is_one_of_optuna_and_holds_the_same_study(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    study = fill(Journal(ours), 30)
    expected = fill(JournalStorage(JournalFileBackend(str(theirs))), 30)
    read = optuna.load_study(
        study_name="raudio", storage=JournalStorage(JournalFileBackend(str(ours)))
    )
    assert facts(study) == facts(read) == facts(expected)
    assert len(ours.read_text().splitlines()) == len(theirs.read_text().splitlines())


def test_what_was_there_is_replaced(tmp_path: Path) -> None:
    fill(Journal(tmp_path / "file"), 3)
    assert len(fill(Journal(tmp_path / "file"), 5).trials) == 5


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_window_holds_the_last_the_best_and_the_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(journal, "BEST", 4)
    direction = "maximize" if mode == "max" else "minimize"
    seen = fill(Journal(tmp_path / "ours", 10, mode), 60, direction).get_trials()
    whole = fill(Journal(tmp_path / "all"), 60, direction).get_trials()
    ended = [t for t in whole if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    complete = [t for t in whole if t.state == TrialState.COMPLETE]
    best = sorted(complete, key=lambda t: t.value, reverse=mode == "max")[:4]
    running = [t for t in whole if t.state == TrialState.RUNNING]
    expected = {t.number for t in (*ended[-10:], *best, *running)}
    assert [t.number for t in seen] == sorted(expected)
    assert len(expected) > 10 + 2
    study = optuna.load_study(
        study_name="raudio", storage=JournalStorage(JournalFileBackend(str(tmp_path / "ours")))
    )
    assert len(study.trials) == 60  # the file has them all


@pytest.mark.slow
def test_memory_holds_what_is_seen_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "BEST", 4)

    def held(trials: int, window: int | None) -> int:
        """Trials and distributions that stay in memory with a study of so many trials."""
        gc.collect()
        gc.freeze()  # whatever else this process holds
        try:
            study = fill(Journal(tmp_path / "file", window), trials)
            gc.collect()
            kinds = (optuna.trial.FrozenTrial, FloatDistribution)
            found = sum(type(each) in kinds for each in gc.get_objects())
            assert study.directions  # it is still there
            return found
        finally:
            gc.unfreeze()

    for trials in (60, 120):
        assert (
            held(trials, 10) <= 10 + 4 + 2 + 1
        )  # the last, the best, the running; one distribution
    # Where all is seen, a trial is one object, and a setting's distribution one for all.
    assert held(120, None) == 120 + 1


def test_equal_values_beyond_the_best_are_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna's own memory knows the best trial, which may be the first of very many."""
    monkeypatch.setattr(journal, "BEST", 4)
    study = optuna.create_study(storage=Journal(tmp_path / "file", 2), direction="maximize")
    for _ in range(12):
        study.tell(study.ask({"x": FloatDistribution(0, 1)}), 1.0)
    assert [trial.number for trial in study.get_trials()] == [8, 9, 10, 11]


def test_one_of_several_objectives_is_no_value(tmp_path: Path) -> None:
    study = optuna.create_study(
        storage=Journal(tmp_path / "file", 1), directions=["maximize", "minimize"]
    )
    for _ in range(3):
        study.tell(study.ask({"x": FloatDistribution(0, 1)}), [1.0, 2.0])
    assert [trial.number for trial in study.get_trials()] == [2]
