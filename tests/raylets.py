"""Rays of this machine, all on loopback: of one node, and clusters of several."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

#: Of every node, unless it says otherwise.
SMALL = {"node_ip_address": "127.0.0.1", "object_store_memory": 10**8}

#: A program of Ray, or one that joins a cluster: it would take loopback for another name of the
#: machine's address, where nothing listens.
PROGRAM = """
from ray._private import services
services.resolve_ip_for_localhost = lambda host: host
from {} import main
main()
"""


def raudio(*arguments: object) -> subprocess.Popen[str]:
    """A command line of raudio in a process of its own."""
    command = [sys.executable, "-c", PROGRAM.format("raudio.cli.main"), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@contextmanager
def raylets(head: Mapping[str, Any], *nodes: Mapping[str, Any], join: bool = True) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` for the length of a `with` block.

    Args:
        head: of `Cluster.add_node`, as each of `nodes`, which are then the cluster's `others`.
        join: whether this process is its driver.
    """
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        # As in PROGRAM.
        patch.setattr("ray._private.services.resolve_ip_for_localhost", lambda host: host)
        cluster = Cluster(initialize_head=True, head_node_args={**SMALL, **head})
        try:
            cluster.others = [cluster.add_node(**{**SMALL, **node}) for node in nodes]
            if join:
                ray.init(
                    address=cluster.address,
                    _node_ip_address="127.0.0.1",
                    log_to_driver=False,
                    logging_level="CRITICAL",
                )
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@contextmanager
def one_node() -> Iterator[Any]:
    """A Ray of two CPUs that this process is the driver of, for the length of a `with` block."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="CRITICAL",
        _node_ip_address="127.0.0.1",
    )
    try:
        yield ray
    finally:
        ray.shutdown()
