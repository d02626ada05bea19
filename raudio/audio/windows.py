"""Which part of a clip a model sees: windows that cover it, crops of it, padding to a length.

NumPy only. T samples a clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

#: How a clip is made longer.
Pad: TypeAlias = Literal["zero", "repeat", "reflect"]


def plan(frames: int, window: int, stride: int | None = None) -> list[tuple[int, int]]:
    """Windows that together cover every sample of a clip.

    Windows start `stride` apart; the last one ends at the clip's end, so that it may overlap the
    one before by more. A clip no longer than a window is one window of its own length.

    Args:
        frames: samples of the clip, at least 1.
        window: samples of a window, at least 1.
        stride: samples from one start to the next, 1 to `window`; None: `window` (no overlap).

    Returns:
        (start, length) of each window, in order.
    """
    stride = window if stride is None else stride
    assert frames >= 1, frames
    assert 1 <= stride <= window, (stride, window)
    if frames <= window:
        return [(0, frames)]
    last = frames - window
    return [(start, window) for start in range(0, last, stride)] + [(last, window)]


class Cutter:
    """Cuts the windows of `plan` from samples that come in chunks of any size, as they fill.

    What is held is bounded: two windows and a chunk.

    Args:
        window, stride: as for `plan`.
    """

    def __init__(self, window: int, stride: int | None = None) -> None:
        self._window = window
        self._stride = window if stride is None else stride
        assert 1 <= self._stride <= window, (stride, window)
        self._held: list[NDArray[np.float32]] = []
        self._first = 0  # sample that `_held` begins with
        self._next = 0  # where the next window starts
        self.samples = 0  # that have come

    def push(self, wave: NDArray[np.float32]) -> list[tuple[int, NDArray[np.float32]]]:
        """(start, samples) of the windows that (T,) further samples fill; T may be 0."""
        self._held.append(wave)
        self.samples += len(wave)
        if self.samples < self._next + self._window:
            return []
        held, filled = self._whole(), []
        while self._next + self._window <= self.samples:
            start = self._next - self._first
            filled.append((self._next, held[start : start + self._window]))
            self._next += self._stride
        # The last window ends with the samples: it may reach further back than the next one.
        needed = min(self._next, self.samples - self._window)
        # A copy, so that what is held does not keep the whole of a long chunk.
        self._held, self._first = [held[needed - self._first :].copy()], needed
        return filled

    def close(self) -> list[tuple[int, NDArray[np.float32]]]:
        """The window that ends where the samples end, unless it has been given already."""
        covered = self._next - self._stride + self._window if self._next else 0
        if self.samples <= covered:
            return []
        start = max(0, self.samples - self._window)
        return [(start, self._whole()[start - self._first :])]

    def _whole(self) -> NDArray[np.float32]:
        self._held = [np.concatenate(self._held)]
        return self._held[0]


def crop_starts(
    frames: NDArray[np.int64], window: int, u: NDArray[np.float64]
) -> NDArray[np.int64]:
    """(N,) where crops of `window` samples start in clips of (N,) `frames` samples.

    Args:
        frames: samples of each clip; one no longer than the crop starts at 0.
        window: samples of a crop.
        u: (N,) numbers in [0, 1), drawn uniformly: every start is equally likely.
    """
    room = np.maximum(frames - window, 0)
    starts: NDArray[np.int64] = (u * (room + 1)).astype(np.int64)
    return starts


def fit(wave: NDArray[Any], frames: int, pad: Pad = "zero") -> NDArray[Any]:
    """(T,) samples made at least (frames,) long: by zeros, by the clip again from its start
    (repeat), or by the clip back and forth, its end samples not doubled (reflect).

    A clip that is long enough comes back as it is: this never crops.
    """
    assert wave.size, "an empty clip can't be padded"
    missing = frames - len(wave)
    if missing <= 0:
        return wave
    if pad == "repeat":
        return np.resize(wave, frames)
    if pad == "reflect":
        return np.pad(wave, (0, missing), mode="reflect")
    assert pad == "zero", pad
    return np.pad(wave, (0, missing))


def filled(
    waves: Sequence[NDArray[Any]], frames: int, pad: Pad
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Copies waves of at most `frames` samples into one array (B, frames); and their (B,) lengths:
    `frames` for all that are not padded with zeros."""
    rows = np.zeros((len(waves), frames), waves[0].dtype)
    lengths = np.full(len(waves), frames, np.int64)
    for row, wave in enumerate(waves):
        if len(wave) < frames and pad != "zero":
            rows[row] = fit(wave, frames, pad)
        else:
            rows[row, : len(wave)] = wave
            lengths[row] = len(wave)
    return rows, lengths
