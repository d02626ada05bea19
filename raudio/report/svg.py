"""Drawing: scales, axes, marks and lines as inline SVG.

Colours are classes of the page's style sheet, so that a drawing follows light, dark and print. What
a colour says is said once more by a shape, a label or a line's width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from raudio.config.axes import text
from raudio.report.markup import Markup, join, number, tag

#: Marks of one class that are drawn one by one, each with its own words; more become one path.
CROWD = 1500

#: A scale of at most so many different values may have its ticks there.
FEW = 6

#: Width of a letter of a label, roughly.
_LETTER = 6.6
#: Share of a scale that is left free at both ends, so that no mark touches the frame.
_PAD = 0.04

#: Paths of the shapes, around the point that they mark.
SHAPES = {
    "circle": "m-3.2,0a3.2,3.2 0 1 0 6.4,0a3.2,3.2 0 1 0 -6.4,0z",
    "cross": "m-3,-3l6,6m0,-6l-6,6",
    "triangle": "m0,-4l3.8,6.6h-7.6z",
    "square": "m-3,-3h6v6h-6z",
    "diamond": "m0,-4.2l4.2,4.2l-4.2,4.2l-4.2,-4.2z",
    "plus": "m-4,0h8m-4,-4v8",
}


#: Steps of a scale of seconds that are round in minutes and hours.
_CLOCK = (10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


# --- scales ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """From values to places between 0 and 1.

    Attributes:
        low, high: of the numbers that are shown; beyond them a value is at the end.
        log: equal quotients have equal distances.
        names: of a scale without numbers: its values as text, in order.
        exact: the only numbers there are, where they are few: they are the ticks.
        time: whether the numbers are seconds.
    """

    low: float = 0.0
    high: float = 1.0
    log: bool = False
    names: tuple[str, ...] = ()
    exact: tuple[float, ...] = ()
    time: bool = False

    @classmethod
    def of(
        cls,
        values: Iterable[Any],
        *,
        log: bool = False,
        zero: bool = False,
        time: bool = False,
        few: bool = False,
    ) -> Scale:
        """The scale that shows `values`.

        Args:
            values: numbers, or anything else, which becomes names.
            log: wanted; needs positive numbers.
            zero: begin at zero.
            time: the numbers are seconds.
            few: put the ticks at the values themselves, when there are few different ones.
        """
        known = list(values)
        if not all(is_number(value) for value in known):
            return cls(names=tuple(sorted({text(value) for value in known})))
        if not known:
            return cls()
        low, high = float(min(known)), float(max(known))
        different = tuple(sorted(set(known)))
        exact = different if few and len(different) <= FEW else ()
        log = log and low > 0
        low = 0.0 if zero else low
        if low == high:
            low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
            low = 0.0 if zero else low
        if not log and not zero:
            low, high = low - _PAD * (high - low), high + _PAD * (high - low)
        if log:
            margin = (high / low) ** _PAD
            low, high = low / margin, high * margin
        high = high * (1 + _PAD) if zero and not log else high
        return cls(low, high, log, exact=exact, time=time)

    def place(self, value: Any) -> float:
        """Where `value` is, 0 to 1."""
        if self.names:
            return (self.names.index(text(value)) + 0.5) / len(self.names)
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, share))

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        """(place, label) of the values that are worth a label."""
        if self.names:
            step = -(-len(self.names) // 12)
            return [(self.place(name), name) for name in self.names[::step]]
        values: Sequence[float] = self.exact
        if not values and self.log:
            values = _decades(self.low, self.high, most)
        if len(values) < 2 and not self.exact:
            values = _round_steps(self.low, self.high, most, self.time)
        return [(self.place(v), seconds(v) if self.time else short(v)) for v in values]


def is_number(value: Any) -> bool:
    """Whether a value is a number to be put on a scale."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def short(value: Any) -> str:
    """A value for a label: four significant digits, `1e-5` and not `1e-05`; `50000` as it is."""
    if not is_number(value):
        return text(value)
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return re.sub(
        r"e([+-])0*(\d)", lambda found: f"e{found[1].strip('+')}{found[2]}", f"{value:.4g}"
    )


def seconds(value: float) -> str:
    """Seconds for a label: 40 s, 5 min, 2 h."""
    for size, name in ((3600.0, "h"), (60.0, "min")):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:.3g} s" if value else "0"


