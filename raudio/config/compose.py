"""Command line to checked settings: Hydra's groups and grammar, and the only place that sees Hydra.

A command line is a list of overrides, `KEY=VALUE`. `model=crnn` chooses a group's variant,
`model.rnn_layers=2` sets a value, and a value in Hydra's sweep grammar (`choice(1, 2)`,
`range(1, 5)`, `interval(0, 1)`, `tag(log, interval(1e-4, 1e-2))`, `1,2`) makes the setting an axis
of the search. The last of several overrides of one key wins.

Free texts such as paths are taken as they were typed, so that spaces, `=`, `,` and names made of
digits need no quotes; within quotes Hydra's own rules hold.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    QuotedString,
    RangeSweep,
)
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from raudio.config import chain, schema, validate
from raudio.config.axes import Axis, Choice, Interval, Range, quoted, text
from raudio.config.schema import Configuration, Experiment
from raudio.core.errors import ConfigError, unknown
from raudio.core.secrets import has_credentials

_CONF = Path(__file__).resolve().parent / "conf"
#: What a configuration has beside its experiment.
_OUTSIDE = ("space", "search", "run", "tracking", "cluster")
#: Groups that a list of names can be given to: the setting that is meant.
_SHORT = {"tracking": "tracking.trackers"}
#: Lists of names, which need no brackets.
_NAMES = ("plugins", *_SHORT.values())
#: Lists of free texts, of which one alone needs no brackets.
_LISTS = ("search.constraints", "search.limits", "search.points")
_FUNCTIONS = ("choice", "range", "interval", "tag", "int", "float", "str", "bool", "sort", "glob")
_GRAMMAR = (
    "an axis is written choice(a, b), range(start, stop, step=s), interval(low, high) or "
    "tag(log, interval(low, high))"
)


def compose(
    overrides: Sequence[str] = (), params: Mapping[str, Any] | None = None
) -> Configuration:
    """The configuration of a command line.

    Args:
        overrides: `KEY=VALUE` each, without axes.
        params: what a search chose, by key; applied last. Where it chooses a group's variant,
            overrides of settings that only other variants have are left out.

    Raises:
        ConfigError: all that is wrong with it, in one message.
    """
    mapping, problems = composed(overrides, params or {})
    outer = {key: mapping.pop(key) for key in _OUTSIDE}
    return validate.configuration_from({"experiment": mapping, **outer}, found=problems)


def tracking(overrides: Sequence[str], recorded: Mapping[str, Any]) -> schema.Tracking:
    """The group `tracking` of a command line, over what a run has recorded of it.

    Args:
        overrides: `KEY=VALUE` each.
        recorded: as `validate.to_mapping` wrote the group. Settings of trackers that the command
            line does not choose are left out.

    Raises:
        ConfigError: as `compose`.
    """
    given = values_of(overrides)
    mapping, problems = composed(overrides, {})
    found = mapping["tracking"]
    if "tracking.trackers" not in given:
        found["trackers"] = recorded.get("trackers")
    if "tracking.clips" not in given:
        found["clips"] = recorded.get("clips", found["clips"])
    chosen = found["trackers"]
    for name in [chosen] if isinstance(chosen, str) else chosen or ():
        for key, value in (recorded.get(name) or {}).items():
            if f"tracking.{name}.{key}" not in given:
                found.setdefault(name, {})[key] = value
    return validate.tracking_from(found, problems)


def experiment_for(overrides: Sequence[str], params: Mapping[str, Any]) -> Experiment:
    """The experiment of one trial: `compose(overrides, params).experiment`, faster.

    Raises:
        ConfigError: as `compose`.
    """
    mapping, problems = composed(overrides, params)
    for key in _OUTSIDE:
        del mapping[key]
    return validate.experiment_from(mapping, found=problems)


def split(args: Sequence[str]) -> tuple[list[str], dict[str, Axis]]:
    """A command line's overrides and the axes that it adds to the search space.

    Raises:
        ConfigError: an argument cannot be read.
    """
    problems: list[str] = []
    given = _parse(tuple(args), problems)
    axes: dict[str, Axis] = {}
    for key, item in given.items():
        if item.is_axis:
            try:
                axes[key] = _axis(key, item.value)
            except ConfigError as error:
                problems.append(str(error))
    validate.raise_problems(problems)
    return [item.argument for item in given.values() if not item.is_axis], axes


def parse_axis(key: str, value: Any) -> Axis:
    """The axis that a search space writes for `key`; a plain value is a choice of one.

    Raises:
        ConfigError: it is not in the grammar.
    """
    if isinstance(value, (list, dict)):
        raise ConfigError(f"{key}={text(value)} is not an axis; {_GRAMMAR}")
    problems: list[str] = []
    parsed = _value(key, value, problems) if isinstance(value, str) else value
    validate.raise_problems(problems)
    return _axis(key, parsed) if _is_sweep(parsed) else Choice((_plain(key, parsed),))


def override(key: str, values: Sequence[str]) -> str:
    """The override that sets `key` to a list of texts, whatever they hold."""
    return f"{key}=[{', '.join(quoted(value) for value in values)}]"


def with_absolute_paths(overrides: Sequence[str]) -> list[str]:
    """The same overrides, the local sources of augmentations absolute: trials' processes, and a
    later `resume`, run in other folders.
    """
    found = []
    for item in overrides:
        key, equals, value = item.partition("=")
        if key.startswith("augment.") and key.endswith(".source"):
            source = values_of([item]).get(key)
            if (
                isinstance(source, str)
                and source.lower() != "none"
                and not ("://" in source or "${" in source)
            ):
                value = quoted(os.path.abspath(os.path.expanduser(source)))
        found.append(f"{key}{equals}{value}")
    return found


def values_of(overrides: Sequence[str]) -> dict[str, Any]:
    """What `overrides` set, by key, before anything is composed; those that can't be read lack."""
    return {key: item.value for key, item in _parse(tuple(overrides), []).items()}


