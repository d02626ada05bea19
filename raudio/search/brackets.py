"""Asynchronous successive halving in one bracket or several: Ray Tune's ASHA, asked outside Tune.

ASHA is Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020; Hyperband is
Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization", JMLR 18, 2018.

A bracket stops trials at rungs; the next bracket has the same rungs without the first, so that its
trials are compared later. Tune would draw a trial's bracket from NumPy's global state; here every
bracket is an ASHA of Tune's own, and a trial's bracket is a function of the seed and its id.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

from raudio.core import seeding

if TYPE_CHECKING:
    from ray.tune.schedulers import AsyncHyperBandScheduler


def milestones(grace: int, epochs: int, factor: float) -> list[int]:
    """The epochs of the first bracket's rungs, ascending.

    None is at the last epoch, where a trial is done and nothing is compared. A rung between two
    epochs, of a reduction factor that is not whole, is met at the later.
    """
    found = []
    rung = float(grace)
    while math.ceil(rung) < epochs:
        found.append(math.ceil(rung))
        rung = grace * factor ** len(found)
    return found


def allocation(brackets: int, last: int, factor: float) -> list[int]:
    """How many trials Hyperband gives each bracket, so that each trains about as many epochs.

    A bracket that lets s halvings pass starts ceil((s_max + 1) / (s + 1) * factor^s) trials
    (Hyperband, Algorithm 1).

    Args:
        brackets: the first so many, those that stop earliest.
        last: s_max: the halvings of the first bracket, which are its rungs below the last epoch.
        factor: the reduction factor.
    """
    # Thirds of whole numbers are not exact: 5 * 3 / 3 must not become 6.
    return [
        math.ceil(round((last + 1) / (last - place + 1) * factor ** (last - place), 9))
        for place in range(brackets)
    ]


class Brackets:
    """Decides at the rungs of its bracket whether a trial goes on.

    Args:
        mode: "max" or "min".
        epochs: of the longest trial.
        grace: epochs before a trial can be stopped: the first bracket's first rung.
        factor: one in so many trials passes a rung.
        count: brackets, at most one more than the first has rungs; None: so many, which is
            asynchronous Hyperband. The last of so many stops nobody.
        seed: of the draw of a trial's bracket.
    """

    def __init__(
        self, mode: str, epochs: int, grace: int, factor: float, count: int | None, seed: int
    ) -> None:
        self._mode = mode
        self._epochs = epochs
        self._grace = grace
        self._factor = factor
        self._seed = seed
        self._known: set[str] = set()
        first = milestones(grace, epochs, factor)
        #: The epochs of each bracket's rungs.
        self.milestones = [first[place:] for place in range(count or len(first) + 1)]
        self._shares = allocation(len(self.milestones), len(first), factor)

    @functools.cached_property
    def _ashas(self) -> Sequence[AsyncHyperBandScheduler]:
        """Those of brackets with rungs; made when first asked: importing Tune takes long, and a
        plan has no use for it."""
        from ray.tune.schedulers import AsyncHyperBandScheduler

        return [
            AsyncHyperBandScheduler(
                time_attr="epoch",  # our own: Tune's counter starts again when a process is lost
                metric="value",
                mode=self._mode,
                max_t=self._epochs,
                grace_period=self._grace * self._factor**place,
                reduction_factor=self._factor,
                stop_last_trials=False,
            )
            for place, rungs in enumerate(self.milestones)
            if rungs
        ]

    def bracket(self, trial: str) -> int:
        """The bracket of a trial, from 0: drawn in proportion to what Hyperband allots."""
        draw = seeding.generator(self._seed, "bracket", trial).uniform() * sum(self._shares)
        for place, share in enumerate(self._shares[:-1]):
            draw -= share
            if draw < 0:
                return place
        return len(self._shares) - 1

    def report(self, trial: str, epoch: int, value: float) -> bool:
        """Whether `trial` goes on after `value` at `epoch`."""
        place = self.bracket(trial)
        if not self.milestones[place]:
            return True
        asha, stand_in = self._ashas[place], SimpleNamespace(trial_id=trial)
        if trial not in self._known:
            self._known.add(trial)
            asha.on_trial_add(None, stand_in)
        decision = asha.on_trial_result(None, stand_in, {"epoch": epoch, "value": value})
        return bool(decision == asha.CONTINUE)

    def rungs(self, bracket: int) -> list[tuple[int, int]]:
        """(epoch, trials that have been compared there) of a bracket, from its first rung on."""
        if not self.milestones[bracket]:
            return []
        (only,) = self._ashas[bracket]._brackets
        return [(math.ceil(epoch), len(values)) for epoch, values in reversed(only._rungs)]
