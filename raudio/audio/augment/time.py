"""Augmentations of when things happen: shift, roll, mute.

B clips, T samples.
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
    column,
    moved_targets,
)
from raudio.audio.frontends import frame_mask


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
        offset = _samples(draw["share"], lengths)  # (B, 1)
        position = torch.arange(waves.shape[1], device=waves.device)
        source = position - offset  # (B, T) where each sample comes from
        inside = (source >= 0) & (source < lengths[:, None]) & (position < lengths[:, None])
        return Examples(
            waves.gather(1, source.clamp_(0, waves.shape[1] - 1)) * inside,
            lengths,
            moved_targets(examples, lengths, lambda time: time - offset),
        )


class Roll(Augmentation):
    """The clip turned round in time: what leaves it at one end comes back at the other.

    Args:
        p: probability a clip.
        max_share: longest way, either way, as a share of the clip's valid part; 0.5 reaches every
            place.
    """

    stage = "wave"

    def __init__(self, *, p: float = 0.0, max_share: float = 0.5) -> None:
        super().__init__(p=p)
        self.max_share = max_share

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        u = self.uniforms(keys, 1, seed=seed, epoch=epoch)[:, 0]
        return {"share": between(u, -self.max_share, self.max_share)}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        lengths = examples.lengths
        offset = _samples(draw["share"], lengths)
        return Examples(
            _rolled(examples.data, lengths, offset),
            lengths,
            moved_targets(examples, lengths, lambda time: (time - offset) % lengths[:, None]),
        )


class Mute(Augmentation):
    """A span of the clip set to zero; its frame targets too, for nothing is heard there.

    Args:
        p: probability a clip.
        max_share: longest span, as a share of the clip's valid part; its length is uniform.
    """

    stage = "wave"

    def __init__(self, *, p: float = 0.0, max_share: float = 0.2) -> None:
        super().__init__(p=p)
        self.max_share = max_share

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        share, place = self.uniforms(keys, 2, seed=seed, epoch=epoch).T
        return {"share": self.max_share * share, "place": place}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        waves, lengths = examples.data, examples.lengths
        width = _samples(draw["share"], lengths)
        room = lengths[:, None] - width + 1
        start = (column(draw["place"], lengths, torch.float64) * room).long()

        def muted(position: Tensor) -> Tensor:
            return (position >= start) & (position < start + width)

        silent = muted(torch.arange(waves.shape[1], device=waves.device))
        nowhere = -1.0
        targets = moved_targets(
            examples, lengths, lambda time: torch.where(muted(time), nowhere, time)
        )
        return replace(examples, data=waves.masked_fill(silent, 0.0), targets=targets)


def _rolled(waves: Tensor, lengths: Tensor, offset: Tensor) -> Tensor:
    """(B, T) waves with the valid part of each turned by (B, 1) `offset` samples."""
    if waves.device.type == "cpu":  # two copies a clip take a tenth of the time of gathering
        whole = waves.numpy()
        rolled = np.zeros_like(whole)
        first = offset.remainder(lengths[:, None])[:, 0]
        pairs = zip(lengths.tolist(), first.tolist(), strict=True)
        for wave, out, (length, start) in zip(whole, rolled, pairs, strict=True):
            out[start:length] = wave[: length - start]
            out[:start] = wave[length - start : length]
        return torch.from_numpy(rolled)
    position = torch.arange(waves.shape[1], device=waves.device)
    source = (position - offset).remainder(lengths[:, None])
    return waves.gather(1, source) * frame_mask(lengths, waves.shape[1])


def _samples(share: NDArray[np.float64], lengths: Tensor) -> Tensor:
    """(B, 1) int64: these shares of the clips' lengths, rounded to samples."""
    return (column(share, lengths, torch.float64) * lengths[:, None]).round().long()
