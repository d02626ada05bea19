"""From a run to a bundle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import safetensors.torch

from raudio import checkpoint, records
from raudio.config.augment import Augment
from raudio.config.chain import PATHS
from raudio.config.schema import Experiment
from raudio.config.validate import load_yaml, to_mapping
from raudio.core.copies import local_run
from raudio.core.errors import RunError, closest
from raudio.core.storage import is_remote
from raudio.export.bundle import (
    CARD,
    CHECKSUMS,
    EXPERIMENT,
    FORMAT_VERSION,
    LABELS,
    METRICS,
    WEIGHTS,
    read_bundle,
)
from raudio.records import History, TrialHistory


def export(
    run: str | os.PathLike[str], out: str | os.PathLike[str], trial: str | None = None
) -> Path:
    """Writes the bundle of a run's best trial, or of the named one.

    The bundle appears under its name when it is complete and has been opened once.

    Args:
        run: run folder of a search or a training.
        out: the bundle's folder, which must not exist.
        trial: id of a trial ("0007" or "7"); None: the best one that still has its checkpoint.

    Returns:
        The bundle's folder.

    Raises:
        RunError: not a run, no such trial, no checkpoint to export, or `out` exists.
    """
    if is_remote(out):
        raise RunError(f"--out {os.fspath(out)!r} is a URI; give a local folder, and copy it then")
    target = Path(out)
    if os.path.lexists(target):
        raise RunError(f"{str(target)!r} exists already; remove it, or give another --out")
    folder = records.check_run(local_run(run, lambda file: not file.endswith(records.LAST)))
    history = records.read_history(folder)
    chosen, best = (
        best_checkpoint(folder, history)
        if trial is None
        else _named_checkpoint(folder, history, trial)
    )
    content = _content(folder, history, chosen, checkpoint.load(best))

    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        for name, data in content.items():
            (temporary / name).write_bytes(data)
        read_bundle(temporary).system()
        temporary.chmod(0o755)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def best_checkpoint(run: Path, history: History) -> tuple[TrialHistory, Path]:
    """The best trial that has not failed and still has its best checkpoint, and that file.

    Raises:
        RunError: there is none.
    """
    for trial in history.ranked():
        path = records.trial_folder(run, trial.id) / records.BEST
        if trial.state != records.FAILED and path.is_file():
            return trial, path
    failed = [trial for trial in history.trials.values() if trial.state == records.FAILED]
    if failed and len(failed) == len(history.trials):
        why = f"all {len(failed)} trials failed ({failed[0].kind}: {failed[0].reason})"
    else:
        why = f"none of its {len(history.trials)} trials has finished an epoch"
    raise RunError(f"run {str(run)!r} has nothing to export: {why}; see raudio status {run}")


def _named_checkpoint(run: Path, history: History, trial: str) -> tuple[TrialHistory, Path]:
    name = records.trial_id(int(trial)) if trial.isdecimal() else trial
    if name not in history.trials:
        raise RunError(
            f"run {str(run)!r} has no trial {trial!r}{closest(name, history.trials)}; "
            f"see raudio status {run}"
        )
    path = records.trial_folder(run, name) / records.BEST
    if not path.is_file():
        kept = [
            other.id
            for other in history.ranked()
            if (records.trial_folder(run, other.id) / records.BEST).is_file()
        ]
        raise RunError(
            f"trial {name!r} of run {str(run)!r} has no checkpoint: it finished no epoch, or was "
            f"not among the best (search.keep); trials with one: {', '.join(kept) or 'none'}"
        )
    return history.trials[name], path


def _content(
    run: Path, history: History, trial: TrialHistory, state: Mapping[str, Any]
) -> dict[str, bytes]:
    """Every file of the bundle; the same trial gives the same bytes."""
    from raudio.export.card import model_card

    place = records.trial_folder(run, trial.id) / records.EXPERIMENT_YAML
    try:
        text = place.read_text()
    except OSError as error:
        raise RunError(f"cannot read {str(place)!r}: {error.strerror}") from error
    experiment = load_yaml(text, Experiment, where=str(place), plugins=True)
    plugins = [Path(plugin).name for plugin in experiment.plugins]
    # A bundle is handed on: where the data lay on this machine is nobody's business.
    data = experiment.dataset
    where = _name_of(data.path) if isinstance(data.path, str) else tuple(map(_name_of, data.path))
    experiment = replace(
        experiment,
        plugins=(),
        dataset=replace(data, path=where, labels=None),
        augment=_without_folders(experiment.augment),
    )
    metrics = {
        "trial": trial.id,
        "metric": history.metric,
        "mode": history.mode,
        "value": state["metrics"].get(history.metric),
        "epoch": state["epoch"],
        "metrics": dict(state["metrics"]),
        "details": dict(state.get("details", {})),
        "dataset": state["dataset"],
        "plugins": plugins,
        "raudio": history.version,
    }
    labels = list(state["labels"])
    tensors = {name: tensor.contiguous().clone() for name, tensor in state["model"].items()}
    content = {
        WEIGHTS: safetensors.torch.save(tensors, metadata={"format": "pt"}),
        EXPERIMENT: _json(to_mapping(experiment)),
        LABELS: _json(labels),
        METRICS: _json(metrics),
        CARD: model_card(
            experiment,
            labels,
            metrics,
            manifest=_manifest(run),
            parameters=sum(tensor.numel() for tensor in tensors.values()),
        ).encode(),
    }
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    content[CHECKSUMS] = _json({"format_version": FORMAT_VERSION, "files": sums})
    return content


def _manifest(run: Path) -> dict[str, Any] | None:
    """The run's copy of its dataset's manifest; None where the run has none."""
    path = run / records.DATASET_JSON
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{str(path)!r} is damaged: {error}") from error
    return manifest if isinstance(manifest, dict) else None


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _without_folders(augment: Augment) -> Augment:
    """The same augmentations; of a local source (of noises, ...) the name alone."""
    found = {field.name: getattr(augment, field.name) for field in fields(augment)}
    return replace(
        augment,
        **{
            name: replace(settings, source=_name_of(settings.source))
            for name, settings in found.items()
            if getattr(settings, "source", None)
        },
        chain=_steps_without_folders(augment.chain),
    )


def _steps_without_folders(steps: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: dict(step) for name, step in steps.items()}
    for step in found.values():
        step |= {name: _name_of(step[name]) for name in PATHS if step.get(name)}
        if "of" in step:
            step["of"] = _steps_without_folders(step["of"])
    return found


def _name_of(path: str) -> str:
    return path if is_remote(path) else Path(path).name
