"""One setting of the schema: its key, its type, what it may be, and the check of a value."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

from raudio.config.axes import text
from raudio.config.meta import Meta
from raudio.core.errors import ConfigError, closest

#: How messages call one value of a kind, and several.
_NAMES: dict[type, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true and false"),
    str: ("a text", "texts"),
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting: where it is, and what it may be.

    Attributes:
        key: dotted name, as the command line writes it ("optimizer.lr").
        kind: int, float, bool or str.
        several: "no": one value; "only": a tuple of them; "also": one or a tuple.
        optional: whether it may be None.
        default: its value unless set.
        meta: help, unit, bounds and choices.
    """

    key: str
    kind: type
    optional: bool
    default: Any
    meta: Meta
    several: str = "no"

    @property
    def allowed(self) -> str:
        """What it may be, as messages and `raudio list settings` say it."""
        if self.meta.choices:
            words = f"one of {', '.join(self.meta.choices)}"
        else:
            one, many = _NAMES[self.kind]
            words = {"no": one, "only": f"a list of {many}", "also": f"{one} or a list of {many}"}[
                self.several
            ]
            words += "".join(f" {bound}" for bound in self._bounds())
        if self.meta.unit:
            words += f", in {self.meta.unit}"
        return words + (", or none" if self.optional else "")

    def checked(self, value: Any) -> Any:
        """`value` in this setting's type.

        Raises:
            ConfigError: it is of another type, out of bounds, or none of the choices.
        """
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
            if self.optional:
                return None
            if value is None:
                raise self._error(value)
        if self.several != "no" and isinstance(value, (list, tuple)):
            if not value and self.several == "also":
                raise self._error(value)
            items = tuple(self._item(item, value) for item in value)
            return items[0] if self.several == "also" and len(items) == 1 else items
        converted = self._item(value, value)
        return (converted,) if self.several == "only" else converted

    def _item(self, item: Any, value: Any) -> Any:
        """One item in this setting's kind; `value` is what messages show."""
        try:
            converted = self._converted(item)
        except ConfigError:
            raise self._error(value) from None
        if self.kind in (int, float) and not self._within(converted):
            raise self._error(value)
        if self.meta.choices and converted not in self.meta.choices:
            raise self._error(value, closest(converted, self.meta.choices))
        return converted

    def _converted(self, value: Any) -> Any:
        if self.kind is bool:
            if isinstance(value, bool):
                return value
        elif self.kind is int:
            if isinstance(value, int) and not isinstance(value, bool):
                return value
            if isinstance(value, float) and value.is_integer():
                return int(value)
        elif self.kind is float:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return float(value)
        elif isinstance(value, str):
            return value
        elif self.several == "no" and isinstance(value, (bool, int, float)):
            return text(value)  # a text that looks like a number
        raise self._error(value)

    def _within(self, value: float) -> bool:
        meta = self.meta
        return (
            math.isfinite(value)
            and (meta.min is None or value >= meta.min)
            and (meta.max is None or value <= meta.max)
            and (meta.above is None or value > meta.above)
            and (meta.below is None or value < meta.below)
        )

    def _bounds(self) -> list[str]:
        meta = self.meta
        if meta.min is not None and meta.max is not None:
            return [f"from {meta.min:g} to {meta.max:g}"]
        bounds: list[str] = []
        for bound, words in (
            (meta.min, "of at least"),
            (meta.above, "above"),
            (meta.max, "at most"),
            (meta.below, "below"),
        ):
            if bound is not None:
                bounds.append(f"{'and ' if bounds else ''}{words} {bound:g}")
        return bounds

    def _error(self, value: Any, match: str = "") -> ConfigError:
        about = f" ({self.meta.help})" if self.meta.help else ""
        return ConfigError(f"{self.key}={text(value)}: must be {self.allowed}{match}{about}")


@cache
def type_hints(cls: type) -> Mapping[str, Any]:
    """The types of a dataclass's fields; kept, since reading them compiles each annotation."""
    return typing.get_type_hints(cls)


@cache
def settings_in(cls: type, prefix: str) -> dict[str, Setting]:
    """The settings of a dataclass and of the groups inside it; `name` is left out."""
    found: dict[str, Setting] = {}
    hints = type_hints(cls)
    for field in dataclasses.fields(cls):
        key, hint = f"{prefix}{field.name}", hints[field.name]
        if dataclasses.is_dataclass(hint):
            if prefix:
                found.update(settings_in(typing.cast(type, hint), f"{key}."))
        elif "meta" in field.metadata:
            kind, optional, several = unwrap(hint)
            meta = field.metadata["meta"]
            found[key] = Setting(key, kind, optional, field.default, meta, several)
    return found


def check_ranges(where: str, values: Mapping[str, Any], problems: list[str]) -> None:
    """Adds a problem for each setting `min_WHAT` of `values` that is above its `max_WHAT`."""
    for name, low in values.items():
        other = name.replace("min_", "max_", 1)
        high = values.get(other) if name.startswith("min_") else None
        if isinstance(low, (int, float)) and isinstance(high, (int, float)) and low > high:
            problems.append(f"{where}.{name}={low:g} must not be above {where}.{other}={high:g}")


def unwrap(hint: Any) -> tuple[type, bool, str]:
    """(kind, optional, several) of a field's type: `int | None` -> (int, True, "no"),
    `tuple[str, ...]` -> (str, False, "only"), `str | tuple[str, ...]` -> (str, False, "also")."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        parts = typing.get_args(hint)
        inner = [unwrap(part) for part in parts if part is not type(None)]
        return inner[0][0], len(inner) < len(parts), "also" if len(inner) > 1 else inner[0][2]
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], False, "only"
    return typing.get_origin(hint) or hint, False, "no"
