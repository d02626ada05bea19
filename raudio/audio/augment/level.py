"""Augmentations of level and sign: gain, polarity, clipping.

B clips, T samples.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from raudio.audio.augment.base import Augmentation, Draw, Examples, between, column
from raudio.core.units import Decibels


class Gain(Augmentation):
    """The level changed by a number of decibels drawn from [-max_db, max_db].

    Args:
        p: probability a clip.
        max_db: largest change, in dB.
    """

    stage = "wave"

    def __init__(self, *, p: float = 0.0, max_db: Decibels = 6.0) -> None:
        super().__init__(p=p)
        self.max_db = max_db

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        u = self.uniforms(keys, 1, seed=seed, epoch=epoch)[:, 0]
        return {"db": between(u, -self.max_db, self.max_db)}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        waves = examples.data
        return replace(examples, data=waves * column(10.0 ** (draw["db"] / 20), waves))


class Polarity(Augmentation):
    """The sign turned, which no ear hears and a network may."""

    stage = "wave"

    def __init__(self, *, p: float = 0.0) -> None:
        super().__init__(p=p)

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        return {}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        return replace(examples, data=-examples.data)


class Clipping(Augmentation):
    """Samples cut off at a level below the clip's peak, as an overdriven input does.

    Args:
        p: probability a clip.
        max_db: the level is drawn from 0 to so many dB below the peak.
    """

    stage = "wave"

    def __init__(self, *, p: float = 0.0, max_db: Decibels = 12.0) -> None:
        super().__init__(p=p)
        self.max_db = max_db

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        return {"db": self.max_db * self.uniforms(keys, 1, seed=seed, epoch=epoch)[:, 0]}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        waves = examples.data
        level = waves.abs().amax(1, keepdim=True) * column(10.0 ** (-draw["db"] / 20), waves)
        return replace(examples, data=waves.clamp(-level, level))
