"""Budgets of a search beside its number of trials: which of them is used up, as a sentence."""

from __future__ import annotations

from raudio.config.schema import Search
from raudio.core.units import format_seconds, format_value, parse_seconds
from raudio.records import History


class Budget:
    """What a search may use.

    Args:
        search: `epochs_budget`, `cost_budget`, `target` and `patience`.
        seconds: wall time over all sessions; None: no limit.

    Attributes:
        cost: seconds of device time; None: no limit.
    """

    def __init__(self, search: Search, seconds: float | None) -> None:
        cost = search.cost_budget
        self.seconds = seconds
        self.cost = None if cost is None else parse_seconds(cost, "search.cost_budget")
        self.epochs = search.epochs_budget
        self.target = search.target
        self.patience = search.patience

    @property
    def recorded(self) -> dict[str, float | None]:
        """What the start of a session records of it."""
        return {
            "time_budget": self.seconds,
            "epochs_budget": self.epochs,
            "cost_budget": self.cost,
            "target": self.target,
            "patience": self.patience,
        }

    def used_up(self, history: History, elapsed: float) -> str | None:
        """The budget that is used up, if one is.

        Args:
            history: of the search so far.
            elapsed: its wall seconds so far, over all sessions.
        """
        spent = history.spent
        if self.seconds is not None and elapsed >= self.seconds:
            return f"time budget of {format_seconds(self.seconds)}"
        if self.epochs is not None and spent.epochs >= self.epochs:
            return f"budget of {self.epochs} epochs"
        if self.cost is not None and spent.cost >= self.cost:
            return f"cost budget of {format_seconds(self.cost)} of device time"
        if self.target is not None and spent.best is not None:
            trial, value = spent.best
            reached = value <= self.target if history.mode == "min" else value >= self.target
            if reached:
                return (
                    f"target {format_value(self.target)} reached: {history.metric} "
                    f"{format_value(value)} of trial {trial}"
                )
        if self.patience is not None and spent.stale >= self.patience:
            return f"no progress in the last {spent.stale} trials"
        return None
