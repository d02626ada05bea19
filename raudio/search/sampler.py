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
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from raudio.config.schema import Search
from raudio.core import seeding
from raudio.search.journal import Journal
from raudio.search.space import Space

#: A failed trial is infeasible to Optuna, which TPE keeps away from. It never looks at one that
#: FAILed: what nothing is known of would draw it to where trials fail, again and again.
_STATES = {
    "completed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.PRUNED,
}
_INFEASIBLE = "failed"

#: Trials drawn at random before TPE has enough to model.
STARTUP_TRIALS = 8


class Sampler:
    """Draws the settings of trials.

    Args:
        space: what is searched.
        settings: `sampler` and `seed`.
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

    def ask(self, name: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The settings of the next trial.

        Args:
            name: its id, which Optuna keeps as the user attribute `trial`.
            params: the settings that a recorded trial had, when a study is rebuilt.
        """
        number = len(self._trials)
        if params is None and self._grid is not None:
            params = self._grid[number]
        if params is not None:
            self._study.enqueue_trial(self._space.enqueued(params))
        self._study.sampler = self._seeded(number)
        trial = self._study.ask()
        trial.set_user_attr("trial", name)
        self._trials[name] = trial
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
        self._study.tell(trial, value if state == "completed" else None, _STATES[state])

    def _seeded(self, number: int) -> BaseSampler:
        seed = seeding.key(self._settings.seed, "sampler", number) % 2**32
        if self._settings.sampler != "tpe":
            return RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(
                seed=seed,
                multivariate=True,
                group=True,  # conditional settings form groups of their own
                constant_liar=True,  # trials that run at once keep apart
                n_startup_trials=STARTUP_TRIALS,
            )


def finite(value: float | None) -> float | None:
    """`value`, or None where Optuna could not take it."""
    return value if value is not None and math.isfinite(value) else None
