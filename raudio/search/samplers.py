"""Optuna's samplers by name, each made anew for one draw."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, TrialState

from raudio.config.axes import Choice
from raudio.config.schema import Search
from raudio.core import seeding
from raudio.core.errors import ConfigError
from raudio.search.planner import trials_in_all
from raudio.search.space import Param, Space, condition_text

#: Samplers that keep state in the study with every draw, which a rebuilt study must have as well.
#: The others look at trials' settings and values alone, and at what they drew for running trials.
STATEFUL = ("qmc", "cmaes", "nsga2", "nsga3")

#: Samplers that look at no trial.
BLIND = ("random", "grid", "qmc")

#: Completed trials that CMA-ES needs to begin from them: it begins from the best tenth.
WARM = 10

#: Draws for a trial that are left to the sampler, which may insist on what constraints refuse; then
#: it gets one at random that they allow.
INSISTENT = 10


def build(
    search: Search,
    number: int,
    distributions: Mapping[str, BaseDistribution],
    attempt: int = 0,
    begin: Sequence[FrozenTrial] = (),
) -> BaseSampler:
    """The sampler of one draw.

    Args:
        search: `sampler`, its settings, and `seed`.
        number: of the draw; with `search.seed` it decides all that is random in it.
        distributions: of the whole space, by the names that Optuna knows.
        attempt: how many draws of this number the space's constraints have refused.
        begin: trials of earlier runs, that CMA-ES begins with.
    """
    again = (attempt,) if attempt else ()
    seed = seeding.key(search.seed, "sampler", number, *again) % 2**32
    if attempt >= INSISTENT:
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        # `group`, `with_margin` and the like are experimental, `sigma0` goes with Optuna 6.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)
        match search.sampler:
            case "tpe":
                return TPESampler(
                    seed=seed,
                    multivariate=True,
                    group=True,  # conditional settings form groups of their own
                    constant_liar=True,  # trials that run at once keep apart
                    n_startup_trials=search.tpe.startup,
                    prior_weight=search.tpe.prior_weight,
                    n_ei_candidates=search.tpe.candidates,
                )
            case "qmc":
                return _WholeSpaceQMC(search, distributions)
            case "cmaes":
                settings: dict[str, Any] = {
                    "seed": seed,
                    "n_startup_trials": search.cmaes.startup,
                    "popsize": search.cmaes.population,
                    "with_margin": search.cmaes.margin,
                    "consider_pruned_trials": search.cmaes.pruned,
                    "warn_independent_sampling": False,
                }
                if len(begin) >= WARM:
                    return _WarmCMAES(begin, **settings)
                return CmaEsSampler(sigma0=search.cmaes.sigma, **settings)
            case "gp":
                return GPSampler(
                    seed=seed,
                    n_startup_trials=search.gp.startup,
                    deterministic_objective=search.gp.deterministic,
                    warn_independent_sampling=False,
                )
            case "nsga2" | "nsga3":
                kind = NSGAIISampler if search.sampler == "nsga2" else NSGAIIISampler
                return kind(
                    seed=seed,
                    population_size=search.nsga.population,
                    crossover_prob=search.nsga.crossover,
                    mutation_prob=search.nsga.mutation,
                )
            case _:  # a grid's cells are given, not drawn
                return RandomSampler(seed=seed)


class _WarmCMAES(CmaEsSampler):  # type: ignore[misc]
    """CMA-ES that begins where earlier trials were good (Nomura et al. 2021), on their settings.

    Optuna's own learns the settings from the trials so far, and stops when they are others.
    """

    def __init__(self, sources: Sequence[FrozenTrial], **settings: Any) -> None:
        super().__init__(source_trials=list(sources), **settings)
        self._distributions = dict(sources[0].distributions)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._distributions


def sources(prior: Sequence[FrozenTrial], space: Space) -> list[FrozenTrial]:
    """What CMA-ES can begin with: completed trials, with the numbers that every trial has."""
    names = {param.name for param in space.params if not param.when}
    found = []
    for trial in prior:
        numbers = {
            name: known
            for name, known in trial.distributions.items()
            if name in names and not isinstance(known, CategoricalDistribution)
        }
        if trial.state == TrialState.COMPLETE and numbers:
            params = {name: trial.params[name] for name in numbers}
            found.append(
                optuna.create_trial(value=trial.value, params=params, distributions=numbers)
            )
    return found


class _WholeSpaceQMC(QMCSampler):  # type: ignore[misc]
    """One sequence through the whole space, conditional settings included.

    Optuna's own learns the space from the first trial that ended: that one, those that run beside
    it, and every branch that it did not take would be drawn at random.
    """

    def __init__(self, search: Search, distributions: Mapping[str, BaseDistribution]) -> None:
        # One seed for all draws: they are points of one sequence, told apart by their places.
        super().__init__(
            qmc_type=search.qmc.sequence,
            scramble=search.qmc.scramble,
            seed=seeding.key(search.seed, "sampler") % 2**32,
        )
        self._distributions = dict(distributions)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._distributions


def check(search: Search, space: Space) -> None:
    """Refuses a sampler that would model nothing of a space.

    Raises:
        ConfigError: CMA-ES without a number.
    """
    if search.sampler == "cmaes" and not any(_modelled(search, param) for param in space.params):
        raise ConfigError(
            f"search.sampler=cmaes models numbers that every trial has, and space {space.name} has "
            "none; write interval(low, high) or range(low, high) where a choice is of numbers, or "
            "take search.sampler=tpe"
        )


def notes(search: Search, space: Space) -> list[str]:
    """What to know of the chosen sampler on this space: a sentence each, for `raudio plan`."""
    found = []
    if search.sampler in ("cmaes", "gp", "nsga2", "nsga3"):
        apart: dict[str, list[str]] = {}
        for param in space.params:
            if len(param.values) != 1 and not _modelled(search, param):
                why = f"when {condition_text(param.when)}" if param.when else "a choice"
                apart.setdefault(param.key, []).append(why)
        if apart:
            listed = "; ".join(f"{key} ({', or '.join(why)})" for key, why in apart.items())
            found.append(
                f"search.sampler={search.sampler} models the settings that every trial has; each "
                f"of these is drawn by itself, at random: {listed}"
            )
    found += _beginning(search, space)
    if search.sampler in ("gp", "nsga2", "nsga3") and search.scheduler != "none":
        found.append(
            f"search.sampler={search.sampler} learns from completed trials alone: those that "
            f"search.scheduler={search.scheduler} stops early teach it nothing"
        )
    if search.sampler == "cmaes" and search.limits:
        found.append(
            "search.sampler=cmaes does not look at search.limits: it learns from trials that break "
            "them as from the others"
        )
    return found


def _modelled(search: Search, param: Param) -> bool:
    """Whether the sampler models a setting with the others; else it draws it by itself."""
    choice = search.sampler == "cmaes" and isinstance(param.axis, Choice)
    return len(param.values) != 1 and not param.when and not choice


def _beginning(search: Search, space: Space) -> list[str]:
    """What a search of so few trials will not come to."""
    trials = trials_in_all(search)
    if trials is None:
        return []
    found = []
    random = {
        "tpe": ("search.tpe.startup", search.tpe.startup),
        "gp": ("search.gp.startup", search.gp.startup),
        "nsga2": ("search.nsga.population", search.nsga.population),
        "nsga3": ("search.nsga.population", search.nsga.population),
    }
    key, first = random.get(search.sampler, ("", 0))
    if first >= trials - len(space.points) and not search.prior and first:
        found.append(
            f"search.sampler={search.sampler} learns from {key}={first} trials on: with "
            f"search.trials={trials} all are drawn at random"
        )
    size = space.size()
    if size is not None and size < trials and search.sampler != "grid":
        again = "answered from the record" if search.reuse else "trained again"
        found.append(
            f"the space has {size} different trial{'' if size == 1 else 's'}, search.trials="
            f"{trials}: what is drawn again is {again}; search.sampler=grid has each once"
        )
    return found
