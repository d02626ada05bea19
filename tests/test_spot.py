"""The notice that a spot machine is given: from each cloud's metadata service to a drained node."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import metadata
import pytest
from metadata import Fake
from raylets import raylets
from typer.testing import CliRunner

from raudio.cli.main import app
from raudio.cluster import notices, spot
from raudio.cluster.drain import DrainError, drain, parse_deadline
from raudio.cluster.notices import NoAnswerError, Notice, Service
from raudio.cluster.spot import watch
from raudio.core.errors import ConfigError

WATCH = [sys.executable, "-m", "raudio.cli.main", "cluster", "watch-spot"]


@pytest.fixture(autouse=True)
def proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that nothing of this may go through."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)


@pytest.fixture
def aws() -> Iterator[Fake]:
    with metadata.serve(metadata.aws) as fake:
        yield fake


@pytest.fixture
def gcp() -> Iterator[Fake]:
    with metadata.serve(metadata.gcp) as fake:
        yield fake


@pytest.fixture
def azure() -> Iterator[Fake]:
    with metadata.serve(metadata.azure) as fake:
        yield fake


def look(name: str, fake: Fake, log: Callable[[str], None] = lambda _: None) -> Notice | None:
    return notices.PROVIDERS[name](Service(fake.url), log).look(0)


def test_aws(aws: Fake) -> None:
    said: list[str] = []
    provider = notices.Aws(Service(aws.url), said.append)
    assert provider.look(5) is None
    aws.state["rebalance"] = "2026-03-01T11:00:00Z"
    assert [provider.look(5), provider.look(5)] == [None, None]
    assert len(said) == 1
    assert "higher risk" in said[0]
    aws.state["token"] = "second=="  # the first is over
    aws.state["time"] = "2026-03-01T12:00:00Z"
    when = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
    assert provider.look(5) == Notice(when, "AWS: spot instance, terminate")
    assert provider.look(5) is not None
    assert [method for method, _, _ in aws.asked].count(
        "PUT"
    ) == 2  # a token is kept while it lasts


def test_gcp(gcp: Fake) -> None:
    provider = notices.Gcp(Service(gcp.url), lambda _: None)
    assert provider.look(5) is None  # at once: there is nothing yet to wait for a change of
    began = time.monotonic()
    assert provider.look(1) is None  # the service waits
    assert time.monotonic() - began > 0.9
    gcp.state["maintenance-event"] = "MIGRATE_ON_HOST_MAINTENANCE"  # which a machine lives through
    assert look("gcp", gcp) is None
    gcp.state["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
    notice = look("gcp", gcp)
    assert notice is not None
    assert 55 < notice.deadline - time.time() <= 60
    gcp.state["preempted"] = "TRUE"
    notice = provider.look(500)  # changed since: no waiting
    assert notice is not None
    assert 25 < notice.deadline - time.time() <= 30


def test_azure(azure: Fake) -> None:
    preempt: dict[str, Any] = {
        "EventId": "A",
        "EventType": "Preempt",
        "ResourceType": "VirtualMachine",
        "Resources": ["vm_0"],
        "EventStatus": "Scheduled",
        "NotBefore": "Sun, 01 Mar 2026 12:00:00 GMT",
    }
    assert look("azure", azure) is None
    azure.state["events"] = [
        {**preempt, "Resources": ["vm_1"]},  # another's of the same scale set
        {**preempt, "EventType": "Freeze"},
    ]
    assert look("azure", azure) is None
    azure.state["events"] += [{**preempt, "NotBefore": "Sun, 01 Mar 2026 12:05:00 GMT"}, preempt]
    when = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
    assert look("azure", azure) == Notice(when, "Azure: Preempt")
    azure.state["events"] = [{**preempt, "EventStatus": "Started", "NotBefore": ""}]
    notice = look("azure", azure)
    assert notice is not None
    assert abs(notice.deadline - time.time()) < 5


@pytest.mark.parametrize("name", ["aws", "gcp", "azure"])
def test_whose_service_it_is(name: str, request: pytest.FixtureRequest) -> None:
    fake = request.getfixturevalue(name)
    assert notices.detect(Service(fake.url)) == name
    fake.answer = lambda *_: (200, {}, "<html>a captive portal</html>")
    fake.asked.clear()
    with pytest.raises(NoAnswerError, match="no metadata service"):
        notices.detect(Service(fake.url))


GARBAGE = [
    (500, {}, "down"),
    (200, {}, ""),
    (200, {}, "<html>login</html>"),
    (200, {}, "[]"),
    (200, {}, '{"action": 1, "time": 2, "Events": 3}'),
    (200, {}, '{"time": "soon", "Events": [{"EventType": "Preempt"}]}'),
    (200, {"Content-Length": "50"}, "cut"),
    (302, {"Location": "http://127.0.0.1:9/"}, ""),
]


@pytest.mark.parametrize("reply", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("name", ["aws", "gcp", "azure"])
def test_what_is_no_answer(
    name: str, reply: metadata.Reply, request: pytest.FixtureRequest
) -> None:
    fake = request.getfixturevalue(name)
    provider = notices.PROVIDERS[name](Service(fake.url), lambda _: None)
    assert provider.look(0) is None
    fake.answer = lambda *_: reply
    with pytest.raises(NoAnswerError):
        provider.look(0)


def test_tokens_go_nowhere_else(aws: Fake) -> None:
    with metadata.serve(metadata.aws) as other:
        service = Service(aws.url)
        provider = notices.Aws(service, lambda _: None)
        assert provider.look(0) is None
        aws.answer = lambda *_: (307, {"Location": f"{other.url}/latest/meta-data/x"}, "")
        with pytest.raises(NoAnswerError, match="307"):
            provider.look(0)
        assert other.asked == []


class EndedError(Exception):
    """Ends a watch."""


def watched(
    fake: Fake, steps: list[Callable[[], object]], drained: list[str | None], **options: Any
) -> tuple[list[str], list[float], list[Notice]]:
    """The log, the pauses and the notices of a watch which is ended after the steps, one a pause.

    `drained`: what Ray answers, one after the other; the last for ever.
    """
    log: list[str] = []
    pauses: list[float] = []
    told: list[Notice] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if not steps:
            raise EndedError
        steps.pop(0)()

    def tell(notice: Notice) -> str | None:
        told.append(notice)
        return drained.pop(0) if len(drained) > 1 else drained[0]

    with pytest.raises(EndedError):
        watch("auto", Service(fake.url), tell, log.append, interval=5, sleep=sleep, **options)
    return log, pauses, told


def in_a_while(seconds: float) -> str:
    return datetime.fromtimestamp(round(time.time() + seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def nothing() -> None:
    pass


def test_a_watch_tells_ray_and_goes_on(aws: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the deadline Ray is told again, as a node may be started anew; then it is over."""
    start = time.time()
    clock = [start]
    monkeypatch.setattr(spot.time, "time", lambda: clock[0])

    def notice() -> None:
        aws.state["time"] = datetime.fromtimestamp(start + 40, UTC).isoformat()

    def later() -> None:
        clock[0] += 15

    def over() -> None:
        clock[0] = start + 41
        del aws.state["time"]  # it was not taken away after all

    steps = [nothing, notice, later, later, over, nothing]
    log, pauses, told = watched(aws, steps, [None, "no node", None])
    assert len(set(told)) == 1
    assert len(told) == 4
    assert pauses[2:4] == [15, 15]
    assert pauses[4] == pytest.approx(10, abs=0.1)
    assert "watching for aws's notice" in log[0]
    assert "AWS: spot instance, terminate at 20" in log[1]
    assert "in 40 s: draining this machine" in log[1]
    assert len(log) == 2


