"""Augmentations: the contract that each one of the registry keeps, a plugin's too, and the
augmenter that runs them.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import soundfile
import torch
from augment_kit import CLIPS, KEYS, SAMPLE_RATE, assert_same, examples, masked, run

from raudio.audio.augment import Augmentation, Examples, Mixing
from raudio.audio.build import Augmenter, build_augmentation, build_augmenter
from raudio.config import schema
from raudio.core import seeding
from raudio.core.components import AUGMENTATIONS
from raudio.core.errors import ConfigError

#: What some need to be switched on, besides p.
NEEDED: dict[str, dict[str, object]] = {}
NAMES = AUGMENTATIONS.names()


class Late(Augmentation):
    """A plugin's own: the sign turned, at a level drawn."""

    stage = "wave"

    def __init__(self, *, sample_rate: int, p: float = 0.0) -> None:
        super().__init__(p=p)
        assert sample_rate == SAMPLE_RATE

    def draw(self, keys: np.ndarray, *, seed: int, epoch: int) -> dict[str, np.ndarray]:
        return {"level": self.uniforms(keys, 1, seed=seed, epoch=epoch)[:, 0]}

    def apply(self, given: Examples, draw: dict[str, np.ndarray]) -> Examples:
        level = torch.as_tensor(draw["level"], dtype=torch.float32)[:, None]
        return dataclasses.replace(given, data=-level * given.data)


@pytest.fixture(scope="module", autouse=True)
def noises(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A folder of noises, for the augmentations that need one."""
    folder = tmp_path_factory.mktemp("noises")
    for number, samples in enumerate((700, 5000, 12000)):
        noise = np.random.default_rng(number).standard_normal(samples) * 0.1
        soundfile.write(folder / f"{number}.wav", noise, SAMPLE_RATE)
    NEEDED["background"] = {"source": str(folder)}


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Registering lasts as long as the process; the other tests of this one want none of it."""
    with monkeypatch.context() as patch:
        patch.setattr(AUGMENTATIONS, "_about", dict(AUGMENTATIONS._about))
        patch.setattr(AUGMENTATIONS, "_loaded", dict(AUGMENTATIONS._loaded))
        AUGMENTATIONS.register("plugin", "the level and the sign")(Late)
        yield


def build(name: str, p: float = 1.0) -> Augmentation | Mixing:
    return build_augmentation(name, {"p": p, **NEEDED.get(name, {})}, SAMPLE_RATE, stream=name)


def is_mixing(name: str) -> bool:
    return name != "plugin" and issubclass(AUGMENTATIONS.get(name), Mixing)


CLIP_BY_CLIP = [*(name for name in NAMES if not is_mixing(name)), "plugin"]
MIXING = [name for name in NAMES if is_mixing(name)]


def clip_by_clip(name: str, p: float = 1.0) -> Augmentation:
    each = build(name, p)
    assert isinstance(each, Augmentation)
    return each


# --- the contract --------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1.0, 0.5])
@pytest.mark.parametrize("name", CLIP_BY_CLIP)
def test_a_clip_is_the_same_in_every_batch(name: str, p: float) -> None:
    each = clip_by_clip(name, p)
    given = examples(each.stage)
    whole = run(each, given)
    for clip in range(CLIPS):
        one = slice(clip, clip + 1)
        assert_same(run(each, given[one], KEYS[one]), whole[one])
    order = np.array([4, 2, 0, 5, 1, 3])
    positions = torch.as_tensor(order)
    assert_same(run(each, given[positions], KEYS[order]), whole[positions])


@pytest.mark.parametrize("name", CLIP_BY_CLIP)
def test_a_clip_does_not_depend_on_its_padding(name: str) -> None:
    each = clip_by_clip(name)
    given = examples(each.stage, frame_targets=False)
    padded = torch.nn.functional.pad(
        given.data, (0, 300) if each.stage == "wave" else (0, 0, 0, 30)
    )
    more = run(each, dataclasses.replace(given, data=padded))
    # A clip that grows is cut at the end of its batch: here it has more room.
    size = given.data.shape[1]
    expected = Examples(more.data[:, :size], more.lengths.clamp(max=size), more.targets)
    assert_same(run(each, given), expected)


@pytest.mark.parametrize("name", CLIP_BY_CLIP)
def test_the_same_address_gives_the_same_and_another_epoch_another(name: str) -> None:
    each = clip_by_clip(name)
    given = examples(each.stage)
    before = copy.deepcopy(given)
    first = run(each, given)
    assert_same(given, before)
    again = run(each, given)
    assert torch.equal(first.data, again.data)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.data, given.data)
    if each.draw(KEYS, seed=1, epoch=3):
        assert not torch.equal(first.data, run(each, given, epoch=4).data)
        assert not torch.equal(first.data, run(each, given, seed=2).data)
        each.stream = "another"
        assert not torch.equal(first.data, run(each, given).data)


@pytest.mark.parametrize("frame_targets", [True, False])
@pytest.mark.parametrize("name", [*CLIP_BY_CLIP, *MIXING])
def test_shapes_types_and_lengths_are_kept(name: str, frame_targets: bool) -> None:
    each = build(name)
    given = examples(each.stage, frame_targets=frame_targets)
    before = copy.deepcopy(given)
    got = run(each, given) if isinstance(each, Augmentation) else each(given, seed=1, step=2)
    assert_same(given, before)
    for new, old in ((got.data, given.data), (got.targets, given.targets)):
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
        assert new.isfinite().all()
    assert got.lengths.dtype == torch.int64
    assert ((got.lengths >= 1) & (got.lengths <= given.data.shape[1])).all()
    assert torch.equal(masked(got.data, got.lengths), got.data), "padding stays 0"
    if isinstance(each, Augmentation) and not frame_targets:
        assert torch.equal(got.targets, given.targets)


