"""Additive noise at a signal-to-noise ratio: white, pink or brown, or recordings of a background.

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
    check_range,
    column,
    fft_size,
)
from raudio.audio.augment.sounds import load_sounds
from raudio.audio.frontends import frame_mask
from raudio.core.errors import ConfigError
from raudio.core.units import Decibels, Hertz

#: Fall of the power density with frequency, 1 / f^a: 3 dB an octave for pink, 6 for brown.
COLORS = {"white": 0, "pink": 1, "brown": 2}
# Below this frequency coloured noise has no energy: else brown noise would be all inaudible.
_LOWEST: Hertz = 20.0


class Noise(Augmentation):
    """Gaussian noise over the clip's valid part, at a signal-to-noise ratio drawn from
    [min_snr, max_snr]; a silent clip stays silent.

    Args:
        sample_rate: of the waves, in Hz.
        p: probability a clip.
        color: "white", "pink" (falls by 3 dB an octave) or "brown" (by 6), from 20 Hz up.
        min_snr, max_snr: power of the clip over that of the noise, in dB.

    Raises:
        ConfigError: min_snr above max_snr, or an unknown color.
    """

    stage = "wave"

    def __init__(
        self,
        *,
        sample_rate: int,
        p: float = 0.0,
        color: str = "white",
        min_snr: Decibels = 10.0,
        max_snr: Decibels = 40.0,
    ) -> None:
        super().__init__(p=p)
        check_range("noise", "snr", min_snr, max_snr)
        if color not in COLORS:
            raise ConfigError(f"noise: color={color!r} is none of {', '.join(COLORS)}")
        self.min_snr = min_snr
        self.max_snr = max_snr
        self._filter = None if color == "white" else _color_filter(COLORS[color], sample_rate)

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        u, field = self.uniforms(keys, 2, seed=seed, epoch=epoch).T
        return {"snr": between(u, self.min_snr, self.max_snr), "field": field}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        waves = examples.data
        if self._filter is None:
            noise = white(draw["field"], examples.lengths, waves.shape[1])
        else:
            taps = len(self._filter) - 1
            lead = white(draw["field"], examples.lengths + taps, waves.shape[1] + taps)
            noise = convolved(lead, self._filter.to(waves.device)[None])[:, taps:]
            noise = noise * frame_mask(examples.lengths, waves.shape[1])
        return replace(examples, data=added(waves, noise, draw["snr"]))


class Background(Augmentation):
    """Recordings of noise under the clip, at a signal-to-noise ratio drawn from [min_snr, max_snr],
    as with the MUSAN corpus (Snyder et al. 2015); a silent clip stays silent.

    Args:
        sample_rate: of the waves, in Hz.
        p: probability a clip.
        source: folder or URI with the recordings, at any depth, or a dataset, whose training clips
            are taken. A shorter recording repeats.
        min_snr, max_snr: power of the clip over that of the recording's piece, in dB.

    Raises:
        ConfigError: min_snr above max_snr, no source, or no recording in it.
        DataError: a recording can't be decoded.
    """

    stage = "wave"

    def __init__(
        self,
        *,
        sample_rate: int,
        p: float = 0.0,
        source: str | None = None,
        min_snr: Decibels = 0.0,
        max_snr: Decibels = 20.0,
    ) -> None:
        super().__init__(p=p)
        check_range("background", "snr", min_snr, max_snr)
        if source is None:
            raise ConfigError(
                "background: no source; give augment.background.source=FOLDER, a folder or URI "
                "with recordings of noise"
            )
        self.sounds = load_sounds(source, sample_rate, name="background")
        self.min_snr = min_snr
        self.max_snr = max_snr

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        u, sound, place = self.uniforms(keys, 3, seed=seed, epoch=epoch).T
        return {"snr": between(u, self.min_snr, self.max_snr), "sound": sound, "place": place}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        waves = examples.data
        size = waves.shape[1]
        noise = self.sounds.cut(draw["sound"], draw["place"], size, waves.device)
        noise = noise * frame_mask(examples.lengths, size)
        return replace(examples, data=added(waves, noise, draw["snr"]))


def white(field: NDArray[np.float64], lengths: Tensor, size: int) -> Tensor:
    """(B, size) Gaussian noise, 0 beyond (B,) lengths, a function of each clip's draw `field`."""
    noise = torch.zeros(len(field), size, device=lengths.device)
    samples = lengths.tolist()
    # One generator a clip, on the batch's device, over the clip's own length: the noise of a clip
    # does not depend on the clips beside it. (A hash of clip and sample would need no loop, and
    # takes five times as long on a CPU.)
    generator = torch.Generator(device=lengths.device)
    for clip, u in enumerate(field):
        generator.manual_seed(int(u * 2.0**53))
        noise[clip, : samples[clip]].normal_(generator=generator)
    return noise


def added(waves: Tensor, noise: Tensor, snr: NDArray[np.float64]) -> Tensor:
    """(B, T) waves with (B, T) noise at (B,) ratios in dB; both are 0 beyond a clip's length."""
    power: Tensor = waves.square().sum(1) / noise.square().sum(1).clamp(min=1e-12)
    amplitude = power.sqrt()[:, None] * column(10.0 ** (-snr / 20), waves)
    return torch.addcmul(waves, noise, amplitude)


def convolved(waves: Tensor, responses: Tensor) -> Tensor:
    """(B, T) waves convolved with (B or 1, L) responses, cut to (B, T)."""
    size = waves.shape[1]
    n_fft = fft_size(size + responses.shape[1] - 1)
    spectra = torch.fft.rfft(waves, n_fft) * torch.fft.rfft(responses, n_fft)
    convolution: Tensor = torch.fft.irfft(spectra, n_fft)[:, :size]
    return convolution


def _color_filter(exponent: int, sample_rate: int) -> Tensor:
    """(L,) filter whose power falls with 1 / f^exponent from 20 Hz up, and is 0 below."""
    taps = fft_size(round(4 * sample_rate / _LOWEST))
    frequencies = torch.fft.rfftfreq(taps, 1 / sample_rate, dtype=torch.float64)
    magnitude = frequencies.clamp(min=_LOWEST) ** (-exponent / 2)
    magnitude[frequencies < _LOWEST] = 0
    response = torch.fft.irfft(magnitude, taps).roll(taps // 2)
    response *= torch.hann_window(taps, dtype=torch.float64)
    unit: Tensor = response / response.norm()
    return unit.float()
