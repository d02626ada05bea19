"""Clips of a batch mixed with each other: mixup.

B clips, T samples, C classes, K target frames.
"""

from __future__ import annotations

import numpy as np
import torch

from raudio.audio.augment.base import Draw, Examples, Mixing


class Mixup(Mixing):
    """Two clips and their targets as one, in proportions from a Beta distribution (Zhang et al.
    2018): one weight a batch, with a permutation of the batch. The longer clip gives the length.

    Args:
        p: probability a batch.
        alpha: the weight is drawn from Beta(alpha, alpha); small values mix little.
    """

    stage = "wave"

    def __init__(self, *, p: float = 0.0, alpha: float = 0.2) -> None:
        super().__init__(p=p)
        self.alpha = alpha

    def draw(self, clips: int, generator: np.random.Generator) -> Draw:
        weight = generator.beta(self.alpha, self.alpha)
        return {"weight": np.full(clips, weight), "partner": generator.permutation(clips) * 1.0}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        partner = examples[partners(draw, examples)]
        weight = float(draw["weight"][0])
        return Examples(
            torch.lerp(partner.data, examples.data, weight),
            torch.maximum(examples.lengths, partner.lengths),
            torch.lerp(partner.targets, examples.targets, weight),
        )


def partners(draw: Draw, examples: Examples) -> torch.Tensor:
    """(B,) positions of the drawn partners."""
    return torch.as_tensor(draw["partner"], dtype=torch.int64, device=examples.data.device)
