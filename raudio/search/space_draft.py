"""A space as it is written: its file, and what a command line adds to it or takes away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raudio.config import compose, validate
from raudio.config.axes import Axis, Value, text
from raudio.core.errors import ConfigError
from raudio.search import points
from raudio.search.constraints import CONSTRAINTS
from raudio.search.points import POINTS
from raudio.search.space import is_base, values_of
from raudio.search.space_yaml import content, listed, parts


@dataclass(frozen=True)
class Entry:
    """A param as it was read: nothing but its syntax is known to be right."""

    where: str
    key: str
    axis: Axis
    when: Mapping[str, tuple[Value, ...]]


@dataclass(frozen=True)
class Draft:
    """A space as it was read; `replaced` has the file's axes that the command line took away, and
    `constraints` and `points` each with its place."""

    name: str
    about: str
    entries: tuple[Entry, ...]
    replaced: Mapping[str, Axis]
    notes: tuple[str, ...]
    constraints: tuple[tuple[str, Any], ...]
    points: tuple[tuple[str, Mapping[str, Any]], ...]

    @staticmethod
    def read(name: str, extra: Mapping[str, Axis], overrides: Sequence[str]) -> Draft:
        """Reads a space file and adds what the command line says.

        Raises:
            ConfigError: no such file, no YAML, or not the form of a space.
        """
        mapping = content(name)
        problems: list[str] = []
        entries: list[Entry] = []
        for where, when, params in parts(name, mapping, problems):
            for key, value in params.items():
                try:
                    entries.append(Entry(where, str(key), compose.parse_axis(key, value), when))
                except ConfigError as error:
                    problems.append(f"{where}: {_cut(key, value) or error}")
        validate.raise_problems(problems)

        replaced: dict[str, Axis] = {}
        notes = []
        fixed = compose.values_of(overrides)
        for entry in entries:
            if entry.key in fixed or entry.key in extra:
                replaced.setdefault(entry.key, entry.axis)
            if entry.key in fixed:
                notes.append(
                    f"{entry.key}={text(fixed[entry.key])} is given, so {entry.axis} of space "
                    f"{name} is not searched"
                )
        known = points.of_space(f"space {name}", mapping.get("points") or [], problems)
        known += points.read(listed(fixed.get(POINTS) or []), problems)
        validate.raise_problems(problems)
        added = [Entry("command line", key, axis, {}) for key, axis in extra.items()]
        kept = [entry for entry in entries if entry.key not in replaced]
        return Draft(
            name=name,
            about=str(mapping.get("about", "")),
            entries=(*added, *kept),
            replaced=replaced,
            notes=tuple(dict.fromkeys(notes)),
            constraints=(
                *(
                    (f"space {name}, constraints", each)
                    for each in listed(mapping.get("constraints") or [])
                ),
                *((CONSTRAINTS, each) for each in listed(fixed.get(CONSTRAINTS) or [])),
            ),
            points=tuple(known),
        )

    def groups(self) -> dict[str, str]:
        """As `Space.groups`, of the choices that can be made at all."""
        found: dict[str, str] = {}
        for entry in self.entries:
            if is_base(entry.key, entry.axis, entry.when):
                options = compose.options(entry.key)
                good = [v for v in values_of(entry.axis) if v in options or not options]
                if good:
                    found[entry.key] = good[0]
        return found


def _cut(key: Any, value: Any) -> str | None:
    """What to say of an axis whose end YAML has taken for something else."""
    if not isinstance(value, str) or value.count("(") <= value.count(")"):
        return None
    return (
        f"{key}={value}: a bracket is not closed; within {{ }} YAML ends a value at a comma: put "
        "it in quotes, or on a line of its own"
    )
