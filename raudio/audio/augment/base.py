"""What augmentations get and give, and the two kinds: clip by clip, and clips mixed together.

B clips, T samples, F frames, N features a frame, C classes, K target frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raudio.core import seeding
from raudio.core.errors import ConfigError

#: What an augmentation has drawn: name to one number, or one row of numbers, a clip.
Draw: TypeAlias = Mapping[str, NDArray[np.float64]]

STAGES = ("wave", "spectrogram")


@dataclass(frozen=True)
class Examples:
    """Clips with their targets, all on one device.

    Attributes:
        data: (B, T) waves, or (B, F, N) features; 0 beyond a clip's length.
        lengths: (B,) int64 samples or frames that belong to each clip.
        targets: of the clips, (B, C) or (B,); or (B, K, C) of K frames spread evenly over the T
            samples (F frames), which move with the audio.
    """

    data: Tensor
    lengths: Tensor
    targets: Tensor

    def __len__(self) -> int:
        """B."""
        return len(self.lengths)

    def __getitem__(self, clips: slice | Tensor) -> Examples:
        """The examples of these clips: a slice, or their (b,) positions."""
        return Examples(self.data[clips], self.lengths[clips], self.targets[clips])

    def replaced(self, clips: Tensor, by: Examples) -> Examples:
        """New examples with those at the (b,) positions `clips` replaced."""
        return Examples(
            self.data.index_copy(0, clips, by.data),
            self.lengths.index_copy(0, clips, by.lengths),
            self.targets.index_copy(0, clips, by.targets),
        )


class Augmentation(ABC):
    """One augmentation of clips, taken each by itself.

    A plugin's own is registered as `raudio.register.augmentation(NAME)`, takes its settings as flat
    keyword arguments, `p` among them, and says at which stage it works. An argument `sample_rate`
    without a default is given that of the waves, in Hz.

    Attributes:
        stage: "wave" gets (B, T) samples before the front end, "spectrogram" (B, F, N) features
            after it.
        p: probability that a clip is changed. It is heeded by `chosen` alone: `draw` and `apply`
            see only the clips that are.
        stream: names its draws. The builder sets it to the augmentation's path in the
            configuration, so that two of one kind draw apart.
    """

    stage: ClassVar[str]

    def __init__(self, *, p: float) -> None:
        self.p = p
        self.stream = type(self).__name__

    def __call__(
        self, examples: Examples, keys: NDArray[np.uint64], *, seed: int, epoch: int
    ) -> Examples:
        """The clips with these (B,) keys, a share p of them changed."""
        chosen = np.flatnonzero(self.chosen(keys, seed=seed, epoch=epoch))
        if not chosen.size:
            return examples
        draw = self.draw(keys[chosen], seed=seed, epoch=epoch)
        if chosen.size == len(keys):
            return self.apply(examples, draw)
        clips = torch.as_tensor(chosen, device=examples.data.device)
        return examples.replaced(clips, self.apply(examples[clips], draw))

    def chosen(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> NDArray[np.bool_]:
        """(B,) whether each clip is changed: a share p of them is."""
        chance = seeding.uniforms(keys, 1, seed, self.stream, epoch, "p")[:, 0]
        changed: NDArray[np.bool_] = chance < self.p
        return changed

    def uniforms(
        self, keys: NDArray[np.uint64], count: int, *, seed: int, epoch: int
    ) -> NDArray[np.float64]:
        """(B, count) numbers in [0, 1), of this augmentation's stream: what a draw is made of."""
        return seeding.uniforms(keys, count, seed, self.stream, epoch)

    @abstractmethod
    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        """Everything random, for the clips with these (B,) keys: a function of each key alone."""

    @abstractmethod
    def apply(self, examples: Examples, draw: Draw) -> Examples:
        """New examples of the same shapes, on the same device; the given ones stay as they are.

        Lengths may change. Frame targets (B, K, C) move with the audio.

        Args:
            examples: the clips.
            draw: what `draw` gave for these clips.
        """


class Mixing(ABC):
    """One augmentation that mixes the clips of a batch with each other.

    Attributes:
        stage: "wave" or "spectrogram": what it mixes.
        p: probability that a batch is changed, heeded by `__call__` and `mixes` alone.
        stream: names its draws, as an `Augmentation`'s.
    """

    stage: ClassVar[str]

    def __init__(self, *, p: float) -> None:
        self.p = p
        self.stream = type(self).__name__

    def __call__(self, examples: Examples, *, seed: int, step: int) -> Examples:
        """The batch of optimizer step `step`, with probability p mixed."""
        return self.mixed(examples, seed=seed, step=step) if self.mixes(seed, step) else examples

    def mixes(self, seed: int, step: int) -> bool:
        """Whether the batch of this step is changed."""
        return seeding.generator(seed, self.stream, step, "p").random() < self.p

    def mixed(self, examples: Examples, *, seed: int, step: int) -> Examples:
        """The batch of this step, mixed."""
        generator = seeding.generator(seed, self.stream, step)
        return self.apply(examples, self.draw(len(examples), generator))

    @abstractmethod
    def draw(self, clips: int, generator: np.random.Generator) -> Draw:
        """Everything random, for a batch of `clips` clips."""

    @abstractmethod
    def apply(self, examples: Examples, draw: Draw) -> Examples:
        """New examples of the same shapes, on the same device; the given ones stay as they are.

        Args:
            examples: the clips.
            draw: what `draw` gave for this batch.
        """


def column(values: NDArray[np.float64], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """(B,) drawn numbers as a (B, 1) tensor on the device of `like`, in its type or `dtype`."""
    return torch.as_tensor(values, dtype=dtype or like.dtype, device=like.device)[:, None]


def between(u: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Numbers in [0, 1) spread over [low, high)."""
    return low + u * (high - low)


def check_range(name: str, what: str, low: float, high: float) -> None:
    """Refuses settings `min_WHAT` above `max_WHAT` of the augmentation `name`.

    Raises:
        ConfigError: `low` is above `high`.
    """
    if low > high:
        raise ConfigError(
            f"{name}: min_{what}={low:g} is above max_{what}={high:g}; "
            "lower the one or raise the other"
        )


def fft_size(samples: int) -> int:
    """The smallest length of a fast transform, 1, 3 or 5 times a power of two, that holds them."""
    return min(factor << (-(-samples // factor) - 1).bit_length() for factor in (1, 3, 5))


def moved_targets(
    examples: Examples, lengths: Tensor, source: Callable[[Tensor], Tensor]
) -> Tensor:
    """Frame targets after the audio has moved; targets of whole clips stay as they are.

    A target frame becomes what is at its centre now; beyond the clip, or from there, it is 0.

    Args:
        examples: before.
        lengths: (B,) samples (frames) that the clips have now.
        source: from (1, K) float64 positions in time, in samples (frames), to the (B, K) or (1, K)
            positions where what is there now was before.
    """
    targets, size = examples.targets, examples.data.shape[1]
    if targets.ndim != 3:
        return targets
    clips, frames, classes = targets.shape
    centres = torch.arange(frames, dtype=torch.float64, device=targets.device) + 0.5
    now = centres[None] * (size / frames)
    before = source(now).expand(clips, frames)
    inside = (before >= 0) & (before < examples.lengths[:, None]) & (now < lengths[:, None])
    frame = (before * (frames / size)).long().clamp_(0, frames - 1)
    return targets.gather(1, frame[:, :, None].expand(-1, -1, classes)) * inside[:, :, None]
