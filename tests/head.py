"""A Ray head with a job server, in a process of its own: it has its own token.

Not on loopback but for its dashboard: a job's processes look for their cluster at the address that
the machine has in its network.

As a program: starts one in the folder that it is given, says where, and ends it when standard input
ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Head:
    """Where it is.

    Attributes:
        dashboard: http://HOST:PORT.
        address: HOST:PORT, for drivers.
        folder: of all that Ray writes.
    """

    dashboard: str
    address: str
    folder: Path


@contextlib.contextmanager
def head(folder: Path, **environment: str) -> Iterator[Head]:
    """A head of two CPUs, whose processes have these variables."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), own.get("PATH", "")])
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder)],
        env={**own, "PATH": path, "HOME": str(folder), "RAY_TMPDIR": str(folder), **environment},
        cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        dashboard, address = json.loads(process.stdout.readline())
        yield Head(dashboard, address, folder)
    finally:
        process.stdin.close()
        process.wait(60)


def _main(folder: str) -> None:
    from ray.cluster_utils import Cluster

    out, sys.stdout = sys.stdout, sys.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 2,
            "object_store_memory": 200 << 20,
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "dashboard_port": port,
            "dashboard_agent_listen_port": 0,
        },
    )
    try:
        print(json.dumps([f"http://127.0.0.1:{port}", cluster.address]), file=out, flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    _main(sys.argv[1])
