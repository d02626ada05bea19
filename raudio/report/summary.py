"""A run in words, and the commands that do it again: what the page and the Markdown both say."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from raudio import records
from raudio.config.axes import quoted
from raudio.core.units import format_seconds, format_value
from raudio.progress import STATES, trial_state
from raudio.records import TrialHistory
from raudio.report import analysis
from raudio.report.confirmation import CONFIDENCE, confirmation
from raudio.report.run import Run

_STATES = {
    records.COMPLETED: "is complete.",
    records.RUNNING: "is still running; this is what it has found so far.",
    records.STOPPED: "was stopped.",
    records.FAILED: "failed.",
    records.INTERRUPTED: "was interrupted; `raudio resume` goes on with it.",
}


def sentences(run: Run, importances: Sequence[analysis.Importance]) -> list[str]:
    """What happened, what was found, what it cost, and what to make of it."""
    history = run.history
    counts = Counter(trial_state(history, trial) for trial in history.trials.values())
    number = len(history.trials)
    drawn, unit = number, "trial"
    if history.replicated:
        drawn, unit = len(history.configurations), "configuration"
    wanted = f" of {history.budget.trials}" if (history.budget.trials or 0) > drawn else ""
    listed = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    what = "training" if run.search.get("single") else "search"
    state = _STATES.get(history.state, f"is {history.state}.")
    found = [
        f"The {what} {state}" + (f" Reason: {history.reason}." if history.reason else ""),
        f"{drawn}{wanted} {unit}{'' if drawn == 1 and not wanted else 's'}"
        + (f", {number} trials," if history.replicated else "")
        + f" in {format_seconds(history.seconds)}"
        + (f": {listed}." if listed else "."),
    ]
    best = run.best
    if best is None:
        if number:
            found.append(f"No trial has a value of {history.metric or 'the metric'} yet.")
        return found
    report = best.best_report(history.metric, history.mode)
    assert report is not None
    if history.replicated:
        found += _configurations(run, best)
    chosen = f"The best is trial {best.id}"
    if history.replicated:
        chosen = f"Trial {best.id} stands for it"
    found.append(
        f"{chosen}: {history.metric} "
        f"{format_value(report.metrics[history.metric])} at epoch {report.epoch}."
    )
    found += _course(run)
    if history.goal.several and (front := history.front()):
        found.append(
            f"Pareto front of {' and '.join(history.goal.objectives)}: {', '.join(front)}."
        )
    if (confirmed := confirmation(history)) is not None:
        found.append(confirmed.verdict)
    clear = [one for one in importances if one.share > one.chance][:3]
    if clear:
        names = ", ".join(f"{one.setting} ({one.share:.0%})" for one in clear)
        found.append(f"What decided most: {names}.")
    found.append(
        "The value is of the split that chose the trial, on which it looks better than it is; "
        "`raudio evaluate BUNDLE DATASET --split test` measures the bundle on unseen clips."
    )
    return found


def _configurations(run: Run, best: TrialHistory) -> list[str]:
    """The best configuration, by the search and by a confirmation."""
    history, name = run.history, best.configuration
    values = history.configurations[name].values(history.metric, history.mode)
    found = [f"The best configuration is {name}."]
    if values:
        found = [
            f"The best configuration is {name}: {history.metric} {format_value(fmean(values))} on "
            f"average over {len(values)} trial{'' if len(values) == 1 else 's'}."
        ]
    confirmed = confirmation(history)
    if confirmed is None:
        return found
    for one in confirmed.configurations:
        if one.configuration == name:
            told = f"Fresh seeds gave it {format_value(one.mean)} on average"
            if one.low is not None:
                told += (
                    f" ({CONFIDENCE:.0%} interval {format_value(one.low)} to "
                    f"{format_value(one.high)})"
                )
            found.append(f"{told}.")
    return found


def _course(run: Run) -> list[str]:
    """When the best was found, and what early stopping saved."""
    history, last = run.history, run.points[-1]
    found = []
    if run.best is not None and len(history.trials) > 1:
        reached = analysis.best_points(run)[run.best.id]
        later = len(history.trials) - list(history.trials).index(reached.trial) - 1
        # Means and limits decide too: a later trial alone may have a better value.
        alone = not history.replicated and not history.goal.limits
        found.append(
            f"It was reached after {reached.epochs} of {last.epochs} epochs"
            + (
                f"; the {later} trials started after it were not better."
                if later > 1 and alone
                else "."
            )
        )
    length = analysis.planned_epochs(run)
    whole = (length or 0) * len(run.history.trials)
    if run.history.rungs and whole > last.epochs:
        found.append(
            f"Early stopping trained {last.epochs} epochs where all trials to their end would "
            f"have taken {whole} ({1 - last.epochs / whole:.0%} saved)."
        )
    return found


def search_command(run: Run) -> str:
    """The command that makes such a run again."""
    argv = run.command
    if len(argv) > 1 and argv[1] in ("search", "train"):
        return shlex.join(["raudio", *(a for a in argv[1:] if not a.startswith("run.dir="))])
    given = [one for one in run.overrides if not one.startswith("run.dir=")]
    if run.search.get("single"):
        return shlex.join(["raudio", "train", *given])
    space = f"space={run.folder / records.SPACE_YAML}"
    return shlex.join(
        ["raudio", "search", space, *(g for g in given if not g.startswith("space="))]
    )


def train_command(run: Run, trial: TrialHistory) -> str:
    """The command that trains one trial of it again, alone."""
    skipped = ("run.", "search.", "space=", *(f"{key}=" for key in trial.params))
    kept = [one for one in run.overrides if not one.startswith(skipped)]
    drawn = [f"{key}={quoted(value)}" for key, value in trial.params.items()]
    return shlex.join(["raudio", "train", *kept, *drawn])
