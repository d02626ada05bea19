"""The system: repeatable weights, and scores that are the mean of a clip's windows."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from memory_feed import MemoryFeed, tones
from torch import Tensor, nn

from raudio.config import schema
from raudio.core.errors import ConfigError, NonFiniteError
from raudio.data.feeds import Batch
from raudio.system import System, average_windows, build_system
from raudio.tasks.classification import Classification
from raudio.training.evaluate import evaluate


def experiment(**changes: object) -> schema.Experiment:
    return schema.Experiment(
        dataset=schema.Dataset(sample_rate=8000, clip_seconds=0.1),
        features=schema.LogMel(n_mels=16),
        augment=schema.Augment(),
        model=schema.CNN(width=4, depth=2, dropout=0.5),
        task=schema.Classification(),
        optimizer=schema.AdamW(),
        schedule=schema.Constant(),
        training=schema.Training(),
        resources=schema.Resources(),
        **changes,
    )


def test_weights_are_a_function_of_the_seed() -> None:
    torch.manual_seed(1)
    first = build_system(experiment(seed=5), labels="abc").state_dict()
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second = build_system(experiment(seed=5), labels="abc").state_dict()
    other = build_system(experiment(seed=6), labels="abc").state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state()), "building draws from the global state"


def test_state_fits_a_system_without_class_counts() -> None:
    """A bundle has none: the loss's weights are not part of what is kept."""
    balanced = experiment()
    balanced = dataclasses.replace(balanced, task=schema.Classification(class_weights="balanced"))
    trained = build_system(balanced, labels="ab", class_counts={"a": 1, "b": 3})
    loaded = build_system(balanced, labels="ab")
    loaded.load_state_dict(trained.state_dict())


def test_average_of_windows_by_hand() -> None:
    scores = torch.tensor([[0.2, 0.8], [1.0, 0.0], [0.4, 0.6], [0.0, 1.0], [0.9, 0.1]])
    mean, clips = average_windows(scores, torch.tensor([7, 2, 7, 7, 2]))
    assert clips.tolist() == [2, 7]
    torch.testing.assert_close(mean, torch.tensor([[0.95, 0.05], [0.2, 0.8]]))


@pytest.mark.parametrize("name", schema.VARIANTS["model"])
def test_the_head_makes_the_scores_of_what_is_embedded(name: str) -> None:
    settings = dataclasses.replace(experiment(seed=3), model=schema.VARIANTS["model"][name]())
    system = build_system(settings, labels="abc").eval()
    waves, lengths = torch.randn(3, 800), torch.tensor([800, 500, 800])
    vectors, scores = system.embed(waves, lengths)
    with torch.no_grad():
        torch.testing.assert_close(system.model.head(vectors).softmax(dim=1), scores)
        torch.testing.assert_close(system(waves, lengths).softmax(dim=1), scores)
    torch.testing.assert_close(system.scores(waves, lengths), scores)


def test_a_model_that_is_not_composed_has_no_embeddings() -> None:
    system = build_system(experiment(), labels="abc").eval()
    system.model = nn.Identity()
    with pytest.raises(ConfigError, match=r"Identity and gives no embeddings.*Composed"):
        system.embed(torch.randn(1, 800), torch.tensor([800]))


@pytest.mark.parametrize(
    ("model", "front_end", "normalize"),
    [
        pytest.param(
            *each, marks=[] if each[0] == "cnn" or each[2] == "dataset" else pytest.mark.slow
        )
        for each in itertools.product(
            schema.VARIANTS["model"],
            schema.VARIANTS["features"],
            ("none", "channel", "dataset"),
        )
    ],
)
@torch.no_grad()
def test_what_a_batch_pads_a_clip_with_changes_nothing(
    model: str, front_end: str, normalize: str
) -> None:
    settings = dataclasses.replace(
        experiment(seed=2),
        features=schema.VARIANTS["features"][front_end](normalize=normalize),
        model=schema.VARIANTS["model"][model](),
    )
    system = build_system(settings, labels="abc")
    lengths = torch.tensor([4000, 2399, 801, 80, 5])
    waves = 0.3 * torch.randn(5, 4000, generator=torch.Generator().manual_seed(0))
    if system.front_end.needs_fit:
        system.front_end.fit([system.front_end.transform(waves, lengths)])
    for _ in range(3):
        system(waves, lengths)  # batch normalisation sees data, so that zeros don't stay zeros
    system.eval()
    together = system(torch.cat([waves, torch.ones(5, 777)], dim=1), lengths)
    for clip, length in enumerate(lengths.tolist()):
        alone = system(waves[clip : clip + 1, :length], lengths[clip : clip + 1])
        torch.testing.assert_close(alone[0], together[clip], atol=1e-5, rtol=1e-5)


