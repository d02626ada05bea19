"""The system: front end, model and task, the one path from waveform to prediction.

Training, evaluation and the exported bundle all go through it.

Shapes: B clips (or windows) of a batch, T samples, F frames, N features, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from raudio.audio.build import build_front_end
from raudio.config.schema import Experiment
from raudio.core import seeding
from raudio.core.errors import ConfigError
from raudio.models.build import build_model
from raudio.models.compose import Composed
from raudio.tasks.build import build_task

if TYPE_CHECKING:
    from raudio.data.feeds import Feed


class System(nn.Module):
    """A front end, a model and a task.

    Args:
        front_end: waveform to features; computes in float32.
        model: features to logits.
        task: what the logits mean, and how good they are.
    """

    def __init__(self, front_end: nn.Module, model: nn.Module, task: Any) -> None:
        super().__init__()
        self.front_end: Any = front_end
        self.model = model
        self.task = task

    def forward(self, waves: Tensor, lengths: Tensor) -> Tensor:
        """Logits (B, C) of padded waveforms.

        Args:
            waves: (B, T) float32.
            lengths: (B,) int64, valid samples of each.
        """
        logits: Tensor = self.model(*self.features(waves, lengths))
        return logits

    def features(
        self, inputs: Tensor, lengths: Tensor, transformed: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Features (B, F, N) and their (B,) lengths in frames.

        Args:
            inputs: (B, T) waves; where `transformed`, what the front end's `transform` gave.
            lengths: (B,) int64 samples (frames).
            transformed: whether the first half of the front end is done.
        """
        if transformed:
            return self.front_end.standardise(inputs, lengths), lengths
        features, frames = self.front_end(inputs, lengths)
        return features, frames

    @torch.no_grad()
    def scores(self, inputs: Tensor, lengths: Tensor, transformed: bool = False) -> Tensor:
        """Scores (B, C) of windows, in full float32; arguments as `features`.

        The mode is the caller's: a bundle's system is in evaluation mode already.
        """
        with _without_tf32():
            logits = self.model(*self.features(inputs, lengths, transformed))
            scores: Tensor = self.task.scores(logits)
        return scores

    @torch.no_grad()
    def embed(self, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What the model's head is given, a vector (B, D) a window, and the scores (B, C) that the
        head makes of it, in full float32; arguments as `forward`.

        Raises:
            ConfigError: the model is not made of an encoder and a head.
        """
        if not isinstance(self.model, Composed):
            raise ConfigError(
                f"the model is a {type(self.model).__name__} and gives no embeddings; make it a "
                "raudio.models.compose.Composed, of an encoder, a pooling and a head"
            )
        with _without_tf32():
            vectors = self.model.embed(*self.features(waves, lengths))
            scores: Tensor = self.task.scores(self.model.head(vectors))
        return vectors, scores

    @torch.no_grad()
    def score(
        self, feed: Feed, batch_size: int, device: torch.device | str
    ) -> tuple[Tensor, Tensor]:
        """Scores of every clip that `feed.windows` gives: the mean over the clip's windows.

        In evaluation mode and in full float32, whatever precision trained the model. The mode is
        given back as it was.

        Args:
            feed: of the split; under distributed training, with this rank's clips.
            batch_size: windows computed at once.
            device: where the system is.

        Returns:
            (n, C) float32 scores and (n,) int64 positions of their clips in the split, ascending,
            both on the CPU.
        """
        training = self.training
        self.eval()
        try:
            return score_windows(self.scores, self.task.n_outputs, feed, batch_size, device)
        finally:
            self.train(training)


def _without_tf32() -> AbstractContextManager[None]:
    """Convolutions in full float32 on a GPU too; cuDNN would round their inputs to 10 bits."""
    cudnn = torch.backends.cudnn
    return cudnn.flags(  # type: ignore[no-any-return, no-untyped-call]
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=False,
    )


def score_windows(
    scores: Callable[[Tensor, Tensor, bool], Tensor],
    n_outputs: int,
    feed: Feed,
    batch_size: int,
    device: torch.device | str,
) -> tuple[Tensor, Tensor]:
    """What `System.score` gives, of whatever scores a batch as `System.scores` does.

    Args:
        scores: of (B, ...) inputs with (B,) lengths, transformed or not: (B, C).
        n_outputs: C.
        feed, batch_size, device: as `System.score`.
    """
    found, clips = [], []
    for batch in feed.windows(batch_size):
        inputs, lengths = batch.inputs.to(device), batch.lengths.to(device)
        found.append(scores(inputs, lengths, batch.transformed).cpu())
        clips.append(torch.as_tensor(batch.clips))
    if not found:
        return torch.empty(0, n_outputs), torch.empty(0, dtype=torch.int64)
    return average_windows(torch.cat(found), torch.cat(clips))


def average_windows(scores: Tensor, clips: Tensor) -> tuple[Tensor, Tensor]:
    """The mean scores of each clip over its windows, summed in float64.

    Args:
        scores: (W, C), of windows in any order.
        clips: (W,) int64, the clip of each.

    Returns:
        (n, C) scores and the (n,) clips, ascending.
    """
    found, place, windows = torch.unique(clips, return_inverse=True, return_counts=True)
    total = torch.zeros(len(found), scores.shape[1], dtype=torch.float64)
    total.index_add_(0, place, scores.double())
    return (total / windows[:, None]).float(), found


def build_system(
    experiment: Experiment,
    *,
    labels: Sequence[str],
    class_counts: Mapping[str, int] | None = None,
) -> System:
    """The system that a resolved experiment describes, on the CPU.

    Its weights are a function of `experiment.seed`; PyTorch's own random state is left alone.

    Args:
        experiment: with `dataset.sample_rate` decided.
        labels: the dataset's labels, in the order of the scores.
        class_counts: training clips of each label, where it is to be trained.

    Raises:
        ConfigError: a component is unknown, or its settings don't fit the others'.
        DataError: the labels don't fit the task.
    """
    assert experiment.dataset.sample_rate is not None, "the experiment is not resolved"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seeding.key(experiment.seed, "weights"))
        task = build_task(experiment.task, labels=labels, class_counts=class_counts)
        front_end: Any = build_front_end(experiment.features, experiment.dataset.sample_rate)
        model = build_model(
            experiment.model, n_features=front_end.n_features, n_outputs=task.n_outputs
        )
    return System(front_end, model, task)
