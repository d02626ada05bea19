"""Features of windows that every epoch and every trial sees alike: made once and kept on the disk.

Shapes: W windows, B of a batch, T samples, F frames, N features a frame.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raudio.data.cache import Cache

Transform: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Features(NamedTuple):
    """What the front end's `transform` gave for each window: arrays mapped from a file.

    Attributes:
        values: (W, F, N) float32.
        frames: (W,) int64 that are the window's.
    """

    values: NDArray[np.float32]
    frames: NDArray[np.int64]

    def of(self, windows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """(B, F, N) features and their (B,) lengths, copied."""
        return torch.from_numpy(self.values[windows]), torch.from_numpy(self.frames[windows])


def kept_features(
    cache: Cache,
    key: str,
    count: int,
    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    transform: Transform,
    device: torch.device,
) -> Features | None:
    """The features of `count` windows from the cache, where they are put first if not there.

    Args:
        cache: of this machine.
        key: names all that decides the bytes.
        count: W.
        batches: gives all windows in order: waves (B, T) and lengths (B,).
        transform: waves and lengths to features (B, F, N) and lengths in frames.
        device: where to compute.

    Returns:
        The features; None when the cache has no room for them.
    """

    @torch.no_grad()
    def write(path: Path) -> None:
        rows, done = None, 0
        for waves, lengths in batches():
            values, frames = transform(waves.to(device), lengths.to(device))
            if rows is None:
                row = np.dtype([("frames", np.int64), ("values", np.float32, values.shape[1:])])
                if count * row.itemsize > cache.limit:
                    raise OSError(errno.ENOSPC, "larger than the cache may be")
                rows = np.lib.format.open_memmap(path, "w+", row, (count,))
            part = rows[done : done + len(frames)]
            part["values"], part["frames"] = values.cpu().numpy(), frames.cpu().numpy()
            done += len(frames)
        assert rows is not None, "no window to keep the features of"
        assert done == count, (done, count)
        rows.flush()

    def read(path: Path) -> Features:
        rows = np.load(path, mmap_mode="r")
        return Features(rows["values"], rows["frames"])

    return cache.fetch(key, read, write)
