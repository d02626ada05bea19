"""How often a trial saves between two epochs. No torch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from raudio.core.units import Seconds, parse_interval

#: What saving is taken to cost before it has been measured.
_FIRST_COST: Seconds = 1.0


def young_daly(cost: Seconds, between_losses: Seconds) -> Seconds:
    """The time between two checkpoints that wastes least, to first order: what saving stops and
    what a loss costs (half of that time, on average) are then alike.

    Args:
        cost: that one checkpoint stops the training for.
        between_losses: expected, of the machines that one trial uses.
    """
    return math.sqrt(2 * cost * between_losses)


class Pace:
    """When the next checkpoint is due.

    Args:
        every: `training.checkpoint_every`; None: as `between_losses` says.
        between_losses: expected seconds between losses of the machines that the trial uses, from
            which the best interval follows with the measured cost of saving; None: never.
        clock: seconds; another one in tests.
    """

    def __init__(
        self,
        every: str | None = None,
        between_losses: Seconds | None = None,
        clock: Callable[[], Seconds] = time.monotonic,
    ) -> None:
        self._steps: int | None = None
        self._seconds: Seconds | None = None
        if every is not None:
            self._steps, self._seconds = parse_interval(every)
        elif between_losses is not None:
            self._seconds = young_daly(_FIRST_COST, between_losses)
        self._between_losses = between_losses if every is None else None
        self._clock = clock
        self._saved_at, self._saved_step = clock(), 0

    @property
    def seconds(self) -> Seconds | None:
        """Between two checkpoints; None where steps are counted, or none is due."""
        return self._seconds

    def begins(self, step: int) -> None:
        """Training begins, or goes on, at `step`."""
        self._saved_at, self._saved_step = self._clock(), step

    def saved(self, step: int, cost: Seconds) -> None:
        """A checkpoint was saved after `step` steps; it stopped the training for `cost`."""
        self.begins(step)
        if self._between_losses is not None:
            self._seconds = young_daly(cost, self._between_losses)

    def due(self, step: int) -> bool:
        """Whether one is due after `step` steps."""
        if self._steps is not None:
            return step - self._saved_step >= self._steps
        return self._seconds is not None and self._clock() - self._saved_at >= self._seconds
