"""The space to search next: narrower where the good values are, wider where they touch its edge,
without what did not matter.

Only what the trials show beyond chance changes anything; what they don't is left as it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raudio.config.axes import Axis, Choice, Interval, text
from raudio.config.meta import Meta
from raudio.report import analysis
from raudio.report.run import Run
from raudio.report.values import Interaction, Values, good

#: Trials below which a setting that seems not to matter is searched on.
TRIALS_TO_DROP = 2 * analysis.FEWEST_TRIALS
#: Good values touch an end of a range when more than this share of them is in its outer tenth.
_AT_EDGE, _EDGE = 0.25, 0.1
#: What is added at an edge, and left free beside good values, as shares of a range.
_EXTENSION, _MARGIN = 0.5, 0.1
#: A range is narrowed when it loses at least this share.
_WORTH = 0.2
#: The chance at which a value counts as worse than others, over all values of its setting.
_LEVEL = 0.05


@dataclass(frozen=True)
class Change:
    """What becomes of a setting's axis, and why."""

    setting: str
    before: str
    after: str
    reason: str


@dataclass(frozen=True)
class NextSpace:
    """What to search next.

    Attributes:
        space: as a file of `search_spaces/` holds it; empty where nothing changes.
        changes: what is not as it was.
    """

    space: dict[str, Any]
    changes: tuple[Change, ...]


def next_space(
    run: Run,
    importances: Sequence[analysis.Importance],
    found: Sequence[Values],
    interactions: Sequence[Interaction],
) -> NextSpace:
    """Draws the conclusions; none where importances are unknown: too few trials."""
    space = run.space_file
    clear = {one.setting for one in importances if one.share > one.chance}
    together = {key for one in interactions if one.share > one.chance for key in one.settings}
    if not space or not clear | together:
        return NextSpace({}, ())
    known = {one.setting: one for one in found}
    changes: list[Change] = []
    values: dict[str, list[str]] = {}  # what a setting that others depend on may still be

    def changed(params: Mapping[str, Any]) -> dict[str, Any]:
        after: dict[str, Any] = {}
        for key, written in params.items():
            axis = _parsed(key, written)
            new, reason = axis, ""
            if key in clear:
                new, reason = _closer(run, axis, known[key])
            elif key in known and key not in together and len(run.drawn) >= TRIALS_TO_DROP:
                new, reason = _fixed(run, key, axis)
            if isinstance(new, Choice):
                values[key] = [text(value) for value in new.values]
            after[key] = str(new) if reason else written
            if reason:
                changes.append(Change(key, str(axis), str(new), reason))
        return after

    result = {**space, "params": changed(space.get("params") or {})}
    conditions = []
    for condition in space.get("conditions") or ():
        when = dict(_still(condition["when"], values))
        if all(when.values()):
            conditions.append({**condition, "when": when, "params": changed(condition["params"])})
    result["conditions"] = conditions
    result["about"] = f"after {run.name}: {space.get('about') or 'narrowed'}"
    return NextSpace(result, tuple(changes)) if changes else NextSpace({}, ())


def _still(when: Mapping[str, Any], values: Mapping[str, list[str]]) -> Iterator[tuple[str, Any]]:
    """A condition without values that are no longer searched; an empty list: it can't hold."""
    for key, wanted in when.items():
        listed = wanted if isinstance(wanted, list) else [wanted]
        kept = [one for one in listed if key not in values or text(one) in values[key]]
        yield key, kept[0] if len(kept) == 1 else kept


def _parsed(key: str, written: Any) -> Axis:
    from raudio.config.compose import parse_axis  # Hydra takes half a second

    return parse_axis(key, written)


def _fixed(run: Run, key: str, axis: Axis) -> tuple[Axis, str]:
    """The value of the best trial that has the setting."""
    best = next(trial for trial in run.drawn if key in trial.params)
    value = best.params[key]
    value = float(f"{value:.3g}") if isinstance(value, float) else value
    return Choice((value,)), f"decides no more than chance; as in trial {best.id}"


