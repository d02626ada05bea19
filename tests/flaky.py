"""A store on loopback for tests: moto's S3 server, behind a proxy that fails when it is told to."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlparse
from urllib.request import Request, urlopen

_SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


@dataclass
class Fault:
    """What goes wrong with the next `times` requests of `method` whose path holds `path`.

    `kind`: "503" answers SlowDown; "403" refuses; "cut" ends the body in its middle; "reset" closes
    the connection without an answer; "delay" waits for `seconds` first.
    """

    kind: str
    times: int = 1
    method: str = ""
    path: str = ""
    seconds: float = 0.0


@dataclass
class Proxy:
    """Forwards to `upstream`; what `faults` say happens, and `requests` tells what was asked."""

    upstream: str
    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            self.requests.append((method, path))
            for fault in self.faults:
                if fault.times and method.startswith(fault.method) and fault.path in path:
                    fault.times -= 1
                    return fault
        return None

    def reset(self, *faults: Fault) -> None:
        with self.lock:
            self.faults[:] = faults
            self.requests.clear()


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """A running `Proxy` in front of the server at the URL `upstream`."""
    state = Proxy(upstream)
    address = urlparse(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = state.fault(self.command, self.path)
            kind = fault.kind if fault else ""
            if kind == "delay":
                assert fault
                time.sleep(fault.seconds)
            if kind == "reset":
                self.close_connection = True
                return
            if kind in ("503", "403"):
                self.answer(int(kind), {}, _SLOW_DOWN if kind == "503" else b"")
                return
            connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            response = connection.getresponse()
            content = response.read()
            self.answer(response.status, dict(response.getheaders()), content, cut=kind == "cut")
            connection.close()

        def answer(
            self, status: int, headers: dict[str, str], content: bytes, cut: bool = False
        ) -> None:
            self.send_response_only(status)
            length = headers.pop("Content-Length", "") if self.command == "HEAD" else ""
            for name, value in headers.items():
                if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length or str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[: len(content) // 2] if cut else content)
            self.close_connection = self.close_connection or cut

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def s3() -> Iterator[Proxy]:
    """An empty S3 with the bucket `sounds`, and the proxy that clients are to go through."""
    import logging

    import boto3
    import fsspec
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    # What earlier servers of this process held is still there.
    urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # which goes to an earlier server
    try:
        with proxy(f"http://{host}:{port}") as front:
            client = boto3.client(
                "s3",
                endpoint_url=front.upstream,
                region_name="us-east-1",
                aws_access_key_id="test",
                aws_secret_access_key="test",
            )
            client.create_bucket(Bucket="sounds")
            yield front
    finally:
        server.stop()


def environment(front: Proxy) -> dict[str, str]:
    """The variables that lead AWS clients to the store."""
    return {
        "AWS_ENDPOINT_URL": front.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
