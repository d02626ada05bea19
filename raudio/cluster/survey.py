"""Asking every node of a cluster what it has and can reach; `check` says what is wrong with it."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from raudio.cluster import probe
from raudio.cluster.check import PACKAGES, Node, Survey, Wanted
from raudio.cluster.growth import Growth
from raudio.core import storage
from raudio.core.units import Seconds

#: The smallest share of a GPU: it fits beside trials on one that is not full.
_GPU_SHARE = 0.001

#: Asks one node something: its answer comes later.
_Ask = Callable[[Node, Any], Any]


def survey(wanted: Wanted, growth: Growth, timeout: Seconds) -> Survey:
    """What the nodes answer of the cluster that this process is connected to.

    Args:
        growth: that the session's capacity came with.
        timeout: for each of the steps; a node that takes longer has not answered.
    """
    import ray
    from ray import cloudpickle
    from ray._private.authentication.authentication_utils import is_token_auth_enabled
    from ray._private.state import state

    alive = [node for node in ray.nodes() if node["Alive"]]
    names, draining = _names(alive), state.get_draining_nodes()
    nodes = [
        Node(
            node["NodeID"],
            names[node["NodeID"]],
            node["NodeManagerAddress"],
            node["Resources"],
            node.get("Labels") or {},
        )
        for node in alive
        if node["NodeID"] not in draining
    ]
    cloudpickle.register_pickle_by_value(probe)  # a node may have no raudio, or another
    try:
        _ask(nodes, wanted, timeout)
    finally:
        cloudpickle.unregister_pickle_by_value(probe)
    return Survey(
        nodes=nodes,
        driver=probe.Probe(timeout).facts(PACKAGES),
        growth=growth,
        draining=[names[node] for node in draining if node in names],
        token=is_token_auth_enabled(),
    )


def _names(nodes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The nodes' addresses, with a part of the id where several have the same."""
    count = Counter(node["NodeManagerAddress"] for node in nodes)
    return {
        node["NodeID"]: node["NodeManagerAddress"]
        + (f"/{node['NodeID'][:6]}" if count[node["NodeManagerAddress"]] > 1 else "")
        for node in nodes
    }


def _ask(nodes: Sequence[Node], wanted: Wanted, timeout: Seconds) -> None:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def on(node: Node) -> dict[str, Any]:
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node.id, soft=False)}

    actor = ray.remote(num_cpus=0, max_restarts=0)(probe.Probe)
    probes = {node.id: actor.options(**on(node)).remote(timeout / 3) for node in nodes}

    def each(ask: _Ask) -> Iterator[tuple[Node, Any, str | None]]:
        asked = [(node, ask(node, probes[node.id])) for node in nodes if node.error is None]
        return _answers(asked, timeout)

    try:
        for node, answer, error in each(lambda _, one: one.facts.remote(PACKAGES)):
            node.facts, node.error = answer or {}, error
        for node in nodes:
            if node.error is None:
                node.skew = _skew(probes[node.id], timeout)
        if wanted.files:
            for node, answer, error in each(lambda _, one: one.read.remote(wanted.files)):
                node.read = answer or (None, error)
        _ask_storage(wanted.run, each)
        _ask_gpus(nodes, on, timeout)
    finally:
        for one in probes.values():
            ray.kill(one)


def _ask_storage(run: str, each: Callable[[_Ask], Iterator[tuple[Node, Any, str | None]]]) -> None:
    """Every node writes a file beside the run, and then looks for those of all."""
    base = storage.absolute(run).rstrip("/").rpartition("/")[0]
    folder = storage.join(base, f".raudio-check-{uuid.uuid4().hex[:12]}")
    made = False
    try:
        for node, answer, error in each(lambda node, one: one.write.remote(folder, node.id)):
            node.written = answer or (None, error)
            made = made or bool(node.written[0])
        for node, answer, error in each(lambda _, one: one.seen.remote(folder)):
            node.seen = answer or (None, error)
    finally:
        for _ in each(lambda _, one: one.remove.remote(folder, made)):
            pass


def _ask_gpus(
    nodes: Sequence[Node], on: Callable[[Node], dict[str, Any]], timeout: Seconds
) -> None:
    """Those whose GPUs are all in use are not asked for long, and stay without an answer."""
    import ray

    task = ray.remote(num_cpus=0, num_gpus=_GPU_SHARE, max_retries=0)(probe.gpus_seen)
    asked = [
        (node, task.options(**on(node)).remote())
        for node in nodes
        if node.error is None and node.resources.get("GPU")
    ]
    for node, answer, error in _answers(asked, timeout):
        node.gpus = answer if error is None else None if error == _late(timeout) else (None, error)


def _answers(
    asked: Sequence[tuple[Node, Any]], timeout: Seconds
) -> Iterator[tuple[Node, Any, str | None]]:
    """(node, answer, why there is none) of each."""
    import ray

    references = [reference for _, reference in asked]
    ready: list[Any] = []
    if references:
        ready, _ = ray.wait(references, num_returns=len(references), timeout=timeout)
    for node, reference in asked:
        if reference not in ready:
            yield node, None, _late(timeout)
            continue
        try:
            yield node, ray.get(reference), None
        except Exception as error:
            yield node, None, f"{type(error).__name__}: {error}".splitlines()[0]


def _late(timeout: Seconds) -> str:
    return f"no answer in {timeout:g} s"


def _skew(one: Any, timeout: Seconds) -> Seconds | None:
    """How far a node's clock is ahead: of the quickest of a few answers, by the middle of the time
    that it took."""
    import ray

    best: tuple[Seconds, Seconds] | None = None
    for _ in range(3):
        began = time.time()
        try:
            there = ray.get(one.clock.remote(), timeout=timeout)
        except Exception:
            return None
        took = time.time() - began
        if best is None or took < best[0]:
            best = (took, there - (began + took / 2))
    return None if best is None else best[1]
