"""Augmentations of spectrograms that move or weigh: time warp, FilterAugment, frequency crop.

B clips, F frames, N features a frame (bands, from low to high), M segments of them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raudio.audio.augment.base import (
    Augmentation,
    Draw,
    Examples,
    between,
    check_range,
    column,
    moved_targets,
)
from raudio.audio.augment.masks import clip_mean
from raudio.audio.frontends import frame_mask
from raudio.core.errors import ConfigError


class TimeWarp(Augmentation):
    """SpecAugment's time warp (Park et al. 2019): one point of the clip earlier or later, the parts
    before and after it stretched to fit.

    Args:
        p: probability a clip.
        max_share: farthest that the point moves, as a share of the clip's valid frames; it lies at
            least as far from the clip's ends. Below 0.5.
    """

    stage = "spectrogram"

    def __init__(self, *, p: float = 0.0, max_share: float = 0.1) -> None:
        super().__init__(p=p)
        self.max_share = max_share

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        u, v = self.uniforms(keys, 2, seed=seed, epoch=epoch).T
        point = between(u, self.max_share, 1 - self.max_share)
        return {"point": point, "moved": point + between(v, -self.max_share, self.max_share)}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        features, lengths = examples.data, examples.lengths
        frames = features.shape[1]
        end = lengths[:, None].double()
        before, now = (column(draw[key], end) * end for key in ("point", "moved"))  # (B, 1)
        # A point moved all the way to an end leaves nothing on that side.
        tiny = 1e-6 * end
        early, late = before / now.clamp(min=tiny), (end - before) / (end - now).clamp(min=tiny)

        def source(time: Tensor) -> Tensor:
            return torch.where(time < now, time * early, end - (end - time) * late)

        centres = torch.arange(frames, device=features.device).double() + 0.5
        read = (source(centres[None]) - 0.5).clamp(min=0).minimum(end - 1)
        return Examples(
            _read(features, read, dim=1) * frame_mask(lengths, frames)[:, :, None],
            lengths,
            moved_targets(examples, lengths, source),
        )


class FilterAugment(Augmentation):
    """Random weights of random frequency bands (Nam et al. 2022, "FilterAugment: an acoustic
    environmental data augmentation method"), added to features on a logarithmic scale.

    Args:
        p: probability a clip.
        shape: "step" (one weight a band) or "linear" (from weight to weight at the bands' edges).
        max_change: largest weight, either way, in the features' own unit: deviations of a band
            where the front end normalises them, else nepers of power (1 is 4.3 dB).
        min_bands, max_bands: how many bands, drawn uniformly.
        min_width: features that a band has at least, where there are enough.

    Raises:
        ConfigError: min_bands above max_bands, or an unknown shape.
    """

    stage = "spectrogram"

    def __init__(
        self,
        *,
        p: float = 0.0,
        shape: str = "step",
        max_change: float = 0.7,
        min_bands: int = 3,
        max_bands: int = 6,
        min_width: int = 6,
    ) -> None:
        super().__init__(p=p)
        check_range("filter_augment", "bands", min_bands, max_bands)
        if shape not in ("step", "linear"):
            raise ConfigError(f"filter_augment: shape={shape!r} is none of step, linear")
        self.shape = shape
        self.max_change = max_change
        self.min_bands = min_bands
        self.max_bands = max_bands
        self.min_width = min_width

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        most = self.max_bands
        u = self.uniforms(keys, 2 * most + 1, seed=seed, epoch=epoch)
        return {
            "bands": np.floor(between(u[:, 0], self.min_bands, most + 1)),
            "edges": u[:, 1:most],
            "weights": between(u[:, most:], -self.max_change, self.max_change),
        }

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        features = examples.data
        _, frames, n = features.shape
        bands = column(draw["bands"], examples.lengths).clamp(max=n)  # (B, 1)
        edges = torch.as_tensor(draw["edges"], device=features.device)
        weights = torch.as_tensor(draw["weights"], dtype=features.dtype, device=features.device)
        # Inner edges: sorted among the places that are left when each band has its least width.
        width = (n // bands).clamp(max=self.min_width)
        number = torch.arange(1, self.max_bands, device=features.device)
        places = torch.where(number < bands, edges, torch.inf).sort(1).values
        inner = (places * (n - bands * width + 1)).floor() + number * width
        inner = torch.where(number < bands, inner, n)
        ends = inner.new_zeros(len(bands), 1), inner, inner.new_full((len(bands), 1), n)
        bounds = torch.cat(ends, 1)  # (B, M + 1), from 0 to N
        position = torch.arange(n, dtype=bounds.dtype, device=features.device)
        segment = (position[None, :, None] >= inner[:, None]).sum(2)  # (B, N)
        weight = weights.gather(1, segment)
        if self.shape == "linear":
            low, high = bounds.gather(1, segment), bounds.gather(1, segment + 1)
            along = ((position + 0.5 - low) / (high - low)).to(features.dtype)
            weight = torch.lerp(weight, weights.gather(1, segment + 1), along)
        valid = frame_mask(examples.lengths, frames)[:, :, None]
        return replace(examples, data=features + weight[:, None] * valid)


class FreqCrop(Augmentation):
    """A random range of the bands stretched over all of them: BYOL-A's random resize crop (Niizumi
    et al. 2021), along frequency alone. What a range beyond the bands would show is the clip's
    mean.

    Args:
        p: probability a clip.
        min_share, max_share: width of the range, as a share of the bands; above 1, the sound is
            shrunk.

    Raises:
        ConfigError: min_share above max_share.
    """

    stage = "spectrogram"

    def __init__(self, *, p: float = 0.0, min_share: float = 0.6, max_share: float = 1.0) -> None:
        super().__init__(p=p)
        check_range("freq_crop", "share", min_share, max_share)
        self.min_share = min_share
        self.max_share = max_share

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        u, place = self.uniforms(keys, 2, seed=seed, epoch=epoch).T
        share = between(u, self.min_share, self.max_share)
        return {"share": share, "start": place * (1 - share)}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        features = examples.data
        _, frames, n = features.shape
        share, start = (column(draw[key], features, torch.float64) for key in ("share", "start"))
        centres = torch.arange(n, dtype=torch.float64, device=features.device) + 0.5
        source = start * n + centres * share  # (B, N)
        outside = ((source < 0) | (source >= n))[:, None]
        data = _read(features, (source - 0.5).clamp(0, n - 1), dim=2)
        data = torch.where(outside, clip_mean(examples), data)
        return replace(examples, data=data * frame_mask(examples.lengths, frames)[:, :, None])


def _read(features: Tensor, position: Tensor, dim: int) -> Tensor:
    """(B, F, N) features read at (B, size) positions along `dim`, linearly interpolated."""
    other = 3 - dim
    shape = list(features.shape)
    shape[dim] = position.shape[1]
    position = position.unsqueeze(other)
    low = position.long()
    high = (low + 1).clamp(max=features.shape[dim] - 1)
    share = position.frac().to(features.dtype)
    return torch.lerp(
        features.gather(dim, low.expand(shape)), features.gather(dim, high.expand(shape)), share
    )
