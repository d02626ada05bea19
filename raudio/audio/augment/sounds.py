"""A bank of sounds from a folder, a URI or a dataset: noises, impulse responses.

M sounds, S samples of all together, B clips.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raudio.audio.decode import blocks, from_precision, to_precision
from raudio.core import seeding, storage
from raudio.core.errors import ConfigError
from raudio.core.units import Seconds

_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".opus", ".au", ".w64")
#: Of a longer recording only the first part is kept.
LONGEST: Seconds = 60.0
#: int16 samples kept in a process; beyond that, a fixed choice of the sounds.
MAX_BYTES = 512 * 10**6


@dataclass(frozen=True)
class Sounds:
    """Sounds in memory, one after another, at one sample rate; each has its peak at full scale.

    Attributes:
        samples: (S,) int16.
        starts, lengths: (M,) int64, where each sound is.
    """

    samples: Tensor
    starts: Tensor
    lengths: Tensor

    def cut(
        self, u: NDArray[np.float64], place: NDArray[np.float64], size: int, device: torch.device
    ) -> Tensor:
        """(B, size) float32 pieces, of sounds that repeat where they are shorter.

        Args:
            u: (B,) numbers in [0, 1) that choose the sounds.
            place: (B,) numbers in [0, 1), where in its sound a piece starts.
            size: samples.
            device: of the result; the bank stays in the main memory.
        """
        which = torch.as_tensor(u * len(self.lengths), dtype=torch.int64)
        lengths = self.lengths[which][:, None]
        offset = (torch.as_tensor(place)[:, None] * lengths).long()
        index = self.starts[which][:, None] + (offset + torch.arange(size)).remainder(lengths)
        pieces = torch.from_numpy(from_precision(self.samples[index].numpy()))
        return pieces.to(device)

    def first(self, u: NDArray[np.float64], size: int, device: torch.device) -> Tensor:
        """(B, size) float32: the sounds' first samples, and zeros after their end."""
        which = torch.as_tensor(u * len(self.lengths), dtype=torch.int64)
        inside = torch.arange(size) < self.lengths[which][:, None]
        return self.cut(u, np.zeros(len(u)), size, device) * inside.to(device)


@lru_cache(maxsize=4)
def load_sounds(source: str, sample_rate: int, *, name: str, from_peak: bool = False) -> Sounds:
    """The sounds of a folder, decoded once a process.

    Those that are silent are left out. Where all together take more than `MAX_BYTES`, the same
    choice of them is kept in every process.

    Args:
        source: a folder or URI with audio files, at any depth; or a dataset, whose training clips
            are taken.
        sample_rate: to resample to, in Hz.
        name: of the augmentation, for messages.
        from_peak: whether a sound begins at its highest sample, as an impulse response does at its
            direct sound.

    Raises:
        ConfigError: there is no folder, or no sound in it.
        DataError: a file can't be decoded.
    """
    pieces: list[NDArray[np.int16]] = []
    total = 0
    for where, content in _sounds(source, name):
        wave = next(blocks(content, sample_rate, LONGEST, where=where))
        peak = np.abs(wave).max()
        if not peak:
            continue
        wave = wave[np.abs(wave).argmax() :] if from_peak else wave
        total += 2 * len(wave)
        if total > MAX_BYTES and pieces:
            break
        samples = to_precision(wave / peak, "int16")
        assert samples.dtype == np.int16
        pieces.append(samples)  # type: ignore[arg-type]
    if not pieces:
        raise _no_sound(source, name)
    lengths = np.array([len(piece) for piece in pieces])
    return Sounds(
        torch.from_numpy(np.concatenate(pieces)),
        torch.from_numpy(np.cumsum(lengths) - lengths),
        torch.from_numpy(lengths),
    )


def sound_files(source: str, *, name: str) -> list[str]:
    """Paths of a folder's audio files, or of a dataset's training shards, in a fixed order without
    meaning; arguments as `load_sounds`.

    Raises:
        ConfigError: there is no folder, or no such file in it.
    """
    try:
        found = list(storage.listing(source))
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"{name}: source={source!r} can't be listed: {error}") from error
    if not found:
        raise ConfigError(
            f"{name}: source={source!r}: there is no such folder, or nothing in it; give a folder "
            "or URI with audio files, or a dataset"
        )
    if "dataset.json" in found:
        files = [file for file in found if file.startswith("shards/train-")]
    else:
        files = [file for file in found if file.lower().endswith(_SUFFIXES)]
        files.sort(key=lambda file: seeding.key("sound", file))
    if not files:
        raise _no_sound(source, name)
    return [storage.join(source, file) for file in files]


def _sounds(source: str, name: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of each encoded sound."""
    for path in sound_files(source, name=name):
        if path.endswith(".parquet"):
            yield from _clips(path)
        else:
            yield path, storage.read_bytes(path)


def _no_sound(source: str, name: str) -> ConfigError:
    return ConfigError(
        f"{name}: source={source!r} holds no sound: no audio file ({', '.join(_SUFFIXES)}) "
        "that isn't silent, and no dataset with training clips"
    )


def _clips(shard: str) -> Iterator[tuple[str, bytes]]:
    import pyarrow.parquet

    with storage.open_bytes(shard) as file:
        batches = pyarrow.parquet.ParquetFile(file).iter_batches(16, columns=["clip_id", "audio"])
        for batch in batches:
            for row in batch.to_pylist():
                yield f"clip {row['clip_id']!r}", row["audio"]
