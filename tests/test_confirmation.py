"""What a confirmation tells, against scipy, the statistics module and hand computations."""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from raudio.records import History
from raudio.report.confirmation import confirmation, holm, welch
from raudio.report.markdown import summarise
from raudio.report.run import Point, Run
from raudio.report.sections import configurations, headline
from raudio.report.sections import leaderboard as page_leaderboard
from raudio.report.summary import sentences
from raudio.report.tables import as_data, leaderboard, summary

VALUES = st.lists(st.floats(0, 1).map(lambda x: round(x, 3)), min_size=2, max_size=8)


def history(
    confirmed: Mapping[str, Sequence[float]], seeds: int = 3, each: int = 1, mode: str = "max"
) -> History:
    """A search whose best configurations have been trained anew with these values."""
    found, time = History(), iter(range(10_000))

    def apply(event: str, **fields: Any) -> None:
        found.apply({"event": event, "time": float(next(time)), **fields})

    def train(name: str, value: float, **fields: Any) -> None:
        apply("trial_start", id=name, params={"a": 1}, signature="", **fields)
        apply("report", id=name, epoch=1, metrics={"m": value}, seconds=1, final=True)
        apply("trial_end", id=name, state="completed", kind=None, reason=None, seconds=1)

    apply("search_start", version="0", metric="m", mode=mode, trials=len(confirmed))
    for name in confirmed:
        train(name, 0.5)
    apply("confirmation", configurations=list(confirmed), seeds=seeds, each=each)
    for name, values in confirmed.items():
        for number, value in enumerate(values):
            more = {"configuration": name, "repeat": each + number, "confirms": name}
            train(f"{name}-{number}", value, **more)
    apply("search_end", state="completed", reason=None)
    return found


@settings(deadline=None)
@given(first=VALUES, second=VALUES)
def test_welch_is_scipys_where_that_has_an_answer(first: list[float], second: list[float]) -> None:
    if len(set(first)) > 1 or len(set(second)) > 1:
        expected = stats.ttest_ind(first, second, equal_var=False).pvalue
        assert welch(first, second) == pytest.approx(expected, nan_ok=False)
    else:
        assert welch(first, second) == float(first[0] == second[0])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]


@pytest.mark.parametrize("mode", ["max", "min"])
def test_each_has_mean_deviation_and_interval_and_the_best_is_first(mode: str) -> None:
    values = {"a": [0.7, 0.8, 0.75], "b": [0.9, 0.92, 0.91], "c": [0.4, 0.6, 0.5]}
    found = confirmation(history(values, mode=mode))
    assert found is not None
    assert found.complete
    order = ["b", "a", "c"] if mode == "max" else ["c", "a", "b"]
    assert [one.configuration for one in found.configurations] == order
    for one in found.configurations:
        own = values[one.configuration]
        assert one.values == tuple(own)
        assert one.mean == pytest.approx(statistics.mean(own))
        assert one.deviation == pytest.approx(statistics.stdev(own))
        expected = stats.t.interval(0.95, 2, statistics.mean(own), stats.sem(own))
        assert (one.low, one.high) == pytest.approx(expected)
    first, *others = found.configurations
    raw = [stats.ttest_ind(first.values, one.values, equal_var=False).pvalue for one in others]
    low, high = sorted(raw)
    corrected = {low: 2 * low, high: max(2 * low, high)}
    assert first.p is None
    assert [one.p for one in others] == pytest.approx([corrected[p] for p in raw])
    assert found.distinguishable == (corrected[raw[0]] < 0.05)


def test_two_are_not_corrected_and_what_cannot_be_told_is_said() -> None:
    found = confirmation(history({"a": [0.7, 0.8, 0.9], "b": [0.75, 0.8, 0.88]}))
    assert found is not None
    first, second = found.configurations
    expected = stats.ttest_ind(first.values, second.values, equal_var=False).pvalue
    assert second.p == pytest.approx(expected)
    assert found.distinguishable is False
    assert "cannot be told apart" in found.verdict
    assert "3 seeds show large differences only" in found.verdict


def test_a_seed_on_several_folds_counts_once() -> None:
    values = {"a": [0.6, 0.8, 0.7, 0.9], "b": [0.1, 0.3, 0.2, 0.2]}
    found = confirmation(history(values, seeds=2, each=2))
    assert found is not None
    assert found.configurations[0].values == pytest.approx((0.7, 0.8))
    assert found.configurations[1].values == pytest.approx((0.2, 0.2))


def test_one_that_has_not_ended_and_one_alone_decide_nothing() -> None:
    found = confirmation(history({"a": [0.7, 0.8], "b": [0.75]}, seeds=2))
    assert found is not None
    assert (found.complete, found.distinguishable) == (False, None)
    assert "raudio resume" in found.verdict
    found = confirmation(history({"a": [0.7, 0.8, 0.7]}))
    assert found is not None
    assert found.distinguishable is None
    assert confirmation(History()) is None


