"""An evaluation in words and in tables for the terminal.

An evaluation is what `raudio.export.evaluate` gives, or what `raudio evaluate --json` printed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from raudio.core.units import format_value

#: With fewer groups than this, intervals over groups are rough.
FEW_GROUPS = 20
#: Rows of the terminal's tables, and of its lists.
_ROWS = 40
_LISTED = 5
#: What clips were to the bundle before.
_SEEN = {
    "trained": "The bundle was trained on clips among these: it looks far better than it is.",
    "chosen": "The bundle was chosen by these very clips: it looks better than it is.",
}
#: A difference of calibration that is worth a word.
_OFF = 0.03


def sentences(result: Mapping[str, Any]) -> list[str]:
    """What was found, the most important first."""
    metrics, first = result["metrics"], first_metric(result)
    clips = result["clips"]
    where = "all splits" if result["split"] == "all" else f"split {result['split']}"
    found = [
        f"{first} is {figure(metrics[first])}{_inside(result['intervals'][first])} on "
        f"{clips} clip{'' if clips == 1 else 's'} of {where}."
    ]
    if result.get("seen"):
        found.append(_SEEN[result["seen"]])
    classes = [one for one in result.get("classes", ()) if one["f1"] is not None]
    weakest = min(classes, key=lambda one: one["f1"], default=None)
    if weakest and len(classes) > 1 and weakest["f1"] < 1:
        found.append(
            f"The weakest class is {weakest['label']}: F1 {figure(weakest['f1'])}"
            f"{_inside(weakest['intervals']['f1'])}, {weakest['clips']} clips."
        )
    if "calibration" in result:
        found.append(_calibrated(result["calibration"]))
    tried = (result.get("robustness") or {}).get("conditions", ())
    sign = -1 if result["modes"].get(first) == "min" else 1
    worst = min(tried, key=lambda one: sign * one["differences"][first], default=None)
    if worst and sign * worst["differences"][first] < 0:
        found.append(
            f"What breaks it most: {worst['condition']}, {first} {figure(worst['metrics'][first])}."
        )
    return found


def method(result: Mapping[str, Any]) -> str:
    """How the intervals were made, and what to think of them."""
    how = result["bootstrap"]
    told = (
        f"Intervals: {how['confidence']:.0%}, percentile bootstrap over {how['units']} "
        f"{how['over']}, {how['draws']} draws."
    )
    if how["over"] == "groups":
        told += " Groups are drawn whole, as clips of one group are alike."
        if how["units"] < FEW_GROUPS:
            told += f" {how['units']} groups are few: such intervals are often too narrow."
    else:
        told += " They take clips as independent."
    return told + " A dash: the draws don't tell, as where no clip was wrong."


def tables(result: Mapping[str, Any]) -> Iterator[RenderableType]:
    """For the terminal: one table after the other, the least needed left out."""
    yield escape(" ".join(sentences(result)))
    yield _table(
        None,
        ["metric", "value", "interval"],
        [
            [name, f"{value:.4f}", reach(result["intervals"][name], 4)]
            for name, value in result["metrics"].items()
        ],
    )
    yield method(result)
    if "classes" in result:
        yield _table(
            "classes",
            ["class", "clips", "precision", "recall", "F1", "interval of F1"],
            [
                [
                    one["label"],
                    str(one["clips"]),
                    *(figure(one[name]) for name in ("precision", "recall", "f1")),
                    reach(one["intervals"]["f1"]),
                ]
                for one in result["classes"]
            ],
        )
    for column, values in result["groups"].items():
        names = list(result["metrics"])
        first = first_metric(result)
        yield _table(
            f"by {column}",
            [column, "clips", *names, f"interval of {first}"],
            [
                [
                    format_value(one["value"]),
                    str(one["clips"]),
                    *(figure(one["metrics"][name]) for name in names),
                    reach(one["intervals"][first]),
                ]
                for one in values
            ],
        )
    if confused := _confused(result):
        yield Group("[bold]most confused[/bold]", *confused)
    if result.get("wrong"):
        yield _table(
            "most wrong clips",
            ["clip", "true", "its score", "predicted", "its score"],
            [
                [one["clip_id"], one["true"], figure(one["true_score"]), one["predicted"],
                 figure(one["score"])]
                for one in result["wrong"][:_LISTED]
            ],
        )  # fmt: skip
    if result.get("robustness"):
        yield from _robustness(result)


def _robustness(result: Mapping[str, Any]) -> Iterator[RenderableType]:
    names, first, robust = list(result["metrics"]), first_metric(result), result["robustness"]
    rows = [["as they are", *(figure(result["metrics"][name]) for name in names), "", ""]]
    rows += [
        [
            one["condition"],
            *(figure(one["metrics"][name]) for name in names),
            f"{one['differences'][first]:+.3f}",
            reach(one["intervals"][first], sign=True),
        ]
        for one in robust["conditions"]
    ]
    yield _table(
        "under other conditions",
        ["condition", *names, f"{first}, difference", "its interval"],
        rows,
    )
    for name, why in robust["skipped"].items():
        yield escape(f"skipped: {name}: {why}")


def first_metric(result: Mapping[str, Any]) -> str:
    """The metric that the task names first."""
    return next((name for name in result["modes"] if name in result["metrics"]), "") or next(
        iter(result["metrics"])
    )


def figure(value: float | None) -> str:
    """A metric with three decimals; a dash for none."""
    return "–" if value is None else f"{value:.3f}"


def reach(interval: Sequence[float] | None, digits: int = 3, *, sign: bool = False) -> str:
    """An interval; a dash for none."""
    if interval is None:
        return "–"
    low, high = (f"{value:{'+' if sign else ''}.{digits}f}" for value in interval)
    return f"{low} to {high}"


def _inside(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" ({reach(interval)})"


def _calibrated(calibration: Mapping[str, Any]) -> str:
    """The calibration error, and which way the scores are off."""
    error, bins = calibration["ece"], calibration["bins"]
    clips = sum(one["clips"] for one in bins)
    over = sum(one["clips"] * (one["confidence"] - one["accuracy"]) for one in bins) / clips
    way = "they promise too much" if over > 0 else "they promise too little"
    off = f": {way}, by {abs(over):.3f} on average" if abs(over) > _OFF else ""
    return f"The scores' expected calibration error is {figure(error)}{off}."


def _confused(result: Mapping[str, Any]) -> list[str]:
    """The pairs of classes most often taken for each other, as the metrics alone don't tell."""
    labels = result.get("labels", ())
    pairs = [
        (count, labels[true], labels[said])
        for true, row in enumerate(result.get("confusion", ()))
        for said, count in enumerate(row)
        if true != said and count
    ]
    pairs.sort(key=lambda pair: -pair[0])
    return [escape(f"  {true} taken for {said}: {count}") for count, true, said in pairs[:_LISTED]]


def _table(title: str | None, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """The first column may be long and is folded; the others are figures or short."""
    made = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False,
        header_style="bold" if title is None else "dim",
    )  # fmt: skip
    for place, head in enumerate(heads):
        made.add_column(escape(head), justify="right" if place else "left", overflow="fold")
    for row in rows[:_ROWS]:
        made.add_row(*map(escape, row))
    if len(rows) > _ROWS:
        made.add_row(f"… {len(rows) - _ROWS} more: --json or --html FILE")
    return made
