"""Augmentations of waves: each does what its name says, measured."""

from __future__ import annotations

import numpy as np
import torch
from augment_kit import KEYS, SAMPLE_RATE, SAMPLES, examples, run

from raudio.audio.augment import Examples
from raudio.audio.augment.level import Gain
from raudio.audio.augment.noise import Noise
from raudio.audio.augment.time import Shift


def test_gain_in_decibels() -> None:
    gain = Gain(p=1.0, max_db=12)
    given = examples("wave")
    assert (np.abs(gain.draw(KEYS, seed=1, epoch=0)["db"]) <= 12).all()
    fixed = gain.apply(given, {"db": np.array([20, -20, 0, 6, -6, 0.0])})
    factors = torch.tensor([10, 0.1, 1, 1.99526231, 0.50118723, 1])
    torch.testing.assert_close(fixed.data, given.data * factors[:, None])


def test_noise_has_the_ratio_drawn_over_the_valid_part() -> None:
    noise = Noise(sample_rate=SAMPLE_RATE, p=1.0, min_snr=-5, max_snr=30)
    given = examples("wave")
    draw = noise.draw(KEYS, seed=1, epoch=0)
    added = noise.apply(given, draw).data - given.data
    ratio = 10 * torch.log10(given.data.square().sum(1) / added.square().sum(1))
    np.testing.assert_allclose(ratio.numpy(), draw["snr"], atol=0.05)
    assert ((draw["snr"] >= -5) & (draw["snr"] <= 30)).all()
    # White: no correlation from sample to sample, nor between clips.
    first = added[0] / added[0].std()
    assert abs(float((first[1:] * first[:-1]).mean())) < 0.1
    assert abs(float((first * added[5] / added[5].std()).mean())) < 0.1


def test_noise_is_new_in_every_epoch_and_for_every_clip() -> None:
    noise = Noise(sample_rate=SAMPLE_RATE, p=1.0)
    fields = [
        noise.draw(KEYS, seed=seed, epoch=epoch)["field"] for seed in (0, 1) for epoch in (0, 1)
    ]
    assert len(np.unique(np.concatenate(fields))) == 4 * len(KEYS)


def test_noise_leaves_silence_silent() -> None:
    silence = Examples(torch.zeros(6, 2000), SAMPLES, torch.zeros(6, 1))
    assert not run(Noise(sample_rate=SAMPLE_RATE, p=1.0), silence).data.any()


def test_shift_by_hand() -> None:
    waves = torch.tensor([[1.0, 2, 3, 4, 0, 0], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 0, 0]])
    given = Examples(waves, torch.tensor([4, 6, 4]), waves[:, ::2, None])
    shifted = Shift(p=1.0).apply(given, {"share": np.array([0.25, -0.5, 1.0])})
    assert shifted.data.tolist() == [[0, 1, 2, 3, 0, 0], [4, 5, 6, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
    # Three target frames of two samples each: a frame is what is at its centre (1, 3, 5).
    assert shifted.targets[:, :, 0].tolist() == [[1, 3, 0], [5, 0, 0], [0, 0, 0]]
    shares = Shift(p=1.0, max_share=0.2).draw(KEYS, seed=0, epoch=0)["share"]
    assert (np.abs(shares) <= 0.2).all()
