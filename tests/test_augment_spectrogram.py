"""Augmentations of spectrograms: each does what its name says, measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from augment_kit import KEYS, examples, run
from torch import Tensor

from raudio.audio.augment import Examples
from raudio.audio.augment.masks import FreqMask, TimeMask
from raudio.audio.augment.spectrogram import FilterAugment, FreqCrop, TimeWarp
from raudio.core import seeding
from raudio.core.errors import ConfigError


def spectrogram(features: Tensor, lengths: list[int]) -> Examples:
    return Examples(features, torch.tensor(lengths), torch.zeros(len(lengths), 1))


def array(*values: float) -> np.ndarray:
    return np.array(values)


# --- masks ---------------------------------------------------------------------------------------


def test_masks_by_hand() -> None:
    features = torch.arange(20.0).reshape(1, 5, 4)
    features[:, 4:] = 0
    given = spectrogram(features, [4])
    # Mean of 0..15; the widest is half of 4, u = 0.99 the widest itself, place 0.5 of the 3 places.
    draw = {"width": np.array([[0.99]]), "place": np.array([[0.5]])}
    time = TimeMask(p=1.0, max_share=0.5).apply(given, draw).data
    assert time[0, :, 0].tolist() == [0, 7.5, 7.5, 12, 0]
    frequency = FreqMask(p=1.0, max_share=0.5).apply(given, draw).data
    assert frequency[0].tolist() == [
        [0, 7.5, 7.5, 3], [4, 7.5, 7.5, 7], [8, 7.5, 7.5, 11], [12, 7.5, 7.5, 15], [0, 0, 0, 0],
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [TimeMask, FreqMask])
def test_masks_are_at_most_their_share_and_reach_every_place(
    kind: type[TimeMask | FreqMask],
) -> None:
    mask = kind(p=1.0, max_share=0.3, count=1)
    keys = seeding.clip_keys([str(i) for i in range(3000)])
    features = torch.arange(1.0, 101.0).reshape(1, 10, 10).repeat(3000, 1, 1)
    changed = run(mask, spectrogram(features, [10] * 3000), keys).data != features
    covered = changed.any(2 if kind is TimeMask else 1)  # (B, 10)
    widths = covered.sum(1)
    # 0, 1, 2, 3 positions, each as likely.
    assert np.bincount(widths.numpy()).tolist() == pytest.approx([750] * 4, rel=0.15)
    ends = covered.double().mean(0)
    assert (ends > 0.05).all()
    steps = covered.int().diff(dim=1).abs().sum(1) + covered[:, 0] + covered[:, -1]
    assert ((steps == 2) | (widths == 0)).all(), "a mask is one run"


def test_the_number_of_time_masks_follows_the_length() -> None:
    """5 % of the frames: 1 mask of 20 frames, 10 of 200, and 20, the most, of 1000."""
    mask = TimeMask(p=1.0, max_share=0.002, count_share=0.05)
    # Masks of one frame (0.002 of 1000, 0.005 of 200, ...), each at a place of its own.
    draw = {"width": np.full((3, 20), 0.99), "place": np.tile(np.arange(20) / 20 + 0.01, (3, 1))}
    features = torch.ones(3, 1000, 1)
    features[:, ::2] = -1
    for length, expected in ((19, 0), (20, 1), (200, 10), (1000, 20)):
        mask.max_share = 1 / length
        given = features.clone()
        given[:, length:] = 0
        masked = mask.apply(spectrogram(given, [length] * 3), draw).data
        assert ((masked != given).sum((1, 2)) == expected).all()


# --- warps ---------------------------------------------------------------------------------------


def test_time_warp_moves_its_point_and_keeps_the_ends() -> None:
    time = torch.arange(100.0)[None, :, None].expand(1, 100, 4)
    targets = torch.arange(1.0, 51.0)[None, :, None]  # of two frames each
    given = Examples(time.contiguous(), torch.tensor([100]), targets)
    warped = TimeWarp(p=1.0).apply(given, {"point": array(0.5), "moved": array(0.6)})
    got = warped.data[0, :, 0]
    # What was at time 50 (a frame's centre is half a frame later) is at 60 now.
    assert float(got[59] + got[60]) / 2 + 0.5 == pytest.approx(50, abs=0.15)
    torch.testing.assert_close(got[1:59].diff(), torch.full((57,), 5 / 6), atol=1e-4, rtol=0)
    torch.testing.assert_close(got[61:99].diff(), torch.full((37,), 5 / 4), atol=1e-4, rtol=0)
    assert (float(got[0]), float(got[-1])) == pytest.approx((0, 99), abs=0.2)
    assert warped.targets[0, 30, 0] == 26  # at time 61: from 51.25, in target frame 25
    assert warped.lengths.tolist() == [100]
    drawn = TimeWarp(p=1.0, max_share=0.2).draw(np.arange(2000, dtype=np.uint64), seed=0, epoch=0)
    moves = drawn["moved"] - drawn["point"]
    assert (moves.min(), moves.max()) == pytest.approx((-0.2, 0.2), abs=0.01)
    assert ((drawn["moved"] >= 0) & (drawn["moved"] <= 1)).all()


def test_frequency_crop_stretches_a_range_over_all_bands() -> None:
    bands = torch.arange(40.0).expand(1, 3, 40).contiguous()
    crop = FreqCrop(p=1.0)
    got = crop.apply(spectrogram(bands, [3]), {"share": array(0.5), "start": array(0.25)}).data
    # Bands 10 to 30 over 40: band n shows what was at 10 + (n + 0.5) / 2.
    expected = 10 + (torch.arange(40.0) + 0.5) / 2 - 0.5
    torch.testing.assert_close(got[0, 1], expected)
    wide = crop.apply(spectrogram(bands, [3]), {"share": array(2.0), "start": array(-0.5)}).data
    assert (wide[0, 0, :10] == 19.5).all(), "beyond the bands: the mean"
    assert (wide[0, 0, 30:] == 19.5).all()
    torch.testing.assert_close(wide[0, 0, 11:29], (torch.arange(11.0, 29.0) - 10) * 2 + 0.5)
    drawn = FreqCrop(p=1.0, min_share=0.5, max_share=0.9).draw(
        np.arange(2000, dtype=np.uint64), seed=0, epoch=0
    )
    assert (drawn["share"].min(), drawn["share"].max()) == pytest.approx((0.5, 0.9), abs=0.01)
    assert ((drawn["start"] >= 0) & (drawn["start"] + drawn["share"] <= 1)).all()


# --- FilterAugment -------------------------------------------------------------------------------


def test_filter_augment_by_hand() -> None:
    features = torch.ones(1, 2, 12)
    features[:, 1] = 0
    given = spectrogram(features, [1])
    # Two bands: 12 - 2 * 3 + 1 = 7 places, of which 0.3 is the third: the edge is at 3 + 2.
    draw = {
        "bands": array(2),
        "edges": np.array([[0.3, 0.9]]),
        "weights": np.array([[1.0, -1.0, 0.5, 9.0]]),
    }
    step = FilterAugment(p=1.0, max_bands=3, min_width=3).apply(given, draw).data
    assert step[0].tolist() == [[2] * 5 + [0] * 7, [0] * 12]
    linear = FilterAugment(p=1.0, shape="linear", max_bands=3, min_width=3).apply(given, draw).data
    edges, weights = [0, 5, 12], [1.0, -1.0, 0.5]
    expected = 1 + np.interp(np.arange(12) + 0.5, edges, weights)
    np.testing.assert_allclose(linear[0, 0].numpy(), expected, rtol=1e-6)
    assert not linear[0, 1].any()


def test_filter_augment_weighs_bands_of_the_width_and_number_asked() -> None:
    each = FilterAugment(p=1.0, max_change=2, min_bands=2, max_bands=4, min_width=5)
    keys = seeding.clip_keys([str(i) for i in range(500)])
    added = run(each, spectrogram(torch.zeros(500, 3, 64), [3] * 500), keys).data
    assert (added == added[:, :1]).all(), "the same at all times"
    assert float(added.abs().max()) <= 2
    counts = set()
    for weights in added[:, 0]:
        _, widths = weights.unique_consecutive(return_counts=True)
        counts.add(len(widths))
        assert int(widths.min()) >= 5
    assert counts == {2, 3, 4}


def test_filter_augment_with_fewer_features_than_its_bands_take() -> None:
    each = FilterAugment(p=1.0, min_bands=4, max_bands=4, min_width=10)
    given = spectrogram(torch.zeros(1, 3, 5), [3])
    assert run(each, given, KEYS[:1]).data.isfinite().all()
    with pytest.raises(ConfigError, match=r"shape='stairs' is none of step, linear"):
        FilterAugment(shape="stairs")


def test_spectrogram_augmentations_leave_targets_of_clips() -> None:
    given = examples("spectrogram", frame_targets=False)
    assert run(TimeWarp(p=1.0), given).targets is given.targets
