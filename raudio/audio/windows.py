"""Which part of a clip a model sees: windows that cover it, crops of it, padding to a length.

NumPy only. T samples a clip.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray


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


def crop_start(frames: int, window: int, u: float | None) -> int:
    """Where a crop of `window` samples starts in a clip of `frames`.

    Args:
        frames: samples of the clip.
        window: samples of the crop; a clip no longer than it starts at 0.
        u: a number in [0, 1), drawn uniformly: every start is equally likely; None: the centre.
    """
    room = frames - window
    if room <= 0:
        return 0
    return room // 2 if u is None else int(u * (room + 1))


def fit(
    wave: NDArray[np.float32], frames: int, pad: Literal["zero", "repeat"] = "zero"
) -> NDArray[np.float32]:
    """(T,) samples made at least (frames,) long, by zeros or by the clip again from its start.

    A clip that is long enough comes back as it is: this never crops.
    """
    assert pad in ("zero", "repeat"), pad
    assert wave.size, "an empty clip can't be padded"
    if len(wave) >= frames:
        return wave
    if pad == "repeat":
        return np.resize(wave, frames)
    padded = np.zeros(frames, wave.dtype)
    padded[: len(wave)] = wave
    return padded
