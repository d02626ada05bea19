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

import head
import pages
import pytest

from raudio.progress import RECORD_MARK
from raudio.records import COMPLETED, STOPPED, read_history

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

TOKEN = "a-token-that-nobody-may-see-0123456789"
SECRET = "hunter22-hunter22-hunter22"
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
    cluster: head.Head, here: Path, tmp_path: Path
) -> None:
    mine = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "MY_SECRET": SECRET}
    run, to = tmp_path / "run", ("submit", "--address", cluster.dashboard)
    follower = start(
        here, *to, "--follow", "--name", "mine", "--env", "MY_SECRET", "--",
        "search", "dataset.path=birds", f"plugins={tmp_path / 'mine.py'}", "space=optimizer",
        "model=cnn", "optimizer=mine", "training.epochs=5000", "search.trials=2",
        "search.scheduler=none", "search.concurrency=1", "optimizer.lr=0.01", f"run.dir={run}",
        RAUDIO_CACHE=str(tmp_path / "a"), **mine,
    )  # fmt: skip
    until(lambda: (run / "records.jsonl").exists() and b'"report"' in _read(run), follower)
    code, out, err = raudio(here, *to, "--stop", "mine", "--json", **mine)
    assert (code, json.loads(out)) == (0, {"job": "mine", "stopping": True}), err
    shown, said = follower.communicate(timeout=200)
    assert follower.returncode == 130, said
    assert "job mine stopped, exit status 130" in said
    assert f"go on with it:  raudio resume {run}" in shown
    assert RECORD_MARK not in shown
    history = read_history(run)
    assert history.state == STOPPED
    reached = history.trials["0000"].epochs
    # Another machine goes on, with another cache; what it was given it has to be given again.
    go_on = ("resume", str(run), "search.trials=1", "search.time_budget=1s")
    code, out, err = raudio(
        here, *to, "--wait", "--json", "--env", "MY_SECRET", "--", *go_on,
        RAUDIO_CACHE=str(tmp_path / "b"), **mine,
    )  # fmt: skip
    assert code == 0, out + err
    assert json.loads(out)["state"] == "succeeded"
    history = read_history(run)
    assert history.state == COMPLETED
    assert history.trials["0000"].epochs >= reached
    # What the command exits with is what is heard of it.
    code, out, err = raudio(here, *to, "--wait", "--", "resume", "/nowhere", **mine)
    assert (code, out) == (2, "")
    for path in (*run.rglob("*"), *(cluster.logs / "ray").rglob("*.log")):
        if path.is_file():
            content = path.read_bytes()
            assert SECRET.encode() not in content, path
            assert TOKEN.encode() not in content, path
    listed = subprocess.run(
        ["ray", "job", "list", "--address", cluster.dashboard],
        env={**os.environ, **mine}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "raudio.cli.job" in listed.stdout
    assert SECRET not in listed.stdout + listed.stderr


def _read(run: Path) -> bytes:
    return (run / "records.jsonl").read_bytes()


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
    for process, where in zip(processes, ("--address http", "cluster.address=127"), strict=True):
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
