"""SpecAugment: masks along time and frequency.

B clips, F frames, N features a frame.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raudio.audio.augment.base import Augmentation, Draw, Examples
from raudio.audio.frontends import frame_mask


class TimeMask(Augmentation):
    """SpecAugment along time (Park et al. 2019): runs of frames set to the clip's mean.

    Args:
        p: probability a clip.
        max_share: longest mask, as a share of the clip's valid frames; its length is uniform.
        count: masks a clip.
    """

    stage = "spectrogram"

    def __init__(self, *, p: float = 0.0, max_share: float = 0.2, count: int = 1) -> None:
        super().__init__(p=p)
        self.max_share = max_share
        self.count = count

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        u = self.uniforms(keys, 2 * self.count, seed=seed, epoch=epoch)
        return {"width": u[:, : self.count], "place": u[:, self.count :]}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        features, lengths = examples.data, examples.lengths
        masked = _masked(draw, self.max_share, lengths, features.shape[1])[:, :, None]
        data = torch.where(masked, _clip_mean(features, lengths), features)
        return replace(examples, data=data)


class FreqMask(Augmentation):
    """SpecAugment along frequency (Park et al. 2019): runs of bands set to the clip's mean.

    Args:
        p: probability a clip.
        max_share: widest mask, as a share of the bands; its width is uniform.
        count: masks a clip.
    """

    stage = "spectrogram"

    def __init__(self, *, p: float = 0.0, max_share: float = 0.2, count: int = 1) -> None:
        super().__init__(p=p)
        self.max_share = max_share
        self.count = count

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        u = self.uniforms(keys, 2 * self.count, seed=seed, epoch=epoch)
        return {"width": u[:, : self.count], "place": u[:, self.count :]}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        features, lengths = examples.data, examples.lengths
        _, frames, bands = features.shape
        masked = _masked(draw, self.max_share, torch.full_like(lengths, bands), bands)[:, None, :]
        valid = frame_mask(lengths, frames)[:, :, None]  # padded frames stay 0
        data = torch.where(masked & valid, _clip_mean(features, lengths), features)
        return replace(examples, data=data)


def _masked(draw: Draw, max_share: float, lengths: Tensor, size: int) -> Tensor:
    """(B, size) bool: the positions that the drawn masks cover, all below (B,) `lengths`.

    A mask is 0 to `max_share` of the length wide, rounded down, each width as likely, and so is
    each place where it fits.
    """
    width, place = (
        torch.as_tensor(draw[name], device=lengths.device) for name in ("width", "place")
    )  # (B, count) float64
    room = lengths[:, None]
    widths = (width * ((max_share * room.double()).floor() + 1)).floor()
    starts = (place * (room - widths + 1)).floor()
    position = torch.arange(size, device=lengths.device)[None, :, None]
    inside = (position >= starts[:, None]) & (position < (starts + widths)[:, None])
    return inside.any(-1)


def _clip_mean(features: Tensor, lengths: Tensor) -> Tensor:
    """(B, 1, 1) mean of each clip over valid frames and bands; padded frames are 0."""
    return features.sum((1, 2), keepdim=True) / (lengths[:, None, None] * features.shape[2])
