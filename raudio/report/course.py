"""Plots of a search's course: value against the budget, learning curves, rungs, several runs."""

from __future__ import annotations

from collections.abc import Sequence

from raudio import records
from raudio.core.units import format_value
from raudio.progress import trial_state
from raudio.report import analysis, svg
from raudio.report.markup import join
from raudio.report.plot import STATE_SHAPES, Plot, named, state_marks, states_of, value_scale
from raudio.report.run import Run
from raudio.report.svg import Frame, Mark, Scale

#: Curves that are drawn; of more trials, evenly many over the ranking.
MOST_CURVES = 200

#: Classes of the colours for rungs and compared runs.
RUNG_COLOURS = 5
RUN_COLOURS = 6


def history(run: Run, axis: str) -> Plot | None:
    """Every trial's best value at what the search had spent by then, and the best so far.

    Args:
        axis: "epochs" or "seconds".
    """
    points = analysis.best_points(run)
    if not points:
        return None
    trials = run.valued
    best = [(p.spent(axis), p.value or 0.0) for p in analysis.incumbents(run)]
    values = [run.value(trial) or 0.0 for trial in trials]
    # Values that are one and the same have no range of their own: the way there has.
    y, note = value_scale(run, values if len(set(values)) > 1 else (value for _, value in best))
    end = max(p.spent(axis) for p in run.points)
    x = Scale.of([end], zero=True, time=axis == "seconds")
    frame = Frame(x, y)
    best.append((end, best[-1][1]))
    label = "epochs trained, over all trials" if axis == "epochs" else "wall time of the search"
    line = svg.steps([frame.at(*point) for point in best], "incumbent", "best so far")
    marks = state_marks(
        run, frame, [(t, points[t.id].spent(axis), run.value(t) or 0.0) for t in trials]
    )
    count, title = len(trials), f"Value against {axis} spent"
    return Plot(
        title,
        svg.plot(
            f"history-{axis}",
            title,
            f"{count} trials, each at its best {run.history.metric}; the best so far rises to "
            f"{format_value(best[-1][1])}.",
            frame,
            line,
            marks,
            x_label=label,
            y_label=run.history.metric,
        ),
        f"{'The trial' if count == 1 else f'Each of {count} trials'} at its best value, when it "
        f"was reached; the line is the best so far.{note}",
        states_of(run, trials),
    )


def curves(run: Run) -> Plot | None:
    """The value of each trial by epoch; colour by rungs passed, the last mark by end state."""
    metric = run.history.metric
    having = [t for t in run.ranked if any(metric in report.metrics for report in t.reports)]
    if not having:
        return None
    shown = analysis.spread(having, MOST_CURVES)
    series = {
        trial.id: [(r.epoch, r.metrics[metric]) for r in trial.reports if metric in r.metrics]
        for trial in shown
    }
    y, note = value_scale(run, (value for one in series.values() for _, value in one))
    frame = Frame(Scale.of((e for one in series.values() for e, _ in one), few=True), y)
    lines, ends, passed = [], [], set()
    for trial in reversed(shown):
        points = [frame.at(*point) for point in series[trial.id]]
        level = min(analysis.rung_reached(run.history, trial), RUNG_COLOURS - 1)
        passed.add(level)
        state = trial_state(run.history, trial)
        if len(points) > 1:
            lines.append(svg.line(points, f"curve rung{level}", named(run, trial)))
        shape = STATE_SHAPES.get(state, "plus")
        ends.append(Mark(*points[-1], f"rung{level}", shape, named(run, trial)))
    left_out = (
        f" {len(shown)} of {len(having)} trials, evenly over the ranking."
        if len(shown) < len(having)
        else ""
    )
    colours = (
        tuple(("line", f"rung{n}", _passed(n)) for n in sorted(passed)) if run.history.rungs else ()
    )
    ends_legend = tuple((shape, "plain", s) for shape, _, s in states_of(run, shown))
    return Plot(
        "Learning curves",
        svg.plot(
            "curves",
            "Learning curves",
            f"{metric} of {len(shown)} trials after each epoch.",
            frame,
            *lines,
            svg.marks(ends),
            x_label="epoch",
            y_label=metric,
        ),
        f"One line a trial; its end tells how the trial ended.{left_out}{note}",
        (*colours, *ends_legend),
    )


