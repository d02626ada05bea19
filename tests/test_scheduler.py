"""The scheduler against Ray Tune's ASHA driven as Tune drives it, and against rungs by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from raudio.config.schema import Search
from raudio.search.scheduler import Scheduler, grace_period


def scheduler(mode: str = "max", epochs: int = 9, grace: int = 1, **settings: Any) -> Scheduler:
    return Scheduler(Search(**settings), mode, epochs, grace)


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
    assert asha.rungs() == [(1, 6), (2, 0), (4, 0)]


def test_a_rung_of_losses_by_hand() -> None:
    asha = scheduler("min", epochs=4, reduction_factor=2)
    assert asha.report("a", 1, 0.5)
    assert not asha.report("b", 1, 0.6)
    assert asha.report("c", 1, 0.1)


def test_between_rungs_and_before_the_grace_nobody_is_stopped() -> None:
    asha = scheduler(epochs=27, grace=3)
    assert asha.rungs() == [(3, 0), (9, 0), (27, 0)]
    for epoch in range(1, 9):
        assert asha.report("good", epoch, 1.0)
    assert asha.report("bad", 1, 0.0)
    assert asha.report("bad", 2, 0.0)
    assert not asha.report("bad", 3, 0.0)
    assert asha.rungs() == [(3, 2), (9, 0), (27, 0)]


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
        (None, 12, 0.05, 2),  # a ninth of 12, rounded up
        (None, 27, 0.0, 3),
        (None, 10, 0.3, 4),  # the warm-up ends with epoch 3
        (None, 1, 0.0, 1),
        (None, 2, 1.0, 2),
        (5, 27, 0.0, 5),
        (50, 27, 0.0, 27),
    ],
)
def test_grace_period(grace: int | None, epochs: int, warmup: float, expected: int) -> None:
    assert grace_period(Search(grace=grace), epochs, warmup) == expected
