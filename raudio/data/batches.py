"""A row of items cut into batches: by count, or by length within a budget.

Shapes: W windows that items are drawn from, I items of an epoch, K batches of an epoch.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from raudio.core.errors import ConfigError

#: Fewest clips of a batch: batch normalisation needs two.
LEAST = 2

#: Places in the row of items, batch after batch; (K,) where each batch ends; (K,) samples that its
#: clips are padded to.
Batches: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


class ByCount(NamedTuple):
    """Batches of `size` clips, padded to `longest`.

    A last one of fewer than `LEAST` is left out.
    """

    size: int
    longest: int

    def steps(self, items: int, expected: NDArray[np.float64]) -> int:
        """Batches of an epoch of so many items."""
        whole, rest = divmod(items, self.size)
        return whole + (rest >= LEAST)

    def __call__(self, row: NDArray[np.int64], steps: int) -> Batches:
        """Cuts an epoch's row of windows."""
        ends = np.minimum(np.arange(1, steps + 1) * self.size, len(row))
        used = int(ends[-1]) if steps else 0
        return np.arange(used), ends, np.full(steps, self.longest)


class ByLength(NamedTuple):
    """Batches of windows of similar length, padded to the longest of them.

    A window goes into the bin of its bucket, and a bin of `sizes[bucket]` windows is a batch. What
    the bins hold at the end is put together from the shortest on; fewer than `LEAST` are left out.

    Attributes:
        frames, buckets: (W,) of the windows.
        sizes: windows of a batch, for each bucket: as many of its longest as the budget holds.
    """

    frames: NDArray[np.int64]
    buckets: NDArray[np.int64]
    sizes: list[int]

    @classmethod
    def of(cls, frames: NDArray[np.int64], most: int, count: int, sample_rate: int) -> ByLength:
        """For (W,) windows of `frames`, `count` buckets, and batches of at most `most` samples.

        Raises:
            ConfigError: that is too few for `LEAST` of the longest windows.
        """
        quantiles = np.arange(1, count + 1) / count
        edges = (
            np.unique(np.quantile(frames, quantiles, method="higher")) if len(frames) else frames
        )
        sizes = (most // np.maximum(edges, 1)).tolist()
        if sizes and sizes[-1] < LEAST:
            needed = math.ceil(1000 * LEAST * edges[-1] / sample_rate) / 1000
            raise ConfigError(
                f"training.batch_seconds={most / sample_rate:g} holds {sizes[-1]} of the longest "
                f"clips, and a batch needs {LEAST}; give at least {needed:g}"
            )
        return cls(frames, np.searchsorted(edges, frames), sizes)

    def steps(self, items: int, expected: NDArray[np.float64]) -> int:
        """Batches of an epoch of so many items.

        Args:
            items: of the epoch.
            expected: (W,) how often each window comes in it on average.
        """
        shares = np.bincount(self.buckets, expected, minlength=len(self.sizes))
        counts = apportioned(items, shares) if items else np.zeros(len(shares), np.int64)
        return len(self._filled(np.repeat(np.arange(len(counts)), counts)))

    def __call__(self, row: NDArray[np.int64], steps: int) -> Batches:
        """Cuts an epoch's row of windows.

        Where windows are drawn at random, so is their number in each bucket: batches beyond `steps`
        are left out, or the first come again.
        """
        batches = self._filled(self.buckets[row])
        batches = [batches[step % len(batches)] for step in range(steps)]
        ends = np.cumsum([len(batch) for batch in batches], dtype=np.int64)
        longest = np.array([self.frames[row[batch]].max() for batch in batches], np.int64)
        return np.concatenate([np.empty(0, np.int64), *batches]), ends, longest

    def _filled(self, buckets: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The batches of a row of items of such buckets: in the order in which they become full."""
        full: list[NDArray[np.int64]] = []
        last: list[NDArray[np.int64]] = []
        held: list[int] = []
        for bucket, size in enumerate(self.sizes):
            members = np.flatnonzero(buckets == bucket)
            used = len(members) - len(members) % size
            full += list(members[:used].reshape(-1, size))
            for place in members[used:].tolist():
                if len(held) >= size:
                    last.append(np.array(held))
                    held = []
                held.append(place)
        if len(held) >= LEAST:
            last.append(np.array(held))
        return [*sorted(full, key=lambda batch: int(batch[-1])), *last]


def apportioned(total: int, shares: NDArray[Any]) -> NDArray[np.int64]:
    """Whole numbers in the proportion of `shares` that add up to `total` (largest remainders)."""
    exact = total * shares / shares.sum()
    parts: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    missing = total - int(parts.sum())
    parts[np.argsort(parts - exact, kind="stable")[:missing]] += 1
    return parts
