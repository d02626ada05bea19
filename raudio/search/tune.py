"""Ray Tune runs the engine's trials: places them, keeps their processes, brings their reports.

Tune asks for trials (`_Source`), tells of reports (`_Referee`) and of lost processes (`_Watcher`);
each passes the question on to the engine. Tune's own state on disk is not used: records.jsonl is.
"""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import ray
import ray.air.integrations.wandb  # tune.run counts callbacks by it: here, it is while Ray starts
from ray import tune
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import SearchAlgorithm

from raudio.cluster.environment import STORE
from raudio.cluster.signals import interruptible
from raudio.config.validate import to_mapping
from raudio.core.errors import PreemptedError
from raudio.search.demand import Demand, trial_bundles
from raudio.search.engine import Engine, TrialSpec
from raudio.search.failures import loss_of
from raudio.search.planner import Plan
from raudio.search.slots import Slots
from raudio.search.trial import GIVEN_UP
from raudio.training.launch import PLACES, REQUESTER, why_gone

#: Seconds after which what controlled the workers of a trial that was ended is gone for certain.
_GONE_AFTER = 5.0
#: Seconds between two looks while nothing runs, and nothing can.
_IDLE = 0.1
#: Ray's actor, and namespace, that keeps the reservations.
_COORDINATOR = "AutoscalingCoordinator"


# Tune would pass credentials on in a runtime environment, which Ray shows, and writes into the logs
# of each node. Trials have them without: see cluster.environment.
class_cache.ENV_VARS_TO_PROPAGATE.difference_update(STORE)

_task_failed = RayActorManager._actor_task_failed


