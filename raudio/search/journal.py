"""Optuna's journal, written by one process: the file that optuna-dashboard opens.

The driver alone writes it, and a resumed search rebuilds it, so nothing is locked, flushed to the
disk or read back: Optuna's own journal spends most of a trial's bookkeeping on that. What samplers
ask for is in memory, and of trials that none of them will see again only the file knows.
"""

from __future__ import annotations

import bisect
import copy
import json
import uuid
import weakref
from collections import deque
from collections.abc import Container, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import InMemoryStorage
from optuna.storages.journal._storage import JournalOperation
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

#: Trials that are seen, however long ago they ended: TPE calls at most a quarter of them good.
BEST = 100

_WAITING = (TrialState.WAITING,)


class Journal(InMemoryStorage):  # type: ignore[misc]
    """The storage of a search's study.

    Args:
        path: the file; what is there is replaced.
        window: samplers see the trials that run, the `window` that ended last and the best `BEST`
            of those that ended before, and memory holds no others; None: all. A sampler goes
            through all that it sees at every draw: TPE takes 40 ms for a thousand trials.
        mode: "max" or "min": which trials are the best.
    """

    def __init__(self, path: Path, window: int | None = None, mode: str = "max") -> None:
        super().__init__()
        self._file = path.open("wb", buffering=0)
        weakref.finalize(self, self._file.close)
        self._worker = str(uuid.uuid4())
        self._shared: dict[str, tuple[BaseDistribution, str]] = {}  # and its JSON
        self._held: dict[int, FrozenTrial] = {}  # the trials in memory, ascending
        self._waiting: set[int] = set()
        self._ended: deque[int] = deque()
        self._best: list[tuple[float, int]] = []  # the best last
        self._passed: list[int] = []  # trials that may have left what is seen
        self._window = window
        self._sign = -1.0 if mode == "min" else 1.0

    # --- what is written -------------------------------------------------------------------

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        study: int = super().create_new_study(directions, study_name)
        name = self.get_study_name_from_id(study)
        self._write(JournalOperation.CREATE_STUDY, study_name=name, directions=directions)
        return study

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        super().set_study_user_attr(study_id, key, value)
        operation = JournalOperation.SET_STUDY_USER_ATTR
        self._write(operation, study_id=study_id, user_attr={key: value})

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        super().set_study_system_attr(study_id, key, value)
        operation = JournalOperation.SET_STUDY_SYSTEM_ATTR
        self._write(operation, study_id=study_id, system_attr={key: value})

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        number: int = super().create_new_trial(study_id, template_trial)
        trials = self._studies[study_id].trials  # which needs their count alone
        trial, trials[number] = trials[number], None
        self._held[number] = trial
        more = {} if template_trial is None else _contents(trial)
        start = _utc(trial.datetime_start)
        operation = JournalOperation.CREATE_TRIAL
        self._write(operation, study_id=study_id, datetime_start=start, **more)
        self._note(number)
        return number

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        # One object for all trials: most of what a trial takes in memory would be these.
        known = self._shared.get(param_name)
        if known is None or known[0] != distribution:
            known = distribution, distribution_to_json(distribution)
            self._shared[param_name] = known
        super().set_trial_param(trial_id, param_name, param_value_internal, known[0])
        self._write(
            JournalOperation.SET_TRIAL_PARAM,
            trial_id=trial_id,
            param_name=param_name,
            param_value_internal=param_value_internal,
            distribution=known[1],
        )

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        if not super().set_trial_state_values(trial_id, state, values):
            return False
        trial = self.get_trial(trial_id)
        times = {}
        if state == TrialState.RUNNING:
            times["datetime_start"] = _utc(trial.datetime_start)
        elif state.is_finished():
            times["datetime_complete"] = _utc(trial.datetime_complete)
        operation = JournalOperation.SET_TRIAL_STATE_VALUES
        self._write(operation, trial_id=trial_id, state=state, values=values, **times)
        self._note(trial_id)
        return True

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        operation = JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE
        self._write(operation, trial_id=trial_id, step=step, intermediate_value=intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        super().set_trial_user_attr(trial_id, key, value)
        operation = JournalOperation.SET_TRIAL_USER_ATTR
        self._write(operation, trial_id=trial_id, user_attr={key: value})

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        super().set_trial_system_attr(trial_id, key, value)
        operation = JournalOperation.SET_TRIAL_SYSTEM_ATTR
        self._write(operation, trial_id=trial_id, system_attr={key: value})

    def _write(self, operation: JournalOperation, **fields: Any) -> None:
        line = {"op_code": operation, "worker_id": self._worker, **fields}
        self._file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")

    # --- what is seen ----------------------------------------------------------------------

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """As Optuna's. Each new trial asks for those that wait; it need not go through all."""
        self._let_go()
        if states == _WAITING:
            found = [self._held[number] for number in sorted(self._waiting)]
        else:
            found = list(self._held.values())
        if states is not None:
            found = [trial for trial in found if trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def _note(self, number: int) -> None:
        """Takes account of a trial's new state."""
        trial = self.get_trial(number)
        self._waiting.discard(number)
        if trial.state == TrialState.WAITING:
            self._waiting.add(number)
        if self._window is None or not trial.state.is_finished():
            return
        if trial.state == TrialState.FAIL:  # a draw that was refused: no sampler looks at it
            self._passed.append(number)
            return
        self._ended.append(number)
        if len(self._ended) > self._window:
            self._passed.append(self._ended.popleft())
        # A pruned trial has a value as well, but of fewer epochs.
        if trial.state == TrialState.COMPLETE and len(trial.values) == 1:
            bisect.insort(self._best, (self._sign * trial.value, number))
            self._passed += [worse for _, worse in self._best[:-BEST]]
            del self._best[:-BEST]

    def _let_go(self) -> None:
        """Forgets the trials that are not seen any more; not at once, because Optuna still asks for
        one that has just ended."""
        if not self._passed:
            return
        for number in {*self._passed} - {*self._ended, *(number for _, number in self._best)}:
            del self._held[number], self._trial_id_to_study_id_and_number[number]
        self._passed.clear()

    def _get_trial(self, trial_id: int) -> FrozenTrial:
        return self._held[trial_id]

    def _set_trial(self, trial_id: int, trial: FrozenTrial) -> None:
        self._held[trial_id] = trial

    def _update_cache(self, trial_id: int, study_id: int) -> None:
        """Optuna's knows the best of all trials, which may not be in memory; nobody asks for it."""


def _contents(trial: FrozenTrial) -> dict[str, Any]:
    """What a journal says of a trial that is added as it is."""
    several = trial.values is not None and len(trial.values) > 1
    ended = trial.datetime_complete
    return {
        "state": trial.state,
        "value": None if several else trial.value,
        "values": trial.values if several else None,
        **({} if ended is None else {"datetime_complete": _utc(ended)}),
        "distributions": {
            name: distribution_to_json(known) for name, known in trial.distributions.items()
        },
        "params": {
            name: trial.distributions[name].to_internal_repr(value)
            for name, value in trial.params.items()
        },
        "user_attrs": trial.user_attrs,
        "system_attrs": trial.system_attrs,
        "intermediate_values": trial.intermediate_values,
    }


def _utc(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(UTC).isoformat(timespec="microseconds")
