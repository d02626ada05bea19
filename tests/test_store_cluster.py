"""A search on a cluster whose machines share nothing but a bucket, while machines go: with notice,
and without. Raylets and S3 are on loopback.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flaky
import pytest
from raylets import raylets
from typer.testing import CliRunner

from raudio.cli.main import app
from raudio.core import storage
from raudio.core.copies import copies_of, local_run
from raudio.core.errors import RunError
from raudio.export.make import export
from raudio.records import BEST, RECORDS, History, RecordReader, read_history, read_records
from raudio.report.tables import as_data
from raudio.search import runner

pytestmark = pytest.mark.ray

RUN = "s3://sounds/runs/cluster"
NODE = {"num_cpus": 1, "memory": 2 * 10**9}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Any]:
    """A head that runs no trial, and three machines of one CPU, each with a cache of its own."""
    with pytest.MonkeyPatch.context() as patch, flaky.s3() as front:
        for name, value in {**flaky.environment(front), "OMP_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        caches = [{"RAUDIO_CACHE": str(tmp_path / f"node{number}")} for number in range(3)]
        nodes = [{**NODE, "env_vars": cache} for cache in caches]
        with raylets({**NODE, "num_cpus": 0}, *nodes) as cluster:
            yield cluster


SEARCH = (
    "model=cnn",
    "search.sampler=random",
    "search.scheduler=none",
    "search.trials=3",
    "search.keep=2",
    "search.seed=3",
    "training.epochs=4",
    "training.batch_size=4",
    "features.n_mels=16",
    "model.width=8",
    "model.depth=2",
    "training.checkpoint_every='5 steps'",
)


class Faults:
    """Takes a machine away without notice, then one with, each when a trial there has reported."""

    def __init__(self, cluster: Any) -> None:
        self.done: list[str] = []
        self._cluster = cluster
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Faults:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        node = self._busy(reports=2)
        self._cluster.remove_node(node, allow_graceful=False)
        self.done.append("killed")
        node = self._busy(reports=len(self._records("report")) + 2)
        drain(node.node_id, seconds=30)
        self._until(lambda: bool(self._records("preempted")))
        self._cluster.remove_node(node, allow_graceful=False)
        self.done.append("drained")

    def _busy(self, reports: int) -> Any:
        """A machine with a trial, when there are so many reports."""
        self._until(lambda: len(self._records("report")) >= reports)
        found: list[Any] = []

        def look() -> bool:
            nodes = {node.node_id: node for node in self._cluster.worker_nodes}
            found[:] = [nodes[each] for each in busy_nodes() if each in nodes]
            return bool(found)

        self._until(look)
        return found[0]

    def _records(self, event: str) -> list[Any]:
        try:
            reader = RecordReader(copies_of(RUN) / "work")
        except RunError:  # not yet
            return []
        return [record for record in reader.read() if record["event"] == event]

    def _until(self, true: Callable[[], bool]) -> None:
        while not true():
            if self._ended.wait(0.1):
                raise SystemExit  # of this thread


def busy_nodes() -> list[str]:
    """The nodes that trials' processes are on."""
    from ray._private import state

    return [
        actor["Address"]["NodeID"]
        for actor in state.actors().values()
        if actor["State"] == "ALIVE" and actor["ActorClassName"] == "ImplicitFunc"
    ]


def drain(node: str, seconds: float) -> None:
    """As `ray drain-node` does it."""
    from ray._private import worker
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    accepted, why = worker.global_worker.gcs_client.drain_node(
        node,
        DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
        "a spot machine is taken away",
        int(1000 * (time.time() + seconds)),
    )
    assert accepted, why


def search(run: str, data: Path, address: str) -> runner.SearchResult:
    where = (f"run.dir={run}", f"dataset.path={data}", f"cluster.address={address}")
    return runner.search(*SEARCH, *where, quiet=True)


def reports(history: History) -> dict[str, list[tuple[int, dict[str, float]]]]:
    """What every trial has reported, without times and memory, which are never twice the same."""
    return {
        trial.id: [
            (each.epoch, {k: v for k, v in each.metrics.items() if not k.startswith("cost/")})
            for each in trial.reports
        ]
        for trial in history.trials.values()
    }


def test_machines_that_share_only_a_bucket_go_with_and_without_notice(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    assert CliRunner().invoke(app, ["data", "synth", str(data), "--clips", "300"]).exit_code == 0
    with Faults(cluster) as faults:
        found = search(RUN, data, cluster.address)
    assert faults.done == ["killed", "drained"]
    assert found.state == "completed", found.history.reason
    assert found.bundle is not None

    monkeypatch.setenv("RAUDIO_CACHE", str(tmp_path / "laptop"))
    run = local_run(RUN, {RECORDS}.__contains__)
    history = read_history(run)
    told = [(r["id"], r["epoch"]) for r in read_records(run) if r["event"] == "report"]
    assert sorted(told) == [(f"{n:04d}", epoch) for n in range(3) for epoch in (1, 2, 3, 4)]
    assert {trial.state for trial in history.trials.values()} == {"completed"}
    shown = as_data(RUN, history)["trials"]
    assert sum(trial["preemptions"] for trial in shown) == 1
    assert sum(trial["lost"] for trial in shown) >= 1
    left = {file for file in storage.listing(RUN) if file.endswith(".pt")}
    assert left == {f"trials/{trial.id}/{BEST}" for trial in history.ranked()[:2]}
    assert (export(RUN, tmp_path / "bundle") / "weights.safetensors").is_file()

    # A machine that was taken away, in any way, has changed nothing.
    whole = search(str(tmp_path / "whole"), data, cluster.address)
    assert reports(history) == reports(whole.history)
