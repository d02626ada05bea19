"""Searches that are tracked, as a user runs them: three trackers, none that works, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_trackers import METRIC, Stored, check_mlflow, curves, scalars
from tracking_kit import PLUGIN

from raudio.records import History, read_history
from raudio.report.run import read_run

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SEARCH = (
    "dataset.path=data",
    "space=optimizer",
    "model=cnn",
    "model.depth=3",
    "features.n_mels=32",
    "training.epochs=2",
    "search.concurrency=1",
    "search.scheduler=none",
)
#: In the environment of a search, and nowhere in what it leaves behind.
SECRETS = {
    "WANDB_API_KEY": "0badc0de" * 5,
    "MLFLOW_TRACKING_PASSWORD": "hunter22hunter22",
    "AWS_ACCESS_KEY_ID": "AKIA" + "PLANTEDPLANTEDPL",
    "AWS_SECRET_ACCESS_KEY": "planted/" * 5,
    "RAY_AUTH_TOKEN": "planted-token-planted-token-planted",
    "AWS_ENDPOINT_URL": "http://someone:planted-in-a-uri@127.0.0.1:9",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracked")
    done = raudio(folder, "data", "synth", "data", "--clips", "120")
    assert done.returncode == 0, done.stderr
    return folder


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "raudio.cli.main", *args]


def environment(folder: Path, more: dict[str, str]) -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "MLFLOW_"))}
    return {
        **own,
        "RAUDIO_CACHE": str(folder / "cache"),
        "NETRC": str(folder / "none"),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        **more,
    }


def raudio(folder: Path, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*args),
        cwd=folder,
        env=environment(folder, more),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def tracking_lines(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("tracking: ")]


def check_all(place: Path, run: Path) -> History:
    """All three have what the records have."""
    history = read_history(run)
    folder = run / "tracking" / "wandb"
    (key,) = {path.name.split("-")[3] for path in (folder / "wandb").glob("offline-run-*")}
    for name, points in curves(history).items():
        one = Stored(folder, f"{key}-{name}")
        assert one.curve == points
        assert one.tags == [history.trials[name].state]
        assert one.config["model"] == "cnn"
    whole = Stored(folder, key)
    best = history.best()
    assert best is not None
    assert whole.summary[f"best/{METRIC}"] == best.value(METRIC, "max")
    assert {name for name in whole.artifacts if name.startswith("bundle-")}
    wrong = read_run(run).wrong
    assert any("wrong" in name for name in whole.artifacts) == bool(wrong)
    check_mlflow(str(place / "store"), run, experiment="data")
    assert len(list((place / "store").rglob("wrong/*.flac"))) >= bool(wrong)
    assert scalars(run / "tracking" / "tensorboard") == curves(history)
    return history


@pytest.mark.timeout(600)
def test_three_trackers_at_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    done = raudio(
        place,
        "search",
        *SEARCH,
        "search.trials=2",
        "run.dir=mine",
        "tracking=[wandb,mlflow,tensorboard]",
        "tracking.wandb.mode=offline",
        "tracking.mlflow.uri=store",
        "tracking.clips=1",
        **SECRETS,
    )
    assert done.returncode == 0, done.stderr
    assert "wandb: " not in done.stderr + done.stdout
    run = place / "mine"
    assert len(check_all(place, run).trials) == 2
    notes = tracking_lines(done.stderr)
    assert sorted(line.split()[1] for line in notes) == ["mlflow", "tensorboard", "wandb"]
    assert "wandb sync" in "".join(notes)
    more = raudio(place, "resume", "mine", "search.trials=3", **SECRETS)
    assert more.returncode == 0, more.stderr
    assert len(check_all(place, run).trials) == 3
    page = raudio(place, "report", "mine", **SECRETS)
    bundle = raudio(place, "export", "mine", "--out", "bundle", **SECRETS)
    assert (page.returncode, bundle.returncode) == (0, 0), page.stderr + bundle.stderr
    said = "".join(each.stdout + each.stderr for each in (done, more, page, bundle))
    for secret in SECRETS.values():
        secret = secret.rpartition("@")[0].rpartition(":")[2] or secret  # of a URI the password
        assert secret not in said
        kept = [path for name in ("mine", "store", "bundle") for path in (place / name).rglob("*")]
        assert len(kept) > 30
        for path in kept:
            assert not path.is_file() or secret.encode() not in path.read_bytes(), path


@pytest.mark.timeout(300)
def test_trackers_that_cannot_be_reached_cost_a_line_each(place: Path) -> None:
    (place / "no-folder").write_text("")
    done = raudio(
        place,
        "search",
        *SEARCH,
        "search.trials=2",
        "run.dir=alone",
        "tracking=[wandb,mlflow,tensorboard]",
        "tracking.mlflow.uri=http://127.0.0.1:9",
        "tracking.tensorboard.dir=no-folder/x",
        WANDB_BASE_URL="http://127.0.0.1:9",
        **SECRETS,
    )
    assert done.returncode == 0, done.stderr
    history = read_history(place / "alone")
    assert [trial.state for trial in history.trials.values()] == ["completed"] * 2
    lines = tracking_lines(done.stderr)
    assert sorted(line.split()[1] for line in lines) == ["mlflow", "tensorboard", "wandb"]
    assert all("raudio track alone tracking=" in line for line in lines)
    for secret in SECRETS.values():
        assert secret not in done.stderr + (place / "alone/tracking/log.txt").read_text()


@pytest.mark.timeout(300)
def test_ctrl_c_lets_a_tracker_say_the_end(place: Path) -> None:
    """A terminal interrupts all processes of a command; the trackers' are others."""
    (place / "lines.py").write_text(PLUGIN)
    process = subprocess.Popen(
        command(
            "search",
            *SEARCH,
            "training.epochs=200",
            "run.dir=stopped",
            "plugins=[lines.py]",
            "tracking=lines",
            f"tracking.lines.file={place / 'lines.txt'}",
        ),
        cwd=place,
        env=environment(place, {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines = place / "lines.txt"
    deadline = time.monotonic() + 200
    while not (lines.exists() and "report 0000 2" in lines.read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    told = lines.read_text().splitlines()
    assert told[-2:] == ["end_trial 0000 stopped", "end_search stopped"]
    assert tracking_lines(said) == []
