"""What an expression is made of: parts that give their value for given settings, and a logic for
what they leave open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from raudio.config.axes import Value, text

Values = Mapping[str, Value]


@dataclass(frozen=True)
class Part:
    """A part of an expression that has been read.

    Attributes:
        at: where it starts.
        kind: condition, number, word (not known yet to be a name or a value) or value (no number).
        of: gives its value; a condition's is None where it is undecided.
        shown: as messages show it.
        choices: the values that a name may have, by their texts; None: not a name, or any.
        fixed: whether it is no name.
    """

    at: int
    kind: str
    of: Callable[[Values], Any]
    shown: str
    choices: Mapping[str, Value] | None = None
    fixed: bool = False


def fixed_part(at: int, value: Value) -> Part:
    """A value that is written."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    kind = "number" if number else "value"
    return Part(at, kind, lambda values: value, text(value), fixed=True)


def condition_part(at: int, of: Callable[[Values], bool | None]) -> Part:
    """A condition, which is met, not met or undecided."""
    return Part(at, "condition", of, "a condition")


def computed_part(at: int, compute: Callable[..., Any], *numbers: Part) -> Part:
    """A number that is computed from others: at once where they are written.

    What divides by zero or goes beyond a float has no value, and what it stands in is undecided.
    """

    def of(values: Values) -> Any:
        return compute(*(number.of(values) for number in numbers))

    if all(number.fixed for number in numbers):
        with suppress(ArithmeticError):
            return fixed_part(at, of({}))
    return Part(at, "number", of, "a number")


def decided(of: Callable[[Values], Any]) -> Callable[[Values], bool | None]:
    """`of`, undecided where a value is missing, is none where a number is needed, or is divided by
    zero."""

    def truth(values: Values) -> bool | None:
        try:
            return bool(of(values))
        except (KeyError, TypeError, ArithmeticError):
            return None

    return truth


# Kleene's logic of three values: what is undecided stays so unless the rest decides.


def negation(truth: bool | None) -> bool | None:
    """Not."""
    return None if truth is None else not truth


def conjunction(truths: list[bool | None]) -> bool | None:
    """All of them."""
    return False if False in truths else None if None in truths else True


def disjunction(truths: list[bool | None]) -> bool | None:
    """Any of them."""
    return True if True in truths else None if None in truths else False
