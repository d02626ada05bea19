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

# Of masks adaptive to the length; the paper's own limit.
_MOST_MASKS = 20


class TimeMask(Augmentation):
    """SpecAugment along time (Park et al. 2019): runs of frames set to the clip's mean.

    Args:
        p: probability a clip.
        max_share: longest mask, as a share of the clip's valid frames; its length is uniform.
        count: masks a clip.
        count_share: masks as a share of the clip's valid frames, at most 20, instead of `count`:
            adaptive to the length (Park et al. 2020, "SpecAugment on large scale datasets"); 0:
            `count` masks.
    """

    stage = "spectrogram"

    def __init__(
        self,
        *,
        p: float = 0.0,
        max_share: float = 0.2,
        count: int = 1,
        count_share: float = 0.0,
    ) -> None:
        super().__init__(p=p)
        self.max_share = max_share
        self.count = _MOST_MASKS if count_share else count
        self.count_share = count_share

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        u = self.uniforms(keys, 2 * self.count, seed=seed, epoch=epoch)
        return {"width": u[:, : self.count], "place": u[:, self.count :]}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        features, lengths = examples.data, examples.lengths
        covered = _covered(draw, self.max_share, lengths, features.shape[1])  # (B, F, count)
        if self.count_share:
            masks = (self.count_share * lengths.double()).floor()
            covered = (
                covered & (torch.arange(self.count, device=masks.device) < masks[:, None])[:, None]
            )
        masked = covered.any(2, keepdim=True)
        return replace(examples, data=torch.where(masked, clip_mean(examples), features))


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
        masked = _covered(draw, self.max_share, torch.full_like(lengths, bands), bands).any(2)
        valid = frame_mask(lengths, frames)[:, :, None]  # padded frames stay 0
        masked = masked[:, None, :] & valid
        return replace(examples, data=torch.where(masked, clip_mean(examples), features))


def clip_mean(examples: Examples) -> Tensor:
    """(B, 1, 1) mean of each clip over valid frames and bands; padded frames are 0."""
    features = examples.data
    values = examples.lengths[:, None, None] * features.shape[2]
    return features.sum((1, 2), keepdim=True) / values


def _covered(draw: Draw, max_share: float, lengths: Tensor, size: int) -> Tensor:
    """(B, size, count) bool: the positions that each drawn mask covers, all below (B,) `lengths`.

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
    return (position >= starts[:, None]) & (position < (starts + widths)[:, None])
