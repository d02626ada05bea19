"""Whether the best configuration is the best: what a confirmation's fresh seeds tell.

Each seed gives one value (of several folds, their mean), and values of different configurations are
independent. Welch, "The generalization of Student's problem when several different population
variances are involved", Biometrika 1947; Holm, "A simple sequentially rejective multiple test
procedure", Scandinavian Journal of Statistics 1979.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from raudio.core.units import format_value
from raudio.records import History

#: Of the intervals, and one minus the level of the tests.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Confirmed:
    """A configuration, and what its fresh seeds found.

    Attributes:
        configuration: id of its first trial.
        values: of its seeds.
        mean: of these.
        deviation: the sample's; None of one seed.
        low, high: the mean's confidence interval, Student's; None of one seed.
        p: of Welch's test that its mean is the first one's, after Holm's correction where there are
            several such tests; None of the first, and where either has one seed.
    """

    configuration: str
    values: tuple[float, ...]
    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    p: float | None = None


@dataclass(frozen=True)
class Confirmation:
    """What a confirmation found.

    Attributes:
        configurations: those with a value, the best first.
        seeds: that each is to have.
        complete: whether all of them are trained.
        distinguishable: whether the first can be told from the second; None: not known.
        verdict: the same as a sentence.
    """

    configurations: tuple[Confirmed, ...]
    seeds: int
    complete: bool
    distinguishable: bool | None
    verdict: str


def confirmation(history: History) -> Confirmation | None:
    """What the confirmation of a search found so far; None where there is none."""
    record = history.confirmation
    if record is None:
        return None
    found = []
    for name in record.configurations:
        configuration = history.configurations[name]
        values = configuration.confirmed(history.metric, history.mode, record.each)
        if values:
            found.append(_measured(name, values))
    found.sort(key=lambda one: one.mean, reverse=history.mode != "min")
    found = _tested(found)
    complete = bool(history.confirmed()) or all(
        len(history.configurations[name].confirming) >= record.seeds * record.each
        and all(t.state == "failed" for t in history.configurations[name].confirming)
        for name in record.configurations
    )
    known, verdict = _verdict(found, complete)
    return Confirmation(tuple(found), record.seeds, complete, known, verdict)


#: Of the table of `as_rows`.
HEADS = ("configuration", "mean", "deviation", f"{CONFIDENCE:.0%} interval", "seeds", "p value")


def as_rows(found: Confirmation) -> list[tuple[str, ...]]:
    """A confirmation's table under HEADS, as texts."""
    return [
        (
            one.configuration,
            format_value(one.mean),
            format_value(one.deviation),
            "-" if one.low is None else f"{format_value(one.low)} to {format_value(one.high)}",
            f"{len(one.values)} of {found.seeds}",
            format_value(one.p),
        )
        for one in found.configurations
    ]


def _measured(name: str, values: Sequence[float]) -> Confirmed:
    mean, count = fmean(values), len(values)
    if count < 2:
        return Confirmed(name, tuple(values), mean, None, None, None)
    from scipy import stats

    deviation = stdev(values)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * deviation / math.sqrt(count)
    return Confirmed(name, tuple(values), mean, deviation, mean - reach, mean + reach)


def _tested(found: Sequence[Confirmed]) -> list[Confirmed]:
    """With the p-values of all but the first, where it and they have several seeds."""
    if len(found) < 2 or len(found[0].values) < 2:
        return list(found)
    several = [one for one in found[1:] if len(one.values) > 1]
    corrected = holm([welch(found[0].values, one.values) for one in several])
    p_of = {one.configuration: p for one, p in zip(several, corrected, strict=True)}
    return [dataclasses.replace(one, p=p_of.get(one.configuration)) for one in found]


def welch(first: Sequence[float], second: Sequence[float]) -> float:
    """The two-sided p-value of Welch's t-test; 1 where all values are one and the same."""
    from scipy import stats

    if len({*first, *second}) == 1:
        return 1.0
    if len(set(first)) == len(set(second)) == 1:
        return 0.0  # no deviation at all, and different means
    return float(stats.ttest_ind(first, second, equal_var=False).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in their order."""
    corrected, largest = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for place, number in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[number]))
        corrected[number] = largest
    return corrected


def _verdict(found: Sequence[Confirmed], complete: bool) -> tuple[bool | None, str]:
    """Whether the first can be told from the second, and a sentence on it."""
    if not complete:
        return None, "The confirmation is not complete; `raudio resume` goes on with it."
    if not found:
        return None, "No configuration could be confirmed: every trial failed."
    first = found[0]
    if len(found) == 1:
        return None, f"Configuration {first.configuration} is confirmed; there is no second."
    second = found[1]
    names = f"{first.configuration} and {second.configuration}"
    if second.p is None:
        return None, (
            f"Whether {names} differ cannot be told: one of them has one seed. "
            "search.confirm_seeds=5 would give more."
        )
    several = f", corrected for {len(found) - 1} comparisons" if len(found) > 2 else ""
    test = f"p = {format_value(second.p)} (Welch{several})"
    if second.p < 1 - CONFIDENCE:
        return True, f"{first.configuration} is better than {second.configuration}: {test}."
    fewest = min(len(first.values), len(second.values))
    few = f" {fewest} seeds show large differences only." if fewest < 5 else ""
    return False, f"{names} cannot be told apart: {test}.{few}"
