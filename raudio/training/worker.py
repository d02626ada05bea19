"""What runs in each training process: device and threads, the feeds, the system, the loop."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raudio.config.schema import Experiment
from raudio.data.manifest import Manifest


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
    metric: str,
    mode: str,
    report: Callable[[Any], None],
) -> None:
    """Trains `experiment` in this process, going on from the checkpoint in `folder` if any.

    Args:
        experiment: resolved.
        data: where the clips are.
        place: this process among the trial's workers.
        folder: of the trial, for its checkpoints.
        metric, mode: what is optimised.
        report: called after each epoch, on every rank.
    """
    import torch

    from raudio.data.build import build_feeds
    from raudio.data.folds import blocks_on_fold, on_fold
    from raudio.system import build_system
    from raudio.training.budget import budget
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
        )
    finally:
        for feed in feeds.values():
            feed.close()


def set_threads(cpus: float) -> None:
    """As many torch threads as the worker has CPUs: more of them collapse on a busy machine."""
    import torch

    threads = max(1, int(cpus))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def device_of(gpus: float) -> str:
    """ "cuda" when a GPU was given to this process, else "cpu"."""
    return "cuda" if gpus and os.environ.get("CUDA_VISIBLE_DEVICES", "") != "" else "cpu"
