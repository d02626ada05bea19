"""Whether a cluster has what an experiment needs: what is wrong with the answers of its nodes, and
how to mend it. (`survey` asks the nodes.)"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raudio.cluster.capacity import SAFE
from raudio.cluster.growth import NONE, Growth
from raudio.cluster.packages import COMPARED
from raudio.core.secrets import redact
from raudio.core.storage import is_remote
from raudio.core.units import Seconds, format_bytes

#: How a finding ends: nothing to do, worth knowing, or it must be mended.
OK, HINT, WRONG = "ok", "hint", "wrong"

#: What must be the same everywhere, besides Python.
PACKAGES = ("raudio", *COMPARED)

#: The deadline of a spot machine is a time of day: a clock may be so far off.
MOST_SKEW: Seconds = 1.0
#: Least bytes that are free: of shared memory, for decoded audio, and in the cache.
LEAST_SHARED = LEAST_CACHE = 10**9

#: Names of nodes that a sentence lists.
_MANY = 4

#: What was asked of a node, or why there is no answer.
Answer = tuple[Any, str | None]


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        check: what was looked at.
        state: `OK`, `HINT` or `WRONG`.
        found: in a few words, with the nodes that it is about.
        cure: what to do; empty when nothing.
    """

    check: str
    state: str
    found: str
    cure: str = ""


@dataclass(frozen=True)
class Wanted:
    """What the experiment needs.

    Attributes:
        files: of its dataset, and how each begins.
        private: what it reads that only the driver's machine has, and has to be put elsewhere.
        run: its folder or URI.
        gpus: of each worker of a trial.
        workers: of a trial, at most.
    """

    files: Sequence[tuple[str, bytes]] = ()
    private: str | None = None
    run: str = "runs/check"
    gpus: float = 0
    workers: int = 1


@dataclass
class Node:
    """A node and what it has answered.

    Attributes:
        id, name: as Ray calls it, and as messages do.
        address: its IP address.
        resources, labels: that it offers.
        error: why it answers nothing at all.
        facts: as `Probe.facts`.
        skew: seconds that its clock is ahead of the driver's; None: not known.
        read, written, seen: as the probe answers; None: not asked.
        gpus: how many PyTorch sees.
    """

    id: str
    name: str
    address: str = "127.0.0.1"
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    skew: Seconds | None = None
    read: Answer | None = None
    written: Answer | None = None
    seen: Answer | None = None
    gpus: Answer | None = None


@dataclass(frozen=True)
class Survey:
    """What a cluster has answered.

    Attributes:
        nodes: those that are there.
        driver: `Probe.facts` of where this runs.
        growth: what the autoscaler may add.
        draining: names of nodes that are about to go, which were not asked.
        token: whether Ray asks for a token.
    """

    nodes: Sequence[Node]
    driver: Mapping[str, Any]
    growth: Growth = NONE
    draining: Sequence[str] = ()
    token: bool = True


def judge(survey: Survey, wanted: Wanted) -> list[Finding]:
    """All that was looked at, in the order of the table."""
    answering = [node for node in survey.nodes if node.error is None]
    found = [
        _nodes(survey),
        *_growth(survey),
        _versions(answering, survey.driver),
        _clocks(answering),
        _free(
            answering,
            "cache",
            "cache_free_bytes",
            LEAST_CACHE,
            "free the disk, or set RAUDIO_CACHE",
        ),
        _free(
            answering,
            "shared memory",
            "shared_memory_bytes",
            LEAST_SHARED,
            "give /dev/shm more (docker run --shm-size=4g; a pod: an emptyDir of medium Memory)",
        ),
        _data(answering, wanted),
        *_storage(answering, wanted),
        _gpus(answering, survey, wanted),
        _safety(survey, wanted),
        _token(survey),
    ]
    return [finding for finding in found if finding is not None]


