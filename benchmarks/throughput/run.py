"""Runs of a contender, and what its repeats come to."""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from processes import finish, session_memory, started

from throughput.contenders import Contender
from throughput.measure import Consumed, Epoch, Job

_EVERY = 0.1  # seconds from one look at the memory to the next


@dataclass(frozen=True)
class Run:
    """One run of a contender.

    Attributes:
        watched: whether memory was sampled, which slows it down.
        start: seconds from the command to the first batch (of the last consumer).
        again: seconds from opening another trial in the same process to its first batch.
        epochs: seconds of each epoch, of all consumers together.
        rate: clips a second of all consumers, from the second epoch on.
        cpu: CPU seconds a clip, of all processes, from the second epoch on.
        gap: the longest time that a consumer waited between two epochs beyond the usual interval
            of batches, in seconds.
        memory: bytes (PSS) of all processes, at most; 0: not sampled.
        ray_alone: of them Ray's own, before there were data; 0: not sampled, or no raudio.
    """

    watched: bool
    start: float
    again: float
    epochs: list[float]
    rate: float
    cpu: float
    gap: float
    memory: int
    ray_alone: int

    @classmethod
    def of(cls, consumed: Sequence[Consumed], began: float, **memory: Any) -> Run:
        """From what the consumers measured; `began`: when the command was given."""
        by_epoch = list(zip(*(each.epochs for each in consumed), strict=True))
        later = [epoch for epochs in by_epoch[1:] for epoch in epochs]
        clips = sum(epoch.clips for epoch in later)
        # Each consumer's CPU seconds are those of all processes, while all made about as many.
        cpu = statistics.mean(each.cpu for each in consumed)
        return cls(
            start=max(epoch.first for epoch in by_epoch[0]) - began,
            again=max(each.again for each in consumed),
            epochs=[_seconds(epochs) for epochs in by_epoch],
            rate=clips / _seconds(later),
            cpu=cpu / clips,
            gap=max(max(_gaps(each.epochs)) for each in consumed),
            **memory,
        )


def _seconds(epochs: Sequence[Epoch]) -> float:
    return max(epoch.ended for epoch in epochs) - min(epoch.asked for epoch in epochs)


def _gaps(epochs: Sequence[Epoch]) -> list[float]:
    """What one consumer waited between its epochs, without what it did there itself."""
    gaps = []
    for before, after in pairwise(epochs):
        waited = before.ended - before.last + after.first - after.asked
        gaps.append(max(0.0, waited - after.interval))
    return gaps


def run_once(job: Job, timeout: float) -> Run:
    """Runs a contender in a fresh process, to its end.

    Raises:
        RuntimeError: it failed; with the end of its output.
        subprocess.TimeoutExpired: it did not end in time.
    """
    path = Path(job.out).with_suffix(".job.json")
    job.write(path)
    log = Path(job.out).with_suffix(".log")
    command = [sys.executable, "-m", "throughput.worker", str(path)]
    began = time.monotonic()
    with started(command, log) as process, _Peak(process.pid, job.watched) as peak:
        finish(process, log, timeout)
    result = json.loads(Path(job.out).read_text())
    consumed = [
        Consumed([Epoch(**epoch) for epoch in each["epochs"]], each["cpu"], each["again"])
        for each in result["consumers"]
    ]
    short = [epoch.clips for each in consumed for epoch in each.epochs if epoch.clips < job.clips]
    # A batch of one clip is left out by raudio, and one may hold clips of two epochs.
    assert all(job.clips - count < 32 for count in short), f"{short} of {job.clips} clips came"
    return Run.of(
        consumed,
        began,
        watched=job.watched,
        memory=peak.bytes,
        ray_alone=result["ray_alone"],
    )


class _Peak:
    """Samples the memory of a session; a context manager.

    Attributes:
        bytes: the most that was seen.
    """

    def __init__(self, session: int, wanted: bool) -> None:
        self.bytes = 0
        self._session, self._wanted = session, wanted
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Peak:
        if self._wanted:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._wanted:
            self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_EVERY):
            self.bytes = max(self.bytes, session_memory(self._session))


@dataclass(frozen=True)
class Row:
    """What a contender's runs on a set come to: medians over its timed runs.

    Attributes:
        data: name of the set.
        contender: who.
        runs: all of them, the one whose memory was sampled last.
        seconds: of a stored clip, mean.
        problem: why there are no figures, where there are none.
        failed: whether that is an error.
    """

    data: str
    contender: Contender
    runs: list[Run]
    seconds: float
    problem: str = ""
    failed: bool = False

    @property
    def timed(self) -> list[Run]:
        """The runs whose times count: those whose memory was not sampled, if there are any."""
        return [run for run in self.runs if not run.watched] or self.runs

    def median(self, measure: str) -> float:
        """The median of a measure over the timed runs."""
        return statistics.median(getattr(run, measure) for run in self.timed)

    @property
    def epochs(self) -> list[float]:
        """Median seconds of each epoch."""
        by_epoch = zip(*(run.epochs for run in self.timed), strict=True)
        return [statistics.median(seconds) for seconds in by_epoch]

    @property
    def memory(self) -> int:
        """Bytes of all processes, at most."""
        return max(run.memory for run in self.runs)

    @property
    def beyond_ray(self) -> int:
        """Of them, beyond what Ray takes without data; only raudio's."""
        return max(run.memory - run.ray_alone for run in self.runs if run.watched)

    def as_data(self) -> dict[str, Any]:
        """For JSON: the medians, and every run."""
        data = {"set": self.data, "contender": self.contender.name, "problem": self.problem or None}
        if not self.runs:
            return data
        medians = {name: self.median(name) for name in ("start", "again", "rate", "cpu", "gap")}
        runs = [asdict(run) for run in self.runs]
        return {**data, **medians, "epochs": self.epochs, "memory": self.memory, "runs": runs}
