"""Cluster files, started: small scripts play Slurm and SSH, running here what they are given;
Ray and the search are real."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raudio.cluster.render import render
from raudio.records import read_history

#: This machine, by an address that Ray does not take for another name of the network's.
HERE = "127.0.0.2"

SCRIPTS = {
    # The options of srun end where the command begins.
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "scontrol": 'case $1 in show) echo node1; echo node2;; *) echo "$@" >> "$FAKES/log";; esac',
    "hostname": f"echo {HERE}",
    # What follows USER@HOST is one command line for a shell there.
    "ssh": f'while [[ $1 != *@{HERE} ]]; do shift; done; shift; echo "$*" >> "$FAKES/log"\n'
    '[[ $* == *"ray stop"* ]] && exit 1; exec setsid --wait bash -c "$*"',
    # A path there may begin with the home of its user.
    "rsync": 'from="${@: -2:1}" to="${@: -1}"; to="${to#*:}"; to="${to/#\\~/$HOME}"\n'
    '[[ $from -ef $to ]] && exit; mkdir -p "$(dirname "$to")"; exec cp -r "$from" "$to"',
}


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the scripts, first on the PATH. What was started in a home of the test's own,
    and still runs, is ended after it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in SCRIPTS.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    (folder / "raudio").write_text(f'#!/bin/sh\nexec {sys.executable} -m raudio.cli.main "$@"\n')
    (folder / "raudio").chmod(0o755)
    mark = f"{tmp_path.name}-{os.getpid()}"
    monkeypatch.setenv("PATH", f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKES", str(tmp_path))
    monkeypatch.setenv("RAUDIO_TEST", mark)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    sessions = tempfile.mkdtemp(prefix="ray")  # short: its sockets' names are limited
    monkeypatch.setenv("RAY_TMPDIR", sessions)
    yield tmp_path
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in marked(mark):
            os.kill(pid, number)
        gone(mark)
    shutil.rmtree(sessions)
    shutil.rmtree(f"/tmp/ray-{os.getpid()}", ignore_errors=True)  # of the file for Slurm


def marked(mark: str) -> list[int]:
    """Processes that were started, however indirectly, with the test's mark in the environment."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            environment = (place / "environ").read_bytes()
            zombie = (place / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
        if f"RAUDIO_TEST={mark}".encode() in environment.split(b"\0") and not zombie:
            found.append(int(place.name))
    return [pid for pid in found if pid != os.getpid()]


def gone(mark: str) -> None:
    """Waits for them to end, for so long as Ray's own need to notice that their node is gone."""
    deadline = time.monotonic() + 20
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.1)


