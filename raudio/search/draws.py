"""Draws from a space at random, without a study: as many as it takes to meet its constraints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from raudio.config.axes import Value
from raudio.search.space import Space

#: Draws that the constraints may refuse in a row before they are to blame.
MOST_DRAWS = 50_000


def draws(
    space: Space, generator: np.random.Generator, given: Mapping[str, Value] | None = None
) -> Iterator[dict[str, Value]]:
    """The draws that meet the constraints, without an end.

    Args:
        space: what is drawn from.
        generator: of all that is random.
        given: settings that each draw has.

    Raises:
        ConfigError: none of so many in a row did.
    """
    trial = _Trial(generator, space.enqueued(given or {}))
    while True:
        never = space.constraints
        for drawn in islice(iter(lambda: space.suggest(trial), None), MOST_DRAWS):
            broken = space.broken(drawn)
            if not broken:
                yield drawn
                break
            never = tuple(each for each in never if each in broken)
        else:
            raise space.nothing_left(never, f"{MOST_DRAWS} draws")


class _Trial:
    """What a space asks for values: each is uniform, as of Optuna's random sampler, or given."""

    def __init__(self, generator: np.random.Generator, given: Mapping[str, Value]) -> None:
        self._generator = generator
        self._given = given

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        if name in self._given:
            return self._given[name]
        return choices[int(self._generator.integers(len(choices)))]

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        if name in self._given:
            return int(self._given[name])
        if log:
            return min(max(round(self._log_uniform(low - 0.5, high + 0.5)), low), high)
        return low + step * int(self._generator.integers((high - low) // step + 1))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if name in self._given:
            return float(self._given[name])
        if step is not None:
            return low + step * int(self._generator.integers(round((high - low) / step) + 1))
        return self._log_uniform(low, high) if log else float(self._generator.uniform(low, high))

    def _log_uniform(self, low: float, high: float) -> float:
        found = math.exp(self._generator.uniform(math.log(low), math.log(high)))
        return min(max(found, low), high)
