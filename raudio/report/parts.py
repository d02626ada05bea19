"""What the sections of a report are made of: tables, figures, commands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from raudio.report import svg
from raudio.report.markup import Content, Markup, join, tag
from raudio.report.plot import Plot


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        content: what it shows.
        sort: what it is sorted by, where that is another thing.
    """

    content: Content
    sort: float | None = None


def table(
    caption: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[Content | Cell]],
    *,
    numbers: Sequence[int] = (),
    sortable: bool = False,
) -> Markup:
    """A table in a box of its own that scrolls where the page is narrow.

    Args:
        caption: what it lists, also the name of its box.
        heads: of the columns; the first cell of each row heads the row.
        rows: cells.
        numbers: columns that are aligned right.
        sortable: whether a reader may choose the order.
    """
    kinds = dict.fromkeys(numbers, "number")
    head = tag(
        "tr",
        [tag("th", name, scope="col", class_=kinds.get(n)) for n, name in enumerate(heads)],
    )
    body = []
    for row in rows:
        cells = []
        for place, cell in enumerate(row):
            cell = cell if isinstance(cell, Cell) else Cell(cell)
            cells.append(
                tag(
                    "td" if place else "th",
                    cell.content,
                    scope=None if place else "row",
                    class_=kinds.get(place),
                    data_sort=None if cell.sort is None else f"{cell.sort:.9g}",
                )
            )
        body.append(tag("tr", cells))
    inside = tag(
        "table",
        tag("caption", caption),
        tag("thead", head),
        tag("tbody", body),
        class_="sortable" if sortable else None,
    )
    return tag("div", inside, class_="scroll", role="region", aria_label=caption, tabindex=0)


def figure(plot: Plot) -> Markup:
    """A plot with its title, legend and caption."""
    legend = [
        tag("li", svg.key(shape, kind), tag("span", meaning))
        for shape, kind, meaning in plot.legend
    ]
    image = plot.image
    if plot.wide:
        image = tag(
            "div", image, class_="scroll wide", role="region", aria_label=plot.title, tabindex=0
        )
    return tag(
        "figure",
        tag("h3", plot.title),
        tag("ul", legend, class_="legend") if legend else None,
        image,
        tag("figcaption", plot.caption),
        class_="wide" if plot.wide else None,
    )


def figures(plots: Iterable[Plot | None]) -> Markup:
    """Plots side by side where there is room."""
    return tag("div", [figure(plot) for plot in plots if plot is not None], class_="figures")


def section(name: str, title: str, *content: Content) -> Markup:
    """A part of the page that the contents can link to."""
    heading = tag("h2", title, id=f"{name}-heading")
    return tag("section", heading, content, id=name, aria_labelledby=f"{name}-heading")


def command(text: str) -> Markup:
    """A command to copy."""
    return tag("pre", tag("code", text), tabindex=0)


def note(text: str) -> Markup:
    """Why something is not shown."""
    return tag("p", prose(text), class_="note")


def prose(text: str) -> Markup:
    """A text in which what stands between backticks is code."""
    found = text.split("`")
    return join(tag("code", one) if place % 2 else one for place, one in enumerate(found))


def definitions(pairs: Iterable[tuple[str, Content]]) -> Markup:
    """Names and what they are."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", about)) for name, about in pairs])


def tiles(figures: Iterable[tuple[str, str, str]]) -> Markup:
    """Figures that stand out: what each is, its value, and a word on it."""
    return tag(
        "dl",
        [
            tag("div", tag("dt", name), tag("dd", value, class_="big"), tag("dd", more))
            for name, value, more in figures
        ],
        class_="tiles",
    )
