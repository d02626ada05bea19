"""A search's `optuna.journal` is a study that Optuna and optuna-dashboard open."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from search_kit import METRIC, Clock, Session

from raudio.records import JOURNAL, History, read_history

STATES = {
    "completed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.PRUNED,  # and infeasible: see the sampler
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that has ended, with trials of every end."""
    folder = tmp_path_factory.mktemp("run")
    session = Session(folder, Clock(), trials=30)
    session.drive(slots=3)
    session.finish()
    return folder


@pytest.fixture(scope="module")
def history(run: Path) -> History:
    found = read_history(run)
    assert {trial.state for trial in found.trials.values()} == set(STATES)
    return found


def storage(run: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(run / JOURNAL)))


def test_optuna_reads_every_trial_as_the_records_have_it(run: Path, history: History) -> None:
    study = optuna.load_study(study_name="raudio", storage=storage(run))
    assert len(study.trials) == len(history.trials)
    for known in study.trials:
        trial = history.trials[known.user_attrs["trial"]]
        assert known.state == STATES[trial.state]
        assert known.params == trial.params
        assert known.intermediate_values == {r.epoch: r.metrics[METRIC] for r in trial.reports}
        if trial.state == "completed":
            assert known.value == trial.value(METRIC, "max")
        assert known.user_attrs["state"] == trial.state
        assert known.user_attrs["epochs"] == trial.epochs
        assert known.user_attrs.get("reason") == trial.reason
    best = history.best()
    assert best is not None
    completed = [t for t in history.ranked() if t.state == "completed"]
    assert study.best_trial.user_attrs["trial"] == completed[0].id


class Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def dashboard(run: Path) -> Iterator[str]:
    """The address of a dashboard of the run, on loopback."""
    app = pytest.importorskip("optuna_dashboard").wsgi(storage(run))
    with make_server("127.0.0.1", 0, app, handler_class=Silent) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_dashboard_serves_the_study(dashboard: str, history: History) -> None:
    def get(path: str) -> dict[str, list[dict[str, object]]]:
        found: dict[str, list[dict[str, object]]]
        with urllib.request.urlopen(dashboard + path, timeout=30) as answer:
            found = json.load(answer)
        return found

    (study,) = get("/api/studies")["study_summaries"]
    assert study["study_name"] == "raudio"
    trials = get(f"/api/studies/{study['study_id']}?after=0")["trials"]
    states = {"completed": "Complete", "pruned": "Pruned", "failed": "Pruned"}
    assert [trial["state"] for trial in trials] == [
        states[trial.state] for trial in history.trials.values()
    ]
    for shown, trial in zip(trials, history.trials.values(), strict=True):
        intermediate = shown["intermediate_values"]
        assert isinstance(intermediate, list)
        assert [(one["step"], one["value"]) for one in intermediate] == [
            (report.epoch, report.metrics[METRIC]) for report in trial.reports
        ]
        attributes = shown["user_attrs"]
        assert isinstance(attributes, list)
        assert {"key": "trial", "value": trial.id} in attributes
