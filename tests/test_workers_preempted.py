"""Machines that are taken away with notice while they hold a trial of several workers: one of the
workers', and that of the process that waits for them. Raylets on loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from raylets import raylets

from raudio import checkpoint
from raudio.cluster.drain import drain
from raudio.core.errors import RunError
from raudio.data.synth import synth
from raudio.records import LAST, RecordReader, trial_folder
from raudio.search import runner

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(600)]

MEMORY = {"memory": 4 * 10**9}
WORKS = {**MEMORY, "num_cpus": 1}
WAITS = {**MEMORY, "num_cpus": 0, "resources": {"safe": 1}}
SEARCH = (
    "model=cnn",
    "model.width=4",
    "model.depth=2",
    "features.n_mels=16",
    "training.epochs=12",  # a notice is heard of some seconds, so some epochs, later
    "training.batch_size=2",
    "resources.workers=2",
    "resources.cpus=1",
    "run.export=false",
)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Three machines for two workers, and two for the process that waits for them."""
    with raylets({**MEMORY, "num_cpus": 0}, WORKS, WORKS, WORKS, WAITS, WAITS) as cluster:
        yield cluster


def nodes_of(kind: str) -> list[str]:
    """The nodes that actors of a class are on."""
    from ray._private import state

    return [
        actor["Address"]["NodeID"]
        for actor in state.actors().values()
        if actor["State"] == "ALIVE" and actor["ActorClassName"] == kind
    ]


class Notices:
    """Drains a machine with a process of each kind when the trial has reported, and takes it away
    when the trial has left.

    Attributes:
        steps: for each, the step that the trial went on from, and the last one that it had
            reported.
    """

    def __init__(self, cluster: Any, run: Path, epoch_steps: int) -> None:
        self.steps: list[tuple[int, int]] = []
        self._cluster, self._run, self._epoch_steps = cluster, run, epoch_steps
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go)

    def __enter__(self) -> Notices:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _go(self) -> None:
        for number, kind in enumerate(("RayTrainWorker", "ImplicitFunc"), 1):
            seen = self._count("report")
            self._until(lambda: self._count("report") > seen)  # noqa: B023
            (name, *_) = nodes_of(kind)
            (node,) = [each for each in self._cluster.worker_nodes if each.node_id == name]
            drain(time.time() + 60, "test", address=self._cluster.address, nodes=[name])
            self._until(lambda: self._count("preempted") + self._count("lost") >= number)  # noqa: B023
            last = checkpoint.load(trial_folder(self._run, "0000") / LAST)
            self.steps.append((last["step"], self._epoch_steps * self._count("report")))
            self._cluster.remove_node(node, allow_graceful=False)

    def _count(self, event: str) -> int:
        try:
            records = RecordReader(self._run).read()
        except RunError:  # not yet
            return 0
        return sum(record["event"] == event for record in records)

    def _until(self, true: Callable[[], bool]) -> None:
        while not true():
            if self._ended.wait(0.1):
                raise SystemExit  # of this thread


def test_a_trial_goes_on_from_the_step_at_which_a_machine_was_taken_away(
    cluster: Any, tmp_path: Path
) -> None:
    data = synth(tmp_path / "data", clips=300)
    epoch_steps = data.splits["train"].clips // 2
    where = (f"dataset.path={data.path}", f"cluster.address={cluster.address}")
    with Notices(cluster, tmp_path / "run", epoch_steps) as notices:
        found = runner.train(*SEARCH, *where, f"run.dir={tmp_path / 'run'}", quiet=True)
    assert found.state == "completed", found.history.reason
    trial = found.history.trials["0000"]
    assert (trial.preemptions, trial.lost) == (2, 0)
    assert len(notices.steps) == 2
    for step, reported in notices.steps:
        assert step > reported
    whole = runner.train(*SEARCH, *where, f"run.dir={tmp_path / 'whole'}", quiet=True)
    expected = whole.history.trials["0000"]
    assert [each.epoch for each in trial.reports] == [*range(1, 13)]
    for one, other in zip(trial.reports, expected.reports, strict=True):
        for name in ("train/loss", "valid/loss"):
            assert one.metrics[name] == pytest.approx(other.metrics[name], rel=1e-5)
