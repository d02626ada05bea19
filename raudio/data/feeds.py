"""What gives the training loop its batches: from memory that all trials share, or streamed.

Both feeds take their batches from the same plans (`raudio.data.sampling`), and start at any batch
of any epoch. Where a streamed feed decodes a part of a clip that has to be resampled, a sample may
differ from the resident feed's by the last bit.

Shapes: B clips (or windows) of a batch, N clips of a split, T samples: the length a model sees.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raudio.audio.decode import Precision, from_precision
from raudio.audio.windows import Pad, filled, plan
from raudio.data.cache import content_key, derived_cache
from raudio.data.clips import Clips
from raudio.data.features import Features, kept_features
from raudio.data.index import Index
from raudio.data.manifest import Manifest
from raudio.data.pipeline import Augmenting, Share, Stream
from raudio.data.sampling import EpochPlan, Epochs, Evaluation, Windows, windows_of

#: A clip's row (its columns without audio) to its target: a number, or a list of numbers.
Encode: TypeAlias = Callable[[Mapping[str, Any]], Any]


#: Windows that are transformed at once to be kept.
_KEPT_AT_ONCE = 64


@dataclass(frozen=True)
class Batch:
    """Clips, or windows of clips, of one rank.

    Attributes:
        inputs: (B, T) float32 waves, full scale at 1, padded behind `lengths`; where `transformed`,
            (B, F, N) what the front end's `transform` makes of them.
        lengths: (B,) int64 samples (frames) that are the clip's; T for all when padded by the clip
            itself.
        targets: (B,), as the task encodes them.
        keys: (B,) of the clips, what random draws are addressed by.
        clips: (B,) positions of the clips in their split.
        augmented: whether the wave augmentations that work clip by clip have been applied.
        total: clips of the batch over all ranks; 0 in an evaluation, where there are no such.
        stands_in: the rank has none of the batch, which is smaller than the world: the one clip
            here is another's, for the rank to compute with, and counts for nothing.
    """

    inputs: Tensor
    lengths: Tensor
    targets: Tensor
    keys: NDArray[np.uint64]
    clips: NDArray[np.int64]
    transformed: bool = False
    augmented: bool = False
    total: int = 0
    stands_in: bool = False


class Feed(Protocol):
    """One rank's view of a split."""

    @property
    def clips(self) -> int:
        """Clips of the split, over all ranks."""

    @property
    def steps(self) -> int:
        """Batches of an epoch, the same in each; 0 for a feed that is for evaluation alone."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This rank's part of the epoch's batches, the first `start` left out."""

    def plain(self, epoch: int, steps: int) -> Iterator[Batch]:
        """The first `steps` batches of an epoch, not augmented."""

    def windows(self, batch_size: int) -> Iterator[Batch]:
        """This rank's clips, each once and whole, as windows; in the order of the split.

        The clips are divided among the ranks without overlap; `batch_size` counts windows of this
        rank.
        """

    def targets(self) -> Tensor:
        """(N,) targets of the whole split, in its order."""

    def keep(self, front_end: Any, device: torch.device) -> None:
        """Tells that no wave of this feed is changed before it goes through `front_end`: where its
        windows are the same in every epoch, the feed may give them transformed.

        Args:
            front_end: on `device`.
            device: where to compute.
        """

    def close(self) -> None:
        """Ends what runs for this feed; it may be called twice, and at any time."""


