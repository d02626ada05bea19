"""Learning-rate schedules: pure functions of (step, total), so that there is no state to keep.

Each function here takes its settings and returns a `Schedule`: the factor on the peak learning
rate for optimizer step `step` (from 0) of `total`. Where there is a warm-up of W steps, step s < W
has the factor (s + 1) / (W + 1), and step W is the first at the peak.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

Schedule: TypeAlias = Callable[[int, int], float]


def constant(*, warmup: float = 0.0) -> Schedule:
    """The peak learning rate after the warm-up.

    Args:
        warmup: share of all steps that rise to the peak.
    """
    return _warmed(warmup, lambda step, total: 1.0)


def cosine(*, warmup: float = 0.05, final: float = 0.0) -> Schedule:
    """Half a cosine from the peak down (Loshchilov and Hutter 2017, "SGDR", without restarts).

    Args:
        warmup: share of all steps that rise to the peak.
        final: where it ends, as a share of the peak; the step after the last would have it.
    """

    def factor(step: int, total: int) -> float:
        return final + (1 - final) * (1 + math.cos(math.pi * step / total)) / 2

    return _warmed(warmup, factor)


def step(*, warmup: float = 0.0, drops: int = 2, gamma: float = 0.1) -> Schedule:
    """Multiplied by `gamma` at `drops` equal distances after the warm-up.

    Args:
        warmup: share of all steps that rise to the peak.
        drops: how many times it drops.
        gamma: factor of each drop.
    """
    return _warmed(warmup, lambda step, total: gamma ** (step * (drops + 1) // total))


def onecycle(*, warmup: float = 0.3, start: float = 0.04, final: float = 1e-4) -> Schedule:
    """Up along half a cosine, then far down (Smith 2018, "Super-convergence").

    Args:
        warmup: share of all steps that rise to the peak.
        start: first learning rate, as a share of the peak.
        final: last learning rate, as a share of the first.
    """

    def factor(step: int, total: int) -> float:
        last, peak = total - 1, max(warmup * total - 1, 0)
        if step < peak:
            return _between(start, 1.0, step / peak)
        return _between(1.0, start * final, (step - peak) / (last - peak) if last > peak else 0.0)

    return factor


def _between(first: float, second: float, share: float) -> float:
    """From `first` (share 0) to `second` (share 1) along half a cosine."""
    return second + (first - second) * (1 + math.cos(math.pi * share)) / 2


def _warmed(warmup: float, after: Schedule) -> Schedule:
    """A linear warm-up, then `after` over the steps that remain, counted from 0."""

    def factor(step: int, total: int) -> float:
        rising = round(warmup * total)
        if step < rising:
            return (step + 1) / (rising + 1)
        return after(step - rising, total - rising)

    return factor
