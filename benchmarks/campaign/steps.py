"""What the notes of `watched.py` tell: which steps were made, when, and which of them again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """An optimizer step.

    Attributes:
        time: when it began, in Unix seconds.
        trial: whose it is.
        number: from 0.
        process: that made it.
        again: whether it had been made before.
    """

    time: float
    trial: str
    number: int
    process: int
    again: bool = False


def steps(notes: Path) -> list[Step]:
    """All steps noted so far, in the order of their times."""
    found = sorted(_noted(notes), key=lambda step: step.time)
    seen: set[tuple[str, int]] = set()
    marked = []
    for step in found:
        key = step.trial, step.number
        marked.append(Step(step.time, step.trial, step.number, step.process, key in seen))
        seen.add(key)
    return marked


@dataclass(frozen=True)
class Redone:
    """What an interruption cost a trial.

    Attributes:
        time: when the trial went on, in Unix seconds.
        start: the step that it went on with.
        count: of the steps that it had to make again.
        seconds: that these had taken.
    """

    time: float
    start: int
    count: int
    seconds: float


def redone(made: list[Step]) -> list[Redone]:
    """The interruptions that cost steps, in the order of their times.

    What a process makes that was given up, and does not know it yet, counts for nothing.
    """
    found = []
    last: dict[str, Step] = {}
    times: dict[tuple[str, int], float] = {}
    given_up: set[tuple[str, int]] = set()
    for step in made:
        before = last.get(step.trial)
        if (step.trial, step.process) in given_up:
            continue
        if before is not None and before.process != step.process:
            given_up.add((step.trial, before.process))
        if before is not None and step.number <= before.number:
            seconds = before.time - times[step.trial, step.number]
            count = before.number - step.number + 1
            found.append(Redone(step.time, step.number, count, seconds))
        last[step.trial] = step
        times[step.trial, step.number] = step.time
    return found


def missing(made: list[Step]) -> dict[str, list[int]]:
    """Steps of each trial that were never made though a later one was."""
    numbers: dict[str, set[int]] = {}
    for step in made:
        numbers.setdefault(step.trial, set()).add(step.number)
    gaps = {trial: sorted(set(range(max(known))) - known) for trial, known in numbers.items()}
    return {trial: gap for trial, gap in gaps.items() if gap}


def _noted(notes: Path) -> Iterator[Step]:
    for path in notes.iterdir():
        trial, _, process = path.name.partition(".")
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                number, time = line.split()
                yield Step(float(time), trial, int(number), int(process))
