"""Augmentations of when things happen: shift.

B clips, T samples.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from raudio.audio.augment.base import (
    Augmentation,
    Draw,
    Examples,
    between,
    column,
    moved_targets,
)


class Shift(Augmentation):
    """The clip earlier or later by a share of its length drawn from [-max_share, max_share]: zeros
    in the gap, what leaves the clip is lost.

    Args:
        p: probability a clip.
        max_share: longest shift, as a share of the clip's valid part.
    """

    stage = "wave"

    def __init__(self, *, p: float = 0.0, max_share: float = 0.1) -> None:
        super().__init__(p=p)
        self.max_share = max_share

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        u = self.uniforms(keys, 1, seed=seed, epoch=epoch)[:, 0]
        return {"share": between(u, -self.max_share, self.max_share)}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        waves, lengths = examples.data, examples.lengths
        size = waves.shape[1]
        share = column(draw["share"], lengths, torch.float64)
        offset = (share * lengths[:, None]).round().to(torch.int64)  # (B, 1)
        position = torch.arange(size, device=waves.device)
        source = position - offset  # (B, T) where each sample comes from
        inside = (source >= 0) & (source < lengths[:, None]) & (position < lengths[:, None])
        return Examples(
            waves.gather(1, source.clamp_(0, size - 1)) * inside,
            lengths,
            moved_targets(examples, lengths, lambda time: time - offset),
        )
