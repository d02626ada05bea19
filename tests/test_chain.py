"""`augment.chain`: what is drawn for a clip, by the contract of augmentations and by counting."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raudio.audio.augment import Augmentation, Examples, Mixing
from raudio.audio.build import Augmenter, build_augmenter
from raudio.config import compose, schema, validate
from raudio.config.augment import MIXING, Gain, Noise
from raudio.config.signature import signature
from raudio.core import seeding
from raudio.core.components import AUGMENTATIONS
from raudio.core.errors import ConfigError

# B clips, T samples, F frames, N bands
MANY = seeding.clip_keys([str(i) for i in range(20000)])

#: Each adds another number, so that the sum tells which were applied.
MARKS = {"one": 1.0, "ten": 10.0, "hundred": 100.0}


class Mark(Augmentation):
    stage = "wave"
    mark = 1.0

    def __init__(self, *, p: float = 0.0, times: float = 1.0) -> None:
        super().__init__(p=p)
        self.times = times

    def draw(self, keys: np.ndarray, *, seed: int, epoch: int) -> dict[str, np.ndarray]:
        return {}

    def apply(self, examples: Examples, draw: Any) -> Examples:
        return Examples(examples.data + self.mark * self.times, examples.lengths, examples.targets)


def forget(patch: pytest.MonkeyPatch) -> None:
    """What is registered from now on is forgotten when `patch` is undone."""
    patch.setattr(AUGMENTATIONS, "_about", dict(AUGMENTATIONS._about))
    patch.setattr(AUGMENTATIONS, "_loaded", dict(AUGMENTATIONS._loaded))
    patch.setattr(schema, "Augment", schema.Augment)


@pytest.fixture(autouse=True, scope="module")  # once: each new schema is composed anew
def marks() -> Iterator[None]:
    """Augmentations that leave a mark; `features` does at the spectrogram's stage."""
    with pytest.MonkeyPatch.context() as patch:
        forget(patch)
        for name, mark in MARKS.items():
            AUGMENTATIONS.register(name)(type(name, (Mark,), {"mark": mark}))
        AUGMENTATIONS.register("features")(type("features", (Mark,), {"stage": "spectrogram"}))
        validate.adopt()
        yield


def augmenter(steps: dict[str, Any], seed: int = 1) -> Augmenter:
    experiment = compose.compose([]).experiment
    mapping = validate.to_mapping(experiment)
    mapping["augment"]["chain"] = steps
    built = validate.experiment_from(mapping)
    return build_augmenter(built.augment, sample_rate=8000, seed=seed)


def examples(clips: int, size: tuple[int, ...] = (1,)) -> Examples:
    return Examples(
        torch.zeros(clips, *size), torch.ones(clips, dtype=torch.int64), torch.zeros(clips, 2)
    )


def applied(steps: dict[str, Any], keys: np.ndarray = MANY, epoch: int = 0) -> Tensor:
    """(B,) the sum of the marks that each clip got."""
    return augmenter(steps).wave(examples(len(keys)), keys, epoch).data[:, 0]


def shares(marks: Tensor) -> dict[float, float]:
    values, counts = marks.unique(return_counts=True)
    return dict(zip(values.tolist(), (counts / len(marks)).tolist(), strict=True))


def test_a_choice_takes_its_members_by_weight() -> None:
    of = {name: {"kind": name, "weight": w} for name, w in zip(MARKS, (3, 1, 2), strict=True)}
    found = shares(applied({"pick": {"kind": "choice", "of": of}}))
    assert set(found) == {1.0, 10.0, 100.0}, "one member each, never none, never two"
    expected = np.array([3, 1, 2]) / 6 * len(MANY)
    observed = np.array([found[mark] for mark in MARKS.values()]) * len(MANY)
    assert ((observed - expected) ** 2 / expected).sum() < 13.8  # chi-square, 2 d.f., 0.1 %