def slurm(folder: Path, command: str) -> subprocess.Popen[str]:
    """A running job of two nodes."""
    script = folder / "job.sbatch"
    script.write_text(render("slurm", [f"run={folder}/run", f"command={command}", "cpus=1"]))
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "node[1-2]"}
    return subprocess.Popen(
        ["bash", str(script)],
        env={**os.environ, **job},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_on_slurm(fakes: Path, cache: Path) -> None:
    """On two nodes; it is stopped as Slurm does before the time is over, and requeued."""
    from raudio.data.synth import synth

    synth(fakes / "data")
    command = f"search dataset.path={fakes}/data search.trials=9 training.epochs=1 model=cnn"
    records = fakes / "run" / "records.jsonl"
    with slurm(fakes, command) as job:
        deadline = time.monotonic() + 120
        while not (records.exists() and '"report"' in records.read_text()):
            assert job.poll() is None, job.stdout and job.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        job.send_signal(signal.SIGUSR1)
        output, _ = job.communicate(timeout=120)
    assert job.returncode == 130, output
    assert (fakes / "log").read_text() == f"requeue {os.getpid()}\n"
    gone(os.environ["RAUDIO_TEST"])
    assert marked(os.environ["RAUDIO_TEST"]) == [], "processes of Ray were left behind"
    assert read_history(fakes / "run").state == "stopped"


def test_ray_that_does_not_start_ends_the_job(fakes: Path) -> None:
    (fakes / "bin" / "ray").write_text("#!/bin/sh\necho no room >&2; exit 1\n")
    (fakes / "bin" / "ray").chmod(0o755)
    with slurm(fakes, "search") as job:
        output, _ = job.communicate(timeout=60)
    assert job.returncode == 1
    assert "no room" in output


@pytest.mark.parametrize(
    ("begun", "status"),
    [
        (False, 0),
        (True, 1),
        pytest.param(False, 1, marks=pytest.mark.slow),
        pytest.param(True, 0, marks=pytest.mark.slow),
    ],
)
def test_what_slurm_runs(fakes: Path, begun: bool, status: int) -> None:
    """A run that was begun before is gone on with; Ray asks for a token, and is ended."""
    (fakes / "bin" / "raudio").write_text(
        f'#!/bin/sh\n[ "$1" = status ] && exit {0 if begun else 2}\n'
        'until [ "$(wc -l < "$FAKES/ray")" = 2 ]; do sleep 0.1; done\n'
        f'echo "$@" > "$FAKES/args"; [ -n "$RAY_AUTH_TOKEN" ] && exit {status}\n'
    )
    (fakes / "bin" / "ray").write_text(
        '#!/usr/bin/env bash\nall="$*"; echo "$RAY_AUTH_MODE $all" >> "$FAKES/ray"\n'
        "[[ $all == *--head* ]] || exec sleep 60\nport=${all#*--port=}\n"
        f'exec {sys.executable} -m http.server --bind {HERE} "${{port%% *}}"\n'
    )
    (fakes / "bin" / "ray").chmod(0o755)
    with slurm(fakes, "search 'model=choice(cnn, crnn)'") as job:
        output, _ = job.communicate(timeout=60)
    assert job.returncode == status, output
    assert not (fakes / "log").exists()  # nothing was requeued
    head, worker = sorted(
        (fakes / "ray").read_text().splitlines(), key=lambda line: "--head" not in line
    )
    address = (fakes / "args").read_text().split("cluster.address=")[1].strip()
    host, port = address.split(":")
    assert (fakes / "args").read_text().strip() == (
        f"resume {fakes}/run cluster.address={address}"
        if begun
        else f"search model=choice(cnn, crnn) run.dir={fakes}/run cluster.address={address}"
    )
    assert host == HERE
    assert f"--node-ip-address={HERE} --port={port} " in head
    assert f"--address={address} " in worker
    assert all(line.startswith("token start --block --num-cpus=1") for line in (head, worker))
    assert marked(os.environ["RAUDIO_TEST"]) == []


@pytest.mark.ray
@pytest.mark.slow
def test_ray_up_on_this_machine(fakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(fakes))
    (fakes / ".bashrc").write_text(f"export PATH={os.environ['PATH']}\n")  # of a login
    (fakes / ".ray").mkdir()
    (fakes / ".ray" / "auth_token").write_text("a-token-of-the-test")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    name = f"raudio-{os.getpid()}"
    config = fakes / "local.yaml"
    port = 20000 + os.getpid() % 10000
    config.write_text(render("local", [f"name={name}", f"head={HERE}", f"port={port}"]))
    done = subprocess.run(
        ["ray", "up", "--yes", "--no-config-cache", str(config)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ray stop" not in (fakes / "log").read_text()
    check = subprocess.run(
        [
            "raudio",
            "cluster",
            "check",
            "--address",
            f"{HERE}:{port}",
            "--json",
            f"run.dir={fakes}/runs/a",
        ],
        capture_output=True,
        text=True,
    )
    found = json.loads(check.stdout)
    assert found["cluster"] == f"the cluster at {HERE}:{port}"
    states = {finding["check"]: finding["state"] for finding in found["checks"]}
    assert (states["nodes"], states["run"], states["token"]) == ("ok", "ok", "ok"), found
