"""Augmentations: the contract that each keeps, and what each does, against hand computations."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from raudio.audio.augment import Augmentation, FreqMask, Gain, Mixup, Noise, Shift, TimeMask
from raudio.audio.build import Augmenter, build_augmenter
from raudio.config import schema
from raudio.core import seeding
from raudio.core.components import AUGMENTATIONS
from raudio.core.errors import ConfigError

# B clips, T samples, F frames, N bands, C classes
KEYS = seeding.clip_keys([f"clip{i}" for i in range(6)])
SAMPLES = torch.tensor([1000, 640, 1, 999, 17, 1000])
FRAMES = torch.tensor([50, 31, 1, 50, 7, 2])
EACH = [
    Gain(p=1.0, max_db=12),
    Noise(p=1.0, min_snr=0, max_snr=20),
    Shift(p=1.0, max_share=1.0),
    TimeMask(p=1.0, max_share=0.5, count=2),
    FreqMask(p=1.0, max_share=0.5, count=2),
]
WAVE = EACH[:3]
NAMES = [type(each).__name__ for each in EACH]


def masked(values: Tensor, lengths: Tensor) -> Tensor:
    for clip, length in zip(values, lengths.tolist(), strict=True):
        clip[length:] = 0
    return values


def inputs(each: Augmentation) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    if each.stage == "wave":
        return masked(torch.randn(6, 1000, generator=generator), SAMPLES), SAMPLES
    return masked(torch.randn(6, 50, 20, generator=generator), FRAMES), FRAMES


def run(each: Augmentation, batch: Tensor, lengths: Tensor, keys: np.ndarray = KEYS, epoch: int = 3) -> Tensor:  # fmt: skip  # noqa: E501
    return each.apply(batch, lengths, each.draw(keys, seed=1, epoch=epoch))


@pytest.mark.parametrize("each", EACH, ids=NAMES)
def test_a_clip_is_the_same_in_every_batch(each: Augmentation) -> None:
    batch, lengths = inputs(each)
    whole = run(each, batch, lengths)
    for clip in range(6):
        one = slice(clip, clip + 1)
        alone = run(each, batch[one], lengths[one], KEYS[one])
        torch.testing.assert_close(alone[0], whole[clip])
        # Also in a batch that is padded less.
        length = int(lengths[clip])
        short = run(each, batch[one, :length], lengths[one], KEYS[one])
        torch.testing.assert_close(short[0], whole[clip, :length])
    order = np.array([4, 2, 0, 5, 1, 3])
    torch.testing.assert_close(run(each, batch[order], lengths[order], KEYS[order]), whole[order])


@pytest.mark.parametrize("each", EACH, ids=NAMES)
def test_the_same_address_gives_the_same_and_another_epoch_another(each: Augmentation) -> None:
    batch, lengths = inputs(each)
    before = batch.clone()
    first = run(each, batch, lengths)
    assert torch.equal(batch, before), "the input was changed"
    assert torch.equal(first, run(each, batch, lengths))
    assert not torch.equal(first, batch)
    assert not torch.equal(first, run(each, batch, lengths, epoch=4))
    assert first.dtype == batch.dtype
    assert first.shape == batch.shape


@pytest.mark.parametrize("each", EACH, ids=NAMES)
def test_p_0_is_the_identity(each: Augmentation) -> None:
    batch, lengths = inputs(each)
    off = type(each)(p=0.0)
    assert torch.equal(run(off, batch, lengths), batch)


@pytest.mark.parametrize("each", EACH, ids=NAMES)
def test_p_is_the_share_of_clips_that_change(each: Augmentation) -> None:
    keys = seeding.clip_keys([str(i) for i in range(2000)])
    some = type(each)(p=0.3)
    size = (2000, 40) if each.stage == "wave" else (2000, 20, 20)
    batch = torch.randn(size, generator=torch.Generator().manual_seed(1))
    lengths = torch.full((2000,), size[1])
    changed = (run(some, batch, lengths, keys) != batch).flatten(1).any(1).double().mean()
    # A drawn shift or mask of length 0 changes nothing, so at most the share.
    assert float(changed) == pytest.approx(0.3, abs=0.05) or 0.15 < float(changed) < 0.3


@pytest.mark.parametrize("each", EACH, ids=NAMES)
def test_padding_stays_0(each: Augmentation) -> None:
    batch, lengths = inputs(each)
    augmented = run(each, batch, lengths)
    assert torch.equal(masked(augmented.clone(), lengths), augmented)


def test_gain_in_decibels() -> None:
    gain = Gain(p=1.0, max_db=12)
    batch, lengths = inputs(gain)
    draw = gain.draw(KEYS, seed=1, epoch=0)
    assert (np.abs(draw["db"]) <= 12).all()
    fixed = gain.apply(batch, lengths, {"db": np.array([20, -20, 0, 6, -6, 0.0])})
    factors = torch.tensor([10, 0.1, 1, 1.99526231, 0.50118723, 1])
    torch.testing.assert_close(fixed, batch * factors[:, None])


def test_noise_has_the_ratio_drawn_over_the_valid_part() -> None:
    noise = Noise(p=1.0, min_snr=-5, max_snr=30)
    batch, lengths = inputs(noise)
    draw = noise.draw(KEYS, seed=1, epoch=0)
    added = noise.apply(batch, lengths, draw) - batch
    ratio = 10 * torch.log10(batch.square().sum(1) / added.square().sum(1))
    np.testing.assert_allclose(ratio.numpy(), draw["snr"], atol=0.05)
    assert ((draw["snr"] >= -5) & (draw["snr"] <= 30)).all()
    # White: no correlation from sample to sample, nor between clips.
    first = added[0] / added[0].std()
    assert abs(float((first[1:] * first[:-1]).mean())) < 0.15
    assert abs(float((first * added[5] / added[5].std()).mean())) < 0.15


def test_noise_is_new_in_every_epoch_and_for_every_clip() -> None:
    noise = Noise(p=1.0)
    fields = [
        noise.draw(KEYS, seed=seed, epoch=epoch)["field"] for seed in (0, 1) for epoch in (0, 1)
    ]
    assert len(np.unique(np.concatenate(fields))) == 4 * len(KEYS)


def test_noise_leaves_silence_silent() -> None:
    noise = Noise(p=1.0)
    assert not run(noise, torch.zeros(6, 1000), SAMPLES).any()


def test_shift_by_hand() -> None:
    waves = torch.tensor([[1.0, 2, 3, 4, 0, 0], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 0, 0]])
    shifted = Shift(p=1.0).apply(
        waves, torch.tensor([4, 6, 4]), {"share": np.array([0.25, -0.5, 1.0])}
    )
    assert shifted.tolist() == [[0, 1, 2, 3, 0, 0], [4, 5, 6, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
    shares = Shift(p=1.0, max_share=0.2).draw(KEYS, seed=0, epoch=0)["share"]
    assert (np.abs(shares) <= 0.2).all()


def test_masks_by_hand() -> None:
    features = torch.arange(20.0).reshape(1, 5, 4)
    features[:, 4:] = 0
    lengths = torch.tensor([4])
    # Mean of 0..15; the widest is half of 4, u = 0.99 the widest itself, place 0.5 of the 3 places.
    draw = {"width": np.array([[0.99]]), "place": np.array([[0.5]])}
    time = TimeMask(p=1.0, max_share=0.5).apply(features, lengths, draw)
    assert time[0, :, 0].tolist() == [0, 7.5, 7.5, 12, 0]
    frequency = FreqMask(p=1.0, max_share=0.5).apply(features, lengths, draw)
    assert frequency[0].tolist() == [
        [0, 7.5, 7.5, 3], [4, 7.5, 7.5, 7], [8, 7.5, 7.5, 11], [12, 7.5, 7.5, 15], [0, 0, 0, 0],
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [TimeMask, FreqMask])
def test_masks_are_at_most_their_share_and_reach_every_place(kind: type[TimeMask]) -> None:
    mask = kind(p=1.0, max_share=0.3, count=1)
    keys = seeding.clip_keys([str(i) for i in range(3000)])
    features = torch.arange(1.0, 101.0).reshape(1, 10, 10).repeat(3000, 1, 1)
    changed = run(mask, features, torch.full((3000,), 10), keys) != features
    covered = changed.any(2 if kind is TimeMask else 1)  # (B, 10)
    widths = covered.sum(1)
    # 0, 1, 2, 3 positions, each as likely.
    assert np.bincount(widths.numpy()).tolist() == pytest.approx([750] * 4, rel=0.15)
    ends = covered.double().mean(0)
    assert (ends > 0.05).all()
    steps = covered.int().diff(dim=1).abs().sum(1) + covered[:, 0] + covered[:, -1]
    assert ((steps == 2) | (widths == 0)).all(), "a mask is one run"


def test_mixup_mixes_waves_and_targets_alike() -> None:
    waves, lengths = inputs(WAVE[0])
    targets = torch.eye(6)
    mixup = Mixup(p=1.0, alpha=0.4)
    draw = mixup.draw(6, seed=1, step=9)
    assert draw is not None
    weight, partners = draw
    mixed, mixed_lengths, mixed_targets = mixup.apply(waves, lengths, targets, draw)
    for clip, partner in enumerate(partners):
        expected = weight * waves[clip] + (1 - weight) * waves[partner]
        torch.testing.assert_close(mixed[clip], expected)
        assert int(mixed_lengths[clip]) == max(int(lengths[clip]), int(lengths[partner]))
        assert float(mixed_targets[clip, clip]) == pytest.approx(
            1.0 if partner == clip else weight, abs=1e-6
        )
    torch.testing.assert_close(mixed_targets.sum(1), torch.ones(6))
    again = mixup.draw(6, seed=1, step=9)
    assert again is not None
    assert again[0] == weight
    assert (again[1] == partners).all()
    other = mixup.draw(6, seed=1, step=10)
    assert other is not None
    assert other[0] != weight


def test_mixup_weights_are_beta_and_p_is_a_share_of_batches() -> None:
    draws = [Mixup(p=0.4, alpha=2.0).draw(2, seed=0, step=step) for step in range(4000)]
    weights = np.array([draw[0] for draw in draws if draw is not None])
    assert len(weights) / 4000 == pytest.approx(0.4, abs=0.03)
    assert weights.mean() == pytest.approx(0.5, abs=0.02)
    assert weights.var() == pytest.approx(1 / (4 * (2 * 2.0 + 1)), rel=0.1)  # of Beta(a, a)


def all_on() -> schema.Augment:
    return schema.Augment(
        **{
            field.name: dataclasses.replace(getattr(schema.Augment(), field.name), p=1.0)
            for field in dataclasses.fields(schema.Augment)
        }
    )


def test_everything_off_returns_what_it_was_given() -> None:
    augmenter = build_augmenter(schema.Augment(), seed=0)
    waves, lengths = inputs(WAVE[0])
    targets = torch.eye(6)
    assert augmenter.wave(waves, lengths, KEYS, 0) is waves
    assert augmenter.spectrogram(waves, lengths, KEYS, 0) is waves
    assert all(
        got is given
        for got, given in zip(
            augmenter.mix(waves, lengths, targets, 0), (waves, lengths, targets), strict=True
        )
    )


def test_everything_on_is_applied_in_order_at_its_stage() -> None:
    augmenter = build_augmenter(all_on(), seed=1)
    waves, lengths = inputs(EACH[0])
    expected = waves
    for each in (Gain(p=1.0), Noise(p=1.0), Shift(p=1.0)):
        expected = run(each, expected, lengths)
    assert torch.equal(augmenter.wave(waves, lengths, KEYS, 3), expected)
    features, frames = inputs(EACH[3])
    expected = features
    for mask in (TimeMask(p=1.0), FreqMask(p=1.0)):
        expected = run(mask, expected, frames)
    assert torch.equal(augmenter.spectrogram(features, frames, KEYS, 3), expected)
    mixed, _, _ = augmenter.mix(waves, lengths, torch.eye(6), 5)
    assert not torch.equal(mixed, waves)


def test_a_plugins_augmentation_is_one_more_field(monkeypatch: pytest.MonkeyPatch) -> None:
    class Flip(Augmentation):
        stage = "wave"

        def draw(self, keys: np.ndarray, *, seed: int, epoch: int) -> dict[str, np.ndarray]:
            return {}

        def apply(self, batch: Tensor, lengths: Tensor, draw: object) -> Tensor:
            return -batch

    # Registering lasts as long as the process; the other tests of this one want none of it.
    monkeypatch.setattr(AUGMENTATIONS, "_about", dict(AUGMENTATIONS._about))
    monkeypatch.setattr(AUGMENTATIONS, "_loaded", dict(AUGMENTATIONS._loaded))
    AUGMENTATIONS.register("test_flip", "the sign")(Flip)
    settings = dataclasses.make_dataclass("FlipSettings", [("p", float, 1.0)], frozen=True)
    extended = dataclasses.make_dataclass(
        "Extended",
        [("test_flip", settings, dataclasses.field(default_factory=settings))],
        bases=(schema.Augment,),
        frozen=True,
        kw_only=True,
    )
    waves, lengths = inputs(EACH[0])
    augmenter = build_augmenter(extended(), seed=0)
    assert torch.equal(augmenter.wave(waves, lengths, KEYS, 0), -waves)


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"augment\.noise\.min_snr=30 dB is above .*=20"):
        Noise(p=1.0, min_snr=30, max_snr=20)
    assert Augmenter([], seed=0).wave(torch.ones(1, 1), torch.ones(1), KEYS[:1], 0).item() == 1