def _nodes(survey: Survey) -> Finding:
    silent = [f"{node.name} ({node.error})" for node in survey.nodes if node.error is not None]
    if silent:
        return Finding(
            "nodes",
            WRONG,
            f"no answer from {_listed(silent)}",
            "look at the node's log of Ray (raylet.err), or take it out of the cluster",
        )
    if not survey.nodes:
        return Finding(
            "nodes", WRONG, "there is none", "start a node: ray start --address=HEAD:6379"
        )
    count = len(survey.nodes)
    cpus = sum(node.resources.get("CPU", 0) for node in survey.nodes)
    gpus = sum(node.resources.get("GPU", 0) for node in survey.nodes)
    store = sum(node.resources.get("object_store_memory", 0) for node in survey.nodes)
    text = f"{count} node{'s' * (count != 1)}: {cpus:g} CPUs, {gpus:g} GPUs, "
    text += f"{format_bytes(store)} of object store"
    if survey.draining:
        text += f"; {_listed(survey.draining)} will go, and was not asked"
    return Finding("nodes", OK, text)


def _growth(survey: Survey) -> Iterable[Finding]:
    groups = [f"{group.name} (up to {group.most})" for group in survey.growth.groups]
    if survey.growth.note:
        cure = "look at the autoscaler's log on the head (monitor.log)"
        yield Finding("growth", HINT, redact(survey.growth.note), cure)
    elif groups:
        text = f"nodes that are not there yet cannot be checked: {_listed(groups)}"
        yield Finding("growth", HINT, text, "check again when they are")


def _versions(nodes: Sequence[Node], driver: Mapping[str, Any]) -> Finding:
    here = driver["versions"]
    differing = {
        node.name: [name for name in here if node.facts["versions"].get(name) != here[name]]
        for node in nodes
        if node.facts["versions"] != here
    }
    if not differing:
        shown = ", ".join(f"{name} {version}" for name, version in list(here.items())[:_MANY])
        return Finding("versions", OK, f"those of the driver: {shown}, ...")
    found = [
        f"{node.name}: "
        + ", ".join(
            f"{name} {node.facts['versions'].get(name, 'none')} instead of {here[name]}"
            for name in differing[node.name]
        )
        for node in nodes
        if node.name in differing
    ]
    wrong = [name for name in here if any(name in names for names in differing.values())]
    pins = " ".join(f"{name}=={here[name]}" for name in wrong if name != "python")
    cure = f"on these nodes: pip install {pins}" if pins else "the driver's Python on these nodes"
    return Finding("versions", WRONG, _listed(found, "; "), cure)


def _clocks(nodes: Sequence[Node]) -> Finding:
    wrong = [
        f"{node.name} ({node.skew:+.1f} s)"
        for node in nodes
        if node.skew is not None and abs(node.skew) > MOST_SKEW
    ]
    if wrong:
        return Finding(
            "clocks",
            WRONG,
            f"not the driver's time: {_listed(wrong)}",
            "run chrony there: until when a spot machine lives is a time of day",
        )
    most = max((abs(node.skew) for node in nodes if node.skew is not None), default=0.0)
    return Finding("clocks", OK, f"within {max(most, 0.01):.2f} s of the driver's")


def _free(nodes: Sequence[Node], check: str, fact: str, least: int, cure: str) -> Finding:
    known = [(node.facts[fact], node.name) for node in nodes if node.facts.get(fact) is not None]
    unknown = [node.name for node in nodes if node.facts.get(fact) is None]
    little = [f"{name} ({format_bytes(free)})" for free, name in known if free < least]
    if little:
        return Finding(
            check, WRONG, f"less than {format_bytes(least)} free: {_listed(little)}", cure
        )
    if unknown:
        return Finding(check, HINT, f"could not be measured: {_listed(unknown)}", cure)
    free = min(known, default=(0, ""))[0]
    return Finding(check, OK, f"at least {format_bytes(free)} free")


def _data(nodes: Sequence[Node], wanted: Wanted) -> Finding:
    if wanted.private is not None and len(nodes) > 1:
        return Finding(
            "data",
            HINT,
            f"{wanted.private} is prepared on this machine, and other nodes may not reach it",
            "prepare it in a store or on a shared disk: raudio data prepare SOURCE --out s3://...",
        )
    if not wanted.files:
        return Finding("data", OK, f"{wanted.private or 'none'}, on this machine")
    failing = _failing(nodes, lambda node: node.read)
    if failing:
        cure = (
            "give these nodes a role or the keys of the store, and its endpoint"
            if is_remote(wanted.files[0][0])
            else "put the dataset in a store or on a disk that all nodes share"
        )
        return Finding("data", WRONG, f"cannot be read: {_listed(failing)}", cure)
    return Finding("data", OK, f"{wanted.files[0][0]} and a shard are read from every node")


