"""Objectives and limits: what a search is after, against Optuna's Pareto front and by hand."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raudio.config.goal import Goal, goal_of, recorded_goal
from raudio.config.schema import Search
from raudio.core.errors import ConfigError

MODES = {"valid/accuracy": "max", "valid/uar": "max", "valid/loss": "min"}


def goal(metric: str | None = None, **settings: Any) -> Goal:
    return goal_of(Search(**settings), metric, MODES)


def test_without_objectives_it_is_the_metric_or_the_task_s_first() -> None:
    assert goal().objectives == {"valid/accuracy": "max"}
    assert goal("valid/loss").objectives == {"valid/loss": "min"}
    assert not goal().several


def test_short_names_and_modes() -> None:
    found = goal(objectives=("uar", "params", "cost/latency"), limits=("params < 1e6",))
    assert found.objectives == {"valid/uar": "max", "cost/params": "min", "cost/latency": "min"}
    assert list(found.objectives) == ["valid/uar", "cost/params", "cost/latency"]
    assert found.limits == {"params < 1e6": ("cost/params",)}
    assert found.several
    assert found.measures_latency
    assert goal(limits=("latency < 0.1",)).measures_latency
    assert not goal(objectives=("uar", "params")).measures_latency


@pytest.mark.parametrize(
    ("metric", "settings", "message"),
    [
        (None, {"objectives": ("uarr",)}, "unknown metric 'uarr' .*closest: 'uar'"),
        (None, {"objectives": ("cost/parms",)}, "closest: 'cost/params'"),
        (None, {"objectives": ("params", "uar")}, "put valid/accuracy first"),
        (None, {"objectives": ("uar", "valid/uar")}, "names one twice"),
        ("valid/loss", {"objectives": ("uar", "loss")}, "leave training.metric out"),
        ("valid/los", {}, "closest: 'valid/loss'"),
        (None, {"limits": ("parms < 1e6",)}, "search.limits: .*'parms'.*closest: 'cost/params'"),
        (None, {"limits": ("params <",)}, "something is missing"),
    ],
)
def test_refusals(metric: str | None, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        goal(metric, **settings)


def test_limits_by_hand() -> None:
    found = goal(limits=("params < 1e6", "valid/uar > 0.8"))
    assert found.broken({"cost/params": 999_999.0, "valid/uar": 0.81}) == []
    assert found.broken({"cost/params": 1e6, "valid/uar": 0.8}) == list(found.limits)
    assert found.broken({"cost/params": 2e6}) == ["params < 1e6"]  # nothing is known of the other


def test_a_goal_survives_its_record() -> None:
    found = goal(objectives=("uar", "params"), limits=("params < 1e6",))
    record = {
        "metric": "valid/uar",
        "mode": "max",
        "objectives": dict(found.objectives),
        "limits": {limit: list(names) for limit, names in found.limits.items()},
    }
    assert recorded_goal(record) == found
    old = {"metric": "valid/loss", "mode": "min"}  # a run of an earlier version
    assert recorded_goal(old) == Goal({"valid/loss": "min"})


@given(
    st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 3), max_size=12),
    st.tuples(*[st.sampled_from(("max", "min"))] * 3),
)
def test_the_front_is_optuna_s(points: list[tuple[float, ...]], modes: tuple[str, ...]) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=[f"{mode}imize" for mode in modes])
    for point in points:
        study.add_trial(optuna.trial.create_trial(values=list(point)))
    ours = Goal(dict(zip("abc", modes, strict=True))).front(dict(enumerate(points)))
    assert sorted(ours) == [trial.number for trial in study.best_trials]
    if ours:  # the best in the first objective comes first
        first = [points[number][0] for number in ours]
        assert first == sorted(first, reverse=modes[0] == "max")
