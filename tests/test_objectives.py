"""Searches with several objectives, limits and any sampler, through the engine: against Optuna's
own front, and killed on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from rich.console import Console
from search_kit import EPOCHS, METRIC, Clock, KilledError, Session, outcome, possible

from raudio.config.axes import Choice, Interval
from raudio.config.goal import Goal
from raudio.config.samplers import CMAES, NSGA
from raudio.config.schema import Search
from raudio.core.errors import ConfigError
from raudio.records import BEST, JOURNAL, read_history
from raudio.report import tables
from raudio.search.job import Job, check
from raudio.search.space import Param, Space

SPACE = Space(
    "numbers",
    params=(
        Param("model.width", Interval(4, 40, integer=True), {}, "model.width"),
        Param("optimizer.lr", Interval(1e-4, 1.0, log=True), {}, "optimizer.lr"),
        Param("seed", Choice((0, 1)), {}, "seed"),
    ),
)
SMALL = {"params < 32e3": ("cost/params",)}
BOTH = Goal({METRIC: "max", "cost/params": "min"}, SMALL)
GOOD = Goal({METRIC: "max"}, {**SMALL, "accuracy > 0.7": (METRIC,)})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    return clock


def session(run: Path, clock: Clock, goal: Goal = BOTH, **settings: Any) -> Session:
    return Session(
        run, clock, goal=goal, space=SPACE, experiment_for=possible, **{"trials": 16, **settings}
    )


def study_of(run: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(run / JOURNAL)))
    return optuna.load_study(study_name="raudio", storage=storage)


def test_the_front_of_a_run_is_optuna_s(tmp_path: Path, clock: Clock) -> None:
    history = session(tmp_path, clock, sampler="random", scheduler="none").finish()
    study = study_of(tmp_path)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    expected = {trial.user_attrs["trial"]: tuple(trial.values) for trial in study.best_trials}
    assert history.front() == expected
    assert 1 < len(expected) < 16
    data = tables.as_data(tmp_path, history)
    assert [one["id"] for one in data["front"]] == list(history.front())
    first = data["front"][0]
    assert first["id"] == data["best"]["id"]  # the first objective's best
    assert set(first["values"]) == {METRIC, "cost/params"}
    console = Console(width=200)
    with console.capture() as capture:
        console.print(tables.leaderboard(history))
    assert "cost/params" in capture.get()
    assert f"Pareto front of {METRIC}, cost/params: {first['id']}" in tables.summary(
        history, tmp_path
    )


def test_the_whole_front_can_be_exported(tmp_path: Path, clock: Clock) -> None:
    """Its checkpoints stay beside those of the best, and no others."""
    history = session(tmp_path, clock, sampler="random", scheduler="none", keep=1).finish()
    kept = {path.parent.name for path in tmp_path.glob(f"trials/*/{BEST}")}
    assert kept == set(history.front())
    assert len(kept) > 1


def test_no_trial_beats_the_best_in_every_respect(tmp_path: Path, clock: Clock) -> None:
    """Where several are equally good, the least costly is the best."""

    def equal(params: Any) -> list[float]:
        return [0.5] * EPOCHS

    one = session(tmp_path, clock, sampler="random", scheduler="none", keep=1)
    one.drive(values=equal)
    one.engine.close("completed", None)
    one.records.close()
    history = read_history(tmp_path)
    best = history.best()
    assert best is not None
    assert list(history.front()) == [best.id]
    whole = [trial for trial in history.trials.values() if trial.state == "completed"]
    assert best.costs["cost/params"] == min(trial.costs["cost/params"] for trial in whole)


def test_what_is_over_a_limit_from_the_start_trains_no_epoch(tmp_path: Path, clock: Clock) -> None:
    history = session(tmp_path, clock, sampler="random", scheduler="none").finish()
    over = [t for t in history.trials.values() if t.params["model.width"] >= 32]
    assert over
    told = {trial.user_attrs["trial"]: trial for trial in study_of(tmp_path).trials}
    for trial in history.trials.values():
        small = trial not in over
        assert history.broken_limits(trial) == ([] if small else ["params < 32e3"])
        assert (trial.state, trial.epochs) == (("completed", 9) if small else ("pruned", 0))
        assert trial.costs == {"cost/params": 1000.0 * trial.params["model.width"]}
        assert told[trial.id].constraints == {"params < 32e3": 0.0 if small else 1.0}
    assert over[0].reason == "over the limit"
    data = tables.as_data(tmp_path, history)
    marked = [trial["id"] for trial in data["trials"] if trial["broken_limits"]]
    assert sorted(marked) == sorted(trial.id for trial in over)


def test_the_best_trial_keeps_the_limits(tmp_path: Path, clock: Clock) -> None:
    """A limit on a metric that has to be above what most reach, and one that nothing reaches."""
    history = session(tmp_path / "a", clock, GOOD, sampler="random", scheduler="none").finish()
    measured = [t for t in history.trials.values() if t.state == "completed"]
    values = {t.id: t.value(METRIC, "max") or 0.0 for t in measured}
    assert min(values.values()) < 0.7 < max(values.values())
    best = history.best()
    assert best is not None
    assert best.id == max(values, key=values.__getitem__)
    ranked = [t.id for t in history.ranked() if t in measured]
    assert ranked == sorted(values, key=values.__getitem__, reverse=True)
    infeasible = [t for t in study_of(tmp_path / "a").trials if t.constraints["accuracy > 0.7"]]
    assert {t.user_attrs["trial"] for t in infeasible} == {t for t in values if values[t] <= 0.7}

    never = Goal({METRIC: "max"}, {"accuracy > 2": (METRIC,)})
    history = session(tmp_path / "b", clock, never, sampler="random", trials=4).finish()
    assert history.best() is None
    assert history.front() == {}
    assert f"no trial has a value of {METRIC} within accuracy > 2 yet" in tables.summary(
        history, tmp_path
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("goal", "settings"),
    [
        pytest.param(BOTH, {"sampler": "nsga2", "nsga": NSGA(population=3)}, id="nsga2"),
        pytest.param(BOTH, {"sampler": "tpe", "scheduler": "none"}, id="tpe, two objectives"),
        pytest.param(GOOD, {"sampler": "cmaes", "cmaes": CMAES(population=4)}, id="cmaes"),
        pytest.param(GOOD, {"sampler": "qmc"}, id="qmc"),
    ],
)
def test_killed_on_the_way_it_ends_as_if_nothing_had_happened(
    tmp_path: Path, clock: Clock, goal: Goal, settings: dict[str, Any]
) -> None:
    settings = {"scheduler": "none" if goal.several else "asha", "seed": 5, **settings}
    whole = session(tmp_path / "whole", clock, goal, **settings)
    whole.finish()
    expected, count = outcome(tmp_path / "whole"), whole.records.count
    assert len({state for _, state, *_ in expected["ranked"]}) > 1
    for deadline in range(3, count, 23):
        run = tmp_path / str(deadline)
        with pytest.raises(KilledError):
            session(run, clock, goal, deadline=deadline, **settings).finish()
        session(run, clock, goal, **settings).finish()
        assert outcome(run) == expected, f"killed at record {deadline}"
    assert read_history(run).goal == goal


def test_a_goal_is_recorded_as_text(tmp_path: Path, clock: Clock) -> None:
    session(tmp_path, clock, trials=1).finish()
    start = json.loads((tmp_path / "records.jsonl").read_text().splitlines()[0])
    assert start["objectives"] == {METRIC: "max", "cost/params": "min"}
    assert start["limits"] == {"params < 32e3": ["cost/params"]}


def test_the_scheduler_is_decided_by_the_number_of_objectives() -> None:
    def job_of(*overrides: str) -> Job:
        return check(overrides, echo=lambda line: None)

    assert job_of().configuration.search.scheduler == "asha"
    several = "search.objectives=[accuracy,params]"
    job = job_of(several)
    assert job.configuration.search.scheduler == "none"
    assert (job.metric, job.mode) == (METRIC, "max")
    with pytest.raises(ConfigError, match=r"search\.scheduler=asha compares trials by one value"):
        job_of(several, "search.scheduler=asha")
    with pytest.raises(ConfigError, match=r"search\.sampler=cmaes has one objective, not 2"):
        job_of(several, "search.sampler=cmaes")
    assert Search().scheduler == "auto"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["search.objectives=[accuracy,params]", "search.grace=2"],
            r"grace=2 is a setting of .*asha",
        ),
        (
            ["search.objectives=[accuracy,gpu_memory]", "resources.gpus=0"],
            r"measured on a GPU, .*none",
        ),
        (["training.metric=cost/params"], r"not measured on the valid split; name it as a further"),
    ],
)
def test_what_cannot_be_an_objective_or_compared_is_refused(
    overrides: list[str], said: str
) -> None:
    """A setting of ASHA, which several objectives switch off, was dropped in silence."""
    with pytest.raises(ConfigError, match=said):
        check(overrides, echo=lambda line: None)
