"""What the records tell of one trial, and of the trials of one configuration.

A search has very many of them, and its driver holds them all: they have slots, and what their
records say alike is one object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from sys import intern
from typing import Any

from raudio.records.layout import COMPLETED, FAILED, PRUNED, RUNNING, STOPPED


@dataclass(frozen=True, slots=True)
class ReportRecord:
    """One epoch of a trial: its metrics (finite ones only) and its seconds inside the loop."""

    epoch: int
    metrics: dict[str, float]
    seconds: float
    final: bool


@dataclass(slots=True)
class TrialHistory:
    """What the records tell of one trial.

    Attributes:
        id: `0000` and so on, also the name of its folder.
        params: what the sampler drew: setting to value.
        signature: of its experiment; empty when it was not recorded.
        bracket: whose rungs it is compared at, from 0.
        configuration: id of the first trial with its params; where each is trained once, its own.
        repeat: which of its configuration's trials it is, from 0, those that confirm included.
        confirms: the configuration, of a trial that confirms it after the search; else None.
        same_as: the trial that had completed its experiment already, and whose reports it has;
            `RUN/ID` where that is an earlier run's.
        state: running, completed, pruned, failed or stopped.
        kind: of a failure (error, non-finite loss, out of memory, bad data, disk full;
            configuration: settings that can't work together; crash: its process died again and
            again), or None.
        reason: why it ended so, one line, or None.
        reports: one an epoch, in the order of the epochs.
        donors: trials whose weights it took over, in their order.
        changed: settings that it was given to be tried again: see `search.failures`.
        lost: how often its process or machine was lost.
        preemptions: how often its machine was taken away with notice.
    """

    id: str
    params: dict[str, Any] = field(default_factory=dict)
    signature: str = ""
    bracket: int = 0
    configuration: str = ""
    repeat: int = 0
    confirms: str | None = None
    same_as: str | None = None
    state: str = RUNNING
    kind: str | None = None
    reason: str | None = None
    reports: list[ReportRecord] = field(default_factory=list)
    changed: dict[str, Any] = field(default_factory=dict)
    donors: tuple[str, ...] = ()
    lost: int = 0
    preemptions: int = 0
    _settled: float = field(default=0.0, repr=False)
    _open: float = field(default=0.0, repr=False)
    _ended_in: int = field(default=0, repr=False)
    _known_costs: dict[str, float] | None = field(default=None, repr=False)

    @property
    def seconds(self) -> float:
        """Wall seconds of its parts that ended; of one that did not, those inside the loop."""
        return self._settled + self._open

    @property
    def epochs(self) -> int:
        """Epochs reported so far: the number of the last."""
        return self.reports[-1].epoch if self.reports else 0

    @property
    def costs(self) -> dict[str, float]:
        """Its costs so far, or those that were known before it could begin."""
        if not self.reports:
            return self._known_costs or {}
        last = self.reports[-1].metrics
        return {name: value for name, value in last.items() if name.startswith("cost/")}

    @property
    def loop_seconds(self) -> float:
        """Seconds inside the training loop, over all epochs."""
        return sum(report.seconds for report in self.reports)

    def value(self, metric: str, mode: str) -> float | None:
        """The best value of `metric` over its epochs; None when none has it."""
        best = self.best_report(metric, mode)
        return None if best is None else best.metrics[metric]

    def best_metrics(self, metric: str, mode: str) -> dict[str, float]:
        """All metrics of the epoch with the best value of `metric`; empty when none has it."""
        best = self.best_report(metric, mode)
        return {} if best is None else dict(best.metrics)

    def best_report(self, metric: str, mode: str) -> ReportRecord | None:
        """The epoch with the best value of `metric`, the first of equals."""
        having = [report for report in self.reports if metric in report.metrics]
        if not having:
            return None
        choose = min if mode == "min" else max
        return choose(having, key=lambda report: report.metrics[metric])

    def _apply(self, record: Mapping[str, Any], session: int) -> None:
        event = record["event"]
        if event == "trial_start":
            self.params = _shared(record.get("params") or {})
            self.signature = record.get("signature") or ""
            self.bracket = record.get("bracket") or 0
            name = record.get("configuration") or self.id
            self.configuration = self.id if name == self.id else name
            self.repeat = record.get("repeat") or 0
            self.confirms = record.get("confirms")
            self.same_as = record.get("same_as")
            self._run()
        elif event == "report":
            # A stopped trial that reports in a later session goes on; a report that was on its way
            # when the trial was stopped does not wake it.
            if self.state == STOPPED and self._ended_in < session:
                self._run()
            metrics = {intern(k): float(v) for k, v in record["metrics"].items() if v is not None}
            seconds = float(record.get("seconds") or 0.0)
            new = ReportRecord(record["epoch"], metrics, seconds, bool(record.get("final")))
            if new.epoch <= self.epochs:
                # Going on from a checkpoint may report an epoch again: the last report counts.
                others = [known for known in self.reports if known.epoch != new.epoch]
                self.reports = sorted([*others, new], key=lambda report: report.epoch)
            else:
                self.reports.append(new)
            if self.state == RUNNING:
                self._open += seconds
        elif event == "lost":
            self.lost += 1
        elif event == "preempted":
            self.preemptions += 1
        elif event == "exploit":
            self.params = _shared(record["params"])
            self.donors += (record["donor"],)
        elif event == "retry":
            self.changed = dict(record["changed"])
            self._open = 0.0
            self._settled += float(record.get("seconds") or 0.0)
        elif event == "trial_end":
            self.state = intern(record["state"])
            self.kind, self.reason = record.get("kind"), record.get("reason")
            self._known_costs = record.get("costs") or None
            self._open, self._ended_in = 0.0, session
            self._settled += float(record.get("seconds") or 0.0)

    def _run(self) -> None:
        self.state, self.kind, self.reason = RUNNING, None, None

    def _settle(self) -> None:
        """A new session starts: what an ended driver left open is settled as far as it is known."""
        self._settled, self._open = self._settled + self._open, 0.0


def _shared(params: Mapping[str, Any]) -> dict[str, Any]:
    """Settings whose texts are one object for all trials."""
    return {intern(k): intern(v) if isinstance(v, str) else v for k, v in params.items()}


@dataclass(slots=True)
class Configuration:
    """What the sampler drew once, and the trials that train it: each with a seed, or a fold, of its
    own.

    Attributes:
        id: of its first trial.
        trials: of the search, by `repeat`.
        confirming: trained anew after the search.
    """

    id: str
    trials: list[TrialHistory] = field(default_factory=list)
    confirming: tuple[TrialHistory, ...] = ()

    @property
    def state(self) -> str:
        """Failed or pruned where one of its trials is, completed where all so far are; else
        running."""
        states = {trial.state for trial in self.trials}
        return next((s for s in (FAILED, PRUNED) if s in states), "") or (
            COMPLETED if states == {COMPLETED} else RUNNING
        )

    @property
    def counted(self) -> list[TrialHistory]:
        """The trials that have ended and not failed; before one has, those that there are."""
        ended = [trial for trial in self.trials if trial.state in (COMPLETED, PRUNED)]
        return ended or [trial for trial in self.trials if trial.state != FAILED]

    def values(self, metric: str, mode: str) -> list[float]:
        """The value of each trial that counts."""
        values = [trial.value(metric, mode) for trial in self.counted]
        return [value for value in values if value is not None]

    def value(self, metric: str, mode: str) -> float | None:
        """The mean of `values`; None where there is none."""
        values = self.values(metric, mode)
        return fmean(values) if values else None

    def confirmed(self, metric: str, mode: str, each: int) -> list[float]:
        """The value of each confirming seed: the mean over its `each` trials, all completed."""
        seeds: dict[int, list[float]] = {}
        for trial in self.confirming:
            value = trial.value(metric, mode)
            if trial.state == COMPLETED and value is not None:
                seeds.setdefault(trial.repeat // each, []).append(value)
        return [fmean(values) for values in seeds.values() if len(values) == each]
