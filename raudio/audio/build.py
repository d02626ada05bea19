"""From settings to front ends and augmentations: the one place of this package that reads them.

B clips, T samples, F frames, N features a frame, C classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from raudio.audio.augment import Augmentation, Mixup
from raudio.config.schema import Augment
from raudio.core.components import AUGMENTATIONS, FRONT_ENDS
from raudio.core.errors import ConfigError

_STAGES = ("wave", "spectrogram", "mix")


def build_front_end(settings: Any, sample_rate: int) -> nn.Module:
    """The front end that `settings`, one of the schema's variants of `features`, describes.

    Args:
        settings: its field `name` is looked up in the registry, the others are its arguments.
        sample_rate: of the waves it will get, in Hz.

    Raises:
        ConfigError: settings that can't work at this sample rate.
    """
    arguments = dataclasses.asdict(settings)
    build = FRONT_ENDS.get(arguments.pop("name"))
    return cast(nn.Module, build(sample_rate=sample_rate, **arguments))


class Augmenter:
    """All augmentations of an experiment, in the order of the schema, each at its stage.

    Each method returns its input untouched when nothing is set for its stage.

    Args:
        augmentations: of any stage; those whose p is 0 are dropped.
        seed: of everything that they draw.
    """

    def __init__(self, augmentations: Sequence[Augmentation | Mixup], *, seed: int) -> None:
        self._seed = seed
        active = [each for each in augmentations if each.p > 0]
        self._wave = [each for each in active if _is_stage(each, "wave")]
        self._spectrogram = [each for each in active if _is_stage(each, "spectrogram")]
        self._mix = [cast(Mixup, each) for each in active if each.stage == "mix"]

    def wave(self, waves: Tensor, lengths: Tensor, keys: NDArray[np.uint64], epoch: int) -> Tensor:
        """(B, T) waves with (B,) lengths in samples, of the clips with (B,) keys, augmented."""
        return self._apply(self._wave, waves, lengths, keys, epoch)

    def spectrogram(
        self, features: Tensor, frame_lengths: Tensor, keys: NDArray[np.uint64], epoch: int
    ) -> Tensor:
        """(B, F, N) features with (B,) lengths in frames, of clips with (B,) keys, augmented."""
        return self._apply(self._spectrogram, features, frame_lengths, keys, epoch)

    def mix(
        self, waves: Tensor, lengths: Tensor, targets: Tensor, step: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T) waves, (B,) lengths and (B, C) float targets, each clip mixed with another."""
        for each in self._mix:
            drawn = each.draw(len(waves), seed=self._seed, step=step)
            waves, lengths, targets = each.apply(waves, lengths, targets, drawn)
        return waves, lengths, targets

    def _apply(
        self,
        augmentations: Sequence[Augmentation],
        batch: Tensor,
        lengths: Tensor,
        keys: NDArray[np.uint64],
        epoch: int,
    ) -> Tensor:
        for each in augmentations:
            batch = each.apply(batch, lengths, each.draw(keys, seed=self._seed, epoch=epoch))
        return batch


def build_augmenter(augment: Augment, seed: int) -> Augmenter:
    """The augmentations that are switched on in `augment`.

    Every field of `augment`, a plugin's too, names an entry of the registry and holds its
    arguments.

    Raises:
        ConfigError: settings that contradict each other, or a plugin of an unknown stage.
    """
    built = []
    for field in dataclasses.fields(augment):
        settings = getattr(augment, field.name)
        each = AUGMENTATIONS.get(field.name)(**dataclasses.asdict(settings))
        if getattr(each, "stage", None) not in _STAGES:
            raise ConfigError(
                f"augmentation {field.name!r}: its class attribute stage is "
                f"{getattr(each, 'stage', None)!r}; it has to be one of {', '.join(_STAGES)}"
            )
        built.append(each)
    return Augmenter(built, seed=seed)


def _is_stage(each: Augmentation | Mixup, stage: str) -> TypeGuard[Augmentation]:
    return each.stage == stage
