"""The samplers that there are, and the settings of each: the groups inside `search`."""

from __future__ import annotations

from dataclasses import dataclass

from raudio.config.meta import setting

#: Name -> one line.
SAMPLERS = {
    "tpe": "tree of Parzen estimators, multivariate, a group for each branch of the space",
    "random": "each trial at random, whatever became of the others",
    "qmc": "quasi-random: fills the whole space more evenly than chance does",
    "grid": "every cell of a space without intervals, once",
    "cmaes": "covariance matrix adaptation (CMA-ES), of the numbers that every trial has",
    "gp": "Gaussian process, of the settings that every trial has; few and costly trials",
    "nsga2": "genetic algorithm for several objectives, spread by crowding distance",
    "nsga3": "genetic algorithm for three and more objectives, spread by reference points",
}

#: Group of settings in `search` -> the samplers that read it.
READERS = {
    "tpe": ("tpe",),
    "qmc": ("qmc",),
    "cmaes": ("cmaes",),
    "gp": ("gp",),
    "nsga": ("nsga2", "nsga3"),
}

#: Samplers that learn from trials that they have not drawn.
LEARNING = ("tpe", "gp", "cmaes")


@dataclass(frozen=True, kw_only=True)
class TPE:
    """Bergstra et al. 2011."""

    startup: int = setting(8, "trials drawn at random before it has enough to model", min=1)
    window: int | None = setting(
        1000, "ended trials that it models: the last so many, and the best 100; none: all", min=100
    )
    prior_weight: float = setting(
        5,
        "trials that the whole space counts for in the model: more keeps it looking further afield",
        above=0,
    )
    candidates: int = setting(24, "draws, of which the most promising becomes the trial", min=1)


@dataclass(frozen=True, kw_only=True)
class QMC:
    """A low-discrepancy sequence."""

    sequence: str = setting("sobol", "the sequence of points", choices=("sobol", "halton"))
    scramble: bool = setting(True, "randomised by search.seed; else every search draws the same")


@dataclass(frozen=True, kw_only=True)
class CMAES:
    """Hansen 2016."""

    startup: int = setting(1, "trials drawn at random before it begins", min=1)
    sigma: float | None = setting(
        None, "first step, as a share of each setting's range; none: a sixth", above=0, max=1
    )
    population: int | None = setting(
        None, "trials a generation; none: 4 + 3 ln(number of settings)", min=4
    )
    margin: bool = setting(
        False, "keep whole numbers and steps from getting stuck on one value (Hamano et al. 2022)"
    )
    pruned: bool = setting(True, "learn from pruned trials, too, by their last value")


@dataclass(frozen=True, kw_only=True)
class GP:
    """A Gaussian process with a Matern kernel, and log expected improvement."""

    startup: int = setting(10, "completed trials, drawn at random, before it has a model", min=1)
    deterministic: bool = setting(False, "an experiment gives the same value whatever its seed")


@dataclass(frozen=True, kw_only=True)
class NSGA:
    """Deb et al. 2002 (NSGA-II), Deb and Jain 2014 (NSGA-III)."""

    population: int = setting(20, "completed trials a generation; the first is random", min=2)
    crossover: float = setting(
        0.9, "probability that a trial comes from two parents, not one", min=0, max=1
    )
    mutation: float | None = setting(
        None, "probability that a setting is drawn anew; none: one in a trial", min=0, max=1
    )
