"""Tasks: against hand-computed values and torchmetrics."""

from __future__ import annotations

import math

import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_recall,
)

from raudio.config import schema
from raudio.core.errors import ConfigError, DataError
from raudio.tasks.build import build_task
from raudio.tasks.classification import Classification

LABELS = ("bee", "cat", "dog")


def test_metrics_by_hand() -> None:
    # Truth 0 0 0 1 1 2, predicted 0 0 1 1 0 2.
    scores = torch.tensor(
        [
            [0.7, 0.2, 0.1],
            [0.5, 0.3, 0.2],
            [0.3, 0.6, 0.1],
            [0.2, 0.7, 0.1],
            [0.8, 0.1, 0.1],
            [0.1, 0.1, 0.8],
        ]
    )
    y = torch.tensor([0, 0, 0, 1, 1, 2])
    task = Classification(LABELS)
    assert task.confusion(scores, y).tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    metrics = task.metrics(scores, y)
    assert metrics["accuracy"] == pytest.approx(4 / 6)
    assert metrics["uar"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert metrics["macro_f1"] == pytest.approx((2 * 2 / 6 + 2 * 1 / 4 + 1) / 3)
    chosen = [0.7, 0.5, 0.3, 0.7, 0.1, 0.8]
    assert metrics["loss"] == pytest.approx(-sum(map(math.log, chosen)) / 6, rel=1e-6)
    assert set(metrics) == set(task.modes)
    details = task.details(scores, y)
    assert details["confusion"] == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    # The clip whose true class is the least likely comes first.
    assert [(w["clip"], w["true"], w["predicted"]) for w in details["wrong"]] == [
        (4, 1, 0),
        (2, 0, 1),
    ]
    assert details["wrong"][0]["true_score"] == pytest.approx(0.1)
    assert details["wrong"][0]["score"] == pytest.approx(0.8)
    assert list(task.modes.items()) == list(schema.Classification.METRICS.items()), "in order"


def test_metrics_as_torchmetrics_has_them() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(200, 5, generator=generator).softmax(1)
    y = torch.randint(0, 5, (200,), generator=generator)
    task = Classification("abcde")
    metrics = task.metrics(scores, y)
    for name, reference in (
        ("accuracy", multiclass_accuracy(scores, y, 5, average="micro")),
        ("macro_f1", multiclass_f1_score(scores, y, 5, average="macro")),
        ("uar", multiclass_recall(scores, y, 5, average="macro")),
    ):
        assert metrics[name] == pytest.approx(float(reference), abs=1e-6), name
    assert torch.equal(task.confusion(scores, y), multiclass_confusion_matrix(scores, y, 5))


def test_a_class_without_clips_does_not_lower_the_recall() -> None:
    scores = torch.eye(3)[[0, 2]]  # predicted 0 and 2, but 2 never occurs
    metrics = Classification(LABELS).metrics(scores, torch.tensor([0, 0]))
    assert metrics["uar"] == 0.5
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)
    assert math.isfinite(metrics["loss"])  # the true class of the second has the score 0


def test_loss_with_smoothing_and_weights_by_hand() -> None:
    task = Classification(
        LABELS, {"bee": 6, "cat": 3, "dog": 1}, label_smoothing=0.3, class_weights="balanced"
    )
    weights = [10 / (3 * 6), 10 / (3 * 3), 10 / (3 * 1)]
    assert task.weights is not None
    assert task.weights.tolist() == pytest.approx(weights)
    assert sum(w * n for w, n in zip(weights, (6, 3, 1), strict=True)) == pytest.approx(10)
    logits = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 3.0]])
    y = torch.tensor([1, 2])
    expected = 0.0
    for row, target in zip(logits.tolist(), y.tolist(), strict=True):
        norm = math.log(sum(math.exp(value) for value in row))
        for index, value in enumerate(row):
            wanted = 0.7 * (index == target) + 0.3 / 3
            expected -= weights[index] * wanted * (value - norm) / 2
    assert float(task.loss(logits, task.targets(y))) == pytest.approx(expected, rel=1e-6)
    assert not task.state_dict(), "the weights belong to the training data, not to the model"


def test_loss_of_parts_adds_up() -> None:
    task = Classification(LABELS, {"bee": 1, "cat": 2, "dog": 9}, class_weights="balanced")
    logits, y = torch.randn(7, 3), torch.tensor([0, 0, 1, 2, 2, 1, 0])
    whole = task.loss(logits, task.targets(y))
    parts = [task.loss(logits[p], task.targets(y[p])) for p in (slice(0, 5), slice(5, 7))]
    torch.testing.assert_close(whole, parts[0] * 5 / 7 + parts[1] * 2 / 7)


def test_encode_and_decode() -> None:
    task = Classification(LABELS)
    assert [task.encode({"label": label}) for label in LABELS] == [0, 1, 2]
    told = task.decode(torch.tensor([0.25, 0.5, 0.25]))
    assert told == {"label": "cat", "score": 0.5, "scores": {"bee": 0.25, "cat": 0.5, "dog": 0.25}}
    with pytest.raises(DataError, match=r"clip 'x7': unknown label 'catt' \(closest: 'cat'\)"):
        task.encode({"clip_id": "x7", "label": "catt"})
    with pytest.raises(DataError, match="has no label"):
        task.encode({"clip_id": "x7"})


def test_refusals() -> None:
    with pytest.raises(DataError, match=r"at least two labels, the dataset has \['a'\]"):
        Classification(["a"])
    with pytest.raises(DataError, match=r"no clip of \['dog'\]"):
        Classification(LABELS, {"bee": 1, "cat": 2, "dog": 0}, class_weights="balanced")


def test_build() -> None:
    task = build_task(schema.Classification(label_smoothing=0.1), labels=LABELS)
    assert (task.label_smoothing, task.n_outputs, task.labels) == (0.1, 3, LABELS)
    settings = schema.Classification(name="clasification")
    with pytest.raises(ConfigError, match="unknown task 'clasification'"):
        build_task(settings, labels=LABELS)
