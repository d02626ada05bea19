"""Asynchronous successive halving in one bracket or several, which decides as Ray Tune's ASHA does.

ASHA is Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020; Hyperband is
Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization", JMLR 18, 2018.

A bracket stops trials at rungs; the next bracket has the same rungs without the first, so that its
trials are compared later. Two things are not as in Tune, which draws a trial's bracket from NumPy's
global state and takes the percentile of all values of a rung anew at each report (10 ms after
100,000): a bracket is a function of the seed and the id, and a rung keeps its values sorted.
"""

from __future__ import annotations

import bisect
import math

from raudio.core import seeding


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
        self._sign = -1.0 if mode == "min" else 1.0
        self._seed = seed
        first = milestones(grace, epochs, factor)
        #: The epochs of each bracket's rungs.
        self.milestones = [first[place:] for place in range(count or len(first) + 1)]
        self._rungs = [[_Rung(epoch, factor) for epoch in rungs] for rungs in self.milestones]
        self._shares = allocation(len(self.milestones), len(first), factor)

    def bracket(self, trial: str) -> int:
        """The bracket of a trial, from 0: drawn in proportion to what Hyperband allots."""
        if len(self._shares) == 1:
            return 0
        draw = seeding.generator(self._seed, "bracket", trial).uniform() * sum(self._shares)
        for place, share in enumerate(self._shares[:-1]):
            draw -= share
            if draw < 0:
                return place
        return len(self._shares) - 1

    def report(self, trial: str, epoch: int, value: float) -> bool:
        """Whether `trial` goes on after `value` at `epoch`."""
        came_to = [rung for rung in self._rungs[self.bracket(trial)] if epoch >= rung.epoch]
        # A rung that was passed without a value stays so: only the latest compares.
        return not came_to or came_to[-1].passes(trial, self._sign * value)

    def rungs(self, bracket: int) -> list[tuple[int, int]]:
        """(epoch, trials that have been compared there) of a bracket, from its first rung on."""
        return [(rung.epoch, len(rung)) for rung in self._rungs[bracket]]


class _Rung:
    """The values of the trials that came to an epoch; more is better."""

    def __init__(self, epoch: int, factor: float) -> None:
        self.epoch = epoch
        self._share = (1 - 1 / factor) * 100 / 100  # by way of percent, as Tune: ties are exact
        self._values: list[float] = []  # ascending
        self._trials: set[str] = set()

    def __len__(self) -> int:
        return len(self._trials)

    def passes(self, trial: str, value: float) -> bool:
        """Whether a trial that comes here is among the best one in `factor` of those before it."""
        if trial in self._trials:
            return True
        enough = not self._values or value >= self._cutoff()
        bisect.insort(self._values, value)
        self._trials.add(trial)
        return enough

    def _cutoff(self) -> float:
        """The percentile between two values as NumPy's `linear` method has it."""
        place = self._share * (len(self._values) - 1)
        below = self._values[math.floor(place)]
        above = self._values[math.ceil(place)]
        part = place - math.floor(place)
        if part < 0.5:
            return below + (above - below) * part
        return above - (above - below) * (1 - part)
