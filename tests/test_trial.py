"""A trial in its process: errors are named and reported; one that kills its process is found."""

from __future__ import annotations

import shutil
import socket
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError
from ray.train import PreemptionError, PreemptionInfo, UserCallback, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from raudio.config import compose
from raudio.config.goal import Goal
from raudio.config.validate import load_yaml, to_mapping
from raudio.core.errors import ConfigError, DataError, NonFiniteError, PreemptedError
from raudio.core.storage import StoreError
from raudio.records import EXPERIMENT_YAML
from raudio.search import trial
from raudio.search.engine import TrialSpec
from raudio.search.failures import MENDED_BY
from raudio.training.launch import LeftAloneError, LostWorkerError, end_of, launch
from raudio.training.worker import Data, Keeping, check_shared

Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs trial 0000 in `tmp_path`, without Ray; what it reported."""
    experiment = compose.compose([]).experiment
    trial.open_trial(tmp_path, TrialSpec("0000", experiment))

    def once(**more: Any) -> list[dict[str, Any]]:
        reports: list[dict[str, Any]] = []
        ray = types.ModuleType("ray")
        ray.tune = types.SimpleNamespace(report=reports.append)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "ray", ray)
        config = {"id": "0000", "experiment": to_mapping(experiment), "max_workers": 1}
        trial.run_trial(
            config | more,
            data=Data("", None),
            keeping=Keeping(str(tmp_path), 1.0),
            gpus=0,
            memory=0,
            goal=Goal({"m": "max"}),
        )
        return reports

    return once


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (NonFiniteError("the loss is nan"), "non-finite loss", "the loss is nan"),
        (DataError("clip 'x' is empty"), "bad data", "clip 'x' is empty"),
        (ConfigError("features.hop is too short"), "configuration", "features.hop is too short"),
        (MemoryError(), "out of memory", "MemoryError: no message"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried"),
            "out of memory",
            "OutOfMemoryError: CUDA out of memory. Tried",
        ),
        (StoreError("s3://a is down"), "store", "s3://a is down"),
        (ValueError("one\ntwo"), "error", "ValueError: one"),
    ],
)
def test_an_error_is_reported_by_its_kind_and_reason(
    error: Exception,
    kind: str,
    reason: str,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(trial, "launch", fail)
    assert run() == [{"failed": {"kind": kind, "reason": reason}}]
    traceback = (tmp_path / "trials" / "0000" / "error.txt").read_text()
    assert type(error).__name__ in traceback.splitlines()[-1] or "two" in traceback


@pytest.mark.parametrize(
    ("failures", "end"),
    [
        ([LeftAloneError("closed by peer"), MemoryError(), LeftAloneError("reset")], MemoryError),
        ([ValueError("x"), NonFiniteError("nan"), LeftAloneError("reset")], NonFiniteError),
        ([LeftAloneError("closed by peer"), ActorDiedError()], LostWorkerError),
        ([MemoryError(), ActorDiedError()], LostWorkerError),
        ([PreemptedError("leaving"), ActorDiedError()], PreemptedError),
        ([LeftAloneError("reset"), RayActorError(preempted=True)], PreemptedError),
        ([WorkerHealthCheckFailedError("failed", ActorDiedError())], LostWorkerError),
        ([WorkerHealthCheckFailedError("failed", TypeError("no pickle"))], TypeError),
        ([LeftAloneError("closed by peer"), LeftAloneError("reset")], LostWorkerError),
    ],
)
def test_the_worker_that_failed_ends_the_trial(failures: list[Exception], end: type) -> None:
    assert type(end_of(failures)) is end


def _launch() -> None:
    """A trial of two workers."""
    launch(
        compose.compose(["resources.workers=2"]).experiment,
        Data("", None),
        gpus=0,
        memory=0,
        max_workers=2,
        keeping=Keeping("", 1.0),
        goal=Goal({"m": "max"}),
        report=lambda report: None,
    )


def test_ray_train_leaves_it_to_tune_to_go_on_after_a_notice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: dict[str, Any] = {}

    class Drained:
        def __init__(self, worker: Any, **settings: Any) -> None:
            given.update(settings)

        def fit(self) -> None:
            raise PreemptionError(PreemptionInfo(None, {"a node": [1]}), drain_timed_out=True)

    place = types.SimpleNamespace(get_node_id=lambda: "another node")
    monkeypatch.setattr("ray.get_runtime_context", lambda: place)
    monkeypatch.setattr("ray.train.torch.TorchTrainer", Drained)
    monkeypatch.setattr("ray.tune.integration.ray_train.TuneReportCallback", UserCallback)
    monkeypatch.setattr("raudio.training.launch._look_around", set)
    with pytest.raises(PreemptedError):
        _launch()
    assert given["run_config"].failure_config.max_preemption_failures == 0
    assert given["train_loop_config"]["driver"] == "another node"


@pytest.mark.parametrize(
    ("failure", "alive", "why"),
    [
        (LeftAloneError("reset"), False, "its machine is gone"),
        (LeftAloneError("reset"), True, "it has left them in the middle of a step"),
        (ActorUnavailableError("", None), False, "its machine is gone"),
        (ActorUnavailableError("", None), True, "its machine does not answer"),
        (ActorDiedError(), False, "killed, crashed, or out of memory"),  # and that is known
    ],
)
def test_a_trial_is_told_of_its_machine_when_ray_knows(
    failure: Exception, alive: bool, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost:
        def __init__(self, worker: Any, **settings: Any) -> None: ...

        def fit(self) -> None:
            raise WorkerGroupError("", {0: failure})

    monkeypatch.setattr("ray.get_runtime_context", lambda: types.SimpleNamespace(get_node_id=str))
    monkeypatch.setattr("ray.nodes", lambda: [{"NodeID": "a", "Alive": alive}])
    monkeypatch.setattr("ray.train.torch.TorchTrainer", Lost)
    monkeypatch.setattr("ray.tune.integration.ray_train.TuneReportCallback", UserCallback)
    monkeypatch.setattr("raudio.training.launch._look_around", lambda: {"a"})
    monkeypatch.setattr("raudio.training.launch._NOTICED", 0.0)
    with pytest.raises(LostWorkerError, match=f"^a worker of the trial is gone: {why}$"):
        _launch()


@pytest.mark.parametrize("error", [LostWorkerError("gone"), PreemptedError("going")])
def test_a_lost_worker_is_no_failure(
    error: Exception, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(trial, "launch", lose)
    with pytest.raises(type(error)):
        run()


def test_a_trial_that_is_given_up_does_not_begin(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune starts it again, whatever the engine has decided."""
    starts: list[int] = []
    monkeypatch.setattr(trial, "launch", lambda *args, **kwargs: starts.append(1))
    assert run(given_up=True) == run() == []
    assert len(starts) == 1


def test_what_the_driver_keeps_of_a_trial(tmp_path: Path) -> None:
    experiment = compose.compose([]).experiment
    trial.open_trial(tmp_path, TrialSpec("0000", experiment))
    kept = (tmp_path / "trials" / "0000" / EXPERIMENT_YAML).read_text()
    assert load_yaml(kept, type(experiment)) == experiment


def test_a_machine_without_the_run_s_disk_says_so_and_writes_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "launch", lambda *args, keeping, **kw: check_shared(keeping.place))
    assert run() == []
    place = tmp_path / "trials" / "0000"
    shutil.rmtree(place)
    (report,) = run()
    assert report["failed"]["kind"] == "no shared disk"
    assert socket.gethostname() in report["failed"]["reason"]
    assert str(place) in report["failed"]["reason"]
    assert "s3://" in MENDED_BY["no shared disk"]
    assert not place.exists()
