"""`raudio submit` as a user runs it, on a cluster that wants a token and on one that wants none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flaky
import head
import pages
import pytest

from raudio.core import storage
from raudio.data.prepare import prepare
from raudio.progress import RECORD_MARK
from raudio.records import COMPLETED, STOPPED, read_history

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

TOKEN = "a-token-that-nobody-may-see-0123456789"
SECRET = "hunter22-hunter22-hunter22"
KEY = "planted-key-planted-key-planted-key"
PLUGIN = """
import os
import raudio

@raudio.register.optimizer("mine", "reads a secret in the trial's process")
def mine(parameters, *, lr: float = 0.01):
    import torch
    assert os.environ["MY_SECRET"].startswith("hunter22")
    return torch.optim.SGD(parameters, lr=lr)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[head.Head]:
    with (
        tempfile.TemporaryDirectory(prefix="ray-") as folder,  # short: there are sockets in it
        head.head(Path(folder), RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN) as found,
    ):
        yield found


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The variables that lead to an S3."""
    with flaky.s3() as front:
        found = {**flaky.environment(front), "AWS_SECRET_ACCESS_KEY": KEY}
        for name, value in found.items():
            monkeypatch.setenv(name, value)
        yield found


@pytest.fixture
def here(tmp_path: Path) -> Path:
    for label, hertz in (("owl", 300), ("wren", 1800)):
        for number in range(12):
            pages.tone(tmp_path / "here" / "birds" / label / f"{number}.wav", hertz, number)
    (tmp_path / "mine.py").write_text(PLUGIN)
    return tmp_path / "here"


def start(here: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "raudio.cli.main", *words],
        cwd=here, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**own, "HOME": str(here), **environment},
    )  # fmt: skip


def raudio(here: Path, *words: str, **environment: str) -> tuple[int, str, str]:
    process = start(here, *words, **environment)
    out, err = process.communicate(timeout=280)
    return process.returncode, out, err


def until(found: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 250
    while not found():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(process.communicate())
        time.sleep(0.2)


def test_a_job_is_followed_stopped_and_gone_on_with(
    cluster: head.Head, store: dict[str, str], here: Path, tmp_path: Path
) -> None:
    """Data and run are in a store; the job knows it, and a secret, from its submitter alone."""
    mine = {**store, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "MY_SECRET": SECRET}
    passed = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MY_SECRET", "RAUDIO_CACHE")
    prepare(here / "birds", "s3://sounds/birds")
    run, to = "s3://sounds/run", ("submit", "--address", cluster.dashboard)
    with_env = [word for name in passed for word in ("--env", name)]
    follower = start(
        here, *to, "--follow", "--name", "mine", *with_env, "--",
        "search", "dataset.path=s3://sounds/birds", f"plugins={tmp_path / 'mine.py'}",
        "space=optimizer", "model=cnn", "optimizer=mine", "optimizer.lr=0.01",
        "training.epochs=5000", "search.trials=2", "search.scheduler=none",
        "search.concurrency=1", f"run.dir={run}",
        **mine, RAUDIO_CACHE=str(tmp_path / "a"),
    )  # fmt: skip
    until(lambda: b'"report"' in records(run), follower)
    code, out, err = raudio(here, *to, "--stop", "mine", "--json", **mine)
    assert (code, json.loads(out)) == (0, {"job": "mine", "stopping": True}), err
    shown, said = follower.communicate(timeout=200)
    assert follower.returncode == 130, said
    assert "job mine stopped, exit status 130" in said
    assert f"go on with it:  raudio resume {run}" in shown
    assert RECORD_MARK not in shown
    stopped = status(here, run, **mine, RAUDIO_CACHE=str(tmp_path / "laptop"))
    assert stopped["state"] == STOPPED
    # Another machine goes on: all that it has of the run is in the store.
    code, out, err = raudio(
        here, *to, "--wait", "--json", *with_env, "--",
        "resume", run, "search.trials=1", "search.time_budget=1s",
        **mine, RAUDIO_CACHE=str(tmp_path / "b"),
    )  # fmt: skip
    assert code == 0, out + err
    assert json.loads(out)["state"] == "succeeded"
    over = status(here, run, **mine, RAUDIO_CACHE=str(tmp_path / "laptop"))
    assert over["state"] == COMPLETED
    assert over["trials"][0]["epochs"] >= stopped["trials"][0]["epochs"] > 0
    # What the command exits with is what is heard of it.
    code, out, err = raudio(here, *to, "--wait", "--", "resume", "/nowhere", **mine)
    assert (code, out) == (2, "")
    no_secret_is_in(*(storage.read_bytes(f"{run}/{name}") for name in storage.listing(run)))
    logs = [log for log in (cluster.folder / "ray").glob("session_2*/logs/**/*") if log.is_file()]
    assert len(logs) > 30
    no_secret_is_in(*(log.read_bytes() for log in logs))
    listed = subprocess.run(
        ["ray", "job", "list", "--address", cluster.dashboard],
        env={**os.environ, **mine}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "raudio.cli.job" in listed.stdout
    no_secret_is_in(listed.stdout.encode(), listed.stderr.encode())


def no_secret_is_in(*contents: bytes) -> None:
    assert contents
    for content in contents:
        for secret in (SECRET, TOKEN, KEY):
            assert secret.encode() not in content, content


def status(here: Path, run: str, **environment: str) -> dict[str, Any]:
    code, out, err = raudio(here, "status", run, "--json", **environment)
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def records(run: str) -> bytes:
    try:
        return storage.read_bytes(f"{run}/records.jsonl")
    except FileNotFoundError:
        return b""


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({}, "the cluster wants a token, and none was sent"),
        ({"RAY_AUTH_MODE": "token"}, "RAY_AUTH_MODE=token, and there is no token"),
        (
            {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x" * 40},
            "the cluster has another token than this machine",
        ),
    ],
)
def test_without_the_token_nothing_is_let_in(
    cluster: head.Head, here: Path, environment: dict[str, str], why: str
) -> None:
    submit = ("submit", "--address", cluster.dashboard, "--", "list", "models")
    join = (
        "search", "dataset.path=birds", "run.dir=run", "search.trials=1",
        f"cluster.address={cluster.address}",
    )  # fmt: skip
    processes = [start(here, *words, **environment) for words in (submit, join)]
    for process, where in zip(processes, ("--address http", "cluster.address="), strict=True):
        _, err = process.communicate(timeout=200)
        assert process.returncode == 2, err
        (line,) = [each for each in err.splitlines() if each.startswith("error: ")]
        assert line.startswith(f"error: {where}")
        assert why in line
        assert "InvalidAuthToken" not in err
    assert not list((here / "run").glob("trials/*"))


def test_a_cluster_without_tokens(here: Path) -> None:
    """A job of plain `ray job submit` too, which finds its cluster by itself."""
    with (
        tempfile.TemporaryDirectory(prefix="ray-") as folder,
        head.head(Path(folder), RAY_AUTH_MODE="disabled") as cluster,
    ):
        process = start(
            here, "submit", "--address", cluster.dashboard, "--wait", "--", "list", "models",
        )  # fmt: skip
        plain = subprocess.run(
            [
                "ray", "job", "submit", "--address", cluster.dashboard, "--working-dir", ".", "--",
                "raudio", "search", "dataset.path=birds", f"run.dir={here / 'run'}",
                "search.trials=1", "training.epochs=1", "model=cnn",
            ],
            env={**os.environ, "RAY_AUTH_MODE": "disabled"}, cwd=here, capture_output=True,
            text=True, check=False, timeout=280,
        )  # fmt: skip
        assert plain.returncode == 0, plain.stdout + plain.stderr
        assert process.wait(200) == 0
    history = read_history(here / "run")
    assert history.state == COMPLETED
    assert history.cluster is not None
    assert history.cluster.where == f"the cluster at {cluster.address}"
