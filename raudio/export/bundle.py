"""The bundle: a trained model as a folder of plain data, to be used, handed on and published.

| file | holds |
| --- | --- |
| weights.safetensors | every tensor of the system: front end, model, task |
| experiment.json | the resolved experiment, as `raudio.config.validate.to_mapping` writes it |
| labels.json | the labels, in the order of the scores |
| metrics.json | the trial, its epoch, and what was measured on which dataset |
| README.md | the model card |
| checksums.json | the format's version, and the SHA-256 of every other file |

Opening a bundle runs no code from it: nothing is unpickled, nothing imported by a name from its
text, no link followed, and a file that doesn't belong there, or isn't what was written, is refused.
The checksums tell damage, not malice: who can change a file can change its checksum too.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
from safetensors import SafetensorError

from raudio import checkpoint, records
from raudio.config.augment import Augment
from raudio.config.chain import PATHS
from raudio.config.schema import Experiment
from raudio.config.validate import experiment_from, load_yaml, to_mapping
from raudio.core.copies import local_run
from raudio.core.errors import ConfigError, DataError, RunError, closest
from raudio.core.storage import is_remote
from raudio.records import History, TrialHistory

if TYPE_CHECKING:
    from torch import Tensor

    from raudio.system import System

FORMAT_VERSION = 1
WEIGHTS = "weights.safetensors"
EXPERIMENT = "experiment.json"
LABELS = "labels.json"
METRICS = "metrics.json"
CARD = "README.md"
CHECKSUMS = "checksums.json"
FILES = (WEIGHTS, EXPERIMENT, LABELS, METRICS, CARD, CHECKSUMS)


@dataclass(frozen=True)
class Bundle:
    """A bundle's content, checked.

    Attributes:
        path: its folder.
        experiment: resolved, without plugins; of a local dataset's path the name alone.
        labels: in the order of the scores.
        metrics: what `metrics.json` holds: trial, metric, mode, value, epoch, metrics, dataset, and
            details (of a classification: confusion matrix and most wrong clips of the valid split).
        weights: the system's tensors by name.
    """

    path: str
    experiment: Experiment
    labels: tuple[str, ...]
    metrics: dict[str, Any]
    weights: dict[str, Tensor]

    def system(self) -> System:
        """The system with these weights, on the CPU, in evaluation mode.

        Raises:
            RunError: the weights or labels don't fit the experiment.
        """
        from raudio.system import build_system

        try:
            system = build_system(self.experiment, labels=self.labels)
            system.load_state_dict(self.weights, strict=True)
        except (ConfigError, DataError, RuntimeError) as error:
            raise RunError(
                f"bundle {self.path!r}: {WEIGHTS} and {EXPERIMENT} don't fit each other: "
                f"{_one_line(error)}; export it again"
            ) from error
        return system.eval()


# --- writing -----------------------------------------------------------------------------------


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


# --- reading -----------------------------------------------------------------------------------


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


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Reads a bundle, having checked that all of it is there, is unchanged, and nothing else.

    Raises:
        RunError: it is none, or incomplete, damaged, foreign, of another format, or it needs a
            component that is not registered; one sentence.
    """
    text = os.fspath(path)
    sums = _checksums(text)
    content = {}
    for name, expected in sums.items():
        content[name] = (Path(text) / name).read_bytes()
        if hashlib.sha256(content[name]).hexdigest() != expected:
            raise RunError(
                f"bundle {text!r} is damaged: {name} is not what was exported "
                f"(its SHA-256 is another than {CHECKSUMS} says); copy or export it again"
            )
    labels = _labels(text, content[LABELS])
    metrics = _parsed(text, METRICS, content[METRICS])
    if not isinstance(metrics, dict):
        raise RunError(f"bundle {text!r}: {METRICS} holds no table; export it again")
    experiment = _experiment(text, content[EXPERIMENT], metrics.get("plugins"))
    return Bundle(text, experiment, labels, metrics, _weights(text, content[WEIGHTS]))


