"""How trials fit on a machine or cluster: a pure function, and a refusal of what cannot run.

Without it Ray waits in silence for resources that never come: workers that take every CPU leave
none for the tasks that decode a streamed trial's audio.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from raudio.cluster.session import Capacity
from raudio.config.schema import Resources, Search
from raudio.core.errors import ConfigError

#: Trials of a search that is told neither how many nor how long.
DEFAULT_TRIALS = 20


def trials_in_all(search: Search) -> int | None:
    """How many trials a search is to have; None: until its time is up."""
    if search.trials is not None:
        return search.trials
    return DEFAULT_TRIALS if search.time_budget is None else None


@dataclass(frozen=True)
class Plan:
    """What runs where.

    Attributes:
        slots: trials at once.
        workers: training processes a trial.
        cpus, gpus: of one worker.
        data_cpus: that decode for one trial while it trains (0 for a resident feed).
        reasons: one sentence for each decision.
    """

    slots: int
    workers: int
    cpus: float
    gpus: float
    data_cpus: float
    reasons: tuple[str, ...]


def plan(capacity: Capacity, resources: Resources, search: Search, feed: str) -> Plan:
    """Fits a search on `capacity`.

    Args:
        capacity: what there is.
        resources: what one trial asks for.
        search: `concurrency` and `trials` limit the slots.
        feed: "resident" or "streamed"; a streamed trial needs CPUs for decoding beside its own.

    Raises:
        ConfigError: not even one trial fits, or fewer than `search.concurrency`; with the nearest
            setting that does.
    """
    reasons = []
    gpus = resources.gpus
    if gpus is None:
        gpus = 1.0 if capacity.gpus else 0.0
        reasons.append(
            "one GPU a worker: there are some" if gpus else f"no GPU: {capacity.where} has none"
        )
    if gpus > 1 and gpus % 1:  # a share is of one GPU
        raise ConfigError(
            f"resources.gpus={gpus:g}: a share of several GPUs cannot be given; "
            f"take {math.floor(gpus)} or {math.ceil(gpus)}"
        )
    data_cpus = resources.data_cpus if feed == "streamed" else 0.0
    trial_cpus = resources.workers * resources.cpus + data_cpus
    trial_gpus = resources.workers * gpus
    gpu_trials = _places(capacity.gpus, gpus) // resources.workers if gpus else None
    asked = _asked(resources, data_cpus)
    if trial_cpus > capacity.cpus:
        raise ConfigError(
            f"{asked} ask for {trial_cpus:g} CPUs a trial, but {capacity.where} has "
            f"{capacity.cpus:g}{_nearest(capacity, resources, data_cpus)}"
        )
    if gpu_trials == 0:
        raise ConfigError(
            f"resources.workers={resources.workers} resources.gpus={gpus:g} ask for "
            f"{trial_gpus:g} GPUs a trial, but {capacity.where} has {capacity.gpus:g}"
            + (" and a share is of one of them; " if gpus < 1 < capacity.gpus else "; ")
            + (
                f"at most resources.gpus={_share(capacity.gpus, resources.workers):g} fits"
                if capacity.gpus
                else "leave resources.gpus out to train on CPUs"
            )
        )
    fit = math.floor(capacity.cpus / trial_cpus + 1e-9)
    reasons.append(f"{trial_cpus:g} CPUs a trial of {capacity.cpus:g}: {fit} fit")
    if gpu_trials is not None:
        reasons.append(f"{trial_gpus:g} GPUs a trial of {capacity.gpus:g}: {gpu_trials} fit")
        fit = min(fit, gpu_trials)
    if search.concurrency is not None:
        if search.concurrency > fit:
            raise ConfigError(
                f"search.concurrency={search.concurrency}, but {fit} trials of {trial_cpus:g} CPUs "
                f"fit on {capacity.where}; give at most {fit}, or leave it out"
            )
        reasons.append(f"search.concurrency={search.concurrency}")
        fit = search.concurrency
    trials = trials_in_all(search)
    if trials is not None and trials < fit:
        reasons.append(f"search.trials={trials} is all there is to run")
        fit = trials
    return Plan(
        slots=fit,
        workers=resources.workers,
        cpus=resources.cpus,
        gpus=gpus,
        data_cpus=data_cpus,
        reasons=tuple(reasons),
    )


def _asked(resources: Resources, data_cpus: float) -> str:
    text = f"resources.workers={resources.workers} resources.cpus={resources.cpus:g}"
    return text + (f" and resources.data_cpus={data_cpus:g} (streamed)" if data_cpus else "")


def _places(present: float, share: float) -> int:
    """Workers of `share` GPUs each that find a place. A share is of one GPU: what is left of each
    GPU is of no use."""
    if share >= 1:
        return math.floor(present / share)
    whole, rest = divmod(present, 1)
    return math.floor(whole) * math.floor(1 / share + 1e-9) + math.floor(rest / share + 1e-9)


def _share(present: float, workers: int) -> float:
    """The most GPUs a worker that so many workers can have: whole ones, or a share of one."""
    if present >= workers:
        return math.floor(present / workers)
    shares = (hundredths / 100 for hundredths in range(99, 0, -1))
    return next((share for share in shares if _places(present, share) >= workers), 0)


def _nearest(capacity: Capacity, resources: Resources, data_cpus: float) -> str:
    for_data = math.floor(capacity.cpus - resources.workers * resources.cpus)
    if 1 <= for_data < data_cpus:
        return f"; at most resources.data_cpus={for_data} fits"
    left = capacity.cpus - data_cpus
    if left >= resources.workers:
        return f"; at most resources.cpus={math.floor(left / resources.workers):g} fits"
    if left >= 1:
        return f"; at most resources.workers={math.floor(left):g} with resources.cpus=1 fits"
    return "; dataset.feed=resident needs no CPUs for decoding"
