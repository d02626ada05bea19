"""The search space: which settings a search chooses, from what, and under which conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from raudio.config import chain, compose, validate
from raudio.config.axes import Axis, Choice, Interval, Range, Value, text
from raudio.config.expressions import Expression
from raudio.core.errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

#: Cells of the largest grid, and values of the longest range: more were a mistake.
MOST_CELLS = 100_000


class Trial(Protocol):
    """What is asked for the values of a trial: an Optuna trial, or what stands for one."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """A whole number; both bounds are included."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number."""


@dataclass(frozen=True)
class Param:
    """One searched setting.

    Attributes:
        key: of the setting, or of a group whose variant is chosen.
        axis: what it may be, in the setting's own type.
        when: key -> values; it is drawn when each of these keys has been drawn as one of them.
        name: what Optuna knows it by: the key, and the condition where one key has several axes.
    """

    key: str
    axis: Axis
    when: Mapping[str, tuple[Value, ...]]
    name: str

    @property
    def values(self) -> tuple[Value, ...]:
        """All it may be; empty for an interval."""
        return () if isinstance(self.axis, Interval) else values_of(self.axis)


@dataclass(frozen=True)
class Space:
    """A checked search space.

    Attributes:
        name: the name or path it was loaded by.
        about: one line.
        params: in the order in which they are drawn: groups first, conditions last.
        notes: what a command line changed in it, one sentence each.
        constraints: what the settings of every trial must meet.
        fixed: settings that constraints speak of, with the one value that each has where it is not
            drawn.
        points: settings that the first trials have; what they lack is drawn.
    """

    name: str
    about: str = ""
    params: tuple[Param, ...] = ()
    notes: tuple[str, ...] = ()
    constraints: tuple[Expression, ...] = ()
    fixed: tuple[Param, ...] = ()
    points: tuple[Mapping[str, Value], ...] = ()

    def suggest(self, trial: Trial) -> dict[str, Value]:
        """Draws one trial's settings, key -> value; a param with one value needs no draw."""
        drawn: dict[str, Value] = {}
        for param in self.params:
            if self.active(param, drawn):
                values = param.values
                drawn[param.key] = values[0] if len(values) == 1 else _draw(trial, param)
        return drawn

    def distributions(self) -> dict[str, BaseDistribution]:
        """What each param is drawn from, by the name that Optuna knows; conditional ones, too."""
        import optuna

        trial = optuna.create_study().ask()
        for param in self.params:
            if len(param.values) != 1:
                _draw(trial, param)
        return dict(trial.distributions)

    def allows(self, drawn: Mapping[str, Value]) -> bool:
        """Whether drawn settings meet every constraint."""
        return not self.constraints or not self.broken(drawn)

    def broken(self, drawn: Mapping[str, Value]) -> list[Expression]:
        """The constraints that drawn settings do not meet."""
        fixed = {each.key: each.values[0] for each in self.fixed if self.active(each, drawn)}
        values = {**fixed, **drawn}
        return [each for each in self.constraints if not each.holds(values)]

    def enqueued(self, drawn: Mapping[str, Value]) -> dict[str, Value]:
        """`drawn` by the names that Optuna knows the params by: what `enqueue_trial` takes."""
        return {
            param.name: _as_drawn(param.axis, drawn[param.key])
            for param in self.params
            if param.key in drawn and self.active(param, drawn)
        }

    def groups(self) -> dict[str, str]:
        """The first choice of each searched group, so that a base configuration can be composed;
        and, for the same reason, of each text that a step of the augmentation chain is given."""
        return {
            param.key: param.values[0]
            for param in self.params
            if is_base(param.key, param.axis, param.when)
        }

    def grid(self) -> list[dict[str, Value]]:
        """Every cell of the space that its constraints allow.

        Raises:
            ConfigError: an interval has no cells, there are more than a machine could try, or the
                constraints allow none.
        """
        endless = [param for param in self.params if isinstance(param.axis, Interval)]
        validate.raise_problems(
            f"search.sampler=grid needs steps, but {param.key} is {param.axis}; write "
            f"choice(a, b) or range(start, stop, step=s), or search.sampler=tpe"
            for param in endless
        )
        cells = list(islice(self._cells(0, {}), MOST_CELLS + 1))
        if len(cells) > MOST_CELLS:
            raise ConfigError(
                f"space {self.name}: the grid has more than {MOST_CELLS} cells; "
                "take longer steps or fewer params, or search.sampler=tpe"
            )
        allowed = [cell for cell in cells if self.allows(cell)]
        if not allowed:
            broken = [self.broken(cell) for cell in cells]
            never = [each for each in self.constraints if all(each in those for those in broken)]
            raise self.nothing_left(never, f"{len(cells)} cells")
        return allowed

    def size(self) -> int | None:
        """How many different trials there are; None when an interval makes them endless, or when
        they are too many to hold each against the constraints."""
        count = self.cells()
        if count is None or not self.constraints:
            return count
        if count > MOST_CELLS:
            return None
        return sum(self.allows(cell) for cell in self._cells(0, {}))

    def cells(self) -> int | None:
        """As `size`, with those that the constraints exclude."""
        if any(isinstance(param.axis, Interval) for param in self.params):
            return None
        return self._count(0, {}, frozenset(key for param in self.params for key in param.when))

    def nothing_left(self, never: Sequence[Expression], tried: str) -> ConfigError:
        """The error of constraints that allow none of what was tried.

        Args:
            never: the constraints that none of it meets.
            tried: how much of what.
        """
        said = f"{str(never[0])!r} holds in none" if never else "none meets them all"
        return ConfigError(
            f"space {self.name}: its constraints leave nothing of {tried}: {said}; relax one, or "
            "widen the space"
        )

    def to_mapping(self) -> dict[str, Any]:
        """The space as its YAML holds it; `load` of it, with the same overrides, is the same."""
        always = {param.key: str(param.axis) for param in self.params if not param.when}
        mapping: dict[str, Any] = {"about": self.about, "params": always, "conditions": []}
        for param in self.params:
            if not param.when:
                continue
            when = {
                key: values[0] if len(values) == 1 else list(values)
                for key, values in param.when.items()
            }
            same = [entry for entry in mapping["conditions"] if entry["when"] == when]
            if not same:
                same = [{"when": when, "params": {}}]
                mapping["conditions"] += same
            same[0]["params"][param.key] = str(param.axis)
        mapping["constraints"] = [str(each) for each in self.constraints]
        mapping["points"] = [
            {key: list(v) if isinstance(v, tuple) else v for key, v in point.items()}
            for point in self.points
        ]
        return mapping

    def describe(self) -> list[tuple[str, str, str]]:
        """Rows of (key, axis, condition), ready to print."""
        return [(param.key, str(param.axis), condition_text(param.when)) for param in self.params]

    def active(self, param: Param, drawn: Mapping[str, Value]) -> bool:
        """Whether the condition of a param holds, as far as settings are drawn."""
        return all(key in drawn and drawn[key] in values for key, values in param.when.items())

    def _cells(self, index: int, drawn: dict[str, Value]) -> Iterator[dict[str, Value]]:
        if index == len(self.params):
            yield drawn
        elif not self.active(self.params[index], drawn):
            yield from self._cells(index + 1, drawn)
        else:
            param = self.params[index]
            for value in param.values:
                yield from self._cells(index + 1, {**drawn, param.key: value})

    def _count(self, index: int, drawn: dict[str, Value], deciding: frozenset[str]) -> int:
        """Cells from `index` on; only keys that conditions ask for are tried one by one."""
        if index == len(self.params):
            return 1
        param = self.params[index]
        if not self.active(param, drawn):
            return self._count(index + 1, drawn, deciding)
        if param.key not in deciding:
            return len(param.values) * self._count(index + 1, drawn, deciding)
        return sum(
            self._count(index + 1, {**drawn, param.key: value}, deciding) for value in param.values
        )


