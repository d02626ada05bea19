"""What all contenders compute: decode, mono, resample, crop, gain, noise, roll, log-mel.

The floors and the peers run these functions, raudio its own. Nothing of the log-mel spectrogram is
raudio's alone: its front end is the fastest there is here, so all have it.

Shapes: B clips of a batch, T samples, F frames, N mel bands.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from raudio.audio.frontends import LogMel
from throughput.recipe import MAX_DB, MAX_ROLL, MAX_SNR, MIN_SNR, Shape

#: Full scale of cached int16 samples.
INT16 = 32767.0


class Kernels:
    """The kernels, with the state that one process keeps for them."""

    def __init__(self, shape: Shape) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(os.getpid())
        self._random = np.random.default_rng()
        self._shape = shape
        self._noise = torch.empty(shape.frames)
        self._front_end = LogMel(sample_rate=shape.sample_rate, normalize="none")

    def load(self, audio: bytes | str) -> NDArray[np.float32]:
        """A crop of an encoded file, given by content or path."""
        return self.crop(self.decode(audio))

    def decode(self, audio: bytes | str) -> NDArray[np.float32]:
        """(T,) mono samples of a whole file at the rate."""
        file = io.BytesIO(audio) if isinstance(audio, bytes) else audio
        wave, rate = soundfile.read(file, dtype="float32", always_2d=True)
        channels = wave.shape[1]
        # A product, because a mean over so short an axis takes several times longer.
        mono = wave[:, 0] if channels == 1 else wave @ np.full(channels, 1 / channels, np.float32)
        if rate != self._shape.sample_rate:
            mono = soxr.resample(mono, rate, self._shape.sample_rate, quality="HQ")
        return mono

    def crop(self, wave: NDArray[Any]) -> NDArray[Any]:
        """A part of at most the crop's length, anywhere in the clip; a view."""
        room = len(wave) - self._shape.frames
        start = int(self._random.integers(room + 1)) if room > 0 else 0
        return wave[start : start + self._shape.frames]

    def features(self, waves: Sequence[NDArray[Any]]) -> Tensor:
        """Crops, float32 or cached int16, to augmented log-mel features (B, F, N)."""
        batch = torch.zeros(len(waves), self._shape.frames)
        gain, snr, roll = self._random.uniform(-1, 1, (3, len(waves)))
        gains = 10 ** (gain * MAX_DB / 20)
        levels = 10 ** -((MIN_SNR + (snr + 1) / 2 * (MAX_SNR - MIN_SNR)) / 20)
        for row, wave in enumerate(waves):
            if wave.dtype == np.int16:
                wave = np.multiply(wave, np.float32(1 / INT16), dtype=np.float32)
            shift = int(roll[row] * MAX_ROLL * len(wave))
            self._augment(torch.from_numpy(wave), batch[row], gains[row], levels[row], shift)
        lengths = torch.tensor([len(wave) for wave in waves])
        with torch.no_grad():
            features, _ = self._front_end(batch, lengths)
        return features

    def _augment(self, wave: Tensor, out: Tensor, gain: float, level: float, shift: int) -> None:
        """Writes one clip, (T,) or shorter, into its row: clip by clip it stays in the cache."""
        length = len(wave)
        noise = self._noise[:length].normal_()
        power = torch.dot(wave, wave) / torch.dot(noise, noise)
        noise.mul_(float(power.sqrt()) * level * gain).add_(wave, alpha=gain)
        shift %= length
        out[shift:length] = noise[: length - shift]
        out[:shift] = noise[length - shift :]


@functools.cache
def kernels(shape: Shape) -> Kernels:
    """The kernels of this process. To be called where they work, never before a fork."""
    return Kernels(shape)
