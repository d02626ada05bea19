"""What a search says of itself: tables for the terminal, sentences, and the same as data."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping
from statistics import fmean, stdev
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from raudio import records
from raudio.core.units import format_seconds, format_value
from raudio.progress import (
    STATES,
    configuration_state,
    configurations,
    curve,
    failure,
    settings,
    short_names,
    traceback_file,
    trial_state,
)
from raudio.records import Configuration, History, TrialHistory
from raudio.report.confirmation import CONFIDENCE, confirmation


def as_data(run: str | os.PathLike[str], history: History) -> dict[str, Any]:
    """What `raudio status --json` prints; the trials best first."""
    metric, mode = history.metric, history.mode
    best, found = history.best(), confirmation(history)
    return {
        "run": os.fspath(run),
        "state": history.state,
        "reason": history.reason,
        "metric": metric,
        "mode": mode,
        "objectives": dict(history.goal.objectives),
        "limits": list(history.goal.limits),
        "front": [
            {"id": name, "values": dict(zip(history.goal.objectives, values, strict=True))}
            for name, values in history.front().items()
        ],
        "version": history.version,
        "seconds": round(history.elapsed(), 3),
        "budget": dataclasses.asdict(history.budget),
        "spent": {"epochs": history.spent.epochs, "cost": round(history.spent.cost, 3)},
        "confirmation": None if found is None else dataclasses.asdict(found),
        "best": None
        if best is None
        else {
            "id": best.id,
            "value": best.value(metric, mode),
            "metrics": best.best_metrics(metric, mode),
            "params": best.params,
        },
        "configurations": [
            _configuration(history, history.configurations[name])
            for name in dict.fromkeys(trial.configuration for trial in history.ranked())
        ],
        "trials": [
            {
                "id": trial.id,
                "configuration": trial.configuration,
                "repeat": trial.repeat,
                "fold": history.fold(trial),
                "confirms": trial.confirms,
                "state": trial_state(history, trial),
                "kind": trial.kind,
                "reason": trial.reason,
                "epochs": trial.epochs,
                "value": trial.value(metric, mode),
                "metrics": trial.best_metrics(metric, mode),
                "params": trial.params,
                "costs": trial.costs,
                "broken_limits": history.broken_limits(trial),
                "changed": trial.changed,
                "same_as": trial.same_as,
                "seconds": round(trial.seconds, 3),
                "lost": trial.lost,
                "preemptions": trial.preemptions,
                "traceback": traceback_file(trial, run),
            }
            for trial in history.ranked()
        ],
    }


def _configuration(history: History, configuration: Configuration) -> dict[str, Any]:
    values = configuration.values(history.metric, history.mode)
    return {
        "id": configuration.id,
        "state": configuration_state(history, configuration),
        "mean": fmean(values) if values else None,
        "deviation": stdev(values) if len(values) > 1 else None,
        "values": values,
        "trials": [trial.id for trial in configuration.trials],
        "confirming": [trial.id for trial in configuration.confirming],
        "params": configuration.trials[0].params,
    }


def leaderboard(history: History, top: int | None = None) -> Table:
    """The trials, best first, the failed ones last; where configurations have several trials, or
    the best are confirmed, the configurations.

    Args:
        top: at most so many; None: all. The title says how many were left out.
    """
    if history.replicated:
        return configurations(history, top)
    ranked = history.ranked()
    shown = ranked if top is None else ranked[:top]
    title = f"best {len(shown)} of {len(ranked)} trials" if len(shown) < len(ranked) else None
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("trial", no_wrap=True)
    table.add_column(history.metric or "value", justify="right", no_wrap=True)
    further = list(history.goal.objectives)[1:]
    for name in further:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("epochs", justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("curve", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("settings")  # the one column that gives way in a narrow terminal
    names = short_names({key for trial in ranked for key in trial.params})
    for trial in shown:
        measures = history.measures(history.configurations[trial.configuration])
        state = trial_state(history, trial)
        table.add_row(
            trial.id,
            format_value(trial.value(history.metric, history.mode)),
            *(format_value(measures.get(name)) for name in further),
            str(trial.epochs),
            format_seconds(trial.seconds),
            curve(trial, history.metric),
            Text(_ending(history, state, trial), style=STATES[state]),
            Text(settings(trial.params, names), no_wrap=True, overflow="ellipsis"),
        )
    return table


def _ending(history: History, state: str, trial: TrialHistory) -> str:
    if state == records.FAILED and trial.kind:
        return f"{state} ({trial.kind})"
    return f"{state} (over a limit)" if history.broken_limits(trial) else state


def configuration(params: Mapping[str, Any]) -> Table:
    """A trial's settings, one a line, as they can be given on a command line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for key, value in sorted(params.items()):
        # In full: what is printed here is meant to be used again.
        table.add_row(key, "none" if value is None else escape(str(value)))
    return table


