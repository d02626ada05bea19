"""Optuna's journal, written by one process: the file that optuna-dashboard opens.

The driver alone writes it, and a resumed search rebuilds it, so nothing is locked, flushed to the
disk or read back: Optuna's own file backend spends most of a trial's bookkeeping on that.
"""

from __future__ import annotations

import bisect
import copy
import json
import weakref
from collections import deque
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

#: Trials that are seen, however long ago they ended: TPE calls at most a quarter of them good.
BEST = 100

_WAITING = (TrialState.WAITING,)


class _File(BaseJournalBackend):  # type: ignore[misc]
    """Lines that are appended, and kept until the one reader, in this process, has taken them."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        weakref.finalize(self, self._file.close)
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
        window: samplers see the trials that run, the `window` that ended last and the best `BEST`
            of those that ended before; None: all. A sampler goes through all that it sees at every
            draw: TPE takes 40 ms for a thousand trials.
        mode: "max" or "min": which trials are the best.
    """

    def __init__(self, path: Path, window: int | None = None, mode: str = "max") -> None:
        self._waiting: set[int] = set()
        self._running: set[int] = set()
        self._ended: deque[int] = deque(maxlen=window)
        self._best: list[tuple[float, int]] = []  # the best last
        self._window = window
        self._sign = -1.0 if mode == "min" else 1.0
        super().__init__(_File(path))

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        number: int = super().create_new_trial(study_id, template_trial)
        state = TrialState.RUNNING if template_trial is None else template_trial.state
        if template_trial is not None and state.is_finished():
            self._note_end(number, state, template_trial.values)
        else:
            (self._waiting if state == TrialState.WAITING else self._running).add(number)
        return number

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Any = None) -> bool:
        self._waiting.discard(trial_id)
        self._running.discard(trial_id)
        if not state.is_finished():
            self._running.add(trial_id)
        else:
            self._note_end(trial_id, state, values)
        return bool(super().set_trial_state_values(trial_id, state, values))

    def _note_end(self, trial_id: int, state: TrialState, values: Any) -> None:
        if state == TrialState.FAIL:  # a draw that was refused, which no sampler looks at
            return
        self._ended.append(trial_id)
        # A pruned trial has a value as well, but of fewer epochs.
        if state == TrialState.COMPLETE and len(values) == 1:
            bisect.insort(self._best, (self._sign * values[0], trial_id))
            del self._best[:-BEST]

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """As Optuna's. Each new trial asks for those that wait; it need not go through all."""
        if states == _WAITING:
            return [self.get_trial(number) for number in sorted(self._waiting)]
        if self._window is None or len(self._ended) < self._window:
            trials: list[FrozenTrial] = super().get_all_trials(study_id, deepcopy, states)
            return trials
        seen = {*self._running, *self._ended, *(number for _, number in self._best)}
        found = [self.get_trial(number) for number in sorted(seen)]
        found = [trial for trial in found if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found
