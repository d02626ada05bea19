"""Which checkpoints a search's disk holds: the best trials', and those of trials that may go on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from raudio.records import (
    BEST,
    DONOR,
    ENDED,
    FAILED,
    LAST,
    History,
    trial_folder,
)


class Kept:
    """Removes the checkpoints that nothing will ask for.

    An ended trial does not go on, so its last checkpoint goes; the best one of a configuration
    stays while that is among the best, or on the Pareto front of several objectives, or to be
    settled, or confirmed. A settled one that has lost its place never gets it back, so only ended
    trials that have checkpoints are compared: this is asked at every end of a trial.

    Args:
        run: the run folder.
        keep: configurations whose best checkpoints stay, beside those of the front.
        history: of the run, as it is at any moment.
    """

    def __init__(self, run: Path, keep: int, history: History) -> None:
        self._run = run
        self._keep = keep
        self._history = history
        self._ended: set[str] = set()  # trials that may have checkpoints

    def note(self, record: Mapping[str, Any]) -> None:
        """Takes account of a record, new or past."""
        if record["event"] == "trial_end" and record["state"] in ENDED:
            self._ended.add(record["id"])

    def drop(self, unsettled: Collection[str]) -> None:
        """Removes what is not needed any more.

        Args:
            unsettled: configurations with trials to come.
        """
        ended = [self._history.trials[trial] for trial in self._ended]
        for trial in ended:
            for name in (LAST, DONOR):
                (trial_folder(self._run, trial.id) / name).unlink(missing_ok=True)
        seen: set[tuple[str, str | None]] = set()
        places = 0
        several = self._history.goal.several
        front = self._history.front({t.configuration for t in ended}) if several else {}
        for trial in self._history.ranked(ended):
            if trial.state != FAILED and trial.configuration in unsettled:
                continue
            first = (trial.configuration, trial.confirms) not in seen
            seen.add((trial.configuration, trial.confirms))
            places += first and trial.confirms is None
            loses = places > self._keep and trial.configuration not in front
            if trial.state == FAILED or not first or loses:
                (trial_folder(self._run, trial.id) / BEST).unlink(missing_ok=True)
                self._ended.discard(trial.id)
