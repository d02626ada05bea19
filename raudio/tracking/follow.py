"""From the records of a run to a tracker, also while they are written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from raudio.core.secrets import redact
from raudio.core.storage import write_atomic
from raudio.records import (
    ENVIRONMENT_JSON,
    EXPERIMENT_YAML,
    INTERRUPTED,
    RECORDS,
    RUNNING,
    SEARCH_YAML,
    WAITS,
    RecordReader,
    TrialHistory,
    trial_folder,
)
from raudio.tracking.tracker import Outcome, RunInfo, Tracker, tracking_folder


class Follower:
    """Tells a tracker what the records of a run say, once each.

    How far it has come is kept in the run, so that another process goes on from there. What that
    one may tell again, because the last died before it could say how far it was, the tracker knows.

    Args:
        run: the run folder.
        tracker: a new one.
        name: of the tracker.
        run_name: path or URI by which the user calls the run; None: its folder.
    """

    def __init__(self, run: Path, tracker: Tracker, name: str, run_name: str | None = None) -> None:
        self._run = run
        self._tracker = tracker
        self._run_name = run_name
        self._position = tracking_folder(run) / f"{name}.json"
        self._reader: RecordReader | None = None
        self._began = False
        self._told = self._count = 0  # records
        self._known: dict[str, int] = {}  # trials that are open: the last epoch that was sent
        self._complete: dict[str, bool] = {}  # whether the tracker has got their settings
        self._time = 0.0

    def step(self) -> bool:
        """Tells of the records that have come since the last time; whether there were any.

        Raises:
            Exception: whatever the tracker raises. Make a new tracker, and a new follower.
        """
        if self._reader is None:
            if not (self._run / RECORDS).is_file():
                return False  # the driver is just starting
            self._reader = RecordReader(self._run)
        before = self._count
        for record in self._reader.read():
            self._count += 1
            self._time = record["time"]
            if not self._began:
                self._begin(record)
            if self._count > self._told:
                self._tell(record)
        if self._count <= max(before, self._told):
            return False
        self._keep()
        return True

    def end(self, outcome: Outcome) -> None:
        """Tells that nothing comes any more: `step` has told of everything."""
        if self._reader is None or not self._began:
            return
        history = self._reader.history
        for name in list(self._known):
            trial = history.trials[name]
            state = INTERRUPTED if trial.state == RUNNING else trial.state
            self._end_trial(trial, state)
        if history.state == RUNNING:  # its driver is being killed
            history.state = INTERRUPTED
        self._tracker.end_search(history, outcome)
        self._keep(ended=True)

    def _begin(self, record: Mapping[str, Any]) -> None:
        assert self._reader is not None
        info = run_info(self._run, record, self._run_name)
        self._began = True
        if not self._tracker.start_search(info, self._reader.history):
            return
        if self._position.exists():
            position = json.loads(self._position.read_text())
            if position["ended"] or not self._tracker.buffers:
                self._told = position["records"]

    def _keep(self, ended: bool = False) -> None:
        self._tracker.flush()
        self._told = self._count
        position = {"records": self._told, "ended": ended}
        write_atomic(self._position, json.dumps(position) + "\n")

    def _tell(self, record: Mapping[str, Any]) -> None:
        assert self._reader is not None
        event, history = record["event"], self._reader.history
        if event not in ("trial_start", "report", "trial_end"):
            return
        trial = history.trials[record["id"]]
        if event == "trial_start" or not self._complete.get(trial.id):
            self._start_trial(trial, ended=event == "trial_end")
        if event == "report" and record["epoch"] > self._known[trial.id]:
            report = next(r for r in reversed(trial.reports) if r.epoch == record["epoch"])
            self._tracker.report(trial, report, self._time)
            self._known[trial.id] = report.epoch
        elif event == "trial_end" and trial.reason != WAITS:
            self._end_trial(trial, trial.state)

    def _start_trial(self, trial: TrialHistory, ended: bool) -> None:
        # Its folder is made just after its start is recorded; one that is not trained has none.
        settings = trial_settings(self._run, trial)
        if not settings and (ended or trial.same_as is not None):
            settings = {**trial.params, **trial.changed}
        known = self._tracker.start_trial(trial, settings, self._time)
        self._known[trial.id] = max(known, self._known.get(trial.id, 0))
        self._complete[trial.id] = bool(settings)

    def _end_trial(self, trial: TrialHistory, state: str) -> None:
        self._tracker.end_trial(trial, state, self._time)
        del self._known[trial.id]
        self._complete.pop(trial.id)


def run_info(run: Path, first: Mapping[str, Any], name: str | None = None) -> RunInfo:
    """What a tracker is told of a run.

    Args:
        run: the run folder.
        first: its first record.
        name: path or URI by which the user calls the run; None: its folder.
    """
    settings: dict[str, Any] = {}
    path = run / SEARCH_YAML
    if path.is_file():
        configuration = yaml.safe_load(path.read_text())["configuration"]
        settings = _without_secrets(configuration)
    experiment = settings.pop("experiment", {})
    settings.pop("tracking", None)
    paths = (experiment.get("dataset") or {}).get("path") or ""
    environment = run / ENVIRONMENT_JSON
    content = environment.read_bytes() if environment.is_file() else b""
    content += json.dumps(first, sort_keys=True).encode()
    return RunInfo(
        folder=run,
        name=_last_part(name or str(run.resolve())),
        key=hashlib.sha256(content).hexdigest()[:8],
        dataset="+".join(map(_last_part, [paths] if isinstance(paths, str) else paths)),
        settings=settings,
        time=first["time"],
    )


def trial_settings(run: Path, trial: TrialHistory) -> dict[str, Any]:
    """The settings of a trial's experiment, flat, without augmentations that are off; empty when
    they are not known (yet)."""
    path = trial_folder(run, trial.id) / EXPERIMENT_YAML
    if not path.is_file():
        return {}
    experiment = _without_secrets(yaml.safe_load(path.read_text()))
    augment = experiment.get("augment") or {}
    experiment["augment"] = {
        name: values
        for name, values in augment.items()
        if not isinstance(values, dict) or name == "chain" or values.get("p")
    }
    return {**_flat(experiment), **trial.params, **trial.changed}


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        elif value not in (None, [], ""):
            key = f"{prefix}{name}"
            found[key.removesuffix(".name")] = value  # `model.name` is written `model`
    return found


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_secrets(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_secrets(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value


def _last_part(path: str) -> str:
    """The name of a folder, wherever it is."""
    return path.rstrip("/").rpartition("/")[2] or "raudio"
