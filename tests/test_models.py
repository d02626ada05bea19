"""Models: sizes against closed forms, padding invariance, gradients, poolings by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raudio.config import schema
from raudio.core.errors import ConfigError
from raudio.models.build import build_model
from raudio.models.cnn import CNN, CNN10
from raudio.models.compose import Composed
from raudio.models.crnn import CRNN
from raudio.models.pooling import POOLINGS, AttentionPooling, make_pooling

# B clips, F frames, N features, C outputs
LENGTHS = torch.tensor([101, 57, 16, 33, 3, 2, 1])

SMALL: list[Any] = [
    schema.CNN(width=4, depth=4),
    schema.CNN(width=4, depth=6, pooling="attention"),
    schema.CNN10(width=4),
    schema.CNN10(width=4, pooling="mean"),
    schema.CRNN(width=4, rnn_units=8, rnn_layers=2),
    schema.CRNN(width=4, depth=1, rnn_units=8, pooling="max"),
]
IDS = [f"{each.name}-{each.pooling}" for each in SMALL]


def features(lengths: Tensor = LENGTHS, n_features: int = 40) -> Tensor:
    """(B, F, N) noise, with what is beyond a clip's length far from 0."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(len(lengths), int(lengths.max()), n_features, generator=generator)
    for clip, length in zip(values, lengths.tolist(), strict=True):
        clip[length:] = 9.0
    return values


