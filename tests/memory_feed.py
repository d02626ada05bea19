"""A feed over a few waveforms in memory, for tests of what consumes feeds.

It follows the contract of `raudio.data.feeds.Feed` in the simplest way.

Shapes: N clips, T samples, B clips of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raudio.core import seeding
from raudio.data.feeds import Batch


class MemoryFeed:
    """Waveforms (N, T) with targets (N,), shuffled by (seed, epoch), shared out over the ranks."""

    def __init__(
        self,
        waves: Tensor,
        targets: Tensor,
        *,
        batch_size: int = 8,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.waves, self._targets, self.batch_size = waves, targets, batch_size
        self.seed, self.rank, self.world = seed, rank, world
        self.keys = seeding.clip_keys([f"clip{index}" for index in range(len(waves))])
        self.clips = len(waves)
        self.given: list[tuple[int, list[int]]] = []

    @property
    def steps(self) -> int:
        whole, rest = divmod(self.clips, self.batch_size)
        return whole + (rest >= 2)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = seeding.generator(self.seed, "order", epoch).permutation(self.clips)
        for step in range(start, self.steps):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            clips = batch[self.rank :: self.world]
            self.given.append((epoch, clips.tolist()))
            stands_in = not len(clips)
            part = self._batch(batch[:1] if stands_in else clips)
            yield replace(part, total=len(batch), stands_in=stands_in)

    def windows(self, batch_size: int) -> Iterator[Batch]:
        mine = np.arange(self.rank, self.clips, self.world)
        for start in range(0, len(mine), batch_size):
            yield self._batch(mine[start : start + batch_size])

    def targets(self) -> Tensor:
        return self._targets

    def keep(self, front_end: Any, device: torch.device) -> None:
        pass

    def close(self) -> None:
        pass

    def _batch(self, clips: np.ndarray) -> Batch:
        waves = self.waves[clips]
        lengths = torch.full((len(clips),), waves.shape[1])
        return Batch(waves, lengths, self._targets[clips], self.keys[clips], clips)


def tones(count: int, seed: int = 0, samples: int = 800) -> tuple[Tensor, Tensor]:
    """(N, T) noisy tones at 8 kHz of three pitches, and the (N,) pitch of each."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % 3
    hertz = torch.tensor([400.0, 900.0, 2000.0])[targets]
    time = torch.arange(samples) / 8000
    phase = torch.rand(count, 1, generator=generator) * 6.28
    waves = 0.3 * torch.sin(6.2832 * hertz[:, None] * time + phase)
    return waves + 0.05 * torch.randn(count, samples, generator=generator), targets
