"""HTML and SVG as text in which nothing from the data can become markup."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import TypeAlias

#: What no HTML or SVG text may hold: control characters and halves of surrogate pairs.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Markup(str):
    """Text that is markup; every other text is escaped where it enters some."""

    __slots__ = ()


Content: TypeAlias = "str | int | float | Iterable[Content] | None"


def tag(name: str, /, *content: Content, **attributes: str | int | float | bool | None) -> Markup:
    """An element.

    Args:
        name: of the element.
        content: texts (escaped), markup (as it is), numbers, and iterables of them; None is left
            out.
        attributes: `class_` is `class`, `stroke_width` is `stroke-width`; None and False are left
            out, True has no value, a float has at most two decimals.
    """
    parts = [f"<{name}"]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        parts.append(f" {key}" if value is True else f' {key}="{_attribute(value)}"')
    return Markup("".join((*parts, ">", _text(content), f"</{name}>")))


def void(name: str, /, **attributes: str | int | float | bool | None) -> Markup:
    """An element that has no content and no end: meta, input, img."""
    return Markup(tag(name, **attributes).removesuffix(f"</{name}>"))


def join(parts: Iterable[Content]) -> Markup:
    """Contents, one after the other."""
    return Markup(_text(parts))


def number(value: float) -> str:
    """A coordinate: at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def clean(text: str) -> str:
    """A text without what no page can show."""
    return _FORBIDDEN.sub("\ufffd", text)


def _attribute(value: str | int | float) -> str:
    return escape(clean(value)) if isinstance(value, str) else number(value)


def _text(content: Content) -> str:
    if content is None:
        return ""
    if isinstance(content, Markup):
        return content
    if isinstance(content, str):
        return escape(clean(content))
    if isinstance(content, int | float):
        return number(content)
    return "".join(map(_text, content))
