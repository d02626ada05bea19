"""A Ray cluster of small machines on loopback, in a process of its own.

Every machine is a raylet with its agents and workers. It is killed, or frozen, with all of them:
what a spot machine that is taken away, or one that the network has lost, looks like to the others.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from campaign.served import Channel

#: On loopback, and not among the names that Ray takes for another address of this machine.
ADDRESS = "127.0.0.2"
#: What Ray says it was drained for.
_PREEMPTED = 2


class Machines:
    """The head and the machines beside it, by their names, each with a cache of its own.

    Args:
        head: arguments of `Cluster.add_node` for the head.
        node: for the others.
    """

    def __init__(self, head: dict[str, Any], node: dict[str, Any]) -> None:
        from ray.cluster_utils import Cluster

        common = {"node_ip_address": ADDRESS, "include_dashboard": False}
        self._node = {**common, **node}
        self._cluster = Cluster(initialize_head=True, head_node_args={**common, **head})
        self._nodes: dict[str, Any] = {}
        self._head = self._cluster.head_node

    def address(self) -> str:
        """HOST:PORT of its GCS."""
        return str(self._cluster.address)

    def add(self, name: str) -> str:
        """A new machine; its id in Ray."""
        own = {"RAUDIO_CACHE": os.path.join(os.environ["RAY_TMPDIR"], "caches", name)}
        node = self._nodes[name] = self._cluster.add_node(**self._node, env_vars=own)
        return str(node.node_id)

    def names(self) -> list[str]:
        """The machines beside the head."""
        return list(self._nodes)

    def processes(self, name: str) -> dict[int, str]:
        """All processes of a machine: id to command line."""
        node = self._head if name == "head" else self._nodes[name]
        roots = [each.process.pid for kind in node.all_processes.values() for each in kind]
        return _below(roots)

    def kill(self, name: str) -> None:
        """All of it at once, without a word to anybody."""
        for process in self.processes(name):
            _signal(process, signal.SIGKILL)
        self._forget(name)

    def freeze(self, name: str) -> None:
        """It stands still: its connections stay open, and nothing answers."""
        for process in self.processes(name):
            _signal(process, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """It goes on, and learns that it was given up."""
        for process in self.processes(name):
            _signal(process, signal.SIGCONT)

    def drain(self, name: str, seconds: float) -> None:
        """It will be taken away in so many seconds; the caller then kills it."""
        from ray._raylet import GcsClient

        client = GcsClient(address=self.address())
        deadline = int((time.time() + seconds) * 1000)
        accepted, reason = client.drain_node(
            self._nodes[name].node_id, _PREEMPTED, "the machine is taken away", deadline
        )
        if not accepted:
            raise RuntimeError(f"Ray does not drain {name}: {reason}")

    def lose(self) -> None:
        """The head and all machines at once."""
        for name in ("head", *self._nodes):
            for process in self.processes(name):
                _signal(process, signal.SIGKILL)

    def stored(self) -> dict[str, int]:
        """What all object stores hold: all of it, what of that is pinned, and what is on disks.

        Ray pins the first copy of an object, for as long as its owner lives. Copies of it on other
        machines may outlive an owner that is lost with its machine: they go when room is needed.
        """
        from ray._private.internal_api import get_memory_info_reply

        stats = get_memory_info_reply(self._cluster.global_state).store_stats
        return {
            "objects": stats.num_local_objects,
            "bytes": stats.object_store_bytes_used,
            "pinned bytes": stats.object_store_bytes_primary_copy,
            "spilled bytes": stats.spilled_bytes_total - stats.restored_bytes_total,
        }

    def shutdown(self) -> None:
        """All of it."""
        self._cluster.shutdown()

    def _forget(self, name: str) -> None:
        node = self._nodes.pop(name)
        self._cluster.remove_node(node, allow_graceful=False)


def _below(roots: list[int]) -> dict[int, str]:
    """The living among some processes and all that they have started, with their command lines."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent, *_ = (entry / "stat").read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    found = {root for root in roots if root in parents}
    grown = True
    while grown:
        more = {process for process, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return {process: _command(process) for process in sorted(found)}


def _command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def _signal(process: int, number: signal.Signals) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return


def main() -> None:
    channel = Channel()
    settings = json.loads(sys.argv[1])
    machines = Machines(settings["head"], settings["node"])
    handlers = {
        name: getattr(machines, name)
        for name in (
            "address",
            "add",
            "names",
            "processes",
            "kill",
            "freeze",
            "thaw",
            "drain",
            "lose",
            "stored",
        )
    }
    try:
        channel.serve(handlers)
    finally:
        machines.shutdown()


if __name__ == "__main__":
    main()
