"""Earlier runs as prior knowledge: the sampler learns from their trials, and what they completed is
not trained again.

`search.prior` lists run folders or URIs. A trial that ended there is known to the sampler as one of
its own, where the present space holds it; what was fixed there and is searched here counts with the
value that it had. None of them is a trial of this search.

With `search.reuse`, an experiment that such a run has completed is not trained again, if the
checkpoint of its best epoch is still there: it may become the best trial of this run.

What is used is copied into the run, so that the run goes on alike when those it learnt from have
changed, moved or gone.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from raudio.config import compose
from raudio.config.axes import Value
from raudio.config.goal import Goal
from raudio.config.samplers import LEARNING
from raudio.config.schema import Search
from raudio.core.errors import ConfigError, DataError, RunError
from raudio.core.storage import write_atomic
from raudio.data.manifest import Manifest
from raudio.records import (
    BEST,
    COMPLETED,
    DATASET_JSON,
    ENDED,
    EXPERIMENT_YAML,
    FAILED,
    PRIOR,
    RECORDS,
    SEARCH_YAML,
    Configuration,
    History,
    ReportRecord,
    find_run,
    read_history,
    trial_folder,
)
from raudio.search.constraints import value_in
from raudio.search.points import within
from raudio.search.samplers import WARM
from raudio.search.space import Space

_TRIALS = "trials.json"


@dataclass(frozen=True)
class PriorTrial:
    """What an earlier run found of a configuration, in terms of the present search.

    Attributes:
        trial: `RUN/0003`.
        params: its settings that are searched here.
        state: completed, pruned or failed.
        values: of the objectives, of a completed one.
        reports: epoch -> value, of its first trial.
        limits: each limit of the present search, and whether it breaks it.
    """

    trial: str
    params: Mapping[str, Value]
    state: str
    values: tuple[float, ...] | None
    reports: Mapping[int, float]
    limits: Mapping[str, bool]


@dataclass(frozen=True)
class Answer:
    """A completed trial of an earlier run, which answers for the same experiment.

    Attributes:
        trial: `RUN/0003`.
        reports: one an epoch.
        folder: where its experiment and its best checkpoint are.
    """

    trial: str
    reports: tuple[ReportRecord, ...]
    folder: Path

    def give(self, folder: Path) -> None:
        """Puts experiment and checkpoint where those of a trial of this run are."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in (EXPERIMENT_YAML, BEST):
            _copy(self.folder / name, folder / name)


