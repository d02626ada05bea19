"""Which checkpoints a search keeps: the best trials', and those of trials that may go on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from raudio.records import BEST, DONOR, ENDED, FAILED, LAST, History, trial_file
from raudio.search.mirror import InPlace, Mirror


class Kept:
    """Removes the checkpoints that nothing will ask for.

    An ended trial does not go on, so its last checkpoint goes; the best one of a configuration
    stays while that is among the best, or on the Pareto front of several objectives, or to be
    settled, or confirmed. A settled one that has lost its place never gets it back, so only ended
    trials that have checkpoints are compared: this is asked at every end of a trial.

    Args:
        place: where the run is.
        keep: configurations whose best checkpoints stay, beside those of the front.
        history: of the run, as it is at any moment.
    """

    def __init__(self, place: InPlace | Mirror, keep: int, history: History) -> None:
        self._place = place
        self._keep = keep
        self._history = history
        self._ended: set[str] = set()  # trials that have their best checkpoint
        self._new: list[str] = []  # trials that have ended since this was last asked

    def note(self, record: Mapping[str, Any]) -> None:
        """Takes account of a record, new or past."""
        if record["event"] == "trial_end" and record["state"] in ENDED:
            self._ended.add(record["id"])
            self._new.append(record["id"])

    def drop(self, unsettled: Collection[str]) -> None:
        """Removes what has become useless since the last time.

        Args:
            unsettled: configurations with trials to come.
        """
        self._place.remove(*self._useless(unsettled))

    def sweep(self, unsettled: Collection[str]) -> None:
        """Removes all that is useless, whoever left it: a process that wrote on after its trial's
        end, or a trial whose records were lost.

        Args:
            unsettled: configurations with trials to come.

        Raises:
            OSError: a store cannot be listed.
        """
        self._useless(unsettled)
        wanted = {trial_file(trial, BEST) for trial in self._ended}
        for trial in self._history.trials.values():
            if trial.state not in ENDED:
                wanted |= {trial_file(trial.id, name) for name in (LAST, BEST, DONOR)}
        self._place.remove(*(self._place.checkpoints() - wanted))

    def _useless(self, unsettled: Collection[str]) -> list[str]:
        """Files that nothing will ask for, each told once."""
        found = [trial_file(trial, name) for trial in self._new for name in (LAST, DONOR)]
        self._new.clear()
        seen: set[tuple[str, str | None]] = set()
        places = 0
        ended = [self._history.trials[trial] for trial in self._ended]
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
                found.append(trial_file(trial.id, BEST))
                self._ended.discard(trial.id)
        return found
