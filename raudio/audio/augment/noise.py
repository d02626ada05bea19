"""Additive noise at a signal-to-noise ratio.

B clips, T samples.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raudio.audio.augment.base import Augmentation, Draw, Examples, between, check_range, column
from raudio.core.units import Decibels


class Noise(Augmentation):
    """White Gaussian noise over the clip's valid part, at a signal-to-noise ratio drawn from
    [min_snr, max_snr]; a silent clip stays silent.

    Args:
        p: probability a clip.
        min_snr, max_snr: power of the clip over that of the noise, in dB.

    Raises:
        ConfigError: min_snr above max_snr.
    """

    stage = "wave"

    def __init__(
        self, *, p: float = 0.0, min_snr: Decibels = 10.0, max_snr: Decibels = 40.0
    ) -> None:
        super().__init__(p=p)
        check_range("noise", "snr", min_snr, max_snr)
        self.min_snr = min_snr
        self.max_snr = max_snr

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        # The noise itself is a draw too: the seed of its generator, 53 bits of it.
        u, field = self.uniforms(keys, 2, seed=seed, epoch=epoch).T
        return {"snr": between(u, self.min_snr, self.max_snr), "field": np.floor(field * 2.0**53)}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        waves, samples = examples.data, examples.lengths.tolist()
        noise = torch.zeros_like(waves)
        # One generator a clip, on the batch's device, over the clip's own length: the noise of a
        # clip does not depend on the clips beside it. (A hash of clip and sample needs no loop, and
        # takes five times as long on a CPU.)
        generator = torch.Generator(device=waves.device)
        for clip, field in enumerate(draw["field"]):
            generator.manual_seed(int(field))
            noise[clip, : samples[clip]].normal_(generator=generator)
        return replace(examples, data=added(waves, noise, draw["snr"]))


def added(waves: Tensor, noise: Tensor, snr: NDArray[np.float64]) -> Tensor:
    """(B, T) waves with (B, T) noise at (B,) ratios in dB; both are 0 beyond a clip's length."""
    power = waves.square().sum(1) / noise.square().sum(1).clamp(min=1e-12)
    amplitude = power.sqrt()[:, None] * column(10.0 ** (-snr / 20), waves)
    return torch.addcmul(waves, noise, amplitude)
