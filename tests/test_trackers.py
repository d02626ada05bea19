"""What Weights & Biases, MLflow and TensorBoard hold of a run, read back by their own readers (of
wandb's files: its protocol buffers in LevelDB's log format).
"""

from __future__ import annotations

import io
import json
import math
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fake_wandb
import numpy as np
import pytest
import soundfile
from search_kit import KilledError
from tracking_kit import CONFUSION, LABELS, Searched, lag, make_bundle, tell

from raudio.records import History, read_history
from raudio.tracking.tracker import Clip, Outcome, Tracker

METRIC = "valid/accuracy"


@pytest.fixture
def searched(tmp_path: Path) -> Searched:
    """A run that has ended, with its experiments."""
    searched = Searched(tmp_path / "mine")
    searched.finish()
    searched.keep_experiments()
    return searched


def outcome(run: Path) -> Outcome:
    wave = np.sin(np.arange(2000) / 5) / 2
    file = io.BytesIO()
    soundfile.write(file, wave, 8000, format="FLAC")
    clip = Clip("birds/a.wav", "cat", "dog", 0.9, file.getvalue())
    return Outcome(make_bundle(run), LABELS, CONFUSION, (clip,))


def curves(history: History) -> dict[str, list[tuple[int, float]]]:
    return {
        trial.id: [(report.epoch, report.metrics[METRIC]) for report in trial.reports]
        for trial in history.trials.values()
    }


def in_sessions(folder: Path, tracker: Any, pause: float = 0.0) -> Searched:
    """A search that is killed twice, and told after each of its sessions to a tracker anew, which
    is told some of it again."""
    searched = Searched(folder / "mine")
    for deadline in (6, 14, math.inf):
        try:
            searched.session(deadline).finish()
        except KilledError:
            assert deadline < math.inf
        tell(searched.run, tracker())
        lag(searched.run)
        time.sleep(pause)
    tell(searched.run, tracker())
    return searched


# --- TensorBoard ---------------------------------------------------------------------------------


def board(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "audio": 0})
    accumulator.Reload()
    return accumulator


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = {}
    for path in folder.iterdir():
        if path.is_dir() and METRIC in (events := board(path)).Tags()["scalars"]:
            points = sorted((event.step, event.value) for event in events.Scalars(METRIC))
            found[path.name] = [(step, pytest.approx(value)) for step, value in points]
    return found


def hparams_page(folder: Path) -> tuple[set[str], dict[str, dict[str, float]]]:
    """What the page HPARAMS shows: its columns, and the metrics of each trial."""
    from tensorboard import context
    from tensorboard.backend.event_processing import data_provider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    events = EventMultiplexer()
    events.AddRunsFromDirectory(str(folder))
    events.Reload()
    provider = data_provider.MultiplexerDataProvider(events, str(folder))
    page = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    asked = context.RequestContext()
    experiment = page.experiment_from_metadata(
        asked,
        "",
        True,
        page.hparams_metadata(asked, ""),
        page.hparams_from_data_provider(asked, "", limit=None),
    )
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=[1, 2, 3], slice_size=100, aggregation_type=1
    )
    found = list_session_groups.Handler(asked, page, "", request).run().session_groups
    groups = {g.name: {m.name.tag: m.value for m in g.metric_values} for g in found}
    return {info.name for info in experiment.hparam_infos}, groups


