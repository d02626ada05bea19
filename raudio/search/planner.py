"""How trials fit on a machine or cluster: a pure function, and a refusal of what cannot run.

Without it Ray waits in silence for resources that never come: workers that take every CPU leave
none for the tasks that decode a streamed trial's audio, and a worker that asks for more CPUs than
any one node has waits for ever, however many there are in all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from raudio.cluster.capacity import Capacity
from raudio.config.axes import text
from raudio.config.schema import Resources, Search
from raudio.core.errors import ConfigError
from raudio.core.units import format_bytes
from raudio.search.packing import (
    DRIVER_MEMORY,
    PROCESS_MEMORY,
    grown,
    kinds_text,
    need_of,
    nodes_text,
    refusal,
    several,
    trials_on,
    workers_for,
)

#: Trials of a search that is told neither how many nor how long.
DEFAULT_TRIALS = 20


#: The metric that says which share of its GPU's memory a trial has needed at most.
GPU_SHARE = "cost/gpu_share"
#: What other trials may need, to what the largest so far has needed.
_GPU_MARGIN = 1.2
#: Ray counts GPUs in ten-thousandths.
_GPU_UNITS = 10_000
#: Most trials that share a GPU, and what the first one claims of the GPU that it is alone on: so
#: little that, beside it, one fewer than fit find room.
_GPU_TRIALS = 100
_GPU_CLAIM = 1 / _GPU_TRIALS


#: What several workers of a trial have of it, by `resources.parallel`.
_STRATEGIES = {
    "ddp": ("ddp", "resources.parallel: each has the whole model"),
    "fsdp": ("fsdp", "resources.parallel: each has a part of weights, gradients and optimizer"),
}


def trials_in_all(search: Search) -> int | None:
    """How many trials a search is to have; None: until its time is up."""
    if search.trials is not None:
        return search.trials
    others = (search.time_budget, search.epochs_budget, search.cost_budget, search.patience)
    return DEFAULT_TRIALS if all(budget is None for budget in others) else None


def _trials_at_most(search: Search, folds: int) -> int | None:
    """How many trials a search may have to run at once; None: any number.

    Its configurations with all their repeats, and later those that are confirmed with all their
    seeds.
    """
    configurations = trials_in_all(search)
    if configurations is None:
        return None
    confirmed = min(search.confirm, configurations) * search.confirm_seeds
    return max(configurations * search.repeat, confirmed) * folds


@dataclass(frozen=True)
class Row:
    """One line of a plan: what, how much of it, and why."""

    what: str
    amount: str
    why: str


@dataclass(frozen=True)
class Plan:
    """What runs where.

    Attributes:
        slots: trials at once, on the nodes that are there.
        most: trials at once when the autoscaler has added all that they have a use for.
        workers: training processes that are there for each trial.
        max_workers: that each trial may grow to.
        distributed: whether they are processes of their own, which the trial's waits for.
        cpus, gpus: of one worker.
        memory: bytes of one worker.
        data_cpus: that decode for one trial while it trains (0 for a resident feed).
        decoders: tasks that these are.
        data_nodes: whether these run on nodes of their own.
        safe_nodes: whether the process that waits for workers runs on a node that stays.
        rows: the decisions, each with its reason.
    """

    slots: int
    most: int
    workers: int
    max_workers: int
    distributed: bool
    cpus: float
    gpus: float
    memory: int
    data_cpus: float
    decoders: int
    data_nodes: bool
    safe_nodes: bool
    rows: tuple[Row, ...]


def plan(
    capacity: Capacity,
    resources: Resources,
    search: Search,
    feed: str,
    *,
    held: int = 0,
    folds: int = 1,
    gpu_share: float | None = None,
) -> Plan:
    """Fits a search on `capacity`.

    A worker runs on one node; the workers of a trial, its driver and the tasks that decode for it
    may be on several.

    Args:
        capacity: what there is, and may come.
        resources: what one trial asks for.
        search: `concurrency` limits the slots, and so does the number of all trials.
        feed: "resident" or "streamed"; a streamed trial needs CPUs for decoding beside its own.
        held: bytes of decoded clips that a streamed trial holds; a resident one maps those that
            all trials share.
        folds: that each configuration is trained on, one trial each.
        gpu_share: with `resources.share_gpus`, the largest share of a GPU's memory that a trial has
            needed; None: not measured, so that the first trial is alone.

    Raises:
        ConfigError: not even one trial fits on what there is and may come, or fewer than
            `search.concurrency`; with the nearest setting that does.
    """
    gpus = resources.gpus
    if gpus is None:
        gpus = 1.0 if any(node.gpus for node in (*capacity.nodes, *capacity.coming)) else 0.0
        why = "there are some" if gpus else f"{capacity.where} has none"
    else:
        why = "resources.gpus"
    _check_share(gpus, resources)
    resources = replace(resources, gpus=gpus)
    need = need_of(resources, feed, held)
    if silent := any(node.memory is None for node in capacity.coming):
        need = replace(need, memory=0)  # a group that names none never comes for who asks for some
    whole = replace(capacity, nodes=grown(capacity, need))
    fit = trials_on(whole.nodes, need)
    if not fit:
        raise ConfigError(refusal(whole, resources, feed, held))
    shared = resources.share_gpus and gpus > 0
    if shared:
        gpus, why = _shared(whole, resources, gpu_share)
        need = replace(need, gpus=gpus)
        fit = trials_on(whole.nodes, need)
    now = trials_on(capacity.nodes, need, whole.nodes) if capacity.coming else fit
    most, limit = fit, f"{_of(now, need.text)} on {nodes_text(capacity)}"
    if capacity.coming:
        limit += f", {fit} when it has grown to {kinds_text(whole)}"
    if search.concurrency is not None:
        if search.concurrency > fit:
            raise ConfigError(
                f"search.concurrency={search.concurrency}, but {several(fit, 'trial')} of "
                f"{need.text} fit{'s' if fit == 1 else ''} on {capacity.where}; give at most "
                f"{fit}, or leave it out"
            )
        most, limit = search.concurrency, f"search.concurrency; {limit}"
    trials = _trials_at_most(search, folds)
    if trials is not None and trials < most:
        each = "" if trials == trials_in_all(search) else " of several trials each"
        all_of_it = f"search.trials={trials_in_all(search)}{each} is all there is to run"
        most, limit = trials, f"{all_of_it}; {limit}"
    if shared and gpu_share is None:
        most, limit = 1, "resources.share_gpus: the first one shows how many fit on a GPU"
    slots = min(now, most)
    # Ray gives the first that asks for them as many as it may have, and the next what is left.
    workers = workers_for(whole.nodes, resources, feed, held, most)
    rows = [
        Row("trials at once", f"{slots}" if slots == most else f"{slots}, then {most}", limit),
        Row("workers a trial", *_workers_text(resources, most, workers)),
        *([Row("how they share it", *_STRATEGIES[resources.parallel])] if need.driver else []),
        Row("CPUs a worker", f"{need.cpus:g}", "resources.cpus, as many threads"),
        Row("GPUs a worker", f"{gpus:g}", why),
        Row("memory a worker", format_bytes(need.memory), _memory_text(resources, feed, silent)),
    ]
    apart = capacity.has_data_nodes
    if feed == "streamed":
        where = "resources.data_cpus" + (", on nodes of their own" if apart else "")
        rows.append(Row("CPUs for decoding", f"{resources.data_cpus:g} a trial", where))
    if need.driver:
        where = "it waits for its workers: no CPU"
        where += ", on a node that stays" if capacity.has_safe_nodes else ""
        rows.append(Row("a trial's driver", format_bytes(DRIVER_MEMORY), where))
    return Plan(
        slots=slots,
        most=most,
        workers=need.workers,
        max_workers=workers,
        distributed=need.driver,
        cpus=need.cpus,
        gpus=gpus,
        memory=need.memory,
        data_cpus=resources.data_cpus if feed == "streamed" else 0.0,
        decoders=need.decoders,
        data_nodes=apart,
        safe_nodes=capacity.has_safe_nodes,
        rows=tuple(rows),
    )


def _of(trials: int, each: str) -> str:
    return f"{trials} of {each} fit{'s' if trials == 1 else ''}"


def _workers_text(resources: Resources, slots: int, most: int) -> tuple[str, str]:
    """How many workers a trial has, and why."""
    if isinstance(resources.workers, int):
        return f"{most}", "resources.workers"
    least, why = resources.min_workers, f"resources.workers={text(resources.workers)}"
    if most < resources.max_workers:
        why += f", room for {most} with {slots} at once"
    return f"{least} to {most}" if least < most else f"{least}", why


def _check_share(gpus: float, resources: Resources) -> None:
    if gpus > 1 and gpus % 1:
        raise ConfigError(
            f"resources.gpus={gpus:g}: a share of several GPUs cannot be given; "
            f"take {math.floor(gpus)} or {math.ceil(gpus)}"
        )
    if 0 < gpus < 1 and resources.distributed:
        raise ConfigError(
            f"resources.gpus={gpus:g} with resources.workers={text(resources.workers)}: NCCL wants "
            "a GPU for each worker; take resources.gpus=1, or resources.workers=1"
        )


def _shared(capacity: Capacity, resources: Resources, gpu_share: float | None) -> tuple[float, str]:
    """The part of a GPU that a trial gets where several share one, and why."""
    if resources.gpus != 1 or resources.distributed:
        raise ConfigError(
            f"resources.share_gpus=true with resources.gpus={resources.gpus:g} "
            f"resources.workers={text(resources.workers)}: the GPU of a trial of one worker is "
            "shared by what it needs; leave resources.gpus and resources.workers out"
        )
    kinds = {str(node.accelerator) for node in capacity.nodes if node.gpus}
    if len(kinds) > 1:
        raise ConfigError(
            f"resources.share_gpus=true: {capacity.where} has GPUs of several kinds "
            f"({', '.join(sorted(kinds))}), and what fits on one may not on another; give "
            "resources.gpus, the share that fits on all, instead"
        )
    if gpu_share is None:
        return _GPU_CLAIM, "resources.share_gpus: not measured yet"
    trials = min(_GPU_TRIALS, max(1, math.floor(1 / (_GPU_MARGIN * gpu_share))))
    share = math.floor(_GPU_UNITS / trials) / _GPU_UNITS
    return share, f"a trial has needed {gpu_share:.0%} of one; with a margin, {trials} fit"


def _memory_text(resources: Resources, feed: str, silent: bool) -> str:
    if silent:
        return "not asked for: a node group of the autoscaler does not say what its nodes have"
    if resources.memory is not None:
        return "resources.memory"
    parts = f"{format_bytes(PROCESS_MEMORY)} for the process"
    if feed == "streamed":
        parts += ", the rest for what it has decoded ahead and its decoders"
    return f"estimated: {parts}; more: resources.memory"
