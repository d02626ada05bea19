"""What coding leaves of a sound: mu-law quantisation, MP3 and Vorbis.

B clips, T samples.
"""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from raudio.audio.augment.base import Augmentation, Draw, Examples, between, check_range, column
from raudio.audio.frontends import frame_mask
from raudio.core.errors import ConfigError

_FORMATS = {"mp3": ("MP3", "MPEG_LAYER_III"), "vorbis": ("OGG", "VORBIS")}
_WORST = 0.99  # MP3 refuses a full 1
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


class MuLaw(Augmentation):
    """Samples rounded to few levels, spaced by the mu-law of telephony (ITU-T G.711, there 8 bits).

    With n bits, mu = 2^n - 1. Samples beyond full scale are cut off.

    Args:
        p: probability a clip.
        min_bits, max_bits: bits a sample, drawn uniformly.

    Raises:
        ConfigError: min_bits above max_bits.
    """

    stage = "wave"

    def __init__(self, *, p: float = 0.0, min_bits: int = 5, max_bits: int = 8) -> None:
        super().__init__(p=p)
        check_range("mu_law", "bits", min_bits, max_bits)
        self.min_bits = min_bits
        self.max_bits = max_bits

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        u = self.uniforms(keys, 1, seed=seed, epoch=epoch)[:, 0]
        return {"bits": np.floor(between(u, self.min_bits, self.max_bits + 1))}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        waves = examples.data
        mu = column(2 ** draw["bits"] - 1, waves)
        compressed = waves.sign() * (mu * waves.abs().clamp(max=1)).log1p() / mu.log1p()
        level = ((compressed + 1) / 2 * mu + 0.5).floor()
        rounded = 2 * level / mu - 1
        decoded = rounded.sign() * (rounded.abs() * mu.log1p()).expm1() / mu
        return replace(examples, data=decoded * frame_mask(examples.lengths, waves.shape[1]))


class Codec(Augmentation):
    """The clip encoded and decoded again by libsndfile: what a lossy format does to it.

    Clip by clip, on the CPU: there are no such encoders for batches or devices.

    Args:
        sample_rate: of the waves, in Hz.
        p: probability a clip.
        format: "mp3" or "vorbis".
        min_compression, max_compression: from 0, the best quality, to 1, the smallest file; drawn
            uniformly.

    Raises:
        ConfigError: a minimum above its maximum, or a sample rate that MP3 does not have.
    """

    stage = "wave"

    def __init__(
        self,
        *,
        sample_rate: int,
        p: float = 0.0,
        format: str = "mp3",
        min_compression: float = 0.5,
        max_compression: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        check_range("codec", "compression", min_compression, max_compression)
        if format not in _FORMATS:
            raise ConfigError(f"codec: format={format!r} is none of {', '.join(_FORMATS)}")
        if format == "mp3" and sample_rate not in _MP3_RATES:
            raise ConfigError(
                f"codec: format=mp3 has no sample rate of {sample_rate} Hz; take format=vorbis, or "
                f"dataset.sample_rate of {', '.join(map(str, _MP3_RATES))}"
            )
        self.sample_rate = sample_rate
        self.format = format
        self.min_compression = min_compression
        self.max_compression = max_compression

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        u = self.uniforms(keys, 1, seed=seed, epoch=epoch)[:, 0]
        return {"compression": between(u, self.min_compression, self.max_compression)}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        decoded = torch.zeros(examples.data.shape)
        waves, lengths = examples.data.cpu().numpy(), examples.lengths.tolist()
        for clip, compression in enumerate(draw["compression"]):
            wave = self._decoded(waves[clip, : lengths[clip]], float(compression))
            decoded[clip, : len(wave)] = torch.from_numpy(wave)
        return replace(examples, data=decoded.to(examples.data.device))

    def _decoded(self, wave: NDArray[np.float32], compression: float) -> NDArray[np.float32]:
        """(T,) samples, at most as many as were given."""
        container, subtype = _FORMATS[self.format]
        file = io.BytesIO()
        soundfile.write(
            file,
            wave,
            self.sample_rate,
            format=container,
            subtype=subtype,
            compression_level=min(compression, _WORST),
        )
        file.seek(0)
        decoded: NDArray[np.float32] = soundfile.read(file, dtype="float32")[0]
        return decoded[: len(wave)]
