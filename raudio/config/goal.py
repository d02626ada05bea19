"""What a search is after: one or several objectives, and limits that its trials must keep.

Only plain values here: a run's records hold a goal, and what reads them needs nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from raudio.config import expressions
from raudio.config.schema import Search
from raudio.core.errors import ConfigError, unknown

T = TypeVar("T", bound=Hashable)

PARAMS, LATENCY, GPU_MEMORY = "cost/params", "cost/latency", "cost/gpu_memory"

#: Every cost, with one line; lower is better for all.
COSTS = {
    PARAMS: "parameters of the model, trained or not",
    "cost/device_seconds": "seconds of training, over all epochs and processes",
    "cost/peak_memory": "bytes that the largest process held at most",
    GPU_MEMORY: "bytes that a process held at most of its GPU",
    LATENCY: "seconds for one clip, alone, on the device of the trial",
}


@dataclass(frozen=True)
class Goal:
    """Objectives and limits.

    Attributes:
        objectives: metric -> "max" or "min"; the first decides which epoch of a trial is its best.
        limits: expression as it was written -> the metrics that it speaks of.
    """

    objectives: Mapping[str, str]
    limits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def several(self) -> bool:
        """Whether there are several objectives."""
        return len(self.objectives) > 1

    @property
    def measures_latency(self) -> bool:
        """Whether an objective or a limit asks for `cost/latency`."""
        return any(LATENCY in names for names in (self.objectives, *self.limits.values()))

    def broken(self, metrics: Mapping[str, float]) -> list[str]:
        """The limits that a trial with these metrics does not keep; one that they can't decide, it
        keeps."""
        return [
            limit
            for limit, names in self.limits.items()
            if not _expression(limit, names).holds(metrics)
        ]

    def values(self, metrics: Mapping[str, float]) -> tuple[float, ...] | None:
        """The value of each objective; None when one is missing."""
        if not all(name in metrics for name in self.objectives):
            return None
        return tuple(metrics[name] for name in self.objectives)

    def further(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """What decides among equals in the first objective: the others, lower being better."""
        return tuple(
            (1.0 if mode == "min" else -1.0) * metrics[name] if name in metrics else math.inf
            for name, mode in list(self.objectives.items())[1:]
        )

    def front(self, values: Mapping[T, Sequence[float]]) -> list[T]:
        """The Pareto front: those that no other beats in one objective and equals in the rest, the
        best in the first objective first.

        Args:
            values: of the objectives, by trial.
        """
        signs = [1.0 if mode == "min" else -1.0 for mode in self.objectives.values()]
        points = {
            name: tuple(sign * value for sign, value in zip(signs, those, strict=True))
            for name, those in values.items()
        }
        found: list[T] = []
        for name in sorted(points, key=points.__getitem__):  # after those that can beat it
            point = points[name]
            if not any(_beats(points[other], point) for other in found):
                found.append(name)
        return found


def goal_of(search: Search, metric: str | None, modes: Mapping[str, str]) -> Goal:
    """The goal of a search.

    Args:
        search: `objectives` and `limits`.
        metric: `training.metric`, if it is set.
        modes: the task's metrics, `valid/...`, and which way each is better; the first is what is
            optimised when nothing is said.

    Raises:
        ConfigError: an unknown metric, a limit that cannot be read, or a cost as first objective.
    """
    known = {**modes, **dict.fromkeys(COSTS, "min")}
    if metric is not None and metric not in modes:
        raise ConfigError(f"training.metric={metric!r}: {unknown('metric', metric, modes)}")
    names = [_full(name, known) for name in search.objectives]
    if len(set(names)) < len(names):
        raise ConfigError(f"search.objectives=[{', '.join(names)}] names one twice")
    if names and names[0] not in modes:
        raise ConfigError(
            f"search.objectives=[{', '.join(names)}]: the first objective decides which epoch of a "
            f"trial is its best, so it must be measured on the valid split; put "
            f"{metric or next(iter(modes))} first"
        )
    if names and metric not in (None, names[0]):
        raise ConfigError(
            f"training.metric={metric} is not the first of search.objectives="
            f"[{', '.join(names)}]; leave training.metric out"
        )
    names = names or [metric or next(iter(modes))]
    limits = {}
    for limit in search.limits:
        try:
            limits[limit] = tuple(sorted(_parsed(limit, known).names))
        except ConfigError as error:
            raise ConfigError(f"search.limits: {error}") from error
    return Goal({name: known[name] for name in names}, limits)


def recorded_goal(record: Mapping[str, Any]) -> Goal:
    """The goal that the record of a search's start tells of."""
    objectives = record.get("objectives") or {record["metric"]: record["mode"]}
    limits = record.get("limits") or {}
    return Goal(dict(objectives), {limit: tuple(names) for limit, names in limits.items()})


def _full(name: str, known: Mapping[str, str]) -> str:
    """A metric by its full name, given that or the end of it."""
    found = name if name in known else next((k for k in known if k.endswith(f"/{name}")), None)
    if found is None:
        ends = [k.rpartition("/")[2] for k in known]
        names = known if "/" in name else ends
        raise ConfigError(f"search.objectives: {unknown('metric', name, names)}")
    return found


def _parsed(limit: str, names: Iterable[str]) -> expressions.Expression:
    return expressions.parse(limit, dict.fromkeys(names, ()), kind="metric")


@cache
def _expression(limit: str, names: tuple[str, ...]) -> expressions.Expression:
    return _parsed(limit, names)


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
