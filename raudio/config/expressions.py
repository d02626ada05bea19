"""Conditions on settings or metrics: `model=crnn requires rnn_layers <= 2`, `cost/params < 1e6`.

The grammar, from what binds least to what binds most:

    A requires B            where A holds, B must hold
    A or B, A and B, not A
    X = Y, ==, !=, <, <=, >, >=; X in (a, b); X not in (a, b); 16 <= X <= 64
    X + Y, X - Y, X * Y, X / Y, X // Y, X % Y, -X

X and Y are names (`model.rnn_layers`, or the end of one that no other has: `rnn_layers`), numbers,
texts in quotes, `true`, `false`, `none`, and words (`crnn`), which stand for themselves. Nothing is
evaluated as code.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from raudio.config.axes import Value, text
from raudio.config.logic import (
    Part,
    Values,
    computed_part,
    condition_part,
    conjunction,
    decided,
    disjunction,
    fixed_part,
    negation,
)
from raudio.config.tokens import Token, misread, tokens
from raudio.core.errors import ConfigError, closest

#: The longest expression: more would be a mistake.
_LONGEST = 1000

_EQUAL: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
}
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SUM: dict[str, Callable[[Any, Any], Any]] = {"+": operator.add, "-": operator.sub}
_PRODUCT: dict[str, Callable[[Any, Any], Any]] = {
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}
_KEYWORDS = ("requires", "or", "and", "not", "in")
_WORDS: dict[str, Value] = {"true": True, "false": False, "none": None, "null": None}


@dataclass(frozen=True)
class Expression:
    """A condition that values may meet.

    Attributes:
        text: as it was written.
        names: that it speaks of, in full.
    """

    text: str
    names: frozenset[str]
    _truth: Callable[[Values], bool | None] = field(compare=False, repr=False)

    def holds(self, values: Values) -> bool:
        """Whether `values` (full name -> value) meet the condition.

        A comparison with a name that `values` lacks, of which of none and a number is more, or
        with a division by zero is undecided; so is what it alone decides. What is undecided holds.
        """
        return self._truth(values) is not False

    def __str__(self) -> str:
        return self.text


def parse(
    expression: str, names: Mapping[str, Sequence[Value] | None], *, kind: str = "setting"
) -> Expression:
    """Reads an expression.

    Args:
        expression: the text.
        names: what it may speak of: full name -> the values that this may have; none of them for a
            number, and None in their place where any value will do.
        kind: what messages call a name.

    Raises:
        ConfigError: not in the grammar (with the place), a name or a value that there is not (with
            the closest), or a comparison that can't be made.
    """
    if not isinstance(expression, str):
        raise ConfigError(f"{text(expression)}: write a condition as a text, such as 'lr < 0.1'")
    if len(expression) > _LONGEST:
        raise ConfigError(
            f"{expression[:40]!r}...: {len(expression)} characters are too many; "
            f"write several conditions, of at most {_LONGEST} each"
        )
    parser = _Parser(expression, names, kind)
    try:
        truth = parser.whole()
    except RecursionError:
        raise ConfigError(f"{expression[:40]!r}...: nested too deeply") from None
    return Expression(expression.strip(), frozenset(parser.used), truth)


class _Parser:
    def __init__(
        self, expression: str, names: Mapping[str, Sequence[Value] | None], kind: str
    ) -> None:
        self.used: set[str] = set()
        self._text = expression
        self._names = names
        self._kind = kind
        self._tokens = tokens(expression, names)
        self._next = 0

    def whole(self) -> Callable[[Values], bool | None]:
        found = self._requires()
        if self._now.kind != "end":
            word = self._now.text if self._now.kind == "word" else ""
            near = closest(word, _KEYWORDS) if word and word not in _KEYWORDS else ""
            raise self._error(f"{self._now.text!r} is not expected here{near}", self._now.at)
        return self._condition(found).of

    # --- tokens ----------------------------------------------------------------------------

    @property
    def _now(self) -> Token:
        return self._tokens[self._next]

    def _taken(self, symbols: Iterable[str]) -> Token | None:
        """The next token, passed, if it is one of `symbols` (or keywords)."""
        token = self._now
        if token.kind in ("symbol", "word") and token.text in symbols:
            self._next += 1
            return token
        return None

    def _wanted(self, symbol: str) -> None:
        if not self._taken((symbol,)):
            seen = repr(self._now.text) if self._now.text else "the end"
            raise self._error(f"{symbol!r} is missing before {seen}", self._now.at)

    def _error(self, message: str, at: int) -> ConfigError:
        return misread(self._text, message, at)

    # --- conditions ------------------------------------------------------------------------

    def _requires(self) -> Part:
        left = self._any()
        if not self._taken(("requires",)):
            return left
        given, wanted = self._condition(left), self._condition(self._any())
        return condition_part(
            left.at, lambda values: disjunction([negation(given.of(values)), wanted.of(values)])
        )

    def _any(self) -> Part:
        return self._joined("or", self._all, disjunction)

    def _all(self) -> Part:
        return self._joined("and", self._not, conjunction)

    def _joined(
        self,
        word: str,
        inner: Callable[[], Part],
        join: Callable[[list[bool | None]], bool | None],
    ) -> Part:
        parts = [inner()]
        while self._taken((word,)):
            parts.append(inner())
        if len(parts) == 1:
            return parts[0]
        parts = [self._condition(part) for part in parts]
        return condition_part(parts[0].at, lambda values: join([part.of(values) for part in parts]))

    def _not(self) -> Part:
        token = self._taken(("not",))
        if token is None:
            return self._comparison()
        inner = self._condition(self._not())
        return condition_part(token.at, lambda values: negation(inner.of(values)))

    def _condition(self, part: Part) -> Part:
        """`part` as a condition: a comparison, or a setting that is true or false."""
        if part.kind == "word":
            part = self._settled(part)
        if part.kind == "condition":
            return part
        if part.choices is not None and set(part.choices) == {"true", "false"}:
            return condition_part(part.at, decided(part.of))
        raise self._error(f"{part.shown} is no condition; compare it with something", part.at)

    # --- comparisons -----------------------------------------------------------------------

    def _comparison(self) -> Part:
        parts = [self._sum()]
        symbols: list[str] = []
        while token := self._taken((*_EQUAL, *_ORDER)):
            symbols.append(token.text)
            parts.append(self._sum())
        if symbols:
            tests = [
                self._compared(left, symbol, right)
                for symbol, (left, right) in zip(symbols, pairwise(parts), strict=True)
            ]
            return condition_part(
                parts[0].at, lambda values: conjunction([test(values) for test in tests])
            )
        negated = self._now.text == "not" and self._tokens[self._next + 1].text == "in"
        if negated:
            self._next += 1
        if not self._taken(("in",)):
            return parts[0]
        self._wanted("(")
        items = [self._sum()]
        while self._taken((",",)):
            items.append(self._sum())
        self._wanted(")")
        tests = [self._compared(parts[0], "=", item) for item in items]
        if negated:
            return condition_part(
                parts[0].at, lambda values: negation(disjunction([t(values) for t in tests]))
            )
        return condition_part(
            parts[0].at, lambda values: disjunction([test(values) for test in tests])
        )

    def _compared(self, left: Part, symbol: str, right: Part) -> Callable[[Values], bool | None]:
        known = self._as_name(left), self._as_name(right)
        left, right = self._settled(left, known[1]), self._settled(right, known[0])
        for one, other in ((left, right), (right, left)):
            if "condition" in (one.kind, other.kind):
                raise self._error(f"{one.shown} and {other.shown} cannot be compared", one.at)
            if symbol in _ORDER and one.kind != "number":
                raise self._error(f"{one.shown} is no number, so it has no order", one.at)
            if other.fixed and one.choices and other.shown not in one.choices:
                raise self._no_value(one, other)
            if one.kind == "number" and other.kind == "value" and other.shown != "none":
                raise self._error(f"{one.shown} is a number, {other.shown} is not", other.at)
        compare = {**_EQUAL, **_ORDER}[symbol]
        return decided(lambda values: compare(left.of(values), right.of(values)))

    def _no_value(self, name: Part, value: Part) -> ConfigError:
        choices = list(name.choices or ())
        return self._error(
            f"{name.shown} is never {value.shown}{closest(value.shown, choices)}; "
            f"it may be {', '.join(choices)}",
            value.at,
        )

    def _as_name(self, part: Part) -> Part:
        """A word as the name that it is, if it is one."""
        keys = self._keys(part.shown) if part.kind == "word" else []
        return self._named(part.at, keys[0]) if len(keys) == 1 else part

    def _settled(self, part: Part, beside: Part | None = None) -> Part:
        """A word as what it is beside another part: one of its values, a name, or any value."""
        if part.kind != "word":
            return part
        word = part.shown
        if beside is not None and beside.choices and word in beside.choices:
            return fixed_part(part.at, beside.choices[word])
        keys = self._keys(word)
        if len(keys) > 1:
            shown = " or ".join(keys[:3]) + (f" or {len(keys) - 3} others" if keys[3:] else "")
            raise self._error(f"{word!r} may be {shown}; write which", part.at)
        if keys:
            self.used.add(keys[0])
            return self._named(part.at, keys[0])
        if word in _WORDS:
            return fixed_part(part.at, _WORDS[word])
        if beside is not None and not beside.fixed and beside.kind == "value":
            literal = fixed_part(part.at, word)
            if beside.choices:
                raise self._no_value(beside, literal)
            return literal
        ends = [re.split("[./]", name)[-1] for name in self._names]
        near = closest(word, self._names) or closest(word, ends)
        raise self._error(f"unknown {self._kind} {word!r}{near}", part.at)

    def _keys(self, word: str) -> list[str]:
        """The names that `word` is, or is the end of."""
        if word in self._names:
            return [word]
        return sorted(name for name in self._names if name.endswith((f".{word}", f"/{word}")))

    def _named(self, at: int, key: str) -> Part:
        values = self._names[key]
        return Part(
            at,
            "number" if values is not None and not values else "value",
            lambda given: given[key],
            key,
            choices=None if values is None else {text(value): value for value in values},
        )

    # --- numbers ---------------------------------------------------------------------------

    def _sum(self) -> Part:
        return self._computed(_SUM, lambda: self._computed(_PRODUCT, self._signed))

    def _computed(
        self, symbols: Mapping[str, Callable[[Any, Any], Any]], inner: Callable[[], Part]
    ) -> Part:
        found = inner()
        while token := self._taken(symbols):
            left, right = self._number(found), self._number(inner())
            found = computed_part(left.at, symbols[token.text], left, right)
        return found

    def _signed(self) -> Part:
        token = self._taken(("-",))
        if token is None:
            return self._atom()
        return computed_part(token.at, operator.neg, self._number(self._signed()))

    def _number(self, part: Part) -> Part:
        part = self._settled(part)
        if part.kind != "number":
            raise self._error(f"{part.shown} is no number", part.at)
        return part

    def _atom(self) -> Part:
        token = self._now
        if token.kind == "end":
            raise self._error("something is missing", token.at)
        self._next += 1
        if token.kind == "number":
            whole = token.text.isdigit()
            return fixed_part(token.at, int(token.text) if whole else float(token.text))
        if token.kind == "string":
            return fixed_part(token.at, token.text[1:-1])
        if token.kind == "word" and token.text not in _KEYWORDS:
            return Part(token.at, "word", lambda values: None, token.text)
        if token.text == "(":
            inner = self._requires()
            self._wanted(")")
            return inner
        raise self._error(f"{token.text!r} is not expected here", token.at)
