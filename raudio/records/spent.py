"""What a search has used of its budgets, as its records tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raudio.records.layout import ENDED

#: The metric with a trial's device time so far; without it, the seconds of its epochs are counted.
COST = "cost/device_seconds"


@dataclass
class Spent:
    """Counts record by record.

    Trials that confirm come when the search is done, and trials that another's reports answer train
    nothing: neither is counted.

    Attributes:
        epochs: trained, each once.
        cost: seconds of device time.
        best: the trial with the best value so far, and that value; None before there is one.
        stale: trials that have ended since the best value was last bettered.
    """

    epochs: int = 0
    cost: float = 0.0
    best: tuple[str, float] | None = None
    stale: int = 0
    _metric: str = field(default="", repr=False)
    _sign: float = field(default=1.0, repr=False)
    _confirming: set[str] = field(default_factory=set, repr=False)
    _answered: set[str] = field(default_factory=set, repr=False)
    _epochs: dict[str, int] = field(default_factory=dict, repr=False)  # of trials not ended
    _costs: dict[str, float] = field(default_factory=dict, repr=False)

    def note(self, record: Mapping[str, Any]) -> None:
        """Takes account of a record."""
        event = record["event"]
        if record.get("confirms"):
            self._confirming.add(record["id"])
        if record.get("id") in self._confirming:
            return
        if event == "search_start":
            self._metric = record["metric"]
            self._sign = -1.0 if record["mode"] == "min" else 1.0
        elif event == "trial_start" and record.get("same_as") is not None:
            self._answered.add(record["id"])
        elif event == "report" and record["id"] not in self._answered:
            self._report(record["id"], record)
        elif event == "trial_end" and record["state"] in ENDED:
            best = self.best is not None and self.best[0] == record["id"]
            self.stale += not best
            self._epochs.pop(record["id"], None)
            self._costs.pop(record["id"], None)

    def _report(self, trial: str, record: Mapping[str, Any]) -> None:
        metrics = record["metrics"]
        known, epoch = self._epochs.get(trial, 0), max(record["epoch"], self._epochs.get(trial, 0))
        spent = self._costs.get(trial, 0.0)
        cost = metrics.get(COST)
        cost = spent + (record.get("seconds") or 0.0) if cost is None else cost
        self._epochs[trial], self._costs[trial] = epoch, cost
        self.epochs += epoch - known
        self.cost += cost - spent
        value = metrics.get(self._metric)
        if value is not None and (
            self.best is None or self._sign * value > self._sign * self.best[1]
        ):
            self.best, self.stale = (trial, value), 0
