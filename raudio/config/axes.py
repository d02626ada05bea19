"""Axes of a search space: what one setting may be, as plain values. No Hydra, no Optuna."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeAlias

Value: TypeAlias = Any  # None, bool, int, float, str, or a tuple of them

#: Texts that the grammar would read as something else.
_WORDS = ("true", "false", "null", "inf", "nan")


@dataclass(frozen=True)
class Choice:
    """One of `values`, without an order among them."""

    values: tuple[Value, ...]

    def __str__(self) -> str:
        return f"choice({', '.join(quoted(value) for value in self.values)})"


@dataclass(frozen=True)
class Interval:
    """Any number from `low` to `high`, both included.

    Attributes:
        low, high: the bounds.
        log: drawn uniformly in the logarithm.
        integer: whole numbers only.
    """

    low: float
    high: float
    log: bool = False
    integer: bool = False

    def __str__(self) -> str:
        inner = f"interval({_short(self.low)}, {_short(self.high)})"
        inner = f"int({inner})" if self.integer else inner
        return f"tag(log, {inner})" if self.log else inner


@dataclass(frozen=True)
class Range:
    """The numbers `start`, `start + step`, ... before `stop`, which is excluded as in Python."""

    start: float
    stop: float
    step: float = 1

    def __len__(self) -> int:
        """How many numbers there are; none when the step leads away from `stop` or is zero."""
        start, stop, step = self._decimals()
        return max(0, math.ceil((stop - start) / step)) if step else 0

    def values(self) -> tuple[float, ...]:
        """The numbers, in order; computed in decimals, so that steps of 0.1 stay 0.1, 0.2, 0.3."""
        whole = all(isinstance(part, int) for part in (self.start, self.stop, self.step))
        return _numbers(*self._decimals(), len(self), whole)

    def _decimals(self) -> tuple[Decimal, Decimal, Decimal]:
        return Decimal(str(self.start)), Decimal(str(self.stop)), Decimal(str(self.step))

    def __str__(self) -> str:
        step = "" if self.step == 1 else f", step={text(self.step)}"
        return f"range({text(self.start)}, {text(self.stop)}{step})"


@lru_cache(maxsize=256)  # a space asks for them with every draw
def _numbers(
    start: Decimal, _: Decimal, step: Decimal, count: int, whole: bool
) -> tuple[float, ...]:
    numbers = (start + index * step for index in range(count))
    return tuple(int(number) if whole else float(number) for number in numbers)


Axis: TypeAlias = Choice | Interval | Range


def text(value: Value) -> str:
    """A value as people write it: `none`, `true`, `1e-05`, `[a, b]`."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(text(item) for item in value)}]"
    return str(value)


def _short(number: float) -> str:
    """Without the `.0` of a whole number."""
    return str(int(number)) if float(number).is_integer() else str(number)


def quoted(value: Value) -> str:
    """As `text`, with quotes around what the grammar would not read as this very text."""
    if isinstance(value, str) and (value in _WORDS or not re.fullmatch(r"[A-Za-z_][\w-]*", value)):
        escaped = value.replace("'", "\\'")
        return f"'{escaped}'"
    return text(value)
