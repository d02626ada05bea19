"""MLflow: a run for the search, and in it one for each trial."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from raudio.core.secrets import redact
from raudio.records import COMPLETED, FAILED, History, ReportRecord, TrialHistory
from raudio.tracking.tracker import Outcome, RunInfo, Tracker, about, summary

#: What a call takes at most: parameters, metrics, characters of a text.
_PARAMS, _METRICS, _CHARACTERS = 100, 1000, 5000
#: Tags by which a raudio run and its trials are found again.
_RUN, _TRIAL = "raudio.run", "raudio.trial"


class MLflow(Tracker):
    """Sends to a server, or writes into a local store.

    Args:
        uri, experiment: as in `raudio.config.tracking.MLflow`.
    """

    def __init__(self, *, uri: str | None = None, experiment: str | None = None) -> None:
        # A server that does not answer is tried again by whoever asked, not for minutes here.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        _credentials_apart()
        self._uri = uri
        self._experiment = experiment
        self._client: Any
        self._in = ""  # MLflow's id of the experiment
        self._info: RunInfo
        self._metric = ("", "max")
        self._search = ""  # MLflow's id of the search's run, and of the trials'
        self._trials: dict[str, str] = {}
        self._with_settings: set[str] = set()
        self._waiting: dict[str, list[Any]] = {}  # metrics that are to be sent, by MLflow's id

    def start_search(self, run: RunInfo, history: History) -> bool:
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=self._uri)
        self._info = run
        self._metric = (history.metric, history.mode)
        name = self._experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.dataset
        self._in = self._experiment_id(name)
        self.note = f"has it in experiment {name} as {run.name}"
        found = self._find(f"tags.`{_RUN}` = '{run.key}' and tags.`{_TRIAL}` = ''")
        if found:
            self._search = found[0].info.run_id
            self._client.update_run(self._search, status="RUNNING")
            return True
        made = self._client.create_run(
            self._in,
            run_name=run.name,
            start_time=_milliseconds(run.time),
            tags={_RUN: run.key, _TRIAL: ""},
        )
        self._search = made.info.run_id
        self._params(self._search, _flat(run.settings))
        return False

    def start_trial(self, trial: TrialHistory, settings: Mapping[str, Any], time: float) -> int:
        known = 0
        if trial.id not in self._trials:
            known = self._open(trial, time)
        if settings and trial.id not in self._with_settings:
            self._with_settings.add(trial.id)
            self._params(self._trials[trial.id], settings)
        return known

    def report(self, trial: TrialHistory, report: ReportRecord, time: float) -> None:
        from mlflow.entities import Metric

        values = {**report.metrics, "seconds": report.seconds, "epoch": report.epoch}
        waiting = self._waiting.setdefault(self._trials[trial.id], [])
        now = _milliseconds(time)
        waiting += [Metric(name, value, now, report.epoch) for name, value in values.items()]

    def end_trial(self, trial: TrialHistory, state: str, time: float) -> None:
        self.flush()
        name = self._trials.pop(trial.id)
        best = trial.best_metrics(*self._metric)
        self._batch(name, metrics=_metrics({f"best/{k}": v for k, v in best.items()}, time))
        self._end(name, state, {"state": state, **about(trial)}, time)

    def end_search(self, history: History, outcome: Outcome) -> None:
        self.flush()
        found = summary(history)
        numbers = {k: v for k, v in found.items() if isinstance(v, (int, float))}
        texts = {k: str(v) for k, v in found.items() if k not in numbers}
        self._batch(self._search, metrics=_metrics(numbers, history.time))
        if outcome.confusion:
            table = {"labels": list(outcome.labels), "confusion": [*map(list, outcome.confusion)]}
            self._client.log_dict(self._search, table, "confusion.json")
        for clip in outcome.clips:
            with tempfile.TemporaryDirectory() as folder:
                stem = f"{Path(clip.id).stem} {clip.true} taken for {clip.predicted}"
                path = Path(folder, f"{stem.replace('/', '-')[:100]}.flac")
                path.write_bytes(clip.audio)
                self._client.log_artifact(self._search, str(path), "wrong")
        if outcome.bundle is not None:
            self._client.log_artifacts(self._search, str(outcome.bundle), "bundle")
        self._end(self._search, history.state, texts, history.time)

    def flush(self) -> None:
        while self._waiting:
            name, metrics = next(iter(self._waiting.items()))
            for start in range(0, len(metrics), _METRICS):
                self._batch(name, metrics=metrics[start : start + _METRICS])
            del self._waiting[name]

    # --- inside ----------------------------------------------------------------------------------

    def _experiment_id(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            with suppress(MlflowException):  # another search was faster
                return str(self._client.create_experiment(name))
            found = self._client.get_experiment_by_name(name)
            assert found is not None
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _find(self, what: str) -> list[Any]:
        return list(self._client.search_runs([self._in], what, max_results=1))

    def _open(self, trial: TrialHistory, time: float) -> int:
        """Makes the run of a trial, or joins it; the last epoch that it has."""
        mine = f"tags.`{_RUN}` = '{self._info.key}' and tags.`{_TRIAL}` = '{trial.id}'"
        found = self._find(mine)
        if found:
            self._trials[trial.id] = name = found[0].info.run_id
            self._client.update_run(name, status="RUNNING")
            if found[0].data.params:  # they cannot be changed
                self._with_settings.add(trial.id)
            history = self._client.get_metric_history(name, "epoch")
            return max((metric.step for metric in history), default=0)
        made = self._client.create_run(
            self._in,
            run_name=f"{self._info.name} {trial.id}",
            start_time=_milliseconds(time),
            tags={
                _RUN: self._info.key,
                _TRIAL: trial.id,
                "mlflow.parentRunId": self._search,
                **{f"raudio.{name}": text for name, text in about(trial).items()},
            },
        )
        self._trials[trial.id] = made.info.run_id
        return 0

    def _params(self, name: str, settings: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)[:_CHARACTERS]) for key, value in settings.items()]
        for start in range(0, len(params), _PARAMS):
            self._batch(name, params=params[start : start + _PARAMS])

    def _batch(self, name: str, **content: Any) -> None:
        self._client.log_batch(name, **content)

    def _end(self, name: str, state: str, texts: Mapping[str, str], time: float) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(f"raudio.{k}", redact(v)[:_CHARACTERS]) for k, v in texts.items()]
        self._batch(name, tags=tags)
        status = {COMPLETED: "FINISHED", FAILED: "FAILED"}.get(state, "KILLED")
        self._client.set_terminated(name, status, _milliseconds(time))


def _credentials_apart() -> None:
    """User and password out of MLFLOW_TRACKING_URI, which messages quote, into their variables."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return
    os.environ.setdefault("MLFLOW_TRACKING_USERNAME", unquote(parts.username or ""))
    os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", unquote(parts.password or ""))
    host = parts.netloc.rpartition("@")[2]
    os.environ["MLFLOW_TRACKING_URI"] = urlunsplit(parts._replace(netloc=host))


def _metrics(values: Mapping[str, float], time: float) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(name, value, _milliseconds(time), 0) for name, value in values.items()]


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        elif value not in (None, [], ""):
            found[f"{prefix}{name}"] = value
    return found
