"""Which trials of a run become a bundle, and with which weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raudio import checkpoint, records
from raudio.config.schema import Experiment
from raudio.config.validate import load_yaml, to_mapping
from raudio.core.errors import ConfigError, RunError, closest, unknown
from raudio.export.bundle import heard
from raudio.records import History, TrialHistory

#: What `--weights` takes: of the best epoch, of the last, or the mean of several trials' best.
BEST, LAST, AVERAGED = "best", "last", "averaged"
WEIGHTS = (BEST, LAST, AVERAGED)


@dataclass(frozen=True)
class Trained:
    """A trial to be exported.

    Attributes:
        trial: what the records say of it.
        experiment: as the run has it: with its plugins, and the whole paths of its data.
        weights: the system's tensors by name.
        epoch: whose weights they are.
        metrics: of that epoch.
        details: of the task, where they were kept.
        labels: in the order of the scores.
        dataset: its fingerprint.
    """

    trial: TrialHistory
    experiment: Experiment
    weights: dict[str, Tensor]
    epoch: int
    metrics: dict[str, float]
    details: dict[str, Any]
    labels: list[str]
    dataset: str


def choose(
    run: Path, name: str, history: History, trial: str | None, top: int | None, weights: str
) -> list[Trained]:
    """The trials that were asked for, the best first.

    Args:
        run: the run folder.
        name: of the run, as it was given.
        history: of the run.
        trial: id of a trial ("0007" or "7"); None: the best that still has its checkpoint.
        top: the best so many, instead of one.
        weights: one of `WEIGHTS`.

    Raises:
        ConfigError: wishes that exclude each other.
        RunError: no such trials, or no checkpoints of them.
    """
    if weights not in WEIGHTS:
        raise ConfigError(f"--weights: {unknown('choice', weights, WEIGHTS)}")
    if trial is not None and top is not None:
        raise ConfigError(f"--trial {trial} and --top {top} exclude each other; leave one out")
    if top is not None and top < 2:
        raise ConfigError(f"--top {top}: several trials are at least 2; leave it out for the best")
    if weights == AVERAGED and top is None:
        raise ConfigError(
            "--weights averaged is the mean of several trials' weights (none is taken over a "
            "trial's own epochs); give --top K, or take --weights best"
        )
    file = records.LAST if weights == LAST else records.BEST
    having = [
        each
        for each in history.ranked()
        if each.state != records.FAILED and (records.trial_folder(run, each.id) / file).is_file()
    ]
    if trial is not None:
        return [_read(run, _named(run, name, history, trial, file, having), file)]
    if not having:
        raise RunError(f"run {name!r} has nothing to export: {_why_none(history, file)}")
    count = top or 1
    if len(having) < count:
        raise RunError(
            f"--top {count}: {len(having)} trials of run {name!r} have a checkpoint "
            f"({', '.join(each.id for each in having)}); a search keeps those of its best "
            "search.keep configurations"
        )
    chosen = [_read(run, each, file) for each in having[:count]]
    if top is not None:
        _check_together(chosen)
    return chosen


def averaged(chosen: Sequence[Trained]) -> Trained:
    """One trained system of several trials: the mean of their weights, the rest of the first.

    Its metrics are empty: nobody has measured it.

    Raises:
        RunError: their architectures differ.
    """
    first = chosen[0]
    for other in chosen[1:]:
        names = [
            f"{section}.{key}"
            for section in ("features", "model", "task")
            for key, value in to_mapping(getattr(first.experiment, section)).items()
            if to_mapping(getattr(other.experiment, section)).get(key, value) != value
        ]
        shapes = [{name: w.shape for name, w in each.weights.items()} for each in (first, other)]
        if names or shapes[0] != shapes[1]:
            raise RunError(
                f"--weights averaged: trials {first.trial.id} and {other.trial.id} have different "
                f"architectures ({', '.join(names) or 'their tensors differ'}), and weights of "
                "different architectures have no mean; leave it out for an ensemble, whose scores "
                "are averaged"
            )
    weights = {
        name: torch.stack([each.weights[name].double() for each in chosen]).mean(0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in first.weights.items()
    }
    return replace(first, weights=weights, metrics={}, details={})


def _check_together(chosen: Sequence[Trained]) -> None:
    """Refuses trials whose scores can't be averaged."""
    first = chosen[0]
    for other in chosen[1:]:
        own, others = heard(first.experiment), heard(other.experiment)
        differing = [name for name in own if own[name] != others[name]]
        if other.labels != first.labels:
            differing.append("labels")
        if differing:
            name = differing[0]
            values = f" ({own[name]} and {others[name]})" if name in own else ""
            raise RunError(
                f"--top: trials {first.trial.id} and {other.trial.id} differ in {name}{values}: "
                "their scores can't be averaged; export them one by one with --trial"
            )


def _named(
    run: Path,
    name: str,
    history: History,
    trial: str,
    file: str,
    having: Sequence[TrialHistory],
) -> TrialHistory:
    wanted = records.trial_id(int(trial)) if trial.isdecimal() else trial
    if wanted not in history.trials:
        raise RunError(
            f"run {name!r} has no trial {trial!r}{closest(wanted, history.trials)}; "
            f"see raudio status {name}"
        )
    if not (records.trial_folder(run, wanted) / file).is_file():
        why = (
            "its last one went when the trial ended: take --weights best"
            if file == records.LAST
            else "it finished no epoch, or was not among the best (search.keep)"
        )
        kept = ", ".join(other.id for other in having) or "none"
        raise RunError(
            f"trial {wanted!r} of run {name!r} has no checkpoint: {why}; trials with one: {kept}"
        )
    return history.trials[wanted]


def _why_none(history: History, file: str) -> str:
    failed = [trial for trial in history.trials.values() if trial.state == records.FAILED]
    if failed and len(failed) == len(history.trials):
        return f"all {len(failed)} trials failed ({failed[0].kind}: {failed[0].reason})"
    if file == records.LAST:
        return "the last weights of a trial go when it ends; take --weights best"
    if any(trial.reports for trial in history.trials.values()):
        return f"none of its trials has its {file} any more, which a search keeps of its best"
    return f"none of its {len(history.trials)} trials has finished an epoch; see raudio status"


def _read(run: Path, trial: TrialHistory, file: str) -> Trained:
    folder = records.trial_folder(run, trial.id)
    place = folder / records.EXPERIMENT_YAML
    try:
        text = place.read_text()
    except OSError as error:
        raise RunError(f"cannot read {str(place)!r}: {error.strerror}") from error
    state = checkpoint.load(folder / file)
    metrics = state["metrics"] if file == records.BEST else state["report"]["metrics"]
    return Trained(
        trial=trial,
        experiment=load_yaml(text, Experiment, where=str(place), plugins=True),
        weights=state["model"],
        epoch=state["epoch"],
        metrics=dict(metrics),
        details=dict(state.get("details", {})),
        labels=list(state["labels"]),
        dataset=state["dataset"],
    )
