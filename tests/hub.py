"""A small Hugging Face Hub on loopback: what its client asks of the real one, in memory.

Repositories have branches and commits; every file is taken as a regular one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse


@dataclass
class Repository:
    private: bool
    #: Commit to its files.
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    #: Branch to its newest commit.
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        name = hashlib.sha1(repr((len(self.commits), sorted(files.items()))).encode()).hexdigest()
        self.commits[name], self.branches[branch] = files, name
        return name

    def named(self, revision: str) -> str | None:
        found = self.branches.get(revision, revision)
        return found if found in self.commits else None


@dataclass
class Hub:
    """The state of the server at `url`; only who sends `token` may write or see private ones."""

    token: str = "hf_secret_of_the_test"
    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def hub() -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, content: Any = None, headers: Any = ()) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response_only(status)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def handle_any(self) -> None:
            path = unquote(urlparse(self.path).path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state.requests.append((self.command, path))
            allowed = self.headers.get("Authorization") == f"Bearer {state.token}"
            if self.command == "POST" and not allowed:
                self.answer(401, {"error": "Invalid credentials"})
            elif path == "/api/repos/create":
                self.create(json.loads(body))
            elif path == "/api/validate-yaml":
                self.answer(200, {"errors": [], "warnings": []})
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path):
                self.api(match[1], "revision", "main", body, allowed)
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(\w+)/(.+)", path):
                self.api(*match.groups(), body, allowed)
            elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self.resolve(*match.groups(), allowed)
            else:
                self.answer(404, {"error": path}, {"X-Error-Code": "RepoNotFound"})

        def repository(self, name: str, allowed: bool) -> Repository | None:
            found = state.repositories.get(name)
            if found is None or (found.private and not allowed):
                self.answer(
                    401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
                )
                return None
            return found

        def create(self, asked: Any) -> None:
            name = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
            private = asked.get("private") or asked.get("visibility") == "private"
            if name in state.repositories:
                self.answer(409, {"error": "exists", "url": f"{state.url}/{name}"})
                return
            state.repositories[name] = made = Repository(bool(private))
            made.commit("main", {".gitattributes": b""})
            self.answer(200, {"url": f"{state.url}/{name}", "name": name, "id": name})

        def api(self, name: str, verb: str, rest: str, body: bytes, allowed: bool) -> None:
            found = self.repository(name, allowed)
            if found is None:
                return
            revision = rest.partition("/")[0]
            commit = found.named(revision)
            if verb == "branch":
                if revision in found.branches:
                    self.answer(409, {"error": "exists"})
                    return
                found.branches[revision] = found.branches["main"]
                self.answer(201, {})
            elif commit is None:
                self.answer(404, {"error": revision}, {"X-Error-Code": "RevisionNotFound"})
            elif verb == "revision":
                files = [{"rfilename": file} for file in found.commits[commit]]
                self.answer(200, {"id": name, "sha": commit, "siblings": files})
            elif verb == "tree":
                files = [
                    {"type": "file", "path": file, "size": len(data), "oid": "0" * 40}
                    for file, data in found.commits[commit].items()
                ]
                self.answer(200, files)
            elif verb == "preupload":
                asked = [file["path"] for file in json.loads(body)["files"]]
                files = [
                    {"path": f, "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                    for f in asked
                ]
                self.answer(200, {"files": files})
            elif verb == "commit":
                files = dict(found.commits[commit])
                for line in body.splitlines():
                    value = json.loads(line)["value"]
                    if json.loads(line)["key"] == "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    elif json.loads(line)["key"] == "deletedFile":
                        files.pop(value["path"], None)
                new = found.commit(revision, files)
                url = f"{state.url}/{name}/commit/{new}"
                self.answer(200, {"success": True, "commitOid": new, "commitUrl": url})
            else:
                self.answer(404, {"error": verb})

        def resolve(self, name: str, revision: str, file: str, allowed: bool) -> None:
            found = self.repository(name, allowed)
            if found is None:
                return
            commit = found.named(revision)
            if commit is None or file not in found.commits[commit]:
                self.answer(404, {"error": file}, {"X-Error-Code": "EntryNotFound"})
                return
            data = found.commits[commit][file]
            etag = f'"{hashlib.sha1(data).hexdigest()}"'
            self.answer(200, data, {"ETag": etag, "X-Repo-Commit": commit})

        do_GET = do_POST = do_HEAD = do_PUT = handle_any  # noqa: N815

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