def summary(history: History, run: str | os.PathLike[str]) -> str:
    """One sentence on the run, one on its best trial, one for each kind of failure."""
    counts = Counter(trial_state(history, trial) for trial in history.trials.values())
    parts = [f"{counts[state]} {state}" for state in STATES if counts[state]]
    trials = len(history.trials)
    drawn, unit = trials, "trial"
    if history.replicated:
        drawn, unit = len(history.configurations), "configuration"
    of = f" of {history.budget.trials}" if (history.budget.trials or 0) > drawn else ""
    text = f"{history.state} after {format_seconds(history.elapsed())}"
    text += f": {drawn}{of} {unit}{'' if drawn == 1 and not of else 's'}"
    text += f", {trials} trials" if history.replicated else ""
    text += f" ({', '.join(parts)})" if parts else ""
    lines = [text + (f"; {history.reason}" if history.reason else "")]
    taken = sum(trial.preemptions for trial in history.trials.values())
    lost = sum(trial.lost for trial in history.trials.values())
    gone = (
        (taken, "machines were taken away from trials"),
        (lost, "processes or machines were lost"),
    )
    if told := [f"{what} {times(count)}" for count, what in gone if count]:
        lines.append(f"{', '.join(told)}; their trials went on from their checkpoints")
    best = history.best()
    if best is not None:
        report = best.best_report(history.metric, history.mode)
        assert report is not None
        value = format_value(report.metrics[history.metric])
        lines.append(f"best {history.metric} {value}: trial {best.id}, epoch {report.epoch}")
    elif trials:
        limits = f" within {' and '.join(history.goal.limits)}" if history.goal.limits else ""
        lines.append(f"no trial has a value of {history.metric}{limits} yet")
    if history.goal.several and (front := history.front()):
        lines.append(f"Pareto front of {', '.join(history.goal.objectives)}: {', '.join(front)}")
    found = confirmation(history)
    if found is not None:
        for one in found.configurations:
            text = f"confirmed {one.configuration}: mean {format_value(one.mean)}"
            if one.deviation is not None:
                text += (
                    f", deviation {format_value(one.deviation)}, {CONFIDENCE:.0%} interval "
                    f"{format_value(one.low)} to {format_value(one.high)}"
                )
            lines.append(f"{text} ({len(one.values)} of {found.seeds} seeds)")
        lines.append(found.verdict)
    alike: dict[tuple[str | None, str | None], list[TrialHistory]] = {}
    for trial in history.trials.values():
        if trial.state == records.FAILED:
            alike.setdefault((trial.kind, trial.reason), []).append(trial)
    for failed in sorted(alike.values(), key=len, reverse=True):
        lines.append(f"failed {times(len(failed))}: {failure(failed[-1], run)}")
    return "\n".join(lines)


def times(count: int) -> str:
    """`1 time`, `2 times`."""
    return f"{count} time{'' if count == 1 else 's'}"
