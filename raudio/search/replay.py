"""A search on recorded learning curves: thousands of trials in seconds, on a simulated clock.

Sampler, scheduler, engine, records and resume are those of a real search; only training is
replaced. A trial's configuration is answered by the nearest recorded ones (`Curves.answer`), and
its epochs take the simulated seconds that were recorded. Salinas et al., "Syne Tune: A Library for
Large Scale Hyperparameter Tuning and Reproducible Research", AutoML 2022.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import raudio
from raudio.config.schema import Search
from raudio.core.units import parse_seconds
from raudio.records import (
    JOURNAL,
    RECORDS,
    History,
    RecordWriter,
    RunLock,
    read_history,
    read_records,
)
from raudio.search.curves import Curve, Curves
from raudio.search.engine import Engine
from raudio.search.sampler import Sampler
from raudio.search.scheduler import Scheduler, grace_period


class Clock:
    """Seconds that pass when the simulation says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def replay(
    curves: Curves,
    search: Search,
    run: Path,
    *,
    workers: int = 1,
    watch: Callable[[Mapping[str, Any]], None] = lambda record: None,
) -> History:
    """Searches on recorded curves, in a run folder that `raudio status` reads.

    Args:
        curves: what trainings are answered from.
        search: sampler, scheduler and budget; time budgets are of the simulated clock.
        run: the run folder; one with records is gone on with, as `raudio resume` does.
        workers: trials at once.
        watch: called with each record, after it is written.

    Returns:
        What the records tell.

    Raises:
        RunError: the run is damaged or in use.
    """
    clock = Clock()
    resumed = (run / RECORDS).exists()
    with RunLock(run), RecordWriter(run / RECORDS, clock) as records:
        history = read_history(run) if resumed else History()
        clock.now = history.time
        engine = Engine(
            run,
            search,
            sampler=Sampler(curves.space, search, curves.mode, run / JOURNAL),
            scheduler=Scheduler(
                search,
                curves.mode,
                curves.epochs,
                grace_period(search, curves.epochs, curves.warmup),
                curves.space,
            ),
            experiment_for=_as_it_is,
            signature=lambda params: json.dumps(params, sort_keys=True),
            records=records,
            history=history,
            past=read_records(run) if resumed else (),
            time_budget=None if search.time_budget is None else parse_seconds(search.time_budget),
            watch=watch,
            clock=clock,
        )
        engine.begin(raudio.__version__, curves.metric, curves.mode, curves.epochs)
        state, reason = _simulate(engine, curves, workers, clock)
        engine.close(state, reason)
    return engine.history


def _as_it_is(params: Mapping[str, Any]) -> Any:
    """In place of an experiment, which nothing here trains."""
    return dict(params)


def _simulate(engine: Engine, curves: Curves, workers: int, clock: Clock) -> tuple[str, str | None]:
    """Lets the engine's trials report, epoch by epoch, in the order of their simulated times;
    trials that report at one time do so in the order of their ids. How the search ended, and why.
    """
    trained: dict[str, Curve] = {}
    reports: list[tuple[float, str, int]] = []  # (time, trial, epoch), the next one first
    while True:
        while len(reports) < workers and (spec := engine.next()) is not None:
            trial = engine.history.trials[spec.id]
            curve = trained[spec.id] = curves.answer(trial.params)
            heapq.heappush(
                reports, (clock.now + curve.seconds[trial.epochs], spec.id, trial.epochs + 1)
            )
        if engine.broken:
            return "failed", engine.broken
        if not reports:
            return "completed", engine.used_up
        clock.now, name, epoch = heapq.heappop(reports)
        if engine.used_up is not None:
            return "completed", engine.used_up
        curve = trained[name]
        final = epoch == curve.epochs
        metrics, seconds = curve.metrics[epoch - 1], curve.seconds[epoch - 1]
        if engine.report(name, epoch, metrics, seconds, final):
            heapq.heappush(reports, (clock.now + curve.seconds[epoch], name, epoch + 1))
        else:
            del trained[name]
