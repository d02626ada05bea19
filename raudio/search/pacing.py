"""How often a search's trials should save: what follows from its cost, and from losses."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from raudio.core.storage import is_remote, write_atomic
from raudio.core.units import Seconds, format_bytes, format_seconds, parse_seconds
from raudio.search.job import Job
from raudio.training.pace import young_daly

#: Savings that the cost is the median of.
_TIMES = 3


@dataclass(frozen=True)
class Pacing:
    """What `raudio plan` proposes.

    Attributes:
        every: seconds between two checkpoints that waste least.
        saving: seconds that one stops the training for, measured on this machine.
        size: bytes of a checkpoint.
        lost_every: seconds between losses of the machines that one trial is on, at most as many as
            it has workers.
    """

    every: Seconds
    saving: Seconds
    size: int
    lost_every: Seconds

    def __str__(self) -> str:
        return (
            f"a checkpoint every {format_seconds(self.every)} wastes least: one of "
            f"{format_bytes(self.size)} stops the training for {self.saving:.2g} s (measured here),"
            f" and a trial loses a machine every {format_seconds(self.lost_every)} "
            "(cluster.lost_every)"
        )


def pacing(job: Job) -> Pacing | None:
    """The proposal for a search; None where `cluster.lost_every` is not given."""
    given = job.configuration.cluster.lost_every
    if given is None:
        return None
    lost_every = parse_seconds(given) / job.experiment.resources.max_workers
    saving, size = _measured(job)
    return Pacing(young_daly(saving, lost_every), saving, size, lost_every)


def _measured(job: Job) -> tuple[Seconds, int]:
    """Seconds that saving a trial's state takes, and its bytes: of what all trials have in common.

    To a store it is sent while training goes on; on a disk it is there when the training goes on.
    """
    import torch

    from raudio import checkpoint
    from raudio.system import build_system
    from raudio.training.build import build_optimizer

    system = build_system(
        job.experiment,
        labels=job.manifest.labels,
        class_counts=job.manifest.splits["train"].class_counts,
    )
    optimizer = build_optimizer(job.experiment.optimizer, system.model)
    for parameter in system.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # which makes its moments
    run = job.configuration.run.dir
    seconds, size = [], 0
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(_TIMES):
            began = time.perf_counter()
            content = checkpoint.pack(
                {"model": system.state_dict(), "optimizer": optimizer.state_dict()}
            )
            if run is None or not is_remote(run):
                write_atomic(Path(scratch, checkpoint.LAST), content)
            seconds.append(time.perf_counter() - began)
            size = len(content)
    return median(seconds), size