def _closer(run: Run, axis: Axis, values: Values) -> tuple[Axis, str]:
    """An axis nearer to the good values, and why; the same and no reason where nothing is clear."""
    if isinstance(axis, Choice):
        return _without_poor(axis, values)
    if isinstance(axis, Interval) and values.best is not None:
        return _moved(run, axis, values)
    return axis, ""


def _without_poor(axis: Choice, values: Values) -> tuple[Axis, str]:
    """Leaves out values that are among the good too seldom for chance."""
    kept = []
    for value in axis.values:
        drawn, best = values.counts.get(text(value), (0, 0))
        chance = _at_most(best, values.trials, drawn, values.good)
        if chance >= _LEVEL / len(axis.values):
            kept.append(value)
    if not kept or len(kept) == len(axis.values):
        return axis, ""
    poor = [text(value) for value in axis.values if value not in kept]
    return Choice(tuple(kept)), f"{', '.join(poor)} hardly among the good"


def _at_most(count: int, trials: int, drawn: int, good: int) -> float:
    """The chance that at most `count` of `drawn` among `trials` are good, of which `good` are: the
    hypergeometric distribution."""
    ways = (
        math.comb(drawn, one) * math.comb(trials - drawn, good - one) for one in range(count + 1)
    )
    return sum(ways) / math.comb(trials, good)


def _moved(run: Run, axis: Interval, values: Values) -> tuple[Axis, str]:
    assert values.best is not None
    scale = math.log if axis.log else float
    low, high = scale(axis.low), scale(axis.high)
    width = high - low
    chosen = good(run, run.drawn)
    key = values.setting
    at = sorted(
        scale(trial.params[key])
        for trial in run.drawn
        if trial.id in chosen and key in trial.params
    )
    reasons = []
    new_low = max(low, at[0] - _MARGIN * width)
    new_high = min(high, at[-1] + _MARGIN * width)
    if new_high - new_low > (1 - _WORTH) * width:
        new_low, new_high = low, high
    else:
        reasons.append("narrowed to the good values")
    if sum(one < low + _EDGE * width for one in at) > _AT_EDGE * len(at):
        new_low = low - _EXTENSION * width
        reasons.append("the good values touch its low end")
    elif sum(one > high - _EDGE * width for one in at) > _AT_EDGE * len(at):
        new_high = high + _EXTENSION * width
        reasons.append("the good values touch its high end")
    back = math.exp if axis.log else float
    moved = _allowed(axis, back(new_low), back(new_high), _meta(run, key))
    return (axis, "") if moved == axis or not reasons else (moved, "; ".join(reasons))


def _allowed(axis: Interval, low: float, high: float, meta: Meta) -> Interval:
    """The bounds, rounded, and no further than the setting may go."""
    low, high = float(f"{low:.2g}"), float(f"{high:.2g}")
    if axis.integer:
        low, high = math.floor(low), math.ceil(high)
    least = [bound for bound in (meta.min,) if bound is not None]
    most = [bound for bound in (meta.max,) if bound is not None]
    low, high = max([low, *least]), min([high, *most])
    if meta.above is not None and low <= meta.above:
        low = axis.low
    if meta.below is not None and high >= meta.below:
        high = axis.high
    if axis.log and low <= 0:
        low = axis.low
    return replace(axis, low=low, high=high) if low < high else axis


def _meta(run: Run, key: str) -> Meta:
    """What is known of a setting; nothing, of one of a plugin."""
    from raudio.config import schema, validate

    group = key.partition(".")[0]
    names = [trial.params.get(group) for trial in run.drawn if key in trial.params]
    name = names[0] or run.configured("experiment", group).get("name")
    variants = {group: name} if name in schema.VARIANTS.get(group, {}) else {}
    setting = validate.settings(variants).get(key)
    return Meta("") if setting is None else setting.meta
