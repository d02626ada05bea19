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
from raudio.core.errors import ConfigError, closest

Values = Mapping[str, Value]

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

_TOKEN = re.compile(
    r"""(?P<number>(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?)
      | (?P<string>'[^']*'|"[^"]*")
      | (?P<word>[A-Za-z_]\w*([./][A-Za-z_]\w*)*)
      | (?P<symbol>==|!=|<=|>=|//|[-=<>+*/%(),])""",
    re.VERBOSE,
)


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


@dataclass(frozen=True)
class _Token:
    kind: str  # number, string, word, symbol or end
    text: str
    at: int


@dataclass(frozen=True)
class _Part:
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


class _Parser:
    def __init__(
        self, expression: str, names: Mapping[str, Sequence[Value] | None], kind: str
    ) -> None:
        self.used: set[str] = set()
        self._text = expression
        self._names = names
        self._kind = kind
        self._tokens = self._read()
        self._next = 0

    def whole(self) -> Callable[[Values], bool | None]:
        found = self._requires()
        if self._now.kind != "end":
            near = closest(self._now.text, _KEYWORDS) if self._now.kind == "word" else ""
            raise self._error(f"{self._now.text!r} is not expected here{near}", self._now.at)
        return self._condition(found).of

    # --- tokens ----------------------------------------------------------------------------

    def _read(self) -> list[_Token]:
        tokens, at = [], 0
        while at < len(self._text):
            if self._text[at].isspace():
                at += 1
                continue
            match = _TOKEN.match(self._text, at)
            if match is None:
                if self._text[at] in "'\"":
                    raise self._error("the quotes are not closed", at)
                raise self._error(f"{self._text[at]!r} cannot be read", at)
            kind, found = str(match.lastgroup), match.group()
            if kind == "word":
                found = self._word(found)
            tokens.append(_Token(kind, found, at))
            at += len(found)
        return [*tokens, _Token("end", "", len(self._text))]

    def _word(self, found: str) -> str:
        """Without what is divided by: `cost/params` is one name, `training.steps/seed` two."""
        parts = found.split("/")
        for count in range(len(parts), 0, -1):
            whole = "/".join(parts[:count])
            if whole in self._names:
                return whole
        if any(name.startswith(f"{parts[0]}/") for name in self._names):
            return found  # a misspelt one
        return parts[0]

    @property
    def _now(self) -> _Token:
        return self._tokens[self._next]

    def _taken(self, symbols: Iterable[str]) -> _Token | None:
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
        place = f"character {at + 1}" if at < len(self._text) else "the end"
        return ConfigError(f"{self._text!r}: {message}, at {place}")

    # --- conditions ------------------------------------------------------------------------

    def _requires(self) -> _Part:
        left = self._any()
        if not self._taken(("requires",)):
            return left
        given, wanted = self._condition(left), self._condition(self._any())
        return _condition(left.at, lambda values: _or([_not(given.of(values)), wanted.of(values)]))

    def _any(self) -> _Part:
        return self._joined("or", self._all, _or)

    def _all(self) -> _Part:
        return self._joined("and", self._not, _and)

    def _joined(
        self,
        word: str,
        inner: Callable[[], _Part],
        join: Callable[[list[bool | None]], bool | None],
    ) -> _Part:
        parts = [inner()]
        while self._taken((word,)):
            parts.append(inner())
        if len(parts) == 1:
            return parts[0]
        parts = [self._condition(part) for part in parts]
        return _condition(parts[0].at, lambda values: join([part.of(values) for part in parts]))

    def _not(self) -> _Part:
        token = self._taken(("not",))
        if token is None:
            return self._comparison()
        inner = self._condition(self._not())
        return _condition(token.at, lambda values: _not(inner.of(values)))

    def _condition(self, part: _Part) -> _Part:
        """`part` as a condition: a comparison, or a setting that is true or false."""
        if part.kind == "word":
            part = self._settled(part)
        if part.kind == "condition":
            return part
        if part.choices is not None and set(part.choices) == {"true", "false"}:
            return _condition(part.at, _decided(part.of))
        raise self._error(f"{part.shown} is no condition; compare it with something", part.at)

    # --- comparisons -----------------------------------------------------------------------

    def _comparison(self) -> _Part:
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
            return _condition(parts[0].at, lambda values: _and([test(values) for test in tests]))
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
            return _condition(parts[0].at, lambda values: _not(_or([t(values) for t in tests])))
        return _condition(parts[0].at, lambda values: _or([test(values) for test in tests]))

    def _compared(self, left: _Part, symbol: str, right: _Part) -> Callable[[Values], bool | None]:
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
        return _decided(lambda values: compare(left.of(values), right.of(values)))

    def _no_value(self, name: _Part, value: _Part) -> ConfigError:
        choices = list(name.choices or ())
        return self._error(
            f"{name.shown} is never {value.shown}{closest(value.shown, choices)}; "
            f"it may be {', '.join(choices)}",
            value.at,
        )

    def _as_name(self, part: _Part) -> _Part:
        """A word as the name that it is, if it is one."""
        keys = self._keys(part.shown) if part.kind == "word" else []
        return self._named(part.at, keys[0]) if len(keys) == 1 else part

    def _settled(self, part: _Part, beside: _Part | None = None) -> _Part:
        """A word as what it is beside another part: one of its values, a name, or any value."""
        if part.kind != "word":
            return part
        word = part.shown
        if beside is not None and beside.choices and word in beside.choices:
            return _fixed(part.at, beside.choices[word])
        keys = self._keys(word)
        if len(keys) > 1:
            raise self._error(f"{word!r} may be {' or '.join(keys)}; write which", part.at)
        if keys:
            self.used.add(keys[0])
            return self._named(part.at, keys[0])
        if word in _WORDS:
            return _fixed(part.at, _WORDS[word])
        if beside is not None and not beside.fixed and beside.kind == "value":
            literal = _fixed(part.at, word)
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

    def _named(self, at: int, key: str) -> _Part:
        values = self._names[key]
        return _Part(
            at,
            "number" if values is not None and not values else "value",
            lambda given: given[key],
            key,
            choices=None if values is None else {text(value): value for value in values},
        )

    # --- numbers ---------------------------------------------------------------------------

    def _sum(self) -> _Part:
        return self._computed(_SUM, lambda: self._computed(_PRODUCT, self._signed))

    def _computed(
        self, symbols: Mapping[str, Callable[[Any, Any], Any]], inner: Callable[[], _Part]
    ) -> _Part:
        found = inner()
        while token := self._taken(symbols):
            left, right = self._number(found), self._number(inner())
            found = _arithmetic(left, symbols[token.text], right)
        return found

    def _signed(self) -> _Part:
        token = self._taken(("-",))
        if token is None:
            return self._atom()
        inner = self._number(self._signed())
        if inner.fixed:
            return _fixed(token.at, -inner.of({}))
        return _Part(token.at, "number", lambda values: -inner.of(values), f"-{inner.shown}")

    def _number(self, part: _Part) -> _Part:
        part = self._settled(part)
        if part.kind != "number":
            raise self._error(f"{part.shown} is no number", part.at)
        return part

    def _atom(self) -> _Part:
        token = self._now
        if token.kind == "end":
            raise self._error("something is missing", token.at)
        self._next += 1
        if token.kind == "number":
            whole = token.text.isdigit()
            return _fixed(token.at, int(token.text) if whole else float(token.text))
        if token.kind == "string":
            return _fixed(token.at, token.text[1:-1])
        if token.kind == "word" and token.text not in _KEYWORDS:
            return _Part(token.at, "word", lambda values: None, token.text)
        if token.text == "(":
            inner = self._requires()
            self._wanted(")")
            return inner
        raise self._error(f"{token.text!r} is not expected here", token.at)


def _fixed(at: int, value: Value) -> _Part:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    kind = "number" if number else "value"
    return _Part(at, kind, lambda values: value, text(value), fixed=True)


def _condition(at: int, of: Callable[[Values], bool | None]) -> _Part:
    return _Part(at, "condition", of, "a condition")


def _arithmetic(left: _Part, compute: Callable[[Any, Any], Any], right: _Part) -> _Part:
    return _Part(
        left.at,
        "number",
        lambda values: compute(left.of(values), right.of(values)),
        "a number",
        fixed=left.fixed and right.fixed,
    )


def _decided(of: Callable[[Values], Any]) -> Callable[[Values], bool | None]:
    """`of`, undecided where a value is missing, is none where a number is needed, or is divided by
    zero."""

    def truth(values: Values) -> bool | None:
        try:
            return bool(of(values))
        except (KeyError, TypeError, ArithmeticError):
            return None

    return truth


# Kleene's logic of three values: what is undecided stays so unless the rest decides.


def _not(truth: bool | None) -> bool | None:
    return None if truth is None else not truth


def _and(truths: list[bool | None]) -> bool | None:
    return False if False in truths else None if None in truths else True


def _or(truths: list[bool | None]) -> bool | None:
    return True if True in truths else None if None in truths else False