def _storage(nodes: Sequence[Node], wanted: Wanted) -> Iterable[Finding]:
    failing = _failing(nodes, lambda node: node.written) or _failing(nodes, lambda node: node.seen)
    if failing:
        yield Finding(
            "run",
            WRONG,
            f"beside {wanted.run} these cannot write and read: {_listed(failing)}",
            "give these nodes the right to write there, or another run.dir",
        )
        return
    everything = {node.id: node.id for node in nodes}
    partly = [node.name for node in nodes if node.seen is not None and node.seen[0] != everything]
    if not partly:
        yield Finding("run", OK, f"beside {wanted.run} every node writes, and sees what all wrote")
    elif is_remote(wanted.run):
        yield Finding(
            "run",
            WRONG,
            f"what was just written beside {wanted.run} is not listed for {_listed(partly)}",
            "take a store whose listings are consistent, as S3's, GCS's and Azure's are",
        )
    else:
        yield Finding(
            "run",
            WRONG,
            f"{wanted.run} is not one disk for all nodes: {_listed(partly)} see only some files",
            "give a run.dir in a store (s3://...) or on a disk that all nodes share",
        )


def _gpus(nodes: Sequence[Node], survey: Survey, wanted: Wanted) -> Finding | None:
    with_gpus = [node for node in nodes if node.resources.get("GPU")]
    late = [node.name for node in with_gpus if node.gpus is None]
    failing = _failing(with_gpus, lambda node: node.gpus)
    blind = [node.name for node in with_gpus if node.gpus is not None and node.gpus[0] == 0]
    if failing or blind:
        return Finding(
            "GPUs",
            WRONG,
            f"PyTorch sees none on {_listed([*failing, *blind])}",
            "there: NVIDIA's driver, and a torch built for CUDA; in a container: --gpus all",
        )
    if late:
        return Finding(
            "GPUs", HINT, f"all in use, not checked: {_listed(late)}", "check again later"
        )
    if with_gpus:
        return Finding("GPUs", OK, f"PyTorch sees them on {len(with_gpus)} of {len(nodes)} nodes")
    if not wanted.gpus:
        return Finding("GPUs", OK, "none, and none is asked for")
    if any(group.resources.get("GPU") for group in survey.growth.groups):
        return Finding("GPUs", HINT, "none yet; the autoscaler can add nodes with some")
    return Finding(
        "GPUs",
        WRONG,
        f"resources.gpus={wanted.gpus:g}, and no node has one",
        "add nodes with GPUs, or set resources.gpus=0",
    )


def _safety(survey: Survey, wanted: Wanted) -> Finding | None:
    """What steers trials of several workers belongs on nodes that stay."""
    spot = [node for node in survey.nodes if node.labels.get("ray.io/market-type") == "spot"]
    offered = [each.resources for each in survey.nodes]
    offered += [group.resources for group in survey.growth.groups]
    safe = any(resources.get(SAFE) for resources in offered)
    if wanted.workers <= 1 or safe or len(survey.nodes) <= 1:
        return None
    return Finding(
        "safe nodes",
        HINT,
        "no node offers the resource `safe`: what steers a trial may be on a node that goes"
        + (f" ({_listed([node.name for node in spot])})" if spot else ""),
        "start nodes that stay with: ray start ... --resources='{\"safe\": 100}'",
    )


def _token(survey: Survey) -> Finding:
    if survey.token:
        return Finding("token", OK, "Ray asks for one")
    if all(_is_loopback(node.address) for node in survey.nodes):
        return Finding("token", OK, "none, and only this machine reaches the cluster")
    return Finding(
        "token",
        HINT,
        "everybody who reaches a port of this cluster can run code on it",
        "ray get-auth-token --generate, and RAY_AUTH_MODE=token for all that starts and uses Ray",
    )


def _failing(nodes: Sequence[Node], answer: Callable[[Node], Answer | None]) -> list[str]:
    answers = [(node.name, answer(node)) for node in nodes]
    return [f"{name} ({given[1]})" for name, given in answers if given and given[1] is not None]


def _listed(items: Sequence[str], separator: str = ", ") -> str:
    shown = separator.join(redact(item) for item in items[:_MANY])
    return shown if len(items) <= _MANY else f"{shown} and {len(items) - _MANY} more"


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