def test_tensorboard_has_scalars_and_hparams(searched: Searched, tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import metadata

    from raudio.tracking.tensorboard import TensorBoard

    tracker = TensorBoard(dir=str(tmp_path / "boards"))
    tell(searched.run, tracker, outcome(searched.run))
    (folder,) = (tmp_path / "boards").iterdir()
    assert folder.name.startswith("mine-")
    assert str(folder) in tracker.note
    history = read_history(searched.run)
    assert scalars(folder) == {name: points for name, points in curves(history).items() if points}

    def plugin_data(trial: str, tag: str, parse: Any) -> Any:
        return parse(board(folder / trial).SummaryMetadata(tag).plugin_data.content)

    names, groups = hparams_page(folder)
    assert {"optimizer.lr", "model.width", "model"} <= names
    assert {name: values.get(METRIC) for name, values in groups.items()} == {
        name: pytest.approx(points[-1][1]) if points else None
        for name, points in curves(history).items()
    }
    for trial in history.trials.values():
        started = plugin_data(
            trial.id, metadata.SESSION_START_INFO_TAG, metadata.parse_session_start_info_plugin_data
        )
        assert started.hparams["optimizer.lr"].number_value == trial.params["optimizer.lr"]
        ended = plugin_data(
            trial.id, metadata.SESSION_END_INFO_TAG, metadata.parse_session_end_info_plugin_data
        )
        assert (ended.status == 2) == (trial.state == "failed")  # STATUS_FAILURE
        (said,) = board(folder / trial.id).Tensors("trial")
        assert f"| state | {trial.state} |" in said.tensor_proto.string_val[0].decode()
    whole = board(folder)
    (confusion,) = whole.Tensors("confusion")
    assert "| cat | 5 | 1 |" in confusion.tensor_proto.string_val[0].decode()
    (audio,) = whole.Audio("wrong/0")
    wave, rate = soundfile.read(io.BytesIO(audio.encoded_audio_string))
    assert (rate, len(wave)) == (8000, 2000)


def test_tensorboard_is_joined(tmp_path: Path) -> None:
    from raudio.tracking.tensorboard import TensorBoard

    searched = in_sessions(tmp_path, TensorBoard)
    folder = searched.run / "tracking" / "tensorboard"
    history = read_history(searched.run)
    assert scalars(folder) == {name: points for name, points in curves(history).items() if points}


# --- Weights & Biases ----------------------------------------------------------------------------


def stored(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log format, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, whole = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, size, kind = struct.unpack("<IHB", data[position : position + 7])
        whole += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def items(records: Any) -> dict[str, Any]:
    """Keys and values of wandb's updates, the last of each."""
    return {
        "/".join([item.key] if item.key else item.nested_key): json.loads(item.value_json)
        for item in records
    }


class Stored:
    """What offline files say of one wandb run, over all sessions."""

    def __init__(self, folder: Path, name: str) -> None:
        paths = sorted((folder / "wandb").glob(f"offline-run-*-{name}/*.wandb"))
        records = [record for path in paths for record in stored(path)]
        runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
        self.run = runs[-1]
        self.tags = list(self.run.tags)
        self.resume = {run.run_id for run in runs}
        configs = [run.config.update for run in runs] + [r.config.update for r in records]
        self.config = items(item for config in configs for item in config)
        self.summary = items(item for record in records for item in record.summary.update)
        self.steps = [items(r.history.item) for r in records if r.history.item]
        self.exits = [r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"]
        self.artifacts = {r.artifact.name: r.artifact for r in records if r.artifact.name}

    @property
    def curve(self) -> list[tuple[int, float]]:
        return [(step["_step"], step[METRIC]) for step in self.steps if METRIC in step]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nobody is logged in, and wandb's process ends with the test."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ERROR_REPORTING"):
        monkeypatch.setenv(name, "false" if name.endswith("REPORTING") else str(tmp_path / "wandb"))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    yield
    import wandb

    wandb.teardown()


@pytest.mark.slow  # its process, and its import
@pytest.mark.usefixtures("offline")
def test_wandb_keeps_all_of_a_run_offline(searched: Searched) -> None:
    from raudio.tracking.wandb import WandB

    tracker = WandB()
    tell(searched.run, tracker, outcome(searched.run))
    folder, history = searched.run / "tracking" / "wandb", read_history(searched.run)
    assert "wandb sync" in tracker.note
    (key,) = {path.name.split("-")[3] for path in (folder / "wandb").glob("offline-run-*")}
    whole = Stored(folder, key)
    assert (whole.run.project, whole.run.job_type) == ("birds", "search")
    best = history.best()
    assert best is not None
    assert whole.summary["best/trial"] == best.id
    assert whole.summary[f"best/{METRIC}"] == best.value(METRIC, "max")
    assert (whole.summary["trials/all"], whole.summary["state"]) == (6, "completed")
    assert whole.config["search"]["sampler"] == "tpe"
    table = next(a for name, a in whole.artifacts.items() if "confusion" in name)
    assert table.type == "run_table"
    bundle = whole.artifacts[f"bundle-{key}"]
    assert {item.path for item in bundle.manifest.contents} == {
        "README.md", "labels.json", "metrics.json",
    }  # fmt: skip
    table = next(a for name, a in whole.artifacts.items() if "wrong" in name)
    assert [i.path for i in table.manifest.contents if i.path.endswith(".flac")]
    for trial in history.trials.values():
        one = Stored(folder, f"{key}-{trial.id}")
        assert one.run.run_group == whole.run.run_group == f"mine-{key}"
        assert (one.run.display_name, one.run.job_type) == (f"mine {trial.id}", "trial")
        assert one.curve == curves(history)[trial.id]
        assert one.config["optimizer.lr"] == trial.params["optimizer.lr"]
        assert one.tags == [trial.state] == [one.summary["state"]]
        assert one.exits == [int(trial.state == "failed")]


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_wandb_is_joined(tmp_path: Path) -> None:
    from raudio.tracking.wandb import WandB

    searched = in_sessions(tmp_path, lambda: WandB(mode="offline", project="p", entity="us"), 1.1)
    folder, history = searched.run / "tracking" / "wandb", read_history(searched.run)
    (key,) = {path.name.split("-")[3] for path in (folder / "wandb").glob("offline-run-*")}
    assert len(list((folder / "wandb").glob(f"offline-run-*-{key}"))) == 4
    for name, points in curves(history).items():
        one = Stored(folder, f"{key}-{name}")
        assert one.curve == points
        assert one.resume == {f"{key}-{name}"}
        assert (one.run.project, one.run.entity) == ("p", "us")
        assert one.tags == [history.trials[name].state]


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("lost", [False, True])
def test_wandb_sends_to_a_server(
    lost: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In three sessions, none of which doubles anything; when the last one was killed, not even the
    position that it has left is believed."""
    from raudio.tracking.wandb import WandB

    with fake_wandb.server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.uri)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        searched = in_sessions(tmp_path, lambda: WandB(project="p"))
        if lost:
            position = searched.run / "tracking" / "test.json"
            position.write_text(json.dumps({**json.loads(position.read_text()), "ended": False}))
            asked = len(server.seen)
            tell(searched.run, WandB(project="p"))
            assert server.seen[asked:].count("RunResumeStatus") == 1 + 6
        history = read_history(searched.run)
        (key,) = {name.partition("-")[0] for name in server.runs}
        assert server.runs.keys() == {key} | {f"{key}-{trial}" for trial in history.trials}
        assert server.runs[key].summary["trials/all"] == 6
        for name, points in curves(history).items():
            run = server.runs[f"{key}-{name}"]
            assert (run.project, run.group, run.tags) == (
                "p",
                f"mine-{key}",
                [history.trials[name].state],
            )
            assert [(line["_step"], line[METRIC]) for line in run.lines.values()] == points
            assert run.sent == len(points)
            assert run.config["optimizer.lr"] == history.trials[name].params["optimizer.lr"]
            assert run.summary["state"] == history.trials[name].state
        import wandb

        wandb.teardown()


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_API_KEY": "k" * 40}, "online"),
        ({"WANDB_API_KEY": "k" * 40, "WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_BASE_URL": "http://wandb.lab:80"}, "online"),
        ({"WANDB_BASE_URL": "http://other.lab"}, "offline"),
    ],
)
@pytest.mark.usefixtures("offline")
def test_wandb_is_online_where_one_is_logged_in(
    environment: Mapping[str, str], mode: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from raudio.tracking.wandb import WandB

    (tmp_path / "netrc").write_text("machine wandb.lab login user password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert WandB()._mode == mode
    assert WandB(mode="offline")._mode == "offline"


# --- MLflow --------------------------------------------------------------------------------------


@pytest.fixture
def mlflow_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    for name in ("HTTP_REQUEST_MAX_RETRIES", "HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(f"MLFLOW_{name}", "2")
    for name in ("ALLOW_FILE_STORE", "DISABLE_TELEMETRY"):
        monkeypatch.setenv(f"MLFLOW_{name}", "true")


def check_mlflow(uri: str, run: Path, experiment: str = "birds") -> None:
    """What a store has of a run that was told once or in several sessions."""
    from mlflow import MlflowClient

    client, history = MlflowClient(tracking_uri=uri), read_history(run)
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id])
    (parent,) = [one for one in runs if "mlflow.parentRunId" not in one.data.tags]
    children = {one.data.tags["raudio.trial"]: one for one in runs if one is not parent}
    assert (parent.info.run_name, parent.info.status) == ("mine", "FINISHED")
    best = history.best()
    assert best is not None
    assert parent.data.tags["raudio.best/trial"] == best.id
    assert parent.data.metrics[f"best/{METRIC}"] == best.value(METRIC, "max")
    assert parent.data.params["search.sampler"] == "tpe"
    statuses = {"completed": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
    assert children.keys() == history.trials.keys()
    for name, points in curves(history).items():
        child, trial = children[name], history.trials[name]
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.info.status == statuses[trial.state]
        assert child.data.tags["raudio.state"] == trial.state
        assert child.data.tags.get("raudio.reason") == trial.reason
        assert child.data.params["optimizer.lr"] == str(trial.params["optimizer.lr"])
        found = client.get_metric_history(child.info.run_id, METRIC)
        assert sorted((metric.step, metric.value) for metric in found) == points


def check_mlflow_outcome(uri: str, folder: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("birds")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [one for one in runs if "mlflow.parentRunId" not in one.data.tags]
    folder.mkdir()
    there = Path(client.download_artifacts(parent.info.run_id, "", str(folder)))
    assert (there / "bundle" / "README.md").read_text() == "# A model\n"
    assert json.loads((there / "confusion.json").read_text())["confusion"] == [[5, 1], [2, 8]]
    assert [path.name for path in (there / "wrong").iterdir()] == ["a cat taken for dog.flac"]


@pytest.mark.slow  # its import alone takes seconds
@pytest.mark.usefixtures("mlflow_environment")
def test_mlflow_writes_a_local_store(searched: Searched, tmp_path: Path) -> None:
    from raudio.tracking.mlflow import MLflow

    store = str(tmp_path / "store")
    tell(searched.run, MLflow(uri=store), outcome(searched.run))
    check_mlflow(store, searched.run)
    check_mlflow_outcome(store, tmp_path / "artifacts")
    (searched.run / "tracking" / "test.json").unlink()
    tell(searched.run, MLflow(uri=store))  # what is there is asked of the store
    check_mlflow(store, searched.run)


@pytest.mark.slow
@pytest.mark.usefixtures("mlflow_environment")
def test_mlflow_is_joined(tmp_path: Path) -> None:
    from raudio.tracking.mlflow import MLflow

    store = str(tmp_path / "store")
    searched = in_sessions(tmp_path, lambda: MLflow(uri=store))
    check_mlflow(store, searched.run)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """An MLflow server on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--workers", "1"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts-of-the-server")]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True
        )
    try:
        uri = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"{uri}/health", timeout=5) as answer:
                    assert answer.status == 200
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.5)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
@pytest.mark.usefixtures("mlflow_environment")
def test_mlflow_sends_to_a_server(searched: Searched, server: str, tmp_path: Path) -> None:
    from raudio.tracking.mlflow import MLflow

    tell(searched.run, MLflow(uri=server), outcome(searched.run))
    check_mlflow(server, searched.run)
    check_mlflow_outcome(server, tmp_path / "artifacts")


@pytest.mark.slow
def test_mlflow_quotes_no_password(
    searched: Searched, monkeypatch: pytest.MonkeyPatch, mlflow_environment: None
) -> None:
    from raudio.tracking.mlflow import MLflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter%4022@127.0.0.1:9/x")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("USERNAME", "PASSWORD"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "")
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}")
    tracker: Tracker = MLflow()
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:9/x"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "hunter@22"
    with pytest.raises(Exception, match=r"127\.0\.0\.1") as caught:
        tell(searched.run, tracker)
    assert "hunter" not in str(caught.value)
    for name in ("USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}")
