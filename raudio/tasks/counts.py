"""What follows from how often each class was right, there, and predicted.

Shapes: C classes; counts of several confusions at once have further axes in front.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Counts:
    """Clips by class.

    Attributes:
        hits: (..., C) clips that are of a class and were given it.
        true: (..., C) clips that are of it.
        predicted: (..., C) clips that were given it.
    """

    hits: NDArray[Any]
    true: NDArray[Any]
    predicted: NDArray[Any]

    @classmethod
    def of(cls, confusion: ArrayLike) -> Counts:
        """Of a (..., C, C) confusion matrix: a row for each true class, a column for each given."""
        cells = np.asarray(confusion)
        return cls(cells.diagonal(axis1=-2, axis2=-1), cells.sum(-1), cells.sum(-2))

    @property
    def precision(self) -> NDArray[np.float64]:
        """(..., C) share of the clips given a class that are of it; NaN of one never given."""
        return _ratio(self.hits, self.predicted)

    @property
    def recall(self) -> NDArray[np.float64]:
        """(..., C) share of a class's clips that were given it; NaN of one without clips."""
        return _ratio(self.hits, self.true)

    @property
    def f1(self) -> NDArray[np.float64]:
        """(..., C) harmonic mean of both; NaN of a class neither there nor given."""
        return _ratio(2 * self.hits, self.true + self.predicted)

    def metrics(self) -> dict[str, NDArray[np.float64]]:
        """Metrics of all classes together, each (...); NaN without any clip.

        - accuracy: share of clips whose highest score is the true class;
        - macro_f1: mean F1 over the classes that occur as truth or as prediction;
        - uar: unweighted average recall, the mean over the classes that occur as truth.
        """
        return {
            "accuracy": _ratio(self.hits.sum(-1), self.true.sum(-1)),
            "macro_f1": _mean(self.f1),
            "uar": _mean(self.recall),
        }


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=found, where=whole > 0)
    return found


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the last axis of what is not NaN."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0.0).sum(-1), known.sum(-1))
