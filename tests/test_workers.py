"""Trials of several workers through Ray Train, over the nodes of a cluster on loopback: the losses
of one worker, whatever becomes of the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from raylets import raylets
from typer.testing import CliRunner

from raudio.cli.main import app
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