class ResidentFeed:
    """Batches from decoded clips in memory.

    Args:
        clips: of the split, all of them.
        encode: from a clip's row to its target.
        frames: samples of an evaluation's windows.
        pad: how a shorter clip is filled.
        epochs: of the training; None: for evaluation alone.
        rank, world: of this training process.
        content: names the decoded clips: what it is equal for, they are equal for.
        cache_limit: bytes that features may take on this machine's disk; 0: none are kept.
    """

    def __init__(
        self,
        clips: Clips,
        *,
        encode: Encode,
        frames: int,
        pad: Pad = "zero",
        epochs: Epochs | None = None,
        rank: int = 0,
        world: int = 1,
        content: str = "",
        cache_limit: int = 0,
    ) -> None:
        self._clips, self._epochs = clips, epochs
        self._targets = _encoded(clips.rows, encode)
        self._frames, self._pad = frames, pad
        self._rank, self._world = rank, world
        self._content, self._cache_limit = content, cache_limit
        self._whole = windows_of(clips.lengths, frames, "all")
        #: Of the windows that are drawn from in training, or, without epochs, of the whole clips.
        self._features: Features | None = None

    @property
    def clips(self) -> int:
        """Clips of the split, over all ranks."""
        return len(self._clips)

    @property
    def steps(self) -> int:
        """See `Feed`."""
        return self._epochs.steps if self._epochs else 0

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """See `Feed`."""
        assert self._epochs is not None, "a feed for evaluation alone"
        plan = self._epochs.plan(epoch)
        for step in range(start, self.steps):
            items = plan.batch(step, self._rank, self._world)
            clips, keys = plan.clips[items], plan.keys[items]
            if self._features is None:
                cut = clips, plan.starts[items], plan.frames[items]
                waves = self._waves(*cut, int(plan.longest[step]))
                batch = Batch(*waves, self._targets[clips], keys, clips)
            else:
                kept = self._features.of(plan.windows[items])
                batch = Batch(*kept, self._targets[clips], keys, clips, transformed=True)
            yield _shared(batch, plan.size(step), self._rank)

    def plain(self, epoch: int, steps: int) -> Iterator[Batch]:
        """See `Feed`."""
        return itertools.islice(self.epoch(epoch), steps)

    def windows(self, batch_size: int) -> Iterator[Batch]:
        """See `Feed`."""
        mine = np.flatnonzero(self._whole.clips % self._world == self._rank)
        features = None if self._epochs else self._features
        for start in range(0, len(mine), batch_size):
            windows = mine[start : start + batch_size]
            clips = self._whole.clips[windows]
            keys, targets = self._clips.keys[clips], self._targets[clips]
            if features is None:
                yield Batch(*self._waves_of(self._whole, windows), targets, keys, clips)
            else:
                yield Batch(*features.of(windows), targets, keys, clips, transformed=True)

    def keep(self, front_end: Any, device: torch.device) -> None:
        """See `Feed`. Of a `FrontEnd` that says what decides its features; from the cache."""
        fixed = getattr(front_end, "fixed", None)
        if fixed is None or not self._cache_limit or (self._epochs and not self._epochs.fixed):
            return
        windows = self._epochs.windows if self._epochs else self._whole
        digest = hashlib.sha256(
            b"".join(part.tobytes() for part in (windows.clips, windows.starts, windows.frames))
        )
        key = content_key(
            what="features",
            clips=self._content,
            windows=digest.hexdigest(),
            frames=self._frames,
            pad=self._pad,
            front_end=fixed,
            device=device.type,
            torch=torch.__version__,
        )
        count = len(windows.clips)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for start in range(0, count, _KEPT_AT_ONCE):
                yield self._waves_of(windows, np.arange(start, min(start + _KEPT_AT_ONCE, count)))

        cache = derived_cache(self._cache_limit)
        self._features = kept_features(cache, key, count, batches, front_end.transform, device)

    def targets(self) -> Tensor:
        """See `Feed`."""
        return self._targets

    def close(self) -> None:
        """Nothing runs; the samples go when nobody views them."""

    def _waves_of(self, windows: Windows, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """(B, T) waves of the windows in (B,) rows, and their (B,) lengths."""
        cut = windows.clips[rows], windows.starts[rows], windows.frames[rows]
        return self._waves(*cut, self._frames)

    def _waves(
        self,
        clips: NDArray[np.int64],
        starts: NDArray[np.int64],
        frames: NDArray[np.int64],
        longest: int,
    ) -> tuple[Tensor, Tensor]:
        """The same of (B,) windows of `frames` samples, padded to `longest`."""
        cut = zip(clips.tolist(), starts.tolist(), frames.tolist(), strict=True)
        waves = [self._clips.wave(clip)[start : start + size] for clip, start, size in cut]
        return _filled(waves, longest, self._pad)


class StreamedFeed:
    """Batches from clips that Ray Data decodes as they are needed.

    One execution spans all epochs, and decodes the next one's first shards while this one ends.
    Where an epoch is asked for that does not follow the last one, a new execution starts there.
    Of each shard a rank decodes what its own batches need, and no more.

    Args:
        manifest: of the dataset.
        split: of it.
        index: of the split.
        encode: from a clip's row to its target.
        precision: of the samples between the tasks that decode and this process.
        frames: samples of an evaluation's windows.
        pad: how a shorter clip is filled.
        epochs: of the training; None: for evaluation alone.
        rank, world: of this training process.
        passes: how many epochs one execution is to span, counted from epoch 0; those asked for
            beyond them start a new execution each.
        cpus: that this feed's Ray Data execution may use.
        cache_limit: bytes that decoded shards may take on each node's disk; 0: none are kept.
        augment: what is done to the items of training where they are decoded, padding included;
            None: nothing.
    """

    def __init__(
        self,
        manifest: Manifest,
        split: str,
        index: Index,
        *,
        encode: Encode,
        precision: Precision = "int16",
        frames: int,
        pad: Pad = "zero",
        epochs: Epochs | None = None,
        rank: int = 0,
        world: int = 1,
        passes: int = 1,
        cpus: float = 1,
        cache_limit: int = 0,
        augment: Augmenting | None = None,
    ) -> None:
        self._manifest, self._split, self._rate = manifest, split, index.sample_rate
        self._precision, self._cpus = precision, cpus
        self._cache_limit, self._augment = cache_limit, augment
        self._targets, self._keys = _encoded(index.rows, encode), index.keys
        self._frames, self._pad, self._passes = frames, pad, passes
        self._rank, self._world, self._epochs = rank, world, epochs
        self._evaluation = self._share(Evaluation(index), index.shard_sizes)
        self._training = self._share(epochs, index.shard_sizes) if epochs else None
        self._stream: Stream | None = None
        #: What the running execution gives next: epoch and step.
        self._next: tuple[int, int] | None = None
        #: Items that were decoded and not yet used, by their place in the epoch's row.
        self._held: dict[int, NDArray[Any]] = {}

    @property
    def clips(self) -> int:
        """Clips of the split, over all ranks."""
        return len(self._keys)

    @property
    def steps(self) -> int:
        """See `Feed`."""
        return self._epochs.steps if self._epochs else 0

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """See `Feed`."""
        assert self._epochs is not None, "a feed for evaluation alone"
        plan = self._epochs.plan(epoch)
        for step in range(start, self.steps):
            if self._next != (epoch, step):
                self._start(epoch, step)
            items = plan.batch(step, self._rank, self._world)
            assert self._stream is not None
            waves = _taken(self._stream, self._held, items)
            last = step + 1 == self.steps
            self._next = (epoch + 1, 0) if last else (epoch, step + 1)
            if last and epoch + 1 >= self._passes:
                self.close()
            # What is augmented has been padded before, and is shorter only if that made it shorter.
            pad = "zero" if self._augment else self._pad
            batch = _batch(waves, plan, items, int(plan.longest[step]), pad, self._targets)
            batch = replace(batch, augmented=self._augment is not None)
            yield _shared(batch, plan.size(step), self._rank)

    def plain(self, epoch: int, steps: int) -> Iterator[Batch]:
        """See `Feed`. Each call is an execution of its own."""
        assert self._epochs is not None, "a feed for evaluation alone"
        assert self._training is not None
        plan, held = self._epochs.plan(epoch), dict[int, NDArray[Any]]()
        stream = self._open(self._training, range(epoch, epoch + 1))
        try:
            for step in range(min(steps, self.steps)):
                items = plan.batch(step, self._rank, self._world)
                waves = _taken(stream, held, items)
                longest = int(plan.longest[step])
                batch = _batch(waves, plan, items, longest, self._pad, self._targets)
                yield _shared(batch, plan.size(step), self._rank)
        finally:
            stream.close()

    def windows(self, batch_size: int) -> Iterator[Batch]:
        """See `Feed`. Each call is an execution of its own."""
        stream = self._open(self._evaluation, range(1))
        clips = (pair for shard in stream for pair in zip(*shard, strict=True))
        try:
            yield from _windows(
                clips, batch_size, self._frames, self._pad, self._keys, self._targets
            )
        finally:
            stream.close()

    def targets(self) -> Tensor:
        """See `Feed`."""
        return self._targets

    def keep(self, front_end: Any, device: torch.device) -> None:
        """See `Feed`. There is too much to keep of what has to be streamed."""

    def close(self) -> None:
        """Ends the execution, wherever it is, and lets go of what it decoded."""
        if self._stream is not None:
            self._stream.close()
        self._stream, self._next = None, None
        self._held.clear()

    def _share(self, plans: Epochs | Evaluation, shard_sizes: tuple[int, ...]) -> Share:
        return Share(plans, shard_sizes, self._rank, self._world)

    def _start(self, epoch: int, start: int) -> None:
        self.close()
        assert self._training is not None
        span = range(epoch, max(self._passes, epoch + 1))
        self._stream = self._open(self._training, span, start, self._augment)

    def _open(
        self, share: Share, epochs: range, start: int = 0, augment: Augmenting | None = None
    ) -> Stream:
        return Stream(
            self._manifest,
            self._split,
            share,
            sample_rate=self._rate,
            precision=self._precision,
            epochs=epochs,
            start=start,
            cpus=self._cpus,
            cache_limit=self._cache_limit,
            augment=augment,
        )


def _taken(
    stream: Stream, held: dict[int, NDArray[Any]], items: NDArray[np.int64]
) -> list[NDArray[Any]]:
    """The samples of these items, as soon as all of them are decoded; `held` keeps the others."""
    waves = []
    for item in items.tolist():
        while item not in held:
            decoded, samples = next(stream)
            held.update(zip(decoded.tolist(), samples, strict=True))
        waves.append(held.pop(item))
    return waves


# --- from clips to batches ---------------------------------------------------------------------


def _encoded(rows: Iterable[Mapping[str, Any]], encode: Encode) -> Tensor:
    """(N,) targets of rows."""
    return torch.tensor([encode(row) for row in rows])


def _batch(
    waves: Sequence[NDArray[Any]],
    plan: EpochPlan,
    items: NDArray[np.int64],
    frames: int,
    pad: Pad,
    targets: Tensor,
) -> Batch:
    """The batch of an epoch's items, whose samples `waves` are."""
    clips = plan.clips[items]
    return Batch(*_filled(waves, frames, pad), targets[clips], plan.keys[items], clips)


def _shared(batch: Batch, total: int, rank: int) -> Batch:
    """A rank's part of a training batch of `total` clips."""
    return replace(batch, total=total, stands_in=rank >= total)


def _windows(
    clips: Iterable[tuple[int, NDArray[Any]]],
    batch_size: int,
    frames: int,
    pad: Pad,
    keys: NDArray[np.uint64],
    targets: Tensor,
) -> Iterator[Batch]:
    """Batches of the windows that cover the clips; the last may be smaller."""
    held: list[NDArray[Any]] = []
    of: list[int] = []

    def batch() -> Batch:
        positions = np.array(of, np.int64)
        return Batch(*_filled(held, frames, pad), targets[positions], keys[positions], positions)

    for clip, wave in clips:
        for start, length in plan(len(wave), frames):
            held.append(wave[start : start + length])
            of.append(int(clip))
            if len(held) == batch_size:
                yield batch()
                held, of = [], []
    if held:
        yield batch()


def _filled(waves: Sequence[NDArray[Any]], frames: int, pad: Pad) -> tuple[Tensor, Tensor]:
    """Waves of at most `frames` samples as one tensor (B, frames), the only copy there is; and
    their (B,) lengths."""
    rows, lengths = filled(waves, frames, pad)
    return torch.from_numpy(from_precision(rows)), torch.from_numpy(lengths)
