"""Reverberation by impulse responses, given or generated.

B clips, T samples, L samples of a response.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raudio.audio.augment.base import Augmentation, Draw, Examples, between, check_range, column
from raudio.audio.augment.noise import convolved, white
from raudio.audio.augment.sounds import load_sounds
from raudio.audio.frontends import frame_mask
from raudio.core.units import Decibels, Seconds

#: Of a longer response only the first part is used.
LONGEST: Seconds = 4.0


class Reverb(Augmentation):
    """The clip as in a room: convolved with the room's impulse response, at the level it had.

    A generated response is the direct sound followed by Gaussian noise that decays exponentially
    (Polack 1988, "La transmission de l'énergie sonore dans les salles"): its amplitude at time t is
    10^(-3 t / RT60), so that the level is down by 60 dB after the reverberation time RT60. The
    direct sound comes first in every response: the clip stays where it is in time, and what rings
    on after its end is lost.

    Args:
        sample_rate: of the waves, in Hz.
        p: probability a clip.
        source: folder or URI with impulse responses, or a dataset; None: generated ones.
        min_rt60, max_rt60: reverberation time of generated responses, in seconds.
        min_drr, max_drr: energy of the direct sound over that of the rest, of generated ones, in
            dB.

    Raises:
        ConfigError: a minimum above its maximum, or no response in `source`.
        DataError: a response can't be decoded.
    """

    stage = "wave"

    def __init__(
        self,
        *,
        sample_rate: int,
        p: float = 0.0,
        source: str | None = None,
        min_rt60: Seconds = 0.2,
        max_rt60: Seconds = 1.0,
        min_drr: Decibels = -3.0,
        max_drr: Decibels = 12.0,
    ) -> None:
        super().__init__(p=p)
        check_range("reverb", "rt60", min_rt60, max_rt60)
        check_range("reverb", "drr", min_drr, max_drr)
        self.sample_rate = sample_rate
        self.min_rt60, self.max_rt60 = min_rt60, max_rt60
        self.min_drr, self.max_drr = min_drr, max_drr
        self.sounds = None
        self.samples = math.ceil(max_rt60 * sample_rate)
        if source is not None:
            self.sounds = load_sounds(source, sample_rate, name="reverb", from_peak=True)
            longest = int(self.sounds.lengths.max())
            self.samples = min(longest, round(LONGEST * sample_rate))

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        if self.sounds is not None:
            return {"sound": self.uniforms(keys, 1, seed=seed, epoch=epoch)[:, 0]}
        rt60, drr, field = self.uniforms(keys, 3, seed=seed, epoch=epoch).T
        return {
            "rt60": between(rt60, self.min_rt60, self.max_rt60),
            "drr": between(drr, self.min_drr, self.max_drr),
            "field": field,
        }

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        waves, lengths = examples.data, examples.lengths
        wet = convolved(waves, self.responses(draw, waves.device))
        wet = wet * frame_mask(lengths, waves.shape[1])
        power = waves.square().sum(1) / wet.square().sum(1).clamp(min=1e-12)
        return replace(examples, data=wet * power.sqrt()[:, None])

    def responses(self, draw: Draw, device: torch.device) -> Tensor:
        """(B, L) impulse responses."""
        if self.sounds is not None:
            return self.sounds.first(draw["sound"], self.samples, device)
        lengths = torch.full((len(draw["field"]),), self.samples, device=device)
        tail: Tensor = white(draw["field"], lengths, self.samples)
        time = torch.arange(self.samples, device=device) / self.sample_rate
        tail = tail * 10 ** (-3 * time / column(draw["rt60"], tail))
        tail[:, 0] = 0
        tail = tail / tail.norm(dim=1, keepdim=True) * column(10 ** (-draw["drr"] / 20), tail)
        tail[:, 0] = 1
        return tail
