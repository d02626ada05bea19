"""Mixing: each does what its name says, measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from augment_kit import CLIPS, SAMPLES, examples

from raudio.audio.augment import Examples
from raudio.audio.augment.mixing import (
    BetweenClass,
    Concat,
    CutMix,
    FreqMixStyle,
    HardMix,
    Mixup,
)


def array(*values: float) -> np.ndarray:
    return np.array(values)


def labelled() -> Examples:
    """Six waves, each of a class of its own."""
    given = examples("wave")
    return Examples(given.data, given.lengths, torch.eye(CLIPS))


def pair(*, frames: bool = False) -> Examples:
    """Clips of 8 ones and of 6 tens in 10 samples, with targets of each sample or of the clip."""
    data = torch.zeros(2, 10)
    data[0, :8], data[1, :6] = 1, 10
    targets = torch.stack((data == 1, data == 10), 2).float() if frames else torch.eye(2)
    return Examples(data, torch.tensor([8, 6]), targets)


SWAP = {"partner": array(1, 0)}


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


def test_between_class_mixes_what_is_heard_in_the_ratio_of_the_targets() -> None:
    """A clip of a tenth of the amplitude is raised: r to 1 - r is the ratio of the levels."""
    generator = torch.Generator().manual_seed(0)
    waves = torch.randn(2, 50000, generator=generator)
    waves[1] *= 0.1
    given = Examples(waves, torch.tensor([50000, 50000]), torch.eye(2))
    mixed = BetweenClass(p=1.0).apply(given, {"ratio": array(0.75, 0.5), **SWAP})
    torch.testing.assert_close(mixed.targets, torch.tensor([[0.75, 0.25], [0.5, 0.5]]))
    for clip, ratio in ((0, 3.0), (1, 1.0)):
        parts = torch.linalg.lstsq(waves.T, mixed.data[clip][:, None]).solution[:, 0]
        levels = parts * torch.tensor([1.0, 0.1])  # of the two clips in the mixture
        assert float(levels[clip] / levels[1 - clip]) == pytest.approx(ratio, rel=0.01)
        # The paper's formula, in its own terms.
        r = (0.75, 0.5)[clip]
        gap = 20 * math.log10(float(waves[clip].norm() / waves[1 - clip].norm()))
        p = 1 / (1 + 10 ** (gap / 20) * (1 - r) / r)
        expected = (p * waves[clip] + (1 - p) * waves[1 - clip]) / math.hypot(p, 1 - p)
        torch.testing.assert_close(mixed.data[clip], expected, rtol=1e-4, atol=1e-5)


def test_hard_mix_adds_the_partner_at_its_ratio_and_unites_the_labels() -> None:
    given = labelled()
    hard = HardMix(p=1.0, min_snr=-3, max_snr=9)
    draw = {"snr": array(*[6.0] * CLIPS), "partner": array(1, 2, 3, 4, 5, 0)}
    mixed = hard.apply(given, draw)
    added = mixed.data - given.data
    power = given.data.square().sum(1) / SAMPLES
    partner = added.square().sum(1) / SAMPLES.roll(-1)
    ratio = 10 * torch.log10(power / partner)
    torch.testing.assert_close(ratio, torch.full((CLIPS,), 6.0), atol=0.05, rtol=0)
    torch.testing.assert_close(mixed.targets, torch.eye(CLIPS) + torch.eye(CLIPS).roll(-1, 0))
    drawn = hard.draw(3000, np.random.default_rng(0))["snr"]
    assert (drawn.min(), drawn.max()) == pytest.approx((-3, 9), abs=0.05)
    twice = hard.apply(given, {**draw, "partner": np.arange(CLIPS) * 1.0})
    assert torch.equal(twice.targets, given.targets), "united, not added"


def test_hard_mix_with_silence_keeps_what_sounds() -> None:
    data = torch.stack((torch.zeros(10), torch.ones(10)))
    given = Examples(data, torch.tensor([10, 10]), torch.eye(2))
    mixed = HardMix(p=1.0).apply(given, {"snr": array(0, 0), **SWAP})
    assert torch.equal(mixed.data, torch.ones(2, 10))


def test_cutmix_by_hand() -> None:
    # Spans of half of the 6 samples that both have, at the second and the last of 4 places.
    draw = {"share": array(0.5, 0.5), "place": array(0.25, 0.99), **SWAP}
    mixed = CutMix(p=1.0).apply(pair(), draw)
    assert mixed.data.tolist() == [
        [1, 10, 10, 10, 1, 1, 1, 1, 0, 0],
        [10, 10, 10, 1, 1, 1, 0, 0, 0, 0],
    ]
    assert mixed.lengths.tolist() == [8, 6]
    torch.testing.assert_close(mixed.targets, torch.tensor([[5 / 8, 3 / 8], [0.5, 0.5]]))
    frames = CutMix(p=1.0).apply(pair(frames=True), draw)
    assert torch.equal(frames.targets[:, :, 0] == 1, mixed.data == 1)
    assert torch.equal(frames.targets[:, :, 1] == 1, mixed.data == 10)
    shares = CutMix(p=1.0, alpha=1.0).draw(4000, np.random.default_rng(0))["share"]
    assert np.histogram(shares, 4, (0, 1))[0].tolist() == pytest.approx([1000] * 4, rel=0.1)


def test_concatenation_by_hand() -> None:
    draw = {"share": array(0.5, 1 / 3), **SWAP}
    mixed = Concat(p=1.0).apply(pair(), draw)
    # 4 of 8 and 3 of 6; then 2 of 6 and 5 (of 8 times two thirds) of 8.
    assert mixed.data.tolist() == [
        [1, 1, 1, 1, 10, 10, 10, 0, 0, 0],
        [10, 10, 1, 1, 1, 1, 1, 0, 0, 0],
    ]
    assert mixed.lengths.tolist() == [7, 7]
    torch.testing.assert_close(mixed.targets, torch.tensor([[4 / 7, 3 / 7], [5 / 7, 2 / 7]]))
    frames = Concat(p=1.0).apply(pair(frames=True), draw)
    assert torch.equal(frames.targets[:, :, 0] == 1, mixed.data == 1)
    assert torch.equal(frames.targets[:, :, 1] == 1, mixed.data == 10)
    shares = Concat(p=1.0, min_share=0.2).draw(3000, np.random.default_rng(0))["share"]
    assert (shares.min(), shares.max()) == pytest.approx((0.2, 0.8), abs=0.01)


def test_mixstyle_gives_each_band_the_mixed_mean_and_deviation() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 60, 5, generator=generator)
    features = features * torch.tensor([1.0, 3.0])[:, None, None] + torch.arange(5.0)
    features[1] -= 4
    features[1, 40:] = 0
    given = Examples(features, torch.tensor([60, 40]), torch.eye(2))
    mixed = FreqMixStyle(p=1.0).apply(given, {"weight": array(0.75, 1.0), **SWAP})
    valid = features[0], features[1, :40]
    means, deviations = [v.mean(0) for v in valid], [v.std(0, correction=0) for v in valid]
    got = mixed.data[0]
    torch.testing.assert_close(got.mean(0), 0.75 * means[0] + 0.25 * means[1])
    expected = 0.75 * deviations[0] + 0.25 * deviations[1]
    torch.testing.assert_close(got.std(0, correction=0), expected)
    # The shape in time stays the clip's own, and so do the targets; a weight of 1 changes nothing.
    torch.testing.assert_close(
        (got - got.mean(0)) / got.std(0), (valid[0] - means[0]) / valid[0].std(0)
    )
    torch.testing.assert_close(mixed.data[1], features[1])
    assert torch.equal(mixed.targets, given.targets)