def _passed(count: int) -> str:
    if count == 0:
        return "passed no rung"
    more = " or more" if count == RUNG_COLOURS - 1 else ""
    return f"passed {count}{more} rung{'' if count == 1 else 's'}"


def rungs(run: Run) -> Plot | None:
    """How many trials came to each rung, and to the end."""
    found = analysis.rungs(run.history)
    if not found:
        return None
    several = len(run.history.brackets) > 1
    named_rungs = [
        (f"{f'{rung.bracket + 1}: ' if several else ''}epoch {rung.epoch}", rung) for rung in found
    ]
    states = [trial.state for trial in run.history.trials.values()]
    started, done = len(states), states.count(records.COMPLETED)
    rows = [
        ("started", started, "all trials"),
        *((name, rung.arrived, f"{rung.stopped} stopped there") for name, rung in named_rungs),
        ("completed", done, "ran to the end"),
    ]
    height, step, left, room = 14 + 38 * len(rows), 38, 92, 460 - 92 - 58
    parts = []
    for place, (name, count, about) in enumerate(rows):
        y = 8 + step * place
        width = room * count / max(started, 1)
        level = min(place, RUNG_COLOURS - 1)
        parts += [
            svg.words(left - 8, y + 16, name, anchor="end"),
            svg.bar(left, y, width, 24, f"fill rung{level}", f"{name}: {count} trials, {about}"),
            svg.words(left + width + 6, y + 16, f"{count}", kind="value"),
        ]
    about = "; ".join(f"{name}: {count}, {more}" for name, count, more in rows)
    return Plot(
        "Rung survival",
        svg.drawing("rungs", "Rung survival", about, 460, height, *parts),
        "Trials that came to each rung and were compared there; ASHA ends the worse ones. "
        + ("Each bracket, counted from 1, has rungs of its own. " if several else "")
        + " ".join(
            f"At {name}: {rung.stopped} of {rung.arrived} stopped." for name, rung in named_rungs
        ),
    )


def compared(runs: Sequence[Run], axis: str) -> Plot | None:
    """The best value so far of several runs."""
    lines: dict[int, list[tuple[float, float]]] = {}
    for place, run in enumerate(runs):
        best = [(p.spent(axis), p.value) for p in analysis.incumbents(run) if p.value is not None]
        if best:
            lines[place] = [*best, (max(p.spent(axis) for p in run.points), best[-1][1])]
    if not lines:
        return None
    y, note = value_scale(runs[0], (value for line in lines.values() for _, value in line))
    end = max(line[-1][0] for line in lines.values())
    frame = Frame(Scale.of([end], zero=True, time=axis == "seconds"), y, right=28)
    parts = []
    for place, points in lines.items():
        ends = [frame.at(*point) for point in points]
        kind = f"run{place % RUN_COLOURS}"
        parts.append(svg.steps(ends, f"incumbent {kind}", runs[place].name))
        x, up = ends[-1]
        parts.append(svg.words(x + 4, up + 4, str(place + 1), kind="value halo"))
    title = f"Best so far against {axis} spent"
    metric = runs[0].history.metric
    return Plot(
        title,
        svg.plot(
            f"compare-{axis}",
            title,
            "; ".join(f"{runs[n].name} ends at {format_value(p[-1][1])}" for n, p in lines.items()),
            frame,
            join(parts),
            x_label="epochs trained, over all trials" if axis == "epochs" else "wall time",
            y_label=metric,
        ),
        f"Each line ends with its run's number.{note}",
        tuple(("line", f"run{n % RUN_COLOURS}", f"{n + 1}: {runs[n].name}") for n in lines),
    )
