"""A made-up run: records as a search writes them, of any number of trials, in a second.

Nothing is trained: a trial's curve is drawn from its settings, and its rungs stop it as a scheduler
says. Used by `report.py` beside it and by the tests of the report.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from raudio import records

EPOCHS = 9
RUNGS = (1, 3)
LABELS = ("down", "left", "right", "up")
SPACE = {
    "model": "choice(cnn, crnn)",
    "model.width": "choice(8, 16, 24)",
    "model.dropout": "interval(0, 0.5)",
    "optimizer.lr": "tag(log, interval(0.0001, 0.1))",
    "training.batch_size": "choice(16, 32, 64)",
}
CONDITIONS = [{"when": {"model": "crnn"}, "params": {"model.rnn_units": "choice(32, 64, 96)"}}]

#: Whether a trial goes on after a value at an epoch.
GoesOn = Callable[[str, int, float], bool]


def make_run(
    folder: Path,
    trials: int,
    *,
    goes_on: GoesOn | None = None,
    brackets: Sequence[Sequence[int]] = (RUNGS,),
    bracket: Callable[[str], int] = lambda trial: 0,
    mode: str = "max",
    failing: float = 0.05,
    end: str | None = "completed",
    seed: int = 0,
) -> Path:
    """Writes a run folder.

    Args:
        folder: of the run, must be new.
        trials: how many.
        goes_on: of the scheduler; None: at a rung a trial has to be above the median.
        brackets, bracket: the rungs of each, and that of a trial.
        mode: "max" (accuracy) or "min" (loss).
        failing: share of the trials that fail at their second epoch.
        end: how the search ends; None: its driver died, and the last trial was running.
        seed: of everything drawn.
    """
    draw = np.random.default_rng(seed)
    metric = "valid/accuracy" if mode == "max" else "valid/loss"
    stops = goes_on or _median_rule(mode)
    clock = 1_700_000_000.0
    with records.RecordWriter(folder / records.RECORDS) as writer:
        writer.append(
            "search_start",
            time=clock,
            version="0.1.0",
            metric=metric,
            mode=mode,
            trials=trials,
            time_budget=None,
            rungs=list(RUNGS),
            brackets=brackets,
            resumed=False,
        )
        for number in range(trials):
            name, params = records.trial_id(number), _params(draw)
            writer.append(
                "trial_start",
                time=clock,
                id=name,
                params=params,
                signature="made",
                bracket=bracket(name),
            )
            fails = draw.random() < failing
            pace = 0.02 * params["model.width"] * (2 if params["model"] == "crnn" else 1)
            started, state, reason, kind = clock, records.COMPLETED, None, None
            for epoch in range(1, EPOCHS + 1):
                seconds = pace * float(draw.uniform(0.9, 1.1))
                clock += seconds
                if fails and epoch == 2:
                    state, kind = records.FAILED, "non-finite loss"
                    reason = f"the loss is nan at step {int(draw.integers(1, 99))}"
                    break
                value = _value(params, epoch, draw)
                value = value if mode == "max" else -math.log(value)
                metrics = {metric: value, "train/loss": 1 - value, "lr": params["optimizer.lr"]}
                final = epoch == EPOCHS
                writer.append(
                    "report",
                    time=clock,
                    id=name,
                    epoch=epoch,
                    metrics=metrics,
                    seconds=seconds,
                    final=final,
                )
                if not final and not stops(name, epoch, value):
                    state, reason = records.PRUNED, f"worse than others at epoch {epoch}"
                    break
            if end is None and number == trials - 1:
                break
            writer.append(
                "trial_end",
                time=clock,
                id=name,
                state=state,
                kind=kind,
                reason=reason,
                seconds=clock - started,
            )
        if end is not None:
            writer.append("search_end", time=clock, state=end, reason=None)
    _write_files(folder, trials)
    return folder


def add_bundle(folder: Path, trial: str, labels: tuple[str, ...] = LABELS, seed: int = 0) -> None:
    """What an exported bundle says of its trial: a confusion matrix and the most wrong clips."""
    draw = np.random.default_rng(seed)
    counts = draw.integers(0, 4, (len(labels), len(labels))) + 20 * np.eye(len(labels), dtype=int)
    wrong = [
        {"clip": n, "true": 0, "predicted": 1, "true_score": 0.01 * n, "score": 0.9}
        for n in range(3)
    ]
    bundle = folder / "bundle"
    bundle.mkdir(exist_ok=True)
    metrics = {"trial": trial, "details": {"confusion": counts.tolist(), "wrong": wrong}}
    (bundle / "metrics.json").write_text(json.dumps(metrics))
    (bundle / "labels.json").write_text(json.dumps(labels))


def _params(draw: np.random.Generator) -> dict[str, Any]:
    params: dict[str, Any] = {
        "model": str(draw.choice(["cnn", "crnn"])),
        "model.width": int(draw.choice([8, 16, 24])),
        "model.dropout": float(draw.uniform(0, 0.5)),
        "optimizer.lr": float(10 ** draw.uniform(-4, -1)),
        "training.batch_size": int(draw.choice([16, 32, 64])),
    }
    if params["model"] == "crnn":
        params["model.rnn_units"] = int(draw.choice([32, 64, 96]))
    return params


def _value(params: Mapping[str, Any], epoch: int, draw: np.random.Generator) -> float:
    """An accuracy: the learning rate decides most, the width a little, the rest nothing."""
    distance = math.log10(params["optimizer.lr"]) + 2.5
    level = 0.95 * math.exp(-0.5 * distance**2) + 0.001 * params["model.width"]
    noise = 0.01 * float(draw.standard_normal())
    return min(0.999, max(0.01, level * (1 - math.exp(-epoch / 3)) + noise))


def _median_rule(mode: str) -> GoesOn:
    seen: dict[int, list[float]] = {epoch: [] for epoch in RUNGS}
    sign = 1 if mode == "max" else -1

    def goes_on(trial: str, epoch: int, value: float) -> bool:
        if epoch not in seen:
            return True
        seen[epoch].append(sign * value)
        return sign * value >= float(np.median(seen[epoch][-99:]))

    return goes_on


def _write_files(folder: Path, trials: int) -> None:
    """What else a run says of itself."""
    overrides = [f"search.trials={trials}", f"run.dir={folder}"]
    search = {"overrides": overrides, "single": False, "configuration": {"search": {}}}
    (folder / records.SEARCH_YAML).write_text(yaml.safe_dump(search))
    space = {"about": "made up", "params": SPACE, "conditions": CONDITIONS}
    (folder / records.SPACE_YAML).write_text(yaml.safe_dump(space, sort_keys=False))
    command = ["raudio", "search", *overrides]
    environment = {"raudio": "0.1.0", "packages": {"torch": "2.11.0"}, "command": command}
    (folder / records.ENVIRONMENT_JSON).write_text(json.dumps(environment))
