"""A machine of a cluster dies under a search. Of its head, the search ends with one sentence, and
goes on elsewhere; a GCS that comes back in time, or another machine, ends nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from raudio.data.synth import synth
from raudio.records import read_history, read_records

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(600)]

#: An epoch of a second or so.
SMALL = (
    "model=cnn", "model.depth=3", "model.width=8", "features.n_mels=32", "training.batch_size=4",
    "training.epochs=4", "search.scheduler=none", "search.reuse=false", "run.export=false",
    "optimizer.lr=choice(0.01,0.001)", "search.trials=2",
)  # fmt: skip
#: `raudio`, on the machine whose address comes first.
RAUDIO = """
import functools, sys
import ray
ray.init = functools.partial(ray.init, _node_ip_address=sys.argv.pop(1))
from raudio.cli.main import main
main()
"""


class Machines:
    """The cluster of `two_machines`, in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        program = Path(__file__).with_name("two_machines.py")
        self._process = subprocess.Popen(
            [sys.executable, str(program), str(folder)],
            env={**own, "RAY_TMPDIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._hear()

    def _hear(self) -> None:
        assert self._process.stdout is not None
        self.address, self._processes = json.loads(self._process.stdout.readline())

    def kill(self, machine: str, *kinds: str) -> None:
        """Processes of a machine; where none are named, all of them and what they have started."""
        there = self._processes[machine]
        of = [pid for kind in kinds or there for pid in there[kind]]
        for pid in of if kinds else [*of, *(child for each in of for child in below(each))]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def ask(self, what: str) -> None:
        """See `two_machines`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        self._hear()

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


@pytest.fixture
def machines() -> Iterator[Machines]:
    # Short, as the names of its sockets are limited; processes that were killed leave files.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        machines = Machines(Path(folder) / "r")
        yield machines
        machines.close()


def below(pid: int) -> list[int]:
    """What a process has started, itself or through others."""
    lists = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    children = [int(child) for each in lists for child in each.split()]
    return [*children, *(child for each in children for child in below(each))]


class Search:
    """A search of two trials on a cluster, in the background."""

    def __init__(self, folder: Path, machines: Machines, machine: str, *settings: str) -> None:
        self.run, self.log = folder / "run", folder / "log.txt"
        synth(str(folder / "data"), 400)
        where = f"cluster.address={machines.address}"
        arguments = ("search", f"run.dir={self.run}", "dataset.path=data", where)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RAUDIO, machine, *arguments, *SMALL, *settings],
                cwd=folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def until(self, what: Callable[[Mapping[str, Any]], bool]) -> None:
        """Waits for a record."""
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            if (self.run / "records.jsonl").exists() and any(map(what, read_records(self.run))):
                return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"it never came: {self.log.read_text()}")


@pytest.fixture
def search(tmp_path: Path, machines: Machines, request: pytest.FixtureRequest) -> Iterator[Search]:
    machine, *settings = request.param.split()
    if "resources.workers=2" in settings:
        machines.ask("add")
    search = Search(tmp_path, machines, machine, *settings)
    yield search
    with contextlib.suppress(ProcessLookupError):
        os.killpg(search.process.pid, signal.SIGKILL)
    search.process.wait()


def is_report(record: Mapping[str, Any]) -> bool:
    return bool(record["event"] == "report")


@pytest.mark.parametrize(
    ("search", "killed"),
    [("127.0.0.3", ()), ("127.0.0.2", ("gcs_server",))],
    ids=["driver elsewhere", "driver on the head"],
    indirect=["search"],
)
def test_a_search_whose_head_dies_ends_by_itself_and_goes_on(
    tmp_path: Path, machines: Machines, search: Search, killed: tuple[str, ...]
) -> None:
    search.until(is_report)
    machines.kill("head", *killed)
    struck = time.monotonic()
    assert search.process.wait(150) == 1, search.log.read_text()
    print(f"ended after {time.monotonic() - struck:.1f} s")
    said = search.log.read_text()
    (line,) = [line for line in said.splitlines() if line.startswith("the search stopped: ")]
    assert f"the head of the cluster, {machines.address}, does not answer any more" in line
    assert line.endswith(f"go on with it: raudio resume {search.run}")
    assert "Traceback" not in said
    assert "GCS may have been killed" not in said
    history = read_history(search.run)
    assert (history.state, history.reason) == ("failed", line.split(": ", 1)[1].split("; go on")[0])
    for trial in history.trials.values():  # one that is still heard may come to its end meanwhile
        assert trial.state == ("completed" if len(trial.reports) == 4 else "stopped")
    machines.close()  # whose other machine still trains
    resumed = subprocess.run(
        [
            sys.executable, "-m", "raudio.cli.main", "resume", str(search.run),
            "cluster.address=local",
        ],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    reports = [(r["id"], r["epoch"]) for r in read_records(search.run) if is_report(r)]
    assert sorted(reports) == [
        (trial, epoch) for trial in ("0000", "0001") for epoch in range(1, 5)
    ]


@pytest.mark.parametrize("search", ["127.0.0.3"], indirect=True)
def test_a_gcs_that_comes_back_ends_nothing(
    tmp_path: Path, machines: Machines, search: Search
) -> None:
    """It keeps its state on a disk."""
    search.until(is_report)
    machines.kill("head", "gcs_server")
    time.sleep(25)
    assert search.process.poll() is None, search.log.read_text()
    machines.ask("gcs")
    assert search.process.wait(240) == 0, search.log.read_text()
    assert [trial.state for trial in read_history(search.run).trials.values()] == ["completed"] * 2
    assert "Traceback" not in search.log.read_text()


@pytest.mark.parametrize("search", ["127.0.0.2"], indirect=True)
def test_a_lost_machine_is_no_failure_of_what_ran_on_it(
    tmp_path: Path, machines: Machines, search: Search
) -> None:
    search.until(is_report)
    machines.kill("other", "raylet")  # with which its workers go
    search.until(lambda record: record["event"] == "lost")
    machines.ask("add")
    assert search.process.wait(240) == 0, search.log.read_text()
    reasons = [record["reason"] for record in read_records(search.run) if record["event"] == "lost"]
    assert reasons == ["its machine is gone"]
    assert [trial.state for trial in read_history(search.run).trials.values()] == ["completed"] * 2


@pytest.mark.parametrize("search", ["127.0.0.2 resources.workers=2"], indirect=True)
def test_nor_of_a_trial_that_had_a_worker_there(machines: Machines, search: Search) -> None:
    """Although the worker that is left alone knows of it first, and not why."""
    search.until(is_report)
    machines.kill("other")
    search.until(lambda record: record["event"] == "lost")
    (lost,) = (record for record in read_records(search.run) if record["event"] == "lost")
    assert lost["reason"] == "a worker of the trial is gone: its machine is gone"
