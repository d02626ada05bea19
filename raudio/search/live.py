"""What a search shows while it runs: one live table, or plain lines where there is no terminal.

Everything goes to standard error; standard output is for results.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raudio.core.units import format_seconds, format_value
from raudio.records import (
    COMPLETED,
    ERROR_TXT,
    FAILED,
    PRUNED,
    RUNNING,
    TrialHistory,
    trial_folder,
)
from raudio.search.engine import Engine
from raudio.search.scheduler import Scheduler

_BARS = "▁▂▃▄▅▆▇█"
_REFRESH = 0.25
#: Ended trials shown below the running ones.
_BEST_SHOWN = 8


class Display:
    """The screen of a search; a context manager around the time in which trials run.

    Args:
        console: for standard error.
        epochs: of a trial.
        quiet: shows nothing.
    """

    def __init__(self, console: Console, epochs: int, *, quiet: bool = False) -> None:
        self._console = console
        self._epochs = epochs
        self._quiet = quiet
        self._engine: Engine | None = None
        self._live: Live | None = None
        self._drawn = 0.0

    def say(self, text: str) -> None:
        """A line above the table."""
        if not self._quiet:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, engine: Engine) -> None:
        """Starts drawing `engine`."""
        self._engine = engine
        if self._console.is_terminal and not self._quiet:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()

    def tick(self) -> None:
        """Draws the table anew, a few times a second at most."""
        now = time.monotonic()
        if self._live is not None and now - self._drawn >= _REFRESH:
            self._drawn = now
            assert self._engine is not None
            self._live.update(table(self._engine, self._epochs), refresh=True)

    def watch(self, record: Mapping[str, Any]) -> None:
        """A line for each trial that fails or is tried again; where there is no terminal, also for
        each that ends or loses its process."""
        if self._quiet or self._engine is None:
            return
        failed = record["event"] == "trial_end" and record["kind"] is not None
        if record["event"] == "retry":
            changed = " ".join(f"{key}={value}" for key, value in record["changed"].items())
            self.say(f"{record['id']}  {record['kind']} ({record['reason']}); again with {changed}")
        elif record["event"] == "trial_end" and (failed or self._live is None):
            self.say(_ended(self._engine, self._engine.history.trials[record["id"]]))
            error = trial_folder(self._engine.run, record["id"]) / ERROR_TXT
            if failed and error.exists():
                self.say(f"      traceback: {error}")
        elif record["event"] == "lost" and self._live is None:
            self.say(f"{record['id']}  process lost ({record['reason']}); going on")

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def table(engine: Engine, epochs: int) -> Group:
    """The state of a search: how far it is, what runs, what is best, how many passed each rung."""
    history = engine.history
    counts = Counter(trial.state for trial in history.trials.values())
    done = sum(counts[state] for state in (COMPLETED, PRUNED, FAILED))
    wanted = engine.trials_wanted
    head = Text(f"{done} trials" if wanted is None else f"{done} of {wanted} trials", style="bold")
    head.append(
        f"  {counts[COMPLETED]} completed, {counts[PRUNED]} pruned, {counts[FAILED]} failed, "
        f"{len(engine.running)} running",
        style="not bold",
    )
    head.append(f"  {_time(engine)}", style="dim")
    best = history.best()
    second = Text("no result yet" if best is None else "", style="dim")
    if best is not None:
        value = format_value(best.value(history.metric, history.mode))
        second = Text(f"best {history.metric} {value}  trial {best.id}", style="green")
    rungs = _rungs(engine.scheduler)
    if rungs:
        second.append(f"   rungs  {rungs}", style="dim")

    rows = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for name in ("trial", "state", "epoch", history.metric, ""):
        rows.add_column(name, no_wrap=True)
    # The one column that gives way: the others keep the width that they need.
    rows.add_column("settings", no_wrap=True, overflow="ellipsis", ratio=1)
    ended = [trial for trial in history.ranked() if trial.state in (COMPLETED, PRUNED, FAILED)]
    for trial in [*engine.running, *ended[:_BEST_SHOWN]]:
        rows.add_row(
            trial.id,
            Text(trial.state, style=_style(trial.state)),
            f"{trial.epochs}/{epochs}",
            format_value(trial.value(history.metric, history.mode)),
            _curve(trial, history.metric),
            _settings(trial.params),
        )
    return Group(head, second, rows)


def _rungs(scheduler: Scheduler) -> str:
    """How many trials have been compared at each rung, bracket by bracket."""
    return "  |  ".join(
        "  ".join(f"epoch {epoch}: {count}" for epoch, count in scheduler.rungs(bracket))
        for bracket, epochs in enumerate(scheduler.brackets)
        if epochs
    )


def _time(engine: Engine) -> str:
    text = format_seconds(engine.elapsed)
    return text if engine.time_budget is None else f"{text} of {format_seconds(engine.time_budget)}"


def _ended(engine: Engine, trial: TrialHistory) -> str:
    history = engine.history
    value = format_value(trial.value(history.metric, history.mode))
    best = history.best()
    mark = "  best so far" if best is not None and best.id == trial.id else ""
    why = f" ({trial.kind}: {trial.reason})" if trial.kind else ""
    epochs = f"{trial.epochs} epoch{'' if trial.epochs == 1 else 's'}"
    return (
        f"{trial.id}  {trial.state}{why}  {history.metric} {value}  {epochs}  "
        f"{format_seconds(trial.seconds)}  {_settings(trial.params)}{mark}"
    )


def _settings(params: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={format_value(value)}" for key, value in params.items())


def _style(state: str) -> str:
    return {COMPLETED: "green", PRUNED: "yellow", FAILED: "red", RUNNING: "cyan"}.get(state, "")


def _curve(trial: TrialHistory, metric: str) -> str:
    """The metric over the last epochs, as bars from its least to its greatest value."""
    values = [r.metrics[metric] for r in trial.reports if metric in r.metrics][-12:]
    low, high = min(values, default=0.0), max(values, default=0.0)
    if high == low:
        return _BARS[0] * len(values)
    return "".join(_BARS[round((v - low) / (high - low) * (len(_BARS) - 1))] for v in values)
