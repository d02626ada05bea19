"""What a machine or a cluster offers, node by node: what the planner fits trials on."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from raudio.cluster.growth import NONE, Growth
from raudio.config.schema import Cluster
from raudio.core import machine
from raudio.core.errors import ConfigError
from raudio.data.raydata import DATA_NODES

#: Ray's defaults: the share of the memory that an object store takes, and its most bytes.
_STORE_SHARE = 0.3
_LARGEST_STORE = 200 * 10**9

#: Bytes of this machine's memory for the driver and for Ray's own processes (measured: 0.9 GB).
_OTHERS = 10**9

#: How Ray marks a node's kind of GPU among its resources ("accelerator_type:H200").
_ACCELERATOR = "accelerator_type:"

#: The custom resource of nodes that are not taken away: what must outlive others goes there.
SAFE = "safe"


@dataclass(frozen=True)
class Node:
    """A machine, or several that are alike.

    Attributes:
        cpus, gpus: of each.
        memory: bytes for the processes of trials on each; None: not known, no limit.
        store: bytes that the object store of each holds; None: not known.
        accelerator: its kind of GPU, as Ray calls it ("H200"); None: not known.
        data: whether it is labelled as one that decodes, and trains nothing.
        safe: whether it is said not to be taken away.
        count: how many there are.
    """

    cpus: float
    gpus: float = 0
    memory: int | None = None
    store: int | None = None
    accelerator: str | None = None
    data: bool = False
    safe: bool = False
    count: int = 1


@dataclass(frozen=True)
class Capacity:
    """What there is, and what an autoscaler may add.

    Attributes:
        nodes: of each kind.
        where: how messages call it ("this machine", "the cluster at HOST:PORT").
        coming: nodes that may come, of each kind.
        room: how many of these may come in all.
        growth: what `coming` and `room` follow from.
    """

    nodes: tuple[Node, ...]
    where: str = "this machine"
    coming: tuple[Node, ...] = ()
    room: int = 0
    growth: Growth = NONE

    @property
    def cpus(self) -> float:
        """CPUs in all."""
        return sum(node.count * node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs in all."""
        return sum(node.count * node.gpus for node in self.nodes)

    @property
    def several(self) -> bool:
        """Whether there is more than one machine."""
        return sum(node.count for node in self.nodes) > 1

    @property
    def has_data_nodes(self) -> bool:
        """Whether nodes that are there, or may come, are labelled as those that decode."""
        return any(node.data for node in (*self.nodes, *self.coming))

    @property
    def has_safe_nodes(self) -> bool:
        """Whether nodes that are there, or may come, are said not to be taken away."""
        return any(node.safe for node in (*self.nodes, *self.coming))

    @property
    def store(self) -> int | None:
        """Bytes that the object store of every node holds; None: not known."""
        return min((node.store for node in self.nodes if node.store), default=None)


def local_capacity(settings: Cluster) -> Capacity:
    """What the local cluster will have, known without starting it.

    Raises:
        ConfigError: `cluster.cpus` is more than this machine has.
    """
    present = machine.cpus()
    if settings.cpus is not None and settings.cpus > present:
        raise ConfigError(
            f"cluster.cpus={settings.cpus}: this machine has {present} CPUs; "
            f"give at most {present}, or leave it out"
        )
    node = Node(settings.cpus or present, _local_gpus())
    total = machine.memory_bytes()
    if total is not None:
        store = min(round(_STORE_SHARE * total), _LARGEST_STORE)
        node = replace(node, store=store, memory=max(0, total - store - _OTHERS))
    return Capacity((node,))


def cluster_capacity(
    nodes: Iterable[Mapping[str, Any]],
    where: str,
    growth: Growth = NONE,
    draining: Container[str] = (),
) -> Capacity:
    """What a running cluster has.

    Args:
        nodes: as `ray.nodes()` gives them; those that are gone count nothing.
        where: as in `Capacity`.
        growth: what its autoscaler may add.
        draining: ids of nodes that are being taken away: they count nothing either.
    """
    present = [node for node in nodes if node["Alive"] and node["NodeID"] not in draining]
    found = Counter(_node(node["Resources"], node.get("Labels") or {}) for node in present)
    groups, room = growth.coming(present)
    groups = groups if room else []
    return Capacity(
        tuple(replace(node, count=count) for node, count in found.items()),
        where,
        tuple(replace(_node(each.resources, each.labels), count=count) for each, count in groups),
        room,
        growth,
    )


def _node(resources: Mapping[str, float], labels: Mapping[str, str]) -> Node:
    kinds = (name.removeprefix(_ACCELERATOR) for name in resources if name.startswith(_ACCELERATOR))
    return Node(
        cpus=resources.get("CPU", 0),
        gpus=resources.get("GPU", 0),
        memory=_rounded(resources.get("memory")),
        store=_rounded(resources.get("object_store_memory")),
        accelerator=next(kinds, None),
        data=DATA_NODES.items() <= labels.items(),
        safe=SAFE in resources,
    )


def _rounded(count: float | None) -> int | None:
    """Bytes to a tenth of a gigabyte, or machines of one kind would all differ a little."""
    return None if count is None else int(count) // 10**8 * 10**8


def _local_gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    return len(machine.gpus())
