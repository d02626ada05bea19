"""An axis of a space, held against the setting that it is of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from raudio.config.axes import Axis, Choice, Interval, Range, Value, text
from raudio.config.setting import Setting
from raudio.core.errors import ConfigError, unknown
from raudio.search.space import MOST_CELLS
from raudio.search.space_draft import Entry


def checked_choice(entry: Entry, options: Sequence[str], problems: list[str]) -> Axis | None:
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


def typed_axis(entry: Entry, setting: Setting, problems: list[str]) -> Axis | None:
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
            attempt(lambda: values.append(setting.checked(value)), where, problems)  # noqa: B023
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
                    attempt(lambda: setting.checked(value), where, problems)  # noqa: B023
            if len(problems) == count and setting.kind is int:
                axis = Range(int(axis.start), _int_if_whole(axis.stop), int(axis.step))
    else:
        for bound in (axis.low, axis.high):
            attempt(lambda: setting.checked(bound), where, problems)  # noqa: B023
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


def attempt(check: Callable[[], object], where: str, problems: list[str]) -> None:
    try:
        check()
    except ConfigError as error:
        said = f"{where}: {error}"
        if said not in problems:
            problems.append(said)
