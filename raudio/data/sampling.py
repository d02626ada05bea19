"""Which clips make up which batch: pure functions of (seed, epoch), the same for both feeds.

An epoch permutes the shards, takes them in groups of `window` shards, and shuffles the clips of
each group. Group after group that is the epoch's order of clips; batches are consecutive pieces of
it, and rank r of w takes places r, r + w, r + 2w, ... of each batch. Clips are named by their
position in the split: shard after shard, row after row.

Shapes: N clips of a split, S shards.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raudio.core import seeding


def shard_order(shards: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """(S,) the order in which an epoch takes the shards."""
    return seeding.generator(seed, "shards", epoch).permutation(shards)


def epoch_order(
    shard_sizes: Sequence[int], *, seed: int, epoch: int, window: int | None = None
) -> NDArray[np.int64]:
    """(N,) positions of all clips in the order in which an epoch takes them.

    Args:
        shard_sizes: clips of each shard.
        seed: of the trial.
        epoch: from 0.
        window: shards that are shuffled together; None: all.
    """
    assert window is None or window >= 1, window
    ends = np.cumsum(shard_sizes, dtype=np.int64)
    order = shard_order(len(shard_sizes), seed=seed, epoch=epoch)
    window = window or max(1, len(order))
    draw = seeding.generator(seed, "clips", epoch)
    parts = [np.empty(0, np.int64)]
    for first in range(0, len(order), window):
        group = order[first : first + window]
        clips = [np.arange(ends[shard] - shard_sizes[shard], ends[shard]) for shard in group]
        parts.append(draw.permutation(np.concatenate(clips)))
    return np.concatenate(parts)


def steps(clips: int, batch_size: int, world: int = 1) -> int:
    """Batches of an epoch.

    A last batch of fewer than max(2, world) clips is left out: batch normalisation needs two
    clips, and every rank needs one.
    """
    assert batch_size >= world >= 1, (batch_size, world)
    whole, rest = divmod(clips, batch_size)
    return whole + (rest >= max(2, world))


def batch_share(
    order: NDArray[np.int64], batch_size: int, step: int, rank: int = 0, world: int = 1
) -> NDArray[np.int64]:
    """A rank's part of the global batch number `step`, which must be less than `steps`."""
    assert 0 <= step < steps(len(order), batch_size, world), (step, len(order), batch_size)
    return order[step * batch_size : (step + 1) * batch_size][rank::world]


def epoch_share(
    order: NDArray[np.int64], batch_size: int, rank: int = 0, world: int = 1, *, start: int = 0
) -> NDArray[np.int64]:
    """A rank's parts of all batches from number `start` on, one after the other."""
    used = order[start * batch_size : steps(len(order), batch_size, world) * batch_size]
    mine: NDArray[np.int64] = used[np.arange(len(used)) % batch_size % world == rank]
    return mine
