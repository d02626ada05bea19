"""Constraints of a space: read against all settings there are, those that are not searched too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from raudio.config import chain, compose, schema, validate
from raudio.config.axes import Choice, Value
from raudio.config.expressions import Expression, parse
from raudio.config.setting import Setting
from raudio.core.errors import ConfigError
from raudio.search.space import Param

#: The command line's own.
CONSTRAINTS = "search.constraints"

#: Groups of settings that no trial has.
_NOT_OF_TRIALS = ("space", "search", "run", "tracking", "cluster")


def checked(
    written: Iterable[tuple[str, Any]], base: Mapping[str, Any], problems: list[str]
) -> tuple[Expression, ...]:
    """The constraints in their order, each once; a problem for each that cannot be read.

    Args:
        written: (where, constraint) each.
        base: group -> setting -> value of what trials have in common.
        problems: where they are added.
    """
    names: Mapping[str, Sequence[Value] | None] = {}
    found: dict[str, Expression] = {}
    for where, text in written:
        names = names or _names(base)
        try:
            expression = parse(text, names)
        except ConfigError as error:
            problems.append(f"{where}: {error}")
        else:
            found[expression.text] = expression
    return tuple(found.values())


def fixed(
    keys: Iterable[str],
    searched: Mapping[str, Sequence[str]],
    overrides: Sequence[str],
    groups: Mapping[str, str],
) -> Iterator[Param]:
    """The value that each setting has where it is not drawn.

    Args:
        keys: of the settings.
        searched: group -> the variants that the search chooses from: each has values of its own.
        overrides: plain ones of the command line.
        groups: the choices by which a base is composed.
    """
    for key in keys:
        section = key.partition(".")[0]
        variants = searched.get(section, ()) if section != key else ()
        for variant in variants or (None,):
            chosen = {} if variant is None else {section: variant}
            mapping, _ = compose.composed(overrides, {**groups, **chosen})
            when: dict[str, tuple[Value, ...]] = {group: (name,) for group, name in chosen.items()}
            known = settings_anywhere(key, mapping)
            if known and not _has(mapping, key):
                continue  # another variant's
            value = value_in(mapping, key, overrides)
            try:
                value = known[0].checked(value) if known else value
            except ConfigError:
                continue  # told where the configuration is checked
            yield Param(key, Choice((value,)), when, key)


def value_in(base: Mapping[str, Any], key: str, overrides: Sequence[str]) -> Value:
    """The value of a setting that is not searched; a group's is the name of its variant."""
    if key == "augment":
        return compose.values_of(overrides).get(key) or "none"
    found: Any = base
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found.get("name") if isinstance(found, Mapping) else found


def settings_anywhere(key: str, base: Mapping[str, Any]) -> list[Setting]:
    """The settings of this name in any variant, or in the base's augmentation chain."""
    if chain.is_key(key):
        steps = chain.settings(base["augment"]["chain"])
        return [steps[key]] if key in steps else []
    section = key.partition(".")[0]
    variants: Sequence[Mapping[str, str]] = [
        {section: name} for name in schema.VARIANTS.get(section, {})
    ] or [{}]
    known = [validate.settings(variant) for variant in variants]
    return [settings[key] for settings in known if key in settings]


def _has(base: Mapping[str, Any], key: str) -> bool:
    found: Any = base
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return False
        found = found[part]
    return True


def _names(base: Mapping[str, Any]) -> dict[str, Sequence[Value] | None]:
    """Every setting that a trial may have, as `expressions.parse` wants them."""
    names: dict[str, Sequence[Value] | None] = {"augment": compose.options("augment")}
    known = [validate.settings({})]
    for group, variants in schema.VARIANTS.items():
        names[group] = compose.options(group)
        known += [validate.settings({group: variant}) for variant in variants]
    known.append(chain.settings(base["augment"]["chain"]))
    for settings in known:
        for key, setting in settings.items():
            if key.partition(".")[0] not in _NOT_OF_TRIALS:
                names[key] = _either(names.get(key, ()), _values(setting))
    return names


def _values(setting: Setting) -> tuple[Value, ...] | None:
    """What a setting may be; none of them for a number, None for any."""
    if setting.several != "no":
        return None
    if setting.kind in (int, float):
        return ()
    choices: tuple[Value, ...] = (True, False) if setting.kind is bool else setting.meta.choices
    return (*choices, None) if choices and setting.optional else choices or None


def _either(one: Sequence[Value] | None, other: Sequence[Value] | None) -> Sequence[Value] | None:
    """The values of a setting that two variants have."""
    return None if one is None or other is None else tuple(dict.fromkeys((*one, *other)))
