"""Augmentations of tempo and pitch: speed (both), stretch (tempo alone), pitch alone.

B clips, T samples, F frames and K bins of the Fourier transform.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torchaudio.functional as audio_functional
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
from raudio.audio.frontends import frame_mask
from raudio.core.units import Seconds

_WINDOW: Seconds = 0.064
# Of the resampling filter, each side: what folds back is below -40 dB from 5 % above the limit on.
_ZERO_CROSSINGS = 24


class Speed(Augmentation):
    """Played faster or slower, so that tempo and pitch change (Ko et al. 2015, "Audio augmentation
    for speech recognition"), by a factor in steps of 0.01.

    A faster clip gets shorter; of a slower one, what no longer fits into the batch is lost.

    Args:
        p: probability a clip.
        min_factor, max_factor: the factor is drawn between them.

    Raises:
        ConfigError: min_factor above max_factor.
    """

    stage = "wave"

    def __init__(self, *, p: float = 0.0, min_factor: float = 0.9, max_factor: float = 1.1) -> None:
        super().__init__(p=p)
        check_range("speed", "factor", min_factor, max_factor)
        self.min_factor = min_factor
        self.max_factor = max_factor

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        u = self.uniforms(keys, 1, seed=seed, epoch=epoch)[:, 0]
        return {"percent": np.rint(100 * between(u, self.min_factor, self.max_factor))}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        size = examples.data.shape[1]
        return _faster(
            examples, resampled(examples.data, draw["percent"], size), draw["percent"] / 100
        )


class Stretch(Augmentation):
    """Played faster or slower at the same pitch, by a phase vocoder (Flanagan and Golden 1966).

    A faster clip gets shorter; of a slower one, what no longer fits into the batch is lost.

    Args:
        sample_rate: of the waves, in Hz.
        p: probability a clip.
        min_factor, max_factor: the factor of the tempo is drawn between them.

    Raises:
        ConfigError: min_factor above max_factor.
    """

    stage = "wave"

    def __init__(
        self,
        *,
        sample_rate: int,
        p: float = 0.0,
        min_factor: float = 0.8,
        max_factor: float = 1.25,
    ) -> None:
        super().__init__(p=p)
        check_range("stretch", "factor", min_factor, max_factor)
        self.n_fft = window_size(sample_rate)
        self.min_factor = min_factor
        self.max_factor = max_factor

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        u = self.uniforms(keys, 1, seed=seed, epoch=epoch)[:, 0]
        return {"factor": between(u, self.min_factor, self.max_factor)}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        factor, size = draw["factor"], examples.data.shape[1]
        return _faster(examples, stretched(examples.data, factor, size, self.n_fft), factor)


class Pitch(Augmentation):
    """Higher or lower at the same tempo: stretched by a phase vocoder, then resampled back.

    The ratio of frequencies is rounded to 0.01, at most 9 cents for an octave's range.

    Args:
        sample_rate: of the waves, in Hz.
        p: probability a clip.
        max_semitones: the change is drawn from this many semitones down to as many up.
    """

    stage = "wave"

    def __init__(self, *, sample_rate: int, p: float = 0.0, max_semitones: float = 2.0) -> None:
        super().__init__(p=p)
        self.n_fft = window_size(sample_rate)
        self.max_semitones = max_semitones

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        u = self.uniforms(keys, 1, seed=seed, epoch=epoch)[:, 0]
        semitones = between(u, -self.max_semitones, self.max_semitones)
        return {"percent": np.rint(100 * 2 ** (semitones / 12))}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        size = examples.data.shape[1]
        # Room for the highest clip that may be drawn, whatever was drawn for the others.
        room = math.ceil(size * 2 ** (self.max_semitones / 12)) + self.n_fft
        longer = stretched(examples.data, 100 / draw["percent"], room, self.n_fft)
        waves = resampled(longer, draw["percent"], size)
        lengths = examples.lengths
        return Examples(waves * frame_mask(lengths, size), lengths, examples.targets)


def window_size(sample_rate: int) -> int:
    """Samples of the phase vocoder's window: the power of two next to 64 ms."""
    return 1 << round(math.log2(_WINDOW * sample_rate))


def resampled(waves: Tensor, percent: NDArray[np.float64], size: int) -> Tensor:
    """(B, T) waves played at these (B,) percentages of their speed, cut or padded to (B, size).

    One polyphase filter for each percentage that occurs: clips of the same go together.
    """
    result = waves.new_zeros(len(waves), size)
    for value in np.unique(percent):
        clips = torch.as_tensor(np.flatnonzero(percent == value), device=waves.device)
        played = audio_functional.resample(
            waves[clips], int(value), 100, lowpass_filter_width=_ZERO_CROSSINGS
        )[:, :size]
        result[clips, : played.shape[1]] = played
    return result


def stretched(waves: Tensor, factor: NDArray[np.float64], size: int, n_fft: int) -> Tensor:
    """(B, T) waves at these (B,) factors of their tempo, cut or padded to (B, size).

    As torchaudio's phase vocoder, with a factor for each clip; phases are summed in float64.
    """
    hop = n_fft // 4
    window = torch.hann_window(n_fft, device=waves.device)
    # Zeros around, and every frame that reaches into the clip: how far a batch pads it must not
    # matter.
    spectra = torch.stft(
        torch.nn.functional.pad(waves, (0, n_fft)),
        n_fft,
        hop,
        window=window,
        pad_mode="constant",
        return_complex=True,
    )  # (B, K, F)
    spectra = torch.nn.functional.pad(spectra, (0, 2))  # silence to read beyond the end
    frames = 1 + (size + n_fft) // hop
    time = torch.arange(frames, device=waves.device) * column(factor, waves, torch.float64)
    time = time.clamp(max=spectra.shape[2] - 2)  # (B, F) where each frame is read
    first = time.long()[:, None].expand(-1, spectra.shape[1], -1)
    share = time.frac()[:, None].to(waves.dtype)
    levels, angles = spectra.abs(), spectra.angle()
    magnitude = torch.lerp(levels.gather(2, first), levels.gather(2, first + 1), share)
    # How far each bin's phase turns from a frame to the next; whole turns make no difference.
    turns = angles.diff(dim=2).gather(2, first)
    phase = turns.cumsum(2, dtype=torch.float64).roll(1, 2)
    phase[:, :, 0] = 0
    phase = (phase + angles[:, :, :1]).remainder(2 * math.pi).to(waves.dtype)
    frequencies = torch.polar(magnitude, phase)
    return torch.istft(frequencies, n_fft, hop, window=window, length=size + n_fft)[:, :size]


def _faster(examples: Examples, waves: Tensor, factor: NDArray[np.float64]) -> Examples:
    """Examples with (B, T) waves that are the given ones at (B,) factors of their tempo."""
    size = examples.data.shape[1]
    rate = column(factor, examples.lengths, torch.float64)
    lengths = (examples.lengths / rate[:, 0]).round().long().clamp(1, size)
    targets = moved_targets(examples, lengths, lambda time: time * rate)
    return Examples(waves * frame_mask(lengths, size), lengths, targets)
