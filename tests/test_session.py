"""What a Ray session gives to the processes that it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raudio.cluster.session import MALLOC, session
from raudio.config.schema import Cluster


@pytest.mark.ray
def test_workers_start_with_glibcs_thresholds_fixed(tmp_path: Path) -> None:
    with session(Cluster(cpus=1), tmp_path / "ray.log") as capacity:
        import ray
        import ray.data

        def at_start(batch: Any = None) -> dict[str, Any]:
            """The environment that this process was started with: glibc reads no later one."""
            return {"environment": [Path("/proc/self/environ").read_text()]}

        @ray.remote(num_cpus=0)
        class Trial:  # Tune's trials are actors
            def environment(self) -> dict[str, Any]:
                return at_start()

        trial = ray.get(Trial.remote().environment.remote())["environment"][0]
        (row,) = ray.data.range(1).map_batches(at_start, batch_size=None).take_all()
        for environment in (trial, row["environment"]):
            assert {f"{name}={value}" for name, value in MALLOC.items()} <= {
                *environment.split("\0")
            }
        assert capacity.store is not None
        assert capacity.store > 1 << 26
