"""From a run to a bundle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import safetensors.torch

from raudio import records
from raudio.config.augment import Augment
from raudio.config.chain import PATHS
from raudio.config.schema import Experiment
from raudio.config.validate import to_mapping
from raudio.core.errors import ConfigError, DataError, RunError, unknown
from raudio.core.storage import is_remote
from raudio.data.build import window_frames
from raudio.export import choose
from raudio.export.bundle import (
    CARD,
    CHECKSUMS,
    FORMAT_VERSION,
    FORMATS,
    LABELS,
    METRICS,
    Bundle,
    member_files,
    read_bundle,
)
from raudio.export.choose import Trained
from raudio.export.measure import ValidSplit
from raudio.export.parity import TOLERANCE, Probe, check
from raudio.export.precision import PRECISIONS, compact
from raudio.export.systems import Ensemble, WaveSystem
from raudio.records import History
from raudio.system import System, build_system

SAFETENSORS = "safetensors"


def export(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    trial: str | None = None,
    *,
    top: int | None = None,
    weights: str = choose.BEST,
    formats: Sequence[str] = (SAFETENSORS,),
    precision: str = "fp32",
    echo: Callable[[str], None] = lambda line: None,
) -> Path:
    """Writes the bundle of a run's best trial, of the named one, or of several.

    The bundle appears under its name when it is complete and has been opened once.

    Args:
        run: run folder of a search or a training.
        out: the bundle's folder, which must not exist.
        trial: id of a trial ("0007" or "7"); None: the best one that still has its checkpoint.
        top: the best so many trials: an ensemble, or with `weights="averaged"` their mean.
        weights: "best" of each trial's epochs, "last", or "averaged".
        formats: of `FORMATS`; safetensors are always in it.
        precision: that the weights are stored in: "fp32", "fp16" or "int8".
        echo: told what is done, line by line.

    Returns:
        The bundle's folder.

    Raises:
        ConfigError: wishes that make no sense, or a library that is missing.
        RunError: not a run, no such trial, no checkpoint to export, `out` exists, or a graph that
            can't be made or is not the system's.
    """
    _check_wishes(formats, precision)
    if is_remote(out):
        raise RunError(f"--out {os.fspath(out)!r} is a URI; give a local folder, and push it then")
    target = Path(out)
    if os.path.lexists(target):
        raise RunError(f"{str(target)!r} exists already; remove it, or give another --out")
    folder = records.find_run(run, _wanted(weights))
    history = records.read_history(folder)
    chosen = choose.choose(folder, os.fspath(run), history, trial, top, weights)
    plan = _Plan(folder, history, chosen, weights, precision)

    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        _write(temporary, plan, sorted(set(formats) - {SAFETENSORS}), echo)
        read_bundle(temporary).system()
        temporary.chmod(0o755)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _check_wishes(formats: Sequence[str], precision: str) -> None:
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(f"--format: {unknown('format', name, FORMATS)}")
    if precision not in PRECISIONS:
        raise ConfigError(f"--precision: {unknown('precision', precision, PRECISIONS)}")


def _wanted(weights: str) -> Callable[[str], bool]:
    """Which files of a run in a store are needed: its checkpoints are large."""
    unneeded = records.BEST if weights == choose.LAST else records.LAST
    return lambda file: not file.endswith((unneeded, records.DONOR))


# --- content -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """What is to be written.

    Attributes:
        run: the run folder.
        history: of the run.
        chosen: the trials.
        weights: which weights of theirs.
        precision: that they are stored in.
    """

    run: Path
    history: History
    chosen: list[Trained]
    weights: str
    precision: str

    @property
    def members(self) -> list[Trained]:
        """The systems of the bundle."""
        return [choose.averaged(self.chosen)] if self.weights == choose.AVERAGED else self.chosen


def _write(folder: Path, plan: _Plan, graphs: list[str], echo: Callable[[str], None]) -> None:
    """Every file of the bundle; where nothing has to be measured, the same trial gives the same
    bytes."""
    members = plan.members
    published = [_published(member.experiment) for member in members]
    labels = members[0].labels
    metrics = _metrics(plan)
    content = {LABELS: _json(labels)}
    for number, member in enumerate(members):
        weights, experiment = member_files(number)
        stored = compact(member.weights, plan.precision)
        content[weights] = safetensors.torch.save(stored, metadata={"format": "pt"})
        content[experiment] = _json(to_mapping(published[number]))
    for name, data in content.items():
        (folder / name).write_bytes(data)

    new = len(plan.chosen) > 1 or plan.precision != "fp32"
    split = _split(plan, echo) if new or graphs else ""
    _seal(folder, plan, published, labels, metrics)
    if new:
        measured = _as_read(folder)
        if isinstance(split, ValidSplit):
            metrics["metrics"], metrics["details"] = split.measure(measured)
            metrics["value"] = metrics["metrics"].get(metrics["metric"])
            metrics["measured"] = f"at export, on {len(split.clips)} clips"
        elif plan.precision != "fp32" and len(plan.chosen) == 1:
            metrics["measured"] = f"before the weights became {plan.precision}; after: {split}"
        else:
            metrics["measured"] = f"not measured: {split}"
    if graphs or plan.precision != "fp32":
        clips = split if isinstance(split, ValidSplit) else None
        probe = Probe(members[0].experiment, clips)
        for name in graphs:
            echo(f"making the graph for {name}")
            metrics["formats"][name] = _add_graph(folder, plan, name, probe)
            _seal(folder, plan, published, labels, metrics)
        if plan.precision != "fp32":
            metrics["precision"]["costs"] = _compared(folder, plan, probe, clips)
    _seal(folder, plan, published, labels, metrics)


def _split(plan: _Plan, echo: Callable[[str], None]) -> ValidSplit | str:
    """The valid split that all trials were measured on, or why there is none."""
    first = plan.chosen[0]
    if any(each.dataset != first.dataset for each in plan.chosen):
        return "its trials were measured on different splits"
    try:
        return ValidSplit(first.experiment, first.dataset, echo)
    except DataError as error:
        return str(error)


def _as_read(folder: Path, format: str | None = None) -> System | WaveSystem:
    return read_bundle(folder).system(format)


def _systems(bundle: Bundle) -> list[System]:
    """The members of a bundle, made anew."""
    system = bundle.system()
    assert isinstance(system, System | Ensemble)
    return system.members if isinstance(system, Ensemble) else [system]


def _add_graph(folder: Path, plan: _Plan, name: str, probe: Probe) -> dict[str, Any]:
    """Writes a graph into the bundle; returns what is told of it."""
    from raudio.export import graphs

    bundle = read_bundle(folder)
    samples = window_frames(bundle.experiment)
    make = graphs.to_onnx if name == "onnx" else graphs.to_exported
    in_integers = name == "onnx" and plan.precision == "int8"
    # Integers are made of the weights as they were trained.
    exact = _trained(plan) if in_integers else _systems(bundle)
    reference = Ensemble(_trained(plan)) if in_integers else bundle.system()
    content = make(exact, "fp32" if in_integers else plan.precision, samples)

    def opened() -> WaveSystem | System:
        (folder / FORMATS[name]).write_bytes(content)
        sums = {**bundle.sums, FORMATS[name]: hashlib.sha256(content).hexdigest()}
        return replace(bundle, sums=sums).system(name)

    found = probe.compare(reference, opened())
    check(name, found)
    if in_integers:  # what integers change is no error of the graph
        content = graphs.quantised(content)
        found["integers"] = probe.compare(reference, opened())
    return {"inputs": ["waves", "lengths"], "samples": samples, "tolerance": TOLERANCE, **found}


def _trained(plan: _Plan) -> list[System]:
    """The systems with the weights of the checkpoints."""
    found = []
    for member in plan.members:
        system = build_system(member.experiment, labels=member.labels)
        system.load_state_dict(member.weights)
        found.append(system.eval())
    return found


def _compared(
    folder: Path, plan: _Plan, probe: Probe, split: ValidSplit | None
) -> list[dict[str, Any]]:
    """What a smaller precision saves and costs: of the weights as they were trained, and of each of
    the bundle's formats, bytes, seconds a window, and metrics."""
    before = _trained(plan)
    size = sum(tensor.nbytes for system in before for tensor in system.state_dict().values())
    rows: list[tuple[str, str, int, System | WaveSystem]] = [
        (SAFETENSORS, "fp32", size, before[0] if len(before) == 1 else Ensemble(before))
    ]
    bundle = read_bundle(folder)
    for name in bundle.formats:
        files = [FORMATS[name]]
        if name == SAFETENSORS:
            files = [member_files(number)[0] for number in range(len(bundle.members))]
        size = sum((folder / file).stat().st_size for file in files)
        rows.append((name, plan.precision, size, bundle.system(name)))
    return [
        {
            "format": name,
            "precision": precision,
            "bytes": size,
            "seconds": probe.seconds(system),
            "metrics": {} if split is None else split.measure(system)[0],
        }
        for name, precision, size, system in rows
    ]


