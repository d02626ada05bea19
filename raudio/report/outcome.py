"""Plots of what came out: value against cost, and the best trial's confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raudio.report import analysis, svg
from raudio.report.markup import Markup, tag
from raudio.report.plot import SHADES, Plot, state_marks, states_of, value_scale
from raudio.report.run import Run
from raudio.report.settings import MOST_POINTS
from raudio.report.svg import Frame, Scale

#: Room that a trial's name takes, across and up.
_LABEL = (32, 14)


def pareto(run: Run) -> Plot | None:
    """Value against its price (`analysis.price`), and the trials that none beats in both."""
    best = analysis.front(run)
    if not best:
        return None
    trials = analysis.spread(run.valued, MOST_POINTS)
    trials += [trial for trial in best if trial not in trials]
    axis, timed = analysis.price(run), not run.history.goal.several
    points = [(t, c, run.value(t) or 0.0) for t in trials if (c := axis.of(t)) is not None]
    prices = [cost for _, cost, _ in points]
    y, note = value_scale(run, (value for _, _, value in points))
    log = min(prices) > 0 and max(prices) > 8 * min(prices)
    scale = Scale.of(prices, log=log, time=timed)
    frame = Frame(scale, y)
    corners = [frame.at(axis.of(t), run.value(t)) for t in best]
    names: list[Markup] = []
    last = (float("inf"), float("inf"))
    for (right, up), trial in list(zip(corners, best, strict=True))[::-1]:  # the best first
        if last[0] - right > _LABEL[0] or abs(last[1] - up) > _LABEL[1]:
            inside = right + 6 + _LABEL[0] < frame.width
            x, anchor = (right + 6, "start") if inside else (right - 6, "end")
            names.append(svg.words(x, up + 15, trial.id, anchor=anchor, kind="tick halo"))
            last = (right, up)
    return Plot(
        "Value against cost",
        svg.plot(
            "pareto",
            "Value against cost",
            f"{len(points)} trials; on the Pareto front: {', '.join(t.id for t in best)}.",
            frame,
            svg.steps(corners, "incumbent", "Pareto front"),
            state_marks(run, frame, points),
            *names,
            x_label=axis.label,
            y_label=run.history.metric,
        ),
        f"{len(best)} trial{'' if len(best) == 1 else 's'} (the line) that no other beats in both "
        + ("value and time. An epoch's time is that of its machine." if timed else _objectives(run))
        + note,
        states_of(run, trials),
    )


def _objectives(run: Run) -> str:
    """What the plot's front is in, where there are several objectives."""
    goal = run.history.goal
    if len(goal.objectives) == 2:
        return "objectives."
    return f"of the first two objectives. In all {len(goal.objectives)}: " + (
        f"{', '.join(run.history.front())}."
    )


def confusion(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> Plot | None:
    """The confusion matrix: rows are true classes, columns predicted ones."""
    size = len(labels)
    if not size or len(counts) != size:
        return None
    matrix = np.array(counts)
    longest = min(14, max(map(len, labels)))
    left, top = 22 + 6.4 * longest, 16 + 4.6 * longest
    cell = max(2.0, min(30.0, 500 / size))
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    parts = []
    for row, column in np.argwhere(matrix > 0).tolist():
        count, share = int(matrix[row, column]), float(shares[row, column])
        shade = min(SHADES - 1, int(share * SHADES))
        x, y = left + cell * column, top + cell * row
        words = f"{labels[row]} taken for {labels[column]}: {count} ({share:.0%})"
        if row == column:
            words = f"{labels[row]} right: {count} ({share:.0%})"
        parts.append(svg.bar(x, y, cell, cell, f"shade{shade}", words if size <= 60 else None))
        if cell >= 20:
            parts.append(
                svg.words(
                    x + cell / 2, y + cell / 2 + 4, str(count), anchor="middle", kind=f"on{shade}"
                )
            )
    if cell >= 8:
        for place, label in enumerate(labels):
            middle = cell * (place + 0.5)
            parts.append(svg.words(left - 6, top + middle + 4, label, anchor="end", most=longest))
            x, y = left + middle + 3, top - 6
            name = svg.words(x, y, label, most=longest)
            parts.append(tag("g", name, transform=f"rotate(-45 {x:.1f} {y:.1f})"))
    side = cell * size
    parts.append(svg.bar(left, top, side, side, "box"))
    wrong = int(matrix.sum() - matrix.trace())
    return Plot(
        "Confusion matrix",
        svg.drawing(
            "confusion",
            "Confusion matrix",
            f"{size} classes; {wrong} of {int(matrix.sum())} clips got another class.",
            left + side + 6.4 * longest * 0.7 + 8,
            top + side + 6,
            *parts,
        ),
        f"Rows: the true class; columns: the predicted one; shade: share of the row. {wrong} of "
        f"{int(matrix.sum())} clips got another class.",
    )
