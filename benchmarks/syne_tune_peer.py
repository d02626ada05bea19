"""Syne Tune's ASHA and MOBSTER on a table of raudio's curves, through Syne Tune's own simulator.

Started by search_quality.py in an environment of its own (syne_tune_requirements.txt), with raudio
on the path for the table and its nearest neighbour. Syne Tune has no conditional settings: each
setting of a branch is always drawn, and those of the other branch are left out when the table is
asked. Prints, as JSON, the metric of each epoch in the order in which Syne Tune was told of it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["SYNETUNE_FOLDER"] = tempfile.mkdtemp(prefix="syne-tune-")

import numpy as np
from syne_tune import StoppingCriterion, Tuner
from syne_tune.backend.simulator_backend.simulator_backend import SimulatorConfig
from syne_tune.backend.simulator_backend.simulator_callback import SimulatorCallback
from syne_tune.blackbox_repository.blackbox import Blackbox
from syne_tune.blackbox_repository.simulated_tabular_backend import UserBlackboxBackend
from syne_tune.config_space import choice, finrange, loguniform, randint, uniform
from syne_tune.optimizer.legacy_baselines import ASHA, MOBSTER

from raudio.config.axes import Axis, Choice, Interval
from raudio.search.curves import Curves

METRIC, ELAPSED, EPOCH = "value", "elapsed", "epoch"
SCHEDULERS = {"asha": ASHA, "mobster": MOBSTER}


class Table(Blackbox):
    """The curves as Syne Tune's simulator asks for them."""

    def __init__(self, curves: Curves) -> None:
        domains = {p.name: _domain(p.axis) for p in curves.space.params}
        epochs = {EPOCH: randint(1, curves.epochs)}
        super().__init__(domains, epochs, [METRIC, ELAPSED])
        self.curves = curves

    @property
    def fidelity_values(self) -> np.ndarray:
        return np.arange(1, self.curves.epochs + 1)

    def _objective_function(
        self, configuration: dict[str, Any], fidelity: Any = None, seed: Any = None
    ) -> np.ndarray:
        """(epochs, 2): the metric, and the seconds from the trial's start."""
        curve = self.curves.answer(active(self.curves, configuration))
        values = [epoch[self.curves.metric] for epoch in curve.metrics]
        return np.stack([values, np.cumsum(curve.seconds)], axis=1)


def active(curves: Curves, configuration: dict[str, Any]) -> dict[str, Any]:
    """The settings that raudio would draw: those whose conditions hold."""
    drawn: dict[str, Any] = {}
    for param in curves.space.params:
        if all(key in drawn and drawn[key] in values for key, values in param.when.items()):
            drawn[param.key] = configuration[param.name]
    return drawn


def _domain(axis: Axis) -> Any:
    if isinstance(axis, Choice):
        return choice(list(axis.values))
    if isinstance(axis, Interval):
        if axis.log:
            return loguniform(axis.low, axis.high)
        return uniform(axis.low, axis.high)
    values = axis.values()
    return finrange(min(values), max(values), len(values), cast_int=isinstance(values[0], int))


class _Values(SimulatorCallback):
    """Keeps the metric of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[float] = []

    def on_trial_result(self, trial: Any, status: str, result: Any, decision: str) -> None:
        super().on_trial_result(trial, status, result, decision)
        self.values.append(float(result[METRIC]))


def search(curves: Curves, scheduler: str, seed: int, epochs: int, workers: int) -> list[float]:
    """The metric of each of the first `epochs` epochs."""
    table = Table(curves)
    np.random.seed(seed)
    values = _Values()
    backend = UserBlackboxBackend(
        table,
        elapsed_time_attr=ELAPSED,
        tuner_sleep_time=0.05,  # simulated seconds between two looks; an epoch takes longer
        simulator_config=SimulatorConfig(
            delay_on_trial_result=0,
            delay_complete_after_final_report=0,
            delay_complete_after_stop=0,
            delay_start=0,
            delay_stop=0,
        ),
    )
    Tuner(
        trial_backend=backend,
        scheduler=SCHEDULERS[scheduler](
            table.configuration_space,
            metric=METRIC,
            mode=curves.mode,
            resource_attr=EPOCH,
            max_t=curves.epochs,
            random_seed=seed,
            search_options={"debug_log": False},
        ),
        stop_criterion=StoppingCriterion(max_num_evaluations=epochs),
        n_workers=workers,
        sleep_time=0,
        save_tuner=False,
        callbacks=[values],
    ).run()
    return values.values[:epochs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scheduler", choices=SCHEDULERS)
    parser.add_argument("table", type=Path)
    parser.add_argument("seed", type=int)
    parser.add_argument("epochs", type=int)
    parser.add_argument("workers", type=int)
    parser.add_argument("neighbours", type=int)
    given = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    curves = replace(Curves.read(given.table), neighbours=given.neighbours)
    print(json.dumps(search(curves, given.scheduler, given.seed, given.epochs, given.workers)))


if __name__ == "__main__":
    main()
