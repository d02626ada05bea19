"""The metadata services of AWS, GCP and Azure on loopback, as far as a watcher asks them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

#: Status, headers and text of an answer.
Reply = tuple[int, dict[str, str], str]


@dataclass
class Fake:
    """A running service. Whatever is put in `broken` is answered in place of the truth."""

    answer: Callable[[Fake, str, str, dict[str, str]], Reply]
    url: str = ""
    state: dict[str, Any] = field(default_factory=dict)
    broken: list[Reply] = field(default_factory=list)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def paths(self) -> list[str]:
        return [path for _, path, _ in self.asked]


@contextmanager
def serve(answer: Callable[[Fake, str, str, dict[str, str]], Reply]) -> Iterator[Fake]:
    fake = Fake(answer)

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            fake.asked.append((self.command, self.path, headers))
            reply = fake.broken.pop(0) if fake.broken else None
            status, sent, text = reply or fake.answer(fake, self.command, self.path, headers)
            self.send_response_only(status)
            for name, value in {"Content-Length": str(len(text.encode())), **sent}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_PUT = handle_any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def aws(fake: Fake, method: str, path: str, headers: dict[str, str]) -> Reply:
    """State: `token` (the one that is good), `time` and `action` of the notice, `rebalance`."""
    token = fake.state.setdefault("token", "first==")
    if (method, path) == ("PUT", "/latest/api/token"):
        good = headers.get("x-aws-ec2-metadata-token-ttl-seconds", "").isdigit()
        return (200, {}, token) if good else (400, {}, "")
    if headers.get("x-aws-ec2-metadata-token") != token:
        return 401, {}, "Unauthorized"
    if path == "/latest/meta-data/spot/instance-action" and "time" in fake.state:
        action = {"action": fake.state.get("action", "terminate"), "time": fake.state["time"]}
        return 200, {}, json.dumps(action)
    if path == "/latest/meta-data/events/recommendations/rebalance" and "rebalance" in fake.state:
        return 200, {}, json.dumps({"noticeTime": fake.state["rebalance"]})
    return 404, {}, "<html>404</html>"


def gcp(fake: Fake, method: str, path: str, headers: dict[str, str]) -> Reply:
    """State: `preempted` and `maintenance-event`, whose texts are the answers."""
    if headers.get("metadata-flavor") != "Google":
        return 403, {}, "Missing Metadata-Flavor:Google header."
    parts = urlsplit(path)
    name = parts.path.removeprefix("/computeMetadata/v1/instance/")
    start = {"preempted": "FALSE", "maintenance-event": "NONE"}
    if name not in start:
        return 404, {}, ""
    query = {key: value for key, (value,) in parse_qs(parts.query).items()}
    until = time.monotonic() + float(query.get("timeout_sec", 0))
    while True:
        text = fake.state.get(name, start[name])
        etag = format(hash((name, text)) & 0xFFFF, "x")
        changed = query.get("last_etag") != etag
        if "wait_for_change" not in query or changed or time.monotonic() > until:
            return 200, {"Metadata-Flavor": "Google", "ETag": etag}, text
        time.sleep(0.01)


def azure(fake: Fake, method: str, path: str, headers: dict[str, str]) -> Reply:
    """State: `events`; the machine is called vm_0."""
    if headers.get("metadata") != "true":
        return 400, {}, '{"error": "Bad request"}'
    if path == "/metadata/instance/compute/name?api-version=2021-02-01&format=text":
        return 200, {}, "vm_0"
    if path == "/metadata/scheduledevents?api-version=2020-07-01":
        events = fake.state.get("events", [])
        return 200, {}, json.dumps({"DocumentIncarnation": 1, "Events": events})
    return 404, {}, ""
