"""What gives the training loop its batches: from memory that all trials share, or streamed.

Both feeds give the same batches for the same (seed, epoch, rank, world size) and window of shards,
and start at any batch of any epoch.

Shapes: B clips (or windows) of a batch, N clips of a split, T samples: the length a model sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raudio.audio.decode import Precision, from_precision
from raudio.audio.windows import crop_start, fit, plan
from raudio.config.schema import Dataset
from raudio.core import seeding
from raudio.data.clips import Clips, stored_rows
from raudio.data.manifest import Manifest
from raudio.data.pipeline import (
    SEARCHED,
    Share,
    Stream,
    choose_feed,
    materialise,
    resident_clips,
)
from raudio.data.sampling import batch_share, epoch_order, steps

__all__ = [
    "Batch",
    "Feed",
    "ResidentFeed",
    "StreamedFeed",
    "choose_feed",
    "make_feeds",
    "materialise",
    "resident_clips",
]

#: A clip's row (its columns without audio) to its target: a number, or a list of numbers.
Encode: TypeAlias = Callable[[Mapping[str, Any]], Any]
Crop: TypeAlias = Literal["random", "centre"]
Pad: TypeAlias = Literal["zero", "repeat"]


@dataclass(frozen=True)
class Batch:
    """Clips, or windows of clips, of one rank.

    Attributes:
        waves: (B, T) float32, full scale at 1; padded behind `lengths`.
        lengths: (B,) int64 samples that are the clip's; T for all when padded by repeating.
        targets: (B,), as the task encodes them.
        keys: (B,) of the clips, what random draws are addressed by.
        clips: (B,) positions of the clips in their split.
    """

    waves: Tensor
    lengths: Tensor
    targets: Tensor
    keys: NDArray[np.uint64]
    clips: NDArray[np.int64]


class Feed(Protocol):
    """One rank's view of a split."""

    @property
    def clips(self) -> int:
        """Clips of the split, over all ranks."""

    def epoch_steps(self, batch_size: int) -> int:
        """Batches of an epoch; `batch_size` counts clips over all ranks."""

    def epoch(self, epoch: int, batch_size: int, start: int = 0) -> Iterator[Batch]:
        """This rank's part of the epoch's shuffled batches, the first `start` left out."""

    def windows(self, batch_size: int) -> Iterator[Batch]:
        """This rank's clips, each once and whole, as windows; in the order of the split.

        The clips are divided among the ranks without overlap; here `batch_size` counts windows of
        this rank.
        """

    def targets(self) -> Tensor:
        """(N,) targets of the whole split, in its order."""

    def close(self) -> None:
        """Ends what runs for this feed; it may be called twice, and at any time."""


class _Clip(NamedTuple):
    """One clip on its way into a batch: its samples are a view, perhaps of a part of it."""

    position: int
    key: np.uint64
    target: Tensor
    wave: NDArray[Any]


