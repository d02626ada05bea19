"""Adapters against their libraries called directly, and what a clip gets against its batch."""

from __future__ import annotations

import dataclasses
import random
import warnings
from pathlib import Path
from typing import Any

import audiomentations
import numpy as np
import pytest
import soundfile
import torch
import torch_audiomentations

from raudio.audio import adapters as adapter_module
from raudio.audio.adapters import Adapter, build_adapter
from raudio.audio.augment import Examples
from raudio.audio.build import build_augmenter
from raudio.config import adapters, compose, schema, validate
from raudio.core import extras, seeding
from raudio.core.errors import ConfigError

# B clips, T samples
RATE = 16000
KEYS = seeding.clip_keys([f"clip{i}" for i in range(4)])
LENGTHS = torch.tensor([8000, 7000, 8000, 6400])


def given() -> Examples:
    data = 0.3 * torch.randn(4, 8000, generator=torch.Generator().manual_seed(0))
    data[torch.arange(8000) >= LENGTHS[:, None]] = 0
    return Examples(data, LENGTHS, torch.eye(4))


def build(kind: str, **arguments: Any) -> Adapter:
    adapter = build_adapter(kind, {"p": 1.0, **arguments}, RATE)
    adapter.stream = "chain.x"
    return adapter


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    generator = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        decay = np.exp(-np.arange(RATE) / 2000)
        soundfile.write(folder / f"{name}.wav", 0.3 * generator.normal(size=RATE) * decay, RATE)
    return folder


KINDS = [kind for package in adapters.EXTRAS for kind in adapters.catalogue(package)]


def needed(kind: str, sounds: Path) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: str(sounds)
        for name, setting in adapters.settings(kind, "").items()
        if setting.default is dataclasses.MISSING
    }
    more = {
        "audiomentations.AdjustDuration": {"duration_seconds": 0.3},
        "torch_audiomentations.SpliceOut": {"max_width": 20},
    }
    return found | more.get(kind, {})


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_catalogue_gives_a_clip_the_same_in_every_batch(kind: str, sounds: Path) -> None:
    adapter = build(kind, **needed(kind, sounds))
    whole = adapter(given(), KEYS, seed=1, epoch=2)
    assert whole.data.shape == given().data.shape
    assert whole.data.dtype == torch.float32
    assert torch.isfinite(whole.data).all()
    assert not whole.data[1, 7000:].any(), "padding stays 0"
    assert torch.equal(whole.lengths, LENGTHS)
    for clip in (1, 3):
        one = slice(clip, clip + 1)
        alone = adapter(given()[one], KEYS[one], seed=1, epoch=2)
        assert torch.equal(alone.data[0], whole.data[clip])


def test_audiomentations_is_the_library_s_own_under_the_same_seed() -> None:
    adapter = build("audiomentations.AddGaussianSNR", min_snr_db=3.0, max_snr_db=9.0)
    draw = adapter.draw(KEYS, seed=1, epoch=0)
    got = adapter.apply(given(), draw).data
    transform = audiomentations.AddGaussianSNR(min_snr_db=3.0, max_snr_db=9.0, p=1.0)
    for clip, length in enumerate(LENGTHS.tolist()):
        random.seed(int(draw["seed"][clip]))
        np.random.seed(int(draw["seed"][clip]))
        expected = transform(given().data[clip, :length].numpy(), sample_rate=RATE)
        np.testing.assert_array_equal(got[clip, :length].numpy(), expected)
    added = (got - given().data)[0]
    ratio = 10 * torch.log10(given().data[0].square().sum() / added.square().sum())
    assert 2.5 < float(ratio) < 9.5


