"""The median stopping rule of Google Vizier (Golovin et al., KDD 2017, section 3.2.2)."""

from __future__ import annotations

import bisect


class MedianRule:
    """Stops a trial whose best value so far is worse than the median of the others' averages.

    At an epoch, the others are the trials that have come so far, and each counts with the mean of
    its values from the grace period to that epoch. It decides as Tune's `MedianStoppingRule`, which
    averages every trial's whole curve anew at each report: 0.1 s a report after 10,000 trials.

    Args:
        mode: "max" or "min".
        grace: epochs before a trial can be stopped, and from which on values are averaged.
        min_samples: other trials that must have come to an epoch, or nobody is stopped there.
    """

    def __init__(self, mode: str, grace: int, min_samples: int) -> None:
        self._sign = -1.0 if mode == "min" else 1.0
        self._grace = grace
        self._min_samples = min_samples
        self._best: dict[str, float] = {}
        self._sums: dict[str, tuple[float, int]] = {}
        self._means: dict[int, list[float]] = {}  # by epoch, of the trials that came to it, sorted

    def report(self, trial: str, epoch: int, value: float) -> bool:
        """Whether `trial` goes on after `value` at `epoch`."""
        value *= self._sign
        best = self._best[trial] = max(value, self._best.get(trial, value))
        if epoch < self._grace:
            return True
        total, count = self._sums.get(trial, (0.0, 0))
        self._sums[trial] = total + value, count + 1
        others = self._means.setdefault(epoch, [])
        middle = (len(others) - 1) // 2, len(others) // 2
        goes_on = len(others) < self._min_samples or best >= sum(others[i] for i in middle) / 2
        bisect.insort(others, (total + value) / (count + 1))
        return goes_on
