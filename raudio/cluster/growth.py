"""What an autoscaler may add: its node groups, read from the configuration that it works by.

Open-source Ray does not tell its nodes of them: `get_cluster_config()` is empty under both versions
of its autoscaler (2.60), and filled by others. So they are read where the autoscaler has them from:
the file that `ray up` or `ray start --autoscaling-config` gave it on the head, or KubeRay's object.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from raudio.data.raydata import DATA_NODES

#: What a node's kind is by: that of the head has it.
HEAD = "node:__internal_head__"
#: The label with the name of a node's group, where its provider sets it.
_GROUP = "ray.io/node-group"
#: Nodes of a group that has no largest number.
_ENDLESS = 1000
#: Seconds that the head has to answer.
_PATIENCE = 60.0
#: Where Kubernetes says which namespace a pod is in.
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Group:
    """Nodes that are alike.

    Attributes:
        name: of the group.
        resources: of each node, as Ray calls them ("CPU", "GPU", "memory" in bytes, any other).
        labels: of each node.
        most: how many there may be.
    """

    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)
    most: int = 0

    def has(self, node: Mapping[str, Any]) -> bool:
        """Whether a node, as `ray.nodes()` gives it, is one of these."""
        labels, resources = node.get("Labels") or {}, node["Resources"]
        if _GROUP in labels:
            return bool(labels[_GROUP] == self.name)
        return self.labels.items() <= labels.items() and all(
            resources.get(name, 0) == self.resources.get(name, 0) for name in ("CPU", "GPU")
        )


@dataclass(frozen=True)
class Growth:
    """What the autoscaler may make of a cluster.

    Attributes:
        groups: of nodes; none without an autoscaler.
        most: nodes beside the head, of all groups; None: what the groups allow.
        note: what could not be found out, for the user; empty: nothing.
    """

    groups: tuple[Group, ...] = ()
    most: int | None = None
    note: str = ""

    def coming(self, nodes: Iterable[Mapping[str, Any]]) -> tuple[list[tuple[Group, int]], int]:
        """How many nodes of each group may come beside those that are there, and how many in all.

        Args:
            nodes: as `ray.nodes()` gives them, without those that are gone.
        """
        left = {group.name: group.most for group in self.groups}
        others = [node for node in nodes if HEAD not in node["Resources"]]
        for node in others:
            own = [each for each in self.groups if left[each.name] and each.has(node)]
            if own:
                left[own[0].name] -= 1
        each = [(group, left[group.name]) for group in self.groups if left[group.name]]
        total = sum(left.values())
        return each, total if self.most is None else min(total, max(0, self.most - len(others)))


#: Of a cluster without an autoscaler.
NONE = Growth()


def growth(nodes: Iterable[Mapping[str, Any]]) -> Growth:
    """What the autoscaler of the cluster may add; inside a Ray session.

    Args:
        nodes: as `ray.nodes()` gives them.
    """
    from ray._private import worker
    from ray._private.state import state
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    head = [node for node in nodes if node["Alive"] and HEAD in node["Resources"]]
    told = state.get_cluster_config()
    if told is not None and told.node_group_configs:
        return _from_proto(told, head)
    if not head:
        return NONE
    found = _asked(head[0])
    gcs = worker.global_worker.gcs_client
    v2 = is_autoscaler_v2(fetch_from_server=True, gcs_client=gcs)
    return found if v2 else without_labelled(found)


def _asked(head: Mapping[str, Any]) -> Growth:
    """`of_head`, wherever this process is."""
    import ray

    gcs = ray.get_runtime_context().gcs_address
    if ray.get_runtime_context().get_node_id() == head["NodeID"]:
        return of_head(gcs)
    asking = ray.remote(num_cpus=0, resources={HEAD: 0.001})(of_head).remote(gcs)
    try:
        return ray.get(asking, timeout=_PATIENCE)  # type: ignore[no-any-return]
    except ray.exceptions.RayError as error:
        ray.cancel(asking, force=True)
        return Growth(note=_unknown(f"the head does not answer: {error}"))


def of_head(gcs: str) -> Growth:
    """The same, on the head.

    Args:
        gcs: address of the cluster: several may run on one machine.
    """
    try:
        config = _file_of_monitor(gcs) or _object_of_kuberay()
    except Exception as error:  # of a file, a server, or what is in them
        return Growth(note=_unknown(f"{type(error).__name__}: {error}"))
    return NONE if config is None else from_config(config)


def without_labelled(found: Growth) -> Growth:
    """Without the nodes that decode: the first version of Ray's autoscaler knows no labels, takes
    other nodes to be as good for what asks for them, and adds none.

    Those that are there are used.
    """
    others = tuple(
        group for group in found.groups if not DATA_NODES.items() <= group.labels.items()
    )
    if len(others) == len(found.groups):
        return found
    note = (
        "version 1 of Ray's autoscaler adds no nodes for their label: those with raudio/role=data "
        "are used if they are there at the start (version 2: RAY_enable_autoscaler_v2=1 on the "
        "head; on Kubernetes autoscalerOptions.version: v2)"
    )
    return replace(found, groups=others, note=note)


def _unknown(why: str) -> str:
    return (
        f"the autoscaler's node groups could not be read ({why.splitlines()[0]}): the search uses "
        "the nodes that are there, and those that come"
    )


def from_config(config: Mapping[str, Any]) -> Growth:
    """Of an autoscaler's configuration: a cluster file of `ray up`, filled in by Ray."""
    most, head = config.get("max_workers"), config.get("head_node_type")
    groups = []
    for name, kind in config["available_node_types"].items():
        fallback = 0 if name == head else (most or 0)
        limit = kind.get("max_workers", fallback)
        if limit > 0:
            groups.append(Group(name, kind.get("resources") or {}, kind.get("labels") or {}, limit))
    return Growth(tuple(groups), most) if groups else NONE


