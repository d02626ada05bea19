"""Ray's autoscaler on this machine: nodes of the fake provider, on loopback, ended by their ids.

`ray.cluster_utils.AutoscalingCluster` ends every Ray of the machine when it starts and when it
stops; this starts the same without that, in a process of its own and in its own folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray._private.node import Node
from ray._private.parameter import RayParams
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
    FakeMultiNodeProvider,
)
from ray.autoscaler.tags import (
    NODE_KIND_WORKER,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)
from ray.core.generated.gcs_pb2 import GcsNodeInfo
from raylets import PROGRAM

from raudio.cluster.growth import of_head

GB = 10**9
#: What a configuration that is not from `ray up` has to have besides.
_LISTS = (
    "cluster_synced_files",
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)


class Provider(FakeMultiNodeProvider):  # type: ignore[misc]
    """Starts raylets on loopback, and writes down how many it is asked for at once."""

    def create_node_with_resources_and_labels(
        self, node_config: Any, tags: Any, count: int, resources: Any, labels: Any
    ) -> None:
        with open(self.provider_config["asked"], "a") as file:
            file.write(f"{count}\n")
        for _ in range(count):
            self._start(tags, dict(resources), labels)

    def _start(self, tags: Mapping[str, str], resources: dict[str, Any], labels: Any) -> None:
        with self.lock:
            option = "--gcs-address="  # of the process that runs this
            (gcs,) = [each.removeprefix(option) for each in sys.argv if each.startswith(option)]
            name, kind = self._next_hex_node_id(), tags[TAG_RAY_USER_NODE_TYPE]
            params = RayParams(
                node_ip_address="127.0.0.1",
                gcs_address=gcs,
                redis_address=gcs,
                min_worker_port=0,
                max_worker_port=0,
                dashboard_agent_listen_port=0,
                num_cpus=resources.pop("CPU", 0),
                num_gpus=resources.pop("GPU", 0),
                memory=resources.pop("memory", None),
                object_store_memory=10**8,
                resources=resources,
                labels=labels,
                env_vars={
                    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": name,
                    "RAY_CLOUD_INSTANCE_ID": name,
                    "RAY_NODE_TYPE_NAME": kind,
                },
            )
            node = Node(params, head=False, shutdown_at_exit=False, spawn_reaper=False)
            known = {
                TAG_RAY_NODE_KIND: NODE_KIND_WORKER,
                TAG_RAY_USER_NODE_TYPE: kind,
                TAG_RAY_NODE_NAME: name,
                TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE,
            }
            self._nodes[name] = {"tags": {**known, **tags}, "node": node}


class Autoscaled:
    """A head, and what its autoscaler has been asked for."""

    def __init__(self, address: str, asked: Path) -> None:
        self.address = address
        self._asked = asked

    @property
    def asked(self) -> list[int]:
        """The number of nodes of each call to the provider, in their order."""
        return [int(line) for line in self._asked.read_text().splitlines()]

    @property
    def workers(self) -> int:
        """Nodes that are there beside the head."""
        from ray._raylet import GcsClient

        nodes = GcsClient(address=self.address).get_all_node_info(timeout=10).values()
        return sum(node.state == GcsNodeInfo.ALIVE for node in nodes) - 1


@contextmanager
def autoscaled(
    groups: Mapping[str, Mapping[str, Any]],
    *,
    most: int = 8,
    cpus: int = 0,
    idle: float = 3.0,
    v2: bool = False,
) -> Iterator[Autoscaled]:
    """A head with an autoscaler for the length of a `with` block.

    Args:
        groups: `available_node_types` beside the head's.
        most: nodes of all groups.
        cpus: of the head.
        idle: seconds after which a node goes on which nothing runs.
        v2: the second version of the autoscaler.
    """
    folder = Path(tempfile.mkdtemp(prefix="raudio-"))  # names of sockets are short
    asked, config = folder / "asked", folder / "cluster.yaml"
    asked.touch()
    config.write_text(
        json.dumps(
            {
                "cluster_name": "fake",
                "max_workers": most,
                "idle_timeout_minutes": idle / 60,
                "upscaling_speed": 100,
                "provider": {
                    "type": "external",
                    "module": "autoscaler_kit.Provider",
                    "head_node_id": FAKE_HEAD_NODE_ID,
                    "use_node_id_as_ip": True,
                    "disable_node_updaters": True,
                    "disable_launch_config_check": True,
                    "asked": str(asked),
                },
                "auth": {},
                "file_mounts": {},
                **{name: [] for name in _LISTS},
                "head_node_type": FAKE_HEAD_NODE_TYPE,
                "available_node_types": {
                    FAKE_HEAD_NODE_TYPE: {
                        "resources": {"CPU": cpus},
                        "node_config": {},
                        "max_workers": 0,
                    },
                    **{name: {"node_config": {}, **group} for name, group in groups.items()},
                },
            }
        )
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        ),
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        **(
            {"RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID}
            if v2
            else {}
        ),
    }
    command = [
        *(
            sys.executable,
            "-c",
            PROGRAM.format("ray.scripts.scripts"),
            "start",
            "--head",
            "--block",
        ),
        *("--port=0", "--node-ip-address=127.0.0.1"),
        *(f"--num-cpus={cpus}", f"--memory={4 * GB}", f"--object-store-memory={10**8}"),
        *("--include-dashboard=false", "--min-worker-port=0", "--max-worker-port=0"),
        *(f"--autoscaling-config={config}", f"--temp-dir={folder}"),
    ]
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield Autoscaled(_address(head, folder / "head.log"), asked)
    finally:
        _end(head)
        shutil.rmtree(folder, ignore_errors=True)


def _address(head: subprocess.Popen[bytes], log: Path) -> str:
    """Of a head, when it and its autoscaler are there."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and head.poll() is None:
        time.sleep(0.2)
        said = re.search(r"--address='([\d.:]+)'", log.read_text())
        if said is not None and of_head(said[1]).groups:
            return said[1]
    raise RuntimeError(f"no head: {log.read_text()}")


def _end(head: subprocess.Popen[bytes]) -> None:
    import psutil

    if head.poll() is not None:  # it has ended what it had started
        return
    own = psutil.Process(head.pid)
    processes = [*own.children(recursive=True), own]
    head.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=10)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=10)
