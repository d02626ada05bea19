"""What a trial needs, how many such trials the nodes have room for, and what to change where none.

A worker runs on one node. The workers of a trial, its driver and the tasks that decode for it may
be on several, as Ray places them ("PACK"). Where nodes are labelled as those that decode, they do
nothing else, and no other decodes; where some are said to be safe, drivers are on these.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raudio.cluster.capacity import Capacity, Node
from raudio.config.axes import text
from raudio.config.schema import Resources
from raudio.core.units import format_bytes, parse_bytes

#: Bytes of a training process: 0.3 GB are torch, Ray and Arrow (measured), the rest is for a batch
#: and a small model's activations. `resources.memory` is for those that need more.
PROCESS_MEMORY = 5 * 10**8
#: Bytes of the processes that decode for a streamed trial, for each of its CPUs (measured).
DECODER_MEMORY = 2 * 10**8
#: Bytes of the driver of a trial with several workers, whose CPUs are its workers'.
DRIVER_MEMORY = 256 << 20

#: Against sums of fractions that are not quite whole: 3 * 0.1 > 0.3.
_TINY = 1e-9


# --- what a trial needs ------------------------------------------------------------------------


@dataclass(frozen=True)
class Need:
    """What one trial needs.

    Attributes:
        workers: processes, each on one node.
        driver: whether another process waits for them.
        cpus, gpus, memory: of each.
        decoders: tasks that decode, each on any node.
        decoder_cpus: of each.
    """

    workers: int
    driver: bool
    cpus: float
    gpus: float
    memory: int
    decoders: int
    decoder_cpus: float

    @property
    def all_cpus(self) -> float:
        """Of a trial."""
        return self.workers * self.cpus + self.decoders * self.decoder_cpus

    @property
    def text(self) -> str:
        """`2 CPUs, 1 GPU and 500.0 MB`."""
        gpus = f", {several(self.workers * self.gpus, 'GPU')}" if self.gpus else ""
        memory = format_bytes(self.workers * self.memory)
        return f"{several(self.all_cpus, 'CPU')}{gpus} and {memory}"


def need_of(resources: Resources, feed: str, held: int, workers: int | None = None) -> Need:
    """What a trial with `resources` (whose GPUs are decided) needs; arguments as `plan`.

    With so many `workers`; None: with the fewest. Each has the memory that it has among the fewest.
    """
    assert resources.gpus is not None
    fewest = resources.min_workers
    workers = workers or fewest
    # Each worker reads a stream of its own, whose tasks take a CPU, or all of them if less.
    streamed = feed == "streamed"
    task = min(1.0, resources.data_cpus / workers)
    if resources.memory is not None:
        memory = parse_bytes(resources.memory, "resources.memory")
    else:
        memory = PROCESS_MEMORY
        if streamed:
            memory += math.ceil((held + DECODER_MEMORY * resources.data_cpus) / fewest)
    return Need(
        workers=workers,
        driver=resources.distributed,
        cpus=resources.cpus,
        gpus=resources.gpus,
        memory=memory,
        decoders=_times(task, resources.data_cpus) if streamed else 0,
        decoder_cpus=task,
    )


# --- what fits ---------------------------------------------------------------------------------


def grown(capacity: Capacity, need: Need) -> tuple[Node, ...]:
    """The nodes of a cluster that has grown as far as its autoscaler lets it.

    Where groups may not all come whole, those do that have most places for workers; those that
    decode have their share.
    """
    coming = sorted(capacity.coming, key=lambda node: (not node.data, -_places(node, need)))
    room, total = capacity.room, sum(node.count for node in coming)
    found: Counter[Node] = Counter()
    for node in capacity.nodes:
        found[replace(node, count=1)] += node.count
    for node in coming:
        most = math.ceil(capacity.room * node.count / total) if node.data else room
        count = min(node.count, most, room)
        found[replace(node, count=1)] += count
        room -= count
    return tuple(replace(node, count=count) for node, count in found.items() if count)


def trials_on(nodes: Sequence[Node], need: Need, whole: Sequence[Node] | None = None) -> int:
    """Trials that fit at once.

    Args:
        nodes: that they are to fit on.
        need: of each.
        whole: the grown cluster, whose nodes decide what runs on nodes of its own; None: `nodes`.
    """
    each = [node for node in nodes for _ in range(node.count)]
    places = [_places(node, need) for node in each]
    most = sum(places) // need.workers
    all_of_them = whole or nodes
    apart, safe = any(node.data for node in all_of_them), any(node.safe for node in all_of_them)

    def too_many(trials: int) -> bool:
        return not _leaves_enough(each, places, need, trials, apart=apart, safe=safe)

    # What fits with more trials fits with fewer, so the first that does not is searched for.
    return bisect_right(range(1, most + 1), 0, key=too_many)


def workers_for(
    nodes: Sequence[Node], resources: Resources, feed: str, held: int, trials: int
) -> int:
    """The most workers with which so many trials fit at once, arguments as `plan`; as many fit with
    the fewest."""
    counts = range(resources.max_workers, resources.min_workers, -1)
    grown = (need_of(resources, feed, held, workers) for workers in counts)
    fitting = (need.workers for need in grown if trials_on(nodes, need) >= trials)
    return next(fitting, resources.min_workers)


def _places(node: Node, need: Need) -> int:
    """Workers that one node has room for."""
    if node.data:
        return 0
    places = [_times(need.cpus, node.cpus)]
    if node.memory is not None and need.memory:
        places.append(node.memory // need.memory)
    if need.gpus >= 1:
        places.append(_times(need.gpus, node.gpus))
    elif need.gpus:  # a share is of one GPU: what is left of each is of no use
        whole, rest = divmod(node.gpus, 1)
        places.append(round(whole) * _times(need.gpus, 1) + _times(need.gpus, rest))
    return min(places)


def _leaves_enough(
    nodes: Sequence[Node],
    places: Sequence[int],
    need: Need,
    trials: int,
    *,
    apart: bool,
    safe: bool,
) -> bool:
    """Whether so many trials' workers leave room for their decoders and drivers, which may want
    nodes of their own."""
    workers = trials * need.workers
    decoders = drivers = 0
    for node, room in zip(nodes, places, strict=True):
        here = min(room, workers)
        workers -= here
        if need.decoders and node.data == apart:
            decoders += _times(need.decoder_cpus, node.cpus - here * need.cpus)
        if node.safe != safe:
            continue
        if node.memory is None:
            drivers = trials
        else:
            drivers += (node.memory - here * need.memory) // DRIVER_MEMORY
    return decoders >= trials * need.decoders and (not need.driver or drivers >= trials)


def _times(part: float, whole: float) -> int:
    return math.floor(whole / part + _TINY)


# --- what does not -----------------------------------------------------------------------------


def nodes_text(capacity: Capacity) -> str:
    """`this machine (4 CPUs)`, `the cluster at HOST:PORT (2 x 8 CPUs, 4 x 16 CPUs and 1 GPU)`."""
    return f"{capacity.where} ({kinds_text(capacity)})"


def kinds_text(capacity: Capacity) -> str:
    """`2 x 8 CPUs, 4 x 16 CPUs and 1 GPU`; of nodes on which something can run."""
    kinds = []
    for node in capacity.nodes:
        if not node.cpus and not node.gpus:
            continue
        kind = f"{node.count} x " if capacity.several else ""
        kind += several(node.cpus, "CPU")
        if node.gpus:
            kind += f" and {several(node.gpus, 'GPU')}"
        if node.data:
            kind += " for decoding"
        elif node.memory is not None:
            kind += f" with {format_bytes(node.memory)} for trials"
        kinds.append(kind)
    return ", ".join(kinds) or "no CPUs"


def several(count: float, what: str) -> str:
    """`1 CPU`, `2.5 CPUs`."""
    return f"{count:g} {what}{'' if count == 1 else 's'}"


def refusal(capacity: Capacity, resources: Resources, feed: str, held: int) -> str:
    """Why not one trial fits, and the nearest setting with which one does."""
    need, where = need_of(resources, feed, held), capacity.where
    cpus = max((node.cpus for node in capacity.nodes), default=0)
    gpus = max((node.gpus for node in capacity.nodes), default=0)
    workers = f"resources.workers={text(resources.workers)}"
    asked = f"{workers} resources.cpus={need.cpus:g}"
    if need.decoders:
        asked += f" and resources.data_cpus={resources.data_cpus:g} (streamed)"
    on_one = "but a worker runs on one node, and the largest of"
    if need.gpus and not capacity.gpus and capacity.growth.groups:
        why = f"resources.gpus={need.gpus:g}, but {where} has no GPU, and no node group has one"
    elif need.workers * need.gpus > capacity.gpus:
        why = (
            f"{workers} resources.gpus={need.gpus:g} ask for "
            f"{several(need.workers * need.gpus, 'GPU')} a trial, but {where} has {capacity.gpus:g}"
        )
    elif need.all_cpus > capacity.cpus:
        cpus_asked = several(need.all_cpus, "CPU")
        why = f"{asked} ask for {cpus_asked} a trial, but {where} has {capacity.cpus:g}"
    elif need.gpus > gpus:
        why = f"resources.gpus={need.gpus:g}, {on_one} {where} has {gpus:g} GPUs"
    elif need.cpus > cpus:
        why = f"resources.cpus={need.cpus:g}, {on_one} {where} has {cpus:g} CPUs"
    else:
        why = f"{asked} ask for {need.text} a trial, for which {nodes_text(capacity)} has no room"
    return f"{why}; {_nearest(capacity, resources, feed, held)}"


def _nearest(capacity: Capacity, resources: Resources, feed: str, held: int) -> str:
    """The first change with which a trial fits, as advice."""
    for other in dict.fromkeys((feed, "resident")):
        for changes in _changes(resources, capacity):
            need = need_of(replace(resources, **changes), other, held)
            if trials_on(capacity.nodes, need):
                given = [
                    f"resources.{name}={text(value)}"
                    for name, value in changes.items()
                    if value != getattr(resources, name)
                ]
                if other != feed:
                    return " ".join(["dataset.feed=resident", *given]) + " fits"
                return f"at most {' '.join(given)} fits"
    return "it needs a larger node"


def _changes(resources: Resources, capacity: Capacity) -> Iterator[dict[str, Any]]:
    """Smaller demands: none, one setting from its largest value down, several, and the least."""
    assert resources.gpus is not None
    nodes = {node.memory or 0 for node in capacity.nodes}
    driver = DRIVER_MEMORY if resources.distributed else 0
    shares = {
        max(0, size - beside) // parts // 10**6
        for size in nodes
        for beside in (0, driver)
        for parts in range(1, resources.min_workers + 1)
    }
    memory = [{"memory": f"{share}MB"} for share in sorted(shares, reverse=True) if share]
    fixed = isinstance(resources.workers, int)
    workers = [
        {"workers": count if fixed else (count, resources.max_workers)}
        for count in _below(resources.min_workers)
    ]
    least = {
        "cpus": min(1, resources.cpus),
        "gpus": min(1, resources.gpus),
        "data_cpus": min(1, resources.data_cpus),
    }
    yield {}
    yield from memory if resources.memory is not None else []
    for name in ("data_cpus", "gpus", "cpus"):
        yield from ({name: value} for value in _below(getattr(resources, name)))
    yield from workers
    for fewer in ({}, *workers):
        for names in (["cpus"], ["gpus"], ["cpus", "data_cpus"], list(least)):
            yield {**fewer, **{name: least[name] for name in names}}
    yield {"gpus": 0}
    yield from memory
    for size in memory or [{}]:
        yield {"workers": 1, **least, **size}
        yield {"workers": 1, **least, **size, "gpus": 0}


def _below(value: float) -> range:
    """Whole numbers under `value`, down to 1."""
    return range(math.ceil(value) - 1, 0, -1)
