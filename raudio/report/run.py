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
    def drawn(self) -> list[TrialHistory]:
        """The first trial of each configuration with a value that did not fail, best first: what
        the settings are judged by, each with its `worth`. A repeat, a confirmation and what was
        answered from the record are no further draw of the settings."""
        sign = 1.0 if self.history.mode == "min" else -1.0
        firsts = [
            configuration.trials[0]
            for configuration in self.history.configurations.values()
            if configuration.trials and configuration.state != records.FAILED
        ]
        known = [(trial, self.worth(trial)) for trial in firsts if trial.same_as is None]
        valued = [(sign * worth, trial.id, trial) for trial, worth in known if worth is not None]
        return [trial for *_, trial in sorted(valued, key=lambda one: one[:2])]

    def worth(self, trial: TrialHistory) -> float | None:
        """The mean value of a trial's configuration, as the search has it."""
        configuration = self.history.configurations[trial.configuration]
        return configuration.value(self.history.metric, self.history.mode)

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions and hardware."""
        return _table(self.folder / records.ENVIRONMENT_JSON)

    @cached_property
    def search(self) -> dict[str, Any]:
        """The configuration, and the overrides of the command line."""
        return _table(self.folder / records.SEARCH_YAML)

    def configured(self, *path: str) -> dict[str, Any]:
        """A part of the configuration, such as ("experiment", "dataset")."""
        found = _mapping(self.search.get("configuration"))
        for name in path:
            found = _mapping(found.get(name))
        return found

    @property
    def overrides(self) -> list[str]:
        """What the command line set, axes aside."""
        return [str(one) for one in _list(self.search.get("overrides"))]

    @property
    def command(self) -> list[str]:
        """The command that started the run."""
        return [str(one) for one in _list(self.environment.get("command"))]

    @cached_property
    def space_file(self) -> dict[str, Any]:
        """The space, as its file has it."""
        return _table(self.folder / records.SPACE_YAML)

    @cached_property
    def space(self) -> dict[str, str]:
        """Every searched setting, conditional ones too, with what it may be."""
        found = self.space_file
        parts = [found, *map(_mapping, _list(found.get("conditions")))]
        params = [_mapping(part.get("params")) for part in parts]
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
        return [str(label) for label in _list(_read(self.folder / BUNDLE_LABELS))]

    @cached_property
    def confusion(self) -> list[list[int]]:
        """The bundle's confusion matrix, a row for each true class; empty where it has none."""
        rows = _list(_mapping(self.bundle.get("details")).get("confusion"))
        size = len(self.labels)
        whole = len(rows) == size and all(
            isinstance(row, list) and len(row) == size and all(type(count) is int for count in row)
            for row in rows
        )
        return rows if whole else []

    @cached_property
    def wrong(self) -> list[dict[str, Any]]:
        """The bundle's most wrong clips, the worst first, as `Classification.details` has them."""
        found = _list(_mapping(self.bundle.get("details")).get("wrong"))
        classes = range(len(self.labels))
        return [
            one
            for one in map(_mapping, found)
            if type(one.get("clip")) is int
            and one.get("true") in classes
            and one.get("predicted") in classes
            and all(isinstance(one.get(key), int | float) for key in ("score", "true_score"))
        ]

    @property
    def problems(self) -> list[dict[str, Any]]:
        """What was odd about the dataset, the worst first."""
        return [_mapping(one) for one in _list(self.preflight.get("problems"))]

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
    folder = records.find_run(run, lambda file: not file.endswith(".pt"))
    reader = records.RecordReader(folder)
    history = reader.history
    points: list[Point] = []
    for record in reader.read():
        if record["event"] == "report":
            value = record["metrics"].get(history.metric)
            points.append(
                Point(
                    record["id"],
                    record["epoch"],
                    None if value is None else float(value),
                    len(points) + 1,
                    history.seconds,
                )
            )
    return Run(os.fspath(run), folder, history, tuple(points))


def _table(path: Path) -> dict[str, Any]:
    return _mapping(_read(path))


def _mapping(value: Any) -> dict[str, Any]:
    """A table as it was read; another thing, in a file that was changed, is an empty one."""
    return dict(value) if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _read(path: Path) -> Any:
    """A JSON or YAML file; None where it is missing or damaged, which costs a report a section."""
    try:
        content = path.read_text(encoding="utf-8")
        return json.loads(content) if path.suffix == ".json" else yaml.safe_load(content)
    except (OSError, ValueError, yaml.YAMLError):
        return None
