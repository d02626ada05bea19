"""Trials of several workers through Ray Train, over the nodes of a cluster on loopback: the losses
of one worker, whatever becomes of the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from raylets import raylets
from typer.testing import CliRunner

from raudio.cli.main import app
from raudio.core.errors import RunError
from raudio.records import RecordReader
from raudio.records.trials import TrialHistory
from raudio.search import runner

pytestmark = pytest.mark.ray

PLUGIN = '''
import os, signal
from pathlib import Path

import raudio
from raudio.models.cnn import CNN
from torch import distributed


@raudio.register.model("faulty")
class Faulty(CNN):
    """Rank 1 meets its fault in the second epoch; the others wait for it in a collective, of
    sharded weights or of batch normalisation."""

    def __init__(self, *, n_features: int, n_outputs: int, fault: str = "none"):
        super().__init__(n_features=n_features, n_outputs=n_outputs, width=4, depth=2)
        self.fault, self.calls = fault, 0

    def forward(self, features, frames):
        self.calls += self.training
        if self.calls == 12 and distributed.is_initialized() and distributed.get_rank() == 1:
            if self.fault == "error":
                raise ValueError("the second rank cannot go on")
            if self.fault == "killed" and not Path("HERE/killed").exists():
                Path("HERE/killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(features, frames)
'''

NODE = {"num_cpus": 2, "memory": 4 * 10**9}
COMMON = (
    "model=faulty",
    "features.n_mels=16",
    "search.sampler=grid",
    "search.scheduler=none",
    "search.concurrency=1",
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes, of two CPUs and of one."""
    with raylets(NODE, {**NODE, "num_cpus": 1}) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workers")
    made = CliRunner().invoke(app, ["data", "synth", str(folder / "data"), "--clips", "300"])
    assert made.exit_code == 0, made.output
    (folder / "faulty.py").write_text(PLUGIN.replace("HERE", str(folder)))
    return folder


class Rival:
    """Asks for a CPU when a trial has reported, and gives it back at once.

    Attributes:
        reports: that there were when it got it.
    """

    def __init__(self, run: Path) -> None:
        self.reports: int | None = None
        self._run = run
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Rival:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.join(60)

    def _ask(self) -> None:
        import ray
        from ray.util import placement_group, remove_placement_group

        while not self._count():
            time.sleep(0.1)
        place = placement_group([{"CPU": 1}])
        ray.get(place.ready())
        self.reports = self._count()
        remove_placement_group(place)

    def _count(self) -> int:
        try:
            records = RecordReader(self._run).read()
        except RunError:  # not yet
            return 0
        return sum(record["event"] == "report" for record in records)


@pytest.mark.slow
def test_what_decodes_for_a_trial_has_its_cpus_between_two_tasks_too(
    place: Path, cluster: Any
) -> None:
    """Two workers and their decoders have the three CPUs until the trial's end."""
    settings = (
        "dataset.feed=streamed", "model=cnn", "model.width=4", "model.depth=2",
        "features.n_mels=16", "training.epochs=6", "resources.workers=2", "resources.cpus=1",
        "resources.data_cpus=1", "run.export=false",
    )  # fmt: skip
    run = place / "rival"
    where = (f"dataset.path={place / 'data'}", f"cluster.address={cluster.address}")
    with Rival(run) as rival:
        found = runner.train(*settings, *where, f"run.dir={run}", quiet=True)
    assert found.state == "completed", found.history.reason
    assert rival.reports == 6


def searched(
    place: Path, cluster: Any, run: str, faults: str, *settings: str
) -> dict[str, TrialHistory]:
    """A trial of each of the faults, by their names."""
    (place / f"{run}.yaml").write_text(f"params:\n  model.fault: choice({faults})\n")
    where = (
        f"plugins=[{place / 'faulty.py'}]",
        f"dataset.path={place / 'data'}",
        f"space={place / run}.yaml",
        f"run.dir={place / run}",
        f"cluster.address={cluster.address}",
        f"search.trials={faults.count(',') + 1}",
    )
    found = runner.search(*where, *COMMON, *settings, quiet=True)
    assert found.state == "completed", found.history.reason
    return {trial.params["model.fault"]: trial for trial in found.history.trials.values()}


def assert_same(found: TrialHistory, expected: TrialHistory) -> None:
    assert found.state == "completed"
    assert [each.epoch for each in found.reports] == [each.epoch for each in expected.reports]
    for one, other in zip(found.reports, expected.reports, strict=True):
        for name in ("train/loss", "valid/loss"):  # training magnifies rounding: see test_parallel
            assert one.metrics[name] == pytest.approx(other.metrics[name], rel=0.02)


@pytest.mark.long
def test_whatever_becomes_of_a_worker_the_losses_are_those_of_one(
    cluster: Any, place: Path
) -> None:
    alone = searched(place, cluster, "alone", "none", "training.epochs=3")["none"]
    sharded = ("training.epochs=3", "resources.workers=3", "resources.parallel=fsdp")
    trials = searched(place, cluster, "faults", "error, killed", *sharded)
    assert (trials["error"].state, trials["error"].kind) == ("failed", "error")
    assert trials["error"].reason == "ValueError: the second rank cannot go on"
    assert trials["error"].lost == 0
    assert trials["killed"].lost == 1
    assert_same(trials["killed"], alone)