def test_torch_audiomentations_is_the_library_s_own_under_the_same_seed() -> None:
    adapter = build("torch_audiomentations.AddColoredNoise", min_snr_in_db=3.0, max_snr_in_db=9.0)
    draw = adapter.draw(KEYS, seed=1, epoch=0)
    got = adapter.apply(given(), draw).data
    transform = torch_audiomentations.AddColoredNoise(
        min_snr_in_db=3.0, max_snr_in_db=9.0, p=1.0, sample_rate=RATE, output_type="dict"
    )
    for clip, length in enumerate(LENGTHS.tolist()):
        torch.manual_seed(int(draw["seed"][clip]))
        expected = transform(given().data[clip : clip + 1, None, :length]).samples
        torch.testing.assert_close(got[clip, :length], expected[0, 0])


@pytest.mark.parametrize(
    "kind", ["audiomentations.AddGaussianNoise", "torch_audiomentations.AddColoredNoise"]
)
def test_draws_go_by_seed_epoch_clip_and_path_and_leave_the_global_state(kind: str) -> None:
    adapter, other = build(kind), build(kind)
    other.stream = "chain.y"
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    first = adapter(given(), KEYS, seed=1, epoch=0).data
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    assert torch.equal(adapter(given(), KEYS, seed=1, epoch=0).data, first)
    for again in (
        adapter(given(), KEYS, seed=2, epoch=0),
        adapter(given(), KEYS, seed=1, epoch=1),
        adapter(given(), KEYS[::-1].copy(), seed=1, epoch=0),
        other(given(), KEYS, seed=1, epoch=0),
    ):
        assert not torch.equal(again.data, first)


def test_p_is_the_step_s_and_not_the_library_s() -> None:
    keys = seeding.clip_keys([str(i) for i in range(400)])
    batch = Examples(torch.ones(400, 8), torch.full((400,), 8), torch.zeros(400, 1))
    turned = build("audiomentations.PolarityInversion", p=0.25)(batch, keys, seed=0, epoch=0)
    assert float((turned.data[:, 0] == -1).double().mean()) == pytest.approx(0.25, abs=0.06)


def test_lengths_are_kept() -> None:
    longer = build("audiomentations.AdjustDuration", duration_seconds=1.0)
    shorter = build("audiomentations.AdjustDuration", duration_seconds=0.1)
    torch.testing.assert_close(longer(given(), KEYS, seed=0, epoch=0).data, given().data)
    cut = shorter(given(), KEYS, seed=0, epoch=0)
    assert not cut.data[:, 1600:].any()
    assert cut.data[:, :1600].any(1).all()
    assert torch.equal(cut.lengths, LENGTHS)


def test_what_may_be_whole_is_whole() -> None:
    arguments = {"min_shift": 100.0, "max_shift": 101.0, "shift_unit": "samples"}
    for kind in ("audiomentations.Shift", "torch_audiomentations.Shift"):
        extra = {"fade_duration": 0.0} if kind.startswith("audio") else {}
        moved = build(kind, **arguments, **extra)(given()[:1], KEYS[:1], seed=0, epoch=0).data[0]
        assert any(torch.equal(moved, given().data[0].roll(by)) for by in (100, 101))


def test_frame_targets_do_not_stay_behind_unnoticed() -> None:
    frames = Examples(given().data, LENGTHS, torch.zeros(4, 10, 2))
    build("audiomentations.Gain")(frames, KEYS, seed=0, epoch=0)
    with pytest.raises(ConfigError, match=r"augment\.chain\.x: audiomentations\.Reverse moves"):
        build("audiomentations.Reverse")(frames, KEYS, seed=0, epoch=0)


