"""The HTTP service: what `raudio predict` says, and a reason for all that it can't answer."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pages
import pytest
import soundfile
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from test_export import LABELS, make_run
from test_predict import sound
from typer.testing import CliRunner

from raudio.cli.main import app as command_line
from raudio.core.errors import ConfigError
from raudio.export import server, service
from raudio.export.make import export
from raudio.export.predictor import Predictor, load
from raudio.export.service import Limits, build_app

SECRET = "a-secret-that-nobody-prints"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("runs") / "run", {"0000": 0.5})
    return export(run, tmp_path_factory.mktemp("bundles") / "served")


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> Predictor:
    return load(bundle)


@pytest.fixture(scope="module")
def client(predictor: Predictor) -> Iterator[TestClient]:
    """The service in this process, with limits that are easily passed."""
    limits = Limits(bytes=300_000, seconds=30, timeout=20, concurrency=2, queue=100)
    with TestClient(build_app(predictor, limits), raise_server_exceptions=False) as client:
        yield client


def encoded(wave: NDArray[Any], rate: int = 8000, kind: str = "WAV", **how: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=kind, **how)
    return file.getvalue()


def predicted(bundle: Path, *arguments: Any) -> list[dict[str, Any]]:
    """What `raudio predict --json` prints."""
    done = CliRunner().invoke(
        command_line, ["predict", str(bundle), *map(str, arguments), "--json"]
    )
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


# --- answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "rate", "channels"),
    [
        ("WAV", 8000, 1),
        ("FLAC", 44100, 2),
        ("OGG", 16000, 1),
        ("MP3", 22050, 2),
        ("AIFF", 11025, 1),
    ],
)
def test_the_answer_is_that_of_predict(
    client: TestClient, bundle: Path, tmp_path: Path, kind: str, rate: int, channels: int
) -> None:
    wave = sound(int(1.3 * rate), rate)[:, None] * np.linspace(0.4, 1, channels)
    path = tmp_path / f"x.{kind.lower()}"
    path.write_bytes(encoded(wave, rate, kind))
    (expected,) = predicted(bundle, path)
    del expected["file"]
    raw = client.post("/predict", content=path.read_bytes())
    assert raw.status_code == 200
    assert raw.json() == expected
    form = client.post("/predict", files={"anything": ("mine.bin", path.read_bytes())})
    assert form.json() == {"file": "mine.bin", **expected}


def test_parts_and_scores_are_chosen_as_by_predict(
    client: TestClient, bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(encoded(sound(15000)))
    for query in ("window=0.5&stride=0.25", "top=2&threshold=0.9", "stride=0.4&top=1", "window=9"):
        asked = query.replace("=", " ").replace("&", " --")
        expected = predicted(bundle, path, *f"--{asked}".split())
        answer = client.post(f"/predict?{query}", content=path.read_bytes())
        for one in expected:
            del one["file"]
        assert answer.json() == (
            expected if "window" in query or "stride" in query else expected[0]
        )
    form = client.post("/predict?window=1", files={"f": ("a.wav", path.read_bytes())}).json()
    assert [one["file"] for one in form] == ["a.wav", "a.wav"]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("window=0", "greater than 0"),
        ("window=-1", "greater than 0"),
        ("window=nan", "less than or equal to 86400"),
        ("window=1e308", "less than or equal to 86400"),
        ("window=wide", "window='wide'"),
        ("stride=2&window=1", "stride=2 is longer than window=1"),
        ("stride=0.00001", "less than a sample"),
        ("stride=0.0002", "parts of the recording, of 10000 allowed"),
        ("top=0", "top=0: give the number of scores"),
        ("top=1.5", "top='1.5'"),
        ("threshold=inf", "threshold=inf: give a score"),
    ],
)
def test_a_query_that_cannot_be_gets_a_reason(client: TestClient, query: str, reason: str) -> None:
    answer = client.post(f"/predict?{query}", content=encoded(sound(20_000)))
    assert answer.status_code in (413, 422), answer.text
    assert reason in answer.json()["error"]


def test_what_a_request_calls_its_body_does_not_matter(client: TestClient) -> None:
    body = encoded(sound(9000))
    expected = client.post("/predict", content=body).json()
    for kind in ("audio/wav", "application/x-www-form-urlencoded", "text/plain", "nonsense"):
        answer = client.post("/predict", content=body, headers={"content-type": kind})
        assert answer.json() == expected


def test_what_is_served(client: TestClient, predictor: Predictor, bundle: Path) -> None:
    about = client.get("/").json()
    assert about["labels"] == list(LABELS)
    assert about["sample_rate"] == 8000
    assert about["bundle"] == "served"
    assert about["limits"] == {"bytes": 300_000, "seconds": 30, "timeout": 20}
    assert str(bundle.parent) not in json.dumps(about), "a folder of the server's"
    assert client.get("/health").json() == {"status": "ok"}


def test_the_page_that_explains_needs_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "swagger-ui-bundle.js" in page
    assert "http:" not in page
    assert "https:" not in page
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/", "/predict", "/health", "/metrics"}
    bodies = described["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert set(bodies) == {"application/octet-stream", "multipart/form-data"}


def test_metrics_count_what_was_answered(predictor: Predictor) -> None:
    with TestClient(build_app(predictor)) as client:
        client.post("/predict", content=encoded(sound(12000)))
        client.post("/predict", content=encoded(sound(4000)))
        client.post("/predict", content=b"")
        client.get("/somewhere/else")
        client.get("/somewhere")
        lines = client.get("/metrics").text.splitlines()
    assert 'raudio_requests_total{route="/predict",status="200"} 2.0' in lines
    assert 'raudio_requests_total{route="/predict",status="422"} 1.0' in lines
    assert 'raudio_requests_total{route="(none)",status="404"} 2.0' in lines
    assert 'raudio_request_seconds_count{route="/predict"} 3.0' in lines
    assert "raudio_audio_seconds_total 2.0" in lines


# --- what can't be answered --------------------------------------------------------------------


def header(rate: int, channels: int, bits: int, claimed: int, kind: int = 1) -> bytes:
    """A WAV file's head that claims so many bytes of samples."""
    width = channels * bits // 8
    return (
        struct.pack("<4sI4s4sIHHIIHH", b"RIFF", (36 + claimed) & 0xFFFFFFFF, b"WAVE", b"fmt ", 16,
                    kind, channels, rate, (rate * width) & 0xFFFFFFFF, width & 0xFFFF, bits)
        + struct.pack("<4sI", b"data", claimed & 0xFFFFFFFF)
    )  # fmt: skip


