"""What a trial costs: parameters, memory, device time and, when asked for, latency.

A cost is a metric of every report, named `cost/...`, and it is better when it is lower.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median

import torch
from torch import distributed

from raudio.config.goal import LATENCY, PARAMS
from raudio.config.schema import Experiment
from raudio.system import System
from raudio.training.gpu import forget_peak, gpu_costs

#: Forward passes that latency is the median of, after some that warm up.
_PASSES, _WARM_UP = 20, 3

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def known_costs(
    system: System, experiment: Experiment, device: torch.device | str, *, latency: bool
) -> dict[str, float]:
    """The costs that are known before training.

    Args:
        system: untrained; it is on `device` afterwards.
        experiment: resolved.
        device: of the trial.
        latency: whether to measure it.

    Returns:
        `cost/params`, trainable or not; where asked for, `cost/latency` in seconds.
    """
    costs = {PARAMS: float(sum(parameter.numel() for parameter in system.parameters()))}
    if latency:
        data = experiment.dataset
        assert data.sample_rate is not None, "the experiment is not resolved"
        assert data.clip_seconds is not None, "the experiment is not resolved"
        costs[LATENCY] = measured_latency(
            system.to(device), round(data.sample_rate * data.clip_seconds), device
        )
    return costs


@torch.no_grad()
def measured_latency(system: System, samples: int, device: torch.device | str) -> float:
    """Seconds from the waveform of one clip to its scores: the median of 20 passes, batch 1.

    In evaluation mode, which is given back as it was.

    Args:
        system: on `device`.
        samples: of the clip.
        device: where to compute.
    """
    training = system.training
    system.eval()
    wave = torch.zeros(1, samples, device=device)
    lengths = torch.tensor([samples], device=device)
    times = []
    try:
        for _ in range(_WARM_UP + _PASSES):
            started = time.perf_counter()
            system.task.scores(system(wave, lengths)).cpu()  # waits for a GPU
            times.append(time.perf_counter() - started)
    finally:
        system.train(training)
    return median(times[_WARM_UP:])


class CostMeter:
    """Counts what a trial costs while it trains.

    Args:
        known: costs that are known before training: `known_costs`.
        device: where it trains.
        world: processes that train it together.
        spent: device seconds before an interruption.
    """

    def __init__(
        self, known: Mapping[str, float], device: torch.device, world: int, spent: float
    ) -> None:
        self._known = known
        self._device = device
        self._world = world
        self._spent = spent
        _forget_peak()
        forget_peak(device)

    def read(self, seconds: float) -> dict[str, float]:
        """The costs so far, the same on all ranks.

        Args:
            seconds: that the epoch took, which is added to the others.

        Returns:
            The known ones; `cost/device_seconds`: seconds in the loop, over all epochs and
            processes; `cost/peak_memory`: bytes of the largest process, shared memory included,
            since the trial began in it (where the system can't tell, since the process began); on
            a GPU what `gpu_costs` gives.
        """
        self._spent += seconds * self._world
        costs = {"cost/device_seconds": self._spent, "cost/peak_memory": float(_peak())}
        costs |= gpu_costs(self._device)
        if self._world > 1:
            values = torch.tensor(list(costs.values()), dtype=torch.float64, device=self._device)
            distributed.all_reduce(values, op=distributed.ReduceOp.MAX)
            costs = dict(zip(costs, values.tolist(), strict=True))
        return {**self._known, **costs}


def _forget_peak() -> None:
    """Starts the process's peak memory anew: it may have trained other trials before."""
    with suppress(OSError):  # not Linux, or not allowed
        _CLEAR.write_text("5")


def _peak() -> int:
    """The most memory that this process held, in bytes."""
    try:
        lines = _STATUS.read_text().splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return int(kilobytes) * 1024
