"""Optuna's journal, written by one process: the file that optuna-dashboard opens.

The driver alone writes it, and a resumed search rebuilds it, so nothing is locked, flushed to the
disk or read back: Optuna's own file backend spends most of a trial's bookkeeping on that.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

_WAITING = (TrialState.WAITING,)


class _File(BaseJournalBackend):  # type: ignore[misc]
    """Lines that are appended, and kept until the one reader, in this process, has taken them."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._logs: list[dict[str, Any]] = []
        self._taken = 0

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        self._file.write("".join(f"{line}\n" for line in lines).encode())
        self._logs += [json.loads(line) for line in lines]

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        del self._logs[: log_number_from - self._taken]
        self._taken = log_number_from
        return iter(self._logs)


class Journal(JournalStorage):  # type: ignore[misc]
    """The storage of a search's study.

    Args:
        path: the file; what is there is replaced.
    """

    def __init__(self, path: Path) -> None:
        self._waiting: set[int] = set()
        super().__init__(_File(path))

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        number: int = super().create_new_trial(study_id, template_trial)
        if template_trial is not None and template_trial.state == TrialState.WAITING:
            self._waiting.add(number)
        return number

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Any = None) -> bool:
        self._waiting.discard(trial_id)
        return bool(super().set_trial_state_values(trial_id, state, values))

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """As Optuna's. Each new trial asks for those that wait; it need not go through all."""
        if states == _WAITING:
            return [self.get_trial(number) for number in sorted(self._waiting)]
        trials: list[FrozenTrial] = super().get_all_trials(study_id, deepcopy, states)
        return trials
