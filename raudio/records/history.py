"""What the records tell of a run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from raudio.config.goal import Goal, recorded_goal
from raudio.records.layout import COMPLETED, FAILED, INTERRUPTED, PRUNED, RUNNING, check_format
from raudio.records.spent import Spent
from raudio.records.trials import Configuration, TrialHistory


@dataclass(frozen=True)
class ClusterRecord:
    """What a session runs on.

    Attributes:
        where: "this machine", "the cluster at HOST:PORT".
        cpus, gpus: in all.
        slots: trials at once.
        waiting: further ones for which machines are waited for.
        trial_cpus, trial_gpus: that each takes.
    """

    where: str
    cpus: float
    gpus: float
    slots: int
    trial_cpus: float
    trial_gpus: float
    waiting: int = 0


@dataclass(frozen=True)
class BudgetRecord:
    """What a search may use; None: no limit.

    Attributes:
        trials: configurations in all; where each is trained once, trials.
        seconds: wall time over all sessions.
        epochs: over all trials.
        cost: seconds of device time.
        target: the value that ends it.
        patience: ended trials without progress.
    """

    trials: int | None = None
    seconds: float | None = None
    epochs: int | None = None
    cost: float | None = None
    target: float | None = None
    patience: int | None = None


@dataclass(frozen=True)
class ConfirmationRecord:
    """Which configurations are trained anew after the search.

    Attributes:
        configurations: their ids, as the search ranked them.
        seeds: of each.
        each: trials of a seed: one, or one a fold.
    """

    configurations: tuple[str, ...]
    seeds: int
    each: int


@dataclass
class History:
    """What the records tell of a run. `apply` folds in one record after the other.

    Attributes:
        metric: what is optimised, such as `valid/accuracy`; empty before the first search_start.
        mode: `max` or `min`.
        goal: all that is optimised, the metric first, and the limits.
        trials: by id, in the order in which they started.
        configurations: by id, in the order in which they were drawn.
        repeats: trials of each configuration.
        folds: of the dataset, that its trials take turns on; empty: the splits as they are.
        confirmation: of the newest end of the search; None where none was asked for, or it has not
            come to it.
        state: running, completed, stopped, failed, or interrupted (neither ended nor alive).
        reason: why it ended, or None.
        budget: what it may use.
        spent: what it has used of that.
        epochs: of a trial that nothing stops, or None where they were not recorded.
        cluster: what the newest session runs on; None until its Ray has started.
        rungs: epochs at which trials are compared, ascending; empty where there are none.
        brackets: the rungs of each bracket; a trial is compared at those of its own.
        version: of raudio, which wrote the newest part.
        sessions: how often it was started or resumed.
        seconds: wall time of all sessions, without the pauses between them.
        time: of the last record, in Unix seconds.
    """

    metric: str = ""
    mode: str = "max"
    goal: Goal = field(default_factory=lambda: Goal({}))
    trials: dict[str, TrialHistory] = field(default_factory=dict)
    configurations: dict[str, Configuration] = field(default_factory=dict)
    repeats: int = 1
    folds: tuple[int, ...] = ()
    confirmation: ConfirmationRecord | None = None
    state: str = INTERRUPTED
    reason: str | None = None
    budget: BudgetRecord = field(default_factory=BudgetRecord)
    spent: Spent = field(default_factory=Spent)
    epochs: int | None = None
    cluster: ClusterRecord | None = None
    rungs: tuple[int, ...] = ()
    brackets: tuple[tuple[int, ...], ...] = ()
    version: str = ""
    sessions: int = 0
    seconds: float = 0.0
    time: float = field(default=0.0, repr=False)

    def apply(self, record: Mapping[str, Any]) -> None:
        """Folds in one record, as `RecordWriter.append` returns it."""
        event, now = record["event"], float(record["time"])
        if event == "search_start":
            check_format(record.get("format", 1), record.get("version"))
            self.sessions += 1
            self.metric, self.mode = record["metric"], record["mode"]
            self.goal = recorded_goal(record)
            self.version = record.get("version") or ""
            self.budget = BudgetRecord(
                trials=record.get("trials"),
                seconds=record.get("time_budget"),
                epochs=record.get("epochs_budget"),
                cost=record.get("cost_budget"),
                target=record.get("target"),
                patience=record.get("patience"),
            )
            self.epochs, self.cluster = record.get("epochs"), None
            self.rungs = tuple(record.get("rungs") or ())
            # Before there were several, the rungs were those of the only bracket.
            self.brackets = tuple(map(tuple, record.get("brackets") or (self.rungs,)))
            self.repeats = record.get("repeats") or 1
            self.folds = tuple(record.get("folds") or ())
            self.state, self.reason = RUNNING, None
            for trial in self.trials.values():
                trial._settle()
        else:
            self.seconds += max(0.0, now - self.time)
        self.time = now
        self.spent.note(record)
        if event == "search_end":
            self.state, self.reason = record["state"], record.get("reason")
        elif event == "cluster":
            fields = dataclasses.fields(ClusterRecord)
            known = {field.name: record[field.name] for field in fields if field.name in record}
            self.cluster = ClusterRecord(**known)
        elif event == "confirmation":
            self.confirmation = ConfirmationRecord(
                tuple(record["configurations"]), record["seeds"], record["each"]
            )
        if "id" in record:
            if record["id"] not in self.trials:
                self._add(record)
            self.trials[record["id"]]._apply(record, self.sessions)

    def _add(self, record: Mapping[str, Any]) -> None:
        trial = self.trials[record["id"]] = TrialHistory(record["id"])
        name = record.get("configuration") or trial.id
        if name not in self.configurations:
            self.configurations[name] = Configuration(name)
        own = self.configurations[name]
        if record.get("confirms"):
            own.confirming += (trial,)
        else:
            own.trials.append(trial)

    @property
    def replicated(self) -> bool:
        """Whether a configuration has several trials, or the best are confirmed."""
        return self.repeats > 1 or self.confirmation is not None

    def settled(self, configuration: Configuration) -> bool:
        """Whether the search has seen enough of a configuration: all of its trials have completed,
        or one was pruned or has failed."""
        completed = sum(trial.state == COMPLETED for trial in configuration.trials)
        return configuration.state in (PRUNED, FAILED) or completed >= self.repeats

    def fold(self, trial: TrialHistory) -> int | None:
        """The fold that `search.folds` gave a trial; None: none."""
        return self.folds[trial.repeat % len(self.folds)] if self.folds else None

    def elapsed(self) -> float:
        """Wall seconds of all sessions; while it runs, up to now."""
        return self.seconds + (max(0.0, time.time() - self.time) if self.state == RUNNING else 0.0)

    def measures(self, configuration: Configuration) -> dict[str, float]:
        """What a configuration is judged by: the metrics of a trial's best epoch, and all that it
        cost; their means where there are several trials."""
        found: dict[str, list[float]] = {}
        for trial in configuration.counted:
            measured = {**trial.best_metrics(self.metric, self.mode), **trial.costs}
            for name, value in measured.items():
                found.setdefault(name, []).append(value)
        return {name: fmean(values) for name, values in found.items()}

    def broken_limits(self, trial: TrialHistory) -> list[str]:
        """The limits that a trial's configuration does not keep."""
        if not self.goal.limits:
            return []
        return self.goal.broken(self.measures(self.configurations[trial.configuration]))

    def best(self) -> TrialHistory | None:
        """The best trial so far: the best repeat of the best configuration; None when no trial that
        has not failed has a value and keeps the limits."""
        ranked = self.ranked()
        if not ranked or ranked[0].state == FAILED or self.broken_limits(ranked[0]):
            return None
        return None if ranked[0].value(self.metric, self.mode) is None else ranked[0]

    def ranked(self, trials: Iterable[TrialHistory] | None = None) -> list[TrialHistory]:
        """All trials, or some: by their configuration's place, then by their own value, the failed
        ones last.

        Configurations that a whole confirmation is about come first, by what it found. Then those
        whose trials are all completed, by their mean; then others that have a value, by theirs;
        then those that break a limit.
        """
        chosen = list(self.trials.values() if trials is None else trials)
        confirmed = self.confirmed()
        places = {
            name: self._place(self.configurations[name], confirmed)
            for name in {trial.configuration for trial in chosen}
        }
        sign = 1.0 if self.mode == "min" else -1.0

        def order(trial: TrialHistory) -> tuple[Any, ...]:
            value = trial.value(self.metric, self.mode)
            own = 2 if trial.state == FAILED else 1 if value is None else 0
            place = places[trial.configuration]
            search = trial.configuration in confirmed and trial.confirms is None
            return *place, search, own, 0.0 if value is None else sign * value, trial.id

        return sorted(chosen, key=order)

    def ranked_configurations(self) -> list[Configuration]:
        """Those that have a value and have not failed, as the search alone ranks them."""
        places = {name: self._place(each, {}) for name, each in self.configurations.items()}
        names = [name for name, (place, *_) in places.items() if place <= 2]
        return [self.configurations[name] for name in sorted(names, key=places.__getitem__)]

    def confirmed(self) -> dict[str, float]:
        """What a confirmation found of each configuration, the mean over its seeds; empty before
        all of its trials have ended."""
        record = self.confirmation
        if record is None:
            return {}
        found = {}
        for name in record.configurations:
            configuration = self.configurations[name]
            ended = [t for t in configuration.confirming if t.state in (COMPLETED, FAILED)]
            if len(ended) < record.seeds * record.each:
                return {}
            if values := configuration.confirmed(self.metric, self.mode, record.each):
                found[name] = fmean(values)
        return found

    def _place(
        self, configuration: Configuration, confirmed: Mapping[str, float]
    ) -> tuple[int, float, tuple[float, ...], str]:
        """What configurations are sorted by: among equals in the first objective the others count,
        so that none beats the best one in every respect."""
        sign = 1.0 if self.mode == "min" else -1.0
        further = self.goal.further(self.measures(configuration)) if self.goal.several else ()
        if configuration.id in confirmed:
            return 0, sign * confirmed[configuration.id], further, configuration.id
        value = configuration.value(self.metric, self.mode)
        if configuration.state == FAILED:
            return 5, 0.0, further, configuration.id
        if value is None:
            return 4, 0.0, further, configuration.id
        if self.broken_limits(configuration.trials[0]):
            return 3, sign * value, further, configuration.id
        completed = sum(trial.state == COMPLETED for trial in configuration.trials)
        whole = self.repeats == 1 or completed >= self.repeats
        return 1 if whole else 2, sign * value, further, configuration.id

    def front(self, names: Iterable[str] | None = None) -> dict[str, tuple[float, ...]]:
        """The Pareto front of the completed configurations, or some of them, that keep the limits:
        their ids, the best in the first objective first, and the values of their objectives."""
        values = {}
        for name in self.configurations if names is None else names:
            configuration = self.configurations[name]
            measures = self.measures(configuration) if configuration.state == COMPLETED else {}
            found = self.goal.values(measures)
            if found is not None and not self.goal.broken(measures):
                values[name] = found
        return {name: values[name] for name in self.goal.front(values)}
