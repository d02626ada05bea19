"""The trials of a configuration: what the sampler drew once is trained with several seeds, on
several folds, and the best of it anew after the search.

Trial `number` of a configuration, counted from 0 and on through those that confirm it, has the
seed and the fold that its number says: the folds take turns, and each turn has the next seed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from raudio.config.schema import Experiment, Search
from raudio.records import (
    COMPLETED,
    ENDED,
    FAILED,
    Configuration,
    ConfirmationRecord,
    History,
    TrialHistory,
)
from raudio.search.planner import trials_in_all


class Replicates:
    """Says which trials a configuration has, and which of them is next.

    Args:
        repeat: seeds of each configuration.
        folds: of the dataset, that each seed is trained on; none: the splits as they are.
        confirm: how many of the best configurations are trained anew after the search.
        confirm_seeds: fresh seeds of each of these.
    """

    def __init__(
        self,
        *,
        repeat: int = 1,
        folds: Sequence[int] = (),
        confirm: int = 0,
        confirm_seeds: int = 3,
    ) -> None:
        self.each = max(1, len(folds))
        self.trials = repeat * self.each
        self.confirm = confirm
        self.folds, self._confirm_seeds = tuple(folds), confirm_seeds

    def experiment(self, experiment: Experiment, number: int) -> Experiment:
        """The experiment of a configuration's trial."""
        if number == 0 and not self.folds:
            return experiment
        turn, place = divmod(number, self.each)
        dataset = experiment.dataset
        if self.folds:
            dataset = dataclasses.replace(dataset, fold=self.folds[place])
        return dataclasses.replace(experiment, seed=experiment.seed + turn, dataset=dataset)

    def settled(self, configuration: Configuration) -> bool:
        """Whether all trials of a configuration that the search needs have ended."""
        states = [trial.state for trial in configuration.trials]
        if not set(states) <= set(ENDED):
            return False
        return len(states) == self.trials or set(states) != {COMPLETED}

    def next(self, configuration: Configuration) -> int | None:
        """The number of the next trial of a configuration, if it can start now.

        The first runs alone, and it alone is compared with others by the scheduler: most
        configurations are pruned in it. The others are trained to their end. They would be compared
        with what has come as far, of which the scheduler would end most; and a fold may be harder
        than another. Where one fails, no further one starts.
        """
        done = [trial.state for trial in configuration.trials]
        ready = done[0] == COMPLETED and FAILED not in done
        return len(done) if ready and len(done) < self.trials else None

    def trial(
        self, name: str, configuration: Configuration, number: int, confirms: str | None = None
    ) -> TrialHistory:
        """A further trial of a configuration, which is called `name`."""
        params = configuration.trials[0].params
        return TrialHistory(
            name, params, configuration=configuration.id, repeat=number, confirms=confirms
        )

    def told(self, trial: TrialHistory, history: History) -> dict[str, Any]:
        """What the sampler is told of the configuration that a trial's end has settled, see
        `Sampler.tell`."""
        configuration = history.configurations[trial.configuration]
        values = history.goal.values(history.measures(configuration))
        if values is None or not all(map(math.isfinite, values)):
            values = None
        state = configuration.state
        state = FAILED if state == COMPLETED and values is None else state
        attributes: dict[str, Any] = {
            "state": state,  # by our name: Optuna sees a failed trial as pruned and infeasible
            "epochs": sum(each.epochs for each in configuration.trials),
            "seconds": round(sum(each.seconds for each in configuration.trials), 1),
        }
        repeats = configuration.values(history.metric, history.mode)
        if self.trials > 1 and repeats:
            deviation = {"deviation": stdev(repeats)} if len(repeats) > 1 else {}
            attributes |= {"mean": fmean(repeats), **deviation, "values": repeats}
        if trial.reason:
            attributes["reason"] = trial.reason
        if trial.donors:  # Optuna knows what was drawn; this is what it became
            attributes |= {"donors": list(trial.donors), "params": trial.params}
        broken = history.broken_limits(trial)
        limits = {limit: limit in broken for limit in history.goal.limits}
        return {"state": state, "values": values, "attributes": attributes, "limits": limits}

    def confirmation(self, history: History) -> ConfirmationRecord | None:
        """What is to be confirmed when the search is done; None: nothing.

        The best configurations as the search ranked them, one of those that are the same: a
        sampler may draw one again.
        """
        different: dict[str, str] = {}
        for each in history.ranked_configurations():
            first = each.trials[0]
            different.setdefault(first.signature or repr(sorted(first.params.items())), each.id)
        names = tuple(different.values())[: self.confirm]
        return ConfirmationRecord(names, self._confirm_seeds, self.each) if names else None

    def next_confirming(self, history: History) -> tuple[Configuration, int] | None:
        """The configuration to confirm next, and the number of the trial; None: all are started.

        They take turns, so that a search that is stopped meanwhile has as many seeds of each.
        """
        record = history.confirmation
        if record is None:
            return None
        chosen = [history.configurations[name] for name in record.configurations]
        least = min(chosen, key=lambda configuration: len(configuration.confirming))
        if len(least.confirming) >= record.seeds * record.each:
            return None
        return least, self.trials + len(least.confirming)

    def unconfirmed(self, history: History) -> int:
        """Trials that are still to confirm configurations, as far as it is known which."""
        record = history.confirmation
        if record is None:
            return 0
        chosen = [history.configurations[name] for name in record.configurations]
        each = record.seeds * record.each
        return sum(max(0, each - len(configuration.confirming)) for configuration in chosen)


def notes(search: Search, folds: Sequence[int]) -> tuple[str, ...]:
    """What is trained of each configuration, for the user; nothing where that is one trial."""
    trials = search.repeat * max(1, len(folds))
    said = []
    if trials > 1:
        parts = [f"search.repeat={search.repeat}"] if search.repeat > 1 else []
        parts += [f"{len(folds)} folds"] if folds else []
        said.append(
            f"a configuration is {trials} trials ({', '.join(parts)}), compared by their mean; "
            "search.trials counts configurations"
        )
    if search.confirm:
        each = search.confirm_seeds * max(1, len(folds))
        best = min(search.confirm, trials_in_all(search) or search.confirm)
        which, them = ("one is", "it") if best == 1 else (f"{best} are", "them")
        said.append(f"the best {which} then trained anew, {each} trials each, to confirm {them}")
    return tuple(said)
