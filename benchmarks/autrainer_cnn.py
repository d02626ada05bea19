"""raudio's `cnn` as a model of autrainer's, as its users add their own; for autrainer_peer.py.

Shapes: B windows of a batch, F frames, M mel bands, C classes.
"""

from __future__ import annotations

import itertools

import torch
from autrainer.models import AbstractModel
from torch import Tensor


class Cnn(AbstractModel):
    """Four strided convolutions, then mean plus maximum over time, and one layer.

    Args:
        output_dim: C.
        width: channels of the first convolution, doubled by each.
        bands: M.
    """

    def __init__(self, output_dim: int, width: int = 16, bands: int = 64) -> None:
        super().__init__(output_dim, None)
        self.width = width
        self.bands = bands
        channels = [1, *(width << block for block in range(4))]
        layers: list[torch.nn.Module] = []
        for inputs, outputs in itertools.pairwise(channels):
            layers += [
                torch.nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
                torch.nn.BatchNorm2d(outputs),
                torch.nn.ReLU(inplace=True),
            ]
        self.blocks = torch.nn.Sequential(*layers)
        self.out = torch.nn.Linear(channels[-1] * bands // 16, output_dim)

    def embeddings(self, features: Tensor) -> Tensor:
        """(B, 1, F, M) features to (B, D)."""
        frames = self.blocks(features).permute(0, 1, 3, 2).flatten(1, 2)
        return frames.mean(2) + frames.amax(2)

    def forward(self, features: Tensor) -> Tensor:
        """(B, 1, F, M) features to (B, C) logits."""
        return self.out(self.embeddings(features))
