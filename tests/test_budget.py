"""Budgets of a search: each against a hand count, through the engine, and over several sessions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from search_kit import EPOCHS, METRIC, Clock, KilledError, Session, outcome, possible

from raudio.config import compose
from raudio.config.schema import Search
from raudio.core.errors import ConfigError
from raudio.records import History
from raudio.search.budget import Budget
from raudio.search.planner import trials_in_all


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    return clock


START = {"event": "search_start", "metric": METRIC, "mode": "max"}


def report(trial: str, epoch: int, value: float | None = None, **metrics: float) -> dict[str, Any]:
    metrics |= {} if value is None else {METRIC: value}
    return {"event": "report", "id": trial, "epoch": epoch, "metrics": metrics, "seconds": 2.0}


def end(trial: str, state: str = "completed") -> dict[str, Any]:
    return {"event": "trial_end", "id": trial, "state": state}


def after(search: Search, *records: dict[str, Any], mode: str = "max") -> str | None:
    history = History()
    for record in ({**START, "mode": mode}, *records):
        history.apply({"time": 0.0, **record})
    return Budget(search, None).used_up(history, 0.0)


def test_wall_time() -> None:
    budget = Budget(Search(), 90.0)
    assert budget.used_up(History(), 89.9) is None
    assert budget.used_up(History(), 90.0) == "time budget of 1 min 30 s"


def test_epochs_are_counted_once() -> None:
    search = Search(epochs_budget=5)
    four = [report("0", 1), report("0", 2), report("0", 3), report("1", 1)]
    assert after(search, *four, report("0", 3)) is None
    assert after(search, *four, report("1", 2)) == "budget of 5 epochs"


def test_cost_is_device_time_or_the_seconds_of_epochs() -> None:
    search = Search(cost_budget="10s")
    measured = {"cost/device_seconds": 4.0}
    assert after(search, report("0", 1, **measured), report("1", 1, **measured)) is None
    grown = report("0", 2, **{"cost/device_seconds": 6.5})  # of the trial so far, not of its epoch
    said = "cost budget of 10.0 s of device time"
    assert after(search, report("0", 1, **measured), report("1", 1, **measured), grown) == said
    assert after(search, *[report("0", epoch) for epoch in range(1, 5)]) is None
    assert after(search, *[report("0", epoch) for epoch in range(1, 6)]) == said


@pytest.mark.parametrize(("mode", "value"), [("max", 0.91), ("min", 0.89)])
def test_a_target_is_reached_from_the_right_side(mode: str, value: float) -> None:
    search = Search(target=0.9)
    other = 1.8 - value
    assert after(search, report("3", 1, other), mode=mode) is None
    assert after(search, report("3", 1, other), report("3", 2, value), mode=mode) == (
        f"target 0.9 reached: {METRIC} {value} of trial 3"
    )


def test_patience_counts_trials_that_ended_without_progress() -> None:
    search = Search(patience=2)
    best = [report("0", 1, 0.8), end("0")]
    assert after(search, *best, report("1", 1, 0.8), end("1", "pruned")) is None
    stale = [*best, report("1", 1, 0.8), end("1", "pruned"), end("2", "failed")]
    assert after(search, *stale) == "no progress in the last 2 trials"
    assert after(search, *best, end("1", "stopped"), end("2", "stopped")) is None
    assert after(search, *stale[:-1], report("2", 1, 0.81), end("2"), end("3", "failed")) is None


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"epochs_budget": 20}, "budget of 20 epochs"),
        ({"cost_budget": "20s"}, "cost budget of 20.0 s of device time"),
        ({"target": 0.8}, "target 0.8 reached"),
        ({"patience": 3}, "no progress in the last 3 trials"),
    ],
)
def test_a_budget_ends_the_search_and_a_larger_one_goes_on(
    tmp_path: Path, clock: Clock, settings: dict[str, Any], reason: str
) -> None:
    common = {"scheduler": "none", "trials": None, "experiment_for": possible}
    session = Session(tmp_path, clock, **common, **settings)
    session.drive(slots=2)
    assert session.engine.used_up is not None
    assert session.engine.used_up.startswith(reason)
    assert session.engine.exhausted
    running = {trial.id for trial in session.engine.running}
    assert running
    session.engine.close("completed", session.engine.used_up)
    session.records.close()
    assert Session(tmp_path, clock, **common, **settings).engine.used_up is not None
    more = Session(tmp_path, clock, **common, epochs_budget=1000)
    spec = more.engine.next()
    assert spec is not None
    assert spec.id in running


@pytest.mark.slow
def test_a_search_killed_at_any_record_ends_by_the_same_budget(
    tmp_path: Path, clock: Clock
) -> None:
    settings = {"trials": None, "epochs_budget": 30, "experiment_for": possible}

    def ended(run: Path, deadline: float) -> int:
        session = Session(run, clock, deadline=deadline, **settings)
        session.drive()
        session.engine.close("completed", session.engine.used_up)
        session.records.close()
        return session.records.count

    count = ended(tmp_path / "whole", math.inf)
    expected = outcome(tmp_path / "whole")
    assert sum(len(reports) for reports in expected["reports"].values()) == 30
    for deadline in range(2, count, 7):
        run = tmp_path / str(deadline)
        with pytest.raises(KilledError):
            ended(run, deadline)
        ended(run, math.inf)
        assert outcome(run)["reports"] == expected["reports"]


def test_another_budget_takes_the_place_of_a_number_of_trials() -> None:
    assert trials_in_all(Search()) == trials_in_all(Search(target=0.9)) == 20
    for budget in ({"epochs_budget": EPOCHS}, {"cost_budget": "1h"}, {"patience": 5}):
        assert trials_in_all(Search(**budget)) is None
        assert trials_in_all(Search(trials=7, **budget)) == 7


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("search.cost_budget=5x", "search.cost_budget='5x' is not a time"),
        ("search.epochs_budget=0", "search.epochs_budget=0"),
        ("search.patience=0", "search.patience=0"),
        ("search.target=high", "search.target=high"),
    ],
)
def test_budgets_that_cannot_be(override: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose.compose([override])
    assert part in str(caught.value)