def _metrics(plan: _Plan) -> dict[str, Any]:
    """What metrics.json holds, before anything is measured."""
    chosen, history = plan.chosen, plan.history
    first = chosen[0]
    several = len(chosen) > 1
    found: dict[str, Any] = {
        "trial": ", ".join(each.trial.id for each in chosen),
        "metric": history.metric,
        "mode": history.mode,
        "value": None if several else first.metrics.get(history.metric),
        "epoch": None if several else first.epoch,
        "weights": plan.weights,
        "metrics": {} if several else first.metrics,
        "details": {} if several else first.details,
        "measured": "by the trial, after this epoch",
        "dataset": first.dataset,
        "plugins": sorted({Path(file).name for each in chosen for file in each.experiment.plugins}),
        "raudio": history.version,
        "versions": _versions(plan.run),
        "cost": _cost(chosen),
        "formats": {},
        "precision": {"stored": plan.precision},
    }
    if several:
        found["members"] = [
            {
                "trial": each.trial.id,
                "epoch": each.epoch,
                "value": each.metrics.get(history.metric),
            }
            for each in chosen
        ]
    return found


def _versions(run: Path) -> dict[str, str]:
    """Of what trained it, as the run's environment.json has them; empty where it has none."""
    environment = _table(run / records.ENVIRONMENT_JSON) or {}
    found = {name: environment.get(name) for name in ("raudio", "python")}
    packages = environment.get("packages")
    found |= packages if isinstance(packages, dict) else {}
    return {name: str(version) for name, version in found.items() if version}


