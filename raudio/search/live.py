"""What a search shows while it runs: one live table, or plain lines where there is no terminal.

Everything goes to standard error; standard output is for results.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live

from raudio import progress
from raudio.records import RECORDS
from raudio.records.writer import whole_lines
from raudio.search.engine import Engine

#: Seconds between two drawings; more where drawing takes over a twentieth of the driver's time.
_REFRESH = 0.25
_SHARE = 0.05


def screen(file: TextIO | None = None) -> Console:
    """The console of a `Display`: on standard error, or a file."""
    return _Screen(stderr=True, file=file)


class _Screen(Console):
    """Raises a broken pipe as any other error; rich would end the program."""

    def on_broken_pipe(self) -> None:
        raise  # it is called where the error is handled


class Display:
    """The screen of a search; a context manager around the time in which trials run.

    Whoever looks at it may leave (a terminal is closed, a pipe's reader ends): the search goes on
    unseen.

    Args:
        console: of `screen`.
        quiet: shows nothing.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._engine: Engine | None = None
        self._live: Live | None = None
        self._next = 0.0
        self._records = bool(os.environ.get(progress.RECORDS_WANTED)) and not quiet

    def say(self, text: str) -> None:
        """A line above the table."""
        if not self._quiet:
            with self._seen():
                self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, engine: Engine) -> None:
        """Starts drawing `engine`."""
        self._engine = engine
        if self._records:
            for line in whole_lines((engine.place.folder / RECORDS).read_bytes()):
                self._tell(line.decode().rstrip("\n"))
            return
        if progress.is_drawable(self._console) and not self._quiet:
            self._live = Live(
                progress.Progress(engine.history),
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            with self._seen():
                self._live.start(refresh=True)

    def tick(self) -> None:
        """Draws the table anew, a few times a second at most."""
        began = time.monotonic()
        if self._live is not None and began >= self._next:
            with self._seen():
                self._live.refresh()
            took = time.monotonic() - began
            self._next = began + max(_REFRESH, took / _SHARE)

    def watch(self, record: Mapping[str, Any]) -> None:
        """A line for what went wrong; where there is no terminal, also for a trial's end."""
        if self._records and self._engine is not None:
            self._tell(json.dumps(record, ensure_ascii=False))
            return
        if self._engine is None or (self._live is not None and record.get("kind") is None):
            return
        line = progress.line(self._engine.history, record, self._engine.place.name)
        if line is not None:
            self.say(line)

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            with self._seen():
                self._live.stop()
            self._live = None

    def _tell(self, record: str) -> None:
        with self._seen():
            self._console.file.write(f"{progress.RECORD_MARK}{record}\n")
            self._console.file.flush()

    @contextlib.contextmanager
    def _seen(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._quiet, self._live = True, None
            self._console.quiet = True
            # What was not written must not fail again when the program ends.
            with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._console.file.fileno())
