"""What a Ray session gives to the processes that it starts, and how it ends when Ray does."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from raylets import raylets

from raudio.cluster import session as module
from raudio.cluster.alive import SessionError
from raudio.cluster.session import MALLOC, session
from raudio.config.schema import Cluster
from raudio.core.errors import ConfigError


@pytest.fixture
def slow_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module that takes its time; what happens in it, as text."""
    monkeypatch.syspath_prepend(tmp_path)
    name = "slow_import"
    (tmp_path / f"{name}.py").write_text(
        "import os, signal, time\n"
        "exec(os.environ.get('MEANWHILE', ''))\n"
        "time.sleep(1)\n"
        "whole = True\n"
    )
    yield name
    sys.modules.pop(name, None)


@pytest.mark.ray
def test_who_interrupts_its_start_is_heeded_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow_import: str
) -> None:
    """Interrupted in the middle of an import, or of Ray's start, one process in ten hung, or
    crashed."""
    monkeypatch.setenv("MEANWHILE", "os.kill(os.getpid(), signal.SIGINT)")
    connect, connected, began, said = module._connect, [], False, []
    monkeypatch.setattr(module, "_connect", lambda *given: connected.append(connect(*given)))
    with (
        pytest.raises(KeyboardInterrupt),
        session(Cluster(cpus=1), tmp_path / "ray.log", modules=(slow_import,), say=said.append),
    ):
        began = True
    assert said == ["interrupted; it ends when Ray has started"]
    assert connected
    assert not began
    assert sys.modules[slow_import].whole
    import ray

    assert not ray.is_initialized()


@pytest.mark.ray
def test_its_modules_are_whole_when_it_begins(tmp_path: Path, slow_import: str) -> None:
    """Also where Ray runs already: its start gives them no time."""
    settings, log = Cluster(cpus=1), tmp_path / "ray.log"
    with session(settings, log), session(settings, log, modules=(slow_import,)):
        assert sys.modules[slow_import].whole


@pytest.mark.ray
def test_workers_start_with_glibcs_thresholds_fixed(tmp_path: Path) -> None:
    with session(Cluster(cpus=1), tmp_path / "ray.log") as capacity:
        import ray
        import ray.data

        def at_start(batch: Any = None) -> dict[str, Any]:
            """The environment that this process was started with: glibc reads no later one."""
            return {"environment": [Path("/proc/self/environ").read_text()]}

        @ray.remote(num_cpus=0)
        class Trial:  # Tune's trials are actors
            def environment(self) -> dict[str, Any]:
                return at_start()

        trial = ray.get(Trial.remote().environment.remote())["environment"][0]
        (row,) = ray.data.range(1).map_batches(at_start, batch_size=None).take_all()
        for environment in (trial, row["environment"]):
            assert {f"{name}={value}" for name, value in MALLOC.items()} <= {
                *environment.split("\0")
            }
        assert capacity.store is not None
        assert capacity.store > 1 << 26


@pytest.mark.ray
@pytest.mark.parametrize("process", ["raylet", "gcs_server"])
def test_when_ray_dies_the_block_ends(
    tmp_path: Path, process: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also in the background, where a shell has Ctrl-C ignored. Results are on standard output:
    what Ray has to say is not."""
    from ray._private import worker

    def block() -> None:
        (info,) = worker._global_node.all_processes[process]
        os.kill(info.process.pid, signal.SIGKILL)
        worker.print_to_stdstream({"lines": ["of Ray"], "is_err": False}, ignore_prefix=False)
        time.sleep(60)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    died = pytest.raises(SessionError, match=f"process {process} on this machine has died")
    try:
        with died, session(Cluster(cpus=1), tmp_path / "ray.log"):
            began = time.monotonic()
            block()
        assert time.monotonic() - began < 50
        assert capfd.readouterr().out == ""
        assert "of Ray" in (tmp_path / "ray.log").read_text()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.ray
def test_when_the_raylet_of_a_driver_dies_the_block_ends(tmp_path: Path) -> None:
    """Although the head lives. Ray itself ends the process, when it next needs the raylet."""
    with raylets({"num_cpus": 1}, join=False) as cluster:
        (raylet,) = cluster.head_node.all_processes["raylet"]
        died = pytest.raises(SessionError, match="process raylet on this machine has died")
        with died, session(Cluster(address=cluster.address), tmp_path / "ray.log"):
            began = time.monotonic()
            os.kill(raylet.process.pid, signal.SIGKILL)
            time.sleep(60)
        assert time.monotonic() - began < 30


def test_when_ray_does_not_start_it_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And all that Ray itself has to say is in the log, from the first word on."""
    import ray
    from ray._private import worker

    def fail(**_: Any) -> None:
        worker.print_to_stdstream({"lines": ["of Ray"], "is_err": False}, ignore_prefix=False)
        raise Exception("The current node timed out during startup.\nMore of it.")

    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    log = tmp_path / "ray.log"
    with (
        pytest.raises(SessionError, match=r"did not start .* timed out during startup\. \(trace"),
        session(Cluster(cpus=1), log),
    ):
        raise AssertionError("there is no Ray")
    assert "More of it." in log.read_text()
    assert " ray of Ray\n" in log.read_text()
    assert capfd.readouterr().out == ""


def test_a_token_that_is_not_there_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def fail(**_: Any) -> None:
        raise ray.exceptions.AuthenticationError("RAY_AUTH_TOKEN_PATH is set but .. /nowhere")

    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere")
    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    why = "^Ray on this machine: RAY_AUTH_TOKEN_PATH=/nowhere is no file with a token; have a token"
    with pytest.raises(ConfigError, match=why), session(Cluster(cpus=1), tmp_path / "ray.log"):
        raise AssertionError("there is no Ray")
