"""How far a search is, for a terminal: one table that fits it, single lines where there is none.

All of it comes from the records, so that the driver and another shell show the same.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from statistics import fmean, stdev
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from raudio.core.storage import exists, join
from raudio.core.units import format_seconds, format_value
from raudio.records import (
    COMPLETED,
    ERROR_TXT,
    FAILED,
    INTERRUPTED,
    PRUNED,
    RUNNING,
    STOPPED,
    WAITS,
    Configuration,
    History,
    TrialHistory,
    trial_file,
)

#: The states that trials and runs can be read in, and how the terminal shows them.
STATES = {
    RUNNING: "cyan",
    COMPLETED: "green",
    PRUNED: "dim",
    FAILED: "red",
    STOPPED: "yellow",
    INTERRUPTED: "yellow",
}

#: The variable that has a driver write its records instead of lines, for whoever follows it from
#: elsewhere, and what begins each of these: that of JSON text sequences (RFC 7464).
RECORDS_WANTED = "RAUDIO_RECORDS"
RECORD_MARK = "\x1e"

_BARS = "▁▂▃▄▅▆▇█"
#: Values that a curve shows; of a longer one, evenly many, the last always among them.
_CURVE = 12
#: Ended trials below the running ones.
_BEST_SHOWN = 8
#: Widths of a terminal from which the table has settings, and curves.
_WIDTH_OF_SETTINGS, _WIDTH_OF_CURVES = 64, 48


class Progress:
    """The state of a search as a table: what it has spent, what runs, what is best.

    It fits the terminal: a narrow one has fewer columns, a low one fewer rows.

    Args:
        history: drawn as it is each time.
    """

    def __init__(self, history: History) -> None:
        self._history = history

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        head = [text for text in headlines(self._history) if text.plain]
        yield from head
        lines = sum(len(text.wrap(console, options.max_width)) for text in head)
        # One row is the header's, one says what has no place, one is the cursor's.
        yield from _trials(self._history, options.max_width, max(1, console.height - lines - 3))


def headlines(history: History) -> Iterator[Text]:
    """What a search has done, spent and found so far; what is not known has no line."""
    yield _done(history)
    for text in _spent(history):
        yield Text(text, style="dim")
    yield Text(_cluster(history), style="dim")
    best = history.best()
    if best is None:
        yield Text("no result yet", style="dim")
    else:
        value = format_value(best.value(history.metric, history.mode))
        yield Text(f"best {history.metric} {value}  trial {best.id}", style="green")
    if history.goal.several:
        yield Text(
            f"Pareto front of {', '.join(history.goal.objectives)}: {len(history.front())}",
            style="dim",
        )
    brackets = [
        "  ".join(f"epoch {epoch}: {count}" for epoch, count in bracket)
        for bracket in rungs(history)
        if bracket
    ]
    yield Text(f"rungs  {'  |  '.join(brackets)}" if brackets else "", style="dim")


def configurations(history: History, most: int | None = None) -> Table:
    """The configurations, best first: their means, and how many values these are of.

    Args:
        most: at most so many; None: all. The title says how many were left out.
    """
    ranked = dict.fromkeys(trial.configuration for trial in history.ranked())
    found = [history.configurations[name] for name in ranked]
    shown, confirmed = found[:most], history.confirmed()
    left_out = len(shown) < len(found)
    title = f"best {len(shown)} of {len(found)} configurations" if left_out else None
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("configuration", no_wrap=True)
    for name in (history.metric.rpartition("/")[2] or "value", "deviation", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    if confirmed:
        table.add_column("confirmed", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("settings")  # the one column that gives way in a narrow terminal
    names = short_names({key for each in found for key in each.trials[0].params})
    for each in shown:
        values = each.values(history.metric, history.mode)
        state = configuration_state(history, each)
        table.add_row(
            each.id,
            format_value(fmean(values) if values else None),
            format_value(stdev(values) if len(values) > 1 else None),
            str(len(values)),
            *([format_value(confirmed.get(each.id))] if confirmed else []),
            Text(state, style=STATES[state]),
            Text(settings(each.trials[0].params, names), no_wrap=True, overflow="ellipsis"),
        )
    return table


def configuration_state(history: History, configuration: Configuration) -> str:
    """The state of a configuration as people should read it: completed when all of its trials
    are."""
    if history.settled(configuration):
        return configuration.state
    states = {trial_state(history, trial) for trial in configuration.trials}
    return next((s for s in (STOPPED, INTERRUPTED) if s in states), "") or (
        RUNNING if history.state == RUNNING else INTERRUPTED
    )


def is_drawable(console: Console) -> bool:
    """Whether a table can be drawn over itself."""
    return console.is_terminal and not console.is_dumb_terminal


def rungs(history: History) -> list[list[tuple[int, int]]]:
    """(epoch, trials that came so far) of each rung, bracket by bracket."""
    reached: list[list[int]] = [[] for _ in history.brackets]
    for trial in history.trials.values():
        if not trial.repeat:  # the others are compared with nothing
            reached[trial.bracket].append(trial.epochs)
    return [
        [(rung, sum(epoch >= rung for epoch in epochs)) for rung in bracket]
        for bracket, epochs in zip(history.brackets, reached, strict=True)
    ]


def line(history: History, record: Mapping[str, Any], run: str | os.PathLike[str]) -> str | None:
    """What a record says, where there is no table; None of what goes without saying.

    Trials that end, lose their process or are tried again, and the epochs of a training of one.

    Args:
        history: after the record.
        record: the newest.
        run: the run, a folder or a URI.
    """
    event = record["event"]
    if event == "lost":
        return f"{record['id']}  process lost ({record['reason']}); going on"
    if event == "preempted":
        return f"{record['id']}  {record['reason']}; going on elsewhere"
    if event == "retry":
        changed = settings(record["changed"])
        return f"{record['id']}  {record['kind']} ({record['reason']}); again with {changed}"
    trial = history.trials.get(record.get("id", ""))
    if trial is None or record.get("reason") == WAITS:
        return None
    if event == "report" and history.budget.trials == 1:
        epochs = (
            record["epoch"] if history.epochs is None else f"{record['epoch']}/{history.epochs}"
        )
        value = format_value(record["metrics"].get(history.metric))
        seconds = format_seconds(record["seconds"])
        return f"{record['id']}  epoch {epochs}  {history.metric} {value}  {seconds}"
    return _ended(history, trial, run) if event == "trial_end" else None


def failure(trial: TrialHistory, run: str | os.PathLike[str]) -> str:
    """Why a trial failed, and where its traceback is."""
    why = ": ".join(part for part in (trial.kind, trial.reason) if part) or "no reason recorded"
    path = traceback_file(trial, run)
    return why if path is None else f"{why}; traceback in {path}"


def traceback_file(trial: TrialHistory, run: str | os.PathLike[str]) -> str | None:
    """Where the traceback of a trial's failure is; None where there is none."""
    if trial.kind is None:
        return None
    path = join(run, trial_file(trial.id, ERROR_TXT))
    with suppress(OSError):  # a store that cannot be asked
        return path if exists(path) else None
    return None


