"""The search itself, free of Ray Tune: which trial comes next, what a report means, how trials end.

Everything that happens passes through here once, is recorded first and acted upon second; a
resumed search is rebuilt by passing the same records through the same code again.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raudio.config.goal import Goal
from raudio.config.schema import Experiment, Search
from raudio.core.errors import ConfigError, RunError
from raudio.records import (
    COMPLETED,
    ENDED,
    FAILED,
    FORMAT,
    PRUNED,
    STOPPED,
    WAITS,
    ClusterRecord,
    History,
    RecordWriter,
    TrialHistory,
    trial_id,
)
from raudio.search.budget import Budget
from raudio.search.failures import (
    CONFIGURATION,
    CRASH,
    MENDED_BY,
    OUT_OF_MEMORY,
    Failures,
    with_half_the_memory,
)
from raudio.search.kept import Kept
from raudio.search.mirror import InPlace, Mirror
from raudio.search.planner import trials_in_all
from raudio.search.prior import Answer
from raudio.search.replicates import Replicates
from raudio.search.reuse import Reuse
from raudio.search.sampler import Sampler, finite
from raudio.search.scheduler import Scheduler
from raudio.search.turns import Turns

#: How often a trial's process may die with nothing new to report before the trial is to blame.
_DEATHS = 3


@dataclass(frozen=True)
class TrialSpec:
    """A trial to run: its id, and the experiment that it trains."""

    id: str
    experiment: Experiment


class Engine:
    """Samples, schedules, records and ends trials.

    Args:
        run: the run folder; of a run in a store its working copy.
        search: budget and policy.
        sampler, scheduler: empty ones, also when resuming.
        replicates: which trials a configuration has; None: one.
        experiment_for: from drawn settings to the experiment (`ConfigError` when they can't work).
        signature: of an experiment.
        records: where every event is appended.
        history: what was recorded before; a new search's is empty.
        past: the earlier records, in their order, to be replayed.
        answers: completed trials of earlier runs, by their signature.
        time_budget: seconds in all, over all sessions; None: no limit.
        watch: called with each record, after it is written.
        place: where the trials keep their checkpoints; None: in the run folder.
        clock: seconds; another one in tests.
    """

    def __init__(
        self,
        run: Path,
        search: Search,
        *,
        sampler: Sampler,
        scheduler: Scheduler,
        replicates: Replicates | None = None,
        experiment_for: Callable[[Mapping[str, Any]], Experiment],
        signature: Callable[[Experiment], str],
        records: RecordWriter,
        history: History,
        past: Iterable[Mapping[str, Any]] = (),
        answers: Mapping[str, Answer] | None = None,
        time_budget: float | None = None,
        watch: Callable[[Mapping[str, Any]], None] = lambda record: None,
        place: InPlace | Mirror | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.place = place or InPlace(str(run), run)
        self.history = history
        self.scheduler = scheduler
        self.budget = Budget(search, time_budget)
        self._search = search
        self._sampler = sampler
        self._replicates = replicates or Replicates()
        self._experiment_for = experiment_for
        self._signature = signature
        self._records = records
        self._watch = watch
        self._clock = clock
        self._began = clock()
        self._spent = history.seconds
        self._started: dict[str, float] = {}
        self._waits: dict[str, float] = {}  # running trials without a machine: since when
        self._reopened: list[str] = []
        self._undone: set[str] = set()  # to be pruned, but the driver died before it was
        self._deaths: Counter[str] = Counter()  # of running trials, since they last reported
        self._open: dict[str, int] = {}  # configurations with trials to come: how many have ended
        self._failures = Failures(search.max_failures)
        self._kept = Kept(self.place, search.keep, history)
        population = scheduler.population
        self._turns = Turns(population, self.place, history, experiment_for) if population else None
        # A population's trials change on their way: none is the same as another.
        off = not search.reuse or population is not None
        self._reuse = Reuse(run, history, answers or {}, off=off)
        self._unwritable = False
        self._replay(past)
        self.broken = self._failures.verdict(self.trials_wanted)

    def begin(
        self,
        version: str,
        metric: str,
        mode: str,
        epochs: int | None = None,
        goal: Goal | None = None,
    ) -> None:
        """Records the start of this session, and takes up the trials that the last one left open.

        A trial whose last recorded report ended it, but whose driver died before saying so, is
        ended now; the others go on from their checkpoints. Checkpoints that nothing will ask for
        are removed, those of trials that the records don't know, too.

        Args:
            version: of raudio.
            metric, mode: of which a trial has its best epoch: the first objective.
            epochs: of a trial that nothing stops.
            goal: with further objectives and limits; None: there are none.

        Raises:
            RunError: the store of the run cannot be used.
        """
        goal = goal or Goal({metric: mode})
        self._record(
            "search_start",
            format=FORMAT,
            version=version,
            metric=metric,
            mode=mode,
            objectives=goal.objectives,
            limits=goal.limits,
            trials=self.trials_wanted,
            epochs=epochs,
            **self.budget.recorded,
            rungs=self.scheduler.milestones(),
            brackets=self.scheduler.brackets,
            repeats=self._replicates.trials,
            folds=self._replicates.folds,
            resumed=bool(self.history.trials),
        )
        for trial in list(self.history.trials.values()):
            if trial.state in ENDED:
                continue
            done = bool(trial.reports) and trial.reports[-1].final
            if done or trial.id in self._undone:
                self._started[trial.id] = self._clock()
                self._end_as(trial, done)
            else:
                self._reopened.append(trial.id)
        try:
            self._kept.sweep(self._open)
            self.place.send()  # it is done before a trial writes
        except OSError as error:
            raise RunError(f"run {self.place.name!r}: the store fails: {error}") from error
        self._choose()

    def placed(self, place: ClusterRecord) -> None:
        """Records what this session runs on."""
        self._record("cluster", **dataclasses.asdict(place))

    # --- what comes next -------------------------------------------------------------------

    @property
    def elapsed(self) -> float:
        """Wall seconds of the search so far, over all sessions."""
        return self._spent + self._clock() - self._began

    @property
    def used_up(self) -> str | None:
        """The budget that is used up, beside the number of trials, as a sentence; None: none.

        Where something is to be confirmed, time alone ends everything: see `_drawn`.
        """
        reason = self.budget.used_up(self.history, self.elapsed)
        return None if self._replicates.confirm and reason == self._searched else reason

    @property
    def trials_wanted(self) -> int | None:
        """Configurations in all (trials, where each is trained once): the budget, or all there are
        in a smaller grid; None: no limit."""
        limits = [trials_in_all(self._search), self._sampler.limit]
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def exhausted(self) -> bool:
        """Whether no further trial is to be started."""
        if self.broken or self.used_up is not None:
            return True
        if self._reopened or not self._drawn:
            return False
        if self._open and (self._replicates.trials > 1 or self._replicates.confirm):
            return False  # what runs decides what comes
        return self._replicates.next_confirming(self.history) is None

    @property
    def _drawn(self) -> bool:
        """Whether all configurations that the budget allows have been drawn."""
        wanted = self.trials_wanted
        if wanted is not None and len(self.history.configurations) >= wanted:
            return True
        return bool(self._replicates.confirm) and self._searched is not None

    @property
    def _searched(self) -> str | None:
        """The budget other than time that the search has used up."""
        return self.budget.used_up(self.history, 0.0)

    @property
    def running(self) -> list[TrialHistory]:
        """The trials that are being trained now."""
        return [self.history.trials[name] for name in self._started]

    @property
    def runnable(self) -> int | None:
        """The most trials that could run at once from now on, those that run among them; None: any
        number."""
        found = len(self._started)
        if self.broken or self.used_up is not None:
            return found
        found += len(self._reopened)
        for configuration in map(self.history.configurations.__getitem__, self._open):
            if self._replicates.next(configuration) is not None:
                found += self._replicates.trials - len(configuration.trials)
        if self._drawn:
            return found + self._replicates.unconfirmed(self.history)
        wanted = self.trials_wanted
        return None if wanted is None else found + wanted - len(self.history.configurations)

    def next(self) -> TrialSpec | None:
        """The next trial, recorded as started; None when there is none left, or none yet.

        Trials that an earlier session left open come first (in a population, the one whose turn it
        is), then repeats, which settle what has been begun. Settings that cannot work together
        (which a space may allow) make a failed trial that costs nothing.
        """
        while not self.exhausted and (trial := self._trial()) is not None:
            try:
                experiment = self._experiment_for({**trial.params, **trial.changed})
            except ConfigError as error:
                self._start(trial, "")
                self._end(trial.id, FAILED, CONFIGURATION, str(error))
                continue
            experiment = self._replicates.experiment(experiment, trial.repeat)
            signature = self._signature(experiment)
            same = self._reuse.same_as(trial, signature)
            self._start(trial, signature, same)
            if same is not None:
                self._answer(trial.id, same)
                continue
            return TrialSpec(trial.id, experiment)
        return None

    def _trial(self) -> TrialHistory | None:
        """What is to be started next, as far as it is known before its start."""
        waiting = self._waiting()
        if waiting is not None:
            trial = self.history.trials[waiting]
            if self._turns is not None and (copy := self._turns.copy(trial)) is not None:
                self._record("exploit", **copy)
            return trial
        name = trial_id(len(self.history.trials))
        if self._replicates.trials > 1:
            for configuration in map(self.history.configurations.__getitem__, self._open):
                number = self._replicates.next(configuration)
                if number is not None:
                    return self._replicates.trial(name, configuration, number)
        if not self._drawn:
            return TrialHistory(name, self._sampler.ask(name), configuration=name)
        if self._open:
            return None
        confirming = self._replicates.next_confirming(self.history)
        if confirming is None:
            return None
        configuration, number = confirming
        return self._replicates.trial(name, configuration, number, confirms=configuration.id)

    # --- what happens ----------------------------------------------------------------------

    def report(
        self, name: str, epoch: int, metrics: Mapping[str, float], seconds: float, final: bool
    ) -> bool:
        """Takes an epoch's report of a running trial; whether the trial goes on.

        A report that is known already (a trial repeats its checkpoint's when it goes on after its
        process was lost) changes nothing.
        """
        trial = self.history.trials[name]
        if name not in self._started:
            return False
        if epoch > trial.epochs:
            self._deaths[name] = 0
            self._record(
                "report", id=name, epoch=epoch, metrics=metrics, seconds=seconds, final=final
            )
            goes_on = self._judge(name, epoch, metrics)
            if final or not goes_on:
                self._end_as(trial, final)
                return False
            others = bool(self._reopened) or not self._drawn
            if self._turns is not None and self._turns.gives_way(trial, others=others):
                self._end(name, STOPPED, None, WAITS)
                self._reopened.append(name)
                return False
        return True

    def fail(self, name: str, kind: str, reason: str) -> None:
        """A running trial has failed; what follows is in `search.failures`."""
        if name not in self._started:
            return
        trial = self.history.trials[name]
        changed = None
        if kind == OUT_OF_MEMORY and not trial.changed:
            changed = with_half_the_memory(self._experiment_for(trial.params))
        if changed is not None:
            seconds = round(self._clock() - self._started.pop(name), 3)
            self._record(
                "retry", id=name, kind=kind, reason=reason, changed=changed, seconds=seconds
            )
            self._reopened.append(name)
        elif kind in MENDED_BY:
            self._end(name, STOPPED, kind, reason)
            self.broken = f"{kind}: {reason}; {MENDED_BY[kind]}"
        else:
            self._end(name, FAILED, kind, reason)

    def exclude(self, name: str, reason: str, costs: Mapping[str, float]) -> None:
        """A trial that has not begun breaks a limit by what is known of it: `costs`."""
        if name in self._started:
            self._end(name, PRUNED, None, reason, costs)

    def lost(self, name: str, reason: str, *, blameless: bool = False) -> bool:
        """The process of a running trial is gone; whether the trial goes on elsewhere.

        A trial whose process dies again and again before it has anything new to report has failed;
        one that went with its machine, or never began, is blameless.
        """
        if name not in self._started:
            return False
        self._record("lost", id=name, reason=reason)
        self._deaths[name] += not blameless
        if self._deaths[name] >= _DEATHS:
            why = f"its process died {_DEATHS} times in the same epoch: {reason}"
            self._end(name, FAILED, CRASH, why)
            return False
        self.broken = self.broken or self._failures.verdict(self.trials_wanted)
        return True

    def preempted(self, name: str, reason: str) -> None:
        """The machine of a running trial is being taken away; the trial goes on elsewhere."""
        if name in self._started:
            self._record("preempted", id=name, reason=reason)

    def waits(self, name: str) -> None:
        """A running trial has lost its place: the time until it has another is not its own."""
        self._waits[name] = self._clock()

    def goes_on(self, name: str) -> None:
        """A trial has a place, its first or another."""
        since = self._waits.pop(name, None)
        if since is not None and name in self._started:
            self._started[name] += self._clock() - since

    def requeue(self, name: str) -> None:
        """A running trial is to be started anew, and goes on from its last checkpoint."""
        if self._started.pop(name, None) is not None:
            self._waits.pop(name, None)
            self._reopened.append(name)

    def settle(self) -> None:
        """Sees that what was recorded reaches the disk; to be called several times a second."""
        try:
            self._records.settle()
        except RunError as error:
            self.broken = self.broken or str(error)

    def close(self, state: str, reason: str | None) -> None:
        """Ends the search: trials not at their end are stopped; a resumed search takes them up.

        Args:
            state: completed, stopped or failed.
            reason: why; None where there is nothing to say.
        """
        if self._unwritable:
            return
        for name in self._reopened:
            if self.history.trials[name].state != STOPPED:  # left open by a driver that died
                self._started[name] = self._clock()
        for name in list(self._started):
            self._end(name, STOPPED, None, reason)
        with suppress(OSError):  # the next session will
            self._kept.sweep(self._open)
        self._record("search_end", state=state, reason=reason)

    # --- inside ----------------------------------------------------------------------------

    def _record(self, event: str, **fields: Any) -> None:
        try:
            record = self._records.append(event, **fields)
        except RunError as error:  # nothing may happen that is not recorded
            self.broken, self._unwritable = str(error), True
            raise
        self.history.apply(record)
        self._note(record)
        self._watch(record)

    def _note(self, record: Mapping[str, Any]) -> None:
        """Takes account of a record, new or past."""
        self._failures.note(record)
        self._kept.note(record)
        self._reuse.note(record)
        if record["event"] in ("trial_start", "exploit") and self.scheduler.population is not None:
            self.scheduler.population.had_turn(record["id"])

    def _answer(self, name: str, same: str) -> None:
        """Ends a trial at once, with the reports of the trial that it is the same as."""
        for report in self._reuse.reports(name, same):
            if name in self._started:
                self.report(name, report.epoch, report.metrics, 0.0, report.final)

    def _start(self, trial: TrialHistory, signature: str, same_as: str | None = None) -> None:
        self._started[trial.id] = self._clock()
        self._deaths.pop(trial.id, None)
        if trial.confirms is None:
            self._open.setdefault(trial.configuration, 0)
        self._record(
            "trial_start",
            id=trial.id,
            params=dict(trial.params),
            signature=signature,
            configuration=trial.configuration,
            repeat=trial.repeat,
            confirms=trial.confirms,
            bracket=self.scheduler.bracket(trial.configuration),
            refused=self._sampler.refused,
            same_as=same_as,
        )

    def _waiting(self) -> str | None:
        """Takes the trial that goes on from those that wait; None: it is a new one's turn."""
        if not self._reopened:
            return None
        if self._turns is None:
            return self._reopened.pop(0)
        name = self._turns.next(self._reopened, new=not self._drawn)
        if name is not None:
            self._reopened.remove(name)
        return name

    def _judge(self, name: str, epoch: int, metrics: Mapping[str, float | None]) -> bool:
        """Tells sampler and scheduler of a trial's value at `epoch`; whether it goes on.

        Both see the first trial of a configuration; its others are trained to their end.
        """
        value, trial = finite(metrics.get(self.history.metric)), self.history.trials[name]
        if value is None or trial.repeat:
            return True
        self._sampler.report(name, epoch, value)
        return self.scheduler.report(name, epoch, value)

    def _end_as(self, trial: TrialHistory, final: bool) -> None:
        """Ends a trial as its last report says: its last epoch is completed, another is pruned."""
        if final:
            same = trial.same_as
            reason = f"the same experiment as trial {same}" if same is not None else None
            self._end(trial.id, COMPLETED, None, reason)
        else:
            reason = f"worse than {self.scheduler.others} at epoch {trial.epochs}"
            self._end(trial.id, PRUNED, None, reason)

    def _end(
        self,
        name: str,
        state: str,
        kind: str | None,
        reason: str | None,
        costs: Mapping[str, float] | None = None,
    ) -> None:
        self.goes_on(name)
        seconds = round(self._clock() - self._started.pop(name), 3)
        more = {"costs": costs} if costs else {}
        self._record(
            "trial_end", id=name, state=state, kind=kind, reason=reason, seconds=seconds, **more
        )
        self._tell(self.history.trials[name])
        self._kept.drop(self._open)
        self._choose()
        self.broken = self.broken or self._failures.verdict(self.trials_wanted)

    def _tell(self, trial: TrialHistory) -> None:
        """Tells the sampler of a configuration when its last trial has ended.

        A stopped trial can go on, so Optuna keeps it as running. A replay, whose history knows the
        outcome already, counts the ends to tell at the same moment.
        """
        name = trial.configuration
        if trial.state == STOPPED or trial.confirms is not None:
            return
        self._open[name] = self._open.get(name, 0) + 1
        configuration = self.history.configurations[name]
        ended = sum(trial.state in ENDED for trial in configuration.trials)
        if self._open[name] < ended or not self._replicates.settled(configuration):
            return
        del self._open[name]
        self._sampler.tell(name, **self._replicates.told(trial, self.history))

    def _choose(self) -> None:
        """When the search is done, records which configurations are to be confirmed."""
        if not self._drawn or self._open:
            return
        due = self._replicates.confirmation(self.history)
        if due is not None and due != self.history.confirmation:
            self._record("confirmation", **dataclasses.asdict(due))

    def _replay(self, past: Iterable[Mapping[str, Any]]) -> None:
        """Rebuilds the sampler's study and the scheduler's rungs from the records.

        `history` holds the outcome already; only what Optuna and ASHA keep is rebuilt, report by
        report in the recorded order. What a trial is to do next follows: see `begin`.
        """
        seen: set[str] = set()
        for record in past:
            self._note(record)
            name = record.get("id", "")
            if record["event"] == "trial_start" and name not in seen:
                seen.add(name)
                trial = self.history.trials[name]
                configuration = self.history.configurations[trial.configuration]
                if trial.confirms is None:
                    self._open.setdefault(configuration.id, 0)
                if configuration.id == name:
                    ended = self._replicates.settled(configuration)
                    refused = record.get("refused") or 0
                    self._sampler.ask(name, record["params"], ended=ended, refused=refused)
            elif record["event"] == "report":
                if not self._judge(name, record["epoch"], record["metrics"]):
                    self._undone.add(name)
            elif record["event"] == "trial_end" and record["state"] in ENDED:
                self._tell(self.history.trials[name])
                self._undone.discard(name)
