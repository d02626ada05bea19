"""The scheduler: asked after each report whether a trial goes on.

Every kind is asked outside Ray Tune, keeps what it knows in memory and draws only by address, so
that a resumed search rebuilds it by replaying the recorded reports. (Tune does not save its own.)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from raudio.config.schema import Search
from raudio.core.errors import ConfigError
from raudio.search.brackets import Brackets, milestones
from raudio.search.median import MedianRule
from raudio.search.planner import trials_in_all
from raudio.search.population import Population
from raudio.search.space import Space


def grace_period(search: Search, epochs: int, warmup: float) -> int:
    """Epochs before a trial can be stopped: as set, else a sixteenth of them, past the warm-up."""
    if search.grace is not None:
        return min(search.grace, epochs)
    return min(epochs, max(1, math.ceil(epochs / 16), math.floor(warmup * epochs) + 1))


def check_population(search: Search) -> None:
    """Refuses what a population cannot be searched with; other schedulers pass.

    Raises:
        ConfigError: a grid, or configurations that are trained more than once.
    """
    if search.scheduler != "pbt":
        return
    if search.sampler == "grid":
        raise ConfigError(
            "search.sampler=grid tries every cell as it is, and search.scheduler=pbt "
            "changes settings on the way; choose another of the two"
        )
    if search.repeat > 1 or search.folds or search.confirm:
        raise ConfigError(
            "search.scheduler=pbt changes settings on the way, so that no other trial is "
            "trained alike; leave out search.repeat, search.folds and search.confirm"
        )


class Scheduler:
    """Decides after each report whether a trial goes on.

    Args:
        search: `scheduler` and its settings, and `seed`.
        mode: "max" or "min".
        epochs: of the longest trial.
        grace: epochs before a trial can be stopped.
        space: what is searched; only a population asks.

    Raises:
        ConfigError: its settings cannot work.
    """

    def __init__(
        self, search: Search, mode: str, epochs: int, grace: int, space: Space | None = None
    ) -> None:
        if search.scheduler == "auto":  # a job with several objectives has chosen none
            search = dataclasses.replace(search, scheduler="asha")
        most = len(milestones(grace, epochs, search.reduction_factor)) + 1
        if search.asha.brackets > most:
            raise ConfigError(
                f"search.asha.brackets={search.asha.brackets} is too many: in trials of {epochs} "
                f"epochs, with the first rung at {grace} and search.reduction_factor="
                f"{search.reduction_factor:g}, {most} differ; give at most {most}"
            )
        self._kind, self._epochs, self._grace = search.scheduler, epochs, grace
        self._factor = search.reduction_factor
        self._rule: Brackets | MedianRule | Population | None = None
        if search.scheduler in ("asha", "hyperband") and grace < epochs:
            count = search.asha.brackets if search.scheduler == "asha" else None
            self._rule = Brackets(mode, epochs, grace, search.reduction_factor, count, search.seed)
        elif search.scheduler == "median":
            self._rule = MedianRule(mode, grace, search.median.min_samples)
        elif search.scheduler == "pbt":
            check_population(search)
            assert space is not None
            self._rule = Population(
                mode,
                epochs,
                grace,
                search.pbt,
                trials=trials_in_all(search),
                seed=search.seed,
                space=space,
            )

    def report(self, trial: str, epoch: int, value: float) -> bool:
        """Whether `trial` goes on after `value` at `epoch`."""
        return self._rule is None or self._rule.report(trial, epoch, value)

    @property
    def population(self) -> Population | None:
        """Of population based training."""
        return self._rule if isinstance(self._rule, Population) else None

    @property
    def note(self) -> str | None:
        """When it compares trials, as a sentence; None where it never does, as it should not."""
        if self._kind == "none":
            return None
        said = f"search.scheduler={self._kind}"
        if self._grace >= self._epochs:
            return f"{said} stops nobody: it begins at epoch {self._grace}, the last of a trial"
        match self._rule:
            case Population() as population:
                at = filter(population.compares, range(1, self._epochs))
                return f"{said}: a trial may copy at {_at(at)} of {self._epochs}"
            case Brackets() as brackets:
                each = "; ".join(_at(rungs) for rungs in brackets.milestones if rungs)
                several = len(brackets.milestones)
                head = f"{several} brackets, with rungs" if several > 1 else "rungs"
                last = "" if brackets.milestones[-1] else ", and one that stops nobody"
                share = f"one in {self._factor:g} passes each"
                return f"{said}: {head} at {each} of {self._epochs}{last}; {share}"
            case _:
                return f"{said}: compares after each epoch from {self._grace} on"

    @property
    def others(self) -> str:
        """What a stopped trial was worse than."""
        if isinstance(self._rule, MedianRule):
            return "the median of the others"
        return "others of its rung"

    @property
    def brackets(self) -> list[list[int]]:
        """The epochs of each bracket's rungs, ascending; no bracket where nobody is compared at
        rungs."""
        return self._rule.milestones if isinstance(self._rule, Brackets) else []

    def bracket(self, trial: str) -> int:
        """The bracket of a trial, from 0."""
        return self._rule.bracket(trial) if isinstance(self._rule, Brackets) else 0

    def milestones(self) -> list[int]:
        """The epochs of all rungs, ascending: the first bracket's, which has every one."""
        return self.brackets[0] if self.brackets else []

    def rungs(self, bracket: int = 0) -> list[tuple[int, int]]:
        """(epoch, trials that have been compared there) of a bracket, from its first rung on."""
        return self._rule.rungs(bracket) if isinstance(self._rule, Brackets) else []


def _at(epochs: Iterable[int]) -> str:
    found = [str(epoch) for epoch in epochs]
    return f"epoch{'' if len(found) == 1 else 's'} {', '.join(found)}"
