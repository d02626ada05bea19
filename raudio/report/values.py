"""What a search says about its settings: which decide, where the good values are, which pairs act
together. `report.next_space` draws the conclusions.

All of it compares the good quarter of the trials with all of them. A trial counts by its best
value, a pruned one by the best before it was pruned, a configuration of several trials once, by
their mean; failed trials have none and do not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from raudio.config.axes import text
from raudio.records import TrialHistory
from raudio.report import analysis
from raudio.report.run import Run
from raudio.report.svg import is_number

#: Share of the trials that are good.
GOOD = 0.25
#: Times that values are shuffled to see what chance alone gives.
_SHUFFLES = 100
#: Groups that the numbers of a setting are put in, by their order, to compare pairs of settings.
_BINS = 3


@dataclass(frozen=True)
class Values:
    """The values of a setting, among the trials that have it.

    Attributes:
        setting: its key.
        trials: how many have it.
        good: how many of these are good.
        everywhere, best: least and greatest number of all and of the good ones; None of a setting
            that is compared value by value.
        counts: value as text -> (trials, good trials), of a setting that is.
    """

    setting: str
    trials: int
    good: int
    everywhere: tuple[float, float] | None
    best: tuple[float, float] | None
    counts: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Interaction:
    """How much two settings together decide beyond what each decides alone.

    Attributes:
        settings: the two.
        share: of the variance of being good that the two leave each by itself, 0 to 1; without what
            so many cells explain of anything.
        chance: the share that the greatest of all pairs has in 19 of 20 cases at most where none
            acts together.
        trials: how many have both.
    """

    settings: tuple[str, str]
    share: float
    chance: float
    trials: int


def good(run: Run, trials: Sequence[TrialHistory]) -> set[str]:
    """The ids of the good quarter of `trials`, which are ranked."""
    return {trial.id for trial in trials[: max(1, round(GOOD * len(trials)))]}


def values(run: Run) -> list[Values]:
    """The varying settings, in the order in which they were drawn."""
    chosen = good(run, run.drawn)
    found = []
    for key in analysis.varying(run):
        having = [trial for trial in run.drawn if key in trial.params]
        if not having:
            continue
        drawn = [trial.params[key] for trial in having]
        best = [trial.params[key] for trial in having if trial.id in chosen]
        if analysis.is_categorical(drawn):
            everywhere, among = Counter(map(text, drawn)), Counter(map(text, best))
            counts = {value: (everywhere[value], among[value]) for value in sorted(everywhere)}
            found.append(Values(key, len(drawn), len(best), None, None, counts))
        else:
            reach = (min(best), max(best)) if best else None
            found.append(Values(key, len(drawn), len(best), (min(drawn), max(drawn)), reach, {}))
    return found


def interactions(run: Run) -> list[Interaction]:
    """All pairs of varying settings, the strongest first; none with too few trials.

    A two-way analysis of variance of being good: the sum of squares between the cells of both
    settings, less that of their main effects, as a share of what these leave, and adjusted, as an
    R squared, for the number of cells. Numbers are put in three groups by their order. What chance
    gives is seen by permuting the residuals of the main effects (Freedman and Lane 1983); of each
    permutation the greatest share of all pairs counts, so that many pairs do not make one of them
    look strong.
    """
    trials = analysis.spread(run.drawn, analysis.MOST_TRIALS)
    chosen = good(run, trials)
    draw = np.random.default_rng(0)
    pairs: list[tuple[tuple[str, str], float, int]] = []
    by_chance: list[np.ndarray] = []
    for pair in combinations(analysis.varying(run), 2):
        having = [trial for trial in trials if all(key in trial.params for key in pair)]
        is_good = np.array([float(trial.id in chosen) for trial in having])
        if len(having) < analysis.FEWEST_TRIALS or not 0 < is_good.mean() < 1:
            continue
        first, second = (_levels([trial.params[key] for trial in having]) for key in pair)
        main = _basis(np.column_stack([_dummies(first), _dummies(second)]))
        cells = _basis(_dummies(first * (second.max() + 1) + second))
        if not main.shape[1] < cells.shape[1] < len(having):
            continue  # no cell but those of one setting, or a cell for each trial
        residuals = is_good - main @ (main.T @ is_good)
        shuffled = draw.permuted(np.tile(residuals, (_SHUFFLES, 1)), axis=1).T
        (beyond,) = _beyond(cells, main, residuals[:, None])
        pairs.append((pair, float(beyond), len(having)))
        by_chance.append(_beyond(cells, main, shuffled))
    if not pairs:
        return []
    chance = float(np.quantile(np.max(by_chance, axis=0), 0.95))
    found = [Interaction(pair, share, chance, count) for pair, share, count in pairs]
    return sorted(found, key=lambda one: -one.share)


def _levels(drawn: Sequence[Any]) -> np.ndarray:
    """Each value's group, from 0."""
    if analysis.is_categorical(drawn):
        names = sorted({text(value) for value in drawn})
        return np.array([names.index(text(value)) for value in drawn])
    numbers = np.array([float(value) for value in drawn if is_number(value)])
    ranks = np.searchsorted(np.sort(numbers), numbers)
    levels: np.ndarray = ranks * _BINS // len(numbers)
    return levels


def _dummies(levels: np.ndarray) -> np.ndarray:
    """A column for each level."""
    columns: np.ndarray = (levels[:, None] == np.unique(levels)).astype(float)
    return columns


def _basis(columns: np.ndarray) -> np.ndarray:
    """An orthonormal basis of what `columns` span."""
    left, size, _ = np.linalg.svd(columns, full_matrices=False)
    basis: np.ndarray = left[:, size > 1e-9 * size[0]]
    return basis


def _beyond(cells: np.ndarray, main: np.ndarray, outcomes: np.ndarray) -> np.ndarray:
    """Of each column of `outcomes`, the share that cells explain of what main effects leave, less
    what chance does: 0 on average where nothing acts together."""
    explained = ((main.T @ outcomes) ** 2).sum(0)
    left = (outcomes**2).sum(0) - explained
    more = ((cells.T @ outcomes) ** 2).sum(0) - explained
    share = more / np.where(left > 1e-9, left, np.inf)
    expected = (cells.shape[1] - main.shape[1]) / (outcomes.shape[0] - main.shape[1])
    adjusted: np.ndarray = ((share - expected) / (1 - expected)).clip(min=0.0)
    return adjusted
