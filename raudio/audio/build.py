"""From settings to front ends and augmentations: the one place of this package that reads them.

B clips, T samples, F frames, N features a frame, C classes.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from raudio.audio.adapters import build_adapter
from raudio.audio.augment.base import STAGES, Augmentation, Examples, Mixing
from raudio.audio.chain import leaves
from raudio.config.adapters import is_adapter
from raudio.config.schema import Augment
from raudio.core.components import AUGMENTATIONS, FRONT_ENDS
from raudio.core.errors import ConfigError


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


#: Calls a function with all clips of a batch, of which it is given a part: that part of the result.
Whole: TypeAlias = Callable[[Callable[[Examples], Examples], Examples], Examples]


def _as_it_is(function: Callable[[Examples], Examples], examples: Examples) -> Examples:
    return function(examples)


class Augmenter:
    """All augmentations of an experiment, in the order of the schema, each at its stage.

    Runs wherever its clips are: it needs no trial, and what a clip gets does not depend on the
    clips beside it (but for mixing). Each method returns its very input when nothing is set for its
    stage.

    Args:
        augmentations: of any stage.
        seed: of everything that they draw.
    """

    def __init__(self, augmentations: Sequence[Augmentation | Mixing], *, seed: int) -> None:
        self._seed = seed
        self._each: dict[str, list[Augmentation]] = {stage: [] for stage in STAGES}
        self._mixing: dict[str, list[Mixing]] = {stage: [] for stage in STAGES}
        for each in augmentations:
            if isinstance(each, Mixing):
                self._mixing[each.stage].append(each)
            else:
                self._each[each.stage].append(each)

    @property
    def augments_waves(self) -> bool:
        """Whether `wave` changes any clip."""
        return bool(self._each["wave"])

    @property
    def changes_waves(self) -> bool:
        """Whether anything is done before the front end."""
        return bool(self._each["wave"] or self._mixing["wave"])

    @property
    def mixes(self) -> bool:
        """Whether clips are mixed with each other."""
        return any(self._mixing.values())

    def wave(self, examples: Examples, keys: NDArray[np.uint64], epoch: int) -> Examples:
        """Waves (B, T) of the clips with (B,) keys, each augmented by itself."""
        return self._clips("wave", examples, keys, epoch)

    def mix(self, examples: Examples, step: int, whole: Whole = _as_it_is) -> Examples:
        """Waves (B, T) with float targets, the clips of a batch mixed with each other.

        Args:
            examples: the batch, or a rank's part of it.
            step: optimizer step.
            whole: calls a function with the whole batch, and gives back what becomes of this part.
        """
        return self._mix("wave", examples, step, whole)

    def spectrogram(
        self,
        examples: Examples,
        keys: NDArray[np.uint64],
        epoch: int,
        step: int,
        whole: Whole = _as_it_is,
    ) -> Examples:
        """Features (B, F, N) of the clips with (B,) keys: each by itself, then mixed as `mix`."""
        examples = self._clips("spectrogram", examples, keys, epoch)
        return self._mix("spectrogram", examples, step, whole)

    def _clips(
        self, stage: str, examples: Examples, keys: NDArray[np.uint64], epoch: int
    ) -> Examples:
        for each in self._each[stage]:
            examples = each(examples, keys, seed=self._seed, epoch=epoch)
        return examples

    def _mix(self, stage: str, examples: Examples, step: int, whole: Whole) -> Examples:
        mixing = [each for each in self._mixing[stage] if each.mixes(self._seed, step)]

        def mixed(examples: Examples) -> Examples:
            for each in mixing:
                examples = each.mixed(examples, seed=self._seed, step=step)
            return examples

        return whole(mixed, examples) if mixing else examples


def build_augmenter(augment: Augment, *, sample_rate: int, seed: int) -> Augmenter:
    """The augmentations that are switched on in `augment`: those whose p is above 0.

    Every field of `augment` that holds settings, a plugin's too, names an entry of the registry and
    holds its arguments. The steps of `chain` come after them, in its order.

    Args:
        augment: the settings.
        sample_rate: of the waves it will get, in Hz.
        seed: of everything drawn.

    Raises:
        ConfigError: settings that contradict each other, or a plugin of an unknown stage.
    """
    build = functools.partial(build_augmentation, sample_rate=sample_rate)
    flat = [
        build(name, dataclasses.asdict(settings), stream=name)
        for name, settings in vars(augment).items()
        if name not in ("where", "chain") and settings.p > 0
    ]
    return Augmenter([*flat, *leaves(augment.chain, build)], seed=seed)


def build_augmentation(
    name: str, arguments: Mapping[str, Any], sample_rate: int, *, stream: str
) -> Augmentation | Mixing:
    """One augmentation.

    Args:
        name: its name in the registry, or `PACKAGE.CLASS` of an adapter's catalogue.
        arguments: its keyword arguments, but for `sample_rate`.
        sample_rate: of the waves, in Hz, for those that ask for it.
        stream: its path in the configuration, which names its draws.

    Raises:
        ConfigError: settings that contradict each other, or a plugin that is no augmentation.
    """
    if is_adapter(name):
        adapter = build_adapter(name, arguments, sample_rate)
        adapter.stream = stream
        return adapter
    component = AUGMENTATIONS.get(name)
    given = dict(arguments)
    if "sample_rate" in inspect.signature(component).parameters:
        given["sample_rate"] = sample_rate
    each = component(**given)
    if not isinstance(each, (Augmentation, Mixing)):
        raise ConfigError(
            f"augmentation {name!r} is a {type(each).__name__}; derive it from "
            "raudio.audio.augment.Augmentation or Mixing"
        )
    if getattr(each, "stage", None) not in STAGES:
        raise ConfigError(
            f"augmentation {name!r}: its class attribute stage is "
            f"{getattr(each, 'stage', None)!r}; it has to be one of {', '.join(STAGES)}"
        )
    each.stream = stream
    return each
