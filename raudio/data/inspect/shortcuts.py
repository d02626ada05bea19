"""A check for shortcuts: a class that the recording gives away without being listened to.

Shapes: N clips, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from raudio.data.inspect.problem import WARNING, Look, Problem, number, of_names

#: Area under the ROC curve from which on a class counts as told by a number alone.
TOLD = 0.9
#: A class of fewer clips can look so by chance; so can an area within these standard errors of 0.5.
_FEWEST = 10
_ERRORS = 4.0


def shortcuts(look: Look) -> Iterator[Problem]:
    """Classes that one number tells from the rest, at its best threshold.

    The number of each clip is one of sample rate, bandwidth, length, level and offset. Its measure
    is the area under the ROC curve of the class against the rest: the probability that a clip of
    the class has the larger number (ties count half), 0.5 for a number that tells nothing, 0 or 1
    for one that tells all. It is the Mann-Whitney U over the number of pairs (Hanley & McNeil,
    1982). A class that is told by a range in the middle is not found, nor one of a multi-label
    dataset.
    """
    label = look.values("label")
    told = np.array([name is not None for name in label], bool)
    numbers = {
        "sample rate": look.values("sample_rate"),
        "bandwidth": look.values("bandwidth"),
        "length": look.seconds,
        "level": look.values("rms"),
        "offset": look.values("dc"),
    }
    for what, value in numbers.items():
        chosen = told & np.isfinite(value.astype(np.float64))
        names, classes = np.unique(label[chosen].astype(str), return_inverse=True)
        if len(names) < 2:
            continue
        area, error = class_areas(value[chosen], classes, len(names))
        size = np.bincount(classes, minlength=len(names))
        distance = np.abs(area - 0.5)
        found = (distance >= TOLD - 0.5) & (distance > _ERRORS * error) & (size >= _FEWEST)
        if found.any():
            order = np.flatnonzero(found)[np.argsort(-distance[found], kind="stable")]
            yield of_names(
                WARNING,
                f"told-by-{what.replace(' ', '-')}",
                f"the {what} alone tells {number(len(order), 'class')} of {len(names)} from the "
                "rest",
                [f"{names[c]} ({0.5 + distance[c]:.2f} of 1)" for c in order],
                "if it is not what sets the classes apart where the model will be used, it can "
                "learn the recorder instead of the sound",
                _CURES[what],
                count=int(size[order].sum()),
            )


_CURES = {
    "sample rate": "record all classes alike, or set dataset.sample_rate to the lowest",
    "bandwidth": "record all classes alike, or set dataset.sample_rate to twice the narrowest",
    "length": "cut all clips alike; a smaller dataset.clip_seconds hides the ends",
    "level": "record all classes alike, or train with random gain (augment)",
    "offset": "filter it out (a high pass at 20 Hz) and prepare it again",
}


def class_areas(
    values: NDArray[np.floating], classes: NDArray[np.integer], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Area under the ROC curve of each class against the rest, and its standard error by chance.

    Args:
        values: (N,) finite.
        classes: (N,) index of each clip's class.
        count: C, of which every one has a clip, and none has all.

    Returns:
        Two (C,) arrays.
    """
    total = len(values)
    _, place, ties = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[place]  # from 1; equal values share their mean
    size = np.bincount(classes, minlength=count)
    sums = np.bincount(classes, weights=ranks, minlength=count)
    pairs = size * (total - size)
    area = (sums - size * (size + 1) / 2) / pairs
    return area, np.sqrt((total + 1) / (12 * pairs))
