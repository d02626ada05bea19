"""The schedulers against Ray Tune's, driven as Tune drives them, and against hand computations."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler
from scipy.stats import chisquare

from raudio.config import compose
from raudio.config.schema import ASHA, Median, Search
from raudio.core.errors import ConfigError
from raudio.search.brackets import allocation
from raudio.search.scheduler import Scheduler, grace_period


def scheduler(mode: str = "max", epochs: int = 9, grace: int = 1, **settings: Any) -> Scheduler:
    return Scheduler(Search(**{"reduction_factor": 3, **settings}), mode, epochs, grace)


def curves(trials: int, epochs: int, seed: int = 0) -> np.ndarray:
    """Values that rise, by (trial, epoch)."""
    draw = np.random.default_rng(seed)
    levels = draw.uniform(size=(trials, 1))
    noise = draw.normal(0, 0.01, (trials, epochs))
    return levels * (1 - np.exp(-np.arange(1, epochs + 1) / 3)) + noise


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("slots", [1, 3])
def test_decides_as_ray_does(mode: str, slots: int) -> None:
    """The same reports, trials interleaved on some slots, give Ray's decisions one by one."""
    trials, epochs, grace = 20, 9, 1
    values = curves(trials, epochs)
    ray = AsyncHyperBandScheduler(
        time_attr="training_iteration",
        metric="m",
        mode=mode,
        max_t=epochs,
        grace_period=grace,
        reduction_factor=3,
    )
    ours = scheduler(mode, epochs, grace)
    waiting = [SimpleNamespace(trial_id=f"{number:04d}") for number in range(trials)]
    running: list[tuple[Any, int]] = []
    stopped = []
    while waiting or running:
        while waiting and len(running) < slots:
            trial = waiting.pop(0)
            ray.on_trial_add(None, trial)
            running.append((trial, 1))
        trial, epoch = running.pop(0)
        value = float(values[int(trial.trial_id), epoch - 1])
        verdict = ray.on_trial_result(None, trial, {"training_iteration": epoch, "m": value})
        goes_on = verdict == TrialScheduler.CONTINUE
        if epoch < epochs:
            assert ours.report(trial.trial_id, epoch, value) == goes_on, (trial, epoch)
        if goes_on and epoch < epochs:
            running.append((trial, epoch + 1))
        elif epoch < epochs:
            stopped.append(trial.trial_id)
    assert trials // 3 < len(stopped) < trials  # the comparison saw both answers


def test_a_rung_by_hand() -> None:
    """Reduction by 2: a trial goes on when it reaches the median of those who came there before.

    The medians that b to f meet: 0.5 alone; 0.45 of (0.4, 0.5); 0.5 of (0.4, 0.5, 0.9); 0.55 of
    (0.4, 0.5, 0.6, 0.9), which is enough for e; 0.55 again.
    """
    asha = scheduler(epochs=4, reduction_factor=2)
    assert asha.report("a", 1, 0.5)
    assert not asha.report("b", 1, 0.4)
    assert asha.report("c", 1, 0.9)
    assert asha.report("d", 1, 0.6)
    assert asha.report("e", 1, 0.55)
    assert not asha.report("f", 1, 0.5)
    assert asha.rungs() == [(1, 6), (2, 0)]


def test_a_rung_of_losses_by_hand() -> None:
    asha = scheduler("min", epochs=4, reduction_factor=2)
    assert asha.report("a", 1, 0.5)
    assert not asha.report("b", 1, 0.6)
    assert asha.report("c", 1, 0.1)


def test_between_rungs_and_before_the_grace_nobody_is_stopped() -> None:
    asha = scheduler(epochs=27, grace=3)
    assert asha.rungs() == [(3, 0), (9, 0)]
    for epoch in range(1, 9):
        assert asha.report("good", epoch, 1.0)
    assert asha.report("bad", 1, 0.0)
    assert asha.report("bad", 2, 0.0)
    assert not asha.report("bad", 3, 0.0)
    assert asha.rungs() == [(3, 2), (9, 0)]


def test_a_rung_between_two_epochs_is_met_at_the_later() -> None:
    asha = scheduler(epochs=10, reduction_factor=2.5)  # rungs at 1, 2.5 and 6.25 epochs
    assert [epoch for epoch, _ in asha.rungs()] == [1, 3, 7]
    for epoch, compared in ((1, 0), (2, 0), (3, 1)):
        asha.report("a", epoch, 1.0)
        assert asha.rungs()[1] == (3, compared)