def claiming(frames: int) -> bytes:
    """A FLAC file whose header claims so many samples."""
    content = bytearray(encoded(sound(8000), kind="FLAC"))
    # STREAMINFO: 4 bytes of magic, 4 of block header, 13 before the 36 bits of the count.
    (field,) = struct.unpack(">Q", content[18:26])
    content[18:26] = struct.pack(">Q", field >> 36 << 36 | frames)
    return bytes(content)


BAD = {
    "nothing": (b"", 422, "empty"),
    "text": (b"hello, this is no audio at all", 422, "can't be decoded"),
    "zeros": (bytes(10_000), 422, "can't be decoded"),
    "JSON": (b'{"path": "/etc/passwd", "url": "http://localhost/"}', 422, "can't be decoded"),
    "a WAV of 0 samples": (encoded(np.zeros(0)), 422, "empty"),
    "half a FLAC": (encoded(sound(16000), kind="FLAC")[:9000], 422, "can't be decoded"),
    "a FLAC's first bytes": (encoded(sound(16000), kind="FLAC")[:50], 422, ""),
    "the head of a WAV alone": (header(8000, 1, 16, 32_000), 422, ""),
    "no channel": (header(8000, 0, 16, 32_000) + bytes(32_000), 422, "can't be decoded"),
    "a rate of 0": (header(0, 1, 16, 32_000) + bytes(32_000), 422, "can't be decoded"),
    "10 hours by a FLAC's header": (claiming(36_000 * 8000), 413, "36000 s long, of 30 s"),
    "an endless FLAC": (claiming(0), 422, ""),
    "NaN": (encoded(np.full(8000, np.nan, np.float32), subtype="FLOAT"), 422, "NaN or infinite"),
    "infinity": (encoded(np.full(8000, np.inf, np.float32), subtype="FLOAT"), 422, "infinite"),
    "an hour of silence in little": (encoded(np.zeros(10**6), 1, "FLAC"), 413, "1000000 s long"),
    "too much": (encoded(sound(200_000)), 413, "larger than the 300.0 kB allowed"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_audio_gets_a_reason(client: TestClient, name: str) -> None:
    body, status, reason = BAD[name]
    answers = [client.post("/predict", content=body)]
    answers.append(client.post("/predict", files={"file": ("their.wav", body)}))
    for answer in answers:
        assert answer.status_code == status, answer.text
        assert set(answer.json()) == {"error"}
        assert reason in answer.json()["error"]
        assert "/" not in answer.json()["error"], "a path of the server's"
    if status == 422 and name != "nothing":
        assert "their.wav" in answers[1].json()["error"]
    assert client.post("/predict", content=encoded(sound(900))).status_code == 200


def test_10_hours_by_a_wav_s_header_are_the_samples_that_are_there(client: TestClient) -> None:
    samples = encoded(sound(4000))[44:]
    lying = header(8000, 1, 16, 36_000 * 16_000) + samples
    honest = header(8000, 1, 16, len(samples)) + samples
    answer = client.post("/predict", content=lying)
    assert answer.status_code == 200
    assert answer.json() == client.post("/predict", content=honest).json()


def test_forms_that_hold_no_recording(client: TestClient) -> None:
    body = encoded(sound(900))
    form = "multipart/form-data; boundary=x"
    several = [("a", ("a.wav", body)), ("b", ("b.wav", body))]
    for answer, reason in (
        (client.post("/predict", files={"a": (None, "text")}), "no file"),
        (client.post("/predict", files=several), "Too many files"),
        (client.post("/predict", content=body, headers={"content-type": form}), "multipart"),
        (client.post("/predict", content=b"--y", headers={"content-type": form}), "multipart"),
        (client.post("/predict", content=body, headers={"content-type": form[:19]}), "boundary"),
    ):
        assert answer.status_code in (400, 422), answer.text
        assert reason in answer.json()["error"]


def test_what_is_not_there(client: TestClient) -> None:
    for answer, status in (
        (client.get("/etc/passwd"), 404),
        (client.post("/predict/../../etc/passwd"), 404),
        (client.get("/static-offline-docs/../../core.py"), 404),
        (client.get("/static-offline-docs/%2e%2e/core.py"), 404),
        (client.get("/predict"), 405),
        (client.delete("/predict"), 405),
        (client.post("/"), 405),
    ):
        assert answer.status_code == status, answer.url
        assert "/docs" in answer.text or status == 404


def test_random_bytes_never_break_it(client: TestClient) -> None:
    draw = random.Random(0)
    whole = [encoded(sound(2000), kind=kind) for kind in ("WAV", "FLAC", "OGG", "AIFF", "MP3")]
    for number in range(200):
        if number % 4 == 0:
            body = draw.randbytes(draw.randrange(1, 2000))
        else:  # a real file, with a few bytes changed, or cut
            content = bytearray(draw.choice(whole))
            for _ in range(draw.randrange(1, 8)):
                content[draw.randrange(min(len(content), 200))] = draw.randrange(256)
            body = bytes(content[: draw.choice([len(content), draw.randrange(len(content))])])
        answer = client.post("/predict", content=body)
        assert answer.status_code in (200, 413, 422), (number, body, answer.text)
    assert client.get("/health").status_code == 200


@pytest.mark.slow
def test_too_many_at_once_are_sent_away(predictor: Predictor, monkeypatch: Any) -> None:
    """One computes, one waits, the third is told to come again; one that takes too long as well."""
    go_on, begun = threading.Event(), threading.Event()
    whole = predictor.results

    def waits(*arguments: Any, **options: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        return whole(*arguments, **options)

    body = encoded(sound(900))
    limits = Limits(timeout=1.5, concurrency=1, queue=1)
    with TestClient(build_app(predictor, limits)) as client, ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(predictor, "results", waits)
        first = pool.submit(client.post, "/predict", content=body)
        assert begun.wait(10)
        second = pool.submit(client.post, "/predict", content=body)
        time.sleep(0.3)
        third = client.post("/predict", content=body)
        assert third.status_code == 503
        assert "2 requests" in third.json()["error"]
        assert third.headers["retry-after"] == "1"
        assert "no answer after 1.5 s" in first.result().json()["error"]
        assert second.result().status_code == 503
        go_on.set()
        assert client.post("/predict", content=body).status_code == 200


def test_what_nobody_waits_for_is_given_up(predictor: Predictor, monkeypatch: Any) -> None:
    heard = []

    def slowly(*arguments: Any, **options: Any) -> Iterator[NDArray[np.float32]]:
        while True:
            heard.append(time.monotonic())
            time.sleep(0.1)
            yield np.zeros(8000, np.float32)

    body = encoded(sound(900))
    with TestClient(build_app(predictor, Limits(timeout=0.5, concurrency=1))) as client:
        monkeypatch.setattr(service, "blocks", slowly)
        assert client.post("/predict", content=body).status_code == 503
        monkeypatch.undo()
        assert client.post("/predict", content=body).status_code == 200
        assert heard[-1] - heard[0] < 1


def test_a_token_is_asked_for_where_there_is_one(predictor: Predictor) -> None:
    body = encoded(sound(900))
    with TestClient(build_app(predictor, token=SECRET)) as client:
        for shown in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {SECRET}"},
                      {"Authorization": "Bearer é".encode()}):  # fmt: skip
            for answer in (
                client.post("/predict", content=body, headers=shown),
                client.get("/", headers=shown),
                client.get("/metrics", headers=shown),
            ):
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert SECRET not in answer.text
        known = {"Authorization": f"Bearer {SECRET}"}
        assert client.post("/predict", content=body, headers=known).status_code == 200
        assert client.get("/", headers=known).status_code == 200
        assert client.get("/health").status_code == client.get("/docs").status_code == 200


# --- where it listens --------------------------------------------------------------------------


def test_loopback_is_known() -> None:
    for host, loopback in (("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)):
        with server.listen(host, 0) as listening:
            assert server.is_loopback(listening) == loopback
            assert server.url_of(listening).startswith("http://")


def test_a_place_where_it_cannot_listen_is_refused() -> None:
    with server.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: cannot listen.*give another --port"):
            server.listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"--host no\.such\.host\.invalid"):
        server.listen("no.such.host.invalid", 0)


def test_a_token_that_is_not_there_is_refused(bundle: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("RAUDIO_TOKEN", raising=False)
    done = CliRunner().invoke(command_line, ["serve", str(bundle), "--token"])
    assert "RAUDIO_TOKEN is not set" in str(done.exception)


# --- what docs/results.md says ----------------------------------------------------------------


def test_the_routes_of_the_page_are_those_of_the_service(client: TestClient) -> None:
    described = client.get("/openapi.json").json()["paths"]
    routes = {f"{verb.upper()} {path}" for path, verbs in described.items() for verb in verbs}
    assert {row[0] for row in pages.table(pages.RESULTS, "route")} == routes | {"GET /docs"}


def serve_lines() -> list[list[str]]:
    lines = [shlex.split(line) for line in pages.commands(pages.RESULTS)]
    return [line for line in lines if line[:2] == ["raudio", "serve"] or line[0] == "curl"]


def test_the_commands_of_the_page_are_understood() -> None:
    ours = [line[1:] for line in serve_lines() if line[0] == "raudio"]
    assert len(ours) == 3
    for line in ours:
        pages.parse(line)


# --- as a process ------------------------------------------------------------------------------


class Server:
    """`raudio serve` in a process of its own; all that it has said, at the end."""

    def __init__(self, bundle: Path, *options: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "raudio.cli.main",
                "serve",
                str(bundle),
                "--port",
                "0",
                *options,
            ],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            text=True,
        )
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._ready = threading.Event()
        self._reader.start()
        if not self._ready.wait(200):
            self.process.kill()
            raise AssertionError(f"it does not start: {self.said}")
        (line,) = (line for line in self.said if line.startswith("serving"))
        self.url = line.split()[3]
        self.port = int(self.url.rpartition(":")[2])

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if line.startswith("serving"):
                self._ready.set()
        self._ready.set()

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        status = self.process.wait(100)
        self._reader.join(5)
        return status

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


@pytest.fixture(scope="module")
def served(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("temporary")
    one = Server(bundle, "--max-bytes", "1MB", "--queue", "60", TMPDIR=str(folder))
    try:
        yield one
        assert one.process.poll() is None, "it has lived through all of this"
        assert len(list(next(folder.iterdir()).iterdir())) == 0, "every body is removed"
    finally:
        if one.process.poll() is None:
            assert one.end() == 0
    assert list(folder.iterdir()) == []
    assert not [line for line in one.said if "Traceback" in line], "".join(one.said)


@pytest.mark.slow
def test_a_process_answers_what_predict_says(served: Server, bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.flac"
    path.write_bytes(encoded(sound(44100 * 4, 44100), 44100, "FLAC"))
    (expected,) = predicted(bundle, path)
    with path.open("rb") as file:
        answer = httpx.post(f"{served.url}/predict", files={"file": ("x.flac", file)})
    assert answer.json() == {**expected, "file": "x.flac"}


@pytest.mark.slow
def test_the_requests_of_the_page_are_answered(served: Server, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not here")
    (tmp_path / "owl.wav").write_bytes(encoded(sound(20_000)))
    asked = [line for line in serve_lines() if line[0] == "curl"]
    assert len(asked) == 2
    for line in asked:
        here = [part.replace("http://127.0.0.1:8000", served.url) for part in line]
        done = subprocess.run(here, cwd=tmp_path, capture_output=True, text=True, check=True)
        answer = json.loads(done.stdout)
        assert "label" in (answer[0] if isinstance(answer, list) else answer)


@pytest.mark.slow
def test_a_body_that_does_not_say_how_long_it_is(served: Server) -> None:
    body = encoded(sound(9000))

    def drops(content: bytes) -> Iterator[bytes]:
        for start in range(0, len(content), 50_000):
            yield content[start : start + 50_000]

    answer = httpx.post(f"{served.url}/predict", content=drops(body))
    assert answer.json() == httpx.post(f"{served.url}/predict", content=body).json()
    answer = httpx.post(f"{served.url}/predict", content=drops(bytes(3_000_000)))
    assert answer.status_code == 413
    answer = httpx.post(f"{served.url}/predict", content=bytes(3_000_000))
    assert answer.status_code == 413


@pytest.mark.slow
def test_clients_that_leave_or_talk_nonsense(served: Server) -> None:
    post = b"POST /predict HTTP/1.1\r\nHost: x\r\n"

    def status(said: bytes) -> bytes:
        with served.connect() as connection:
            connection.sendall(said)
            return connection.recv(12)[9:]

    assert status(post + b"Content-Length: many\r\n\r\n") == b"400"
    assert status(post + b"X: " + b"x" * 100_000) == b"400"
    assert status(b"nonsense\r\n\r\n") == b"400"
    for said in (b"", post[:9], post + b"Content-Length: 9\r\n\r\n"):
        with served.connect() as connection:
            connection.sendall(said)
    assert httpx.get(f"{served.url}/health").status_code == 200


@pytest.mark.slow
def test_a_head_that_never_ends_is_given_up(served: Server) -> None:
    """Also on a connection that has answered before."""
    with served.connect() as connection, served.connect() as used:
        used.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in used.recv(1000)
        began = time.monotonic()
        for one in (connection, used):
            one.sendall(b"GET / HTTP/1.1\r\n")
            one.settimeout(0.5)
        left = {connection, used}
        while left and time.monotonic() - began < 20:
            for one in list(left):
                with contextlib.suppress(TimeoutError):
                    try:
                        one.sendall(b"X: y\r\n")
                        gone = not one.recv(100)
                    except ConnectionError:
                        gone = True
                    if gone:
                        left.remove(one)
        assert not left
        assert time.monotonic() - began > 5


@pytest.mark.slow
def test_fifty_at_once(served: Server) -> None:
    body = encoded(sound(9000))
    expected = httpx.post(f"{served.url}/predict", content=body).json()
    with ThreadPoolExecutor(50) as pool:
        asked = [
            pool.submit(httpx.post, f"{served.url}/predict", content=body, timeout=30)
            for _ in range(50)
        ]
        answers = [one.result() for one in asked]
    assert {answer.status_code for answer in answers} == {200}
    assert all(answer.json() == expected for answer in answers)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_it_has_answered_and_tells_no_secret(bundle: Path, number: int) -> None:
    one = Server(bundle, "--host", "0.0.0.0", "--token", RAUDIO_TOKEN=SECRET)
    url = f"http://127.0.0.1:{one.port}/predict?token={SECRET}"
    known = {"Authorization": f"Bearer {SECRET}"}
    body = encoded(sound(16000))

    def slowly() -> Iterator[bytes]:
        yield body[:5000]
        time.sleep(1.0)
        yield body[5000:]

    assert httpx.post(url, content=body).status_code == 401
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, url, content=slowly(), headers=known, timeout=30)
        time.sleep(0.5)
        assert one.end(number) == 0
        assert asked.result().status_code == 200
    said = "".join(one.said)
    assert SECRET not in said
    assert "POST /predict 401" in said
    assert "POST /predict 200" in said
    assert "warning" not in said
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{one.port}/health")


@pytest.mark.slow
def test_an_open_door_is_warned_of_and_slow_clients_are_given_up(bundle: Path) -> None:
    one = Server(bundle, "--host", "0.0.0.0", "--timeout", "2", RAUDIO_TOKEN="")
    with one.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nRI")
        answer = connection.recv(1000)
    assert answer.startswith(b"HTTP/1.1 408")
    assert one.end() == 0
    assert "warning: anybody who reaches http://0.0.0.0:" in "".join(one.said)


@pytest.mark.ray
@pytest.mark.slow
def test_with_ray_serve(bundle: Path, tmp_path: Path) -> None:
    """The same answers from a replica; nothing is left of it."""
    path = tmp_path / "x.flac"
    path.write_bytes(encoded(sound(44100 * 2, 44100), 44100, "FLAC"))
    (expected,) = predicted(bundle, path)
    del expected["file"]
    limits = ["--concurrency", "1", "--max-bytes", "1MB"]
    one = Server(bundle, "--ray", *limits, RAUDIO_TOKEN=SECRET)
    try:
        known = {"Authorization": f"Bearer {SECRET}"}
        url = f"{one.url}/predict"
        answer = httpx.post(url, content=path.read_bytes(), headers=known, timeout=30)
        assert answer.json() == expected
        assert httpx.post(url, content=b"").status_code == 401
        assert httpx.post(url, content=b"text", headers=known).status_code == 422
        assert httpx.post(url, content=bytes(2_000_000), headers=known).status_code == 413
        assert httpx.get(f"{one.url}/health").json() == {"status": "ok"}
        assert httpx.get(f"{one.url}/docs").status_code == 200
    finally:
        assert one.end() == 0
    assert SECRET not in "".join(one.said)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{one.url}/health")


@pytest.mark.ray
@pytest.mark.slow
def test_replicas_that_do_not_fit_are_refused(bundle: Path) -> None:
    done = CliRunner().invoke(
        command_line, ["serve", str(bundle), "--port", "0", "--ray", "--replicas", "1000"]
    )
    assert "--replicas 1000" in str(done.exception)