def test_status_has_it() -> None:
    known = history({"a": [0.7, 0.8, 0.75], "b": [0.9, 0.92, 0.91]})
    data = as_data("run", known)
    assert [one["configuration"] for one in data["confirmation"]["configurations"]] == ["b", "a"]
    assert data["confirmation"]["distinguishable"] is True
    assert data["best"]["id"] == "b-1"
    assert "b is better than a: p = " in summary(known, "run")
    assert as_data("run", History())["confirmation"] is None


def test_configurations_are_shown_by_mean_deviation_and_number() -> None:
    known = history({"a": [0.7, 0.8, 0.75], "b": [0.9, 0.92, 0.91]})
    console = Console(width=80, file=io.StringIO())
    console.print(leaderboard(known))
    titles, *rows = [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert titles == ["configuration", "m", "deviation", "n", "confirmed", "state", "settings"]
    assert rows == [
        ["b", "0.5", "-", "1", "0.91", "completed", "a=1"],
        ["a", "0.5", "-", "1", "0.75", "completed", "a=1"],
    ]
    assert "2 configurations, 8 trials (8 completed)" in summary(known, "run")
    data = as_data("run", known)
    assert [one["id"] for one in data["configurations"]] == ["b", "a"]
    assert data["configurations"][0]["confirming"] == ["b-0", "b-1", "b-2"]
    assert data["configurations"][0]["values"] == [0.5]
    assert {t["id"]: t["configuration"] for t in data["trials"]}["a-2"] == "a"


def test_a_repeated_configuration_has_a_deviation_and_its_trials_their_folds() -> None:
    known = History()
    start = {
        "version": "0",
        "metric": "m",
        "mode": "max",
        "trials": 2,
        "repeats": 4,
        "folds": [1, 3],
    }
    known.apply({"event": "search_start", "time": 0.0, **start})
    for number, value in enumerate([0.5, 0.7, 0.6]):
        name = f"000{number}"
        fields = {"id": name, "configuration": "0000", "repeat": number, "params": {}}
        known.apply({"event": "trial_start", "time": 1.0, **fields})
        report = {"id": name, "epoch": 1, "metrics": {"m": value}, "seconds": 1, "final": True}
        known.apply({"event": "report", "time": 2.0, **report})
        known.apply({"event": "trial_end", "time": 3.0, "id": name, "state": "completed"})
    data = as_data("run", known)
    (one,) = data["configurations"]
    assert (one["mean"], one["deviation"]) == pytest.approx((0.6, 0.1))
    assert one["state"] == "running"  # its fourth trial is to come
    folds = {trial["id"]: (trial["repeat"], trial["fold"]) for trial in data["trials"]}
    assert folds == {"0000": (0, 1), "0001": (1, 3), "0002": (2, 1)}
    assert "1 of 2 configurations, 3 trials" in summary(known, "run")


def test_the_report_has_the_confirmation_and_the_means() -> None:
    values = {"a": [0.7, 0.8, 0.75], "b": [0.9, 0.92, 0.91]}
    run = Run("run", Path("run"), history(values), (Point("b-1", 1, 0.92, 1, 1.0),))
    page = re.sub(r"<[^>]+>", " ", str(configurations(run)))
    for shown in ("b is better than a", "0.91", "0.01", "3 of 3", "95% interval", "p value"):
        assert shown in page
    lines = summarise(run).splitlines()
    assert "| configuration | mean | deviation | 95% interval | seeds | p value |" in lines
    low, high = stats.t.interval(0.95, 2, 0.91, stats.sem(values["b"]))
    assert f"| b | 0.91 | 0.01 | {low:.4g} to {high:.4g} | 3 of 3 | - |" in lines
    assert configurations(Run("run", Path("run"), History(), ())) is None


def test_the_page_speaks_of_the_configuration() -> None:
    """Its best trial alone may be worse than another of it, whose seed was lucky."""
    known = history({"a": [0.7, 0.8, 0.75], "b": [0.9, 0.92, 0.91]})
    points = tuple(
        Point(trial.id, 1, trial.value("m", "max"), n + 1, float(n))
        for n, trial in enumerate(known.trials.values())
    )
    run = Run("r", Path("r"), known, points)
    told = " ".join(sentences(run, []))
    assert "The best configuration is b: m 0.5 on average over 1 trial." in told
    low, high = stats.t.interval(0.95, 2, 0.91, 0.01 / 3**0.5)
    assert f"Fresh seeds gave it 0.91 on average (95% interval {low:.4g} to {high:.4g})." in told
    assert "Trial b-1 stands for it: m 0.92 at epoch 1." in told
    assert "It was reached after 7 of 8 epochs." in told
    assert "<dd>of 2, 8 trials</dd>" in headline(run)
    board = page_leaderboard(run)
    assert "All 8 trials, by the mean of their configuration" in board
