"""Which clips make up which batch: pure functions of (settings, index of a split, seed, epoch), the
same for both feeds and all ranks.

An epoch is a row of *items*: each a window of a clip, with a key of its own that everything random
about it is drawn by. First it is decided how often each window comes in the epoch; then shards are
permuted and taken in groups of `window` shards, and what comes of each group is shuffled. Last, the
row is cut into batches, the same for any number of ranks, and rank r of w takes the items r, r + w,
r + 2w, ... of each batch.

Shapes: N clips of a split, S shards, W windows that items are drawn from, I items of an epoch,
K batches of an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from raudio.audio.windows import crop_starts
from raudio.core import seeding
from raudio.core.errors import ConfigError
from raudio.data.batches import ByCount, ByLength, apportioned
from raudio.data.index import Index, active_spans, draw_weights

Crop: TypeAlias = Literal["random", "centre", "first", "all"]
Sampling: TypeAlias = Literal["shuffled", "balanced", "inverse_frequency"]


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """The items of an epoch, batch after batch.

    Attributes:
        clips: (I,) positions in the split.
        keys: (I,) uint64; a clip that comes again in the epoch has another.
        starts: (I,) first sample of the window in its clip.
        frames: (I,) samples of the window.
        ends: (K,) where each batch ends in the row of items.
        longest: (K,) samples that a batch's clips are padded to.
        windows: (I,) which of `Epochs.windows` each item is.
        stand_ins: whether a rank for which a batch is too small gets its first item, to have
            something to compute with: see `Batch.stands_in`.
    """

    clips: NDArray[np.int64]
    keys: NDArray[np.uint64]
    starts: NDArray[np.int64]
    frames: NDArray[np.int64]
    ends: NDArray[np.int64]
    longest: NDArray[np.int64]
    windows: NDArray[np.int64]
    stand_ins: bool = True

    def batch(self, step: int, rank: int = 0, world: int = 1) -> NDArray[np.int64]:
        """A rank's items of batch number `step`."""
        begin = self.ends[step - 1] if step else 0
        items = np.arange(begin + rank, self.ends[step], world)
        return items if len(items) or not self.stand_ins else np.array([begin])

    def size(self, step: int) -> int:
        """Items of batch number `step`, over all ranks."""
        return int(self.ends[step] - (self.ends[step - 1] if step else 0))

    def share(self, rank: int = 0, world: int = 1, start: int = 0) -> NDArray[np.int64]:
        """A rank's items of all batches from number `start` on, one after the other."""
        sizes = np.diff(self.ends, prepend=0)
        place = np.arange(len(self.clips)) - np.repeat(self.ends - sizes, sizes)
        stands_in = (place == 0) & (rank >= np.repeat(sizes, sizes)) & self.stand_ins
        mine = np.flatnonzero((place % world == rank) | stands_in)
        return mine[mine >= (self.ends[start - 1] if start else 0)]

    def padded(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Samples that each of these items is padded to."""
        return self.longest[np.searchsorted(self.ends, items, side="right")]

    @property
    def padding(self) -> float:
        """Share of the batches' samples that are padding."""
        sizes = np.diff(self.ends, prepend=0)
        return 1 - float(self.frames.sum() / max(1, (sizes * self.longest).sum()))


class Epochs:
    """The epochs of a training.

    Args:
        index: of the training split.
        frames: longest window, in samples; a longer clip is cropped.
        crop: where: "random", "centre", "first", or "all": each of the windows that cover it is
            drawn for itself, and takes the place of the clip in all that follows.
        sampling: "shuffled": all alike; "balanced" or "inverse_frequency": by their classes, see
            `raudio.data.index.draw_weights`.
        replacement: whether a window can be drawn again before all others have been; None: when
            it is drawn by classes. Without, an epoch takes all windows as often as it has place,
            and draws the rest of it; of the shuffled, epochs in a row then take turns.
        epoch_items: items of an epoch; None: as many as there are windows.
        weights: shares that joined datasets have in an epoch; None: by their sizes.
        window: shards that are shuffled together; None: all.
        batch_size: clips of a batch, over all ranks.
        batch_frames: instead, samples of a batch, padding included: windows of similar length are
            put together.
        buckets: classes of length, divided at the quantiles of the windows' lengths.
        seed: of the trial.

    Raises:
        ConfigError: `batch_frames` does not hold two of the longest windows.
        DataError: clips are to be drawn by their classes, and have none.
    """

    def __init__(
        self,
        index: Index,
        *,
        frames: int,
        crop: Crop = "random",
        sampling: Sampling = "shuffled",
        replacement: bool | None = None,
        epoch_items: int | None = None,
        weights: Sequence[float] | None = None,
        window: int | None = None,
        batch_size: int = 32,
        batch_frames: int | None = None,
        buckets: int = 8,
        seed: int = 0,
    ) -> None:
        assert window is None or window >= 1, window
        self._seed, self._crop, self._longest = seed, crop, frames
        self.window = window
        self._keys, self._frames = index.keys, index.frames
        self._shards = len(index.shard_sizes)
        self.windows = windows = windows_of(index.frames, frames, crop)
        # Where the windows of each shard's clips begin, and end.
        clip_ends = np.cumsum((0, *index.shard_sizes))
        self._bounds = np.searchsorted(windows.clips, clip_ends)
        self._by_classes = sampling != "shuffled"
        self._replacement = self._by_classes if replacement is None else replacement
        self.items = len(windows.clips) if epoch_items is None else epoch_items
        draw = np.ones(len(windows.clips))
        if self._by_classes:
            begin, end = np.zeros_like(windows.starts), index.frames[windows.clips]
            if crop == "all":
                begin, end = windows.starts, windows.starts + windows.frames
            draw = draw_weights(
                sampling,
                active_spans(index),
                windows.clips,
                begin / index.sample_rate,
                end / index.sample_rate,
            )
        self._sources = self._divided(draw, np.asarray(index.datasets), weights)
        self._cut: ByCount | ByLength = ByCount(batch_size, frames)
        if batch_frames is not None:
            self._cut = ByLength.of(windows.frames, batch_frames, buckets, index.sample_rate)
        #: Whether a window is the same in every epoch, and padded to the same length.
        self.fixed = batch_frames is None and (
            crop != "random" or int(index.frames.max(initial=0)) <= frames
        )
        #: Batches of every epoch.
        self.steps = self._cut.steps(self.items, self._expected())

    def plan(self, epoch: int) -> EpochPlan:
        """The items of an epoch (from 0) and its batches, of which every epoch has `steps`."""
        row = self._row(epoch)
        order, ends, longest = self._cut(row, self.steps)
        row = row[order]
        clips, frames = self.windows.clips[row], self.windows.frames[row]
        # Windows and occurrences count through, so that no two items of a clip share a key.
        numbers = self.windows.numbers[row]
        numbers = numbers + self.windows.counts[row] * _occurrences(row)
        keys = seeding.numbered(self._keys[clips], numbers)
        starts = self.windows.starts[row]
        if self._crop == "random":
            u = seeding.uniforms(keys, 1, self._seed, "crop", epoch)[:, 0]
            starts = crop_starts(self._frames[clips], self._longest, u)
        return EpochPlan(clips, keys, starts, frames, ends, longest, row)

    def shards(self, epoch: int) -> NDArray[np.int64]:
        """(S,) the order in which an epoch takes the shards."""
        return seeding.generator(self._seed, "shards", epoch).permutation(self._shards)

    def counts(self, epoch: int) -> NDArray[np.int64]:
        """(W,) how often each window comes in an epoch, before it is cut into batches."""
        counts = np.zeros(len(self.windows.clips), np.int64)
        for number, source in enumerate(self._sources):
            counts[source.members] = self._drawn(source, number, epoch)
        return counts

    def _row(self, epoch: int) -> NDArray[np.int64]:
        """(I,) windows in the order in which an epoch takes them."""
        counts = self.counts(epoch)
        order, window = self.shards(epoch), self.window or max(1, self._shards)
        draw = seeding.generator(self._seed, "clips", epoch)
        parts = [np.empty(0, np.int64)]
        for first in range(0, len(order), window):
            group = [
                np.arange(self._bounds[shard], self._bounds[shard + 1])
                for shard in order[first : first + window]
            ]
            members = np.concatenate(group)
            parts.append(draw.permutation(np.repeat(members, counts[members])))
        return np.concatenate(parts)

    def _drawn(self, source: _Source, number: int, epoch: int) -> NDArray[np.int64]:
        """How often each window of a source comes in an epoch."""
        size, quota = len(source.shares), source.quota
        address = (self._seed, "draw", number)
        if self._replacement:
            u = seeding.generator(*address, epoch).random(quota)
            drawn = np.searchsorted(np.cumsum(source.shares), u, side="right")
            return np.bincount(np.minimum(drawn, size - 1), minlength=size)
        rounds, rest = divmod(quota, size)
        counts = np.full(size, rounds)
        if rest and self._by_classes:
            # Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir".
            u = seeding.generator(*address, epoch).random(size)
            with np.errstate(divide="ignore"):
                counts[np.argsort(np.log(u) / source.shares)[size - rest :]] += 1
        elif rest:
            # Epochs take turns: each the next part of one permutation, as long as it has parts.
            turn, part = divmod(epoch, size // rest)
            order = seeding.generator(*address, turn).permutation(size)
            counts[order[part * rest : (part + 1) * rest]] += 1
        return counts

    def _divided(
        self,
        draw: NDArray[np.float64],
        datasets: NDArray[np.int64],
        weights: Sequence[float] | None,
    ) -> list[_Source]:
        """The windows, divided by the datasets that `weights` are of."""
        dataset = np.repeat(datasets, np.diff(self._bounds))
        if weights is None:
            dataset, weights = np.zeros_like(dataset), [1.0]
        quotas = apportioned(self.items, np.array(weights))
        sources = []
        for number, quota in enumerate(quotas.tolist()):
            members = np.flatnonzero(dataset == number)
            total = draw[members].sum()
            if quota and not total:
                raise ConfigError(
                    f"dataset.weights={list(weights)}: dataset {number + 1} of them has no clip to "
                    "be drawn in the training split; give it the weight 0, or leave it out"
                )
            if quota:
                sources.append(_Source(members, quota, draw[members] / total))
        return sources

    def _expected(self) -> NDArray[np.float64]:
        """(W,) how often each window comes on average."""
        expected = np.zeros(len(self.windows.clips))
        for source in self._sources:
            expected[source.members] = source.quota * source.shares
        return expected


class Evaluation:
    """The clips of a split, each once and whole, in its order: what `Epochs` gives to training.

    Args:
        index: of the split.
    """

    def __init__(self, index: Index) -> None:
        self._keys, self._frames = index.keys, index.frames
        self._shards = len(index.shard_sizes)
        self.window = 1

    def plan(self, epoch: int = 0) -> EpochPlan:
        """All clips as one batch."""
        clips = np.arange(len(self._frames))
        longest = self._frames.max(initial=0, keepdims=True)
        ends = np.array([len(clips)])
        starts = np.zeros_like(clips)
        return EpochPlan(
            clips, self._keys, starts, self._frames, ends, longest, windows=clips, stand_ins=False
        )

    def shards(self, epoch: int = 0) -> NDArray[np.int64]:
        """(S,) the shards in their order."""
        return np.arange(self._shards)


# --- windows -----------------------------------------------------------------------------------


class Windows(NamedTuple):
    """(W,) arrays of windows, clip after clip.

    `numbers` count a clip's windows from 0, and `counts` say how many it has. A random window's
    start is drawn anew in each epoch; here it is 0.
    """

    clips: NDArray[np.int64]
    starts: NDArray[np.int64]
    frames: NDArray[np.int64]
    numbers: NDArray[np.int64]
    counts: NDArray[np.int64]


class _Source(NamedTuple):
    """Windows that are drawn from together: (V,) which, how many of them an epoch takes, and (V,)
    the share of these that each has on average."""

    members: NDArray[np.int64]
    quota: int
    shares: NDArray[np.float64]


def windows_of(frames: NDArray[np.int64], longest: int, crop: Crop) -> Windows:
    """The windows of clips of (N,) `frames` that are drawn from; arguments as `Epochs`."""
    clips = np.arange(len(frames))
    room = np.maximum(frames - longest, 0)
    counts = np.ones_like(frames)
    numbers, starts = np.zeros_like(frames), np.zeros_like(frames)
    if crop == "all":  # as `raudio.audio.windows.plan`: the last one ends with the clip
        counts = np.maximum(-(-frames // longest), 1)
        clips = np.repeat(clips, counts)
        numbers = np.arange(len(clips)) - np.repeat(np.cumsum(counts) - counts, counts)
        counts = counts[clips]
        starts = np.minimum(numbers * longest, room[clips])
    elif crop == "centre":
        starts = room // 2
    return Windows(clips, starts, np.minimum(frames[clips], longest), numbers, counts)


def _occurrences(row: NDArray[np.int64]) -> NDArray[np.int64]:
    """(I,) how often each item's window has come before in the row."""
    order = np.argsort(row, kind="stable")
    ordered = row[order]
    begins = np.searchsorted(ordered, ordered, side="left")
    occurrences = np.empty_like(row)
    occurrences[order] = np.arange(len(row)) - begins
    return occurrences
