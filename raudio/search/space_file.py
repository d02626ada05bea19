"""The search space: which settings a search chooses, from what, and under which conditions.

A space is a YAML file of `search_spaces/` (or any path) in the grammar of the command line:

    about: one line for `raudio list spaces`
    params:
      model: choice(cnn, crnn)
      optimizer.lr: tag(log, interval(1e-4, 1e-2))
    conditions:
      - when: {model: crnn}
        params:
          model.rnn_layers: choice(1, 2)
    constraints:
      - model=crnn requires training.batch_size <= 32

Axes on the command line (`features.n_mels=range(32, 129, step=32)`) are added, or replace the
file's; a plain override (`optimizer.lr=0.001`) takes its setting out of the search. A setting that
only some of the searched variants have is drawn for these alone. Constraints, the file's and those
of `search.constraints`, exclude what does not go together (`config.expressions` has their grammar).
A loaded space is a checked one: every key, value, bound and condition has been held against the
schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from raudio.config import chain, compose, schema, validate
from raudio.config.axes import Axis, Choice, Interval, Range, Value, text
from raudio.config.schema import Configuration
from raudio.config.setting import Setting
from raudio.core.errors import ConfigError, closest, unknown
from raudio.search import constraints, points
from raudio.search.constraints import CONSTRAINTS, settings_anywhere, value_in
from raudio.search.points import POINTS
from raudio.search.space import MOST_CELLS, Param, Space, condition_text, is_base, values_of

#: What is the same for all trials of a search, and why.
_COMMON = {
    "dataset.path": "all trials are compared on the same data",
    "dataset.labels": "all trials are compared on the same data",
    "dataset.sample_rate": "the audio is decoded once, for all trials",
    "dataset.precision": "the audio is decoded once, for all trials",
    "dataset.feed": "the audio is decoded once, for all trials",
    "dataset.resident_budget": "the audio is decoded once, for all trials",
    "dataset.cache_limit": "the audio is decoded once, for all trials",
    "augment.where": "the feed is chosen once, for all trials",
    "task": "trials of different tasks have no metric in common",
    "training.epochs": "all trials have the same budget",
    "training.steps": "all trials have the same budget",
    "training.steps_per_epoch": "all trials are compared after the same steps",
    "training.metric": "all trials are compared by one metric",
    "resources": "all trials get the same resources",
    "plugins": "plugins are imported once, for all trials",
    "space": "a search has one space",
    "search": "it belongs to the search, not to a trial",
    "run": "it belongs to the search, not to a trial",
    "cluster": "it belongs to the search, not to a trial",
}


_KEYS = ("about", "params", "conditions", "constraints", "points")


def load(
    name: str,
    extra: Mapping[str, Axis] | None = None,
    overrides: Sequence[str] = (),
) -> Space:
    """Reads and checks a space.

    Args:
        name: a file of `search_spaces/`, or the path of another.
        extra: axes of the command line.
        overrides: plain overrides of the command line.

    Raises:
        ConfigError: no such space, or all that is wrong with it in one message.
    """
    draft = _Draft.read(name, extra or {}, overrides)
    problems: list[str] = []
    space = draft.checked(overrides, problems)
    validate.raise_problems(problems)
    return space


def resolve(args: Sequence[str]) -> tuple[Configuration, Space, list[str]]:
    """What a search's command line means: the configuration, the space and the plain overrides.

    The configuration's experiment is what trials have in common, with the first choice of each
    searched group. `compose.experiment_for(overrides, drawn)` gives a trial's.

    Raises:
        ConfigError: all that is wrong with the overrides and the space, in one message.
    """
    overrides, axes = compose.split(args)
    name = compose.values_of(overrides).get("space") or "default"
    draft = _Draft.read(str(name), axes, overrides)
    problems: list[str] = []
    space = draft.checked(overrides, problems)
    found: list[str | ConfigError] = [*problems]
    try:
        configuration = compose.compose(overrides, draft.groups())
    except ConfigError as error:
        found.insert(0, error)
    validate.raise_problems(found)
    return configuration, space, overrides


def folder() -> Path:
    """Where the spaces are that come with raudio: in the package, or beside it in a clone."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "search_spaces"
    return shipped if shipped.is_dir() else package.parent / "search_spaces"


def names() -> dict[str, str]:
    """The spaces that come with raudio: name -> one line."""
    found = {}
    for path in sorted(folder().glob("*.yaml")):
        content = yaml.safe_load(path.read_text()) or {}
        found[path.stem] = str(content.get("about", ""))
    return found


