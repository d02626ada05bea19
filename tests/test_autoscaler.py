"""A search on a cluster that grows and shrinks: Ray's own autoscaler, on nodes of this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from autoscaler_kit import GB, autoscaled
from search_kit import METRIC, Session

from raudio.cluster.session import present_capacity, session
from raudio.config import compose
from raudio.config.schema import Cluster, Resources, Search
from raudio.data import raydata
from raudio.data.pipeline import materialise
from raudio.data.synth import synth
from raudio.search import slots as slots_module
from raudio.search.planner import Plan, plan
from raudio.search.slots import Slots

SMALL = {"resources": {"CPU": 1, "memory": GB}, "labels": {"kind": "small"}, "max_workers": 3}


@pytest.mark.ray
@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
def test_machines_come_at_once_and_go_when_there_is_nothing_left_for_them(
    v2: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from raudio.search.demand import Demand
    from raudio.search.tune import SearchEnded, run_trials

    def train(config: dict[str, Any]) -> None:
        """The first trials end soon, the last does not."""
        from ray import tune

        last = config["id"] == "0005"
        for epoch in range(1, 10**6 if last else 5):
            time.sleep(0.4)
            final = epoch == 4 and not last
            metrics = {METRIC: 0.5, "started": time.time() - 0.4 * epoch}
            tune.report({"epoch": epoch, "metrics": metrics, "loop_seconds": 0.4, "final": final})

    monkeypatch.setattr("ray._private.services.resolve_ip_for_localhost", lambda host: host)
    monkeypatch.setattr(slots_module, "INTERVAL", 0.5)
    resources, search = Resources(), Search(trials=6)
    experiment = compose.compose([]).experiment
    driver = Session(
        tmp_path,
        time.monotonic,  # type: ignore[arg-type]
        experiment_for=lambda params: experiment,
        scheduler="none",
        reuse=False,  # all trials are the same experiment
        trials=6,
    )
    manifest = synth(str(tmp_path / "data"), 60)
    with autoscaled({"small": SMALL}, v2=v2, idle=10) as cluster:
        settings = Cluster(address=cluster.address)
        with session(settings, tmp_path / "ray.log") as capacity:
            raydata.settle_here()
            refs = materialise(manifest, sample_rate=8000, precision="int16", here=True)
            decoded = len(cluster.asked)

            def now() -> Plan:
                present = present_capacity(settings, capacity.growth)
                return plan(present, resources, search, "resident")

            assert capacity.nodes[0].cpus == 0
            slots, waited, most = Slots(now(), now), list[int](), list[int]()
            assert slots.plan.most == 3

            def tick() -> None:
                running = driver.engine.running
                most.append(len(running))
                workers = sum(node["Alive"] for node in ray.nodes()) - 1
                if len(driver.engine.history.trials) == 6 and len(running) == workers == 1:
                    raise SearchEnded("completed", "seen it all")

            demand = Demand(driver.engine, slots, changed=waited.append)
            assert run_trials(driver.engine, train, slots, demand=demand, tick=tick) == (
                "completed",
                "seen it all",
            )
            assert refs  # which no worker's node holds, or it would not have gone
        asked = cluster.asked[decoded:]
    driver.records.close()
    assert waited[0] >= 2  # all but what has decoded, if that is still there
    assert asked[0] == ("small", waited[0])
    assert waited[-1] == 0
    assert max(most) == 3
    # Nobody's time has begun before its machine was there.
    trials = driver.engine.history.trials.values()
    assert sorted(trial.epochs for trial in trials)[:5] == [4] * 5
