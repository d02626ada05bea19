"""What the tests of augmentations share: examples of several lengths, and running one on them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from raudio.audio.augment import Augmentation, Examples
from raudio.core import seeding

# B = 6 clips, T = 2000 samples, F = 50 frames, N = 20 bands, K = 25 target frames, C = 3 classes
CLIPS = 6
KEYS = seeding.clip_keys([f"clip{i}" for i in range(CLIPS)])
SAMPLES = torch.tensor([2000, 1280, 1, 1999, 17, 2000])
FRAMES = torch.tensor([50, 31, 1, 50, 7, 2])
SAMPLE_RATE = 8000


def masked(values: Tensor, lengths: Tensor) -> Tensor:
    """`values` with zeros beyond each clip's length, as a new tensor."""
    values = values.clone()
    for clip, length in zip(values, lengths.tolist(), strict=True):
        clip[length:] = 0
    return values


def examples(stage: str, *, frame_targets: bool = True) -> Examples:
    """Six clips of noise, of several lengths, with positive targets within them."""
    generator = torch.Generator().manual_seed(0)
    if stage == "wave":
        data, lengths = torch.randn(CLIPS, 2000, generator=generator) * 0.1, SAMPLES
    else:
        data, lengths = torch.randn(CLIPS, 50, 20, generator=generator), FRAMES
    targets = torch.rand(CLIPS, 25, 3, generator=generator) + 0.1
    if not frame_targets:
        targets = targets[:, 0]
    return Examples(masked(data, lengths), lengths, targets)


def run(
    each: Augmentation, given: Examples, keys: np.ndarray = KEYS, *, seed: int = 1, epoch: int = 3
) -> Examples:
    """Augmented, at a fixed address."""
    return each(given, keys, seed=seed, epoch=epoch)


def wave(samples: Tensor) -> Examples:
    """One full clip of (T,) samples, without targets that matter."""
    return Examples(samples[None], torch.tensor([len(samples)]), torch.zeros(1, 1))


def assert_same(got: Examples, expected: Examples) -> None:
    torch.testing.assert_close(got.data, expected.data)
    assert torch.equal(got.lengths, expected.lengths)
    torch.testing.assert_close(got.targets, expected.targets)
