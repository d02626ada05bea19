"""How far a metric can be trusted: intervals by the bootstrap (Efron 1979, "Bootstrap methods").

The clips that were measured are drawn anew, with replacement and as many, again and again; what a
metric does over the draws is what it would do over other clips of the same kind. The interval is
the middle `CONFIDENCE` of its values (the percentile interval). Where clips come in groups, such as
several of one speaker, groups are drawn instead: clips of one group are alike, and intervals over
clips would be too narrow (Field and Welsh 2007, "Bootstrapping clustered data").

Shapes: N clips, D draws, C classes, M metrics.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raudio.core import seeding
from raudio.tasks.counts import Counts

#: Of the intervals.
CONFIDENCE = 0.95
#: Draws where none are asked for.
DRAWS = 1000


def resamples(
    clips: int, *, draws: int = DRAWS, seed: int = 0, groups: ArrayLike | None = None
) -> Iterator[NDArray[np.int64]]:
    """The positions of the clips of each draw; the same in every call.

    Args:
        clips: N.
        draws: D.
        seed: of the draws.
        groups: (N,) the group of each clip; as many groups are drawn as there are, each with all
            its clips, so that a draw may have more or fewer clips than N.
    """
    generator = seeding.generator(seed, "bootstrap")
    if groups is None:
        for _ in range(draws):
            yield generator.integers(0, clips, clips)
        return
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    order = np.argsort(member, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(member[order])) + 1)
    for _ in range(draws):
        chosen = generator.integers(0, len(members), len(members))
        yield np.concatenate([members[one] for one in chosen])


def counts_of_draws(confusion: ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> Counts:
    """The (D, C) counts of draws from the clips of a (C, C) confusion matrix.

    Of a metric that is a function of the confusion matrix, no more than the matrix is needed: N
    clips drawn with replacement fall into its cells by the multinomial distribution of N trials
    with the cells' shares. This is the bootstrap over clips itself, and no approximation of it.
    """
    cells = np.asarray(confusion)
    true, predicted = np.nonzero(cells)
    counts = cells[true, predicted]
    generator = seeding.generator(seed, "bootstrap of a confusion matrix")
    drawn = generator.multinomial(counts.sum(), counts / counts.sum(), size=draws).astype(float)
    is_true, is_predicted = np.eye(len(cells))[true], np.eye(len(cells))[predicted]  # (cells, C)
    return Counts(drawn @ (is_true * is_predicted), drawn @ is_true, drawn @ is_predicted)


def interval(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """The interval of a metric with these (D,) values over the draws.

    Draws in which it has no value (NaN: no clip of a class was drawn) do not count. None where
    there is nothing to tell: half of the draws or more have no value, or all have the same, as when
    no clip is wrong, which does not mean that none ever will be.
    """
    known = values[~np.isnan(values)]
    if 2 * len(known) <= len(values) or known.min() == known.max():
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)
