"""A trial with as many workers as there is room for: fewer without a node, more with another.

What it trains with is slow until the test has seen what it waits for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from raylets import raudio, raylets

from raudio.data.synth import synth
from raudio.records import RECORDS, History, read_history, read_records
from raudio.training.launch import MACHINE_GONE

PLUGIN = '''
import time
from pathlib import Path

import raudio
from raudio.models.cnn import CNN
from torch import distributed


@raudio.register.model("counting")
class Counting(CNN):
    """Writes down how many workers it has."""

    def __init__(self, *, n_features: int, n_outputs: int):
        super().__init__(n_features=n_features, n_outputs=n_outputs, width=4, depth=2)

    def forward(self, features, frames):
        if self.training:
            here = Path("HERE")
            if not (here / "fast").exists():
                time.sleep(3)
            world = distributed.get_world_size() if distributed.is_initialized() else 1
            with open(here / "workers", "a") as file:
                file.write(f"{world}\\n")
        return super().forward(features, frames)
'''
#: Seconds until a trial goes on without a node that was lost, and with one that has come.
BOUND = 150

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(900)]


def test_an_elastic_trial_shrinks_and_grows_with_its_cluster(tmp_path: Path) -> None:
    synth(str(tmp_path / "data"), 100)
    (tmp_path / "counting.py").write_text(PLUGIN.replace("HERE", str(tmp_path)))
    (tmp_path / "workers").touch()
    run, epochs = tmp_path / "run", 40
    memory = {"memory": 2 * 10**9}
    head, node = {**memory, "num_cpus": 0, "resources": {"safe": 1}}, {**memory, "num_cpus": 1}

    def found() -> History:
        return read_history(run) if (run / RECORDS).exists() else History()

    def trained(workers: int) -> bool:
        """Whether the steps that were made last, which are an epoch's at least, had so many."""
        last = (tmp_path / "workers").read_text().split()[-3:]
        return last == [str(workers)] * 3

    with raylets(head, node, node, join=False) as cluster:
        search = raudio(
            "train", "model=counting", "features.n_mels=16", f"training.epochs={epochs}",
            f"plugins=[{tmp_path / 'counting.py'}]", "resources.workers=[1,2]",
            f"dataset.path={tmp_path / 'data'}", f"run.dir={run}", "run.export=false",
            f"cluster.address={cluster.address}",
        )  # fmt: skip

        def until(seen: Callable[[], bool]) -> None:
            began = time.monotonic()
            while not seen():
                assert search.poll() is None, search.communicate()
                assert time.monotonic() - began < BOUND, (tmp_path / "workers").read_text()
                time.sleep(0.2)
            print(f"{time.monotonic() - began:.1f} s")

        try:
            until(lambda: trained(2))
            cluster.remove_node(cluster.others[0], allow_graceful=False)
            until(lambda: trained(1))
            cluster.add_node(node_ip_address="127.0.0.1", object_store_memory=10**8, **node)
            until(lambda: trained(2))
            (tmp_path / "fast").touch()
            said, _ = search.communicate(timeout=BOUND)
        finally:
            search.kill()
    assert search.returncode == 0, said
    (trial,) = found().trials.values()
    assert (trial.state, trial.epochs) == ("completed", epochs)
    assert [report.epoch for report in trial.reports] == list(range(1, epochs + 1))
    lost = [record["reason"] for record in read_records(run) if record["event"] == "lost"]
    assert lost == [f"a worker of the trial is gone: {MACHINE_GONE}"]  # no failure of its own
