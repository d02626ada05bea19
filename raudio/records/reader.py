"""Reading records, also while they are written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from raudio.core.errors import RunError
from raudio.records.history import History
from raudio.records.layout import ENDED, INTERRUPTED, RECORDS, RUNNING, check_run, trial_id
from raudio.records.lock import is_locked
from raudio.records.writer import parse, whole_lines

_OF_A_TRIAL = ("trial_start", "report", "retry", "lost", "preempted", "exploit", "trial_end")


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
            damaged = f"{str(path)!r} is damaged: line {self._lines} ({record['event']})"
            try:
                why = _out_of_place(record, self.history)
                if why is None:
                    self.history.apply(record)
            except RunError:  # says itself what is wrong
                raise
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise RunError(f"{damaged} cannot be understood: {error!r}") from error
            if why is not None:
                raise RunError(f"{damaged} cannot be here: {why}; restore the file")
            yield record
        if self.history.state in (RUNNING, INTERRUPTED):  # it has not ended since it last started
            self.history.state = RUNNING if alive else INTERRUPTED


def _out_of_place(record: Mapping[str, Any], history: History) -> str | None:
    """Why a record cannot come after those that `history` has taken in: others before it are lost,
    or it is there twice, and a search that went on would be another one. None: it can."""
    event = record["event"]
    if event == "search_start":
        return None
    if not history.sessions:
        return "no search_start is before it"
    if event not in _OF_A_TRIAL:
        return None
    name, due = record["id"], trial_id(len(history.trials))
    trial = history.trials.get(name)
    if trial is None and (event != "trial_start" or name != due):
        return f"no trial_start of trial {name if event != 'trial_start' else due} is before it"
    if trial is not None and event in ("trial_start", "trial_end") and trial.state in ENDED:
        return f"trial {name} had ended before it, as {trial.state}"
    return None


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