def test_an_adapter_is_a_leaf_like_any_other() -> None:
    overrides = [
        "augment.chain.pick={kind: choice, of: {turn: {kind: audiomentations.PolarityInversion}, "
        "quiet: {kind: torch_audiomentations.Gain, min_gain_in_db: -20, max_gain_in_db: -19.999}}}"
    ]
    augment = compose.compose(overrides).experiment.augment
    built = build_augmenter(augment, sample_rate=RATE, seed=0)
    keys = seeding.clip_keys([str(i) for i in range(60)])
    batch = Examples(torch.ones(60, 8), torch.full((60,), 8), torch.zeros(60, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = built.wave(batch, keys, 0).data[:, 0]
    assert {round(value, 3) for value in got.tolist()} == {-1.0, 0.1}


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("x.kind=audiomentations.AddGausianSNR", ["closest: 'AddGaussianSNR'"]),
        ("x.kind=audiomentations.Compose", ["'Compose'"]),
        ("x.kind=audiomentations.Lambda", ["'Lambda'"]),
        ("x.kind=torch_audiomentations.from_yaml", ["'from_yaml'"]),
        ("x.kind=audiomentations.core", ["'core'"]),
        ("x={kind: audiomentations.Gain, min_gain: 3}", ["min_gain=3", "closest: 'min_gain_db'"]),
        ("x={kind: audiomentations.Gain, min_gain_db: a}", ["min_gain_db=a", "a number"]),
        (
            "x={kind: audiomentations.Gain, min_gain_db: 20}",
            ["min_gain_db=20 must"],
        ),
        ("x={kind: audiomentations.Padding, mode: wrp}", ["mode=wrp", "closest: 'wrap'"]),
        ("x.kind=torch_audiomentations.AddBackgroundNoise", ["take audiomentations.AddBackg"]),
        ("x.kind=audiomentations.AddShortNoises", ["augment.chain.x.sounds_path has to be given"]),
        ("x={kind: torch_audiomentations.Gain, sample_rate: 3}", ["unknown setting 'sample_rate'"]),
    ],
)
def test_a_class_and_its_arguments_are_checked_before_anything_starts(
    override: str, parts: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        compose.compose([f"augment.chain.{override}"])
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_the_library_refuses_is_said_in_its_words() -> None:
    with pytest.raises(ConfigError, match=r"audiomentations\.Gain: .*'nowhere'"):
        build("audiomentations.Gain", nowhere=3)


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if neither library were installed."""

    def require(module: str, extra: str) -> Any:
        raise ConfigError(f"{module} cannot be imported; pip install 'raudio[{extra}]'")

    adapters.catalogue.cache_clear()
    monkeypatch.setattr(extras, "require", require)
    yield
    adapters.catalogue.cache_clear()


def test_without_the_library_a_command_line_is_refused_and_an_experiment_can_be_read(
    missing: None,
) -> None:
    override = "augment.chain.x={kind: torch_audiomentations.Gain, p: 0.5, min_gain_in_db: -3}"
    with pytest.raises(ConfigError, match=r"x\.kind.*'raudio\[torch-audiomentations\]'"):
        compose.compose([override])
    mapping = validate.to_mapping(compose.compose([]).experiment)
    step = {"kind": "torch_audiomentations.Gain", "p": 0.5, "min_gain_in_db": -3.0}
    mapping["augment"]["chain"] = {"x": step}
    read = validate.experiment_from(mapping)
    assert read.augment.chain == {"x": step}
    assert validate.load_yaml(validate.dump_yaml(read), schema.Experiment) == read
    with pytest.raises(ConfigError, match="pip install"):
        build_augmenter(read.augment, sample_rate=RATE, seed=0)
    step["min_gain_in_db"] = {"a": 1}  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"augment\.chain\.x\.min_gain_in_db"):
        validate.experiment_from(mapping)


def test_a_clip_that_the_library_cannot_take_is_named() -> None:
    splice = build("torch_audiomentations.SpliceOut", max_width=4000)
    with pytest.raises(ConfigError, match=r"chain\.x: torch_.*SpliceOut fails on a clip of 8000"):
        splice(given(), KEYS, seed=0, epoch=0)


def test_every_class_that_moves_the_audio_is_known() -> None:
    names = {kind.partition(".")[2] for kind in KINDS}
    assert set(adapter_module._MOVES) <= names
