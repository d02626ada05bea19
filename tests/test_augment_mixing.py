"""Mixing: each does what its name says, measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from augment_kit import CLIPS, examples

from raudio.audio.augment import Examples
from raudio.audio.augment.mixing import Mixup


def labelled() -> Examples:
    """Six waves, each of a class of its own."""
    given = examples("wave")
    return Examples(given.data, given.lengths, torch.eye(CLIPS))


def test_mixup_mixes_waves_and_targets_alike() -> None:
    given = labelled()
    mixup = Mixup(p=1.0, alpha=0.4)
    draw = mixup.draw(CLIPS, np.random.default_rng(1))
    weight = draw["weight"][0]
    mixed = mixup.apply(given, draw)
    for clip, partner in enumerate(draw["partner"].astype(int)):
        expected = weight * given.data[clip] + (1 - weight) * given.data[partner]
        torch.testing.assert_close(mixed.data[clip], expected)
        assert mixed.lengths[clip] == max(given.lengths[clip], given.lengths[partner])
        assert float(mixed.targets[clip, clip]) == pytest.approx(
            1.0 if partner == clip else weight, abs=1e-6
        )
    torch.testing.assert_close(mixed.targets.sum(1), torch.ones(CLIPS))


def test_mixup_weights_are_beta() -> None:
    mixup = Mixup(p=1.0, alpha=2.0)
    draws = [mixup.draw(2, np.random.default_rng(step)) for step in range(2000)]
    weights = np.array([draw["weight"][0] for draw in draws])
    assert weights.mean() == pytest.approx(0.5, abs=0.02)
    assert weights.var() == pytest.approx(1 / (4 * (2 * 2.0 + 1)), rel=0.1)  # of Beta(a, a)
