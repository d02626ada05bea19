"""What is measured of a bundle's scores: metrics with their intervals, classes, groups, errors.

All of it is plain values, as `raudio evaluate --json` prints them.

Shapes: N clips, C outputs, D draws of the bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raudio.tasks import bootstrap
from raudio.tasks.calibration import calibration_error, reliability
from raudio.tasks.counts import Counts

#: Values of a column that are told apart; those with the most clips.
MOST_GROUPS = 200
#: Different numbers of a column that are told apart.
MOST_NUMBERS = 12

#: A metric's interval as JSON has it; None where there is nothing to tell.
Interval: TypeAlias = list[float] | None


@dataclass(frozen=True)
class Draws:
    """How clips are drawn: the same draws whenever it is gone through.

    Attributes:
        clips: N.
        count: D.
        groups: (N,) the group of each clip, where groups are drawn; None: clips are.
    """

    clips: int
    count: int
    groups: NDArray[np.int64] | None = None

    @classmethod
    def over(cls, groups: Sequence[str | None], count: int) -> Draws:
        """Groups are drawn where there are several and one of them has several clips.

        Args:
            groups: (N,) of the clips; a clip without one is its own.
            count: D.
        """
        own = [(group, 0 if group is not None else n) for n, group in enumerate(groups)]
        numbers = {name: n for n, name in enumerate(dict.fromkeys(own))}
        if not 1 < len(numbers) < len(own):
            return cls(len(own), count)
        return cls(len(own), count, np.array([numbers[one] for one in own]))

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return bootstrap.resamples(self.clips, draws=self.count, groups=self.groups)

    def of(self, clips: NDArray[np.int64]) -> Draws:
        """The draws from some of the clips alone; over groups where these are of several."""
        groups = None if self.groups is None else self.groups[clips]
        if groups is not None and len(np.unique(groups)) < 2:
            groups = None
        return Draws(len(clips), self.count, groups)

    def about(self) -> dict[str, Any]:
        """How intervals were made."""
        return {
            "confidence": bootstrap.CONFIDENCE,
            "draws": self.count,
            "over": "clips" if self.groups is None else "groups",
            "units": self.clips if self.groups is None else int(self.groups.max()) + 1,
        }


def over_draws(
    task: Any, scores: Tensor, y: Tensor, draws: Iterable[NDArray[np.int64]]
) -> dict[str, NDArray[np.float64]]:
    """The task's metrics of each draw, (D,) each.

    Args:
        task: of the bundle.
        scores: (N, C).
        y: (N,) targets.
        draws: positions of clips, D times.
    """
    found: dict[str, list[float]] = {}
    for positions in draws:
        drawn = torch.from_numpy(positions)
        for name, value in task.metrics(scores[drawn], y[drawn]).items():
            found.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in found.items()}


def intervals(found: Mapping[str, NDArray[np.float64]]) -> dict[str, Interval]:
    """The interval of each metric, from its values over the draws."""
    return {name: interval(values) for name, values in found.items()}


def interval(values: NDArray[np.float64]) -> Interval:
    """A metric's interval, from its values over the draws."""
    found = bootstrap.interval(values)
    return None if found is None else list(found)


def of_classes(
    labels: Sequence[str], scores: Tensor, y: Tensor, draws: Iterable[NDArray[np.int64]]
) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each class, with their intervals; None where there is no value.

    Args:
        labels: of the C classes.
        scores: (N, C).
        y: (N,) class indices.
        draws: positions of clips, D times.
    """
    size = len(labels)
    true, predicted = y.numpy(), scores.argmax(dim=1).numpy()
    hit = true == predicted

    def counts(clips: Any) -> list[NDArray[np.int64]]:
        parts = true[clips][hit[clips]], true[clips], predicted[clips]
        return [np.bincount(part, minlength=size) for part in parts]

    whole = Counts(*counts(slice(None)))
    drawn = Counts(*np.array([counts(positions) for positions in draws]).transpose(1, 0, 2))
    names = ("precision", "recall", "f1")
    return [
        {
            "label": label,
            "clips": int(whole.true[place]),
            "predicted": int(whole.predicted[place]),
            **{name: _or_none(float(getattr(whole, name)[place])) for name in names},
            "intervals": {name: interval(getattr(drawn, name)[:, place]) for name in names},
        }
        for place, label in enumerate(labels)
    ]


def of_groups(
    task: Any, scores: Tensor, y: Tensor, values: Sequence[Any], draws: Draws
) -> list[dict[str, Any]]:
    """The metrics of the clips with each value of a column, with their intervals.

    Args:
        task: of the bundle.
        scores: (N, C).
        y: (N,) targets.
        values: (N,) of the column; see `grouped`.
        draws: of all clips.
    """
    found = []
    for value, members in grouped(values).items():
        clips = np.array(members)
        own = torch.from_numpy(clips)
        drawn = over_draws(task, scores[own], y[own], draws.of(clips))
        found.append(
            {
                "value": value,
                "clips": len(clips),
                "metrics": task.metrics(scores[own], y[own]),
                "intervals": intervals(drawn),
            }
        )
    return found


def grouped(values: Sequence[Any]) -> dict[str | None, list[int]]:
    """The positions of a column's values, in the values' order, without one last.

    Many different numbers are put in quarters of the clips, each named by its least and greatest;
    of many different texts, those with the most clips are taken.
    """
    known = [value for value in values if _is_number(value)]
    if len(known) == sum(value is not None for value in values) and len(set(known)) > MOST_NUMBERS:
        return _quarters(values)
    members: dict[Any, list[int]] = {}
    for position, value in enumerate(values):
        members.setdefault(None if value is None else str(value), []).append(position)
    rank = {str(number): place for place, number in enumerate(sorted(set(known)))}
    most = sorted(members, key=lambda value: -len(members[value]))[:MOST_GROUPS]
    most.sort(key=lambda value: (value is None, rank.get(str(value), 0), str(value)))
    return {value: members[value] for value in most}


def _quarters(values: Sequence[Any]) -> dict[str | None, list[int]]:
    numbers = np.array([value if _is_number(value) else np.nan for value in values], np.float64)
    edges = np.nanquantile(numbers, [0.25, 0.5, 0.75])
    places = np.searchsorted(edges, numbers, side="left")
    found: dict[str | None, list[int]] = {}
    for place in range(len(edges) + 1):
        inside = np.flatnonzero((places == place) & ~np.isnan(numbers))
        if len(inside):
            low, high = numbers[inside].min(), numbers[inside].max()
            found[f"{low:.4g} to {high:.4g}"] = inside.tolist()
    if (lacking := np.flatnonzero(np.isnan(numbers))).size:
        found[None] = lacking.tolist()
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def calibration(scores: Tensor, y: Tensor) -> dict[str, Any]:
    """The expected calibration error and the bins that it is made of; see `tasks.calibration`."""
    bins = reliability(scores.numpy(), y.numpy())
    return {"ece": calibration_error(bins), "bins": [asdict(one) for one in bins]}


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