def _cost(chosen: Sequence[Trained]) -> dict[str, float]:
    """What training cost: sums over the trials; of parameters and memory, those of the largest."""
    costs = [each.trial.costs for each in chosen]
    found: dict[str, float] = {
        "seconds": sum(each.trial.loop_seconds for each in chosen),
        "epochs": sum(each.trial.epochs for each in chosen),
    }
    for name, of in (("device_seconds", sum), ("params", max), ("peak_memory", max)):
        values = [cost[f"cost/{name}"] for cost in costs if f"cost/{name}" in cost]
        if values:
            found[name] = of(values)
    return found


def _published(experiment: Experiment) -> Experiment:
    """The experiment as it is handed on: where the data lay is nobody's business."""
    data = experiment.dataset
    where = _name_of(data.path) if isinstance(data.path, str) else tuple(map(_name_of, data.path))
    return replace(
        experiment,
        plugins=(),
        dataset=replace(data, path=where, labels=None),
        augment=_without_folders(experiment.augment),
    )


def _seal(
    folder: Path,
    plan: _Plan,
    published: Sequence[Experiment],
    labels: Sequence[str],
    metrics: Mapping[str, Any],
) -> None:
    """Writes what tells of the other files: metrics, card and checksums."""
    from raudio.export.card import model_card

    card = model_card(
        published[0],
        labels,
        metrics,
        members=published,
        manifest=_table(plan.run / records.DATASET_JSON),
        parameters=sum(t.numel() for member in plan.members for t in member.weights.values()),
    )
    (folder / METRICS).write_bytes(_json(metrics))
    (folder / CARD).write_text(card, encoding="utf-8")
    sums = {}
    for path in sorted(folder.iterdir()):
        if path.name != CHECKSUMS:
            with path.open("rb") as file:
                sums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    (folder / CHECKSUMS).write_bytes(_json({"format_version": FORMAT_VERSION, "files": sums}))


def _table(path: Path) -> dict[str, Any] | None:
    """A file of the run that holds a table; None where there is none.

    Raises:
        RunError: it is damaged.
    """
    try:
        table = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{str(path)!r} is damaged: {error}") from error
    return table if isinstance(table, dict) else None


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
