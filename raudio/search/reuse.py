"""Experiments that a trial has completed are answered from the records, not trained again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raudio.records import COMPLETED, History, ReportRecord, TrialHistory, trial_folder
from raudio.search.prior import Answer


class Reuse:
    """Knows the completed trials by the signatures of their experiments.

    Args:
        run: the run folder.
        history: of the run, as it is at any moment.
        earlier: completed trials of earlier runs, by their signature.
        off: answers nothing.
    """

    def __init__(
        self, run: Path, history: History, earlier: Mapping[str, Answer], *, off: bool
    ) -> None:
        self._run = run
        self._history = history
        self._earlier = earlier
        self._off = off
        self._completed: dict[str, str] = {}  # signature -> the first trial that completed it

    def note(self, record: Mapping[str, Any]) -> None:
        """Takes account of a record, new or past."""
        if record["event"] == "trial_end" and record["state"] == COMPLETED:
            signature = self._history.trials[record["id"]].signature
            self._completed.setdefault(signature, record["id"])

    def same_as(self, trial: TrialHistory, signature: str) -> str | None:
        """The completed trial of the same experiment, which answers this one's; None: it is to be
        trained, or has begun to be."""
        if self._off or not signature or (trial.reports and trial.same_as is None):
            return None
        known = self._earlier.get(signature)
        return self._completed.get(signature) or (known.trial if known is not None else None)

    def reports(self, name: str, same: str) -> Sequence[ReportRecord]:
        """The reports with which the trial `same` answers the trial `name`. Of an earlier run's,
        the checkpoint is taken, too."""
        if same in self._history.trials:
            return self._history.trials[same].reports
        known = self._earlier[self._history.trials[name].signature]
        known.give(trial_folder(self._run, name))
        return known.reports
