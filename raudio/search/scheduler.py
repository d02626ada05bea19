"""The scheduler: Ray Tune's ASHA, asked outside Tune so that its rungs can be rebuilt.

Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020. Tune does not save
its scheduler, so a resumed search replays the recorded reports through a new one.
"""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING

from raudio.config.schema import Search

if TYPE_CHECKING:
    from ray.tune.schedulers import AsyncHyperBandScheduler


def grace_period(search: Search, epochs: int, warmup: float) -> int:
    """Epochs before a trial can be stopped: as set, else a ninth of them, past the warm-up."""
    if search.grace is not None:
        return min(search.grace, epochs)
    return min(epochs, max(1, math.ceil(epochs / 9), math.floor(warmup * epochs) + 1))


class Scheduler:
    """Decides after each report whether a trial goes on.

    Args:
        search: `scheduler` and `reduction_factor`.
        mode: "max" or "min".
        epochs: of the longest trial.
        grace: epochs before a trial can be stopped.
    """

    def __init__(self, search: Search, mode: str, epochs: int, grace: int) -> None:
        self._search = search
        self._mode = mode
        self._epochs = epochs
        self._grace = grace
        self._known: set[str] = set()

    @functools.cached_property
    def _asha(self) -> AsyncHyperBandScheduler | None:
        """Made when first asked: importing Tune takes long, and a plan has no use for it."""
        if self._search.scheduler == "none" or self._grace >= self._epochs:
            return None
        from ray.tune.schedulers import AsyncHyperBandScheduler

        return AsyncHyperBandScheduler(
            time_attr="epoch",  # our own: Tune's counter starts again when a process is lost
            metric="value",
            mode=self._mode,
            max_t=self._epochs,
            grace_period=self._grace,
            reduction_factor=self._search.reduction_factor,
            stop_last_trials=False,
        )

    def report(self, trial: str, epoch: int, value: float) -> bool:
        """Whether `trial` goes on after `value` at `epoch`."""
        if self._asha is None:
            return True
        stand_in = SimpleNamespace(trial_id=trial)
        if trial not in self._known:
            self._known.add(trial)
            self._asha.on_trial_add(None, stand_in)
        decision = self._asha.on_trial_result(None, stand_in, {"epoch": epoch, "value": value})
        return bool(decision == self._asha.CONTINUE)

    def milestones(self) -> list[int]:
        """The epochs of the rungs, ascending, as Tune will lay them, known without importing it.

        None is at the last epoch, where a trial is done and nothing is compared.
        """
        if self._search.scheduler == "none" or self._grace >= self._epochs:
            return []
        factor = self._search.reduction_factor
        count = int(math.log(self._epochs / self._grace) / math.log(factor) + 1)
        # A rung between two epochs, of a reduction factor that is not whole, is met at the later.
        epochs = (math.ceil(self._grace * factor**power) for power in range(count))
        return [epoch for epoch in epochs if epoch < self._epochs]

    def rungs(self) -> list[tuple[int, int]]:
        """(epoch, trials that have been compared there), from the first rung to the last."""
        if self._asha is None:
            return []
        (bracket,) = self._asha._brackets
        # A rung between two epochs, of a reduction factor that is not whole, is met at the later.
        return [(math.ceil(epoch), len(values)) for epoch, values in reversed(bracket._rungs)]