class ResidentFeed:
    """Batches from decoded clips in memory.

    Args:
        clips: of the split, all of them.
        encode: from a clip's row to its target.
        frames: samples of a batch's rows.
        crop: which part of a longer clip is trained on.
        pad: how a shorter one is filled.
        seed: of the trial.
        window: shards that are shuffled together; None: all.
        rank, world: of this training process.
    """

    def __init__(
        self,
        clips: Clips,
        *,
        encode: Encode,
        frames: int,
        crop: Crop = "random",
        pad: Pad = "zero",
        seed: int = 0,
        window: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._clips = clips
        self._targets = _encoded(clips.rows, encode)
        self._frames, self._crop, self._pad = frames, crop, pad
        self._seed, self._window = seed, window
        self._rank, self._world = rank, world

    @property
    def clips(self) -> int:
        """Clips of the split, over all ranks."""
        return len(self._clips)

    def epoch_steps(self, batch_size: int) -> int:
        """See `Feed`."""
        return steps(self.clips, batch_size, self._world)

    def epoch(self, epoch: int, batch_size: int, start: int = 0) -> Iterator[Batch]:
        """See `Feed`."""
        order = epoch_order(
            self._clips.shard_sizes, seed=self._seed, epoch=epoch, window=self._window
        )
        for step in range(start, self.epoch_steps(batch_size)):
            share = batch_share(order, batch_size, step, self._rank, self._world)
            clips = [self._clip(position) for position in share.tolist()]
            crops = _cropped(clips, self._frames, self._crop, self._seed, epoch)
            yield _batch(crops, self._frames, self._pad)

    def windows(self, batch_size: int) -> Iterator[Batch]:
        """See `Feed`."""
        mine = range(self._rank, self.clips, self._world)
        return _windows(map(self._clip, mine), batch_size, self._frames, self._pad)

    def targets(self) -> Tensor:
        """See `Feed`."""
        return self._targets

    def close(self) -> None:
        """Nothing runs; the samples go when nobody views them."""

    def _clip(self, position: int) -> _Clip:
        clips = self._clips
        return _Clip(position, clips.keys[position], self._targets[position], clips.wave(position))


class StreamedFeed:
    """Batches from clips that Ray Data decodes as they are needed.

    One execution spans all epochs, and decodes the next one's first shards while this one ends.
    Where an epoch is asked for that does not follow the last one, a new execution starts there.
    Of each shard a rank decodes its own clips alone.

    Args:
        manifest: of the dataset.
        split: of it.
        encode: from a clip's row to its target.
        sample_rate: in Hz, to resample to.
        precision: of the samples between the tasks that decode and this process.
        frames: samples of a batch's rows.
        crop: which part of a longer clip is trained on.
        pad: how a shorter one is filled.
        seed: of the trial.
        window: shards that are shuffled together, and held in memory twice; None: all.
        rank, world: of this training process.
        epochs: how many one execution is to span, counted from epoch 0; those asked for beyond
            them start a new execution each.
        cpus: that this feed's Ray Data execution may use.
    """

    def __init__(
        self,
        manifest: Manifest,
        split: str,
        *,
        encode: Encode,
        sample_rate: int,
        precision: Precision = "int16",
        frames: int,
        crop: Crop = "random",
        pad: Pad = "zero",
        seed: int = 0,
        window: int | None = None,
        rank: int = 0,
        world: int = 1,
        epochs: int = 1,
        cpus: float = 1,
    ) -> None:
        self._manifest, self._split, self._encode = manifest, split, encode
        self._rate, self._precision = sample_rate, precision
        self._frames, self._crop, self._pad = frames, crop, pad
        self._seed, self._window = seed, window
        self._rank, self._world = rank, world
        self._epochs, self._cpus = epochs, cpus
        self._sizes = tuple(shard.clips for shard in manifest.shards_of(split))
        self._stream: Stream | None = None
        #: What the running execution gives next: epoch, step and batch size.
        self._next: tuple[int, int, int] | None = None
        #: Clips that were decoded and not yet used, by position.
        self._held: dict[int, _Clip] = {}

    @property
    def clips(self) -> int:
        """Clips of the split, over all ranks."""
        return sum(self._sizes)

    def epoch_steps(self, batch_size: int) -> int:
        """See `Feed`."""
        return steps(self.clips, batch_size, self._world)

    def epoch(self, epoch: int, batch_size: int, start: int = 0) -> Iterator[Batch]:
        """See `Feed`."""
        share = Share(self._sizes, self._rank, self._world, self._seed, self._window, batch_size)
        order = share.order(epoch)
        end = self.epoch_steps(batch_size)
        for step in range(start, end):
            if self._next != (epoch, step, batch_size):
                self._start(share, epoch, step)
            batch = self._take(batch_share(order, batch_size, step, self._rank, self._world), epoch)
            last = step + 1 == end
            self._next = (epoch + 1, 0, batch_size) if last else (epoch, step + 1, batch_size)
            if last and epoch + 1 >= self._epochs:
                self.close()
            yield batch

    def windows(self, batch_size: int) -> Iterator[Batch]:
        """See `Feed`. Each call is an execution of its own."""
        share = Share(self._sizes, self._rank, self._world)
        stream = self._open(share, range(1))
        clips = (clip for shard in stream for clip in self._loaded(*shard))
        try:
            yield from _windows(clips, batch_size, self._frames, self._pad)
        finally:
            stream.close()

    def targets(self) -> Tensor:
        """See `Feed`. Read once, from the shards' columns without the audio."""
        return self._targets

    @cached_property
    def _targets(self) -> Tensor:
        return _encoded(stored_rows(self._manifest, self._split), self._encode)

    def close(self) -> None:
        """Ends the execution, wherever it is, and lets go of what it decoded."""
        if self._stream is not None:
            self._stream.close()
        self._stream, self._next = None, None
        self._held.clear()

    def _start(self, share: Share, epoch: int, start: int) -> None:
        self.close()
        self._stream = self._open(share, range(epoch, max(self._epochs, epoch + 1)), start)

    def _open(self, share: Share, epochs: range, start: int = 0) -> Stream:
        return Stream(
            self._manifest,
            self._split,
            share,
            sample_rate=self._rate,
            precision=self._precision,
            epochs=epochs,
            start=start,
            cpus=self._cpus,
        )

    def _take(self, positions: NDArray[np.int64], epoch: int) -> Batch:
        """The batch of these clips, as soon as all of them are decoded."""
        assert self._stream is not None
        clips = []
        for position in positions.tolist():
            while position not in self._held:
                loaded = self._loaded(*next(self._stream))
                self._held.update((clip.position, clip) for clip in loaded)
            clips.append(self._held.pop(position))
        crops = _cropped(clips, self._frames, self._crop, self._seed, epoch)
        return _batch(crops, self._frames, self._pad)

    def _loaded(self, clips: Clips, positions: NDArray[np.int64]) -> Iterator[_Clip]:
        targets = _encoded(clips.rows, self._encode)
        for row, position in enumerate(positions.tolist()):
            yield _Clip(position, clips.keys[row], targets[row], clips.wave(row))


def make_feeds(
    manifest: Manifest,
    settings: Dataset,
    *,
    encode: Encode,
    seed: int,
    refs: Mapping[str, Sequence[Any]] | None = None,
    rank: int = 0,
    world: int = 1,
    epochs: int = 1,
    cpus: float = 1,
) -> dict[str, Feed]:
    """The feeds of a trial: "train" and "valid".

    Args:
        manifest: of the dataset.
        settings: resolved: with a sample rate, a clip length and a shuffle window.
        encode: from a clip's row to its target.
        seed: of the trial.
        refs: what `materialise` gave, for resident feeds; None: streamed ones.
        rank, world: of this training process.
        epochs: passes over the training split that one streamed execution spans.
        cpus: that decode for this process's streamed training feed.
    """
    assert settings.sample_rate is not None
    assert settings.clip_seconds is not None
    common: dict[str, Any] = {
        "encode": encode,
        "frames": max(1, round(settings.clip_seconds * settings.sample_rate)),
        "crop": settings.crop,
        "pad": settings.pad,
        "seed": seed,
        "window": settings.shuffle_window,
        "rank": rank,
        "world": world,
    }
    if refs is not None:
        return {split: ResidentFeed(resident_clips(refs[split]), **common) for split in SEARCHED}
    return {
        split: StreamedFeed(
            manifest,
            split,
            sample_rate=settings.sample_rate,
            precision=settings.precision,  # type: ignore[arg-type]
            epochs=epochs,
            cpus=cpus,
            **common,
        )
        for split in SEARCHED
    }


# --- from clips to batches ---------------------------------------------------------------------


def _encoded(rows: Iterable[Mapping[str, Any]], encode: Encode) -> Tensor:
    """(N,) targets of rows."""
    return torch.tensor([encode(row) for row in rows])


def _cropped(clips: Sequence[_Clip], frames: int, crop: Crop, seed: int, epoch: int) -> list[_Clip]:
    """The clips, the long ones cut to `frames`; the draw is each clip's own."""
    keys = np.array([clip.key for clip in clips], dtype=np.uint64)
    draws: list[float] | list[None] = [None] * len(clips)
    if crop == "random":
        draws = seeding.uniforms(keys, 1, seed, "crop", epoch)[:, 0].tolist()
    crops = []
    for clip, u in zip(clips, draws, strict=True):
        start = crop_start(len(clip.wave), frames, u)
        crops.append(clip._replace(wave=clip.wave[start : start + frames]))
    return crops


def _windows(clips: Iterable[_Clip], batch_size: int, frames: int, pad: Pad) -> Iterator[Batch]:
    """Batches of the windows that cover the clips; the last may be smaller."""
    held: list[_Clip] = []
    for clip in clips:
        for start, length in plan(len(clip.wave), frames):
            held.append(clip._replace(wave=clip.wave[start : start + length]))
            if len(held) == batch_size:
                yield _batch(held, frames, pad)
                held = []
    if held:
        yield _batch(held, frames, pad)


def _batch(clips: Sequence[_Clip], frames: int, pad: Pad) -> Batch:
    """Copies clips of at most `frames` samples into one tensor; the only copy there is."""
    waves = np.zeros((len(clips), frames), clips[0].wave.dtype)
    lengths = np.full(len(clips), frames, np.int64)
    for row, clip in enumerate(clips):
        length = len(clip.wave)
        if length < frames and pad == "repeat":
            waves[row] = fit(clip.wave, frames, pad)
        else:
            waves[row, :length] = clip.wave
            lengths[row] = length
    return Batch(
        waves=torch.from_numpy(from_precision(waves)),
        lengths=torch.from_numpy(lengths),
        targets=torch.stack([clip.target for clip in clips]),
        keys=np.array([clip.key for clip in clips], dtype=np.uint64),
        clips=np.array([clip.position for clip in clips], dtype=np.int64),
    )
