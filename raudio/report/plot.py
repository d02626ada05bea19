"""What every plot of a report is made of: a drawing with its words, and marks by end state.

A plot that has nothing to show is None. What a plot leaves out is in its caption.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raudio import records
from raudio.core.units import format_value
from raudio.progress import trial_state
from raudio.records import TrialHistory
from raudio.report import svg
from raudio.report.markup import Markup
from raudio.report.run import Run
from raudio.report.svg import Frame, Mark, Scale

#: The shape of each end state's mark; its colour is the class of the same name.
STATE_SHAPES = {
    records.COMPLETED: "circle",
    records.PRUNED: "cross",
    records.STOPPED: "square",
    records.FAILED: "triangle",
    records.RUNNING: "diamond",
    records.INTERRUPTED: "plus",
}

#: Classes of shades, from the worst or least to the best or most.
SHADES = 7


@dataclass(frozen=True)
class Plot:
    """A plot with its words.

    Attributes:
        title: what it is.
        image: the drawing.
        caption: what it shows, and what it leaves out.
        legend: (shape, class, meaning) of its marks.
        wide: whether it wants the whole width of the page.
    """

    title: str
    image: Markup
    caption: str
    legend: tuple[tuple[str, str, str], ...] = ()
    wide: bool = False


def named(run: Run, trial: TrialHistory) -> str:
    """A trial in few words."""
    state, value = trial_state(run.history, trial), format_value(run.value(trial))
    return f"trial {trial.id}: {run.history.metric} {value}, {state}, {trial.epochs} epochs"


def states_of(run: Run, trials: Iterable[TrialHistory]) -> tuple[tuple[str, str, str], ...]:
    """The legend of the states that `trials` have."""
    there = {trial_state(run.history, trial) for trial in trials}
    return tuple((shape, s, s) for s, shape in STATE_SHAPES.items() if s in there)


def value_scale(run: Run, values: Iterable[float]) -> tuple[Scale, str]:
    """A scale of the metric and what to say of it: a few far worse values do not stretch it."""
    known = np.array(list(values))
    worse = known if run.history.mode == "min" else -known
    usual, far = np.quantile(worse, 0.95), worse.max()
    if far - usual > 3 * (usual - worse.min()) > 0:
        inside = worse <= usual
        beyond = int((~inside).sum())
        return Scale.of(known[inside].tolist()), f" {beyond} far worse values lie at its edge."
    return Scale.of(known.tolist()), ""


def state_marks(
    run: Run, frame: Frame, points: Sequence[tuple[TrialHistory, Any, float]]
) -> Markup:
    placed = []
    for trial, x, value in points:
        state = trial_state(run.history, trial)
        placed.append(
            Mark(*frame.at(x, value), state, STATE_SHAPES.get(state, "plus"), named(run, trial))
        )
    # The best come last, so that they lie on top.
    return svg.marks(placed[::-1])
