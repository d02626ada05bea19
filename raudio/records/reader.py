"""Reading records, also while they are written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from raudio.core.errors import RunError
from raudio.records.history import History
from raudio.records.layout import INTERRUPTED, RECORDS, RUNNING, check_run
from raudio.records.lock import is_locked
from raudio.records.writer import parse, whole_lines


class RecordReader:
    """Reads the records of a run as they grow.

    Args:
        run: the run folder.

    Attributes:
        history: what the records read so far tell.

    Raises:
        RunError: not a run folder.
    """

    def __init__(self, run: str | os.PathLike[str]) -> None:
        self._folder = check_run(run)
        self._bytes = self._lines = 0
        self.history = History()

    def read(self) -> Iterator[dict[str, Any]]:
        """The records since the last time, each after `history` has taken it in.

        A last line that is not whole is left for the next time: it is being written, or its driver
        was killed.

        Raises:
            RunError: a line before the last is damaged.
        """
        alive = is_locked(self._folder)  # asked first: who ends meanwhile has written its end
        path = self._folder / RECORDS
        with path.open("rb") as file:
            file.seek(self._bytes)
            lines = whole_lines(file.read())
        for line in lines:
            self._bytes += len(line)
            self._lines += 1
            record = parse(line)
            if record is None:
                raise RunError(
                    f"{str(path)!r} is damaged: line {self._lines} is not a record; "
                    "restore the file, or remove that line"
                )
            try:
                self.history.apply(record)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise RunError(
                    f"{str(path)!r} is damaged: line {self._lines} "
                    f"({record['event']}) cannot be understood: {error!r}"
                ) from error
            yield record
        if self.history.state in (RUNNING, INTERRUPTED):  # it has not ended since it last started
            self.history.state = RUNNING if alive else INTERRUPTED


def read_records(run: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The records of a run, in the order in which they were written.

    Raises:
        RunError: not a run folder, or its records are damaged.
    """
    return RecordReader(run).read()


def read_history(run: str | os.PathLike[str]) -> History:
    """What the records of a run tell so far; also while it runs.

    Raises:
        RunError: not a run folder, or its records are damaged.
    """
    reader = RecordReader(run)
    for _ in reader.read():
        pass
    return reader.history
