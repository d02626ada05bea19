"""The steps of `augment.chain` as augmentations: what nests becomes gates, the leaves a list.

Every clip passes the list in its order. What stands before a leaf (its own p, that of the
sequences and choices around it, and which member each choice takes) is drawn by (seed, epoch, clip)
under the path of each, so it does not matter where or how often it is asked: the members of one
choice may work at different stages, on waves and on spectrograms, and still exclude each other.

B clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from raudio.audio.augment.base import Augmentation, Draw, Examples, Mixing
from raudio.core import seeding
from raudio.core.errors import ConfigError

#: (kind, its arguments, stream) -> the augmentation.
Build: TypeAlias = Callable[..., Augmentation | Mixing]


@dataclass(frozen=True)
class Gate:
    """Lets a clip through when the number drawn for it is in [low, high).

    Attributes:
        stream: of the step that draws: its path in the configuration.
        what: tells the draws of one step apart.
        low, high: from 0 to 1.
    """

    stream: str
    what: str
    low: float
    high: float

    def open(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> NDArray[np.bool_]:
        """(B,) whether each of the clips with these keys is let through."""
        u = seeding.uniforms(keys, 1, seed, self.stream, epoch, self.what)[:, 0]
        passed: NDArray[np.bool_] = (self.low <= u) & (u < self.high)
        return passed


class Gated(Augmentation):
    """An augmentation of the clips that every gate before it lets through.

    Args:
        inner: the augmentation, with its own p.
        gates: of the sequences and choices that it is part of.
    """

    def __init__(self, inner: Augmentation, gates: Sequence[Gate]) -> None:
        super().__init__(p=inner.p)
        self.stage = inner.stage  # type: ignore[misc]
        self.stream = inner.stream
        self._inner = inner
        self._gates = tuple(gates)

    def chosen(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> NDArray[np.bool_]:
        passed = super().chosen(keys, seed=seed, epoch=epoch)
        for gate in self._gates:
            passed &= gate.open(keys, seed=seed, epoch=epoch)
        return passed

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        return self._inner.draw(keys, seed=seed, epoch=epoch)

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        return self._inner.apply(examples, draw)


def leaves(
    steps: Mapping[str, Any], build: Build, where: str = "chain", gates: Sequence[Gate] = ()
) -> Iterator[Augmentation | Mixing]:
    """The augmentations of a chain, in its order, without those that are off.

    Args:
        steps: name -> step, checked.
        build: makes an augmentation of a kind, its arguments and its stream.
        where: the path of `steps`.
        gates: what stands before all of them.

    Raises:
        ConfigError: a batch's clips would be mixed with each other inside a sequence or a choice,
            which are drawn for each clip by itself; or as `build`.
    """
    for name, step in steps.items():
        path = f"{where}.{name}"
        if step["p"] <= 0 or step.get("weight", 1.0) <= 0:
            continue
        if step["kind"] in ("choice", "sequence"):
            own = [*gates, Gate(path, "p", 0.0, step["p"])]
            for member, more in _members(step, path):
                yield from leaves(member, build, f"{path}.of", [*own, *more])
            continue
        arguments = {key: value for key, value in step.items() if key not in ("kind", "weight")}
        each = build(step["kind"], arguments, stream=path)
        if not gates:
            yield each
        elif isinstance(each, Mixing):
            raise ConfigError(
                f"augment.{path}: {step['kind']} mixes the clips of a batch with each other, and a "
                "choice or sequence is drawn for each clip; make it a step of augment.chain itself"
            )
        else:
            yield Gated(each, gates)


def _members(step: Mapping[str, Any], path: str) -> Iterator[tuple[dict[str, Any], list[Gate]]]:
    """The steps inside a choice or a sequence, with the gates that it puts before them."""
    if step["kind"] == "sequence":
        yield dict(step["of"]), []
        return
    sums = [0.0, *accumulate(member["weight"] for member in step["of"].values())]
    shares = [total / sums[-1] for total in sums]
    for (name, member), low, high in zip(step["of"].items(), shares, shares[1:], strict=False):
        yield {name: member}, [Gate(path, "choice", low, high)]
