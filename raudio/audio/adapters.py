"""Augmentations of audiomentations and torch-audiomentations as steps of `augment.chain`.

The libraries draw from the global generators of Python, NumPy and PyTorch. So each clip is given to
them by itself, with these generators seeded by (seed, epoch, clip, path) and put back afterwards:
what a clip gets does not depend on the clips beside it. That is slower than raudio's own, which
work on whole batches.

B clips, T samples.
"""

from __future__ import annotations

import inspect
import random
import sys
import typing
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raudio.audio.augment.base import Augmentation, Draw, Examples
from raudio.config import adapters
from raudio.core import extras
from raudio.core.errors import ConfigError

#: What moves the audio in time, which frame targets would have to follow.
_MOVES = (
    "AdjustDuration",
    "Padding",
    "RepeatPart",
    "Reverse",
    "Shift",
    "SpliceOut",
    "TimeInversion",
    "TimeStretch",
    "Trim",
)


class Adapter(Augmentation):
    """A library's augmentation of waves, clip by clip.

    Lengths are kept: what it makes longer is cut, what it makes shorter is filled with zeros.
    Targets of whole clips stay; one that moves the audio in time is refused with frame targets.

    Args:
        kind: `PACKAGE.CLASS` of a catalogue.
        p: probability a clip; the library's own is 1.
        sample_rate: of the waves, in Hz.
        arguments: of the class.

    Raises:
        ConfigError: the library is not installed, has no such class, or refuses the arguments;
            in `apply`, it refuses a clip.
    """

    stage = "wave"

    def __init__(self, kind: str, *, p: float, sample_rate: int, **arguments: Any) -> None:
        super().__init__(p=p)
        self.kind = kind
        self.sample_rate = sample_rate
        component = adapters.component(kind)
        try:
            self.transform: Any = component(p=1.0, **self._given(component, arguments))
        except Exception as error:  # whatever a library raises for arguments that it does not take
            said = str(error) or f"{type(error).__name__}: it refuses {arguments}"
            raise ConfigError(f"{kind}: {said}") from error

    def _given(self, component: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the class takes them: what may be float or int is int where whole."""
        parameters = inspect.signature(component, eval_str=True).parameters
        either = {name for name, p in parameters.items() if int in typing.get_args(p.annotation)}
        return {
            name: int(value)
            if name in either and isinstance(value, float) and value.is_integer()
            else value
            for name, value in arguments.items()
        }

    def _changed(self, wave: Tensor) -> Tensor:
        try:
            return self.changed(wave.clone())
        except Exception as error:  # as above: not all of them take every clip
            raise ConfigError(
                f"augment.{self.stream}: {self.kind} fails on a clip of {len(wave)} samples at "
                f"{self.sample_rate} Hz: {type(error).__name__}: {error}"
            ) from error

    @abstractmethod
    def changed(self, wave: Tensor) -> Tensor:
        """One clip of (T,) samples after the transform, of any length."""

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        # NumPy's global generator takes 32 bits.
        return {"seed": np.floor(self.uniforms(keys, 1, seed=seed, epoch=epoch)[:, 0] * 2.0**32)}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        if examples.targets.ndim == 3 and self.kind.partition(".")[2] in _MOVES:
            raise ConfigError(
                f"augment.{self.stream}: {self.kind} moves the audio in time and not its events; "
                "take one of raudio's own, such as shift"
            )
        waves = torch.zeros_like(examples.data)
        lengths = examples.lengths.tolist()
        for clip, (length, seed) in enumerate(zip(lengths, draw["seed"], strict=True)):
            if length:
                with _seeded(int(seed), waves.device):
                    wave = self._changed(examples.data[clip, :length])[:length]
                waves[clip, : len(wave)] = wave
        return replace(examples, data=waves)


class Audiomentations(Adapter):
    """Of audiomentations, which works on the CPU: clips on another device go there and back."""

    def __init__(self, kind: str, **arguments: Any) -> None:
        super().__init__(kind, **arguments)
        if kind == "audiomentations.RoomSimulator":  # imports it late, and `_seeded` has to know
            extras.require("pyroomacoustics", "audiomentations")

    def changed(self, wave: Tensor) -> Tensor:
        samples = self.transform(wave.cpu().float().numpy(), sample_rate=self.sample_rate)
        return torch.as_tensor(np.ascontiguousarray(samples)).to(wave)


class TorchAudiomentations(Adapter):
    """Of torch-audiomentations, on the clips' own device."""

    def _given(self, component: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
        given = super()._given(component, arguments)
        return {**given, "sample_rate": self.sample_rate, "output_type": "dict"}

    def changed(self, wave: Tensor) -> Tensor:
        changed: Tensor = self.transform(wave[None, None]).samples  # (1, 1, T)
        return changed[0, 0]


def build_adapter(kind: str, arguments: Mapping[str, Any], sample_rate: int) -> Adapter:
    """The augmentation that `kind` names.

    Raises:
        ConfigError: as `Adapter`.
    """
    package = kind.partition(".")[0]
    cls = Audiomentations if package == "audiomentations" else TorchAudiomentations
    return cls(kind, sample_rate=sample_rate, **arguments)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """The global generators, seeded; as they were afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    on_device = device.type != "cpu"
    with torch.random.fork_rng(
        devices=[device] if on_device else [], device_type=device.type if on_device else "cuda"
    ):
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        if on_device:
            torch.get_device_module(device).manual_seed(seed)
        if rooms := sys.modules.get("pyroomacoustics"):  # its ray tracer draws by itself
            rooms.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
