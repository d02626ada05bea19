"""The words, numbers and symbols that an expression is written in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from raudio.core.errors import ConfigError

_TOKEN = re.compile(
    r"""(?P<number>(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?)
      | (?P<string>'[^']*'|"[^"]*")
      | (?P<word>[A-Za-z_]\w*([./][A-Za-z_]\w*)*)
      | (?P<symbol>==|!=|<=|>=|//|[-=<>+*/%(),])""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Token:
    """A piece of an expression.

    Attributes:
        kind: number, string, word, symbol or end.
        text: as it is written.
        at: where it starts.
    """

    kind: str
    text: str
    at: int


def tokens(expression: str, names: Iterable[str]) -> list[Token]:
    """The tokens of an expression, the last of which is its end.

    Args:
        expression: the text.
        names: what it may speak of, of which some hold a `/`.

    Raises:
        ConfigError: something is no token, with its place.
    """
    known = frozenset(names)
    found, at = [], 0
    while at < len(expression):
        if expression[at].isspace():
            at += 1
            continue
        match = _TOKEN.match(expression, at)
        if match is None:
            if expression[at] in "'\"":
                raise misread(expression, "the quotes are not closed", at)
            raise misread(expression, f"{expression[at]!r} cannot be read", at)
        kind, piece = str(match.lastgroup), match.group()
        if kind == "word":
            piece = _word(piece, known)
        found.append(Token(kind, piece, at))
        at += len(piece)
    return [*found, Token("end", "", len(expression))]


def misread(expression: str, message: str, at: int) -> ConfigError:
    """The error of an expression, with the place."""
    place = f"character {at + 1}" if at < len(expression) else "the end"
    return ConfigError(f"{expression!r}: {message}, at {place}")


def _word(found: str, names: frozenset[str]) -> str:
    """Without what is divided by: `cost/params` is one name, `training.steps/seed` two."""
    parts = found.split("/")
    for count in range(len(parts), 0, -1):
        whole = "/".join(parts[:count])
        if whole in names:
            return whole
    if any(name.startswith(f"{parts[0]}/") for name in names):
        return found  # a misspelt one
    return parts[0]
