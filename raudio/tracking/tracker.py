"""What a tracker is: a few methods that are told what happens in a run.

A user's own is a class with those that it needs, in a plugin:

    @raudio.register.tracker("lines", "a line an epoch")
    class Lines(raudio.tracking.tracker.Tracker):
        def __init__(self, *, file: str = "lines.txt") -> None: ...

and `raudio search plugins=[lines.py] tracking=lines tracking.lines.file=mine.txt`. It works in a
process of its own, alone: it may be slow, and it may raise, which is told once and tried again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raudio.records import History, ReportRecord, TrialHistory


@dataclass(frozen=True)
class RunInfo:
    """A run, as a tracker is told of it.

    Attributes:
        folder: the run folder.
        name: of the run, for people.
        key: 8 hexadecimal digits that no other run has, the same when it goes on or was moved.
        dataset: name of its dataset.
        settings: group -> setting -> value of the search.
        time: when it first started, in Unix seconds.
    """

    folder: Path
    name: str
    key: str
    dataset: str
    settings: Mapping[str, Any]
    time: float

    @property
    def own(self) -> Path:
        """The folder in the run for what trackers keep."""
        return tracking_folder(self.folder)


@dataclass(frozen=True)
class Clip:
    """A clip that the best trial got wrong: its id, both labels, and a FLAC file of its audio."""

    id: str
    true: str
    predicted: str
    score: float
    audio: bytes


@dataclass(frozen=True)
class Outcome:
    """What a search has found, beside what the history tells.

    Attributes:
        bundle: the exported best trial; None where there is none.
        labels: of its task.
        confusion: how often each label (row) was taken for each (column) on the valid split; empty
            where the task has none.
        clips: the most wrong ones.
    """

    bundle: Path | None = None
    labels: tuple[str, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    clips: tuple[Clip, ...] = ()


class Tracker:
    """Is told of a run in the order of its records; does nothing.

    A run that goes on, in another process or after a failure, is joined: nothing that was sent
    before is sent again. Times are Unix seconds.

    Attributes:
        note: what the user has to know at the end, such as how to send what was kept; else empty.
        buffers: whether what it was told can be lost when its process is killed, also after
            `flush`; it is told everything again then, and says what it has.
    """

    note: str = ""
    buffers: bool = False

    def start_search(self, run: RunInfo, history: History) -> bool:
        """A run starts, or goes on; whether this run is known here already."""
        return False

    def start_trial(self, trial: TrialHistory, settings: Mapping[str, Any], time: float) -> int:
        """A trial starts, or goes on; also when its settings have become known, or have changed.

        Args:
            trial: as it is now.
            settings: of its experiment, flat ("optimizer.lr"); empty when not known.
            time: of its start.

        Returns:
            The last epoch that was reported of it before; 0 when none was.
        """
        return 0

    def report(self, trial: TrialHistory, report: ReportRecord, time: float) -> None:
        """An epoch of a trial, higher than those before."""

    def end_trial(self, trial: TrialHistory, state: str, time: float) -> None:
        """A trial has ended, as `state` says; `stopped` and `interrupted` ones may go on."""

    def end_search(self, history: History, outcome: Outcome) -> None:
        """The run has ended, as `history.state` says; it may go on."""

    def flush(self) -> None:
        """Returns when all that was told is kept where a killed process can't lose it."""


@dataclass
class Memory(Tracker):
    """Keeps what it is told, for tests."""

    told: list[tuple[Any, ...]] = field(default_factory=list)

    def start_search(self, run: RunInfo, history: History) -> bool:
        known = any(what == "start_search" for what, *_ in self.told)
        self.told.append(("start_search", run.key))
        return known

    def start_trial(self, trial: TrialHistory, settings: Mapping[str, Any], time: float) -> int:
        self.told.append(("start_trial", trial.id, dict(settings)))
        epochs = [one[2] for one in self.told if one[:2] == ("report", trial.id)]
        return max(epochs, default=0)

    def report(self, trial: TrialHistory, report: ReportRecord, time: float) -> None:
        self.told.append(("report", trial.id, report.epoch, report.metrics))

    def end_trial(self, trial: TrialHistory, state: str, time: float) -> None:
        self.told.append(("end_trial", trial.id, state))

    def end_search(self, history: History, outcome: Outcome) -> None:
        self.told.append(("end_search", history.state, outcome))

    def flush(self) -> None:
        self.told.append(("flush",))


def tracking_folder(run: Path) -> Path:
    """The folder in a run for what trackers keep."""
    return run / "tracking"


def summary(history: History) -> dict[str, float | str]:
    """A search in a few values, by the names that all trackers give them."""
    found: dict[str, float | str] = {"state": history.state}
    if history.reason:
        found["reason"] = history.reason
    best = history.best()
    if best is not None:
        metrics = best.best_metrics(history.metric, history.mode)
        found["best/trial"] = best.id
        found |= {f"best/{name}": value for name, value in metrics.items()}
    trials = history.trials.values()
    found["trials/all"] = len(trials)
    found |= {f"trials/{state}": count for state, count in Counter(t.state for t in trials).items()}
    found["epochs"] = sum(len(trial.reports) for trial in trials if trial.same_as is None)
    found["seconds"] = round(history.seconds, 3)
    return found


def about(trial: TrialHistory) -> dict[str, str]:
    """What a trial is among the others, as texts by name."""
    found = {
        "signature": trial.signature,
        "configuration": trial.configuration,
        "repeat": str(trial.repeat),
        "confirms": trial.confirms or "",
        "same_as": trial.same_as or "",
        "donors": " ".join(trial.donors),
        "changed": " ".join(f"{key}={value}" for key, value in trial.changed.items()),
        "kind": trial.kind or "",
        "reason": trial.reason or "",
    }
    return {name: text for name, text in found.items() if text}
