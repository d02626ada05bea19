"""On which nodes of a cluster things run: decoding, training, and the drivers of trials."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from raylets import raylets
from search_kit import METRIC, Session

from raudio.cluster.session import session
from raudio.config import compose
from raudio.config.schema import Cluster, Resources, Search
from raudio.data import raydata
from raudio.data.pipeline import materialise
from raudio.data.synth import synth
from raudio.search.planner import plan
from raudio.search.slots import Slots

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """A head that is safe, a node that decodes, one that trains: their ids; and the address."""
    memory = {"memory": 4 * 10**9}
    head = {**memory, "num_cpus": 0, "resources": {"safe": 10}}
    data = {**memory, "num_cpus": 2, "labels": {"raudio/role": "data"}}
    with raylets(head, data, {**memory, "num_cpus": 2}, join=False) as cluster:
        data_node, trains = cluster.others
        yield {
            "address": cluster.address,
            "head": cluster.head_node.node_id,
            "data": data_node.node_id,
            "trains": trains.node_id,
        }


@pytest.mark.parametrize("workers", [1, 2])
def test_each_runs_where_it_belongs(cluster: dict[str, str], tmp_path: Path, workers: int) -> None:
    """Trials, and the drivers of those with several workers."""
    import ray

    from raudio.search.tune import run_trials

    def train(config: dict[str, Any]) -> None:
        import ray
        from ray import tune

        time.sleep(0.3)
        node = int(ray.get_runtime_context().get_node_id()[:8], 16)
        metrics = {METRIC: 0.5, "node": node}
        tune.report({"epoch": 1, "metrics": metrics, "loop_seconds": 0.3, "final": True})

    def node_of_task(batch: pa.Table) -> pa.Table:
        import ray

        time.sleep(0.1)
        return pa.table({"node": [ray.get_runtime_context().get_node_id()]})

    experiment = compose.compose([]).experiment
    driver = Session(
        tmp_path,
        time.monotonic,  # type: ignore[arg-type]
        experiment_for=lambda params: experiment,
        scheduler="none",
        reuse=False,  # all trials are the same experiment
        trials=4,
    )
    with session(Cluster(address=cluster["address"]), tmp_path / "ray.log") as capacity:
        fit = plan(capacity, Resources(workers=workers), Search(trials=4), "streamed")
        # A trial of two workers has one decoder for each.
        assert fit.slots == (2 if workers == 1 else 1)
        slots = Slots(fit, lambda: fit)
        assert run_trials(driver.engine, train, slots) == ("completed", None)
        if workers == 1:
            nodes = {cluster["data"]}
            tasks = raydata.dataset([{"job": job} for job in range(8)], node_of_task)
            assert {row["node"] for row in tasks.take_all()} == nodes
            manifest = synth(str(tmp_path / "data"), 60)
            wanted: dict[str, Any] = {"sample_rate": 8000, "precision": "int16"}
            assert held(materialise(manifest, **wanted)) == nodes
            here = ray.get_runtime_context().get_node_id()
            assert here != cluster["data"]
            assert held(materialise(manifest, **wanted, here=True)) == {here}
    driver.records.close()
    found = {trial.reports[0].metrics["node"] for trial in driver.engine.history.trials.values()}
    assert found == {int(cluster["trains" if workers == 1 else "head"][:8], 16)}


def held(refs: dict[str, list[Any]]) -> set[str]:
    """The nodes whose object stores hold all of it."""
    import ray.experimental

    blocks = [ref for split in refs.values() for ref in split]
    places = ray.experimental.get_object_locations(blocks).values()
    return {node for place in places for node in place["node_ids"]}