@pytest.mark.parametrize(
    ("grace", "epochs", "factor"), [(1, 9, 3), (1, 10, 2.5), (2, 12, 3), (3, 27, 3), (1, 2, 4)]
)
def test_the_milestones_are_where_tune_lays_its_rungs(
    grace: int, epochs: int, factor: float
) -> None:
    asha = scheduler(epochs=epochs, grace=grace, reduction_factor=factor)
    assert asha.milestones() == [epoch for epoch, _ in asha.rungs() if epoch < epochs]


def test_without_early_stopping_there_are_no_milestones() -> None:
    assert scheduler(scheduler="none").milestones() == []
    assert scheduler(epochs=3, grace=3).milestones() == []


def test_none_stops_nobody() -> None:
    none = scheduler(scheduler="none")
    assert all(none.report(f"{n:04d}", epoch, -n) for n in range(9) for epoch in range(1, 10))
    assert none.rungs() == []


def test_a_grace_of_all_epochs_stops_nobody() -> None:
    asha = scheduler(epochs=3, grace=3)
    assert all(asha.report(f"{n:04d}", epoch, -n) for n in range(9) for epoch in (1, 2, 3))


def test_replay_gives_the_same_rungs_and_the_same_decisions() -> None:
    values = curves(30, 9, seed=1)
    first, known, later = scheduler(), [], []
    for number in range(30):
        for epoch in range(1, 9):
            entry = (f"{number:04d}", epoch, float(values[number, epoch - 1]))
            goes_on = first.report(*entry)
            (known if number < 15 else later).append((entry, goes_on))
            if not goes_on:
                break
    again = scheduler()
    for entry, goes_on in [*known, *later]:
        assert again.report(*entry) == goes_on
    assert again.rungs() == first.rungs()
    # An empty scheduler, as Tune's own after a restore, would have decided otherwise.
    fresh = scheduler()
    assert [fresh.report(*entry) for entry, _ in later] != [goes_on for _, goes_on in later]


@pytest.mark.parametrize(
    ("grace", "epochs", "warmup", "expected"),
    [
        (None, 9, 0.0, 1),
        (None, 17, 0.05, 2),  # a sixteenth of 17, rounded up
        (None, 33, 0.0, 3),
        (None, 10, 0.3, 4),  # the warm-up ends with epoch 3
        (None, 1, 0.0, 1),
        (None, 2, 1.0, 2),
        (5, 27, 0.0, 5),
        (50, 27, 0.0, 27),
    ],
)
def test_grace_period(grace: int | None, epochs: int, warmup: float, expected: int) -> None:
    assert grace_period(Search(grace=grace), epochs, warmup) == expected


# --- brackets ----------------------------------------------------------------------------------