def _checksums(path: str) -> dict[str, str]:
    """The SHA-256 of each file, when exactly a bundle's files are there."""
    folder = Path(path)
    if is_remote(path):
        raise RunError(f"bundle {path!r} is a URI; copy it to a local folder first")
    if not folder.is_dir():
        near = closest(path, (str(p.parent) for p in folder.parent.glob(f"*/{CHECKSUMS}")))
        raise RunError(f"no bundle at {path!r}{near}; `raudio export RUN --out BUNDLE` makes one")
    if (folder / records.RECORDS).is_file():
        inside = [str(sums.parent) for sums in sorted(folder.glob(f"*/{CHECKSUMS}"))]
        cure = (
            f"its bundle is {inside[0]!r}"
            if inside
            else f"make one of its best trial with `raudio export {path} --out BUNDLE`"
        )
        raise RunError(f"{path!r} is a run, not a bundle: {cure}")
    with os.scandir(folder) as entries:
        found = {entry.name: entry.is_file(follow_symlinks=False) for entry in entries}
    if CHECKSUMS not in found:
        raise RunError(f"{path!r} is not a bundle: it has no {CHECKSUMS}")
    for name, regular in sorted(found.items()):
        if name not in FILES:
            raise RunError(f"bundle {path!r} holds a foreign file, {name!r}: remove it")
        if not regular:
            raise RunError(f"bundle {path!r}: {name} is a link or a folder, not a file; copy it")
    table = _parsed(path, CHECKSUMS, (folder / CHECKSUMS).read_bytes())
    version = table.get("format_version") if isinstance(table, dict) else None
    if version != FORMAT_VERSION:
        raise RunError(
            f"bundle {path!r} has format {version!r}, and this raudio reads format "
            f"{FORMAT_VERSION}: use the raudio that wrote it, or export it again"
        )
    sums = table.get("files")
    listed = set(sums) if isinstance(sums, dict) else set()
    expected = set(FILES) - {CHECKSUMS}
    if listed != expected:
        odd = ", ".join(sorted(repr(name) for name in listed ^ expected))
        raise RunError(
            f"bundle {path!r}: {CHECKSUMS} lists other files than a bundle's ({odd}); "
            "export it again"
        )
    for name in sorted(expected - set(found)):
        raise RunError(f"bundle {path!r} is incomplete: {name} is missing; copy or export it again")
    return {name: sums[name] for name in FILES if name in expected}


def _parsed(path: str, name: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RunError(
            f"bundle {path!r}: {name} is not JSON ({_one_line(error)}); export it again"
        ) from error


def _labels(path: str, content: bytes) -> tuple[str, ...]:
    labels = _parsed(path, LABELS, content)
    if (
        not isinstance(labels, list)
        or not all(isinstance(label, str) for label in labels)
        or len(set(labels)) != len(labels)
    ):
        raise RunError(f"bundle {path!r}: {LABELS} is no list of different texts; export it again")
    return tuple(labels)


def _experiment(path: str, content: bytes, plugins: Any) -> Experiment:
    mapping = _parsed(path, EXPERIMENT, content)
    if not isinstance(mapping, dict):
        raise RunError(f"bundle {path!r}: {EXPERIMENT} holds no settings; export it again")
    if mapping.get("plugins"):
        raise RunError(
            f"bundle {path!r}: {EXPERIMENT} names plugins, {mapping['plugins']!r}, and opening a "
            "bundle runs no code: export it again"
        )
    try:
        experiment = experiment_from(mapping, plugins=False)
    except (ConfigError, TypeError, AttributeError) as error:
        cure = (
            f"it was trained with {', '.join(map(str, plugins))}: register its components first"
            if isinstance(plugins, list) and plugins
            else "it was written by another version of raudio, or changed"
        )
        raise RunError(f"bundle {path!r}: {EXPERIMENT}: {_one_line(error)}; {cure}") from error
    for name in ("sample_rate", "clip_seconds"):
        if getattr(experiment.dataset, name) is None:
            raise RunError(f"bundle {path!r}: {EXPERIMENT} has no dataset.{name}; export it again")
    return experiment


def _weights(path: str, content: bytes) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = safetensors.torch.load(content)
    except (SafetensorError, KeyError, ValueError) as error:
        # A pickle starts with its protocol's opcode, PyTorch's files with that of a zip archive.
        pickled = content[:1] == b"\x80" or content[:2] == b"PK"
        what = "is a pickle, which could run code" if pickled else f"cannot be read ({error})"
        raise RunError(
            f"bundle {path!r}: {WEIGHTS} {what}; only safetensors are opened, export it again"
        ) from error
    return weights


def _one_line(error: BaseException) -> str:
    """An error's message on one line."""
    parts = [line.strip().removeprefix("- ") for line in str(error).splitlines()]
    return "; ".join(part for part in parts if part) or type(error).__name__