def curve(trial: TrialHistory, metric: str) -> str:
    """The metric over the epochs, as bars from its least to its greatest value."""
    values = [r.metrics[metric] for r in trial.reports if metric in r.metrics]
    if len(values) > _CURVE:
        values = [values[round(n * (len(values) - 1) / (_CURVE - 1))] for n in range(_CURVE)]
    low, high = min(values, default=0.0), max(values, default=0.0)
    if high == low:
        return _BARS[0] * len(values)
    return "".join(_BARS[round((v - low) / (high - low) * (len(_BARS) - 1))] for v in values)


def trial_state(history: History, trial: TrialHistory) -> str:
    """The state of a trial as people should read it: nothing runs in a run without a driver."""
    if trial.state == RUNNING and history.state != RUNNING:
        return INTERRUPTED
    return trial.state


def settings(params: Mapping[str, Any], names: Mapping[str, str] | None = None) -> str:
    """Settings in one line, by their own names or others."""
    return " ".join(
        f"{key if names is None else names[key]}={format_value(value)}"
        for key, value in params.items()
    )


def short_names(keys: set[str]) -> dict[str, str]:
    """Each setting by the last part of its name, where that is clear; `optimizer.lr` is `lr`."""
    ends = Counter(key.rpartition(".")[2] for key in keys)
    return {key: end if ends[end := key.rpartition(".")[2]] == 1 else key for key in keys}


# --- inside ------------------------------------------------------------------------------------


def _done(history: History) -> Text:
    counts = Counter(trial_state(history, trial) for trial in history.trials.values())
    if history.replicated:
        done = sum(map(history.settled, history.configurations.values()))
        unit, further = "configurations", f"{len(history.trials)} trials: "
    else:
        done = sum(counts[state] for state in (COMPLETED, PRUNED, FAILED))
        unit, further = "trials", ""
    wanted = history.budget.trials
    text = Text(f"{done} {unit}" if wanted is None else f"{done} of {wanted} {unit}", style="bold")
    always = (COMPLETED, PRUNED, FAILED, RUNNING)
    parts = [f"{counts[state]} {state}" for state in STATES if state in always or counts[state]]
    if count := sum(trial.preemptions for trial in history.trials.values()):
        parts.append(f"{count} preemption{'' if count == 1 else 's'}")
    return text.append(f"  {further}{', '.join(parts)}", style="not bold")