def test_p_of_a_choice_is_that_of_the_whole_and_a_member_has_its_own() -> None:
    of = {"one": {"kind": "one", "weight": 3}, "ten": {"kind": "ten", "p": 0.5}}
    found = shares(applied({"pick": {"kind": "choice", "p": 0.4, "of": of}}))
    assert found == {
        1.0: pytest.approx(0.3, abs=0.01),
        10.0: pytest.approx(0.05, abs=0.005),
        0.0: pytest.approx(0.65, abs=0.01),
    }


def test_a_sequence_applies_all_its_steps_or_none() -> None:
    of = {"a": {"kind": "one"}, "b": {"kind": "ten", "p": 0.5}, "c": {"kind": "hundred"}}
    found = shares(applied({"both": {"kind": "sequence", "p": 0.5, "of": of}}))
    assert found == {
        0.0: pytest.approx(0.5, abs=0.015),
        101.0: pytest.approx(0.25, abs=0.015),
        111.0: pytest.approx(0.25, abs=0.015),
    }


def test_a_choice_is_drawn_anew_in_every_epoch_and_for_every_seed() -> None:
    pick = {"pick": {"kind": "choice", "of": {name: {"kind": name} for name in MARKS}}}
    first = applied(pick)
    assert torch.equal(applied(pick), first)
    third = pytest.approx(1 / 3, abs=0.015)
    again = augmenter(pick, seed=2).wave(examples(len(MANY)), MANY, 0).data[:, 0]
    for other in (applied(pick, epoch=1), again):
        assert float((other == first).double().mean()) == third


def test_nested_choices_multiply() -> None:
    inner = {"kind": "choice", "weight": 1, "of": {"ten": {"kind": "ten"}, "on": {"kind": "one"}}}
    both = {"kind": "sequence", "weight": 2, "of": {"a": {"kind": "hundred"}, "b": inner | {}}}
    del both["of"]["b"]["weight"]
    found = shares(applied({"x": {"kind": "choice", "of": {"both": both, "one": {"kind": "one"}}}}))
    third = pytest.approx(1 / 3, abs=0.012)
    assert found == {110.0: third, 101.0: third, 1.0: third}


def test_two_of_one_kind_draw_apart() -> None:
    step = {"kind": "one", "p": 0.5}
    both = {"a": step, "b": step}
    for steps in (both, {"x": {"kind": "sequence", "of": both}}):
        assert shares(applied(steps)) == {
            0.0: pytest.approx(0.25, abs=0.015),
            1.0: pytest.approx(0.5, abs=0.015),
            2.0: pytest.approx(0.25, abs=0.015),
        }
    gain = {"kind": "gain", "max_db": 20}
    levels = [augmenter({name: gain}).wave(waves(4), MANY[:4], 0).data[:, 0] for name in ("a", "b")]
    assert not torch.isclose(*levels).any()


def waves(clips: int) -> Examples:
    data = torch.ones(clips, 50)
    return Examples(data, torch.full((clips,), 50), torch.zeros(clips, 2))


def test_a_choice_between_stages_is_one_choice() -> None:
    of = {"wave": {"kind": "one"}, "later": {"kind": "features", "weight": 2}}
    built = augmenter({"x": {"kind": "choice", "p": 0.9, "of": of}})
    on_waves = built.wave(examples(len(MANY)), MANY, 3).data[:, 0]
    on_features = built.spectrogram(examples(len(MANY), (1, 1)), MANY, 3, 0).data[:, 0, 0]
    assert not (on_waves * on_features).any(), "no clip gets both"
    assert float(on_waves.mean()) == pytest.approx(0.3, abs=0.01)
    assert float(on_features.mean()) == pytest.approx(0.6, abs=0.015)


TREE = {
    "level": {"kind": "gain", "p": 0.5, "max_db": 12},
    "dirt": {
        "kind": "choice",
        "p": 0.8,
        "of": {
            "hiss": {"kind": "noise", "weight": 2, "min_snr": 5},
            "late": {
                "kind": "sequence",
                "of": {"shift": {"kind": "shift"}, "again": {"kind": "gain", "p": 0.5}},
            },
        },
    },
}