@pytest.mark.parametrize("name", [*CLIP_BY_CLIP, *MIXING])
def test_p_0_is_the_identity(name: str) -> None:
    each = build(name, p=0.0)
    given = examples(each.stage)
    if isinstance(each, Mixing):
        assert each(given, seed=1, step=2) is given
    else:
        assert run(each, given) is given


@pytest.mark.parametrize("name", CLIP_BY_CLIP)
def test_silence_and_single_samples_stay_finite(name: str) -> None:
    each = clip_by_clip(name)
    given = examples(each.stage)
    silent = dataclasses.replace(given, data=torch.zeros_like(given.data))
    assert run(each, silent).data.isfinite().all()


def test_p_is_the_share_of_clips_that_change() -> None:
    keys = seeding.clip_keys([str(i) for i in range(4000)])
    given = Examples(torch.ones(4000, 1), torch.ones(4000, dtype=torch.int64), torch.zeros(4000, 1))
    changed = run(clip_by_clip("gain", p=0.3), given, keys).data != 1
    assert float(changed.double().mean()) == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("name", MIXING)
def test_mixing_is_drawn_from_the_step(name: str) -> None:
    each = build(name)
    assert isinstance(each, Mixing)
    given = examples(each.stage)
    first = each(given, seed=1, step=2)
    assert_same(each(given, seed=1, step=2), first)
    assert not torch.equal(first.data, given.data)
    assert not torch.equal(each(given, seed=1, step=3).data, first.data)
    each.p = 0.4
    mixed = sum(each(given, seed=1, step=step) is not given for step in range(300))
    assert mixed / 300 == pytest.approx(0.4, abs=0.08)


# --- the augmenter -------------------------------------------------------------------------------


def built(augment: schema.Augment) -> Augmenter:
    return build_augmenter(augment, sample_rate=SAMPLE_RATE, seed=1)


def all_on() -> schema.Augment:
    return schema.Augment(
        **{
            name: dataclasses.replace(
                getattr(schema.Augment(), name), p=1.0, **NEEDED.get(name, {})
            )
            for name in schema.augmentations()
        }
    )


def test_everything_off_returns_what_it_was_given() -> None:
    augmenter = built(schema.Augment())
    given = examples("wave")
    assert augmenter.wave(given, KEYS, 0) is given
    assert augmenter.mix(given, 0) is given
    assert augmenter.spectrogram(given, KEYS, 0, 0) is given


def test_everything_on_is_applied_in_the_order_of_the_schema_at_its_stage() -> None:
    augmenter = built(all_on())
    each = [build(name) for name in schema.augmentations()]
    for stage in ("wave", "spectrogram"):
        given = examples(stage)
        clips = given
        for one in each:
            if isinstance(one, Augmentation) and one.stage == stage:
                clips = run(one, clips)
        mixed = clips
        for one in each:
            if isinstance(one, Mixing) and one.stage == stage:
                mixed = one(mixed, seed=1, step=5)
        if stage == "wave":
            assert_same(augmenter.wave(given, KEYS, 3), clips)
            assert_same(augmenter.mix(clips, 5), mixed)
        else:
            assert_same(augmenter.spectrogram(given, KEYS, 3, 5), mixed)


def test_a_plugins_augmentation_is_one_more_field() -> None:
    settings = dataclasses.make_dataclass("Settings", [("p", float, 1.0)], frozen=True)
    extended = dataclasses.make_dataclass(
        "Extended",
        [("plugin", settings, dataclasses.field(default_factory=settings))],
        bases=(schema.Augment,),
        frozen=True,
        kw_only=True,
    )
    given = examples("wave")
    got = built(extended()).wave(given, KEYS, 3)
    assert_same(got, run(clip_by_clip("plugin"), given))


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"noise: min_snr=30 is above max_snr=20; lower"):
        build_augmentation("noise", {"min_snr": 30, "max_snr": 20}, SAMPLE_RATE, stream="noise")
    AUGMENTATIONS.register("test_odd")(type("Odd", (Late,), {"stage": "waves"}))
    with pytest.raises(ConfigError, match=r"'test_odd': .* 'waves'; it has to be one of wave, sp"):
        build_augmentation("test_odd", {}, SAMPLE_RATE, stream="test_odd")
    AUGMENTATIONS.register("test_no")(type("No", (), {}))
    with pytest.raises(ConfigError, match=r"'test_no' is a No; derive it from raudio\.audio"):
        build_augmentation("test_no", {}, SAMPLE_RATE, stream="test_no")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", [*CLIP_BY_CLIP, *MIXING])
def test_the_same_on_a_gpu(name: str) -> None:
    """The examples stay on it, and become what they do on a CPU, but for generated noise."""
    each = build(name)
    given = examples(each.stage)
    there = Examples(given.data.cuda(), given.lengths.cuda(), given.targets.cuda())
    if isinstance(each, Augmentation):
        expected, got = run(each, given), run(each, there)
    else:
        expected, got = each(given, seed=1, step=2), each(there, seed=1, step=2)
    assert {part.device.type for part in (got.data, got.lengths, got.targets)} == {"cuda"}
    assert torch.equal(got.lengths.cpu(), expected.lengths)
    torch.testing.assert_close(got.targets.cpu(), expected.targets)
    if name not in ("noise", "reverb"):
        torch.testing.assert_close(got.data.cpu(), expected.data, atol=1e-3, rtol=1e-3)
