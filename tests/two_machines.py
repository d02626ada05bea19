"""As a program: a Ray cluster of a head and another machine, on loopback, in the folder that it is
given.

Says where it is, and of which processes the head and the newest of the other machines are. A line
of standard input has the GCS started anew ("gcs"), or another machine added ("add"); its end is the
end of it all.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

#: Of the head and of the others. Ray takes 127.0.0.1 for another name of the machine's own address.
HEAD, OTHER = "127.0.0.2", "127.0.0.3"


def main(folder: str) -> None:
    from ray.cluster_utils import Cluster

    out, sys.stdout = sys.stdout, sys.stderr
    storage = {"gcs_storage": "rocksdb", "gcs_storage_path": os.path.join(folder, "gcs")}
    small: dict[str, Any] = {"object_store_memory": 100 << 20, "include_dashboard": False}
    steers = {"num_cpus": 0, "resources": {"safe": 1}, "node_ip_address": HEAD}
    cluster = Cluster(
        initialize_head=True, head_node_args={**small, **steers, "_system_config": storage}
    )
    head, wanted = cluster.head_node, "add"
    while wanted:
        if wanted == "add":
            other = cluster.add_node(**small, num_cpus=1, node_ip_address=OTHER)
        else:
            head.kill_gcs_server(check_alive=False)
            head.start_gcs_server()
        processes = {"head": _processes(head), "other": _processes(other)}
        print(json.dumps([cluster.address, processes]), file=out, flush=True)
        wanted = sys.stdin.readline().strip()
    os._exit(0)


def _processes(node: Any) -> dict[str, list[int]]:
    found = node.all_processes.items()
    return {kind: [each.process.pid for each in started] for kind, started in found}


if __name__ == "__main__":
    main(sys.argv[1])