def _from_proto(config: Any, head: Sequence[Mapping[str, Any]]) -> Growth:
    """Of Ray's `ClusterConfig`, which knows no labels, and counts the head as a group of one."""
    groups = [
        Group(
            each.name,
            dict(each.resources),
            most=_ENDLESS if each.max_count == -1 else each.max_count,
        )
        for each in config.node_group_configs
        if each.max_count and each.resources
    ]
    others = [each for each in groups if each.most != 1 or not any(map(each.has, head))]
    return Growth(tuple(others))


def _file_of_monitor(gcs: str) -> dict[str, Any] | None:
    """The file that the autoscaler process of this cluster was started with."""
    import psutil  # type: ignore[import-untyped]  # Ray brings it

    option = "--autoscaling-config="
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        given = [part.removeprefix(option) for part in command if part.startswith(option)]
        if given and f"--gcs-address={gcs}" in command:
            path = Path(process.cwd(), Path(given[0]).expanduser())
            return yaml.safe_load(path.read_text())  # type: ignore[no-any-return]
    return None


def _object_of_kuberay() -> dict[str, Any] | None:
    """What KubeRay's autoscaler, in another container of the head's pod, makes of the cluster."""
    name = os.environ.get("RAY_CLUSTER_NAME")
    if name is None or "KUBERNETES_SERVICE_HOST" not in os.environ or not _NAMESPACE.exists():
        return None
    from ray.autoscaler._private.kuberay import autoscaling_config, node_provider
    from requests import HTTPError

    client = node_provider.KubernetesHttpApiClient(namespace=_NAMESPACE.read_text().strip())
    try:
        found = client.get(f"rayclusters/{name}")
    except HTTPError as error:
        if (
            error.response is not None and error.response.status_code == 403
        ):  # KubeRay allows it where there is an autoscaler
            return None
        raise
    if not found["spec"].get("enableInTreeAutoscaling"):
        return None
    derive = autoscaling_config._derive_autoscaling_config_from_ray_cr
    return derive(found)  # type: ignore[no-any-return]
