"""The sampler: an Optuna study that is asked for trials and told what became of them.

The study lives in a journal file that optuna-dashboard opens. Each draw comes from a sampler that
is seeded anew by (search.seed, trial number), so that a resumed search draws what the uninterrupted
one would have drawn.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from raudio.config.schema import Search
from raudio.search.journal import Journal
from raudio.search.samplers import STATEFUL, build
from raudio.search.space import Space

#: A failed trial is infeasible to Optuna, which TPE keeps away from. It never looks at one that
#: FAILed: what nothing is known of would draw it to where trials fail, again and again.
_STATES = {
    "completed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.PRUNED,
}
_INFEASIBLE = "failed"


class Sampler:
    """Draws the settings of trials.

    Args:
        space: what is searched.
        settings: `sampler`, its own settings, and `seed`.
        mode: "max" or "min".
        journal: file of the study; what is there is replaced.

    Raises:
        ConfigError: the grid sampler meets an interval without a step.
    """

    def __init__(self, space: Space, settings: Search, mode: str, journal: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._settings = settings
        self._grid: Sequence[Mapping[str, Any]] | None = (
            space.grid() if settings.sampler == "grid" else None
        )
        self._distributions = space.distributions()
        self._study = optuna.create_study(
            storage=Journal(journal),
            study_name="raudio",
            direction="maximize" if mode == "max" else "minimize",
        )
        self._trials: dict[str, optuna.Trial] = {}

    @property
    def limit(self) -> int | None:
        """The number of different trials there are, when the sampler knows one (grid)."""
        return None if self._grid is None else len(self._grid)

    def ask(
        self, name: str, params: Mapping[str, Any] | None = None, *, ended: bool = False
    ) -> dict[str, Any]:
        """The settings of the next trial.

        Args:
            name: its id, which Optuna keeps as the user attribute `trial`.
            params: the settings that it has, when they are not to be drawn: given ones, or those
                of a recorded trial when a study is rebuilt.
            ended: whether that recorded trial has ended: most samplers then need not draw again.
        """
        number = len(self._trials)
        if params is None and self._grid is not None:
            params = self._grid[number]
        if params is not None:
            self._study.enqueue_trial(self._space.enqueued(params))
        self._study.sampler = build(self._settings, number, self._distributions)
        trial = self._study.ask()
        trial.set_user_attr("trial", name)
        self._trials[name] = trial
        if params is not None and (not ended or self._settings.sampler in STATEFUL):
            # What the sampler keeps of each draw (its place in a sequence, its generation, what it
            # drew for a trial that runs) is kept for this one as well.
            _ = trial.relative_params
        return self._space.suggest(trial)

    def report(self, name: str, epoch: int, value: float) -> None:
        """An intermediate value, which TPE learns from when the trial is pruned."""
        self._trials[name].report(value, epoch)

    def tell(
        self, name: str, state: str, value: float | None, attributes: Mapping[str, Any]
    ) -> None:
        """The end of a trial; a pruned one reaches Optuna as PRUNED, a failed one as infeasible.

        Args:
            name: of the trial.
            state: completed, pruned or failed. (A stopped trial can go on: Optuna sees it running.)
            value: its best, of a completed trial.
            attributes: kept as the trial's user attributes.
        """
        trial = self._trials[name]
        for name, attribute in attributes.items():
            trial.set_user_attr(name, attribute)
        if state == "failed":
            trial.set_constraint(_INFEASIBLE, 1.0)
        with warnings.catch_warnings():
            # That CMA-ES does not look at constraints: `raudio plan` says so.
            warnings.simplefilter("ignore", UserWarning)
            self._study.tell(trial, value if state == "completed" else None, _STATES[state])


def finite(value: float | None) -> float | None:
    """`value`, or None where Optuna could not take it."""
    return value if value is not None and math.isfinite(value) else None
