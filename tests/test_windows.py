"""Windows, crops and padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raudio.audio.windows import Cutter, crop_starts, fit, plan


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


def test_crop_starts() -> None:
    assert crop_starts(np.array([10, 3]), 10, np.array([0.99, 0.5])).tolist() == [0, 0]
    # Every one of the 7 starts is as likely, the first and the last included.
    u = np.linspace(0, 1, 700, endpoint=False)
    assert np.bincount(crop_starts(np.full(700, 10), 4, u)).tolist() == [100] * 7


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_fit_pads_and_never_crops(dtype: type) -> None:
    wave = np.array([1, 2, 3], dtype)
    assert fit(wave, 7, "zero").tolist() == [1, 2, 3, 0, 0, 0, 0]
    assert fit(wave, 7, "repeat").tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert fit(wave, 8, "reflect").tolist() == [1, 2, 3, 2, 1, 2, 3, 2]
    assert fit(wave[:1], 3, "reflect").tolist() == [1, 1, 1]
    for pad in ("zero", "repeat", "reflect"):
        assert fit(wave, 7, pad).dtype == dtype
        assert fit(wave, 2, pad) is wave
        assert fit(wave, 3, pad) is wave


@given(
    frames=st.integers(1, 60),
    window=st.integers(1, 20),
    stride=st.integers(1, 20),
    cuts=st.lists(st.integers(0, 60), max_size=8),
)
def test_windows_of_chunks_are_those_of_the_plan(
    frames: int, window: int, stride: int, cuts: list[int]
) -> None:
    stride = min(stride, window)
    wave = np.arange(frames, dtype=np.float32)
    cutter, made = Cutter(window, stride), []
    for chunk in np.split(wave, sorted(min(cut, frames) for cut in cuts)):
        made += [(start, w.tolist()) for start, w in cutter.push(chunk)]
        assert all(start + len(w) <= cutter.samples for start, w in made), "before it was full"
    made += [(start, w.tolist()) for start, w in cutter.close()]
    assert cutter.samples == frames
    assert made == [
        (start, wave[start : start + length].tolist())
        for start, length in plan(frames, window, stride)
    ]


@pytest.mark.parametrize("stride", [30, 100])
def test_a_cutter_holds_no_more_than_two_windows(stride: int) -> None:
    cutter = Cutter(100, stride)
    for _ in range(1000):
        cutter.push(np.zeros(7, np.float32))
        assert sum(map(len, cutter._held)) <= 2 * 100 + 7