def _task_failed_or_out_of_memory(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
    """Tune ends the search where Ray ends a process for want of memory, as Ray's error for that is
    none of those for processes that have died."""
    if isinstance(exception, OutOfMemoryError):
        exception = RayActorError(error_msg=why_gone(exception))
    _task_failed(self, tracked_actor_task, exception)


RayActorManager._actor_task_failed = _task_failed_or_out_of_memory


class SearchEnded(BaseException):
    """Leaves Tune's loop at once.

    Not an `Exception`: after one of those Tune waits up to 15 s for processes that are in the
    middle of an epoch. Their checkpoints are whole at any moment, so they are simply ended.
    """

    def __init__(self, state: str, reason: str) -> None:
        super().__init__(reason)
        self.state = state
        self.reason = reason


def run_trials(
    engine: Engine,
    trainable: Callable[[Mapping[str, Any]], None],
    slots: Slots,
    *,
    demand: Demand | None = None,
    before: Callable[[TrialSpec], None] = lambda spec: None,
    tick: Callable[[], None] = lambda: None,
) -> tuple[str, str | None]:
    """Runs trials until the engine has no more, time is up, or somebody stops it.

    Args:
        engine: begun.
        trainable: trains one trial in a process of Tune's, given {"id", "experiment"}.
        slots: how many at once, with what.
        demand: asks for the machines of further ones; None: nobody is to be told of it.
        before: called with each trial before it starts.
        tick: called about ten times a second, to draw the table.

    Returns:
        How the search ended (completed, stopped or failed) and why.
    """
    with interruptible() as interrupted:
        try:
            demand = demand or Demand(engine, slots)
            _fit(engine, trainable, slots, demand, interrupted, before, tick)
        except SearchEnded as end:
            return end.state, end.reason
    if engine.broken:
        return "failed", engine.broken
    return "completed", engine.used_up


def _fit(
    engine: Engine,
    trainable: Callable[[Mapping[str, Any]], None],
    slots: Slots,
    demand: Demand,
    interrupted: threading.Event,
    before: Callable[[TrialSpec], None],
    tick: Callable[[], None],
) -> None:
    # Tune's own limit never binds: `_Source` gives no more than there are slots.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(sys.maxsize)
    distributed = slots.plan.distributed
    watcher = _Watcher(engine, slots, demand, interrupted, tick, kill_ended=distributed)
    with tempfile.TemporaryDirectory(prefix="raudio-tune-") as scratch:
        try:
            # Not tune.Tuner, which pickles all it is given so that it can be restored: a run is
            # rebuilt from its records.
            tune.run(
                trainable,
                search_alg=_Source(engine, slots, before, watcher.beat),
                scheduler=_Referee(engine),
                callbacks=[watcher, _NoProgress()],
                # A reused process saves the import of torch, 2 to 3 s a trial.
                reuse_actors=not distributed,
                storage_path=scratch,
                verbose=0,
                raise_on_failed_trial=False,
            )
        finally:
            demand.close()
            watcher.kill()


def _resources(plan: Plan) -> tune.PlacementGroupFactory:
    bundles, labels = trial_bundles(plan)
    return tune.PlacementGroupFactory(bundles, bundle_label_selector=labels or None)


class _Source(SearchAlgorithm):  # type: ignore[misc]
    """Where Tune gets its trials: the engine's, under the engine's ids, one for each free slot."""

    def __init__(
        self,
        engine: Engine,
        slots: Slots,
        before: Callable[[TrialSpec], None],
        beat: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._slots = slots
        self._before = before
        self._beat = beat
        self._experiment: tune.Experiment | None = None
        self._started = 0
        self._given: dict[str, Trial] = {}  # Tune's, of the engine's trials that run

    def add_configurations(self, experiments: Any) -> None:
        (self._experiment,) = experiments

    def _next(self) -> TrialSpec | None:
        # Never ahead of a free slot: a trial drawn later knows more.
        if len(self._engine.running) >= self._slots.plan.slots:
            return None
        return self._engine.next()

    def next_trial(self) -> Trial | None:
        while (spec := self._next()) is None:
            if self._engine.running or self._engine.exhausted:
                return None
            # Nothing runs, and there is no place: Tune would ask again for minutes, and see to
            # nothing else.
            self._beat()
            time.sleep(_IDLE)
        self._before(spec)
        self._started += 1
        plan = self._slots.plan
        assert self._experiment is not None
        runs = [each.id for each in self._engine.running]
        self._given = {name: self._given[name] for name in runs if name in self._given}
        trial = Trial(
            self._experiment.spec["run"],
            config={
                "id": spec.id,
                "experiment": to_mapping(spec.experiment),
                "max_workers": plan.max_workers,
            },
            trial_id=f"{spec.id}-{self._started}",  # Tune knows a trial that is tried again as two
            storage=self._experiment.spec["storage"],
            placement_group_factory=_resources(plan),
            # Errors are reported, not raised (search.trial): what Tune sees failing is a lost
            # process or machine, and that is never the trial's end.
            max_failures=-1,
        )
        self._given[spec.id] = trial
        return trial

    def is_finished(self) -> bool:
        # Once it is, Tune ends the processes that it keeps for further trials, and with them what
        # holds a machine. What it has given up is to be given again: see `_Watcher._take_back`.
        if not self._engine.exhausted:
            return False
        given = (self._given.get(each.id) for each in self._engine.running)
        return not any(trial is not None and trial.status == Trial.ERROR for trial in given)


class _Referee(TrialScheduler):  # type: ignore[misc]
    """Brings each report to the engine, and its verdict to Tune, which then forgets the trial."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine
        self._over: set[Trial] = set()  # those that have ended, or whose process has died

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if "failed/kind" in result:
            self._engine.fail(trial.config["id"], result["failed/kind"], result["failed/reason"])
            return str(TrialScheduler.STOP)
        if "over/reason" in result:
            prefix = "over/costs/"
            costs = {k.removeprefix(prefix): v for k, v in result.items() if k.startswith(prefix)}
            self._engine.exclude(trial.config["id"], result["over/reason"], costs)
            return str(TrialScheduler.STOP)
        prefix = "metrics/"
        metrics = {k.removeprefix(prefix): v for k, v in result.items() if k.startswith(prefix)}
        goes_on = self._engine.report(
            trial.config["id"], result["epoch"], metrics, result["loop_seconds"], result["final"]
        )
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        return None  # Tune starts pending trials by itself, in their order

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        # When the next one comes, Tune has done with those before it.
        for each in [each for each in self._over if each.is_finished()]:
            self._over.remove(each)
            _forget(tune_controller._tune_controller, each)  # a scheduler gets it wrapped

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self._over.add(trial)
        # Tune forgets to, and would wait for ever for a process that was to be made ready for it.
        tune_controller._resetting_trials.discard(trial)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: Any) -> None:
        self._over.add(trial)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        self._over.add(trial)

    def debug_string(self) -> str:
        return "raudio"


def _forget(controller: Any, trial: Trial) -> None:
    """Takes an ended trial out of all that Tune keeps for ever, tens of kilobytes each, and looks
    through whenever none runs.

    Tune asks for an ended trial again only to write its own state, from which nothing is ever
    restored, and in the analysis that `tune.run` returns, which nobody reads. Its process may have
    been given to another trial; Tune finds that one's by the trial that runs.
    """
    controller._trials.remove(trial)
    controller._stopped_trials.discard(trial)
    controller._failed_trials.discard(trial)
    controller._trials_to_cache.discard(trial)
    controller._trial_metadata.pop(trial.trial_id, None)


def _error_of(trial: Trial) -> Exception | None:
    """What a trial's process has raised, or what became of it; None where Tune does not know.

    Trial.get_pickled_error looks in the storage, where Tune has not yet put it.
    """
    try:
        with open(trial.pickled_error_file, "rb") as file:
            error = pickle.load(file)
    except (OSError, TypeError, AttributeError, EOFError, pickle.UnpicklingError):
        return None
    cause: Exception = getattr(error, "cause", None) or error  # as it was raised
    return cause


class _NoProgress(TrialProgressCallback):  # type: ignore[misc]
    """In place of Tune's own, which it adds where there is none, and which keeps every trial."""

    def on_trial_result(self, *args: Any, **info: Any) -> None: ...

    def on_trial_error(self, *args: Any, **info: Any) -> None: ...

    def on_trial_complete(self, *args: Any, **info: Any) -> None: ...


class _Watcher(tune.Callback):  # type: ignore[misc]
    """Notices lost processes, nodes that come and go, the end of the time, a broken search and
    Ctrl-C."""

    def __init__(
        self,
        engine: Engine,
        slots: Slots,
        demand: Demand,
        interrupted: threading.Event,
        tick: Callable[[], None],
        *,
        kill_ended: bool,
    ) -> None:
        self._engine = engine
        self._slots = slots
        self._demand = demand
        self._interrupted = interrupted
        self._tick = tick
        self._kill_ended = kill_ended
        self._actors: dict[str, Any] = {}
        self._reserved: deque[tuple[float, str]] = deque()
        self._lost: set[str] = set()  # Tune's trials that the engine knows to wait for a process
        self._taken_back: set[str] = set()  # those that Tune had given up

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        self._engine.goes_on(trial.config["id"])
        self._lost.discard(trial.trial_id)
        if trial.temporary_state.ray_actor is not None:
            self._actors[trial.trial_id] = trial.temporary_state.ray_actor

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        # The process of a distributed trial waits for its workers, who know nothing of its end
        # when it is pruned. Killed with it, Ray Train does not give back what they hold: its
        # cleaner fails where several Ray clusters run on a machine, and knows of no reservation.
        actor = self._actors.pop(trial.trial_id, None)
        if not self._kill_ended or actor is None:
            return
        ray.kill(actor)
        result = trial.last_result or {}
        if PLACES in result:  # else it has failed before its first report, and has cleaned up
            ray.util.remove_placement_group(result[PLACES])
            self._reserved.append((time.monotonic() + _GONE_AFTER, result[REQUESTER]))

    def _cancel_reserved(self) -> None:
        """Frees what Ray Train has reserved for trials that were ended; it would expire after three
        minutes, in which an elastic trial waits for it."""
        while self._reserved and self._reserved[0][0] < time.monotonic():
            _, requester = self._reserved.popleft()
            coordinator = ray.get_actor(_COORDINATOR, namespace=_COORDINATOR)
            coordinator.cancel_request.remote(requester)

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        self._lost.add(trial.trial_id)
        self._engine.waits(trial.config["id"])
        error = _error_of(trial)
        if isinstance(error, PreemptedError) or getattr(error, "preempted", False):
            self._engine.preempted(trial.config["id"], "its machine is being taken away")
            return
        reason, blameless = loss_of(error)
        if not self._engine.lost(trial.config["id"], reason, blameless=blameless):
            trial.config[GIVEN_UP] = True

    def _take_back(self, trials: list[Trial]) -> None:
        """Starts what Tune has given up, and may have told nobody of: a trial for which it could
        not make the process ready that another one had before, as that has died, or the other one's
        thread has not ended in two seconds."""
        for trial in trials:
            if trial.status != Trial.ERROR or trial.trial_id in self._taken_back:
                continue
            self._taken_back.add(trial.trial_id)
            if trial.trial_id not in self._lost:
                reason = "the process that it was to take over is gone"
                self._engine.lost(trial.config["id"], reason, blameless=True)
            self._engine.requeue(trial.config["id"])

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self._take_back(trials)
        self.beat()

    def beat(self) -> None:
        """What is to be seen to several times a second."""
        self._tick()
        self._slots.look()
        self._demand.look()
        self._cancel_reserved()
        if self._interrupted.is_set():
            raise SearchEnded("stopped", "interrupted")
        if self._engine.broken:
            raise SearchEnded("failed", self._engine.broken)
        if (reason := self._engine.used_up) is not None:
            raise SearchEnded("completed", reason)

    def kill(self) -> None:
        """Ends the trials' processes, wherever they are in their epoch."""
        for actor in self._actors.values():
            ray.kill(actor)
