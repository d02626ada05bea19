"""The command that trains an experiment again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from raudio.config.axes import quoted
from raudio.config.compose import compose
from raudio.config.schema import VARIANTS, Experiment
from raudio.config.validate import to_mapping
from raudio.core.errors import ConfigError

#: What does not change a result.
_LEFT_OUT = ("resources", "tracking", "plugins")


def command(experiment: Experiment, plugins: Sequence[str]) -> str | None:
    """`raudio train` with what differs from the defaults; None where that can't be written so.

    Args:
        experiment: resolved, without plugins.
        plugins: names of the files that it needs.
    """
    mapping = to_mapping(experiment)
    given = [f"{group}={mapping[group]['name']}" for group in VARIANTS if group in mapping]
    try:
        default = to_mapping(compose(given).experiment)
        overrides = [
            f"{key}={_written(value)}"
            for key, value in _leaves(mapping)
            if dict(_leaves(default)).get(key, _MISSING) != value
        ]
        again = to_mapping(compose([*given, *overrides]).experiment)
    except ConfigError:  # a component of a plugin, or a value that the grammar can't write
        return None
    found = dict(_leaves(again))
    if not all(_same(value, found.get(key)) for key, value in _leaves(mapping)):
        return None
    files = [f"plugins=[{','.join(plugins)}]"] if plugins else []
    changed = [one for one in given if one not in _default_variants()]
    return shlex.join(["raudio", "train", *files, *changed, *overrides])


_MISSING = object()


def _same(value: Any, found: Any) -> bool:
    """Whether a setting is as it was; composing makes the paths of a chain's sources absolute."""
    return bool(value == found) or (isinstance(found, str) and found.endswith(f"/{value}"))


def _default_variants() -> list[str]:
    mapping = to_mapping(compose([]).experiment)
    return [f"{group}={mapping[group]['name']}" for group in VARIANTS if group in mapping]


def _leaves(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Settings by their whole key, in the order of the schema."""
    found = []
    for key, value in mapping.items():
        if not prefix and key in _LEFT_OUT:
            continue
        if isinstance(value, Mapping) and (value or prefix):
            found += _leaves(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found


def _written(value: Any) -> str:
    return "null" if value is None else quoted(value)
