"""The sampler: an Optuna study that is asked for trials and told what became of them.

The study lives in a journal file that optuna-dashboard opens. Each draw comes from a sampler that
is seeded anew by (search.seed, trial number, attempt), so that a resumed search draws what the
uninterrupted one would have drawn. A draw that the space's constraints do not allow FAILed to
Optuna, whose samplers never look at it, and is made again.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from raudio.config.axes import text
from raudio.config.schema import Search
from raudio.core import seeding
from raudio.core.errors import ConfigError
from raudio.search.draws import draws
from raudio.search.journal import Journal
from raudio.search.points import first
from raudio.search.prior import PriorTrial
from raudio.search.samplers import BLIND, INSISTENT, STATEFUL, build, sources
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
        modes: "max" or "min", or one for each of several objectives.
        journal: file of the study; what is there is replaced.
        prior: what earlier runs have found, which the study begins with.

    Raises:
        ConfigError: the grid sampler meets an interval without a step.
    """

    def __init__(
        self,
        space: Space,
        settings: Search,
        modes: str | Sequence[str],
        journal: Path,
        prior: Sequence[PriorTrial] = (),
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._settings = settings
        self._grid: Sequence[Mapping[str, Any]] | None = (
            first(space.grid(), space.points) if settings.sampler == "grid" else None
        )
        self._distributions = space.distributions()
        modes = [modes] if isinstance(modes, str) else list(modes)
        window: int | None = None
        if settings.sampler in BLIND:
            window = 1
        # The best of several objectives are a front, which a window of one value would cut.
        elif settings.sampler == "tpe" and len(modes) == 1:
            window = settings.tpe.window
        self._study = optuna.create_study(
            storage=Journal(journal, window, modes[0]),
            study_name="raudio",
            directions=[f"{mode}imize" for mode in modes],
        )
        known = [self._frozen(each) for each in prior]
        self._study.add_trials(known)
        self._begin = sources(known, space) if settings.sampler == "cmaes" else []
        self._asked = 0
        self._trials: dict[str, optuna.Trial] = {}  # those that have not ended
        self.refused = 0  # draws that the constraints refused before the last one that was taken

    @property
    def limit(self) -> int | None:
        """The number of different trials there are, when the sampler knows one (grid)."""
        return None if self._grid is None else len(self._grid)

    def ask(
        self,
        name: str,
        params: Mapping[str, Any] | None = None,
        *,
        ended: bool = False,
        refused: int = 0,
    ) -> dict[str, Any]:
        """The settings of the next trial.

        Args:
            name: its id, which Optuna keeps as the user attribute `trial`.
            params: the settings that it has, when they are not to be drawn: given ones, or those
                of a recorded trial when a study is rebuilt.
            ended: whether that recorded trial has ended: most samplers then need not draw again.
            refused: how many draws the constraints had refused for that recorded trial.

        Raises:
            ConfigError: the space's constraints allow hardly any draw, or none.
        """
        number = self._asked
        if params is None and self._grid is not None:
            params = self._grid[number]
        points = self._space.points if self._grid is None else ()
        point = points[number] if number < len(points) else None
        stateful = self._settings.sampler in STATEFUL
        attempt = 0 if stateful else refused
        while True:
            if attempt == INSISTENT and params is None:
                seed = seeding.generator(self._settings.seed, "draw", number)
                params = next(draws(self._space, seed, point))
            given = params is not None and attempt >= refused
            if given and params is not None:
                self._study.enqueue_trial(self._space.enqueued(params))
            elif point is not None:
                self._study.enqueue_trial(self._space.enqueued(point))
            self._study.sampler = build(
                self._settings, number, self._distributions, attempt, self._begin
            )
            trial = self._study.ask()
            if point is not None or (given and (stateful or not ended)):
                # What the sampler keeps of each draw (its place in a sequence, its generation, what
                # it drew for a trial that runs) is kept for this one as well.
                _ = trial.relative_params
            drawn = self._space.suggest(trial)
            if given or (attempt >= refused and self._space.allows(drawn)):
                trial.set_user_attr("trial", name)
                self._trials[name] = trial
                self._asked += 1
                self.refused = attempt
                return drawn
            self._study.tell(trial, state=TrialState.FAIL)
            attempt += 1

    def _frozen(self, trial: PriorTrial) -> optuna.trial.FrozenTrial:
        """A trial of an earlier run, told as `tell` tells of this one's."""
        params = self._space.enqueued(trial.params)
        drawn = {name: known for name, known in self._distributions.items() if name in params}
        limits = {limit: float(broken) for limit, broken in trial.limits.items()}
        reports = trial.reports if len(self._study.directions) == 1 else {}
        last = [reports[max(reports)]] if reports else None  # Optuna's value of a pruned trial
        return optuna.create_trial(
            state=_STATES[trial.state],
            values=last if trial.values is None else trial.values,
            params={name: params[name] for name in drawn},
            distributions=drawn,
            intermediate_values=dict(reports),
            user_attrs={"prior": trial.trial, "state": trial.state},
            constraints={**limits, **({_INFEASIBLE: 1.0} if trial.state == "failed" else {})},
        )

    def report(self, name: str, epoch: int, value: float) -> None:
        """An intermediate value, which TPE learns from when the trial is pruned; Optuna takes none
        with several objectives."""
        if len(self._study.directions) == 1:
            self._trials[name].report(value, epoch)

    def tell(
        self,
        name: str,
        state: str,
        values: float | Sequence[float] | None,
        attributes: Mapping[str, Any],
        limits: Mapping[str, bool] | None = None,
    ) -> None:
        """The end of a trial; a pruned one reaches Optuna as PRUNED, a failed one as infeasible.

        Args:
            name: of the trial.
            state: completed, pruned or failed. (A stopped trial can go on: Optuna sees it running.)
            values: of the objectives, of a completed trial.
            attributes: kept as the trial's user attributes.
            limits: each limit of the search, and whether the trial breaks it: infeasible, too.
        """
        trial = self._trials.pop(name)
        for name, attribute in attributes.items():
            trial.set_user_attr(name, attribute)
        if state == "failed":
            trial.set_constraint(_INFEASIBLE, 1.0)
        for limit, broken in (limits or {}).items():
            trial.set_constraint(limit, float(broken))
        with warnings.catch_warnings():
            # That CMA-ES does not look at constraints: `raudio plan` says so.
            warnings.simplefilter("ignore", UserWarning)
            self._study.tell(trial, values if state == "completed" else None, _STATES[state])


def examples(space: Space, count: int, seed: int) -> list[dict[str, Any]]:
    """Settings of `count` trials, drawn at random.

    Raises:
        ConfigError: the constraints allow hardly any draw, or none.
    """
    return list(islice(draws(space, seeding.generator(seed, "examples")), count))


def check_points(space: Space, seed: int) -> None:
    """Whether each known-good point has a completion that meets the constraints.

    Raises:
        ConfigError: no draw of what a point leaves open does.
    """
    for point in space.points:
        try:
            next(draws(space, seeding.generator(seed, "point"), point))
        except ConfigError as error:
            given = " ".join(f"{key}={text(value)}" for key, value in point.items())
            raise ConfigError(f"point {given}: {error}") from error


def finite(value: float | None) -> float | None:
    """`value`, or None where Optuna could not take it."""
    return value if value is not None and math.isfinite(value) else None
