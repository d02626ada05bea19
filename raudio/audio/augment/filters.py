"""Filters: low, high and band pass, and the bandwidth that a lower sample rate leaves.

All are Butterworth magnitudes applied in the frequency domain, so with zero phase: sounds stay
where they are, and each clip of a batch has its own cutoff.

B clips, T samples, K bins of the Fourier transform.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from raudio.audio.augment.base import (
    Augmentation,
    Draw,
    Examples,
    between,
    check_range,
    column,
    fft_size,
)
from raudio.audio.frontends import frame_mask
from raudio.core.units import Hertz, Seconds

#: The filters' slope is 6 dB an octave for each order.
ORDER = 4
_STEEP = 32
# What a filter of order 4 spreads beyond the clip has died away after this time, from 20 Hz on.
_TAIL: Seconds = 0.25


class LowPass(Augmentation):
    """Frequencies above a cutoff fade by 24 dB an octave; the cutoff itself by 3 dB.

    Args:
        sample_rate: of the waves, in Hz.
        p: probability a clip.
        min_cutoff, max_cutoff: the cutoff is drawn between them, uniformly in octaves, in Hz.

    Raises:
        ConfigError: min_cutoff above max_cutoff.
    """

    stage = "wave"

    def __init__(
        self,
        *,
        sample_rate: int,
        p: float = 0.0,
        min_cutoff: Hertz = 1000.0,
        max_cutoff: Hertz = 7500.0,
    ) -> None:
        super().__init__(p=p)
        check_range("low_pass", "cutoff", min_cutoff, max_cutoff)
        self.sample_rate = sample_rate
        self.min_cutoff = min_cutoff
        self.max_cutoff = max_cutoff

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        u = self.uniforms(keys, 1, seed=seed, epoch=epoch)[:, 0]
        return {"cutoff": octaves_between(u, self.min_cutoff, self.max_cutoff)}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        return filtered(examples, self.sample_rate, low_pass=draw["cutoff"])


class HighPass(Augmentation):
    """Frequencies below a cutoff fade by 24 dB an octave; the cutoff itself by 3 dB.

    Args:
        sample_rate: of the waves, in Hz.
        p: probability a clip.
        min_cutoff, max_cutoff: the cutoff is drawn between them, uniformly in octaves, in Hz.

    Raises:
        ConfigError: min_cutoff above max_cutoff.
    """

    stage = "wave"

    def __init__(
        self,
        *,
        sample_rate: int,
        p: float = 0.0,
        min_cutoff: Hertz = 50.0,
        max_cutoff: Hertz = 1000.0,
    ) -> None:
        super().__init__(p=p)
        check_range("high_pass", "cutoff", min_cutoff, max_cutoff)
        self.sample_rate = sample_rate
        self.min_cutoff = min_cutoff
        self.max_cutoff = max_cutoff

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        u = self.uniforms(keys, 1, seed=seed, epoch=epoch)[:, 0]
        return {"cutoff": octaves_between(u, self.min_cutoff, self.max_cutoff)}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        return filtered(examples, self.sample_rate, high_pass=draw["cutoff"])


class BandPass(Augmentation):
    """What lies in a band stays; beyond its edges it fades by 24 dB an octave.

    Args:
        sample_rate: of the waves, in Hz.
        p: probability a clip.
        min_centre, max_centre: the band's middle is drawn between them, uniformly in octaves, in
            Hz.
        min_octaves, max_octaves: the band's width, uniform.

    Raises:
        ConfigError: a minimum above its maximum.
    """

    stage = "wave"

    def __init__(
        self,
        *,
        sample_rate: int,
        p: float = 0.0,
        min_centre: Hertz = 300.0,
        max_centre: Hertz = 3000.0,
        min_octaves: float = 1.0,
        max_octaves: float = 4.0,
    ) -> None:
        super().__init__(p=p)
        check_range("band_pass", "centre", min_centre, max_centre)
        check_range("band_pass", "octaves", min_octaves, max_octaves)
        self.sample_rate = sample_rate
        self.min_centre, self.max_centre = min_centre, max_centre
        self.min_octaves, self.max_octaves = min_octaves, max_octaves

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        u, v = self.uniforms(keys, 2, seed=seed, epoch=epoch).T
        centre = octaves_between(u, self.min_centre, self.max_centre)
        half = 2 ** (between(v, self.min_octaves, self.max_octaves) / 2)
        return {"low": centre / half, "high": centre * half}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        return filtered(examples, self.sample_rate, low_pass=draw["high"], high_pass=draw["low"])


class Bandwidth(Augmentation):
    """The bandwidth of a lower sample rate: nothing above half of it, cut off steeply, as if the
    clip had been resampled down to it and up again.

    Args:
        sample_rate: of the waves, in Hz.
        p: probability a clip.
        min_rate, max_rate: the lower rate is drawn between them, uniformly in octaves, in Hz.

    Raises:
        ConfigError: min_rate above max_rate.
    """

    stage = "wave"

    def __init__(
        self,
        *,
        sample_rate: int,
        p: float = 0.0,
        min_rate: Hertz = 4000.0,
        max_rate: Hertz = 16000.0,
    ) -> None:
        super().__init__(p=p)
        check_range("bandwidth", "rate", min_rate, max_rate)
        self.sample_rate = sample_rate
        self.min_rate = min_rate
        self.max_rate = max_rate

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        u = self.uniforms(keys, 1, seed=seed, epoch=epoch)[:, 0]
        return {"rate": octaves_between(u, self.min_rate, self.max_rate)}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        return filtered(examples, self.sample_rate, low_pass=draw["rate"] / 2, order=_STEEP)


def octaves_between(u: NDArray[np.float64], low: Hertz, high: Hertz) -> NDArray[np.float64]:
    """Numbers in [0, 1) spread over [low, high), uniformly in octaves."""
    spread: NDArray[np.float64] = low * (high / low) ** u
    return spread


def filtered(
    examples: Examples,
    sample_rate: int,
    *,
    low_pass: NDArray[np.float64] | None = None,
    high_pass: NDArray[np.float64] | None = None,
    order: int = ORDER,
) -> Examples:
    """Examples whose waves went through Butterworth filters of these (B,) cutoffs, in Hz."""
    waves = examples.data
    samples = waves.shape[1]
    n_fft = fft_size(samples + round(_TAIL * sample_rate))
    bins = torch.arange(n_fft // 2 + 1, dtype=waves.dtype, device=waves.device)
    log_frequencies = (bins * (sample_rate / n_fft)).log()
    # |H|^2 of a low pass is 1 / (1 + (f / cutoff)^(2 order)): a logistic function of log f.
    power = torch.ones((), dtype=waves.dtype, device=waves.device)
    if low_pass is not None:
        distance = log_frequencies - column(np.log(low_pass), waves)  # (B, K)
        power = power * (-2 * order * distance).sigmoid()
    if high_pass is not None:
        distance = log_frequencies - column(np.log(high_pass), waves)
        power = power * (2 * order * distance).sigmoid()
    spectra = torch.fft.rfft(waves, n_fft) * power.sqrt()
    filtered_waves = torch.fft.irfft(spectra, n_fft)[:, :samples]
    return replace(examples, data=filtered_waves * frame_mask(examples.lengths, samples))
