"""A trial in its process: errors are named and reported; one that kills its process is found."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raudio.config import compose
from raudio.config.goal import Goal
from raudio.config.validate import load_yaml, to_mapping
from raudio.core.errors import ConfigError, DataError, NonFiniteError
from raudio.records import EXPERIMENT_YAML
from raudio.search import trial
from raudio.search.engine import TrialSpec
from raudio.training.launch import LostWorkerError
from raudio.training.worker import Data

Run = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs trial 0000 in `tmp_path`, without Ray; what it reported."""
    experiment = compose.compose([]).experiment
    trial.open_trial(tmp_path, TrialSpec("0000", experiment))

    def once() -> list[dict[str, Any]]:
        reports: list[dict[str, Any]] = []
        ray = types.ModuleType("ray")
        ray.tune = types.SimpleNamespace(report=reports.append)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "ray", ray)
        config = {"id": "0000", "experiment": to_mapping(experiment), "max_workers": 1}
        where = str(tmp_path)
        trial.run_trial(
            config, data=Data("", None), run=where, gpus=0, memory=0, goal=Goal({"m": "max"})
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


def test_a_lost_worker_is_no_failure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(*args: Any, **kwargs: Any) -> None:
        raise LostWorkerError("gone")

    monkeypatch.setattr(trial, "launch", lose)
    with pytest.raises(LostWorkerError):
        run()


def test_a_trial_that_dies_in_one_place_is_to_blame_and_one_that_gets_on_is_not(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[int] = []
    monkeypatch.setattr(trial, "launch", lambda *args, **kwargs: starts.append(1))
    last = tmp_path / "trials" / "0000" / "last.pt"
    for epoch in range(1, 5):  # lost twice in each epoch, of which each left a checkpoint
        assert [run(), run()] == [[], []]
        last.write_bytes(b"")
        os.utime(last, ns=(epoch, epoch))
    assert [run(), run(), run()] == [[], [], []]
    (report,) = run()
    assert report["failed"]["kind"] == "crash"
    assert len(starts) == 11


def test_a_trial_that_is_opened_again_starts_with_a_clean_sheet(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "launch", lambda *args, **kwargs: None)
    experiment = compose.compose([]).experiment
    assert [run(), run(), run()] == [[], [], []]
    last = tmp_path / "trials" / "0000" / "last.pt"
    last.write_bytes(b"its own")
    trial.open_trial(tmp_path, TrialSpec("0000", experiment, new=False))
    assert run() == []
    assert last.exists()
    trial.open_trial(tmp_path, TrialSpec("0000", experiment))
    assert not last.exists()
    kept = (tmp_path / "trials" / "0000" / EXPERIMENT_YAML).read_text()
    assert load_yaml(kept, type(experiment)) == experiment
