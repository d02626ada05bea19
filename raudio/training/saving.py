"""Between the loop and its checkpoints: when to save, when a report may be told, when to leave.

A report is told when the checkpoints that it promises are kept: on a disk at once, in a store while
the next epoch is trained. Several ranks decide together, on what `wishes` come to in their sum:
all of them report, save and leave after the same step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from torch import distributed

from raudio import checkpoint
from raudio.core.errors import PreemptedError
from raudio.core.units import Seconds
from raudio.training.keeper import Keeper
from raudio.training.pace import Pace

if TYPE_CHECKING:
    from raudio.training.loop import Report

#: Of the time that a machine has left, what is not waited for: the process has to end, too.
_TO_LEAVE: Seconds = 2.0

#: Between two looks at the notice, while a store is waited for.
_LOOK: Seconds = 1.0

#: Settled, a checkpoint due, leaving: above 0 where a rank, or any of several, wishes so.
Wishes = tuple[float, float, float]
NONE: Wishes = (0.0, 0.0, 0.0)


class Saving:
    """Saves, tells and leaves at the right moment.

    Args:
        keeper: of the trial's checkpoints, on rank 0; None keeps none.
        report: the receiver of the reports; whatever it raises ends the training.
        pace: when a checkpoint between epochs is due.
        notice: until when (Unix seconds, infinite where it is not said) the machines of the ranks
            are there, as far as this one knows; None: nobody takes one away.
        rank, world: as the loop's.

    Attributes:
        paused: seconds of this epoch in which a report was told, and nothing trained.
    """

    def __init__(
        self,
        keeper: Keeper | None,
        report: Callable[[Report], None],
        *,
        pace: Pace,
        notice: Callable[[], float | None],
        rank: int,
        world: int,
    ) -> None:
        self.paused: Seconds = 0.0
        self._keeper = keeper
        self._report = report
        self._pace = pace
        self._notice = notice
        self._first = rank == 0
        self._world = world
        self._owed: Report | None = None

    def wishes(self, step: int, end: int) -> Wishes:
        """What this rank wishes for after `step` steps, of an epoch that ends after `end`."""
        settled = self._first and self._settled()
        due = settled and self._keeper is not None and step < end and self._pace.due(step)
        return float(settled), float(due), float(self.leaving())

    def heed(self, wishes: Sequence[float], step: int, last: Callable[[], Any]) -> None:
        """Does what is wished for after a step.

        Args:
            wishes: summed over the ranks.
            step: steps made.
            last: the state to go on from; called on every rank.

        Raises:
            PreemptedError: the machine of a rank is taken away; the state is kept, if there was
                time.
        """
        settled, due, leaving = (wish > 0 for wish in wishes)
        if settled:
            self._tell()
        if leaving:
            self.leave(step, last)
        if due:
            self._save_last(step, last)

    def leaving(self) -> bool:
        """Whether this rank knows of a machine that is taken away."""
        return self._notice() is not None

    def leave(self, step: int, last: Callable[[], Any]) -> NoReturn:
        """Saves the state, tells what may be told, and leaves; all ranks together.

        Args:
            step, last: as `heed`.

        Raises:
            PreemptedError: always; the state is kept, if there was time.
        """
        self._save_last(step, last)
        deadline = self._notice() or math.inf  # another rank may know of it alone
        kept = True
        if self._keeper is not None:
            left = max(0.0, deadline - time.time() - _TO_LEAVE)
            kept = self._keeper.wait(left if math.isfinite(left) else None)
        if self._agreed(kept):  # no rank leaves before the first one has kept it
            self._tell()
        raise PreemptedError("the machine is being taken away")

    def save(
        self, step: int, states: Mapping[str, Mapping[str, Any]], began: float | None = None
    ) -> None:
        """Saves states under their names, in their order.

        Args:
            step: steps made.
            states: of `checkpoint.BEST` and `checkpoint.LAST`.
            began: when the training was stopped for it (`time.perf_counter`); None: now.
        """
        began = time.perf_counter() if began is None else began
        if self._keeper is not None:
            for name, state in states.items():
                self._keeper.save(name, state)
        self._pace.saved(step, time.perf_counter() - began)

    def owe(self, told: Report, step: int, last: Callable[[], Any]) -> None:
        """Tells a report now if what was saved is kept, else when it is; the last one at once.

        Args:
            step, last: as `heed`; errors as `settle`.
        """
        self._owed = told
        if told.final:
            self.settle(step, last)
        elif self._agreed(self._settled()):
            self._tell()

    def settle(self, step: int, last: Callable[[], Any]) -> None:
        """Tells what is owed, when it may be told.

        Args:
            step, last: as `heed`.

        Raises:
            PreemptedError: as `heed`; before it may be told, the machine of a rank is taken away.
        """
        if self._owed is not None:
            if not self._agreed(self._kept()):
                self.leave(step, last)
            self._tell()

    def _settled(self) -> bool:
        return self._keeper is None or self._keeper.settled()

    def _kept(self) -> bool:
        """Waits until all that was saved is kept, or a machine is taken away; whether it is."""
        if self._keeper is not None:
            while not self._keeper.wait(_LOOK):
                if self.leaving():
                    return False
        return True

    def _tell(self) -> None:
        if self._owed is not None:
            told, self._owed = self._owed, None
            began = time.perf_counter()
            self._report(told)
            self.paused += time.perf_counter() - began

    def _save_last(self, step: int, last: Callable[[], Any]) -> None:
        began = time.perf_counter()
        self.save(step, {checkpoint.LAST: last()}, began)

    def _agreed(self, value: bool) -> bool:
        """The first rank's `value`, on all of them."""
        if self._world == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return bool(box[0])
