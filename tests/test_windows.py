"""Windows, crops and padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raudio.audio.windows import crop_start, fit, plan


@pytest.mark.parametrize(
    ("frames", "window", "stride", "expected"),
    [
        (10, 4, None, [(0, 4), (4, 4), (6, 4)]),
        (8, 4, None, [(0, 4), (4, 4)]),
        (10, 4, 2, [(0, 4), (2, 4), (4, 4), (6, 4)]),
        (9, 4, 2, [(0, 4), (2, 4), (4, 4), (5, 4)]),
        (4, 4, None, [(0, 4)]),
        (3, 4, None, [(0, 3)]),
        (1, 1, 1, [(0, 1)]),
    ],
)
def test_plan_by_hand(
    frames: int, window: int, stride: int | None, expected: list[tuple[int, int]]
) -> None:
    assert plan(frames, window, stride) == expected


@given(
    frames=st.integers(1, 500),
    window=st.integers(1, 100),
    share=st.floats(0.01, 1, exclude_min=True),
)
def test_plan_covers_every_sample_and_ends_at_the_end(
    frames: int, window: int, share: float
) -> None:
    stride = max(1, int(window * share))
    windows = plan(frames, window, stride)
    covered = np.zeros(frames, int)
    for start, length in windows:
        assert start + length <= frames
        assert length == min(window, frames)
        covered[start : start + length] += 1
    assert covered.min() >= 1
    assert sum(windows[-1]) == frames
    assert len(set(windows)) == len(windows)


def test_crop_start() -> None:
    assert crop_start(10, 10, 0.99) == crop_start(3, 10, 0.5) == crop_start(3, 10, None) == 0
    assert crop_start(10, 4, None) == 3
    # Every one of the 7 starts is as likely, the first and the last included.
    starts = [crop_start(10, 4, u) for u in np.linspace(0, 1, 700, endpoint=False)]
    assert np.bincount(starts).tolist() == [100] * 7


def test_fit_pads_and_never_crops() -> None:
    wave = np.array([1, 2, 3], "f4")
    assert fit(wave, 7, "zero").tolist() == [1, 2, 3, 0, 0, 0, 0]
    assert fit(wave, 7, "repeat").tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert fit(wave, 7).dtype == fit(wave, 7, "repeat").dtype == np.float32
    assert fit(wave, 2) is wave
    assert fit(wave, 3, "repeat") is wave
