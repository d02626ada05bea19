"""The YAML files of spaces: those that come with raudio, by name, and any other by its path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from raudio.config.axes import Value, text
from raudio.core import shipped
from raudio.core.errors import ConfigError, closest, unknown
from raudio.core.written import read_yaml

_KEYS = ("about", "params", "conditions", "constraints", "points")


def folder() -> Path:
    """Where the spaces are that come with raudio."""
    return shipped.folder("search_spaces")


def names() -> dict[str, str]:
    """The spaces that come with raudio: name -> one line."""
    found = {}
    for path in sorted(folder().glob("*.yaml")):
        content = yaml.safe_load(path.read_text()) or {}
        found[path.stem] = str(content.get("about", ""))
    return found


def content(name: str) -> Mapping[str, Any]:
    """The YAML of a space, by name or path."""
    own = folder() / f"{name}.yaml"
    is_path = name.endswith((".yaml", ".yml")) or "/" in name
    path = Path(name) if is_path else own
    if not path.is_file():
        if path.is_dir():
            raise ConfigError(f"space={name} is a folder; give a YAML file in it")
        if is_path:
            near = sorted(other.name for other in path.parent.glob("*.y*ml"))
            raise ConfigError(f"space={name}: no such file{closest(path.name, near)}")
        raise ConfigError(f"space={name}: {unknown('space', name, names())}; or give a path")
    try:
        mapping = read_yaml(path)
    except ConfigError as error:
        raise ConfigError(f"space={name}: {error}") from error
    if not isinstance(mapping, dict) or not mapping:
        raise ConfigError(f"space={name}: {path} holds no `params:`")
    return mapping


def parts(
    name: str, mapping: Mapping[str, Any], problems: list[str]
) -> Iterator[tuple[str, dict[str, tuple[Value, ...]], Mapping[str, Any]]]:
    """(where, when, params) of the top and of each condition; problems of the form."""
    where = f"space {name}"
    for key in mapping:
        if key not in _KEYS:
            problems.append(f"{where}: {unknown('key', str(key), _KEYS)}")
    params = mapping.get("params") or {}
    conditions = mapping.get("conditions") or []
    if not isinstance(params, dict):
        problems.append(f"{where}: params={text(params)} must map settings to axes")
    else:
        yield where, {}, params
    if not isinstance(conditions, list):
        problems.append(f"{where}: conditions must be a list of `when:` and `params:`")
        return
    for index, condition in enumerate(conditions):
        here = f"{where}, conditions[{index}]"
        if not isinstance(condition, dict) or set(condition) != {"when", "params"}:
            problems.append(f"{here}: must hold `when:` and `params:`, and nothing else")
            continue
        when, inner = condition["when"], condition["params"]
        if not isinstance(when, dict) or not when or not isinstance(inner, dict):
            problems.append(f"{here}: `when` maps settings to values, `params` settings to axes")
            continue
        yield here, {str(key): listed(value) for key, value in when.items()}, inner


def listed(value: Any) -> tuple[Value, ...]:
    return tuple(value) if isinstance(value, list) else (value,)
