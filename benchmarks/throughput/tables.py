"""Figures of the rows, with what is expected of them, and the one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from figures import Figure
from rich.table import Table

from raudio.core.units import format_bytes
from throughput.run import Row

#: A figure's place: set, contender, column.
Place = tuple[str, str, str]

ENCODED, CACHED, PEER = "of encoded floor", "of cached floor", "to best peer"
GAP, AGAIN, BEYOND = "gap", "start again", "beyond Ray"
OTHERS: Place = ("", "", "cores used by other processes meanwhile")

#: At least this many times the best peer: by set and contender.
_TO_PEER = {
    ("L", "raudio-resident-2"): 3.0,
    ("S", "raudio-resident-2"): 1.5,
    ("L", "raudio-streamed-1"): 1.3,
    ("L", "raudio-streamed-2"): 1.3,
    # Level with it, as far as two runs of one program are.
    ("S", "raudio-streamed-1"): 0.95,
    ("S", "raudio-streamed-2"): 0.95,
}
_OF_CACHED = 0.95
_GAP = 0.05  # s
_AGAIN = 0.1  # s
_BEYOND = 1.5e9  # bytes


def judged(rows: Sequence[Row], others: float) -> dict[Place, Figure]:
    """The figures that something is expected of, or that relate rows to each other.

    Args:
        rows: of all sets.
        others: cores that other processes used.
    """
    found: dict[Place, Figure] = {}

    def add(row: Row, column: str, value: float, unit: str = "", **bound: float | None) -> None:
        place = (row.data, row.contender.name, column)
        found[place] = Figure(" ".join(place), value, unit, **bound)  # type: ignore[arg-type]

    for row in filter(lambda row: row.runs, rows):
        rate, contender = row.median("rate"), row.contender
        same = {each.contender.name: each for each in rows if each.data == row.data and each.runs}
        ours = contender.kind == "raudio"
        resident = ours and contender.trial == "resident"
        for column, floor in ((ENCODED, "floor-encoded"), (CACHED, "floor-cached")):
            if measure := same.get(f"{floor}-{contender.cores}"):
                bound = _OF_CACHED if resident and column == CACHED else None
                add(row, column, rate / measure.median("rate"), at_least=bound)
        peers = [each.median("rate") for each in same.values() if each.contender.kind == "peer"]
        if peers:
            expected = _TO_PEER.get((row.data, contender.name))
            add(row, PEER, rate / max(peers), at_least=expected)
        add(row, GAP, row.median("gap"), "s", at_most=_GAP if ours else None)
        add(row, AGAIN, row.median("again"), "s", at_most=_AGAIN if ours else None)
        if ours:
            bound = _BEYOND if row.data == "L-large" else None
            add(row, BEYOND, row.beyond_ray, "B", at_most=bound)
    found[OTHERS] = Figure(OTHERS[2], others, at_most=0.1)
    return found


def table(title: str, rows: Sequence[Row], figures: Mapping[Place, Figure], epochs: int) -> Table:
    """All rows, section by set."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False)
    made.add_column("set")
    made.add_column("contender", no_wrap=True)
    headings = [
        "start s",
        "again s",
        *(f"epoch {number + 1} s" for number in range(epochs)),
        "clips/s",
        "spread",
        "hours/s",
        "CPU ms/clip",
        "peak PSS",
        "beyond Ray",
        "gap s",
        "of encoded floor",
        "of cached floor",
        "to best peer",
    ]
    for heading in headings:
        made.add_column(heading, justify="right")
    for number, row in enumerate(rows):
        if number and rows[number - 1].data != row.data:
            made.add_section()
        made.add_row(row.data, row.contender.name, *_cells(row, figures))
    return made


def _cells(row: Row, figures: Mapping[Place, Figure]) -> list[str]:
    if not row.runs:
        return ["failed" if row.failed else "none"]

    def cell(column: str) -> str:
        figure = figures.get((row.data, row.contender.name, column))
        return figure.as_cell() if figure else ""

    rate = row.median("rate")
    rates = [run.rate for run in row.timed]
    return [
        f"{row.median('start'):.2f}",
        cell(AGAIN),
        *(f"{seconds:.2f}" for seconds in row.epochs),
        f"{rate:,.0f}",
        f"{(max(rates) - min(rates)) / rate:.0%}",
        f"{rate * row.seconds / 3600:.3g}",
        f"{row.median('cpu') * 1000:.2f}",
        format_bytes(row.memory),
        cell(BEYOND),
        cell(GAP),
        cell(ENCODED),
        cell(CACHED),
        cell(PEER),
    ]
