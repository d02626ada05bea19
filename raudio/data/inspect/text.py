"""What was found, as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raudio.core.units import format_bytes, format_seconds
from raudio.data.inspect.gather import Inspection
from raudio.data.inspect.problem import ERROR, Problem

#: Measure to its name, its unit and how its values are written.
MEASURES = {
    "level": ("level", "dB of full scale", ".1f"),
    "dc": ("offset", "of full scale", ".5f"),
    "silence": ("silence", "share of a clip", ".2f"),
    "snr": ("SNR (estimate)", "dB", ".1f"),
    "speech": ("like speech (estimate)", "0 to 1", ".2f"),
    "bandwidth": ("bandwidth (estimate)", "Hz", ".0f"),
}

_SHOWN_CLASSES = 40
_BAR = 24
_EIGHTHS = " ▏▎▍▌▋▊▉"


def render(found: Inspection) -> RenderableType:
    """The inspection for a terminal: what there is, then what is wrong, the worst first."""
    parts: list[RenderableType] = [
        Text.assemble((found.dataset, "bold"), f"  from {printable(found.source)}"),
        Text(
            f"{found.clips} clips, {format_seconds(found.seconds)}, {len(found.labels)} classes, "
            f"{format_bytes(found.bytes)} in {found.shards} shards"
            + (f", licence {printable(found.licence)}" if found.licence else "")
        ),
        Text(f"sample rate: {_counted(found.sample_rates, ' Hz')}{_resampled(found)}"),
        Text(f"channels: {_counted(found.channels)}"),
        Text("seconds a clip: " + ", ".join(f"{k} {v:.2f}" for k, v in found.durations.items())),
        _length_table(found),
        Text(fitted(found)),
        Text(),
        _measure_table(found),
        Text(f"{found.speech:.0%} of the clips seem to be speech (an estimate)"),
        Text(),
        _class_table(found),
        Text(),
    ]
    for problem in found.problems:
        parts.append(_problem(problem))
    parts.append(summary(found))
    return Group(*parts)


def summary(found: Inspection) -> Text:
    """`1 error, 2 warnings`, or that nothing is wrong."""
    if not found.problems:
        return Text("nothing is wrong with it", "green")
    errors, warnings = len(found.errors), len(found.warnings)
    return Text(f"{_number(errors, 'error')}, {_number(warnings, 'warning')}", "bold")


def fitted(found: Inspection) -> str:
    """What becomes of the clips at the given length."""
    return (
        f"at {found.clip_seconds:g} s a clip: {found.padded:.1%} of the clips are padded, "
        f"{found.cut:.1%} cut; {found.padding:.1%} of what a model is given is padding"
    )


def bar(value: float, largest: float, width: int = _BAR) -> str:
    """`value` as a bar of up to `width` characters; what is not 0 is always seen."""
    eighths = round(8 * width * value / largest) if largest else 0
    if value > 0:
        eighths = max(1, eighths)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def printable(text: str) -> str:
    """`text` with what could steer a terminal written out: names come from the data."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def _problem(problem: Problem) -> Table:
    style = "red" if problem.severity == ERROR else "yellow"
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_row(Text(f"{problem.severity}:", style), Text(printable(problem.title), style))
    if problem.examples:
        grid.add_row("", Text(printable(f"such as {', '.join(problem.examples)}")))
    grid.add_row("", Text(problem.effect))
    grid.add_row("", Text(f"cure: {problem.cure}", "dim"))
    grid.add_row("", "")
    return grid


def _length_table(found: Inspection) -> Table:
    edges, counts = found.histogram["edges"], found.histogram["counts"]
    table = Table.grid(padding=(0, 2, 0, 0))
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        table.add_row(
            Text(f"{low:.2f} to {high:.2f} s", justify="right"),
            Text(bar(count, max(counts)), "cyan"),
            Text(f"{count:.0f}", justify="right"),
        )
    return table


def _measure_table(found: Inspection) -> Table:
    table = Table("of a clip", "5 %", "median", "95 %", "", box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:4]:
        column.justify = "right"
    for name, (title, unit, form) in MEASURES.items():
        if name in found.measures:
            values = (format(value, form) for value in found.measures[name].values())
            table.add_row(title, *values, unit)
    return table


def _class_table(found: Inspection) -> Table:
    """Clips by class and split, and the clips of all splits as a bar; of many classes only the
    largest and the rarest."""
    table = Table("class", *found.splits, "", box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:-1]:
        column.justify = "right"
    by_size = list(found.classes)
    shown, rest = by_size, 0
    if len(by_size) > _SHOWN_CLASSES:
        half = _SHOWN_CLASSES // 2
        shown, rest = [*by_size[:half], *by_size[-half:]], len(by_size) - _SHOWN_CLASSES
    else:
        shown = found.labels
    largest = max((count.clips for count in found.classes.values()), default=0)
    for position, label in enumerate(shown):
        if rest and position == _SHOWN_CLASSES // 2:
            table.add_row(f"({rest} classes between)")
        counts = [str(info.class_counts.get(label, 0)) for info in found.splits.values()]
        count = found.classes[label]
        events = f" {count.events} events" if count.events else ""
        table.add_row(
            Text(printable(label)),
            *counts,
            Text(f"{bar(count.clips, largest)} {count.seconds:.0f} s{events}"),
        )
    clips = [str(info.clips) for info in found.splits.values()]
    table.add_row("all clips", *clips, style="bold")
    seconds = [format_seconds(info.seconds) for info in found.splits.values()]
    table.add_row("length", *seconds, style="bold")
    return table


def _resampled(found: Inspection) -> str:
    if not found.resampled:
        return ""
    return f"; at {found.sample_rate:g} Hz, {_number(found.resampled, 'clip')} resampled"


def _counted(counts: Mapping[int, int], unit: str = "") -> str:
    return ", ".join(f"{value}{unit} ({count} clips)" for value, count in counts.items())


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
