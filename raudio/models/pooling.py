"""From frames to one vector a clip, over the frames that belong to it.

B clips, F frames, D features a frame. Every pooling gives (B, D).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raudio.audio.frontends import frame_mask
from raudio.core.errors import ConfigError, unknown


class MeanPooling(nn.Module):
    """The mean over a clip's frames."""

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(B, F, D) frames of (B,) lengths to (B, D)."""
        valid = frame_mask(lengths, frames.shape[1])[:, :, None]
        return (frames * valid).sum(1) / lengths[:, None]


class MaxPooling(nn.Module):
    """The largest value of each feature over a clip's frames."""

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(B, F, D) frames of (B,) lengths to (B, D)."""
        valid = frame_mask(lengths, frames.shape[1])[:, :, None]
        return frames.masked_fill(~valid, -torch.inf).amax(1)


class MeanMaxPooling(nn.Module):
    """The sum of mean and maximum, as in PANNs (Kong et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = MeanPooling()
        self.max = MaxPooling()

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(B, F, D) frames of (B,) lengths to (B, D)."""
        mean: Tensor = self.mean(frames, lengths)
        largest: Tensor = self.max(frames, lengths)
        return mean + largest


class AttentionPooling(nn.Module):
    """A mean weighted by a learnt score of each frame; starts as the plain mean."""

    def __init__(self, n_inputs: int) -> None:
        super().__init__()
        self.score = nn.Linear(n_inputs, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def weights(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(B, F) weights, 0 beyond a clip's length, that sum to 1 over each clip."""
        valid = frame_mask(lengths, frames.shape[1])
        scores: Tensor = self.score(frames).squeeze(-1)
        return scores.masked_fill(~valid, -torch.inf).softmax(-1)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(B, F, D) frames of (B,) lengths to (B, D)."""
        weights = self.weights(frames, lengths)
        return torch.bmm(weights[:, None].to(frames.dtype), frames).squeeze(1)


POOLINGS = ("mean", "max", "mean_max", "attention")


def make_pooling(name: str, n_inputs: int) -> nn.Module:
    """The pooling called `name` for frames of `n_inputs` features.

    Raises:
        ConfigError: no pooling is called so.
    """
    if name == "mean":
        return MeanPooling()
    if name == "max":
        return MaxPooling()
    if name == "mean_max":
        return MeanMaxPooling()
    if name == "attention":
        return AttentionPooling(n_inputs)
    raise ConfigError(f"model.pooling: {unknown('pooling', name, POOLINGS)}")