def _round_steps(low: float, high: float, most: int, time: bool) -> list[float]:
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    sizes = [size * power for size in (1, 2, 2.5, 5, 10)]
    if time and 10 <= rough <= _CLOCK[-1]:
        sizes = list(_CLOCK)
    step = next(size for size in sizes if size >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float, most: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [digit * 10.0**power for power in powers for digit in digits]
        found = [value for value in found if low <= value <= high]
        if len(found) <= most:
            return found
    return found[:: -(-len(found) // most)]


# --- a drawing ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """The part of a drawing where the data is; all lengths in the drawing's own units.

    Attributes:
        x, y: scales; y goes up.
        width, height: of the whole drawing.
        left, right, top, bottom: margins around the data.
    """

    x: Scale
    y: Scale
    width: float = 460
    height: float = 290
    left: float = 58
    right: float = 14
    top: float = 12
    bottom: float = 46

    def at(self, x: Any, y: Any) -> tuple[float, float]:
        """The point of two values."""
        return self.across(self.x.place(x)), self.up(self.y.place(y))

    def across(self, share: float) -> float:
        """The place at a share of the width."""
        return self.left + share * (self.width - self.left - self.right)

    def up(self, share: float) -> float:
        """The place at a share of the height."""
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)


@dataclass(frozen=True)
class Mark:
    """One marked point.

    Attributes:
        x, y: where, in the drawing's units.
        kind: class that colours it.
        shape: of `SHAPES`.
        words: what it is, shown when it is pointed at.
    """

    x: float
    y: float
    kind: str
    shape: str
    words: str


def drawing(
    name: str, title: str, about: str, width: float, height: float, *content: Markup
) -> Markup:
    """An SVG image with its title and description for those who cannot see it.

    Args:
        name: unique in the page.
        title: what it is.
        about: what it shows.
    """
    return tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", about, id=f"{name}-desc"),
        content,
        id=name,
        viewBox=f"0 0 {number(width)} {number(height)}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
    )


def plot(
    name: str,
    title: str,
    about: str,
    frame: Frame,
    *content: Markup,
    x_label: str = "",
    y_label: str = "",
) -> Markup:
    """A drawing with two axes."""
    return drawing(
        name,
        title,
        about,
        frame.width,
        frame.height,
        axes(frame, x_label=x_label, y_label=y_label),
        *content,
    )


def axes(frame: Frame, *, x_label: str, y_label: str) -> Markup:
    """Grid lines, ticks and names of both axes."""
    left, bottom = frame.across(0), frame.up(0)
    room = frame.width - frame.left - frame.right
    parts = []
    for place, label in frame.y.ticks(5):
        y = frame.up(place)
        parts.append(line([(left, y), (frame.across(1), y)], "grid"))
        parts.append(words(left - 7, y + 4, label, anchor="end", most=8))
    ticks = frame.x.ticks(max(2, int(room // 75)))
    most = max(3, int(room / max(1, len(ticks)) / _LETTER))
    for place, label in ticks:
        x = frame.across(place)
        parts.append(line([(x, bottom), (x, bottom + 4)], "axis"))
        # A label at the right edge ends there, and is not cut off.
        if x + _LETTER * len(label) / 2 < frame.width:
            parts.append(words(x, bottom + 17, label, anchor="middle", most=most))
        else:
            parts.append(words(frame.width, bottom + 17, label, anchor="end", most=most))
    parts.append(line([(left, bottom), (frame.across(1), bottom)], "axis"))
    parts.append(words(frame.across(0.5), frame.height - 7, x_label, anchor="middle", kind="name"))
    if y_label:
        x, y = 10, frame.up(0.5)
        parts.append(
            tag(
                "text",
                y_label,
                class_="name",
                text_anchor="middle",
                x=x,
                y=y,
                transform=f"rotate(-90 {number(x)} {number(y)})",
            )
        )
    return join(parts)


def words(
    x: float, y: float, label: str, *, anchor: str = "start", kind: str = "tick", most: int = 60
) -> Markup:
    """A text at a point; a longer one than `most` characters is cut, and whole when pointed at."""
    cut = label if len(label) <= most else f"{label[: max(1, most - 1)]}…"
    whole = tag("title", label) if cut != label else None
    return tag("text", whole, cut, class_=kind, text_anchor=anchor, x=x, y=y)


def line(points: Sequence[tuple[float, float]], kind: str, label: str = "") -> Markup:
    """A line through points, with what it is."""
    way = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return tag("path", tag("title", label) if label else None, class_=f"line {kind}", d=way)


def steps(points: Sequence[tuple[float, float]], kind: str, label: str = "") -> Markup:
    """A line that goes right before it goes up or down."""
    corners = list(points[:1])
    for x, y in points[1:]:
        corners += [(x, corners[-1][1]), (x, y)]
    return line(corners, kind, label)


def marks(points: Sequence[Mark]) -> Markup:
    """Marked points, those of a kind together; a crowd of them as one path without words."""
    groups: dict[tuple[str, str], list[Mark]] = {}
    for point in points:
        groups.setdefault((point.kind, point.shape), []).append(point)
    parts = []
    for (kind, shape), group in groups.items():
        each = [f"M{point.x:.1f},{point.y:.1f}{SHAPES[shape]}" for point in group]
        if len(group) > CROWD:
            content: Any = tag("path", d="".join(each))
        else:
            content = [
                tag("path", tag("title", point.words) if point.words else None, d=way)
                for point, way in zip(group, each, strict=True)
            ]
        parts.append(tag("g", content, class_=f"marks {shape} {kind}", data_count=len(group)))
    return join(parts)


def bar(
    x: float, y: float, width: float, height: float, kind: str, label: str | None = None
) -> Markup:
    """A filled rectangle, with what it is."""
    return tag(
        "rect",
        tag("title", label) if label else None,
        class_=kind,
        x=float(x),
        y=float(y),
        width=float(max(width, 0.0)),
        height=float(height),
    )


def key(shape: str, kind: str) -> Markup:
    """A shape by itself, for a legend or a table; what it means stands beside it.

    Args:
        shape: of `SHAPES`, or "line" or "block".
        kind: class that colours it.
    """
    if shape == "line":
        content, kinds = line([(0, 7), (14, 7)], kind), ""
    elif shape == "block":
        content, kinds = bar(1, 2, 12, 10, f"fill {kind}"), ""
    else:
        content, kinds = tag("path", d=f"M7,7{SHAPES[shape]}"), f" marks {shape} {kind}"
    return tag(
        "svg",
        content,
        class_=f"key{kinds}",
        viewBox="0 0 14 14",
        aria_hidden="true",
    )
