"""Identical experiments are answered from the record: not trained again, not counted, not lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from search_kit import EPOCHS, METRIC, SPACE, Clock, KilledError, Session, outcome, possible

from raudio.config.axes import Choice
from raudio.progress import line
from raudio.records import read_records

#: Two experiments in all.
TWO = replace(
    SPACE,
    params=(
        replace(SPACE.params[0], axis=Choice((8, 16))),
        replace(SPACE.params[1], axis=Choice((0.01,))),
    ),
)
SETTINGS: dict[str, Any] = {
    "space": TWO,
    "trials": 7,
    "scheduler": "none",
    "sampler": "random",
    "experiment_for": possible,
}


def test_an_experiment_is_trained_once(tmp_path: Path) -> None:
    session = Session(tmp_path, Clock(), **SETTINGS)
    trials = list(session.finish().trials.values())
    own = {trial.params["model.width"]: trial for trial in reversed(trials) if not trial.same_as}
    assert len(own) == 2
    assert sum(trial.same_as is None for trial in trials) == 2
    for trial in trials:
        first = own[trial.params["model.width"]]
        assert trial.state == "completed"
        assert [r.metrics for r in trial.reports] == [r.metrics for r in first.reports]
        if trial is not first:
            assert trial.same_as == first.id
            assert trial.reason == f"the same experiment as trial {first.id}"
            end = {"event": "trial_end", "id": trial.id}
            said = line(session.engine.history, end, tmp_path)
            assert f"completed (the same experiment as {first.id})  {METRIC}" in (said or "")
            assert trial.loop_seconds == 0.0
    assert session.engine.history.spent.epochs == 2 * EPOCHS
    assert len(session.trainers) == 0
    assert {path.name for path in (tmp_path / "trials").iterdir()} == {t.id for t in own.values()}


def test_unless_asked(tmp_path: Path) -> None:
    history = Session(tmp_path, Clock(), **SETTINGS, reuse=False).finish()
    assert all(trial.same_as is None for trial in history.trials.values())
    assert all(trial.loop_seconds == EPOCHS for trial in history.trials.values())


def test_answers_use_up_no_budget_of_epochs(tmp_path: Path) -> None:
    history = Session(tmp_path, Clock(), **SETTINGS, epochs_budget=2 * EPOCHS + 1).finish()
    assert len(history.trials) == 7


def test_what_failed_or_is_still_running_answers_nothing(tmp_path: Path) -> None:
    one = replace(TWO, params=(replace(TWO.params[0], axis=Choice((8,))), TWO.params[1]))
    session = Session(tmp_path, Clock(), **{**SETTINGS, "space": one})
    engine = session.engine
    first, second = engine.next(), engine.next()
    assert first is not None
    assert second is not None  # the first has not ended yet
    engine.fail(first.id, "error", "no luck")
    third = engine.next()
    assert third is not None
    assert engine.history.trials[third.id].same_as is None
    for epoch in range(1, EPOCHS + 1):
        engine.report(second.id, epoch, {METRIC: 0.5}, 1.0, epoch == EPOCHS)
    assert engine.next() is None  # all that are left are answered
    assert {t.same_as for t in list(engine.history.trials.values())[3:]} == {second.id}


@pytest.mark.slow
def test_killed_at_any_record_the_answers_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    whole = Session(tmp_path / "whole", clock, **SETTINGS)
    whole.finish()
    expected = outcome(tmp_path / "whole")
    for deadline in range(EPOCHS, whole.records.count, 5):
        run = tmp_path / str(deadline)
        with pytest.raises(KilledError):
            Session(run, clock, deadline=deadline, **SETTINGS).finish()
        Session(run, clock, **SETTINGS).finish()
        found = outcome(run)
        assert found["ranked"] == expected["ranked"], deadline
        assert found["reports"] == expected["reports"], deadline
        ids = [r["id"] for r in read_records(run) if r["event"] == "trial_end"]
        assert sorted(ids) == sorted(set(ids))
