"""What runs in each training process: device and threads, the feeds, the system, the loop."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raudio.config.goal import Goal
from raudio.config.schema import Experiment
from raudio.core.errors import RaudioError
from raudio.data.manifest import Manifest
from raudio.records import LAST


@dataclass(frozen=True)
class Data:
    """The data of a search, as a trial's process gets it: small, with references to the large.

    Attributes:
        manifest: of the dataset, with a path that any process finds.
        refs: of a resident search, by split: references to the decoded blocks in the object
            store. None: every trial streams.
    """

    manifest: Manifest
    refs: Mapping[str, list[Any]] | None


@dataclass(frozen=True)
class Place:
    """Which of the workers of a trial this process is, and what it computes on."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"


def train_here(
    experiment: Experiment,
    data: Data,
    *,
    place: Place,
    folder: Path,
    goal: Goal,
    report: Callable[[Any], None],
) -> None:
    """Trains `experiment` in this process, going on from the checkpoint in `folder` if any.

    Args:
        experiment: resolved.
        data: where the clips are.
        place: this process among the trial's workers.
        folder: of the trial, for its checkpoints.
        goal: what the search is after.
        report: called after each epoch, on every rank.

    Raises:
        OverLimitError: the trial breaks a limit before it has begun.
    """
    import torch

    from raudio.data.build import build_feeds
    from raudio.data.folds import blocks_on_fold, on_fold
    from raudio.system import build_system
    from raudio.training.budget import budget
    from raudio.training.costs import known_costs
    from raudio.training.loop import train

    set_threads(experiment.resources.cpus)
    manifest, refs = on_fold(data.manifest, experiment.dataset.fold), data.refs
    if refs is not None:
        refs = blocks_on_fold(refs, data.manifest, manifest)
    system = build_system(
        experiment,
        labels=manifest.labels,
        class_counts=manifest.splits["train"].class_counts,
    )
    costs = known_costs(system, experiment, place.device, latency=goal.measures_latency)
    if not (folder / LAST).exists():  # one that goes on was within the limits
        check_limits(goal, costs)
    metric, mode = next(iter(goal.objectives.items()))
    feeds = build_feeds(
        manifest,
        experiment,
        encode=system.task.encode,
        refs=refs,
        rank=place.rank,
        world=place.world,
        passes=lambda steps: budget(experiment.training, steps).passes,
        cpus=experiment.resources.data_cpus / place.world,
    )
    try:
        train(
            experiment,
            system,
            feeds["train"],
            feeds["valid"],
            device=torch.device(place.device),
            folder=folder,
            report=report,
            metric=metric,
            mode=mode,
            rank=place.rank,
            world=place.world,
            dataset=manifest.fingerprint,
            costs=costs,
        )
    finally:
        for feed in feeds.values():
            feed.close()


class OverLimitError(RaudioError):
    """What is known of a trial before it trains breaks a limit of the search.

    Attributes:
        reason: which limit, and the values.
        costs: that are known.
    """

    def __init__(self, reason: str, costs: Mapping[str, float]) -> None:
        super().__init__(reason, costs)
        self.reason = reason
        self.costs = dict(costs)


def check_limits(goal: Goal, costs: Mapping[str, float]) -> None:
    """Raises OverLimitError when `costs` break a limit of `goal`."""
    broken = goal.broken(costs)
    if broken:
        names = {name for limit in broken for name in goal.limits[limit] if name in costs}
        known = ", ".join(f"{name} is {costs[name]:.6g}" for name in sorted(names))
        raise OverLimitError(f"over the limit {' and '.join(broken)}: {known}", costs)


def set_threads(cpus: float) -> None:
    """As many torch threads as the worker has CPUs: more of them collapse on a busy machine."""
    import torch

    threads = max(1, int(cpus))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def device_of(gpus: float) -> str:
    """ "cuda" when a GPU was given to this process, else "cpu"."""
    return "cuda" if gpus and os.environ.get("CUDA_VISIBLE_DEVICES", "") != "" else "cpu"
