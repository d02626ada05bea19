"""A search that runs somewhere else, shown from its log."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.live import Live

from raudio import progress
from raudio.records import History
from raudio.records.writer import parse


class Follower:
    """Takes the lines of a job's log; a context manager.

    The records among them, which a driver writes when `progress.RECORDS_WANTED` is set, become one
    table at a terminal, and lines elsewhere, as if the search ran here; other lines are shown as
    they are.

    Args:
        to_stderr: where it is shown; otherwise on standard output.
    """

    def __init__(self, *, to_stderr: bool = False) -> None:
        self._console = Console(stderr=to_stderr, highlight=False, markup=False, soft_wrap=True)
        self._history = History()
        self._live: Live | None = None

    def take(self, line: str) -> None:
        """Shows a line."""
        record = parse(line[1:].encode()) if line.startswith(progress.RECORD_MARK) else None
        if record is None:
            self._console.print(line)
            return
        self._history.apply(record)
        if record["event"] == "search_start" and progress.is_drawable(self._console):
            self._start()
        if record["event"] == "search_end":
            self._stop()
        if self._live is None or record.get("kind") is not None:
            told = progress.line(self._history, record, "")
            if told is not None:
                self._console.print(told)

    def tick(self) -> None:
        """Draws the table anew."""
        if self._live is not None:
            self._live.refresh()

    def _start(self) -> None:
        if self._live is None:
            shown = progress.Progress(self._history)
            self._live = Live(shown, console=self._console, auto_refresh=False, transient=True)
            self._live.start(refresh=True)

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __enter__(self) -> Follower:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()
