"""A Weights & Biases server on loopback, as far as a run needs one: it keeps what it is sent."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Run:
    """What the server knows of a run; `lines` is its history, by offset."""

    project: str = ""
    group: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    lines: dict[int, dict[str, Any]] = field(default_factory=dict)
    sent: int = 0  # lines of history, those sent again too
    summary: dict[str, Any] = field(default_factory=dict)
    exit: int | None = None
    joined: int = 0


class Server(ThreadingHTTPServer):
    """`runs` by name; `seen`: the operations that were asked for, and what was uploaded."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, Run] = {}
        self.seen: list[str] = []
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None: ...  # it has hung up

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        self.seen.append(operation)
        if operation == "RunResumeStatus":
            known = self.runs.get(given["name"])
            return {"model": None if known is None else {"bucket": _bucket(given["name"], known)}}
        if operation == "UpsertBucket":
            return {"upsertBucket": {"bucket": self.upsert(given), "inserted": True}}
        if operation == "CreateRunFiles":
            files = [{"name": n, "uploadUrl": f"{self.uri}/put/{n}"} for n in given["files"]]
            return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}
        if operation == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        return {"viewer": {"id": "u", "username": "me", "entity": "us", "flags": "{}"}}

    def upsert(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault(given["name"], Run())
        run.project, run.group = given["project"], given["groupName"]
        run.config |= {
            name: one["value"] for name, one in json.loads(given["config"] or "{}").items()
        }
        run.tags = given["tags"] or run.tags
        if given["id"] is None:
            run.joined += 1
        project = {"id": "p", "name": run.project, "entity": {"id": "e", "name": "us"}}
        names = {"name": given["name"], "displayName": given["displayName"]}
        return {"id": "x", **names, "project": project}

    def stream(self, name: str, given: dict[str, Any]) -> None:
        run = self.runs[name]
        for file, part in (given.get("files") or {}).items():
            for number, line in enumerate(part["content"]):
                if file == "wandb-history.jsonl":
                    run.lines[part["offset"] + number] = json.loads(line)
                    run.sent += 1
                elif file == "wandb-summary.json":
                    run.summary |= json.loads(line)
        if given.get("complete"):
            run.exit = given["exitcode"]


def _bucket(name: str, run: Run) -> dict[str, Any]:
    tail = [json.dumps(run.lines[max(run.lines)])] if run.lines else []
    return {
        "id": "x",
        "name": name,
        "displayName": name,
        "summaryMetrics": json.dumps(run.summary),
        "config": json.dumps({k: {"value": v} for k, v in run.config.items()}),
        "tags": run.tags,
        "notes": "",
        "historyLineCount": len(run.lines),
        "logLineCount": 0,
        "eventsLineCount": 0,
        "historyTail": json.dumps(tail),
        "eventsTail": "[]",
        "wandbConfig": json.dumps({"t": 1}),
    }


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        given = json.loads(self._body())
        if self.path == "/graphql":
            data = self.server.answer(given["operationName"], given.get("variables") or {})
            self._answer({"data": data})
        else:  # /files/ENTITY/PROJECT/RUN/file_stream
            self.server.stream(self.path.split("/")[4], given)
            self._answer({})

    def do_PUT(self) -> None:
        self._body()
        self.server.seen.append(f"PUT {self.path}")
        self._answer({})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None: ...


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """A server that ends with the block."""
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()
