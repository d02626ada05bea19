"""The turns of a population's trials: who goes on next, who waits, who goes on as a copy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from raudio.config.schema import Experiment
from raudio.core.errors import ConfigError
from raudio.records import DONOR, ENDED, LAST, History, TrialHistory, trial_file
from raudio.search.mirror import InPlace, Mirror
from raudio.search.population import Population


class Turns:
    """Applies a population's rules to the trials of a run.

    Args:
        population: compares them.
        place: where the run is, for their checkpoints.
        history: of the run, as it is at any moment.
        experiment_for: from settings to the experiment (`ConfigError` when they can't work).
    """

    def __init__(
        self,
        population: Population,
        place: InPlace | Mirror,
        history: History,
        experiment_for: Callable[[Mapping[str, Any]], Experiment],
    ) -> None:
        self._population = population
        self._place = place
        self._history = history
        self._experiment_for = experiment_for

    def next(self, waiting: Collection[str], *, new: bool) -> str | None:
        """Who goes on of those that wait; None: it is a new one's turn.

        Args:
            waiting: one trial at least.
            new: whether there are trials that have not begun.
        """
        turn = self._population.turn
        turns = {name: turn(self._history.trials[name].epochs) for name in waiting}
        name = min(waiting, key=lambda name: (turns[name], name))
        return None if new and turn(0) < turns[name] else name

    def gives_way(self, trial: TrialHistory, *, others: bool) -> bool:
        """Whether a trial that has just reported has to wait: to let others go on first, or to go
        on as a copy of one of them.

        Args:
            trial: which has reported.
            others: whether any trial waits, or has not begun.
        """
        if not self._population.compares(trial.epochs):
            return False
        return others or self._donor(trial) is not None

    def copy(self, trial: TrialHistory) -> dict[str, Any] | None:
        """Makes a trial that is to go on a copy of a better one; None: it goes on as it is, as it
        also does where the copy cannot be written.

        The checkpoint is copied before the record is written, so that a recorded copy has its
        file; without the record, the next session copies again.

        Returns:
            What is to be recorded.
        """
        donor = self._donor(trial)
        if donor is None:
            return None
        copied = self._history.trials[donor]
        params = self._population.changed(trial.id, copied.params)
        try:
            self._experiment_for(params)
        except ConfigError:
            params = copied.params  # changed, they don't go together
        try:
            self._place.copy(trial_file(donor, LAST), trial_file(trial.id, DONOR))
        except FileNotFoundError:
            pass  # a replay of recorded curves has no checkpoints
        except OSError:
            return None
        return {"id": trial.id, "donor": donor, "epoch": copied.epochs, "params": params}

    def _donor(self, trial: TrialHistory) -> str | None:
        others = [
            other.id
            for other in self._history.trials.values()
            if other.state not in ENDED and other.epochs >= trial.epochs
        ]
        return self._population.donor(trial.id, others)