def test_hyperband_s_table() -> None:
    """Li et al., JMLR 2018, Table 1: R = 81, eta = 3. A bracket's first rung is its r_i."""
    brackets = scheduler(epochs=81, scheduler="hyperband").brackets
    assert brackets == [[1, 3, 9, 27], [3, 9, 27], [9, 27], [27], []]
    assert allocation(5, 4, 3) == [81, 34, 15, 8, 5]
    # Each of Hyperband's brackets trains about as many epochs: B = 5 R, were its trials halved.
    for trials, first in zip(allocation(5, 4, 3), (1, 3, 9, 27, 81), strict=True):
        rungs = [(trials // 3**i) * first * 3**i for i in range(5) if first * 3**i <= 81]
        assert 0.6 * 405 <= sum(rungs) <= 405


@given(st.integers(1, 7), st.integers(2, 10))
def test_hyperband_s_allocation_is_that_of_exact_arithmetic(last: int, factor: int) -> None:
    exact = [-(-(last + 1) * factor**s // (s + 1)) for s in range(last, -1, -1)]
    assert allocation(last + 1, last, factor) == exact


def test_a_trial_s_bracket_is_drawn_from_the_seed_and_its_id() -> None:
    ids = [f"{number:04d}" for number in range(4000)]
    drawn = [scheduler(epochs=81, scheduler="hyperband").bracket(trial) for trial in ids]
    np.random.seed(1)  # Tune draws brackets from here
    assert [scheduler(epochs=81, scheduler="hyperband").bracket(trial) for trial in ids] == drawn
    other = scheduler(epochs=81, scheduler="hyperband", seed=1)
    assert [other.bracket(trial) for trial in ids] != drawn
    counts = np.bincount(drawn)
    assert chisquare(counts, np.array([81, 34, 15, 8, 5]) / 143 * 4000).pvalue > 0.01


@pytest.mark.parametrize("mode", ["max", "min"])
def test_brackets_decide_as_ray_s_when_trials_are_in_the_same(mode: str) -> None:
    """Tune's own brackets, told which trial is in which, in place of its draw."""
    trials, epochs = 60, 27
    values = curves(trials, epochs)
    ray = AsyncHyperBandScheduler(
        time_attr="epoch",
        metric="m",
        mode=mode,
        max_t=epochs,
        reduction_factor=3,
        brackets=4,
        stop_last_trials=False,
    )
    ours = scheduler(mode, epochs, scheduler="hyperband")
    ids = [f"{number:04d}" for number in range(trials)]
    for trial in ids:
        ray._trial_info[trial] = ray._brackets[ours.bracket(trial)]
    running, stopped = [(trial, 1) for trial in ids], set()
    while running:
        trial, epoch = running.pop(0)
        value = float(values[int(trial), epoch - 1])
        stand_in = SimpleNamespace(trial_id=trial)
        goes_on = ray.on_trial_result(None, stand_in, {"epoch": epoch, "m": value}) == "CONTINUE"
        assert ours.report(trial, epoch, value) == goes_on
        if goes_on and epoch < epochs - 1:
            running.append((trial, epoch + 1))
        elif not goes_on:
            stopped.add(ours.bracket(trial))
    assert stopped == {0, 1, 2}  # the last bracket stops nobody
    for place, bracket in enumerate(ray._brackets):
        known = {int(epoch): len(values) for epoch, values in bracket._rungs}
        assert {e: n for e, n in ours.rungs(place) if e < epochs} == {
            e: n for e, n in known.items() if e < epochs
        }


def test_two_brackets_of_asha() -> None:
    asha = Scheduler(Search(reduction_factor=3, asha=ASHA(brackets=2)), "max", 27, 1)
    assert asha.brackets == [[1, 3, 9], [3, 9]]
    assert {asha.bracket(f"{number:04d}") for number in range(40)} == {0, 1}
    assert asha.milestones() == [1, 3, 9]


@pytest.mark.parametrize(("grace", "most"), [(1, 4), (3, 3), (26, 2), (27, 1)])
def test_more_brackets_than_rungs_are_refused(grace: int, most: int) -> None:
    asha = Scheduler(Search(reduction_factor=3, asha=ASHA(brackets=most)), "max", 27, grace)
    assert len(asha.brackets) == (most if most > 1 else 0)
    with pytest.raises(ConfigError, match=rf"={most + 1} is too many: .* give at most {most}$"):
        Scheduler(Search(reduction_factor=3, asha=ASHA(brackets=most + 1)), "max", 27, grace)


# --- median ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize(("grace", "min_samples"), [(1, 3), (3, 1), (2, 5)])
def test_the_median_rule_decides_as_ray_s(mode: str, grace: int, min_samples: int) -> None:
    trials, epochs, slots = 40, 9, 4
    values = curves(trials, epochs) * (-1 if mode == "min" else 1)
    ray = MedianStoppingRule(
        time_attr="epoch",
        metric="m",
        mode=mode,
        grace_period=grace,
        min_samples_required=min_samples,
        min_time_slice=epochs,  # never asks Tune who waits
    )
    ours = scheduler(
        mode, epochs, grace, scheduler="median", median=Median(min_samples=min_samples)
    )
    waiting = [Trial(f"{number:04d}") for number in range(trials)]
    running: list[tuple[Trial, int]] = []
    stopped = 0
    while waiting or running:
        while waiting and len(running) < slots:
            running.append((waiting.pop(0), 1))
            ray.on_trial_add(None, running[-1][0])
            ray._last_pause[running[-1][0]] = 0
        trial, epoch = running.pop(0)
        value = float(values[int(trial.trial_id), epoch - 1])
        goes_on = ray.on_trial_result(None, trial, {"epoch": epoch, "m": value}) == "CONTINUE"
        assert ours.report(trial.trial_id, epoch, value) == goes_on, (trial, epoch)
        stopped += not goes_on
        if goes_on and epoch < epochs:
            running.append((trial, epoch + 1))
    assert trials // 4 < stopped < trials


@dataclass(frozen=True)
class Trial:
    """What the median rule of Tune wants of a trial."""

    trial_id: str


def test_the_median_by_hand() -> None:
    """Averages up to epoch 2 of a, b, c: 0.3, 0.5, 0.7. A best value of 0.5 is enough."""
    rule = scheduler(scheduler="median")
    for trial, low, high in (("a", 0.2, 0.4), ("b", 0.4, 0.6), ("c", 0.6, 0.8)):
        assert rule.report(trial, 1, low)
        assert rule.report(trial, 2, high)
    assert rule.report("d", 1, 0.5)
    assert rule.report("d", 2, 0.1)  # its best counts, not its last
    assert rule.report("e", 1, 0.49)  # of 0.2, 0.4, 0.6 and 0.5
    assert rule.report("e", 2, 0.3)  # 0.49 against 0.4, of 0.3, 0.3, 0.5 and 0.7
    assert not rule.report("f", 2, 0.39)  # of 0.3, 0.3, 0.395, 0.5 and 0.7


# --- properties of all -------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["asha", "hyperband", "median"]),
    st.sampled_from(["max", "min"]),
    st.lists(st.lists(st.floats(0, 0.9), min_size=9, max_size=9), min_size=1, max_size=12),
    st.integers(0, 12),
)
def test_a_trial_that_is_always_the_best_is_never_stopped(
    kind: str, mode: str, others: list[list[float]], place: int
) -> None:
    best = [0.91 + 0.01 * epoch for epoch in range(9)]
    trials = [*others[:place], best, *others[place:]]
    sign = -1 if mode == "min" else 1
    judge = scheduler(mode, 9, scheduler=kind)
    going = set(range(len(trials)))
    for epoch in range(1, 9):
        for number in sorted(going):
            if not judge.report(f"{number:04d}", epoch, sign * trials[number][epoch - 1]):
                going.discard(number)
    assert min(place, len(others)) in going


@pytest.mark.parametrize("kind", ["asha", "hyperband", "median"])
def test_nobody_is_stopped_before_the_grace(kind: str) -> None:
    judge = scheduler(epochs=27, grace=4, scheduler=kind)
    for number in range(30):
        assert all(judge.report(f"{number:04d}", epoch, -number) for epoch in (1, 2, 3))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("asha.brackets=2 scheduler=median", "asha, but search.scheduler=median"),
        ("median.min_samples=5", "median, but search.scheduler=auto"),
        ("pbt.interval=3 scheduler=hyperband", "pbt, but search.scheduler=hyperband"),
        (
            "grace=2 scheduler=none",
            "asha or hyperband or median or pbt, but search.scheduler=none",
        ),
        ("reduction_factor=2.5 scheduler=median", "asha or hyperband, but search.scheduler=median"),
    ],
)
def test_settings_of_another_scheduler_are_refused(given: str, said: str) -> None:
    overrides = [f"search.{each}" for each in given.split()]
    with pytest.raises(ConfigError) as caught:
        compose.compose(overrides)
    assert str(caught.value).startswith(f"{overrides[0]} is a setting of search.scheduler={said};")


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("factor", [2, 3, 3.7, 4])
def test_equal_values_are_judged_as_ray_judges_them(mode: str, factor: float) -> None:
    """Accuracies are shares of a few clips: many are equal, and the last bit decides."""
    values = np.random.default_rng(1).integers(0, 30, 400) / 30
    ray = AsyncHyperBandScheduler(
        time_attr="epoch", metric="m", mode=mode, max_t=9, reduction_factor=factor
    )
    ours = scheduler(mode, 9, 1, reduction_factor=factor)
    for number, value in enumerate(values):
        trial = SimpleNamespace(trial_id=f"{number:04d}")
        ray.on_trial_add(None, trial)
        verdict = ray.on_trial_result(None, trial, {"epoch": 1, "m": float(value)})
        assert ours.report(trial.trial_id, 1, float(value)) == (verdict == TrialScheduler.CONTINUE)


@pytest.mark.parametrize(
    ("settings", "epochs", "grace", "note"),
    [
        ({}, 12, 1, "asha: rungs at epochs 1, 3, 9 of 12; one in 3 passes each"),
        ({}, 1, 1, "asha stops nobody: it begins at epoch 1, the last of a trial"),
        ({}, 4, 4, "asha stops nobody: it begins at epoch 4, the last of a trial"),
        (
            {"asha": ASHA(brackets=2)},
            27,
            2,
            "asha: 2 brackets, with rungs at epochs 2, 6, 18; epochs 6, 18 of 27; one in 3 passes "
            "each",
        ),
        (
            {"scheduler": "hyperband"},
            8,
            2,
            "hyperband: 3 brackets, with rungs at epochs 2, 6; epoch 6 of 8, and one that stops "
            "nobody; one in 3 passes each",
        ),
        ({"scheduler": "median"}, 8, 2, "median: compares after each epoch from 2 on"),
        ({"scheduler": "median"}, 2, 2, "median stops nobody: it begins at epoch 2"),
    ],
)
def test_what_is_compared_when_is_said(
    settings: dict[str, Any], epochs: int, grace: int, note: str
) -> None:
    said = scheduler(epochs=epochs, grace=grace, **settings).note
    assert said is not None
    assert said.startswith(f"search.scheduler={note}")


def test_nothing_is_said_where_nothing_is_compared() -> None:
    assert scheduler(scheduler="none").note is None
