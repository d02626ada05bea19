"""Budgets of a search beside its number of trials: which of them is used up, as a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raudio.config.schema import Search
from raudio.core.units import format_seconds, format_value, parse_seconds
from raudio.records import COMPLETED, FAILED, PRUNED

#: The metric with a trial's device time so far; without it, the seconds of its epochs are counted.
_COST = "cost/device_seconds"


class Budget:
    """Watches the records for what a search has used.

    Args:
        search: `epochs_budget`, `cost_budget`, `target` and `patience`.
        seconds: wall time over all sessions; None: no limit.
    """

    def __init__(self, search: Search, seconds: float | None) -> None:
        self.seconds = seconds
        self._search = search
        cost = search.cost_budget
        self._most_cost = None if cost is None else parse_seconds(cost, "search.cost_budget")
        self._metric, self._sign = "", 1.0
        self._confirming: set[str] = set()
        self._answered: set[str] = set()
        self._epochs: dict[str, int] = {}
        self._costs: dict[str, float] = {}
        self._all_epochs, self._all_cost = 0, 0.0
        self._best: tuple[str, float] | None = None  # trial and value
        self._stale = 0  # trials that ended since the best value was last bettered

    def note(self, record: Mapping[str, Any]) -> None:
        """Takes account of a record."""
        event = record["event"]
        if record.get("confirms"):
            self._confirming.add(record["id"])
        if record.get("id") in self._confirming:
            return  # when the search is done
        if event == "search_start":
            self._metric = record["metric"]
            self._sign = -1.0 if record["mode"] == "min" else 1.0
        elif event == "trial_start" and record.get("same_as") is not None:
            self._answered.add(record["id"])
        elif event == "report":
            self._report(record["id"], record)
        elif event == "trial_end" and record["state"] in (COMPLETED, PRUNED, FAILED):
            best = self._best is not None and self._best[0] == record["id"]
            self._stale += not best

    def _report(self, trial: str, record: Mapping[str, Any]) -> None:
        metrics = record["metrics"]
        if trial in self._answered:  # by another's reports, which are counted there
            return
        known, epoch = self._epochs.get(trial, 0), max(record["epoch"], self._epochs.get(trial, 0))
        spent = self._costs.get(trial, 0.0)
        cost = metrics.get(_COST)
        cost = spent + (record.get("seconds") or 0.0) if cost is None else cost
        self._epochs[trial], self._costs[trial] = epoch, cost
        self._all_epochs += epoch - known
        self._all_cost += cost - spent
        value = metrics.get(self._metric)
        if value is not None and (
            self._best is None or self._sign * value > self._sign * self._best[1]
        ):
            self._best, self._stale = (trial, value), 0

    def used_up(self, elapsed: float) -> str | None:
        """The budget that is used up, if one is.

        Args:
            elapsed: wall seconds of the search so far, over all sessions.
        """
        search = self._search
        if self.seconds is not None and elapsed >= self.seconds:
            return f"time budget of {format_seconds(self.seconds)}"
        if search.epochs_budget is not None and self._all_epochs >= search.epochs_budget:
            return f"budget of {search.epochs_budget} epochs"
        if self._most_cost is not None and self._all_cost >= self._most_cost:
            return f"cost budget of {format_seconds(self._most_cost)} of device time"
        if search.target is not None and self._best is not None:
            trial, value = self._best
            if self._sign * value >= self._sign * search.target:
                return (
                    f"target {format_value(search.target)} reached: {self._metric} "
                    f"{format_value(value)} of trial {trial}"
                )
        if search.patience is not None and self._stale >= search.patience:
            return f"no progress in the last {self._stale} trials"
        return None
