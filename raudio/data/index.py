"""What is known of a split's clips before any of them is decoded, and how likely each is drawn.

Neither torch nor Ray.

Shapes: N clips of a split, S shards, W windows of clips, M stretches in which a class is active.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raudio.audio.decode import resampled_frames
from raudio.core import seeding
from raudio.core.errors import DataError
from raudio.core.units import Hertz, Seconds
from raudio.data.clips import Clips, of_the_clip, stored_tables
from raudio.data.manifest import Manifest

#: Frames a second in which a class's time is counted: PretrainedSED's, of 40 ms each.
FRAME_RATE: Hertz = 25.0
#: PretrainedSED's: what a class's frames are added to, and the scale of the weights.
_OFFSET, _SCALE = 30.0, 1000.0


@dataclass(frozen=True, eq=False)
class Index:
    """A split's clips in its order: shard after shard, row after row.

    Attributes:
        shard_sizes: (S,) clips of each shard.
        frames: (N,) int64 samples of each clip, mono, at `sample_rate`.
        keys: (N,) uint64, what random draws for a clip are addressed by.
        sample_rate: in Hz, that clips are resampled to.
        rows: (N,) the clips' columns without audio.
        datasets: (S,) which of several joined datasets each shard is of, from 0.
    """

    shard_sizes: tuple[int, ...]
    frames: NDArray[np.int64]
    keys: NDArray[np.uint64]
    sample_rate: int
    rows: Sequence[Mapping[str, Any]]
    datasets: tuple[int, ...]

    @classmethod
    def read(cls, manifest: Manifest, split: str, sample_rate: int) -> Index:
        """The index of a stored split: its audio is not read.

        Raises:
            DataError: there is no such split, or a shard is missing or damaged.
        """
        shards = manifest.shards_of(split)
        frames, rows = [np.empty(0, np.int64)], []
        for shard, table in zip(shards, stored_tables(manifest, split), strict=True):
            stored = table["frames"].to_numpy(), table["sample_rate"].to_numpy().astype(np.int64)
            frames.append(resampled_frames(*stored, sample_rate))
            rows += of_the_clip(table, manifest.prefix_of(shard)).to_pylist()
        return cls(
            shard_sizes=tuple(shard.clips for shard in shards),
            frames=np.concatenate(frames),
            keys=seeding.clip_keys([row["clip_id"] for row in rows]),
            sample_rate=sample_rate,
            rows=rows,
            datasets=tuple(map(manifest.dataset_of, shards)),
        )

    @classmethod
    def of(cls, clips: Clips, manifest: Manifest, split: str, sample_rate: int) -> Index:
        """The same index, from the split's decoded clips."""
        return cls(
            shard_sizes=clips.shard_sizes,
            frames=clips.lengths,
            keys=clips.keys,
            sample_rate=sample_rate,
            rows=clips.rows,
            datasets=tuple(map(manifest.dataset_of, manifest.shards_of(split))),
        )

    def __len__(self) -> int:
        return len(self.frames)


class Spans(NamedTuple):
    """When classes are active: each row a class in a stretch of a clip, without overlap.

    Attributes:
        clips: (M,) positions in the split.
        classes: (M,) numbers of the classes that occur, from 0.
        onsets, offsets: (M,) in seconds from the clip's start.
    """

    clips: NDArray[np.int64]
    classes: NDArray[np.int64]
    onsets: NDArray[np.float64]
    offsets: NDArray[np.float64]


def active_spans(index: Index) -> Spans:
    """The active stretches of all classes, from the rows' `events`, else `labels`, else `label`.

    Events of one class that overlap are merged, and cut at the clip's end. A clip that has labels
    alone has them throughout.
    """
    classes: dict[str, int] = {}
    found: list[tuple[int, int, Seconds, Seconds]] = []
    seconds = (index.frames / index.sample_rate).tolist()
    for clip, (row, end) in enumerate(zip(index.rows, seconds, strict=True)):
        for label, onset, offset in _spans_of(row, end):
            found.append((clip, classes.setdefault(label, len(classes)), onset, offset))
    columns = np.array(found, np.float64).reshape(-1, 4).T
    return Spans(columns[0].astype(np.int64), columns[1].astype(np.int64), columns[2], columns[3])


def _spans_of(row: Mapping[str, Any], end: Seconds) -> list[tuple[str, Seconds, Seconds]]:
    """(label, onset, offset) of one clip."""
    events = row.get("events")
    if events is None:
        labels = row.get("labels")
        if labels is None:
            labels = [] if row.get("label") is None else [row["label"]]
        return [(label, 0.0, end) for label in dict.fromkeys(labels)]
    merged: list[tuple[str, Seconds, Seconds]] = []
    for event in sorted(events, key=lambda event: (event["label"], event["onset"])):
        label, onset, offset = event["label"], event["onset"], min(event["offset"], end)
        if merged and merged[-1][0] == label and onset <= merged[-1][2]:
            onset, offset = merged[-1][1], max(merged.pop()[2], offset)
        if offset > onset:
            merged.append((label, onset, offset))
    return merged


def draw_weights(
    sampling: str,
    spans: Spans,
    clips: NDArray[np.int64],
    start: NDArray[np.float64],
    end: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(W,) how likely each window is drawn, in proportion; a window without a class has 0.

    - balanced: every class is as likely as any other: the sum over a window's classes of
      1 / (windows that have the class).
    - inverse_frequency: the sum over a window's classes of its active frames * 1000 / (30 + the
      class's active frames in all windows), at `FRAME_RATE`. The formula of PretrainedSED (Schmid
      et al. 2024, "Effective pre-training of audio transformers for sound event detection").

    Args:
        sampling: "balanced" or "inverse_frequency".
        spans: of the split.
        clips: (W,) ascending, the clip of each window.
        start, end: (W,) of the windows in their clips, in seconds.

    Raises:
        DataError: no window has a class.
    """
    # Each span meets every window of its clip.
    first = np.searchsorted(clips, spans.clips, side="left")
    counts = np.searchsorted(clips, spans.clips, side="right") - first
    span = np.repeat(np.arange(len(counts)), counts)
    window = np.arange(len(span)) - np.repeat(np.cumsum(counts) - counts - first, counts)
    overlap = np.minimum(spans.offsets[span], end[window])
    overlap -= np.maximum(spans.onsets[span], start[window])
    window, classes, overlap = (
        part[overlap > 0] for part in (window, spans.classes[span], overlap)
    )
    if not len(window):
        raise DataError(
            f"dataset.sampling={sampling} draws clips by their classes, and no clip of the split "
            "has one; set dataset.sampling=shuffled"
        )
    # A class of several stretches in a window counts there once, with their sum.
    pairs, where = np.unique(np.stack([window, classes]), axis=1, return_inverse=True)
    window, classes = pairs
    frames = np.bincount(where.ravel(), overlap) * FRAME_RATE
    shares: NDArray[Any]
    if sampling == "balanced":
        shares = 1 / np.bincount(classes)[classes]
    else:
        assert sampling == "inverse_frequency", sampling
        shares = frames * _SCALE / (_OFFSET + np.bincount(classes, frames)[classes])
    weights: NDArray[Any] = np.bincount(window, shares, minlength=len(clips))
    return weights
