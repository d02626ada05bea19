"""`raudio cluster check`: what is said of which answers; and a cluster on loopback is asked."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from raylets import raylets
from typer.testing import CliRunner

from raudio.cli.main import app
from raudio.cluster import token
from raudio.cluster.check import HINT, OK, WRONG, Finding, Node, Survey, Wanted, judge
from raudio.cluster.growth import Group, Growth
from raudio.core.errors import ConfigError

VERSIONS = {"python": "3.11", "raudio": "0.1.0", "torch": "2.11.0"}
FACTS = {"versions": VERSIONS, "cache_free_bytes": 10**11, "shared_memory_bytes": 10**10}


def node(name: str, **answers: Any) -> Node:
    """One on which nothing is wrong, of a cluster of `a` and `b`."""
    good: dict[str, Any] = {
        "address": "10.0.0.1",
        "resources": {"CPU": 4.0, "object_store_memory": 10.0**9},
        "facts": FACTS,
        "skew": 0.001,
        "read": (None, None),
        "written": (False, None),
        "seen": ({"a": "a", "b": "b"}, None),
    }
    return Node(name, name, **{**good, **answers})


def findings(*nodes: Node, wanted: Wanted | None = None, **survey: Any) -> dict[str, Finding]:
    wanted = wanted or Wanted(files=[("s3://x/dataset.json", b"{")], run="s3://x/runs/a")
    found = judge(Survey(nodes, {"versions": VERSIONS}, **survey), wanted)
    assert all(finding.cure for finding in found if finding.state == WRONG)
    assert len({finding.check for finding in found}) == len(found)
    return {finding.check: finding for finding in found}


def only(state: str, found: dict[str, Finding]) -> Finding:
    """The one finding that is not OK."""
    (other,) = [finding for finding in found.values() if finding.state != OK]
    assert other.state == state, other
    return other


def test_nothing_is_wrong() -> None:
    found = findings(node("a"), node("b"))
    assert {finding.state for finding in found.values()} == {OK}
    assert found["nodes"].found == "2 nodes: 8 CPUs, 0 GPUs, 2.0 GB of object store"


def test_a_node_that_does_not_answer() -> None:
    silent = Node("b", "b", error="no answer in 30 s")
    alone = node("a", seen=({"a": "a"}, None))
    assert only(WRONG, findings(alone, silent)).found == "no answer from b (no answer in 30 s)"


def test_versions() -> None:
    other = {**FACTS, "versions": {**VERSIONS, "torch": "2.10.0", "python": "3.12"}}
    finding = only(WRONG, findings(node("a"), node("b", facts=other)))
    assert finding.found == "b: python 3.12 instead of 3.11, torch 2.10.0 instead of 2.11.0"
    assert finding.cure == "on these nodes: pip install torch==2.11.0"


@pytest.mark.parametrize(("skew", "state"), [(0.9, OK), (-0.9, OK), (1.5, WRONG), (-1.5, WRONG)])
def test_clocks(skew: float, state: str) -> None:
    finding = findings(node("a"), node("b", skew=skew))["clocks"]
    assert finding.state == state
    assert state == OK or f"b ({skew:+.1f} s)" in finding.found


@pytest.mark.parametrize("fact", ["cache_free_bytes", "shared_memory_bytes"])
def test_space(fact: str) -> None:
    finding = only(WRONG, findings(node("a"), node("b", facts={**FACTS, fact: 5 * 10**8})))
    assert finding.found == "less than 1.0 GB free: b (500.0 MB)"
    unknown = only(HINT, findings(node("a"), node("b", facts={**FACTS, fact: None})))
    assert unknown.found == "could not be measured: b"


def test_data() -> None:
    finding = only(WRONG, findings(node("a"), node("b", read=(None, "OSError: denied"))))
    assert finding.found == "cannot be read: b (OSError: denied)"
    assert "role or the keys" in finding.cure
    private = Wanted(private="recordings", run="s3://x/runs/a")
    assert (
        "other nodes may not reach it"
        in only(HINT, findings(node("a"), node("b"), wanted=private)).found
    )
    alone = node("a", seen=({"a": "a"}, None))
    assert findings(alone, wanted=private)["data"].state == OK


@pytest.mark.parametrize("run", ["s3://x/runs/a", "/home/me/runs/a"])
def test_storage(run: str) -> None:
    wanted = Wanted(run=run)
    cannot = node("b", written=(None, "PermissionError: no"), seen=(None, "PermissionError: no"))
    finding = only(WRONG, findings(node("a", seen=({"a": "a"}, None)), cannot, wanted=wanted))
    assert finding.found == f"beside {run} these cannot write and read: b (PermissionError: no)"
    apart = [node(name, seen=({name: name}, None)) for name in ("a", "b")]
    finding = only(WRONG, findings(*apart, wanted=wanted))
    if run.startswith("s3"):
        assert "is not listed for a, b" in finding.found
    else:
        assert finding.found == f"{run} is not one disk for all nodes: a, b see only some files"
    stale = node("b", seen=({"a": "", "b": "b"}, None))  # listed, and not yet what was written
    assert only(WRONG, findings(node("a"), stale, wanted=wanted)).check == "run"


def test_gpus() -> None:
    with_gpu = {"CPU": 4.0, "GPU": 1.0}
    wants = replace(Wanted(run="s3://x/a"), gpus=1)
    assert findings(node("a"), node("b"), wanted=wants)["GPUs"].state == WRONG
    grows = Growth((Group("gpu", {"GPU": 1.0}, most=8),))
    found = findings(node("a"), node("b"), wanted=wants, growth=grows)
    assert found["GPUs"].state == HINT
    assert found["growth"].found == "nodes that are not there yet cannot be checked: gpu (up to 8)"
    unknown = Growth(note="the autoscaler's node groups could not be read")
    assert findings(node("a"), node("b"), growth=unknown)["growth"].found == unknown.note
    for answer, state in [
        ((1, None), OK),
        ((0, None), WRONG),
        ((None, "ImportError: libcuda"), WRONG),
        (None, HINT),  # all in use
    ]:
        found = findings(node("a"), node("b", resources=with_gpu, gpus=answer), wanted=wants)
        assert found["GPUs"].state == state


def test_safe_nodes_and_token() -> None:
    two = Wanted(run="s3://x/a", workers=2)
    spot = {"ray.io/market-type": "spot"}
    finding = only(HINT, findings(node("a"), node("b", labels=spot), wanted=two))
    assert "no node offers the resource `safe`" in finding.found
    assert "(b)" in finding.found
    assert "safe nodes" not in findings(node("a", resources={"safe": 1.0}), node("b"), wanted=two)
    assert "safe nodes" not in findings(node("a"), node("b"))
    assert only(HINT, findings(node("a"), node("b"), token=False)).check == "token"
    here = [node(name, address="127.0.0.1") for name in ("a", "b")]
    assert findings(*here, token=False)["token"].state == OK


def test_many_nodes_and_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "do-not-show-me")
    said = "OSError: https://me:pw@store?key=do-not-show-me"
    failing = [
        node(str(n), read=(None, said), seen=({str(n): str(n) for n in range(9)}, None))
        for n in range(9)
    ]
    finding = only(WRONG, findings(*failing))
    assert "and 5 more" in finding.found
    assert "do-not-show-me" not in finding.found
    assert "pw@" not in finding.found


CURE = (
    "; start one with `ray start --head`, give the HOST:PORT of a head that this machine reaches, "
    "or local to use this machine"
)
NO_ADDRESS = (
    "HOST:PORT of a Ray head is wanted here, or auto, or local; the port is 6379 unless "
    "`ray start --head` says another (8265 is the dashboard, for `raudio submit`)"
)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1:1", f"no Ray cluster answers there (Connection refused){CURE}"),
        ("http://127.0.0.1:8265", NO_ADDRESS),
        ("nowhere", NO_ADDRESS),
    ],
)
@pytest.mark.parametrize("command", ["cluster check", "search", "plan"])
def test_nobody_answers(
    command: str, address: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is made for a search that has nowhere to run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAUDIO_CACHE", str(tmp_path / "cache"))
    done = CliRunner().invoke(app, [*command.split(), f"cluster.address={address}"])
    assert isinstance(done.exception, ConfigError), done.output
    assert str(done.exception) == f"cluster.address={address}: {why}"
    assert list(tmp_path.iterdir()) == []


# --- a real one --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head; a node with another Optuna; one with a GPU that is none."""
    other = tmp_path_factory.mktemp("other") / "optuna-4.0.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: optuna\nVersion: 4.0.0\n")
    paths = f"{other.parent}:{os.environ.get('PYTHONPATH', '')}"
    node = {"num_cpus": 1}
    with raylets(
        node, {**node, "env_vars": {"PYTHONPATH": paths}}, {**node, "num_gpus": 1}
    ) as made:
        yield made


