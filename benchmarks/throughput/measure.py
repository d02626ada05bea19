"""What one contender is told, how its batches are consumed, and what is measured of that.

All times are those of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from processes import cpu_seconds

from throughput.recipe import Shape

if TYPE_CHECKING:
    from torch import Tensor

#: The batches of features (B, F, N) of an epoch.
Batches: TypeAlias = "Callable[[int], Iterator[Tensor]]"


@dataclass(frozen=True)
class Job:
    """What a contender's process is told.

    Attributes:
        contender: its name in `throughput.contenders`.
        dataset: folder of the raudio dataset; its training clips are what all contenders read.
        files: folder of the same clips in the contender's own format, if it has one.
        sample_rate, clip_seconds: what clips become.
        clips: of the training split.
        budget: `dataset.resident_budget`, where raudio is to choose the feed by it.
        consumers: processes that each take all batches; they begin each epoch together.
        epochs: to run.
        watched: whether memory is measured in this run.
        out: JSON file for what was measured.
    """

    contender: str
    dataset: str
    files: str
    sample_rate: int
    clip_seconds: float
    clips: int
    budget: str | None
    consumers: int
    epochs: int
    watched: bool
    out: str

    @classmethod
    def read(cls, path: str | Path) -> Job:
        """The job of a JSON file."""
        return cls(**json.loads(Path(path).read_text()))

    def write(self, path: Path) -> None:
        """As a JSON file."""
        path.write_text(json.dumps(asdict(self), indent=2))

    @property
    def shape(self) -> Shape:
        """What clips become."""
        return Shape(self.sample_rate, round(self.clip_seconds * self.sample_rate))


#: Epochs that contenders of one execution plan beyond those measured. What they make ahead at the
#: beginning of the epochs that count, they then make ahead at their end too.
AHEAD = 2
_PATIENCE = 300.0  # seconds that one consumer may begin an epoch after another

#: Opens a trial with a seed, as a training would: its feed, loader or pipeline.
Trial: TypeAlias = "Callable[[Job, int], AbstractContextManager[Batches]]"


@dataclass(frozen=True)
class Epoch:
    """One epoch of one consumer.

    Attributes:
        asked: when its batches were asked for.
        first, last: when the first and the last batch were there.
        ended: when there was no further batch.
        clips: in its batches.
        interval: seconds from one batch to the next, mean.
    """

    asked: float
    first: float
    last: float
    ended: float
    clips: int
    interval: float


@dataclass(frozen=True)
class Consumed:
    """What one consumer measured.

    Attributes:
        epochs: its epochs.
        cpu: CPU seconds of all processes of the contender in this consumer's epochs but the first.
        again: seconds from opening a second trial in the same process to its first batch.
    """

    epochs: list[Epoch]
    cpu: float
    again: float

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def consume(trial: Trial, job: Job) -> Consumed:
    """Takes all batches of a trial, as a training loop does, and the first of another trial.

    The features are looked at no further: what follows is the same for all contenders.
    """
    session = os.getsid(0)
    epochs: list[Epoch] = []
    before = 0.0
    with trial(job, 0) as batches:
        for number in range(job.epochs):
            if number == min(1, job.epochs - 1):
                before = cpu_seconds(session)
            _meet(job, number)
            epochs.append(_epoch(batches(number)))
        cpu = cpu_seconds(session) - before
    began = time.monotonic()
    with trial(job, 1) as batches:
        next(batches(0))
        again = time.monotonic() - began
    return Consumed(epochs, cpu, again)


def _meet(job: Job, epoch: int) -> None:
    """Waits until all consumers are about to begin an epoch."""
    if job.consumers == 1:
        return
    place = Path(job.out).with_suffix(f".epoch-{epoch}")
    place.mkdir(exist_ok=True)
    (place / str(os.getpid())).touch()
    until = time.monotonic() + _PATIENCE
    while len(list(place.iterdir())) < job.consumers:
        assert time.monotonic() < until, f"another consumer did not come to epoch {epoch}"
        time.sleep(0.001)


def _epoch(batches: Iterator[Tensor]) -> Epoch:
    asked = time.monotonic()
    times, clips = [], 0
    for features in batches:
        times.append(time.monotonic())
        clips += len(features)
    ended = time.monotonic()
    interval = (times[-1] - times[0]) / max(1, len(times) - 1)
    return Epoch(asked, times[0], times[-1], ended, clips, interval)
