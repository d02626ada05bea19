"""A part of a benchmark in a process of its own, which outlives those that are killed around it.

Both sides speak JSON, a line a message: {"ask": NAME, "with": {...}} goes to the child's standard
input, its answer comes back on its standard output. The child ends when its input is closed, so
also when its parent has been killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import processes

_PATIENCE = 60.0  # seconds for its end


class Served:
    """The parent's side; a context manager that ends the process and all that it has started.

    Args:
        script: Python file that serves a `Channel`.
        arguments: of it.
        log: where its standard error goes.
        environment: of it; this process's own by default.
    """

    def __init__(
        self,
        script: Path,
        *arguments: str,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        self._lock = threading.Lock()
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(script), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=None if environment is None else dict(environment),
                start_new_session=True,
                text=True,
            )
        processes.sessions.add(self.process.pid)

    def ask(self, what: str, /, **arguments: Any) -> Any:
        """What the child answers.

        Raises:
            RuntimeError: it could not do what it was asked, or has ended.
        """
        assert self.process.stdin
        assert self.process.stdout
        with self._lock:
            self.process.stdin.write(json.dumps({"ask": what, "with": arguments}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"it has ended; see {self._log}"}
        if "error" in answer:
            raise RuntimeError(f"{what}: {answer['error']}")
        return answer["answer"]

    def __enter__(self) -> Served:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        for member in processes.members(self.process.pid):
            os.kill(member, signal.SIGKILL)
        processes.sessions.discard(self.process.pid)


class Channel:
    """The child's side. To be made before it starts anything: what it starts must neither read the
    questions nor write between the answers."""

    def __init__(self) -> None:
        self._questions = os.fdopen(os.dup(0), "r")
        self._answers = os.fdopen(os.dup(1), "w")
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # after Ctrl-C the parent ends it

    def serve(self, handlers: Mapping[str, Callable[..., Any]]) -> None:
        """Answers until there are no more questions."""
        for line in self._questions:
            question = json.loads(line)
            try:
                answer = {"answer": handlers[question["ask"]](**question["with"])}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            self._answers.write(json.dumps(answer) + "\n")
            self._answers.flush()
