"""What runs in each training process: device and threads, the feeds, the system, the loop."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raudio.config.goal import Goal
from raudio.config.schema import Experiment
from raudio.core.errors import ConfigError, RaudioError
from raudio.core.storage import exists, is_remote, join, patient
from raudio.core.units import Seconds
from raudio.data.manifest import Manifest
from raudio.records import EXPERIMENT_YAML, LAST
from raudio.training.notice import heeding, noticing


@dataclass(frozen=True)
class Data:
    """The data of a search, as a trial's process gets it: small, with references to the large.

    Attributes:
        manifest: of the dataset, with a path that any process finds.
        refs: of a resident search, by split: references to the decoded blocks in the object
            store. None: every trial streams.
        apart: whether nodes of their own decode: see `raydata.run_apart`.
    """

    manifest: Manifest
    refs: Mapping[str, list[Any]] | None
    apart: bool = False


@dataclass(frozen=True)
class Place:
    """Which of the workers of a trial this process is, and what it computes on.

    Attributes:
        rank, world: which of how many.
        device: in torch's words.
        machines: that the trial's workers are on.
        driver: id of the node of the process that waits for the workers; None: this process.
    """

    rank: int = 0
    world: int = 1
    device: str = "cpu"
    machines: int = 1
    driver: str | None = None


@dataclass(frozen=True)
class Keeping:
    """Where checkpoints are kept, and what they are kept for.

    Attributes:
        place: folder or URI, of the run or of a trial in it.
        patience: how long a store may fail.
        lost_every: expected time until a machine is lost; None: not known.
        noticed: whether machines may be taken away with notice.
    """

    place: str
    patience: Seconds
    lost_every: Seconds | None = None
    noticed: bool = False

    def below(self, *parts: str) -> Keeping:
        """The same for a place inside this one."""
        return replace(self, place=join(self.place, *parts))


def train_here(
    experiment: Experiment,
    data: Data,
    *,
    place: Place,
    keeping: Keeping,
    goal: Goal,
    report: Callable[[Any], None],
) -> None:
    """Trains `experiment` in this process, going on from its last checkpoint if there is one.

    Args:
        experiment: resolved.
        data: where the clips are.
        place: this process among the trial's workers.
        keeping: the trial's checkpoints, which the first worker reads and writes.
        goal: what the search is after.
        report: called after each epoch, on every rank.

    Raises:
        OverLimitError: the trial breaks a limit before it has begun.
        NotSharedError: the run is on a disk that this machine does not have.
        StoreError: its store failed for too long.
        PreemptedError: a machine of the trial is being taken away.
    """
    import torch

    from raudio.data import raydata
    from raudio.data.build import build_feeds
    from raudio.data.folds import blocks_on_fold, on_fold
    from raudio.system import build_system
    from raudio.training.budget import budget
    from raudio.training.costs import known_costs
    from raudio.training.keeper import Keeper
    from raudio.training.loop import train
    from raudio.training.pace import Pace

    first = place.rank == 0
    if first:
        check_shared(keeping.place)
    set_threads(experiment.resources.cpus)
    manifest, refs = on_fold(data.manifest, experiment.dataset.fold), data.refs
    if refs is not None:
        refs = blocks_on_fold(refs, data.manifest, manifest)
    system = build_system(
        experiment,
        labels=manifest.labels,
        class_counts=manifest.splits["train"].class_counts,
    )
    notices = noticing(keeping.noticed, place.world, place.driver)
    # Whatever is read of the run, and of the dataset, is waited for.
    with notices as notice, patient(keeping.patience, heeding(notice, place.world)):
        costs = known_costs(system, experiment, place.device, latency=goal.measures_latency)
        goes_on = first and exists(join(keeping.place, LAST))  # it was within the limits
        if first and not goes_on:
            check_limits(goal, costs)
        metric, mode = next(iter(goal.objectives.items()))
        if data.apart:
            raydata.run_apart(True)
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
        lost_every = keeping.lost_every and keeping.lost_every / place.machines
        keeper = Keeper(keeping.place, keeping.patience) if first else None
        try:
            with keeper or nullcontext():
                train(
                    experiment,
                    system,
                    feeds["train"],
                    feeds["valid"],
                    device=torch.device(place.device),
                    keeper=keeper,
                    report=report,
                    metric=metric,
                    mode=mode,
                    rank=place.rank,
                    world=place.world,
                    dataset=manifest.fingerprint,
                    costs=costs,
                    pace=Pace(experiment.training.checkpoint_every, lost_every),
                    notice=notice,
                )
        finally:
            for feed in feeds.values():
                feed.close()


class NotSharedError(ConfigError):
    """The run is on a disk that the machine of a trial does not have."""


def check_shared(place: str) -> None:
    """Raises NotSharedError when the folder of a trial, which its search has made, is not there."""
    if not is_remote(place) and not Path(place, EXPERIMENT_YAML).is_file():
        raise NotSharedError(
            f"{socket.gethostname()} does not have the run's folder {place!r}, which the driver of "
            "the search has made"
        )


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