def asked(cluster: Any, *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = CliRunner().invoke(
        app, ["cluster", "check", "--json", "--address", cluster.address, *arguments]
    )
    assert done.exit_code in (0, 1), done.output
    found = json.loads(done.stdout)
    assert found["ok"] == (done.exit_code == 0)
    return done.exit_code, {finding["check"]: finding for finding in found["checks"]}


@pytest.mark.ray
def test_every_node_is_asked(cluster: Any, tmp_path: Path) -> None:
    from raudio.data.synth import synth

    dataset = tmp_path / "data"
    synth(dataset)
    run = tmp_path / "runs" / "a"
    status, found = asked(cluster, f"dataset.path={dataset}", f"run.dir={run}")
    assert status == 1
    assert found["nodes"]["found"].startswith("3 nodes: 3 CPUs, 1 GPUs")
    assert found["versions"]["state"] == WRONG
    assert f"{cluster.others[0].node_id[:6]}: optuna 4.0.0 instead of" in found["versions"]["found"]
    assert found["GPUs"]["state"] == WRONG  # Ray was told of a GPU that is not there
    fine = set(found) - {"versions", "GPUs"}
    assert {found[check]["state"] for check in fine} == {OK}, found
    assert fine >= {"clocks", "cache", "shared memory", "data", "run", "token"}
    assert list(tmp_path.iterdir()) == [dataset]  # nothing is left of what was written

    for shard in (dataset / "shards").iterdir():
        shard.write_bytes(b"cut")
    # A node that has stopped answering is a finding, and the others are asked all the same.
    (raylet,) = cluster.others[0].all_processes["raylet"]
    os.kill(raylet.process.pid, signal.SIGSTOP)
    try:
        status, found = asked(
            cluster, f"dataset.path={dataset}", "run.dir=/proc/a/run", "--timeout", "6s"
        )
    finally:
        os.kill(raylet.process.pid, signal.SIGCONT)
    assert status == 1
    assert f"{cluster.others[0].node_id[:6]} (no answer in 6 s)" in found["nodes"]["found"]
    assert "begins with b'cut', not b'PAR1'" in found["data"]["found"]
    assert found["run"]["state"] == WRONG


def test_wrong_usage() -> None:
    for arguments, message in [
        (["--timeout", "never"], "--timeout='never' is not a time"),
        (["run.dri=x"], "unknown setting 'run.dri'"),
    ]:
        done = CliRunner().invoke(app, ["cluster", "check", *arguments])
        assert isinstance(done.exception, ConfigError), done.output
        assert message in str(done.exception)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("silent", r"nothing comes in 0\.5 s"),
        ("other", "something else does"),
        ("lost", "timed out"),
    ],
)
def test_what_answers_is_no_cluster(fault: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any) -> None:
        raise TimeoutError("timed out")

    def serve(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            held.append(connection)
            if fault == "other":
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    held: list[socket.socket] = []
    monkeypatch.setattr(token, "_PATIENCE", 0.5)
    monkeypatch.setattr("ray._private.services.resolve_ip_for_localhost", lambda host: host)
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        if fault == "lost":
            monkeypatch.setattr(socket, "create_connection", lost)
        with pytest.raises(ConfigError, match=rf"no Ray cluster answers there \({why}\); start"):
            token.answers(f"127.0.0.1:{server.getsockname()[1]}")
    for connection in held:
        connection.close()
