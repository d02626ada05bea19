"""What follows from the failure of a trial, by its kind.

| kind | what follows |
| --- | --- |
| out of memory | once more, each batch in twice as many parts; out of memory again: failed |
| non-finite loss, configuration | failed |
| bad data, disk full, store, no shared disk | the search stops; mended and resumed, it goes on |
| error, crash | failed; `search.max_failures` of them in a row, all alike, stop the search |

A search whose first `search.max_failures` trials have all failed alike stops, whatever the kind. A
machine that is lost is no failure; where the same trials' processes are lost again and again, and
none reports anything between, the search stops.
"""

from __future__ import annotations

import errno
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from raudio.config.schema import Experiment
from raudio.core.errors import ConfigError, DataError, NonFiniteError, OutOfReachError
from raudio.core.storage import StoreError
from raudio.records import FAILED, STOPPED
from raudio.training import launch
from raudio.training.worker import NotSharedError

OUT_OF_MEMORY = "out of memory"
NON_FINITE = "non-finite loss"
CONFIGURATION = "configuration"
BAD_DATA = "bad data"
DISK_FULL = "disk full"
STORE = "store"
NOT_SHARED = "no shared disk"
ERROR = "error"
CRASH = "crash"

#: What no other trial would escape, and how it is mended.
MENDED_BY = {
    BAD_DATA: "restore the dataset's files, or prepare it again from the same recordings (which "
    "gives the same dataset)",
    DISK_FULL: "make room there",
    STORE: "when the store can be used again, resume the run, perhaps with a longer run.patience",
    NOT_SHARED: "mount the run's disk there, or search anew with run.dir=s3://BUCKET/FOLDER, which "
    "needs no shared disk",
}

#: Processes lost in a row, with no report of any trial between, before the search is to blame; and
#: how many of each trial, in the mean: many machines may be taken away at once.
_LOST_IN_VAIN, _OF_EACH = 10, 3

_NUMBER = re.compile(r"-?\b(nan|inf|\d+(\.\d+)?(e[-+]?\d+)?)\b")


def kind_of(error: Exception) -> str:
    """The kind of failure that an exception in a trial is."""
    if isinstance(error, NonFiniteError):
        return NON_FINITE
    if isinstance(error, NotSharedError):
        return NOT_SHARED
    if isinstance(error, (StoreError, OutOfReachError)):
        return STORE
    if isinstance(error, DataError):
        return BAD_DATA
    if isinstance(error, ConfigError):  # seen only when the component is built
        return CONFIGURATION
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DISK_FULL
    memory = ("out of memory", "can't allocate memory", "unable to allocate")
    if isinstance(error, MemoryError) or any(text in str(error).lower() for text in memory):
        return OUT_OF_MEMORY
    return ERROR


def reason_of(error: Exception) -> str:
    """One line: the message, after the type where the message alone would say too little."""
    message = (str(error).strip() or "no message").splitlines()[0]
    if isinstance(error, (NonFiniteError, DataError, ConfigError, StoreError)):
        return message
    return f"{type(error).__name__}: {message}"


def loss_of(error: Exception | None) -> tuple[str, bool]:
    """Why a trial's process is lost, in a few words; and whether that says nothing of the trial.

    Args:
        error: that Tune has of it; None where it has none.
    """
    from ray.exceptions import RayActorError

    if error is None:
        return "its process or machine is gone", False
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if not isinstance(error, RayActorError):
        reason = lines[0]
    elif error.actor_init_failed:
        return f"its process did not start: {lines[-1]}", True
    else:
        reason = launch.why_gone(error)
    return reason, reason.endswith((launch.MACHINE_GONE, launch.MACHINE_SILENT))


def with_half_the_memory(experiment: Experiment) -> dict[str, Any] | None:
    """The setting with which a trial has half as many clips on its device at once.

    An optimizer step still sees `training.batch_size` clips, now in twice as many parts, so that
    the result keeps its meaning; only batch normalisation sees the smaller parts. None where a
    worker's share of a batch has no such parts.
    """
    parts = 2 * experiment.training.accumulate
    share = experiment.training.batch_size // experiment.resources.max_workers
    return {"training.accumulate": parts} if parts <= share else None


class Failures:
    """Watches the records for trials that fail one after the other, all alike, and for processes
    that are lost in vain.

    Args:
        limit: `search.max_failures`.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._any_good = False
        self._first = ("", "")  # kind and reason of the first of those that are alike
        self._alike = 0
        self._lost: Counter[str] = Counter()  # by trial, since the last report of any
        self._why_lost = ""

    def note(self, record: Mapping[str, Any]) -> None:
        """Takes a record, in the order of the run."""
        if record["event"] == "search_end" and record["state"] == FAILED:
            self._alike = 0  # somebody has been told, and resumes it
        if record["event"] in ("report", "search_end"):
            self._lost.clear()
        elif record["event"] == "lost":
            self._lost[record["id"]] += 1
            self._why_lost = record["reason"]
        if record["event"] != "trial_end" or record["state"] == STOPPED:
            return
        if record["state"] != FAILED:
            self._any_good, self._alike = True, 0
            return
        failure = str(record["kind"]), str(record["reason"] or "")
        if _without_numbers(self._first) != _without_numbers(failure):
            self._alike = 0
        if not self._alike:
            self._first = failure
        self._alike += 1

    def verdict(self, wanted: int | None) -> str | None:
        """Why the search is to stop; None where it goes on.

        Args:
            wanted: trials of the search in all, which may be fewer than the limit.
        """
        if self._lost.total() >= max(_LOST_IN_VAIN, _OF_EACH * len(self._lost)):
            return f"processes are lost before they report anything: {self._why_lost}"
        if not self._alike:
            return None
        kind, reason = self._first
        if not self._any_good and self._alike >= min(self._limit, wanted or self._limit):
            return f"every trial fails: {kind}: {reason}"
        if kind in (ERROR, CRASH) and self._alike >= self._limit:
            return f"{self._alike} trials in a row have failed: {kind}: {reason}"
        return None


def _without_numbers(failure: tuple[str, str]) -> tuple[str, str]:
    """Steps, rates and paths differ from trial to trial where the error is the same."""
    kind, reason = failure
    return kind, _NUMBER.sub("#", reason)