def test_ray_is_told_again_until_it_answers(aws: Fake) -> None:
    aws.state["time"] = in_a_while(100)
    log, pauses, told = watched(aws, [nothing] * 4, ["not there", "not there", "refused", None])
    assert len(told) == 5
    assert pauses == [2, 2, 2, 15, 15]
    assert log[2:] == ["not there", "refused"]  # each but once


def test_ray_is_told_in_vain(aws: Fake) -> None:
    aws.state["time"] = in_a_while(-1)
    log, _, told = watched(aws, [], ["not there"])
    assert len(told) == 1
    assert log[-1] == "Ray could not be told before the deadline"


def test_a_service_that_is_away_is_asked_less_often_and_said_once(aws: Fake) -> None:
    truth = aws.answer

    def away() -> None:
        aws.answer = lambda *_: (503, {}, "")

    def back() -> None:
        aws.answer = truth

    log, pauses, _ = watched(aws, [away, *[nothing] * 4, back, nothing], [None])
    assert pauses[1:6] == [5, 10, 15, 15, 15]
    assert len(log) == 3
    assert "does not answer (HTTP status 503" in log[1]
    assert "answers again" in log[2]


def test_wrong_usage() -> None:
    run = CliRunner()
    for arguments, message in [
        (["--provider", "gpc"], "unknown provider 'gpc' (closest: 'gcp')"),
        (["--endpoint", "https://x"], "--endpoint 'https://x' must be http://HOST"),
        (["--endpoint", "http://x:y"], "--endpoint 'http://x:y' must be http://HOST"),
        (["--interval", "never"], "--interval='never' is not a time"),
        (["--node-id", "head"], "--node-id 'head' is not the id of a Ray node"),
        (["--address", "head"], "--address=head: HOST:PORT of a Ray head is wanted here"),
        (["--address", ""], "--address=: HOST:PORT of a Ray head is wanted here"),
    ]:
        done = run.invoke(app, ["cluster", "watch-spot", *arguments])
        assert isinstance(done.exception, ConfigError)
        assert message in str(done.exception)


