"""Lines with bands as one SVG that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

#: Okabe and Ito's colours, which the colour-blind tell apart.
COLOURS = ("#000000", "#e69f00", "#56b4e9", "#d55e00", "#009e73", "#0072b2", "#cc79a7")
DASHES = ("", "6 3", "2 3", "", "8 3 2 3", "4 4", "1 3")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 520, 70, 190, 30, 60
#: Most points of a line; it has no more pixels.
POINTS = 400


@dataclass(frozen=True)
class Line:
    """A named line, with a band around it; all (points,)."""

    name: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray


def plot(lines: Sequence[Line], x_title: str, y_title: str) -> str:
    """The lines over a linear x and y. The scale of y leaves out each line's first twentieth,
    which rises from nothing."""
    x_high = max(float(line.x[-1]) for line in lines)
    settled = [line.low[len(line.x) // 20 :].min() for line in lines]
    y_low, y_high = float(min(settled)), float(max(line.high.max() for line in lines))
    margin = 0.05 * (y_high - y_low) or 1.0
    y_low, y_high = y_low - margin, y_high + margin

    def at(x: float, y: float) -> str:
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / x_high
        inside = min(max(y, y_low), y_high)
        down = TOP + (HEIGHT - TOP - BOTTOM) * (y_high - inside) / (y_high - y_low)
        return f"{across:.1f},{down:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for share in np.linspace(0, 1, 6):
        x, y = share * x_high, y_low + share * (y_high - y_low)
        for start, end in (((x, y_low), (x, y_high)), ((0, y), (x_high, y))):
            parts.append(f'<polyline points="{at(*start)} {at(*end)}" stroke="#ddd" fill="none"/>')
        across, _ = at(x, y_low).split(",")
        _, down = at(0, y).split(",")
        bottom = HEIGHT - BOTTOM + 18
        parts.append(f'<text x="{across}" y="{bottom}" text-anchor="middle">{x:.0f}</text>')
        parts.append(f'<text x="{LEFT - 8}" y="{down}" dy="4" text-anchor="end">{y:.3f}</text>')
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 14}" text-anchor="middle">{escape(x_title)}</text>'
    )
    parts.append(f'<text x="{LEFT}" y="{TOP - 10}">{escape(y_title)}</text>')
    for number, line in enumerate(lines):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
        shown = np.unique(np.linspace(0, len(line.x) - 1, POINTS).round().astype(int))
        there = [at(line.x[n], line.low[n]) for n in shown]
        back = [at(line.x[n], line.high[n]) for n in reversed(shown)]
        parts.append(f'<polygon points="{" ".join(there + back)}" fill="{colour}" opacity="0.12"/>')
        points = " ".join(at(line.x[n], line.y[n]) for n in shown)
        style = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}" fill="none"'
        parts.append(f'<polyline points="{points}" {style}/>')
        y = TOP + 20 + 22 * number
        left = WIDTH - RIGHT + 15
        parts.append(f'<polyline points="{left},{y} {left + 30},{y}" {style}/>')
        parts.append(f'<text x="{left + 38}" y="{y}" dy="4">{escape(line.name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
