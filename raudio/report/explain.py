"""A search explained: its settings, their values and pairs, and the conclusions, with how far to
trust them.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from raudio import records
from raudio.report import analysis
from raudio.report.next_space import NextSpace, next_space
from raudio.report.run import Run
from raudio.report.values import Interaction, Values, interactions, values


@dataclass(frozen=True)
class Explanation:
    """What is known of a search's settings.

    Attributes:
        run: its name.
        metric, mode: what is optimised.
        trials: that have a value and did not fail: what everything here is about; of a
            configuration with several trials the first, by the mean of all.
        pruned: those of them that the scheduler ended; they count by their best value until then.
        failed: trials that count for nothing.
        verdict: in a sentence or two, how far all of it can be trusted.
        importances: of the varying settings, the most important first; empty with too few trials.
        values: where their good values are.
        interactions: pairs of them, the strongest first.
        next: what to search next.
        command: that searches it, with `space=NEXT` for the space's file.
    """

    run: str
    metric: str
    mode: str
    trials: int
    pruned: int
    failed: int
    verdict: str
    importances: tuple[analysis.Importance, ...]
    values: tuple[Values, ...]
    interactions: tuple[Interaction, ...]
    next: NextSpace
    command: str


def explain(run: Run) -> Explanation:
    """Explains a search, also while it runs."""
    importances = analysis.importances(run)
    found, pairs = values(run), interactions(run)
    pruned = sum(trial.state == records.PRUNED for trial in run.drawn)
    failed = sum(one.state == records.FAILED for one in run.history.configurations.values())
    return Explanation(
        run.name,
        run.history.metric,
        run.history.mode,
        len(run.drawn),
        pruned,
        failed,
        _verdict(run, importances, pairs, pruned, failed),
        tuple(importances),
        tuple(found),
        tuple(pairs),
        next_space(run, importances, found, pairs),
        _command(run),
    )


def _verdict(
    run: Run,
    importances: Sequence[analysis.Importance],
    pairs: Sequence[Interaction],
    pruned: int,
    failed: int,
) -> str:
    count = len(run.drawn)
    what = "configuration" if run.history.replicated else "trial"
    said = f"{count} {what}{'' if count == 1 else 's'} of {run.name} with a value of "
    said += run.history.metric or "the metric"
    parts = [f"{pruned} pruned"] if pruned else []
    parts += [f"{failed} failed, which count for nothing"] if failed else []
    said += f" ({', '.join(parts)})." if parts else "."
    if run.search.get("single"):
        return f"{said} It is a training: nothing was searched."
    if count < analysis.FEWEST_TRIALS:
        return (
            f"{said} That is too few to say what decides: a quarter of them is good, and it takes "
            f"{analysis.FEWEST_TRIALS}; go on with `raudio resume {shlex.quote(run.name)} "
            f"search.trials={2 * analysis.FEWEST_TRIALS}`."
        )
    if not importances:
        return f"{said} All have the same value, or the same settings: nothing decides."
    shares = [(one.share, one.chance) for one in importances]
    shares += [(one.share, one.chance) for one in pairs]
    if not any(share > chance for share, chance in shares):
        return f"{said} No setting decides more than chance would: take more trials."
    return said


def _command(run: Run) -> str:
    """The search of the run again, over another space."""
    kept = [one for one in run.overrides if not one.startswith(("run.dir=", "space="))]
    return shlex.join(["raudio", "search", "space=NEXT", *kept])