def options(group: str) -> list[str]:
    """The names that `GROUP=NAME` can choose, sorted; empty when `group` is no such group."""
    if group == "augment":
        return sorted(["none", *(path.stem for path in (_CONF / "augment").glob("*.yaml"))])
    return sorted(schema.VARIANTS.get(group, ()))


def composed(
    overrides: Sequence[str], params: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Group -> setting -> value, not checked yet, and what is wrong with the overrides' keys."""
    problems: list[str] = []
    given = _parse(tuple(overrides), problems)
    if "plugins" in given:
        validate.use_plugins(given["plugins"].value)
    validate.adopt()
    chosen = _choices(given, params, problems)
    known_to = (schema.Augment, schema.Tracking)
    mapping = copy.deepcopy(_defaults("", "", known_to))
    for group, name in chosen.items():
        mapping[group] = copy.deepcopy(_defaults(group, name, known_to)[group])
    names = _variants(mapping)
    known = validate.settings(names)
    for key, item in given.items():
        if item.is_axis:
            problems.append(f"{item.argument} is an axis of a search; give one value here")
        elif _is_group(key):
            continue
        elif has_credentials(item.argument) and not key.startswith("tracking."):
            problems.append(
                f"{key} has a user or a password in its URI, which command lines, shells and runs "
                "keep; give them in the environment, such as AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY"
            )
        elif key in known or chain.is_key(key):
            _put(mapping, key, item.value)
        elif not _elsewhere(key, params):
            problems.append(validate.unknown_setting(key, item.value, names))
    for key, value in params.items():
        if key in known or chain.is_key(key):
            _put(mapping, key, value)
        elif not _is_group(key):
            problems.append(validate.unknown_setting(key, value, names))
    mapping = _resolved(mapping, problems)
    mapping["augment"]["chain"] = chain.checked(mapping["augment"]["chain"], problems)
    return mapping, problems


# --- reading -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Given:
    """One override: the argument as typed, and its value, which may be one of Hydra's sweeps."""

    argument: str
    value: Any

    @property
    def is_axis(self) -> bool:
        return _is_sweep(self.value)


def _is_sweep(value: Any) -> bool:
    return isinstance(value, (ChoiceSweep, RangeSweep, IntervalSweep, Glob))


def _parse(arguments: tuple[str, ...], problems: list[str]) -> dict[str, _Given]:
    """Overrides by key; a problem for each argument that cannot be read."""
    given, found = _parsed(arguments)
    problems += found
    return dict(given)


@lru_cache(maxsize=64)
def _parsed(arguments: tuple[str, ...]) -> tuple[dict[str, _Given], tuple[str, ...]]:
    given: dict[str, _Given] = {}
    problems: list[str] = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        key = key.strip()
        key = _SHORT.get(key, key)
        if not equals or not key:
            problems.append(f"{argument!r} is not KEY=VALUE; write for example search.trials=32")
        elif key[0] in "+~":
            plain = key.lstrip("+~")
            problems.append(
                f"{argument}: settings are not added or removed; write {plain}={value or '...'}"
            )
        elif not all(part.isidentifier() for part in key.split(".")):
            problems.append(f"{argument}: {key!r} is no setting's name; write GROUP.SETTING=VALUE")
        else:
            count = len(problems)
            parsed = _value(key, value, problems)
            if len(problems) == count:
                given.pop(key, None)
                given[key] = _Given(argument, parsed)
    return given, tuple(problems)


def _value(key: str, value: str, problems: list[str]) -> Any:
    """A value in Hydra's grammar, or as it was typed where the setting is a free text."""
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    is_list = value.startswith("[") and value.endswith("]")
    if key in _free_texts() and not is_quoted and not is_list:
        return os.path.expanduser(value)
    try:
        override = OverridesParser.create().parse_override(f"key={value}")
    except HydraException as error:
        reason = " ".join(str(error).split())
        reason = reason.rpartition("()': ")[2]
        name = value.partition("(")[0].strip()
        if "(" in value and name not in _FUNCTIONS and name.isidentifier():
            reason = unknown("function", name, _FUNCTIONS[:5])
        cure = _GRAMMAR if "(" in value else "put a text with special characters in quotes"
        if value.startswith("(") and value.endswith(")"):
            cure = f"a list is written {key}=[{value[1:-1]}]"
        problems.append(f"{key}={value} cannot be read ({reason}); {cure}")
        return None
    for inner, axis in _inside(key, override.value()):
        problems.append(f"{inner} is an axis inside a mapping; give it by itself: {inner}={axis}")
        return None
    parsed = override.value()
    if key in _NAMES and isinstance(parsed, ChoiceSweep) and parsed.simple_form:
        return [str(item) for item in parsed.list]
    return parsed


def _inside(key: str, value: Any) -> Iterator[tuple[str, Axis]]:
    """The axes that a mapping holds, by their keys."""
    for name, inner in value.items() if isinstance(value, dict) else ():
        if _is_sweep(inner):
            yield f"{key}.{name}", _axis(key, inner)
        yield from _inside(f"{key}.{name}", inner)


@lru_cache(maxsize=1)
def _free_texts() -> frozenset[str]:
    """Settings taken as typed: texts without choices, outside the groups that a space searches."""
    return frozenset(_LISTS) | frozenset(
        key
        for key, setting in validate.settings({}).items()
        if setting.kind is str
        and setting.several != "only"
        and not setting.meta.choices
        and not key.startswith("augment.")
    )


def _axis(key: str, sweep: Any) -> Axis:
    """Hydra's sweep as an axis of ours; `validate` and the space check its bounds."""
    tags = sorted(sweep.tags) if not isinstance(sweep, Glob) else []
    if tags not in ([], ["log"]):
        raise ConfigError(f"{key}: {unknown('tag', tags[0], ['log'])}")
    if isinstance(sweep, IntervalSweep):
        whole = isinstance(sweep.start, int)
        return Interval(sweep.start, sweep.end, log=bool(tags), integer=whole)
    if tags:
        raise ConfigError(f"{key}: only an interval is drawn in the logarithm; {_GRAMMAR}")
    if isinstance(sweep, RangeSweep):
        return Range(sweep.start, sweep.stop, sweep.step)
    if isinstance(sweep, Glob):
        return Choice(tuple(sweep.filter(options(key))))
    return Choice(tuple(_plain(key, value) for value in sweep.list))


def _plain(key: str, value: Any) -> Any:
    """A value without Hydra's own types."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, (list, tuple)):
        return tuple(_plain(key, item) for item in value)
    if isinstance(value, dict):
        raise ConfigError(f"{key}={value} is a mapping; an axis holds plain values")
    return value


# --- composing -----------------------------------------------------------------------------------


def _is_group(key: str) -> bool:
    return key == "augment" or key in schema.VARIANTS


def _elsewhere(key: str, params: Mapping[str, Any]) -> bool:
    """Whether `key` is a setting of another variant of a group that the search chooses."""
    section = key.partition(".")[0]
    return section in params and any(
        key in validate.settings({section: name}) for name in schema.VARIANTS.get(section, ())
    )


def _choices(
    given: Mapping[str, _Given], params: Mapping[str, Any], problems: list[str]
) -> dict[str, str]:
    """The variants that were asked for: overrides first, `params` over them."""
    asked = {key: item.value for key, item in given.items() if _is_group(key) and not item.is_axis}
    asked |= {key: value for key, value in params.items() if _is_group(key)}
    chosen: dict[str, str] = {}
    for group, name in asked.items():
        if isinstance(name, str) and name in options(group):
            chosen[group] = name
        else:
            problems.append(f"{group}={text(name)}: {unknown(group, text(name), options(group))}")
    return chosen


@lru_cache(maxsize=256)
def _defaults(group: str, name: str, grown: tuple[type, type]) -> dict[str, Any]:
    """What Hydra composes when `group` is `name`; both are empty for what holds with no override.

    A variant that the schema makes is asked of the schema: composing takes a fifth of a second.

    Args:
        group, name: a group and the variant chosen for it. Groups do not depend on each other, so
            a search over several needs each variant once, not each combination.
        grown: the classes of `augment` and `tracking`; a plugin's augmentation or tracker makes
            another one.
    """
    if group in schema.VARIANTS:
        return {group: validate.to_mapping(schema.VARIANTS[group][name]())}
    _store(grown[0])
    outer = GlobalHydra.instance().hydra  # that of a Hydra application which calls raudio
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(_CONF), version_base="1.3"):
            config = hydra_compose("config", [f"{group}={name}"] if group else [])
    finally:
        GlobalHydra.instance().hydra = outer
    mapping = OmegaConf.to_container(config, resolve=False)
    assert isinstance(mapping, dict)
    return {str(key): value for key, value in mapping.items()}


def _store(augment: type) -> None:
    """Hands the schema's defaults to Hydra: one node for each variant, one for all else."""
    store = ConfigStore.instance()
    base: dict[str, Any] = {}
    for key, setting in validate.settings({}).items():
        if not key.startswith("augment."):
            default = setting.default
            _put(base, key, list(default) if isinstance(default, tuple) else default)
    store.store(name="base", node=base)
    store.store(group="augment", name="none", node=validate.to_mapping(augment()))
    for group, classes in schema.VARIANTS.items():
        for name, cls in classes.items():
            store.store(group=group, name=name, node=validate.to_mapping(cls()))


def _variants(mapping: Mapping[str, Any]) -> dict[str, str]:
    return {section: mapping[section]["name"] for section in schema.VARIANTS}


def _put(mapping: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(mapping.get(parent), dict):
            mapping[parent] = {}
        mapping = mapping[parent]
    mapping[last] = value


def _resolved(mapping: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Interpolations such as `${oc.env:DATA}` filled in."""
    if "${" not in repr(mapping):
        return mapping
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(mapping), resolve=True)
    except OmegaConfBaseException as error:
        problems.append(f"an interpolation cannot be resolved: {str(error).splitlines()[0]}")
        return mapping
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}
