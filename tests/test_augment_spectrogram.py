"""Augmentations of spectrograms: each does what its name says, measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from augment_kit import run

from raudio.audio.augment import Examples
from raudio.audio.augment.masks import FreqMask, TimeMask
from raudio.core import seeding


def spectrogram(features: torch.Tensor, lengths: list[int]) -> Examples:
    return Examples(features, torch.tensor(lengths), torch.zeros(len(lengths), 1))


def test_masks_by_hand() -> None:
    features = torch.arange(20.0).reshape(1, 5, 4)
    features[:, 4:] = 0
    given = spectrogram(features, [4])
    # Mean of 0..15; the widest is half of 4, u = 0.99 the widest itself, place 0.5 of the 3 places.
    draw = {"width": np.array([[0.99]]), "place": np.array([[0.5]])}
    time = TimeMask(p=1.0, max_share=0.5).apply(given, draw).data
    assert time[0, :, 0].tolist() == [0, 7.5, 7.5, 12, 0]
    frequency = FreqMask(p=1.0, max_share=0.5).apply(given, draw).data
    assert frequency[0].tolist() == [
        [0, 7.5, 7.5, 3], [4, 7.5, 7.5, 7], [8, 7.5, 7.5, 11], [12, 7.5, 7.5, 15], [0, 0, 0, 0],
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [TimeMask, FreqMask])
def test_masks_are_at_most_their_share_and_reach_every_place(
    kind: type[TimeMask | FreqMask],
) -> None:
    mask = kind(p=1.0, max_share=0.3, count=1)
    keys = seeding.clip_keys([str(i) for i in range(3000)])
    features = torch.arange(1.0, 101.0).reshape(1, 10, 10).repeat(3000, 1, 1)
    changed = run(mask, spectrogram(features, [10] * 3000), keys).data != features
    covered = changed.any(2 if kind is TimeMask else 1)  # (B, 10)
    widths = covered.sum(1)
    # 0, 1, 2, 3 positions, each as likely.
    assert np.bincount(widths.numpy()).tolist() == pytest.approx([750] * 4, rel=0.15)
    ends = covered.double().mean(0)
    assert (ends > 0.05).all()
    steps = covered.int().diff(dim=1).abs().sum(1) + covered[:, 0] + covered[:, -1]
    assert ((steps == 2) | (widths == 0)).all(), "a mask is one run"
