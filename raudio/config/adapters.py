"""The catalogues of audiomentations and torch-audiomentations: kinds of steps of `augment.chain`.

A kind is `PACKAGE.CLASS`, of the classes that the package itself exports and whose arguments can be
written as settings: `audiomentations.AddGaussianSNR`, `torch_audiomentations.Gain`. Its settings
are the constructor's arguments. Functions as arguments, and the compositions of the packages, can't
be written; `choice` and `sequence` stand for the latter.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from raudio.config.meta import Meta
from raudio.config.setting import Setting
from raudio.core import extras
from raudio.core.errors import ConfigError, unknown

#: Package -> the extra of raudio that installs it.
EXTRAS = {
    "audiomentations": "audiomentations",
    "torch_audiomentations": "torch-audiomentations",
}

#: Arguments that raudio gives: a step has its own p, and one clip of one channel is a batch.
_GIVEN = {
    "audiomentations": {"p"},
    "torch_audiomentations": {"p", "p_mode", "mode", "sample_rate", "target_rate", "output_type"},
}

#: What reads files by functions that torchaudio no longer has, and what does the same.
_BROKEN = {
    "torch_audiomentations.AddBackgroundNoise": "audiomentations.AddBackgroundNoise",
    "torch_audiomentations.ApplyImpulseResponse": "audiomentations.ApplyImpulseResponse",
}


def is_adapter(kind: str) -> bool:
    """Whether `kind` names a class of the packages, be there such a class or not."""
    package, dot, _ = kind.partition(".")
    return bool(dot) and package in EXTRAS


@cache
def catalogue(package: str) -> Mapping[str, type]:
    """The kinds that a package gives: `PACKAGE.CLASS` -> class.

    Raises:
        ConfigError: it is not installed.
    """
    module = extras.require(package, EXTRAS[package])
    return {
        f"{package}.{name}": found
        for name, found in sorted(vars(module).items())
        if inspect.isclass(found) and _arguments(found, package) is not None
        if f"{package}.{name}" not in _BROKEN
    }


def component(kind: str) -> type:
    """The class that `kind` names.

    Raises:
        ConfigError: its package is not installed, or exports no such augmentation.
    """
    package = kind.partition(".")[0]
    found = catalogue(package)
    if kind in _BROKEN:
        raise ConfigError(f"{kind} does not work with torchaudio 2.11; take {_BROKEN[kind]}")
    if kind not in found:
        names = [other.partition(".")[2] for other in found]
        raise ConfigError(unknown(f"augmentation of {package}", kind.partition(".")[2], names))
    return found[kind]


def settings(kind: str, prefix: str) -> dict[str, Setting]:
    """The settings of `kind`, by dotted key; `dataclasses.MISSING` where one has to be given.

    Raises:
        ConfigError: as `component`.
    """
    arguments = _arguments(component(kind), kind.partition(".")[0])
    assert arguments is not None
    return {
        f"{prefix}{name}": dataclasses.replace(setting, key=f"{prefix}{name}")
        for name, setting in arguments.items()
    }


def _arguments(component: type, package: str) -> dict[str, Setting] | None:
    """A constructor's arguments as settings; None where one that it needs can't be written."""
    found: dict[str, Setting] = {}
    for name, parameter in inspect.signature(component, eval_str=True).parameters.items():
        if name in _GIVEN[package] or parameter.kind is parameter.VAR_KEYWORD:
            continue
        setting = _setting(parameter)
        if setting is not None:
            found[name] = setting
        elif parameter.default is parameter.empty:
            return None
    return found


def _setting(parameter: inspect.Parameter) -> Setting | None:
    """An argument as a setting; None for a function or another value that no text can stand for."""
    default = parameter.default
    hint = type(default) if parameter.annotation is parameter.empty else parameter.annotation
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    hints = typing.get_args(hint) if is_union else (hint,)
    choices: tuple[str, ...] = ()
    if typing.get_origin(hints[0]) is typing.Literal:
        choices, hints = typing.get_args(hints[0]), (str,)
    # Of paths and lists of paths a path, and of a number in this or that unit one that may be both.
    for kind, hinted in ((str, str), (str, Path), (float, float), (int, int), (bool, bool)):
        if hinted in hints:
            return Setting(
                key=parameter.name,
                kind=kind,
                optional=default is None,
                default=dataclasses.MISSING if default is parameter.empty else default,
                meta=Meta("", choices=choices),
            )
    return None