def test_a_clip_is_the_same_in_every_batch_and_new_in_every_epoch() -> None:
    built = augmenter(TREE)
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([200, 130, 1, 199, 17, 200])
    data = torch.randn(6, 200, generator=generator)
    data[torch.arange(200) >= lengths[:, None]] = 0
    given = Examples(data, lengths, torch.eye(6))
    keys = seeding.clip_keys([f"clip{i}" for i in range(6)])
    before = data.clone()
    whole = built.wave(given, keys, 2)
    assert torch.equal(data, before), "the input was changed"
    for clip in range(6):
        one = slice(clip, clip + 1)
        torch.testing.assert_close(built.wave(given[one], keys[one], 2).data[0], whole.data[clip])
    order = [4, 2, 0, 5, 1, 3]
    shuffled = built.wave(given[torch.tensor(order)], keys[order], 2)
    torch.testing.assert_close(shuffled.data, whole.data[order])
    assert not torch.equal(built.wave(given, keys, 3).data, whole.data)
    assert not torch.equal(augmenter(TREE, seed=2).wave(given, keys, 2).data, whole.data)


def test_the_chain_comes_after_the_flat_ones_and_in_its_order() -> None:
    augment = schema.Augment(
        gain=Gain(p=1.0),
        chain={"first": {"kind": "one", "p": 1.0, "times": 1.0}, "off": {"kind": "ten", "p": 0.0}},
    )
    given = waves(8)
    keys = MANY[:8]
    got = build_augmenter(augment, sample_rate=8000, seed=1).wave(given, keys, 0).data
    flat = build_augmenter(schema.Augment(gain=Gain(p=1.0)), sample_rate=8000, seed=1)
    torch.testing.assert_close(got, flat.wave(given, keys, 0).data + 1)
    turned = augmenter({"m": {"kind": "one"}, "g": {"kind": "gain", "max_db": 20}})
    straight = augmenter({"g": {"kind": "gain", "max_db": 20}, "m": {"kind": "one"}})
    zero = Examples(torch.zeros(8, 50), torch.full((8,), 50), torch.zeros(8, 2))
    assert (straight.wave(zero, keys, 0).data == 1).all()
    assert not (turned.wave(zero, keys, 0).data == 1).any()


def test_mixing_is_a_step_of_the_chain_and_of_nothing_inside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mixed = augmenter({"mix": {"kind": "mixup", "alpha": 5}}).mix(
        Examples(torch.eye(6), torch.full((6,), 6), torch.eye(6)), 1
    )
    assert not torch.equal(mixed.data, torch.eye(6))
    torch.testing.assert_close(mixed.data, mixed.targets)
    with pytest.raises(ConfigError, match=r"augment\.chain\.x\.of\.mix\.kind=mixup: it mixes"):
        augmenter({"x": {"kind": "sequence", "of": {"mix": {"kind": "mixup"}}}})
    # A plugin's is known when it is built.
    mixing = [name for name in AUGMENTATIONS.names() if issubclass(AUGMENTATIONS.get(name), Mixing)]
    assert sorted(mixing) == sorted(MIXING)
    forget(monkeypatch)
    AUGMENTATIONS.register("stir")(type("stir", (AUGMENTATIONS.get("mixup"),), {}))
    validate.adopt()
    with pytest.raises(ConfigError, match=r"augment\.chain\.x\.of\.mix: stir mixes"):
        augmenter({"x": {"kind": "sequence", "of": {"mix": {"kind": "stir"}}}})


def experiment(*overrides: str) -> schema.Experiment:
    return compose.compose(overrides).experiment


CHAIN = (
    "augment.chain.level.kind=gain",
    "augment.chain.level.max_db=12",
    "augment.chain.dirt={kind: choice, p: 0.8, of: {hiss: {kind: noise, weight: 2, min_snr: 5}, "
    "later: {kind: sequence, of: {move: {kind: shift, p: 0.5}}}}}",
    "augment.chain.dirt.of.hiss.max_snr=20",
)


