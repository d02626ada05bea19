"""The trackers of a run, each in a process of its own: the driver's side.

A process is told what to do in one JSON line on its standard input, whose end says that nothing
comes any more; what it prints is for the user, everything else goes to `tracking/log.txt` in
the run. It is in a session of its own, so that Ctrl-C is the driver's affair, and yields the CPU to
everything else. When its driver is killed, the input ends too, and it ends with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from raudio.config.tracking import Tracking
from raudio.config.validate import to_mapping
from raudio.core.units import Seconds, format_seconds
from raudio.tracking.tracker import tracking_folder

#: How long the end of a search may wait for its trackers.
FLUSH: Seconds = 30.0
#: The same when somebody has pressed Ctrl-C once more.
HURRY: Seconds = 3.0
LOG = "log.txt"
#: The program, a module of a higher layer: `raudio.cli.track`.
_PROGRAM = (sys.executable, "-P", "-m", "raudio.cli.track")


class Trackers:
    """Feeds the trackers of a run while it goes on; a context manager, of no trackers perhaps.

    Args:
        run: the run folder.
        tracking: which, and their settings.
        plugins: where users' own are.
        name: of the run, as the user calls it.
        say: told, in a line each, what went wrong and what a user has to know.
        patience: how long the end may wait for them; None: as long as it takes.
    """

    def __init__(
        self,
        run: Path,
        tracking: Tracking,
        *,
        plugins: Sequence[str] = (),
        name: str,
        say: Callable[[str], None],
        patience: Seconds | None = FLUSH,
    ) -> None:
        self._run = run
        self._tracking = tracking
        self._plugins = plugins
        self._name = name
        self._say = say
        self._patience = patience
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.failed: set[str] = set()  # those that have not got everything

    def __enter__(self) -> Trackers:
        for name in dict.fromkeys(self._tracking.trackers or ()):
            job = {
                "run": str(self._run.resolve()),
                "name": self._name,
                "tracker": name,
                "settings": to_mapping(getattr(self._tracking, name)),
                "clips": self._tracking.clips,
                "plugins": list(self._plugins),
                "patience": self._patience,
            }
            try:
                process = self._start()
                assert process.stdin is not None
                process.stdin.write(json.dumps(job).encode() + b"\n")
                process.stdin.flush()
            except OSError as error:  # no memory, no more processes, no disk
                self._fail(name, f"cannot be started: {error}")
            else:
                self._running[name] = process
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Waits until they have sent everything, and no longer than the patience."""
        patience = HURRY if kind is KeyboardInterrupt else self._patience
        deadline = None if patience is None else time.monotonic() + patience
        try:
            for process in self._running.values():
                assert process.stdin is not None
                with contextlib.suppress(OSError):  # it is gone
                    process.stdin.close()
            while self._running and (deadline is None or time.monotonic() < deadline):
                self.look(0.1)
            for name in self._running:
                assert patience is not None
                self._fail(name, f"has not finished in {format_seconds(patience)}")
        finally:
            for process in self._running.values():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            self._running.clear()

    def look(self, patience: Seconds = 0.0) -> None:
        """Says what the trackers have to say; waits for it, if there is nothing yet."""
        if not self._running:
            return
        with selectors.DefaultSelector() as selector:
            for name, process in self._running.items():
                assert process.stdout is not None
                selector.register(process.stdout, selectors.EVENT_READ, name)
            for key, _ in selector.select(patience):
                self._read(key.data)

    def _read(self, name: str) -> None:
        """Takes a line of a tracker's, or its end."""
        process = self._running[name]
        assert process.stdout is not None
        line = process.stdout.readline().decode(errors="replace").strip()  # written as a whole
        if line:
            event = json.loads(line)
            if event["failed"]:
                self._fail(name, event["text"])
            else:
                self.failed.discard(name)
                self._say(f"tracking: {name} {event['text']}")
            return
        status = process.wait()
        del self._running[name]
        if status and name not in self.failed:
            self._fail(name, f"has ended with status {status}")

    def _fail(self, name: str, what: str) -> None:
        """One line a tracker."""
        if name in self.failed:
            return
        self.failed.add(name)
        log = tracking_folder(self._run) / LOG
        self._say(
            f"tracking: {name} {what}; the run itself is whole. What is missing there can be sent "
            f"later: raudio track {self._name} tracking={name} (details in {log})"
        )

    def _start(self) -> subprocess.Popen[bytes]:
        folder = tracking_folder(self._run)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG).open("ab") as log:
            return subprocess.Popen(
                _PROGRAM,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_with_raudio(),
                bufsize=0,
                start_new_session=True,
            )


def _with_raudio() -> dict[str, str]:
    """The environment, in which the program finds this raudio: a clone need not be installed."""
    own = str(Path(__file__).resolve().parents[2])
    paths = [own, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