def make(settings: Any, n_features: int = 40) -> nn.Module:
    """A model whose batch normalisation has seen data, so that zeros don't stay zeros in it."""
    torch.manual_seed(0)
    model = build_model(settings, n_features=n_features, n_outputs=5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        for _ in range(3):
            model(features(n_features=n_features) + 0.5, LENGTHS)
    return model.eval()


@pytest.mark.parametrize("settings", SMALL, ids=IDS)
@torch.no_grad()
def test_padding_changes_nothing(settings: Any) -> None:
    model = make(settings)
    values = features()
    logits = model(values, LENGTHS)
    assert logits.shape == (7, 5)
    assert logits.isfinite().all()
    for clip, length in enumerate(LENGTHS.tolist()):
        alone = model(values[clip : clip + 1, :length], LENGTHS[clip : clip + 1])
        torch.testing.assert_close(alone[0], logits[clip], atol=1e-5, rtol=1e-4)
    # A longer batch, and one without a full clip.
    longer = torch.cat([values, torch.full((7, 30, 40), -5.0)], 1)
    torch.testing.assert_close(model(longer, LENGTHS), logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", SMALL, ids=IDS)
@torch.no_grad()
def test_the_last_frames_of_a_long_clip_and_every_band_matter(settings: Any) -> None:
    model = make(settings)
    values = features(torch.tensor([64]))
    logits = model(values, torch.tensor([64]))
    ends = [(slice(0, 2), slice(None)), (slice(62, 64), slice(None))]
    bands = [(slice(None), slice(0, 2)), (slice(None), slice(38, 40))]
    for frames, band in ends + bands:
        changed = values.clone()
        changed[0, frames, band] += 3
        assert not torch.allclose(model(changed, torch.tensor([64])), logits, atol=1e-6)


@pytest.mark.parametrize("settings", SMALL, ids=IDS)
def test_gradients_reach_every_weight(settings: Any) -> None:
    model = make(settings).train()
    model(features(), LENGTHS).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or name == "pooling.score.bias", name  # softmax ignores it
        assert parameter.is_contiguous(), name  # as safetensors asks


@pytest.mark.parametrize("n_features", [8, 13, 64, 256])
@pytest.mark.parametrize("settings", [schema.CNN(width=2, depth=6), schema.CNN10(width=2), schema.CRNN(width=2, depth=6, rnn_units=4)], ids=["cnn", "cnn10", "crnn"])  # fmt: skip  # noqa: E501
def test_any_number_of_features(settings: Any, n_features: int) -> None:
    model = make(settings, n_features)
    assert model(features(n_features=n_features), LENGTHS).shape == (7, 5)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_cnn10_has_the_papers_size() -> None:
    # PANNs' table: 5,219,279 with 527 classes, 128 of them in the normalisation of 64 mel bands.
    assert count(CNN10(n_features=64, n_outputs=527, width=64)) == 5_219_279 - 128
    for width, n_outputs in ((8, 10), (32, 3)):
        channels = [1, width, 2 * width, 4 * width, 8 * width]
        blocks = sum(9 * (a * b + b * b) + 4 * b for a, b in pairwise(channels))
        size = channels[-1]
        linear = size * size + size + size * n_outputs + n_outputs
        assert count(CNN10(n_features=40, n_outputs=n_outputs, width=width)) == blocks + linear


def test_cnn_and_crnn_have_the_sizes_of_their_layers() -> None:
    # 40 features, halved with rounding up: 20, 10, 5, 3, 2, 1. Channels stop doubling at 16 times.
    channels = [1, 4, 8, 16, 32, 64, 64]
    convolutions = [9 * a * b + 2 * b for a, b in pairwise(channels)]
    for depth, bands in ((1, 20), (4, 3), (6, 1)):
        head = channels[depth] * bands * 5 + 5
        model = CNN(n_features=40, n_outputs=5, width=4, depth=depth)
        assert count(model) == sum(convolutions[:depth]) + head
    inputs, units = 16 * 5, 8
    gru = 2 * 3 * (units * inputs + units * units + 2 * units)
    model = CRNN(n_features=40, n_outputs=5, width=4, depth=3, rnn_units=units)
    assert count(model) == sum(convolutions[:3]) + gru + 2 * units * 5 + 5


def test_frames_that_encoders_give() -> None:
    lengths = torch.tensor([101, 50])
    for model, expected in (
        (CNN(n_features=40, n_outputs=5, width=2, depth=4), [7, 4]),
        (CNN10(n_features=40, n_outputs=5, width=2), [6, 3]),
        (CRNN(n_features=40, n_outputs=5, width=2, rnn_units=4), [26, 13]),
    ):
        frames, got = model.encoder(features(lengths), lengths)
        assert got.tolist() == expected
        assert frames.shape[:2] == (2, expected[0])
        assert model.embed(features(lengths), lengths).shape == (2, frames.shape[2])


def test_the_recurrent_network_reads_both_ways() -> None:
    model = make(schema.CRNN(width=4, rnn_units=8))
    assert isinstance(model, Composed)
    values = features(torch.tensor([80, 60]))
    lengths = torch.tensor([80, 60])
    with torch.no_grad():
        before, _ = model.encoder(values, lengths)
        values[1, 56:60] += 3  # the end of the shorter clip
        after, _ = model.encoder(values, lengths)
    assert not torch.allclose(after[1, 0], before[1, 0], atol=1e-7)
    assert torch.equal(after[0], before[0])


def test_poolings_by_hand() -> None:
    frames = torch.tensor([[[1.0, -4], [3, -2], [5, -6]], [[2.0, -1], [4, -3], [99, 99]]])
    lengths = torch.tensor([3, 2])
    expected = {
        "mean": [[3, -4], [3, -2]],
        "max": [[5, -2], [4, -1]],
        "mean_max": [[8, -6], [7, -3]],
        "attention": [[3, -4], [3, -2]],  # starts as the mean
    }
    assert set(expected) == set(POOLINGS)
    for name, vectors in expected.items():
        pooled = make_pooling(name, 2)(frames, lengths)
        torch.testing.assert_close(pooled, torch.tensor(vectors, dtype=torch.float32))


def test_attention_weighs_by_its_scores() -> None:
    attention = AttentionPooling(2)
    with torch.no_grad():
        attention.score.weight.copy_(torch.tensor([[1.0, 0.0]]))
    frames = torch.tensor([[[0.0, 1], [torch.log(torch.tensor(3.0)).item(), 2], [50, 7]]])
    lengths = torch.tensor([2])
    weights = attention.weights(frames, lengths)
    torch.testing.assert_close(weights, torch.tensor([[0.25, 0.75, 0.0]]))
    torch.testing.assert_close(attention(frames, lengths)[0, 1], torch.tensor(1.75))
    many = torch.randn(7, 101, 2)
    torch.testing.assert_close(attention.weights(many, LENGTHS).sum(1), torch.ones(7))


def test_an_unknown_pooling_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"model\.pooling: unknown pooling 'men' \(closest: 'mean'"
    ):
        make_pooling("men", 4)


@pytest.mark.parametrize("settings", [schema.CNN(), schema.CNN10(), schema.CRNN()])
def test_the_schemas_fields_and_defaults_are_the_constructors(settings: Any) -> None:
    model = build_model(settings, n_features=64, n_outputs=10)
    plain = {"cnn": CNN, "cnn10": CNN10, "crnn": CRNN}[settings.name](n_features=64, n_outputs=10)
    assert type(model) is type(plain)
    assert str(model) == str(plain)