class _Loudest(nn.Module):
    """Logits are the first samples, so that a score can be computed by hand."""

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        return features[:, 0, :]


class _Frame(nn.Module):
    n_features = 2

    def forward(self, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return waves[:, None, :], torch.ones(len(waves), dtype=torch.int64)


class _WindowedFeed(MemoryFeed):
    """Clip i has i + 1 windows; batches cut through clips."""

    def windows(self, batch_size: int) -> Iterator[Batch]:
        clips = np.repeat(np.arange(self.clips), np.arange(1, self.clips + 1))
        waves = torch.arange(2.0 * len(clips)).sin().reshape(-1, 2)
        for start in range(0, len(clips), batch_size):
            part = slice(start, start + batch_size)
            here = clips[part]
            yield Batch(
                waves[part],
                torch.full((len(here),), 2),
                torch.zeros(len(here)),
                self.keys[here],
                here,
            )


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_evaluation_averages_the_windows_of_a_clip(batch_size: int) -> None:
    system = System(_Frame(), _Loudest(), Classification("ab"))
    feed = _WindowedFeed(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
    found = evaluate(system, feed, batch_size=batch_size, device="cpu")
    windows = torch.arange(20.0).sin().reshape(10, 2).softmax(1)
    expected = torch.stack([part.mean(0) for part in windows.split([1, 2, 3, 4])])
    torch.testing.assert_close(found.scores, expected)
    assert found.clips.tolist() == [0, 1, 2, 3]
    hits = (expected.argmax(1) == found.targets).double().mean()
    assert found.metrics["accuracy"] == pytest.approx(float(hits))


def test_evaluation_is_in_eval_mode_and_gives_the_mode_back() -> None:
    system = build_system(experiment(), labels="abc")
    system.front_end.fit([system.front_end.transform(tones(6)[0], torch.full((6,), 800))])
    system.train()
    before = {name: value.clone() for name, value in system.state_dict().items()}
    feed = MemoryFeed(*tones(6))
    first = evaluate(system, feed, batch_size=6, device="cpu")
    assert system.training
    assert system.model.training
    second = evaluate(system, feed, batch_size=6, device="cpu")
    assert torch.equal(first.scores, second.scores), "dropout was on"
    after = system.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    system.eval()
    waves, lengths = tones(6)[0], torch.full((6,), 800)
    with torch.no_grad():
        direct = system(waves, lengths).softmax(1)
    torch.testing.assert_close(first.scores, direct)


def test_scores_that_are_not_finite_are_refused() -> None:
    system = build_system(experiment(), labels="abc")
    system.front_end.fit([system.front_end.transform(tones(6)[0], torch.full((6,), 800))])
    waves, targets = tones(6)
    waves[2] = float("nan")
    with pytest.raises(NonFiniteError, match="scores of 1 of 6 clips are not finite"):
        evaluate(system, MemoryFeed(waves, targets), batch_size=6, device="cpu")


def test_a_clip_that_is_left_out_is_our_bug() -> None:
    class _Short(MemoryFeed):
        def windows(self, batch_size: int) -> Iterator[Batch]:
            yield from list(super().windows(batch_size))[:-1]

    system = System(_Frame(), _Loudest(), Classification("ab"))
    with pytest.raises(AssertionError, match="not every clip"):
        evaluate(system, _Short(*tones(4, samples=2)), batch_size=2, device="cpu")
