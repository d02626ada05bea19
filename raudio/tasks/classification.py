"""Single-label classification: one label a clip, out of a fixed list.

Shapes: B clips of a batch, N clips of a split, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raudio.core.errors import DataError, unknown
from raudio.tasks.counts import Counts

#: Clips that `details` names.
MOST_WRONG = 50


class Classification(nn.Module):
    """Cross-entropy training, softmax scores, and metrics over a whole split.

    Args:
        labels: the classes; their order is the order of the scores.
        class_counts: training clips of each label, for `class_weights="balanced"`; None where
            nothing is trained, as in a bundle.
        label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016,
            "Rethinking the Inception architecture", section 7).
        class_weights: "none", or "balanced": class c weighs N / (C * N_c), so that each class has
            the same share in the loss and the mean weight of a training clip is 1.

    Raises:
        DataError: fewer than two labels, or balanced weights with a class that has no clip.
    """

    #: Which way each metric is better; the first is what is optimised when none is named.
    modes: Mapping[str, str] = {"accuracy": "max", "macro_f1": "max", "uar": "max", "loss": "min"}

    def __init__(
        self,
        labels: Sequence[str],
        class_counts: Mapping[str, int] | None = None,
        *,
        label_smoothing: float = 0.0,
        class_weights: str = "none",
    ) -> None:
        super().__init__()
        self.labels = tuple(labels)
        if len(self.labels) < 2:
            raise DataError(
                f"classification needs at least two labels, the dataset has {list(self.labels)}"
            )
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights
        self._index = {label: index for index, label in enumerate(self.labels)}
        weights = None
        if class_weights == "balanced" and class_counts is not None:
            weights = _balanced(self.labels, class_counts)
        # Not in the state: weights belong to the training data, and a bundle has none.
        self.weights: Tensor | None
        self.register_buffer("weights", weights, persistent=False)

    @property
    def n_outputs(self) -> int:
        """Logits that a model gives for a clip: C."""
        return len(self.labels)

    def encode(self, row: Mapping[str, Any]) -> int:
        """The target of a clip, from its label columns.

        Raises:
            DataError: the clip has no label, or one that is not in the list.
        """
        label = row.get("label")
        if label not in self._index:
            clip = row.get("clip_id", "")
            if label is None:
                several = ": its labels are a list, and a classification has one a clip"
                why = several if row.get("labels") is not None else ""
                raise DataError(f"clip {clip!r} has no label{why}")
            raise DataError(f"clip {clip!r}: {unknown('label', str(label), self.labels)}")
        return self._index[label]

    def targets(self, y: Tensor) -> Tensor:
        """One-hot targets (B, C) float32 of class indices (B,), to be mixed and smoothed."""
        return F.one_hot(y, self.n_outputs).float()

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy over the clips, a scalar.

        The mean is over clips, not over weights, so that parts of a batch add up to the whole.

        Args:
            logits: (B, C).
            targets: (B, C), each row a distribution.
        """
        assert self.weights is not None or self.class_weights == "none", "no class counts given"
        return F.cross_entropy(
            logits, targets, weight=self.weights, label_smoothing=self.label_smoothing
        )

    def scores(self, logits: Tensor) -> Tensor:
        """(B, C) probabilities, by softmax, of logits (B, C)."""
        return logits.softmax(dim=-1)

    def confusion(self, scores: Tensor, y: Tensor) -> Tensor:
        """(C, C) clip counts: row is the true class, column the one with the highest score.

        Args:
            scores: (N, C).
            y: (N,) class indices.
        """
        n = self.n_outputs
        return torch.bincount(y * n + scores.argmax(dim=1), minlength=n * n).reshape(n, n)

    def metrics(self, scores: Tensor, y: Tensor) -> dict[str, float]:
        """Metrics of a whole split.

        Accuracy, macro_f1 and uar as `Counts.metrics` has them; loss: mean negative logarithm of
        the true class's score.

        Args:
            scores: (N, C) probabilities.
            y: (N,) class indices.
        """
        counts = Counts.of(self.confusion(scores, y).cpu().numpy())
        chosen = scores.double().gather(1, y[:, None]).clamp_min(torch.finfo(torch.float32).tiny)
        return {
            **{name: float(value) for name, value in counts.metrics().items()},
            "loss": float(-chosen.log().mean()),
        }

    def details(self, scores: Tensor, y: Tensor) -> dict[str, Any]:
        """What the metrics of a whole split leave out, as plain values to be kept with them.

        Args:
            scores: (N, C) probabilities.
            y: (N,) class indices.

        Returns:
            `{"confusion": (C, C) counts as `confusion` has them, "wrong": the most wrong clips}`:
            at most `MOST_WRONG` of those that got another class, the least likely true class
            first, each `{"clip": its position in the split, "true", "predicted": classes,
            "true_score", "score": of the two}`.
        """
        predicted = scores.argmax(dim=1)
        true_scores = scores.gather(1, y[:, None])[:, 0]
        wrong = (predicted != y).nonzero()[:, 0]
        worst = wrong[true_scores[wrong].argsort(stable=True)][:MOST_WRONG]
        return {
            "confusion": self.confusion(scores, y).tolist(),
            "wrong": [
                {
                    "clip": clip,
                    "true": int(y[clip]),
                    "predicted": int(predicted[clip]),
                    "true_score": float(true_scores[clip]),
                    "score": float(scores[clip, predicted[clip]]),
                }
                for clip in worst.tolist()
            ],
        }

    def decode(self, scores: Tensor) -> dict[str, Any]:
        """What is told of one clip, from its scores (C,): label, its score, and every score."""
        values = scores.tolist()
        best = max(range(len(values)), key=values.__getitem__)
        return {
            "label": self.labels[best],
            "score": values[best],
            "scores": dict(zip(self.labels, values, strict=True)),
        }


def _balanced(labels: Sequence[str], counts: Mapping[str, int]) -> Tensor:
    """(C,) weights N / (C * N_c)."""
    missing = [label for label in labels if not counts.get(label)]
    if missing:
        raise DataError(
            f"task.class_weights=balanced: split 'train' has no clip of {missing}; "
            "give such classes clips, or set task.class_weights=none"
        )
    found = torch.tensor([float(counts[label]) for label in labels])
    return found.sum() / (len(labels) * found)