def test_deadlines() -> None:
    assert parse_deadline("25s", now=100) == 125
    assert (
        parse_deadline("2026-03-01T12:00:00Z") == datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
    )
    for wrong in ("soon", "2026-03-01T12:00:00", "-5s"):
        with pytest.raises(ConfigError, match="--deadline"):
            parse_deadline(wrong)


def test_no_cluster_answers() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DrainError, match=f"127.0.0.1:{port} does not answer"):
        drain(time.time() + 30, "test", address=f"127.0.0.1:{port}")


@contextmanager
def watcher_of(*options: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([*WATCH, *options], stderr=subprocess.PIPE, text=True) as watcher:
        try:
            yield watcher
        finally:
            watcher.kill()


@pytest.mark.slow
def test_the_watcher_ends_when_it_is_told_to(gcp: Fake) -> None:
    with watcher_of("--endpoint", gcp.url, "--interval", "1h") as watcher:
        assert watcher.stderr is not None
        assert "watching for gcp's notice" in watcher.stderr.readline()
        watcher.send_signal(signal.SIGTERM)  # while the service has its question
        assert watcher.wait(10) == 0
        assert watcher.stderr.read() == ""
    done = subprocess.run([*WATCH, "--endpoint", gcp.url, "--once"], capture_output=True)
    assert done.returncode == 0
    done = subprocess.run(
        [*WATCH, "--endpoint", "http://127.0.0.1:9", "--once"], capture_output=True
    )
    assert done.returncode == 1


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Token authentication, as for clusters of several machines."""
    from ray._raylet import AuthenticationTokenLoader, Config

    def read_environment() -> None:
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()

    with monkeypatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "a-token-of-the-test")
        read_environment()
        yield
    read_environment()


@pytest.mark.ray
@pytest.mark.timeout(100)
def test_a_notice_drains_the_node_with_its_deadline(aws: Fake, token: None) -> None:
    import ray
    from ray._private.state import state

    cpu = {"num_cpus": 1}
    with raylets(cpu, {**cpu, "resources": {"spot": 1}}) as cluster:
        (spot_node,) = cluster.others
        ends = round(time.time() + 60)

        @ray.remote(num_cpus=0)
        class Trial:  # a node without work would go at once
            def node(self) -> str:
                return str(ray.get_runtime_context().get_node_id())

        trial = Trial.options(resources={"spot": 1}).remote()
        assert ray.get(trial.node.remote()) == spot_node.node_id
        aws.state["time"] = datetime.fromtimestamp(ends, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        options = f"--endpoint {aws.url} --address {cluster.address} --node-id {spot_node.node_id}"
        with watcher_of(*options.split()) as watcher:
            assert watcher.stderr is not None
            lines = [watcher.stderr.readline() for _ in range(3)]
            assert f"drained until the deadline: Ray node {spot_node.node_id}" in lines[2], lines
            (node, deadline), *others = state.get_draining_nodes().items()
            assert (node, others) == (spot_node.node_id, [])
            assert abs(deadline / 1000 - ends) < 1

            @ray.remote(num_cpus=1)
            def where() -> str:
                return str(ray.get_runtime_context().get_node_id())

            placed = {ray.get(where.remote()) for _ in range(4)}
            placed |= set(ray.get([where.remote() for _ in range(4)]))
            assert placed == {cluster.head_node.node_id}
            assert ray.get(trial.node.remote()) == spot_node.node_id  # which may still save
            watcher.send_signal(signal.SIGTERM)
            assert watcher.wait(10) == 0
        # Without an id, all nodes of this machine go, which here is the head's too.
        drained = drain(time.time() + 30, "test", address=cluster.address)
        assert cluster.head_node.node_id in drained
        nobody = "0" * len(spot_node.node_id)
        with pytest.raises(DrainError, match=f"has no node {nobody}"):
            drain(time.time() + 30, "test", address=cluster.address, nodes=[nobody])
