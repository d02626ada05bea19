"""An evaluation as one HTML page that needs nothing else, made of a report's parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raudio.config.schema import Dataset
from raudio.core.errors import DataError, UserError
from raudio.core.units import format_value
from raudio.data.locate import locate
from raudio.report import clips as excerpts
from raudio.report import evaluation, outcome, parts, svg
from raudio.report.best import MOST_CONFUSED, heard
from raudio.report.evaluation import figure, reach
from raudio.report.markup import Content, Markup, tag
from raudio.report.page import document
from raudio.report.parts import Cell
from raudio.report.plot import Plot
from raudio.report.sections import words
from raudio.report.svg import Frame, Mark, Scale

#: Rows of the tables.
MOST_ROWS = 200
#: A blank at which no line ends.
_KEPT = "\u00a0"


def page(result: Mapping[str, Any], *, labels: str | None = None, clips: int = 0) -> str:
    """The page of an evaluation.

    Args:
        result: what `raudio.export.evaluate` gave.
        labels: label file of a plain folder of audio.
        clips: how many of the most wrong clips can be heard.
    """
    name = Path(result["bundle"]).resolve().name
    header = tag(
        "header",
        tag("p", "raudio evaluate", class_="kicker"),
        tag("h1", f"{name} on {Path(result['dataset']).name}, {_split(result)}"),
        tag(
            "div", words([*evaluation.sentences(result), evaluation.method(result)]), class_="lead"
        ),
        _tiles(result),
    )
    shown = [
        _metrics(result),
        _robustness(result),
        _classes(result),
        _groups(result),
        _calibration(result),
        _wrong(result, labels, clips),
        _about(result),
    ]
    return document(
        f"{name} · raudio evaluate",
        header,
        [part for part in shown if part is not None],
        f"by raudio of {result['bundle']} on {result['dataset']}.",
        first="metrics",
    )


def _split(result: Mapping[str, Any]) -> str:
    return "all splits" if result["split"] == "all" else f"split {result['split']}"


def _tiles(result: Mapping[str, Any]) -> Markup:
    """The figures that one looks for first."""
    tiles = [
        (name, figure(value), reach(result["intervals"][name]))
        for name, value in list(result["metrics"].items())[:3]
    ]
    how = result["bootstrap"]
    units = f"{how['units']} groups" if how["over"] == "groups" else "without groups"
    tiles.append(("clips", str(result["clips"]), units))
    return parts.tiles(tiles)


def _metrics(result: Mapping[str, Any]) -> Markup:
    return parts.section(
        "metrics",
        "Metrics",
        parts.table(
            f"Metrics of {_split(result)}",
            ["metric", "value", "interval"],
            [
                [name, f"{value:.4f}", reach(result["intervals"][name], 4)]
                for name, value in result["metrics"].items()
            ],
            numbers=[1, 2],
        ),
    )


def _robustness(result: Mapping[str, Any]) -> Markup | None:
    robust = result.get("robustness")
    if not robust:
        return None
    names = list(result["metrics"])
    rows: list[list[Content | Cell]] = [
        [
            f"as{_KEPT}they{_KEPT}are",
            *(c for name in names for c in (_cell(result["metrics"][name]), "–", "–")),
        ]
    ]
    for one in robust["conditions"]:
        row: list[Content | Cell] = [one["condition"].replace(" ", _KEPT)]
        for name in names:
            change = one["differences"][name]
            row += [
                _cell(one["metrics"][name]),
                Cell(f"{change:+.3f}", change),
                reach(one["intervals"][name], sign=True),
            ]
        rows.append(row)
    heads = ["condition", *(head for name in names for head in (name, "difference", "interval"))]
    told = [parts.note(f"Skipped: {name}: {why}") for name, why in robust["skipped"].items()]
    return parts.section(
        "robustness",
        "Under other conditions",
        parts.note(
            "The same clips, each changed by a known amount. A difference is to the clips as they "
            "are, and its interval is paired: each draw has the same clips both times."
        ),
        parts.figures([_broken(result)]),
        parts.table(
            "Metrics by condition", heads, rows, numbers=range(1, len(heads)), sortable=True
        ),
        told,
    )


def _broken(result: Mapping[str, Any]) -> Plot | None:
    """The first metric under each condition, beside what it is without one."""
    tried = result["robustness"]["conditions"]
    if not tried:
        return None
    name = evaluation.first_metric(result)
    clean = result["metrics"][name]
    spans = []
    for one in tried:
        value, difference = one["metrics"][name], one["intervals"][name]
        ends = [clean + end for end in difference] if difference else [value, value]
        spans.append((one["condition"], value, ends))
    scale = Scale.of([clean, *(v for _, value, ends in spans for v in (value, *ends))])
    left, right, step, width = 250.0, 60.0, 24, 1040.0
    low_edge = 14 + step * len(spans)

    def at(value: float) -> float:
        return left + scale.place(value) * (width - left - right)

    drawn = [svg.line([(at(clean), 6), (at(clean), low_edge)], "chance", f"as they are: {clean}")]
    marks = []
    for place, (condition, value, ends) in enumerate(spans):
        y = 20 + step * place
        label = f"{condition}: {name} {figure(value)}"
        drawn += [
            svg.words(left - 10, y + 4, condition, anchor="end", most=42),
            svg.line([(left, y), (width - right, y)], "grid"),
            svg.line([(at(ends[0]), y), (at(ends[1]), y)], "incumbent", label),
            svg.words(max(at(value), at(ends[1])) + 8, y + 4, figure(value), kind="value halo"),
        ]
        marks.append(Mark(at(value), y, "completed", "circle", label))
    for share, text in scale.ticks(6):
        x = left + share * (width - left - right)
        drawn += [
            svg.line([(x, low_edge), (x, low_edge + 4)], "axis"),
            svg.words(x, low_edge + 17, text, anchor="middle"),
        ]
    drawn.append(svg.line([(left, low_edge), (width - right, low_edge)], "axis"))
    title = f"What breaks the model: {name}"
    return Plot(
        title,
        svg.drawing(
            "robustness-plot",
            title,
            "; ".join(f"{condition}: {figure(value)}" for condition, value, _ in spans),
            width,
            low_edge + 24,
            *drawn,
            svg.marks(marks),
        ),
        f"Each condition's {name}; the line through it is the interval of the difference to the "
        "clips as they are.",
        (("circle", "completed", "under the condition"), ("line", "chance", "as they are")),
        wide=True,
    )


def _classes(result: Mapping[str, Any]) -> Markup | None:
    if "classes" not in result:
        return None
    rows: list[list[Content | Cell]] = []
    for one in result["classes"][:MOST_ROWS]:
        row: list[Content | Cell] = [one["label"], Cell(str(one["clips"]), one["clips"])]
        for name in ("precision", "recall", "f1"):
            row += [_cell(one[name]), reach(one["intervals"][name])]
        rows.append(row)
    heads = ["class", "clips"]
    for name in ("precision", "recall", "F1"):
        heads += [name, "interval"]
    more = len(result["classes"]) - len(rows)
    matrix = outcome.confusion(result["confusion"], result["labels"])
    return parts.section(
        "classes",
        "Classes",
        parts.table(
            "Precision, recall and F1", heads, rows, numbers=range(1, len(heads)), sortable=True
        ),
        parts.note(f"{more} further classes are left out.") if more > 0 else None,
        parts.figures([matrix]),
    )


def _groups(result: Mapping[str, Any]) -> Markup | None:
    if not result["groups"]:
        return None
    names = list(result["metrics"])
    made = []
    for column, values in result["groups"].items():
        rows: list[list[Content | Cell]] = []
        for one in values:
            row: list[Content | Cell] = [
                format_value(one["value"]),
                Cell(str(one["clips"]), one["clips"]),
            ]
            for name in names:
                row += [_cell(one["metrics"][name]), reach(one["intervals"][name])]
            rows.append(row)
        heads = [column, "clips", *(head for name in names for head in (name, "interval"))]
        made.append(
            parts.table(f"By {column}", heads, rows, numbers=range(1, len(heads)), sortable=True)
        )
    return parts.section("groups", "Groups", made)


def _calibration(result: Mapping[str, Any]) -> Markup | None:
    if "calibration" not in result:
        return None
    bins = result["calibration"]["bins"]
    rows = [
        [
            f"{one['low']:.2f}{_KEPT}to{_KEPT}{one['high']:.2f}",
            str(one["clips"]),
            figure(one["confidence"]),
            figure(one["accuracy"]),
        ]
        for one in bins
    ]
    table = parts.table(
        "Clips by the score of their predicted class",
        ["score", "clips", "mean score", "share that is right"],
        rows,
        numbers=[1, 2, 3],
    )
    about = parts.note(
        f"Expected calibration error: {figure(result['calibration']['ece'])}, the mean distance "
        "between a bin's mean score and its share of right clips, weighted by its clips (Guo et "
        "al. 2017, 15 bins of equal width). Few clips in a bin say little."
    )
    columns = [parts.figure(_reliability(bins)), tag("div", table, about)]
    return parts.section("calibration", "Calibration", tag("div", columns, class_="columns"))


def _reliability(bins: Sequence[Mapping[str, Any]]) -> Plot:
    frame = Frame(Scale(0.0, 1.0), Scale(0.0, 1.0), height=320)
    drawn = [svg.line([frame.at(0.0, 0.0), frame.at(1.0, 1.0)], "chance", "calibrated")]
    marks = []
    for one in bins:
        x, y = frame.at(one["confidence"], one["accuracy"])
        _, ideal = frame.at(one["confidence"], one["confidence"])
        label = (
            f"{one['clips']} clips of mean score {figure(one['confidence'])}: "
            f"{figure(one['accuracy'])} right"
        )
        drawn.append(svg.line([(x, ideal), (x, y)], "incumbent", label))
        marks.append(Mark(x, y, "completed", "circle", label))
    return Plot(
        "Reliability",
        svg.plot(
            "reliability",
            "Reliability",
            f"{len(bins)} bins: the share of clips that are right against their mean score.",
            frame,
            *drawn,
            svg.marks(marks),
            x_label="score of the predicted class, mean of a bin",
            y_label="share that is right",
        ),
        "Below the dashed line scores promise too much, above it too little.",
        (("circle", "completed", "a bin"), ("line", "chance", "calibrated")),
    )


def _wrong(result: Mapping[str, Any], labels: str | None, clips: int) -> Markup | None:
    wrong = result.get("wrong")
    if wrong is None:
        return None
    if not wrong:
        return parts.section("wrong", "Most wrong clips", parts.note("No clip is wrong."))
    told: Content = None
    players: list[Markup] = []
    if clips:
        try:
            players = [
                heard(one["true"], one["predicted"], one["score"], excerpt)
                for one, excerpt in zip(wrong, _excerpts(result, labels, clips), strict=False)
            ]
        except (UserError, OSError) as error:
            told = parts.note(f"The clips cannot be heard here: {error}")
    else:
        told = parts.note("`raudio evaluate --html FILE --clips N` adds players and spectrograms.")
    heads = ["clip", "group", "true", "its score", "predicted", "its score"]
    rows = [
        [
            one["clip_id"],
            one["group"] or "–",
            one["true"],
            figure(one["true_score"]),
            one["predicted"],
            figure(one["score"]),
        ]
        for one in wrong[: max(clips, MOST_CONFUSED)]
    ]
    return parts.section(
        "wrong",
        "Most wrong clips",
        told,
        tag("div", players, class_="clips") if players else None,
        parts.table("The least likely true class first", heads, rows, numbers=[3, 5]),
    )


def _excerpts(result: Mapping[str, Any], labels: str | None, clips: int) -> list[excerpts.Excerpt]:
    manifest = locate(Dataset(path=result["dataset"], labels=labels))
    if manifest.fingerprint != result["fingerprint"]:
        raise DataError(f"dataset {manifest.path!r} has changed since")
    split = result["split"]
    shards = manifest.shards if split == "all" else manifest.shards_of(split)
    return excerpts.of_shards(
        manifest, shards, [one["position"] for one in result["wrong"][:clips]]
    )


def _about(result: Mapping[str, Any]) -> Markup:
    facts: list[tuple[str, Content]] = [
        ("bundle", result["bundle"]),
        ("trial", format_value(result["trial"])),
        ("dataset", result["dataset"]),
        ("fingerprint", tag("code", result["fingerprint"])),
    ]
    return parts.section("about", "What was measured", parts.definitions(facts))


def _cell(value: float | None) -> Cell:
    return Cell(figure(value), value)
