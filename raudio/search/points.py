"""Known-good points: settings that the first trials of a search have.

`search.points` lists them. Each is settings (`model=crnn optimizer.lr=0.003`), a YAML file with a
list of mappings from settings to values, or a run folder, whose best trial is meant. What a point
leaves open is drawn.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raudio.config import compose
from raudio.config.axes import Choice, Interval, Value, text
from raudio.core.errors import ConfigError, closest
from raudio.core.written import read_yaml
from raudio.records import RECORDS, read_history
from raudio.search.constraints import settings_anywhere
from raudio.search.space import Param, Space

#: The setting that lists them.
POINTS = "search.points"

Point = Mapping[str, Value]


def read(items: Iterable[Any], problems: list[str]) -> list[tuple[str, Mapping[str, Any]]]:
    """(where, point) of each item of `search.points`, as it is written.

    Args:
        items: settings, YAML files and run folders.
        problems: where a sentence is added for each that can't be read.
    """
    found: list[tuple[str, Mapping[str, Any]]] = []
    for item in items:
        where = f"{POINTS}={item}"
        try:
            if not isinstance(item, str):
                raise ConfigError('a point is written as a text: "model=crnn optimizer.lr=0.003"')
            if "=" in item:
                found.append((where, _settings(item)))
            elif Path(item, RECORDS).is_file():
                best = read_history(item).best()
                if best is None:
                    raise ConfigError("no trial of this run has a value")
                found.append((f"{where}, trial {best.id}", best.params))
            else:
                found += [
                    (f"{where}, point {number}", point)
                    for number, point in enumerate(_listed(Path(item)))
                ]
        except ConfigError as error:
            problems.append(f"{where}: {error}")
    return found


def of_space(where: str, listed: Any, problems: list[str]) -> list[tuple[str, Mapping[str, Any]]]:
    """(where, point) of each of a space file's own `points:`."""
    if not isinstance(listed, list) or not all(isinstance(point, dict) for point in listed):
        problems.append(f"{where}: points must be a list of mappings from settings to values")
        return []
    return [(f"{where}, points[{number}]", point) for number, point in enumerate(listed)]


def _settings(item: str) -> Mapping[str, Any]:
    try:
        parts = shlex.split(item)
    except ValueError as error:
        raise ConfigError(f"{str(error).lower()}; write KEY=VALUE KEY=VALUE") from error
    overrides, axes = compose.split(parts)
    for key, axis in axes.items():
        raise ConfigError(f"{key}={axis} has several values; a point has one of each")
    return compose.values_of(overrides)


def _listed(path: Path) -> list[Mapping[str, Any]]:
    try:
        content = read_yaml(path)
    except ConfigError as error:
        near = closest(path.name, [other.name for other in path.parent.glob("*.y*ml")])
        raise ConfigError(
            f"no settings, no readable YAML file and no run folder{near}: {error}"
        ) from error
    if not isinstance(content, list) or not all(isinstance(point, dict) for point in content):
        raise ConfigError("a list of mappings from settings to values is wanted")
    return content


def checked(
    points: Iterable[tuple[str, Mapping[str, Any]]],
    space: Space,
    base: Mapping[str, Any],
    problems: list[str],
) -> tuple[Point, ...]:
    """The points in their settings' types; a problem for each that the space does not hold.

    Args:
        points: (where, point) each.
        space: what is searched.
        base: group -> setting -> value of what trials have in common.
        problems: where they are added.
    """
    found = []
    for where, point in points:
        count = len(problems)
        complete: dict[str, Value] = {}
        for param in space.params:  # in their order: what conditions ask for comes first
            if len(param.values) == 1 and space.active(param, complete):
                complete[param.key] = param.values[0]
            if param.key in point and space.active(param, complete):
                try:
                    complete[param.key] = _value(param, point[param.key], base)
                except ConfigError as error:
                    problems.append(f"{where}: {error}")
        if len(problems) == count:
            problems += [
                f"{where}: {_not_drawn(key, point[key], space)}"
                for key in point
                if key not in complete
            ]
        drawn = any(
            param.key not in complete and space.active(param, complete) for param in space.params
        )
        if len(problems) == count and not drawn:
            problems += [f"{where}: breaks {str(each)!r}" for each in space.broken(complete)]
        found.append(complete)
    return tuple(found)


def first(cells: Sequence[Point], points: Sequence[Point]) -> list[Point]:
    """The cells of a grid, for each point the first that agrees with it in front."""
    left, front = list(cells), []
    for point in points:
        agreeing = (cell for cell in left if point.items() <= cell.items())
        cell = next(agreeing, None)
        if cell is not None:
            left.remove(cell)
            front.append(cell)
    return [*front, *left]


def _not_drawn(key: str, value: Any, space: Space) -> str:
    conditions = [param.when for param in space.params if param.key == key]
    if conditions:
        asked = " or ".join(
            ", ".join(f"{k}={'|'.join(map(text, v))}" for k, v in when.items())
            for when in conditions
        )
        return f"{key}={text(value)} is drawn only when {asked}; give that too"
    keys = [param.key for param in space.params]
    return (
        f"{key}={text(value)} is not searched{closest(key, keys)}; leave it out, or write {key}="
        f"{text(value)} for all trials"
    )


def _value(param: Param, given: Any, base: Mapping[str, Any]) -> Value:
    """`given` as one of the values of a param's axis.

    Raises:
        ConfigError: it is none.
    """
    key = param.key
    if isinstance(given, str):
        read = compose.parse_axis(key, given)
        if not isinstance(read, Choice) or len(read.values) != 1:
            raise ConfigError(f"{key}={read} has several values; a point has one of each")
        given = read.values[0]
    known = settings_anywhere(key, base)
    return within(param, known[0].checked(given) if known else given)


def within(param: Param, value: Any) -> Value:
    """The value of a param's axis that `value`, of the setting's type, is.

    Raises:
        ConfigError: it is none of them.
    """
    axis = param.axis
    if isinstance(axis, Interval):
        if isinstance(value, (int, float)) and axis.low <= value <= axis.high:
            return value
    else:
        for each in param.values:
            near = isinstance(each, float) and isinstance(value, (int, float))
            if each == value or (near and math.isclose(each, value)):
                return each
    raise ConfigError(f"{param.key}={text(value)} is outside {axis}, which this space searches")
