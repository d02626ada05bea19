"""How a process ends when its Ray has died, and that it does not while Ray may come back."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raudio.cluster import alive
from raudio.cluster.alive import SessionError, watched
from raudio.core.errors import ConfigError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alive, "_LOOK", 0.01)


def no_words(reason: str) -> None:
    raise AssertionError(reason)


def test_so_many_looks_in_a_row_end_the_block() -> None:
    said = iter([*["gone"] * 4, "", *["gone"] * 4, "", *["gone"] * 5])
    looks = 0

    def look() -> str:
        nonlocal looks
        looks += 1
        return next(said)

    with pytest.raises(SessionError, match=r"^gone$"), watched(look, 5, no_words):
        time.sleep(60)
    assert looks == 15


def test_a_head_that_is_silent_is_told_of_while_it_may_come_back() -> None:
    looks = iter([*["gone"], "", *["gone"] * 3, "", *["gone"] * 5])
    said: list[str] = []
    with (
        pytest.raises(SessionError, match=r"^gone$"),
        watched(lambda: next(looks), 5, no_words, said.append),
    ):
        time.sleep(60)
    clock = r"\d\d:\d\d:\d\d"
    waits = rf"gone; since {clock}, waited for until {clock}"
    for line, expected in zip(said, [waits, "the cluster answers again", waits], strict=True):
        assert re.fullmatch(expected, line)


def test_one_look_that_is_sure_ends_the_block() -> None:
    def look() -> str:
        raise SessionError("gone for good")

    with pytest.raises(SessionError, match=r"^gone for good$"), watched(look, 1000, no_words):
        time.sleep(60)


def test_an_interrupt_that_somebody_swallows_ends_the_block_all_the_same() -> None:
    with (
        pytest.raises(SessionError, match=r"^gone$"),
        watched(lambda: "gone", 1, no_words),
        contextlib.suppress(KeyboardInterrupt),
    ):
        time.sleep(60)


def test_what_was_raised_because_ray_is_gone_says_so() -> None:
    with (
        pytest.raises(SessionError, match=r"^gone$") as raised,
        watched(lambda: "gone", 1000, no_words),
    ):
        raise OSError("Socket closed")
    assert isinstance(raised.value.__cause__, OSError)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_another_error_stays_what_it_is(error: type[BaseException]) -> None:
    before = signal.getsignal(signal.SIGUSR2)
    with pytest.raises(error), watched(lambda: "", 1, no_words):
        raise error
    assert signal.getsignal(signal.SIGUSR2) is before


def test_a_main_thread_that_no_signal_reaches_is_ended_with_last_words() -> None:
    """As it is while it waits for a GCS."""
    program = """
import signal, time
from raudio.cluster import alive

def last_words(reason):
    print("the last words:", reason, end="")
    raise alive.SessionError("and the store fails")

alive._LOOK, alive._PATIENCE = 0.01, 0.5
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
with alive.watched(lambda: "gone", 1, last_words):
    time.sleep(60)
"""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert time.monotonic() - began < 50
    assert done.returncode == 1
    assert (done.stdout, done.stderr) == (
        "the last words: gone",
        "error: and the store fails\n",
    )


# --- a cluster's head --------------------------------------------------------------------------


class Gcs:
    """That of a cluster of one node; answers what it is told to."""

    address = "10.0.0.1:6379"

    def __init__(self, answers: Iterator[Any]) -> None:
        self._answers = answers

    def check_alive(self, nodes: list[str], timeout: float) -> list[bool]:
        assert nodes == ["this"]
        assert timeout == 5
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return [answer]


@pytest.fixture
def raylet() -> Iterator[tuple[SimpleNamespace, socket.socket]]:
    """A node of a Ray, and what listens on its socket."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/raylet")
        listener.listen()
        yield SimpleNamespace(raylet_socket_name=f"{folder}/raylet"), listener


def test_how_a_cluster_looks(
    monkeypatch: pytest.MonkeyPatch, raylet: tuple[SimpleNamespace, socket.socket]
) -> None:
    from ray._private import worker
    from ray.exceptions import RpcError

    answers = iter([True, RpcError("Timed out while waiting for GCS to become available."), False])
    node, listener = raylet
    joined = SimpleNamespace(gcs_client=Gcs(answers), current_node_id="this", node=node)
    monkeypatch.setattr(worker, "global_worker", joined)
    look, _ = alive.joined(45)
    assert look() == ""
    assert look().startswith("the head of the cluster, 10.0.0.1:6379, does not answer any more")
    assert look() == "the cluster has lost the Ray of this machine"
    listener.accept()[0].close()
    with pytest.raises(SessionError, match=r"^Ray's process raylet on this machine has died"):
        look()
    listener.close()
    with pytest.raises(SessionError, match=r"^Ray's process raylet on this machine has died"):
        alive.joined(45)


def test_ray_never_ends_the_process_before_it_has_ended_itself(
    monkeypatch: pytest.MonkeyPatch, raylet: tuple[SimpleNamespace, socket.socket]
) -> None:
    """Its own limit is at least what the looks and the end take; a user's is heeded."""
    from ray._private import worker

    monkeypatch.undo()
    joined = SimpleNamespace(gcs_client=None, current_node_id=None, node=raylet[0])
    monkeypatch.setattr(worker, "global_worker", joined)
    name = "RAY_gcs_rpc_server_reconnect_timeout_s"
    for given in (None, "60", "600"):
        if given is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, given)
        silence = alive.silence()
        _, looks = alive.joined(silence)
        assert silence == {None: 45, "60": 45, "600": 450}[given]
        limit = float(given or alive.ENVIRONMENT[name])
        assert silence <= looks * (5 + 1) <= looks * (5 + 1 + 0.5) + 5 < limit


@pytest.mark.parametrize("given", ["soon", "-60", "0", "", "60s", "６０"])
def test_a_limit_that_is_none(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "RAY_gcs_rpc_server_reconnect_timeout_s"
    monkeypatch.setenv(name, given)
    with pytest.raises(ConfigError, match=rf"^{name}='{given}': give whole seconds"):
        alive.silence()


@pytest.mark.parametrize(
    "command",
    ["search", "resume RUN", "plan", "search cluster.address=HEAD", "plan cluster.address=HEAD",
     "cluster check", "cluster drain", "cluster render local", "predict --ray BUNDLE x.wav"],
)  # fmt: skip
def test_a_limit_that_is_none_is_said_before_ray_crashes(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By every command, which has made nothing then."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "soon")
    command = command.replace("HEAD", "127.0.0.1:1")
    code = """
import sys
from raudio.cli.main import main
try:
    main()
finally:
    assert "ray" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split()], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: RAY_gcs_rpc_server_reconnect_timeout_s='soon': give")
    assert list(tmp_path.iterdir()) == []


def test_a_limit_that_is_none_is_said_to_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import raudio

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "soon")
    with pytest.raises(ConfigError, match="='soon': give whole seconds"):
        raudio.search(quiet=True)
    assert list(tmp_path.iterdir()) == []