def is_base(key: str, axis: Axis, when: Mapping[str, tuple[Value, ...]]) -> bool:
    """Whether a base configuration needs its first choice: a group's variant, or a step's text."""
    if chain.is_key(key):
        return not when and isinstance(next(iter(values_of(axis)), None), str)
    return not when and bool(compose.options(key))


def condition_text(when: Mapping[str, tuple[Value, ...]]) -> str:
    """A condition as it is shown: `model=crnn, features=logmel|mfcc`."""
    return ", ".join(f"{key}={'|'.join(text(v) for v in values)}" for key, values in when.items())


def values_of(axis: Axis) -> tuple[Value, ...]:
    """All that an axis may be; empty for an interval, and for what is too long to be meant."""
    if isinstance(axis, Choice):
        return axis.values
    return () if isinstance(axis, Interval) or len(axis) > MOST_CELLS else axis.values()


def _storable(value: Value) -> Value:
    """What Optuna's storage takes for a value: a list as its text."""
    return text(value) if isinstance(value, (list, tuple)) else value


def _as_drawn(axis: Axis, value: Value) -> Value:
    """The very number that Optuna draws for a value: its third step of 0.1 is not quite 0.3, and a
    study that is rebuilt has to draw on as if it had drawn each value itself."""
    if not isinstance(axis, Range) or isinstance(value, int):
        return _storable(value)
    low, step = min(axis.values()), abs(axis.step)
    return low + round((value - low) / step) * step


def _draw(trial: Trial, param: Param) -> Value:
    axis = param.axis
    if isinstance(axis, Choice):
        choices = {_storable(value): value for value in axis.values}
        return choices[trial.suggest_categorical(param.name, list(choices))]
    if isinstance(axis, Interval):
        if axis.integer:
            return trial.suggest_int(param.name, int(axis.low), int(axis.high), log=axis.log)
        return trial.suggest_float(param.name, axis.low, axis.high, log=axis.log)
    values = axis.values() if axis.step > 0 else axis.values()[::-1]
    step = abs(axis.step)
    if isinstance(values[0], int):
        return trial.suggest_int(param.name, values[0], int(values[-1]), step=int(step))
    drawn = trial.suggest_float(param.name, values[0], values[-1], step=step)
    return values[round((drawn - values[0]) / step)]
