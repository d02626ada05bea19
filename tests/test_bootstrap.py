"""Intervals by the bootstrap: against SciPy, closed forms, and what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torchmetrics.functional.classification import (
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from raudio.tasks import bootstrap
from raudio.tasks.counts import Counts


def over_clips(
    values: np.ndarray, groups: np.ndarray | None = None, draws: int = 4000
) -> tuple[float, float]:
    """The interval of the mean."""
    positions = bootstrap.resamples(len(values), draws=draws, groups=groups)
    found = bootstrap.interval(np.array([values[one].mean() for one in positions]))
    assert found is not None
    return found


def test_an_interval_is_scipy_s() -> None:
    values = np.random.default_rng(0).gamma(1.5, size=120)
    reference = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    width = reference.high - reference.low
    assert over_clips(values) == pytest.approx(tuple(reference), abs=0.04 * width)


def test_an_interval_covers_what_it_promises() -> None:
    """Of 200 samples whose true share is known, about 95 % of the intervals have it inside."""
    draw = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        low, high = over_clips((draw.random(150) < 0.8).astype(float), draws=200)
        inside += low <= 0.8 <= high
    assert 0.9 < inside / 200 < 0.985


def test_the_matrix_alone_gives_what_the_clips_give() -> None:
    """Metrics of clips that are drawn one by one, and of multinomial draws of their cells."""
    draw = np.random.default_rng(0)
    true = draw.integers(0, 4, 300)
    predicted = np.where(draw.random(300) < 0.7, true, draw.integers(0, 4, 300))
    confusion = np.zeros((5, 5), int)  # a fifth class that never occurs
    np.add.at(confusion, (true, predicted), 1)

    drawn = []
    for positions in bootstrap.resamples(300, draws=3000):
        one = np.zeros((5, 5), int)
        np.add.at(one, (true[positions], predicted[positions]), 1)
        drawn.append(one)
    counts = Counts.of(np.array(drawn))
    found = bootstrap.counts_of_draws(confusion, draws=3000)
    assert found.true.sum(1).tolist() == [300.0] * 3000
    for name, values in found.metrics().items():
        direct = counts.metrics()[name]
        assert values.mean() == pytest.approx(direct.mean(), abs=0.003), name
        assert bootstrap.interval(values) == pytest.approx(bootstrap.interval(direct), abs=0.006)
    assert np.isnan(found.f1[:, 4]).all()
    assert found.f1[:, 2].std() == pytest.approx(counts.f1[:, 2].std(), rel=0.06)


def test_clips_of_a_group_count_once() -> None:
    """Twenty copies of each clip say no more than one; over clips they would."""
    values = np.random.default_rng(0).normal(size=60)
    copied, groups = np.repeat(values, 20), np.repeat(np.arange(60), 20)
    alone = over_clips(values)
    width = alone[1] - alone[0]
    assert over_clips(copied, groups) == pytest.approx(alone, abs=0.05 * width)
    narrow = over_clips(copied)
    assert (narrow[1] - narrow[0]) == pytest.approx(width / math.sqrt(20), rel=0.1)


def test_a_draw_has_whole_groups() -> None:
    groups = ["a", "b", "a", "c", "c", "c"]
    for positions in bootstrap.resamples(6, draws=50, groups=groups):
        times = np.bincount(positions, minlength=6)
        assert times[0] == times[2]
        assert len({times[3], times[4], times[5]}) == 1
        assert times[0] + times[1] + times[3] == 3  # three groups of three


def test_draws_are_the_same_again() -> None:
    first, again = (list(bootstrap.resamples(9, draws=3)) for _ in range(2))
    other = list(bootstrap.resamples(9, draws=3, seed=1))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert not all((a == b).all() for a, b in zip(first, other, strict=True))


def test_what_has_no_interval() -> None:
    nan = math.nan
    assert bootstrap.interval(np.ones(1000)) is None  # nothing was wrong in any draw
    assert bootstrap.interval(np.full(1000, nan)) is None
    assert bootstrap.interval(np.array([nan, nan, 0.5, 0.75])) is None
    assert bootstrap.interval(np.array([nan, 0.5, 0.75])) == pytest.approx((0.50625, 0.74375))


def test_counts_as_torchmetrics_has_them() -> None:
    generator = torch.Generator().manual_seed(0)
    y, predicted = (torch.randint(0, 5, (80,), generator=generator) for _ in range(2))
    confusion = np.zeros((5, 5), int)
    np.add.at(confusion, (y.numpy(), predicted.numpy()), 1)
    counts = Counts.of(confusion)
    for mine, theirs in (
        (counts.precision, multiclass_precision),
        (counts.recall, multiclass_recall),
        (counts.f1, multiclass_f1_score),
    ):
        assert mine == pytest.approx(theirs(predicted, y, 5, average="none").numpy(), abs=1e-6)


def test_counts_without_clips() -> None:
    counts = Counts.of([[2, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert counts.recall.tolist() == pytest.approx([2 / 3, nan := math.nan, nan], nan_ok=True)
    assert counts.precision.tolist() == pytest.approx([1, 0, nan], nan_ok=True)
    assert counts.f1.tolist() == pytest.approx([0.8, 0, nan], nan_ok=True)
    assert {name: float(one) for name, one in counts.metrics().items()} == pytest.approx(
        {"accuracy": 2 / 3, "macro_f1": 0.4, "uar": 2 / 3}
    )
    empty = Counts.of(np.zeros((2, 2), int)).metrics()
    assert all(np.isnan(one) for one in empty.values())