@dataclass(frozen=True)
class Prior:
    """What is known from earlier runs.

    Attributes:
        trials: for the sampler.
        answers: by the signature of their experiment.
        notes: what was taken and what was not, for the user.
    """

    trials: tuple[PriorTrial, ...] = ()
    answers: Mapping[str, Answer] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def write(self, run: Path) -> None:
        """Copies all of it into a run that is being made."""
        if not self.trials and not self.answers:
            return
        answers = []
        for number, (signature, answer) in enumerate(self.answers.items()):
            answer.give(run / PRIOR / str(number))
            reports = [dataclasses.asdict(report) for report in answer.reports]
            answers.append({"signature": signature, "trial": answer.trial, "reports": reports})
        trials = [dataclasses.asdict(trial) for trial in self.trials]
        write_atomic(run / PRIOR / _TRIALS, json.dumps({"trials": trials, "answers": answers}))

    @staticmethod
    def load(run: Path) -> Prior:
        """What `write` has written; nothing where it has not."""
        path = run / PRIOR / _TRIALS
        if not path.exists():
            return Prior()
        try:
            found = json.loads(path.read_bytes())
            trials = [
                PriorTrial(
                    **{
                        **each,
                        "params": {key: _value(value) for key, value in each["params"].items()},
                        "values": None if each["values"] is None else tuple(each["values"]),
                        "reports": {int(epoch): v for epoch, v in each["reports"].items()},
                    }
                )
                for each in found["trials"]
            ]
            answers = {
                each["signature"]: Answer(
                    each["trial"],
                    tuple(ReportRecord(**report) for report in each["reports"]),
                    run / PRIOR / str(number),
                )
                for number, each in enumerate(found["answers"])
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{str(path)!r} is damaged; this run cannot go on") from error
        return Prior(tuple(trials), answers)


def read(search: Search, space: Space, goal: Goal, fingerprint: str, epochs: int) -> Prior:
    """What `search.prior` names.

    Args:
        search: its prior, sampler and reuse.
        space: what is searched.
        goal: of the search.
        fingerprint: of its dataset.
        epochs: of a trial.

    Raises:
        ConfigError: the sampler cannot use it, or a run has another goal.
        RunError: a run cannot be read.
    """
    if not search.prior:
        return Prior()
    if search.sampler not in LEARNING:
        raise ConfigError(
            f"search.prior: search.sampler={search.sampler} does not learn from trials that it has "
            f"not drawn; take search.sampler={' or '.join(LEARNING)}, or begin with the best of "
            "that run: search.points=[RUN]"
        )
    if search.sampler == "cmaes" and search.cmaes.sigma is not None:
        raise ConfigError(
            f"search.cmaes.sigma={search.cmaes.sigma}: with search.prior the first step comes from "
            "the earlier trials; leave one of them out"
        )
    trials: list[PriorTrial] = []
    answers: dict[str, Answer] = {}
    notes: list[str] = []
    for name in dict.fromkeys(run.rstrip("/") for run in search.prior):
        run = _Run(name)
        notes.append(run.into(space, goal, trials))
        if run.fingerprint != fingerprint:
            notes.append(
                f"search.prior={name} was on another dataset than this search: its values may "
                "mislead the sampler"
            )
        elif search.reuse:
            for signature, answer in run.answers():
                answers.setdefault(signature, answer)
        if run.history.epochs not in (None, epochs):
            notes.append(
                f"search.prior={name}: its trials had {run.history.epochs} epochs, these have "
                f"{epochs}"
            )
    completed = sum(trial.state == COMPLETED for trial in trials)
    if search.sampler == "cmaes" and completed < WARM:
        notes.append(
            f"search.prior: {completed} completed trials are too few for search.sampler=cmaes to "
            f"begin from, which takes {WARM}; it begins as without them"
        )
    return Prior(tuple(trials), answers, tuple(notes))


class _Run:
    """An earlier run."""

    def __init__(self, name: str) -> None:
        self.name = name
        wanted = (RECORDS, SEARCH_YAML, DATASET_JSON)
        try:
            self.folder = find_run(
                name, lambda file: file in wanted or file.endswith((BEST, EXPERIMENT_YAML))
            )
            self.history: History = read_history(self.folder)
            self.fingerprint = Manifest.read(str(self.folder)).fingerprint
            recorded = yaml.safe_load((self.folder / SEARCH_YAML).read_text())
            self._overrides = [str(each) for each in recorded["overrides"]]
        except (RunError, DataError) as error:
            raise RunError(f"search.prior={name}: {error}") from error
        except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
            raise RunError(f"search.prior={name}: {SEARCH_YAML} is missing or damaged") from error

    def into(self, space: Space, goal: Goal, trials: list[PriorTrial]) -> str:
        """Adds what the sampler can learn to `trials`; a sentence on what that is."""
        theirs, ours = (list(each.objectives.items()) for each in (self.history.goal, goal))
        if theirs != ours:
            raise ConfigError(
                f"search.prior={self.name} optimised {_named(theirs)}, this search "
                f"{_named(ours)}: its values mean something else; leave it out"
            )
        ended = [
            each
            for each in self.history.configurations.values()
            if each.state in ENDED and not each.trials[0].donors
        ]
        keys = {param.key for param in space.params}
        outside: Counter[str] = Counter()
        taken, broken = 0, 0
        unknown: dict[str, None] = {}
        for configuration in ended:
            params = configuration.trials[0].params
            drawn, key = self._drawn(params, space)
            if key is not None:
                outside[key] += 1
            elif not space.allows(drawn):
                broken += 1
            else:
                taken += 1
                unknown |= dict.fromkeys(key for key in params if key not in keys)
                trials.append(self._trial(configuration, drawn, goal))
        parts = [f"the sampler knows {taken} of its {len(ended)} ended trials"]
        if outside:
            places = ", ".join(f"{key} ({count})" for key, count in outside.items())
            parts.append(f"{outside.total()} are outside this space: {places}")
        if broken:
            parts.append(f"{broken} break its constraints")
        if unknown:
            parts.append(f"not searched here, and left aside: {', '.join(unknown)}")
        return f"search.prior={self.name}: {'; '.join(parts)}"

    def _drawn(
        self, params: Mapping[str, Any], space: Space
    ) -> tuple[dict[str, Value], str | None]:
        """A trial's settings as the present space would have drawn them; else a key that it could
        not have drawn so."""
        fixed: Mapping[str, Any] | None = None
        drawn: dict[str, Value] = {}
        for param in space.params:
            if not space.active(param, drawn):
                continue
            if param.key in params:
                given = params[param.key]
            else:
                fixed = fixed or compose.composed(self._overrides, params)[0]
                given = value_in(fixed, param.key, self._overrides)
            try:
                drawn[param.key] = within(param, given)
            except ConfigError:
                return drawn, param.key
        return drawn, None

    def _trial(
        self, configuration: Configuration, drawn: Mapping[str, Value], goal: Goal
    ) -> PriorTrial:
        metric, measures = self.history.metric, self.history.measures(configuration)
        values, state = goal.values(measures), configuration.state
        if state == COMPLETED and (values is None or not all(map(math.isfinite, values))):
            state = FAILED
        reports = configuration.trials[0].reports
        broken = goal.broken(measures)
        return PriorTrial(
            trial=f"{self.name}/{configuration.id}",
            params=drawn,
            state=state,
            values=values if state == COMPLETED else None,
            reports={
                each.epoch: each.metrics[metric] for each in reports if metric in each.metrics
            },
            limits={limit: limit in broken for limit in goal.limits},
        )

    def answers(self) -> Iterable[tuple[str, Answer]]:
        """(signature, answer) of each trial that is completed and has its checkpoint."""
        for trial in self.history.trials.values():
            folder = trial_folder(self.folder, trial.id)
            known = all((folder / name).is_file() for name in (BEST, EXPERIMENT_YAML))
            if trial.state == COMPLETED and trial.signature and not trial.changed and known:
                answer = Answer(f"{self.name}/{trial.id}", tuple(trial.reports), folder)
                yield trial.signature, answer


def _named(objectives: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{metric} ({mode})" for metric, mode in objectives)


def _value(recorded: Any) -> Value:
    """A value as it was before JSON, which knows no tuples."""
    return tuple(recorded) if isinstance(recorded, list) else recorded


def _copy(source: Path, target: Path) -> None:
    """A link to a file, which is replaced and never changed; a copy on another disk."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
