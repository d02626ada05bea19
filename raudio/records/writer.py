"""Writing records: each whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from raudio.core.errors import RunError

#: Seconds after which what was written is forced to the disk, for a loss of power.
_SYNC = 1.0


class RecordWriter:
    """Appends records to a file; a context manager.

    On opening, a last line that a killed driver left torn is cut off. Whatever cannot be written
    whole is not there at all.

    Args:
        path: the file; made with its folder when it isn't there.
        clock: what tells the time, in Unix seconds; None: the machine's.
    """

    def __init__(self, path: Path, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or time.time
        self._path = path
        self._synced, self._due = time.monotonic(), False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        whole = sum(len(line) for line in whole_lines(path.read_bytes()))
        os.ftruncate(self._descriptor, whole)

    def append(self, event: str, **fields: Any) -> dict[str, Any]:
        """Writes one line in one system call, and returns the record as a reader will see it.

        Numbers that are not finite become null: JSON has no others.

        Raises:
            RunError: the disk is full, or fails.
        """
        record: dict[str, Any] = _finite(
            {"event": event, "time": round(self._clock(), 3), **fields}
        )
        line = json.dumps(record, allow_nan=False, ensure_ascii=False).encode() + b"\n"
        try:
            written = os.write(self._descriptor, line)
            if written != len(line):  # the next record must not join this torn one
                os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self._unwritable(error) from error
        self._due = True
        self.settle()
        loaded: dict[str, Any] = json.loads(line)
        return loaded

    def settle(self) -> None:
        """Forces what was written to the disk, once a second; to be called again and again: the
        next record may be an hour away.

        Raises:
            RunError: the disk fails.
        """
        if self._due and time.monotonic() - self._synced >= _SYNC:
            try:
                self._sync()
            except OSError as error:
                raise self._unwritable(error) from error

    def close(self) -> None:
        """Closes the file, with all of it on the disk; to be called once."""
        with contextlib.suppress(OSError):  # a record that was lost has been told of
            self._sync()
        os.close(self._descriptor)

    def _sync(self) -> None:
        os.fsync(self._descriptor)
        self._synced, self._due = time.monotonic(), False

    def _unwritable(self, error: OSError) -> RunError:
        return RunError(
            f"{str(self._path)!r} cannot be written: {error.strerror}; what it holds is whole: "
            "make room there, then resume the run"
        )

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def whole_lines(content: bytes) -> list[bytes]:
    """The lines of a record file, without a last one that was never finished."""
    lines = content.splitlines(keepends=True)
    if lines and not (lines[-1].endswith(b"\n") and parse(lines[-1]) is not None):
        lines.pop()
    return lines


def parse(line: bytes) -> dict[str, Any] | None:
    """The record that a line holds; None: it holds none."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("event"), str) else None