# --- reading and checking ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """A param as it was read: nothing but its syntax is known to be right."""

    where: str
    key: str
    axis: Axis
    when: Mapping[str, tuple[Value, ...]]


@dataclass(frozen=True)
class _Draft:
    """A space as it was read; `replaced` has the file's axes that the command line took away, and
    `constraints` and `points` each with its place."""

    name: str
    about: str
    entries: tuple[_Entry, ...]
    replaced: Mapping[str, Axis]
    notes: tuple[str, ...]
    constraints: tuple[tuple[str, Any], ...]
    points: tuple[tuple[str, Mapping[str, Any]], ...]

    @staticmethod
    def read(name: str, extra: Mapping[str, Axis], overrides: Sequence[str]) -> _Draft:
        """Reads a space file and adds what the command line says.

        Raises:
            ConfigError: no such file, no YAML, or not the form of a space.
        """
        mapping = _load(name)
        problems: list[str] = []
        entries: list[_Entry] = []
        for where, when, params in _parts(name, mapping, problems):
            for key, value in params.items():
                try:
                    entries.append(_Entry(where, str(key), compose.parse_axis(key, value), when))
                except ConfigError as error:
                    problems.append(f"{where}: {error}")
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
        known += points.read(_listed(fixed.get(POINTS) or []), problems)
        validate.raise_problems(problems)
        added = [_Entry("command line", key, axis, {}) for key, axis in extra.items()]
        kept = [entry for entry in entries if entry.key not in replaced]
        return _Draft(
            name=name,
            about=str(mapping.get("about", "")),
            entries=(*added, *kept),
            replaced=replaced,
            notes=tuple(dict.fromkeys(notes)),
            constraints=(
                *(
                    (f"space {name}, constraints", each)
                    for each in _listed(mapping.get("constraints") or [])
                ),
                *((CONSTRAINTS, each) for each in _listed(fixed.get(CONSTRAINTS) or [])),
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

    def checked(self, overrides: Sequence[str], problems: list[str]) -> Space:
        """The space, with a problem for all that cannot work."""
        base, _ = compose.composed(overrides, self.groups())
        axes: dict[str, list[_Entry]] = {}
        entries = sorted(self.entries, key=lambda e: (bool(e.when), not compose.options(e.key)))
        for entry in entries:
            axes.setdefault(entry.key, []).append(entry)
        params: list[Param] = []
        seen: dict[str, list[_Entry]] = {}
        for entry in entries:
            if any(not _exclusive(entry.when, other.when) for other in seen.get(entry.key, [])):
                problems.append(
                    f"{entry.where}: {entry.key} has two axes that may hold at once; "
                    "write it once, or under conditions that exclude each other"
                )
            count = len(problems)
            when: dict[str, tuple[Value, ...]] = {}
            possible = True
            for key, wanted in entry.when.items():
                if key in axes and key not in seen:
                    problems.append(f"{entry.where}: {key} is drawn later; move this down")
                when[key] = self._asked(entry.where, key, wanted, base, axes, problems)
                drawn = [value for param in params if param.key == key for value in param.values]
                met = drawn if key in axes else [value_in(base, key, overrides)]
                possible &= any(value in met for value in when[key])
            seen.setdefault(entry.key, []).append(entry)
            if len(problems) > count:
                continue  # what follows from a faulty condition is no problem of its own
            param = self._param(replace(entry, when=when), base, axes, problems)
            if param is not None and possible:
                when = {key: values for key, values in param.when.items() if key in axes}
                params.append(replace(param, when=when))
        # as `to_mapping` writes them, so that a run's copy draws in the same order
        conditions = list(dict.fromkeys(str(param.when) for param in params if param.when))
        params.sort(key=lambda p: conditions.index(str(p.when)) + 1 if p.when else 0)
        keys = [param.key for param in params]
        named = [
            replace(param, name=f"{param.key} ({condition_text(param.when)})")
            if keys.count(param.key) > 1
            else param
            for param in params
        ]
        allowed = constraints.checked(self.constraints, base, problems)
        spoken = sorted({key for each in allowed for key in each.names})
        searched = {p.key: p.values for p in params if compose.options(p.key)}
        fixed = constraints.fixed(spoken, searched, overrides, self.groups())
        space = Space(self.name, self.about, tuple(named), self.notes, allowed, tuple(fixed))
        return replace(space, points=points.checked(self.points, space, base, problems))

    def _asked(
        self,
        where: str,
        key: str,
        wanted: tuple[Value, ...],
        base: Mapping[str, Any],
        axes: Mapping[str, Sequence[_Entry]],
        problems: list[str],
    ) -> tuple[Value, ...]:
        """The values that a condition asks for, in the setting's type; problems if never met."""
        known = settings_anywhere(key, base)
        if not known and not compose.options(key):
            problems.append(f"{where}: {_unknown(key, wanted[0], {}, base)}")
            return wanted
        typed: list[Value] = []
        if compose.options(key):
            typed += wanted
        for value in wanted if known else ():
            _attempt(lambda: typed.append(known[0].checked(value)), where, problems)  # noqa: B023
        # the file's own axis: the command line may narrow it, which is no mistake in the file
        written = [self.replaced[key]] if key in self.replaced else []
        written = written or [entry.axis for entry in axes.get(key, ())]
        if any(isinstance(axis, Interval) for axis in written):
            problems.append(
                f"{where}: {key} is {written[0]}, of which no single value can be asked for; "
                "write a choice or a range"
            )
        elif written or compose.options(key):
            allowed = [value for axis in written for value in values_of(axis)]
            if known and known[0].optional:
                allowed = [None if value == "none" else value for value in allowed]
            allowed = allowed or list(compose.options(key))
            source = f"{key} is {written[0]}" if written else f"{key} is not searched"
            problems += [
                f"{where}: when {key}={text(value)} never holds"
                f"{closest(text(value), [text(other) for other in allowed])}; {source}, "
                f"and may be {', '.join(text(other) for other in allowed)}"
                for value in typed
                if value not in allowed
            ]
        return tuple(typed)

    def _param(
        self,
        entry: _Entry,
        base: Mapping[str, Any],
        axes: Mapping[str, Sequence[_Entry]],
        problems: list[str],
    ) -> Param | None:
        """The entry with its axis in the setting's type; None when it applies to no trial."""
        key, section = entry.key, entry.key.partition(".")[0]
        reason = _COMMON.get(key) or (_COMMON.get(section) if section != "task" else None)
        if reason is not None:
            problems.append(f"{entry.where}: {key} cannot be searched: {reason}; set {key}=VALUE")
            return None
        when = dict(entry.when)
        if compose.options(key):
            if entry.when:
                problems.append(
                    f"{entry.where}: the {key} can't be chosen under a condition, as its settings "
                    "depend on it; choose it in params"
                )
                return None
            axis = _checked_choice(entry, compose.options(key), problems)
            return None if axis is None else Param(key, axis, when, key)

        if chain.is_kind(key) and (entry.when or len(values_of(entry.axis)) != 1):
            problems.append(
                f"{entry.where}: {key}={entry.axis} cannot be searched: the step's settings depend "
                "on it; make it a choice of two steps, and search their weights"
            )
            return None
        found: dict[str | None, Setting] = {}
        chosen: tuple[Value, ...] = ()
        if section not in schema.VARIANTS:
            setting = next(iter(settings_anywhere(key, base)), None)
            found |= {None: setting} if setting else {}
        else:
            chosen = when.get(section) or (base[section]["name"],)
            if section in axes and section not in when:
                drawn = [value for other in axes[section] for value in values_of(other.axis)]
                chosen = tuple(value for value in drawn if value in compose.options(section))
                if not chosen:
                    return None  # a problem of the group's own axis
            for variant in chosen:
                known = validate.settings({section: variant})
                found |= {variant: known[key]} if key in known else {}
        if not found:
            if section in self.replaced and settings_anywhere(key, base):
                return None  # it belongs to a variant that the command line has ruled out
            variants = {section: chosen[0]} if chosen else {}
            said = _unknown(key, entry.axis, variants, base)
            problems.append(f"{entry.where}: {said}")
            return None
        if section in axes and len(found) < len(chosen):
            when[section] = tuple(variant for variant in found if variant is not None)
        axis = None
        for setting in found.values():
            axis = _typed(replace(entry, axis=axis or entry.axis), setting, problems)
            if axis is None:
                return None
        assert axis is not None
        return Param(key, axis, when, key)


def _load(name: str) -> Mapping[str, Any]:
    """The YAML of a space, by name or path."""
    shipped = folder() / f"{name}.yaml"
    is_path = name.endswith((".yaml", ".yml")) or "/" in name
    path = Path(name) if is_path else shipped
    if not path.is_file():
        if is_path:
            near = sorted(other.name for other in path.parent.glob("*.y*ml"))
            raise ConfigError(f"space={name}: no such file{closest(path.name, near)}")
        raise ConfigError(f"space={name}: {unknown('space', name, names())}; or give a path")
    try:
        mapping = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"space={name}: {path} is not readable as YAML: {error}") from error
    if not isinstance(mapping, dict) or not mapping:
        raise ConfigError(f"space={name}: {path} holds no `params:`")
    return mapping


def _parts(
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
        yield here, {str(key): _listed(value) for key, value in when.items()}, inner


def _listed(value: Any) -> tuple[Value, ...]:
    return tuple(value) if isinstance(value, list) else (value,)


def _unknown(key: str, value: Any, variants: Mapping[str, str], base: Mapping[str, Any]) -> str:
    """One sentence for a key that names no setting."""
    if chain.is_key(key):
        return chain.unknown_setting(key, value, base["augment"]["chain"])
    return validate.unknown_setting(key, value, variants)


def _exclusive(
    one: Mapping[str, tuple[Value, ...]], other: Mapping[str, tuple[Value, ...]]
) -> bool:
    """Whether two conditions never hold together."""
    return any(key in other and not set(values) & set(other[key]) for key, values in one.items())


# --- axes ----------------------------------------------------------------------------------------


def _checked_choice(entry: _Entry, options: Sequence[str], problems: list[str]) -> Axis | None:
    """A choice among a group's variants."""
    count = len(problems)
    if not isinstance(entry.axis, Choice):
        problems.append(
            f"{entry.where}: {entry.key}={entry.axis} is no choice; "
            f"write choice({', '.join(options)})"
        )
        return None
    for value in entry.axis.values:
        if value not in options:
            said = unknown(entry.key, text(value), options)
            problems.append(f"{entry.where}: {entry.key}={text(value)}: {said}")
    _check_distinct(entry.where, entry.key, entry.axis.values, problems)
    return entry.axis if len(problems) == count else None


def _typed(entry: _Entry, setting: Setting, problems: list[str]) -> Axis | None:
    """The axis with its values in the setting's type; None, with problems, when one can't be."""
    axis, key, where = entry.axis, entry.key, entry.where
    count = len(problems)
    is_number = setting.kind in (int, float) and setting.several == "no"
    if not isinstance(axis, Choice) and not is_number:
        problems.append(f"{where}: {key}={axis}: {key} is no number, but {setting.allowed}")
        return None
    if isinstance(axis, Choice):
        values = []
        for value in axis.values:
            _attempt(lambda: values.append(setting.checked(value)), where, problems)  # noqa: B023
        if len(problems) == count:
            _check_distinct(where, key, values, problems)
        axis = Choice(tuple(values))
    elif isinstance(axis, Range):
        if not len(axis):
            problems.append(
                f"{where}: {key}={axis} is empty: no step leads from {text(axis.start)} towards "
                f"{text(axis.stop)}; write range(low, high, step=s), without high itself"
            )
        elif len(axis) > MOST_CELLS:
            problems.append(
                f"{where}: {key}={axis} has {len(axis)} values; take a longer step or an interval"
            )
        else:
            for value in (axis.values()[0], axis.values()[-1], axis.values()[:2][-1]):
                if len(problems) == count:
                    _attempt(lambda: setting.checked(value), where, problems)  # noqa: B023
            if len(problems) == count and setting.kind is int:
                axis = Range(int(axis.start), _int_if_whole(axis.stop), int(axis.step))
    else:
        for bound in (axis.low, axis.high):
            _attempt(lambda: setting.checked(bound), where, problems)  # noqa: B023
        if not axis.low < axis.high:
            problems.append(
                f"{where}: {key}={axis} is empty: {text(axis.low)} is not below {text(axis.high)}; "
                "write interval(low, high)"
            )
        elif axis.log and axis.low <= 0 and len(problems) == count:
            problems.append(
                f"{where}: {key}={axis}: a logarithm needs a lower bound above 0, "
                f"not {text(axis.low)}"
            )
        if len(problems) == count and setting.kind is int:
            axis = Interval(int(axis.low), int(axis.high), log=axis.log, integer=True)
    return axis if len(problems) == count else None


def _int_if_whole(value: float) -> float:
    return int(value) if float(value).is_integer() else value


def _check_distinct(where: str, key: str, values: Sequence[Value], problems: list[str]) -> None:
    if not values:
        problems.append(f"{where}: {key} has nothing to choose from; write choice(a, b)")
    seen: list[Value] = []
    for value in values:
        if any(value == other and type(value) is type(other) for other in seen):
            problems.append(f"{where}: {key} has {text(value)} twice; write each value once")
        seen.append(value)


def _attempt(check: Any, where: str, problems: list[str]) -> None:
    try:
        check()
    except ConfigError as error:
        said = f"{where}: {error}"
        if said not in problems:
            problems.append(said)
