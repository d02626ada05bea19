"""Whether scores are probabilities: reliability, and the expected calibration error.

Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017. A clip's
confidence is its highest score. Clips are put in bins of equal width by it; in each, the share of
clips that are right should be the mean confidence. The expected calibration error is the mean
distance between the two, each bin weighted by its clips.

It has no interval here: the bootstrap of an error that is never negative and zero at best is biased
upwards, by as much as there is to tell where a model is well calibrated.

Shapes: N clips, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: As in the paper.
BINS = 15


@dataclass(frozen=True)
class Bin:
    """The clips whose confidence is above `low` and at most `high`.

    Attributes:
        low, high: of the confidence; the first bin has 0 too.
        clips: how many there are.
        confidence: their mean.
        accuracy: share of them that are right.
    """

    low: float
    high: float
    clips: int
    confidence: float
    accuracy: float


def reliability(scores: NDArray[Any], y: NDArray[Any], bins: int = BINS) -> list[Bin]:
    """The bins that have clips, by confidence.

    Args:
        scores: (N, C) probabilities.
        y: (N,) class indices.
        bins: of equal width, between 0 and 1.
    """
    confidence = scores.max(axis=1).astype(np.float64)
    right = scores.argmax(axis=1) == y
    edges = np.linspace(0, 1, bins + 1)
    places = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    found = []
    for place in np.unique(places).tolist():
        inside = places == place
        found.append(
            Bin(
                float(edges[place]),
                float(edges[place + 1]),
                int(inside.sum()),
                float(confidence[inside].mean()),
                float(right[inside].mean()),
            )
        )
    return found


def calibration_error(found: list[Bin]) -> float:
    """The expected calibration error, 0 to 1, from all bins that have clips."""
    clips = sum(one.clips for one in found)
    return sum(one.clips * abs(one.accuracy - one.confidence) for one in found) / clips