def _spent(history: History) -> Iterator[str]:
    """Time, epochs and device time, with what is left of their budgets; then the other budgets."""
    budget, spent = history.budget, history.spent
    trials = [trial for trial in history.trials.values() if trial.same_as is None]
    time = _of(history.elapsed(), budget.seconds, format_seconds)
    if budget.epochs is None:
        epochs = f"{sum(len(trial.reports) for trial in trials)} epochs"
    else:
        epochs = _of(spent.epochs, budget.epochs, format_value, " epochs")
    if budget.cost is None:
        cost = f"{format_seconds(sum(trial.loop_seconds for trial in trials))} of training"
    else:
        cost = _of(spent.cost, budget.cost, format_seconds, " of device time")
    if budget.epochs is None and budget.cost is None:
        yield f"{time}   {epochs}   {cost}"
    else:  # with what is left they have no room on one line
        yield f"{time}   {epochs}"
        yield cost
    ends = [] if budget.target is None else [f"until {history.metric} {_target(history)}"]
    if budget.patience is not None:
        without = " trials without progress"
        ends.append(_of(spent.stale, budget.patience, format_value, without))
    yield "   ".join(ends)


def _of(spent: float, budget: float | None, text: Callable[[float], str], unit: str = "") -> str:
    if budget is None:
        return text(spent) + unit
    return f"{text(spent)} of {text(budget)}{unit}, {text(max(budget - spent, 0))} left"


def _target(history: History) -> str:
    """The target, and how far the best value is from it."""
    target, best = history.budget.target, history.spent.best
    assert target is not None
    if best is None:
        return format_value(target)
    missing = max(0.0, best[1] - target if history.mode == "min" else target - best[1])
    return f"{format_value(target)}, {format_value(missing)} to go"


def _cluster(history: History) -> str:
    there = history.cluster
    if there is None or history.state != RUNNING:
        return ""
    running = sum(trial.state == RUNNING for trial in history.trials.values())
    parts = [f"{running} of {there.slots} slots"]
    for name, has, takes in (
        ("CPUs", there.cpus, there.trial_cpus),
        ("GPUs", there.gpus, there.trial_gpus),
    ):
        if has:
            parts.append(f"{min(running * takes, has):g} of {has:g} {name}")
    waiting = f"; {there.waiting} waiting for machines" if there.waiting else ""
    return f"{', '.join(parts)} in use on {there.where}{waiting}"


def _trials(history: History, width: int, most: int) -> Iterator[Table | Text]:
    """The running trials and the best of the others, `most` rows at most."""
    ranked = history.ranked()
    running = [trial for trial in history.trials.values() if trial.state == RUNNING]
    ended = [trial for trial in ranked if trial.state in (COMPLETED, PRUNED, FAILED)]
    if history.replicated:
        ended = []  # the configurations, below, tell of them
    shown = [*running, *ended[:_BEST_SHOWN]][:most]
    whole = width >= _WIDTH_OF_SETTINGS
    table = Table(box=None, pad_edge=False, header_style="bold", expand=whole)
    for name in ("trial", "state", "epoch", history.metric.rpartition("/")[2]):
        table.add_column(name, no_wrap=True)
    if width >= _WIDTH_OF_CURVES:
        table.add_column("", no_wrap=True, min_width=_CURVE)
    if whole:
        # The one column that gives way: the others keep the width that they need.
        table.add_column("settings", no_wrap=True, overflow="ellipsis", ratio=1)
    names = short_names({key for trial in shown for key in trial.params})
    for trial in shown:
        state = trial_state(history, trial)
        cells: Sequence[str | Text] = (
            trial.id,
            Text(state, style=STATES[state]),
            _epochs(history, trial),
            format_value(trial.value(history.metric, history.mode)),
            curve(trial, history.metric),
            Text(settings(trial.params, names)),
        )
        table.add_row(*cells[: len(table.columns)])
    if shown or not history.replicated:
        yield table
    below = min(_BEST_SHOWN, most - len(shown) - 2)  # a header, and a title
    if history.replicated and below > 0 and history.configurations:
        yield configurations(history, below)
    if len(running) > most:
        yield Text(f"and {len(running) - most} more running", style="dim")


def _epochs(history: History, trial: TrialHistory) -> str:
    return str(trial.epochs) if history.epochs is None else f"{trial.epochs}/{history.epochs}"


def _ended(history: History, trial: TrialHistory, run: str | os.PathLike[str]) -> str:
    value = format_value(trial.value(history.metric, history.mode))
    best = history.best()
    mark = "  best so far" if best is not None and best.id == trial.id else ""
    why = f" ({failure(trial, run)})" if trial.kind else ""
    if trial.same_as is not None:
        why = f" (the same experiment as {trial.same_as})"
    if trial.state == PRUNED and not trial.epochs:  # over a limit
        why = f" ({trial.reason})"
    epochs = f"{trial.epochs} epoch{'' if trial.epochs == 1 else 's'}"
    return (
        f"{trial.id}  {trial.state}{why}  {history.metric} {value}  {epochs}  "
        f"{format_seconds(trial.seconds)}  {settings(trial.params)}{mark}"
    )