def test_a_command_line_writes_a_chain_with_every_setting_filled_in() -> None:
    chain = experiment(*CHAIN).augment.chain
    noise = dataclasses.asdict(Noise(min_snr=5.0, max_snr=20.0))
    assert chain == {
        "level": {"kind": "gain", "p": 1.0, "max_db": 12.0},
        "dirt": {
            "kind": "choice",
            "p": 0.8,
            "of": {
                "hiss": {**noise, "kind": "noise", "p": 1.0, "weight": 2.0},
                "later": {
                    "kind": "sequence",
                    "p": 1.0,
                    "weight": 1.0,
                    "of": {"move": {"kind": "shift", "p": 0.5, "max_share": 0.1}},
                },
            },
        },
    }  # fmt: skip
    assert list(chain) == ["level", "dirt"]


def test_a_chain_round_trips_through_yaml() -> None:
    one = experiment(*CHAIN)
    text = validate.dump_yaml(one)
    again = validate.load_yaml(text, schema.Experiment)
    assert again == one
    assert validate.dump_yaml(again) == text


def test_the_signature_covers_what_a_chain_does_and_nothing_else() -> None:
    def of(*more: str) -> str:
        return signature(experiment(*CHAIN, *more), "")

    assert of() == of()
    assert of() != signature(experiment(), "")
    for change in (
        "augment.chain.level.max_db=11",
        "augment.chain.dirt.p=0.7",
        "augment.chain.dirt.of.hiss.weight=3",
        "augment.chain.dirt.of.later.of.move.max_share=0.2",
        "augment.chain.more.kind=gain",
    ):
        assert of(change) != of(), change
    off = "augment.chain.level.p=0"
    assert of(off, "augment.chain.level.max_db=11") == of(off)
    inner = "{kind: sequence, of: {a: {kind: gain}}}"
    one, other = (signature(experiment(f"augment.chain.{x}={inner}"), "") for x in "xy")
    assert one != other, "draws go by names"
    forward = ["augment.chain.a.kind=gain", "augment.chain.b.kind=shift"]
    assert signature(experiment(*forward), "") != signature(experiment(*forward[::-1]), "")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("augment.chain.level.kind=gian", ["augment.chain.level.kind=gian", "closest: 'gain'"]),
        ("augment.chain.level.max_bd=3", ["augment.chain.level.max_bd=3", "closest: 'max_db'"]),
        ("augment.chain.level.max_db=99", ["augment.chain.level.max_db=99", "from 0 to 60"]),
        ("augment.chain.level.p=2", ["augment.chain.level.p=2", "from 0 to 1"]),
        ("augment.chain.level.weight=2", ["augment.chain.level.weight=2", "choice's members"]),
        ("augment.chain.new.p=1", ["augment.chain.new", "augment.chain.new.kind=gain"]),
        ("augment.chain.new=3", ["augment.chain.new=3", "augment.chain.new.kind=gain"]),
        ("augment.chain=3", ["augment.chain=3", "steps are wanted"]),
        ("augment.chain.dirt.of=null", ["augment.chain.dirt.of", "holds steps"]),
        ("augment.chain.dirt.of.hiss.weight=-1", ["augment.chain.dirt.of.hiss.weight=-1", "0"]),
        ("augment.chain.dirt.of.hiss.min_snr=30", ["min_snr=30", "above", "max_snr=20"]),
        ("augment.chain.dirt.off=1", ["augment.chain.dirt.off=1", "closest: 'of'"]),
        ("augment.chain.x={kind: gain, p: choice(0,1)}", ["augment.chain.x.p=choice(0, 1)"]),
        ("augment.chain.x.kind=os.system", ["'os.system'"]),
        ("augment.chian.x.kind=gain", ["augment.chian.x.kind=gain"]),
    ],
)
def test_what_a_chain_cannot_be(override: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        compose.compose([*CHAIN, override])
    text = str(caught.value)
    assert all(part in text for part in parts), text
    assert "\n" not in text


def test_weights_of_nothing() -> None:
    with pytest.raises(ConfigError, match=r"augment\.chain\.dirt\.of: every weight is 0"):
        experiment(
            *CHAIN, "augment.chain.dirt.of.hiss.weight=0", "augment.chain.dirt.of.later.weight=0"
        )


def test_a_name_that_no_key_can_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"augment\.chain\.a b: a step's name"):
        augmenter({"a b": {"kind": "gain"}})
