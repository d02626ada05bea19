"""A space as it was written, held against the schema: every key, value, bound and condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from raudio.config import chain, compose, schema, validate
from raudio.config.axes import Interval, Value, text
from raudio.config.setting import Setting
from raudio.core.errors import closest
from raudio.search import constraints, points
from raudio.search.constraints import settings_anywhere
from raudio.search.space import Param, Space, condition_text, values_of
from raudio.search.space_axes import attempt, checked_choice, typed_axis
from raudio.search.space_draft import Draft, Entry

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
    "tracking": "it belongs to the search, not to a trial",
    "cluster": "it belongs to the search, not to a trial",
}


def checked(draft: Draft, overrides: Sequence[str], problems: list[str]) -> Space:
    """The space, with a problem for all that cannot work."""
    base, _ = compose.composed(overrides, draft.groups())
    axes: dict[str, list[Entry]] = {}
    entries = sorted(draft.entries, key=lambda e: (bool(e.when), not compose.options(e.key)))
    for entry in entries:
        axes.setdefault(entry.key, []).append(entry)
    params: list[Param] = []
    seen: dict[str, list[Entry]] = {}
    for entry in entries:
        if any(not _exclusive(entry.when, other.when) for other in seen.get(entry.key, [])):
            problems.append(
                f"{entry.where}: {entry.key} has two axes that may hold at once; "
                "write it once, or under conditions that exclude each other"
            )
        count = len(problems)
        when: dict[str, tuple[Value, ...]] = {}
        possible = True
        searched = {p.key: p.values for p in params if compose.options(p.key)}
        for key, wanted in entry.when.items():
            if key in axes and key not in seen:
                problems.append(f"{entry.where}: {key} is drawn later; move this down")
            asked = _asked(draft, entry.where, key, wanted, base, axes, problems)
            when[key] = tuple(value for value in asked if value in when.get(key, asked))
            if key in axes:
                drawn = [value for param in params if param.key == key for value in param.values]
                possible &= any(value in drawn for value in when[key])
                continue
            # What is given has its value in those variants of a searched group that have it.
            holding = [
                each.when
                for each in constraints.fixed([key], searched, overrides, draft.groups())
                if each.values[0] in asked
            ]
            possible &= bool(holding)
            for group in {group for each in holding for group in each}:
                variants = {variant for each in holding for variant in each[group]}
                among = when.get(group, searched[group])
                if not variants.issuperset(among):
                    when[group] = tuple(variant for variant in among if variant in variants)
                    possible &= bool(when[group])
        seen.setdefault(entry.key, []).append(entry)
        if len(problems) > count:
            continue  # what follows from a faulty condition is no problem of its own
        param = _param(draft, replace(entry, when=when), base, axes, problems)
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
    allowed = constraints.checked(draft.constraints, base, problems)
    spoken = sorted({key for each in allowed for key in each.names})
    searched = {p.key: p.values for p in params if compose.options(p.key)}
    fixed = constraints.fixed(spoken, searched, overrides, draft.groups())
    space = Space(draft.name, draft.about, tuple(named), draft.notes, allowed, tuple(fixed))
    return replace(space, points=points.checked(draft.points, space, base, problems))


def _asked(
    draft: Draft,
    where: str,
    key: str,
    wanted: tuple[Value, ...],
    base: Mapping[str, Any],
    axes: Mapping[str, Sequence[Entry]],
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
        attempt(lambda: typed.append(known[0].checked(value)), where, problems)  # noqa: B023
    # the file's own axis: the command line may narrow it, which is no mistake in the file
    written = [draft.replaced[key]] if key in draft.replaced else []
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
    draft: Draft,
    entry: Entry,
    base: Mapping[str, Any],
    axes: Mapping[str, Sequence[Entry]],
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
        axis = checked_choice(entry, compose.options(key), problems)
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
        if section in draft.replaced and settings_anywhere(key, base):
            return None  # it belongs to a variant that the command line has ruled out
        variants = {section: chosen[0]} if chosen else {}
        said = _unknown(key, entry.axis, variants, base)
        problems.append(f"{entry.where}: {said}")
        return None
    if section in axes and len(found) < len(chosen):
        when[section] = tuple(variant for variant in found if variant is not None)
    axis = None
    for setting in found.values():
        axis = typed_axis(replace(entry, axis=axis or entry.axis), setting, problems)
        if axis is None:
            return None
    assert axis is not None
    return Param(key, axis, when, key)


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
