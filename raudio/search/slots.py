"""The plan that holds now: made anew while a search runs, because what it was made from changes.

Nodes come and go, and with `resources.share_gpus` the first trial shows how much of a GPU a trial
needs. A trial that runs keeps what it was given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from raudio.core.errors import ConfigError
from raudio.records import TrialHistory
from raudio.search.planner import GPU_SHARE, Plan

#: Seconds between two looks at the cluster.
INTERVAL = 5.0


class Slots:
    """How many trials may run at once, and with what, as it is now.

    Args:
        first: the plan that the search starts with.
        make: makes the plan that holds now; `ConfigError` when no trial fits any more, which may
            be so until a node comes back.
        changed: told of the new plan when the number of slots has changed, and what to say of it.
        clock: seconds; another one in tests.
    """

    def __init__(
        self,
        first: Plan,
        make: Callable[[], Plan],
        *,
        changed: Callable[[Plan, str], None] = lambda plan, text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan = first
        self._make = make
        self._changed = changed
        self._clock = clock
        self._looked = clock()

    def look(self, *, now: bool = False) -> None:
        """Makes the plan anew, if the last look is long enough ago, or something has happened
        `now`."""
        if not now and self._clock() - self._looked < INTERVAL:
            return
        self._looked = self._clock()
        before = self.plan.slots
        try:
            self.plan = self._make()
            why = self.plan.rows[0].why
        except ConfigError as error:
            self.plan = replace(self.plan, slots=0, most=0)
            why = str(error)
        if self.plan.slots != before:
            text = f"{self.plan.slots} trials at once, were {before}: {why}"
            self._changed(self.plan, text)


def gpu_share(trials: Iterable[TrialHistory]) -> float | None:
    """The largest share of a GPU's memory that a trial has needed so far; None: none has said."""
    shares = (trial.reports[-1].metrics.get(GPU_SHARE) for trial in trials if trial.reports)
    return max((share for share in shares if share is not None), default=None)
