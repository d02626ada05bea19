"""A run's files, read for a report; only its records must be there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from raudio import records
from raudio.core.storage import local_run
from raudio.records import History, TrialHistory

#: The bundle that a search exports into its run, and what it says there of the trial.
BUNDLE_METRICS = Path("bundle") / "metrics.json"
BUNDLE_LABELS = Path("bundle") / "labels.json"

_TRACEBACK = 4000


@dataclass(frozen=True)
class Point:
    """One report, and what the search had spent by then.

    Attributes:
        trial: its id.
        epoch: of the trial.
        value: of the metric; None where the report has none.
        epochs: reported so far, over all trials.
        seconds: of wall time so far, without the pauses between sessions.
    """

    trial: str
    epoch: int
    value: float | None
    epochs: int
    seconds: float

    def spent(self, axis: str) -> float:
        """What had been spent of a budget, "epochs" or "seconds"."""
        return self.epochs if axis == "epochs" else self.seconds


@dataclass(frozen=True)
class Run:
    """What a run's folder holds.

    Attributes:
        name: as the user gave it.
        folder: where it is.
        history: what its records tell.
        points: every report, in the order in which they came.
    """

    name: str
    folder: Path
    history: History
    points: tuple[Point, ...]

    @property
    def best(self) -> TrialHistory | None:
        """The best trial."""
        return self.history.best()

    def value(self, trial: TrialHistory) -> float | None:
        """A trial's best value."""
        return trial.value(self.history.metric, self.history.mode)

    @cached_property
    def ranked(self) -> list[TrialHistory]:
        """All trials, best first."""
        return self.history.ranked()

    @cached_property
    def valued(self) -> list[TrialHistory]:
        """Those trials that have a value and did not fail, best first."""
        return [
            trial
            for trial in self.ranked
            if trial.state != records.FAILED and self.value(trial) is not None
        ]

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions and hardware."""
        return _table(self.folder / records.ENVIRONMENT_JSON)

    @cached_property
    def search(self) -> dict[str, Any]:
        """The configuration, and the overrides of the command line."""
        return _table(self.folder / records.SEARCH_YAML)

    @cached_property
    def space(self) -> dict[str, str]:
        """Every searched setting, conditional ones too, with what it may be."""
        found = _table(self.folder / records.SPACE_YAML)
        parts = [found, *(part for part in found.get("conditions") or () if isinstance(part, dict))]
        params = [part["params"] for part in parts if isinstance(part.get("params"), dict)]
        return {str(key): str(axis) for part in params for key, axis in part.items()}

    @cached_property
    def dataset(self) -> dict[str, Any]:
        """The dataset's manifest."""
        return _table(self.folder / records.DATASET_JSON)

    @cached_property
    def preflight(self) -> dict[str, Any]:
        """What was found in the dataset before the search started."""
        return _table(self.folder / records.PREFLIGHT_JSON)

    @cached_property
    def bundle(self) -> dict[str, Any]:
        """What the exported bundle says of its trial."""
        return _table(self.folder / BUNDLE_METRICS)

    @cached_property
    def labels(self) -> list[str]:
        """The bundle's labels, in the order of its scores."""
        found = _read(self.folder / BUNDLE_LABELS)
        return [str(label) for label in found] if isinstance(found, list) else []

    def experiment(self, trial: TrialHistory) -> dict[str, Any]:
        """The resolved experiment of a trial."""
        return _table(records.trial_folder(self.folder, trial.id) / records.EXPERIMENT_YAML)

    def traceback(self, trial: TrialHistory) -> str:
        """The end of what a failed trial left behind."""
        path = records.trial_folder(self.folder, trial.id) / records.ERROR_TXT
        try:
            return path.read_text(errors="replace")[-_TRACEBACK:].strip()
        except OSError:
            return ""


def read_run(run: str | os.PathLike[str]) -> Run:
    """Reads a run, also while it goes on.

    Raises:
        RunError: not a run folder, or its records are damaged.
    """
    folder = records.check_run(local_run(run))
    history = records.read_history(folder)
    clock = History()  # for its wall time, record by record
    points: list[Point] = []
    for record in records.read_records(folder):
        clock.apply(record)
        if record["event"] == "report":
            value = record["metrics"].get(history.metric)
            points.append(
                Point(
                    record["id"],
                    record["epoch"],
                    None if value is None else float(value),
                    len(points) + 1,
                    clock.seconds,
                )
            )
    return Run(os.fspath(run), folder, history, tuple(points))


def _table(path: Path) -> dict[str, Any]:
    found = _read(path)
    return dict(found) if isinstance(found, Mapping) else {}


def _read(path: Path) -> Any:
    """A JSON or YAML file; None where it is missing or damaged, which costs a report a section."""
    try:
        content = path.read_text(encoding="utf-8")
        return json.loads(content) if path.suffix == ".json" else yaml.safe_load(content)
    except (OSError, ValueError, yaml.YAMLError):
        return None
