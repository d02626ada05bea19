"""A search on a cluster that grows and shrinks: Ray's own autoscaler, on nodes of this machine.

What is searched waits until the test has seen the machines that it came for.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from autoscaler_kit import GB, autoscaled
from raylets import raudio

from raudio.records import RECORDS, History, read_history, read_records

PLUGIN = '''
import time
from pathlib import Path

import raudio
from raudio.models.cnn import CNN


@raudio.register.model("patient")
class Patient(CNN):
    """Goes on when it is told to: the trial with number 5, or the others."""

    def __init__(self, *, n_features: int, n_outputs: int, number: int = 0):
        super().__init__(n_features=n_features, n_outputs=n_outputs, width=4, depth=2)
        self.told = Path("HERE", "last" if number == 5 else "others")

    def forward(self, features, frames):
        while not self.told.exists():
            time.sleep(0.1)
        return super().forward(features, frames)
'''

#: CPUs of a trial, which are those of a node.
CPUS = {"resident": 1, "streamed": 2}


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("v2", "feed"), [(False, "resident"), (True, "streamed")])
def test_machines_come_at_once_and_go_when_there_is_nothing_left_for_them(
    v2: bool, feed: str, tmp_path: Path
) -> None:
    (tmp_path / "patient.py").write_text(PLUGIN.replace("HERE", str(tmp_path)))
    (tmp_path / "space.yaml").write_text("params:\n  model.number: choice(0, 1, 2, 3, 4, 5)\n")
    run = tmp_path / "run"
    settings = (
        f"plugins=[{tmp_path / 'patient.py'}]",
        "model=patient",
        f"space={tmp_path / 'space.yaml'}",
        f"dataset.path={tmp_path / 'data'}",
        f"dataset.feed={feed}",
        f"run.dir={run}",
        "run.export=false",
        "features.n_mels=16",
        "training.epochs=2",
        "search.sampler=grid",
        "search.scheduler=none",
    )

    def found() -> History:
        return read_history(run) if (run / RECORDS).exists() else History()

    def states() -> Counter[str]:
        return Counter(trial.state for trial in found().trials.values())

    made = raudio("data", "synth", tmp_path / "data", "--clips", "100")
    small = {"resources": {"CPU": CPUS[feed], "memory": 2 * GB}, "max_workers": 3}
    with autoscaled({"small": small}, v2=v2, idle=5) as cluster:
        assert made.wait() == 0
        where = f"cluster.address={cluster.address}"
        planned, _ = (plan := raudio("plan", *settings, where)).communicate()
        assert plan.returncode == 0, planned
        assert "0 at once on what is there, 3 when it has grown" in planned
        assert cluster.asked == []

        search = raudio("search", *settings, where)

        def until(seen: Callable[[], bool]) -> None:
            deadline = time.monotonic() + 120
            while not seen():
                assert search.poll() is None, search.communicate()
                assert time.monotonic() < deadline, (states(), cluster.workers, cluster.asked)
                time.sleep(0.2)

        try:
            until(lambda: states()["running"] == cluster.workers == 3)
            waited = [each["waiting"] for each in read_records(run) if each["event"] == "cluster"]
            # For all at once, but for the one that has decoded for a resident feed.
            assert max(waited) >= (2 if feed == "resident" else 3)
            (tmp_path / "others").touch()
            until(lambda: states() == {"completed": 5, "running": 1} and cluster.workers == 1)
            (tmp_path / "last").touch()
            said, _ = search.communicate(timeout=120)
        finally:
            search.kill()
        assert search.returncode == 0, said
        assert found().state == "completed"
        assert states() == {"completed": 6}
        deadline = time.monotonic() + 60
        while cluster.workers:
            assert time.monotonic() < deadline
            time.sleep(0.2)
