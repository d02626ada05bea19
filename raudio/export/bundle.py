"""The bundle: trained models as a folder of plain data, to be used, handed on and published.

| file | holds |
| --- | --- |
| weights.safetensors | every tensor of the system: front end, model, task |
| experiment.json | the resolved experiment, as `raudio.config.validate.to_mapping` writes it |
| weights-2.safetensors, experiment-2.json, ... | the further members of an ensemble |
| model.onnx, model.pt2 | where asked for: all members as one graph, from waves to scores |
| labels.json | the labels, in the order of the scores |
| metrics.json | the trials, their epochs, what was measured on which dataset, versions, costs |
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
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import safetensors.torch
from safetensors import SafetensorError

from raudio import records
from raudio.config.schema import Experiment
from raudio.config.validate import experiment_from
from raudio.core.errors import ConfigError, DataError, RunError, closest, unknown
from raudio.core.storage import is_remote
from raudio.export.precision import restored

if TYPE_CHECKING:
    from torch import Tensor

    from raudio.export.systems import WaveSystem
    from raudio.system import System

FORMAT_VERSION = 1
WEIGHTS = "weights.safetensors"
EXPERIMENT = "experiment.json"
LABELS = "labels.json"
METRICS = "metrics.json"
CARD = "README.md"
CHECKSUMS = "checksums.json"
ONNX = "model.onnx"
EXPORTED = "model.pt2"
#: What every bundle holds.
FILES = (WEIGHTS, EXPERIMENT, LABELS, METRICS, CARD, CHECKSUMS)
#: What a bundle's system can be made from, by the name of the format.
FORMATS = {"safetensors": WEIGHTS, "onnx": ONNX, "torch-export": EXPORTED}
#: The keys of metrics.json.
METRICS_KEYS = frozenset(
    {
        "trial",
        "metric",
        "mode",
        "value",
        "epoch",
        "weights",
        "metrics",
        "details",
        "dataset",
        "plugins",
        "raudio",
        "versions",
        "cost",
        "members",
        "measured",
        "formats",
        "precision",
    }
)

#: Bytes that each file of text may have.
TEXT_LIMIT = 64 << 20
_FURTHER = re.compile(r"(weights|experiment)-([2-9]|[1-9][0-9]{1,3})\.(safetensors|json)")


@dataclass(frozen=True)
class Member:
    """A system of a bundle.

    Attributes:
        experiment: resolved, without plugins; of a local dataset's path the name alone.
        weights: the system's tensors by name.
    """

    experiment: Experiment
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Bundle:
    """A bundle's content, checked.

    Attributes:
        path: its folder or URI, as it was given.
        folder: where its files are.
        labels: in the order of the scores.
        metrics: what `metrics.json` holds: trial, metric, mode, value, epoch, metrics, dataset, and
            details (of a classification: confusion matrix and most wrong clips of the valid split).
        members: one, or those of an ensemble; they hear the same windows.
        sums: the SHA-256 of each file.
    """

    path: str
    folder: Path
    labels: tuple[str, ...]
    metrics: dict[str, Any]
    members: tuple[Member, ...]
    sums: dict[str, str]

    @property
    def experiment(self) -> Experiment:
        """Of the first member; what all hear is the same."""
        return self.members[0].experiment

    @property
    def weights(self) -> dict[str, Tensor]:
        """Of the first member."""
        return self.members[0].weights

    @property
    def formats(self) -> tuple[str, ...]:
        """What `system` can make it from."""
        return tuple(name for name, file in FORMATS.items() if file in self.sums)

    def system(self, format: str | None = None) -> System | WaveSystem:
        """What scores with these weights, on the CPU, in evaluation mode.

        Args:
            format: "safetensors", which is what None means: the system as PyTorch runs it, or an
                `Ensemble` of several; "onnx"; "torch-export".

        Returns:
            For a single member's safetensors a `System`; otherwise a `WaveSystem`, which has the
            same `score`, `task`, `to` and `front_end`, this last None.

        Raises:
            ConfigError: there is no such format, the bundle doesn't hold it, or what computes it is
                not installed.
            RunError: weights, labels or graph don't fit the experiment, or the graph is not one
                that is safe to open.
        """
        from raudio.export.systems import Ensemble

        name = format or "safetensors"
        if name not in self.formats:
            here = f"bundle {self.path!r}: {unknown('format', name, self.formats)}"
            cure = " (`raudio export RUN --format ...` adds one)" if name in FORMATS else ""
            raise ConfigError(here + cure)
        if name == "safetensors":
            systems = [self._member(number) for number in range(len(self.members))]
            return systems[0] if len(systems) == 1 else Ensemble(systems)
        from raudio.export import safe

        content = (self.folder / FORMATS[name]).read_bytes()
        if hashlib.sha256(content).hexdigest() != self.sums[FORMATS[name]]:
            _damaged(self.path, FORMATS[name])
        open_graph = safe.open_onnx if name == "onnx" else safe.open_exported
        where = f"bundle {self.path!r}: {FORMATS[name]}"
        return open_graph(content, self._member(0).task, where=where)

    def _member(self, number: int) -> System:
        from raudio.system import build_system

        weights, experiment = member_files(number)
        member = self.members[number]
        try:
            system = build_system(member.experiment, labels=self.labels)
            system.load_state_dict(member.weights, strict=True)
        except (ConfigError, DataError, RuntimeError) as error:
            raise RunError(
                f"bundle {self.path!r}: {weights} and {experiment} don't fit each other: "
                f"{one_line(error)}; export it again"
            ) from error
        return system.eval()


def member_files(number: int) -> tuple[str, str]:
    """The names of a member's weights and experiment; the first member is 0."""
    if number == 0:
        return WEIGHTS, EXPERIMENT
    return f"weights-{number + 1}.safetensors", f"experiment-{number + 1}.json"


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Reads a bundle, having checked that all of it is there, is unchanged, and nothing else.

    Args:
        path: its folder, or a URI: `hf://org/name[@revision]`, `s3://...`, `https://...`, whose
            files are kept in the cache.

    Raises:
        ConfigError: a library that the URI needs is not installed.
        RunError: it is out of reach, it is none, or incomplete, damaged, foreign, of another
            format, or it needs a component that is not registered; one sentence.
    """
    text, folder = os.fspath(path), Path(path)
    if is_remote(path):
        from raudio.export.remote import fetched, shown

        text, folder = shown(text), fetched(text)
    _check_folder(text, folder)
    sums = _checksums(text, folder)
    graphs = set(FORMATS.values()) - {WEIGHTS}
    content = {}
    for name, expected in sums.items():
        if name in graphs:  # read again when asked for
            with open(folder / name, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            content[name] = _read(text, folder, name)
            found = hashlib.sha256(content[name]).hexdigest()
        if found != expected:
            _damaged(text, name)
    metrics = _metrics(text, content[METRICS])
    plugins = metrics.get("plugins")
    names = [member_files(number) for number in range(_members(sums))]
    members = tuple(
        Member(
            _experiment(text, experiment, content[experiment], plugins),
            _weights(text, weights, content[weights]),
        )
        for weights, experiment in names
    )
    for (_, name), member in zip(names, members, strict=True):
        if heard(member.experiment) != heard(members[0].experiment):
            raise RunError(
                f"bundle {text!r}: {name} and {EXPERIMENT} hear different windows, or have "
                "different tasks; export it again"
            )
    return Bundle(text, folder, _labels(text, content[LABELS]), metrics, members, sums)


def heard(experiment: Experiment) -> dict[str, Any]:
    """What the members of an ensemble have to agree on: the windows that they get, and the task."""
    data = experiment.dataset
    return {
        "dataset.sample_rate": data.sample_rate,
        "dataset.clip_seconds": data.clip_seconds,
        "dataset.precision": data.precision,
        "dataset.pad": data.pad,
        "task": experiment.task.name,
    }


def _damaged(path: str, name: str) -> NoReturn:
    raise RunError(
        f"bundle {path!r} is damaged: {name} is not what was exported "
        f"(its SHA-256 is another than {CHECKSUMS} says); copy or export it again"
    )


def _check_folder(path: str, folder: Path) -> None:
    """Refuses what is no folder of a bundle's files."""
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
        if not is_bundle_file(name):
            raise RunError(f"bundle {path!r} holds a foreign file, {name!r}: remove it")
        if not regular:
            raise RunError(f"bundle {path!r}: {name} is a link or a folder, not a file; copy it")


def is_bundle_file(name: str) -> bool:
    """Whether a bundle may hold a file of this name."""
    return name in FILES or name in FORMATS.values() or bool(_FURTHER.fullmatch(name))


def _checksums(path: str, folder: Path) -> dict[str, str]:
    """The SHA-256 of each file, when exactly those that are there are a whole bundle's."""
    sums = checked_sums(path, _read(path, folder, CHECKSUMS))
    with os.scandir(folder) as entries:
        found = {entry.name for entry in entries} - {CHECKSUMS}
    for name in sorted(set(sums) - found):
        raise RunError(f"bundle {path!r} is incomplete: {name} is missing; copy or export it again")
    for name in sorted(found - set(sums)):
        raise RunError(
            f"bundle {path!r} holds a foreign file, {name!r}, that {CHECKSUMS} does not list: "
            "remove it"
        )
    return sums


def checked_sums(path: str, content: bytes) -> dict[str, str]:
    """What a checksums.json lists: the SHA-256 of every file of a whole bundle.

    Raises:
        RunError: it is of another format, or not that of a bundle.
    """
    table = _parsed(path, CHECKSUMS, content)
    version = table.get("format_version") if isinstance(table, dict) else None
    if type(version) is not int or version != FORMAT_VERSION:
        raise RunError(
            f"bundle {path!r} has format {version!r}, and this raudio reads format "
            f"{FORMAT_VERSION}: use the raudio that wrote it, or export it again"
        )
    _known_keys(path, CHECKSUMS, table, {"format_version", "files"})
    sums = table.get("files")
    listed = set(sums) if isinstance(sums, dict) else set()
    expected = set(FILES) - {CHECKSUMS}
    for number in range(1, _members(listed)):
        expected |= set(member_files(number))
    expected |= {name for name in FORMATS.values() if name in listed}
    if listed != expected:
        odd = ", ".join(sorted(repr(name) for name in listed ^ expected))
        raise RunError(
            f"bundle {path!r}: {CHECKSUMS} lists other files than a bundle's ({odd}); "
            "export it again"
        )
    for name, value in sums.items():
        if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
            raise RunError(f"bundle {path!r}: {CHECKSUMS} has no SHA-256 of {name}; copy it again")
    return {name: sums[name] for name in sorted(sums)}


def _members(names: Collection[str]) -> int:
    """How many members the files of a bundle are of, by the highest number."""
    found = (_FURTHER.fullmatch(name) for name in names)
    return max((int(match[2]) for match in found if match), default=1)


def _read(path: str, folder: Path, name: str) -> bytes:
    place = folder / name
    if not name.endswith(".safetensors") and place.stat().st_size > TEXT_LIMIT:
        raise RunError(
            f"bundle {path!r}: {name} has {place.stat().st_size:,} bytes, and {TEXT_LIMIT:,} are "
            "the most that is read of a file of text; export it again"
        )
    return place.read_bytes()


def _parsed(path: str, name: str, content: bytes) -> Any:
    def no_number(text: str) -> NoReturn:
        raise ValueError(f"{text} is no number")

    try:
        return json.loads(content, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise RunError(
            f"bundle {path!r}: {name} is not JSON ({one_line(error)}); export it again"
        ) from error


def _known_keys(path: str, name: str, table: dict[str, Any], known: Collection[str]) -> None:
    for key in table:
        if key not in known:
            raise RunError(
                f"bundle {path!r}: {name} has a foreign key, {key!r}{closest(key, known)}; "
                "use the raudio that wrote it, or export it again"
            )


def _metrics(path: str, content: bytes) -> dict[str, Any]:
    metrics = _parsed(path, METRICS, content)
    if not isinstance(metrics, dict):
        raise RunError(f"bundle {path!r}: {METRICS} holds no table; export it again")
    _known_keys(path, METRICS, metrics, METRICS_KEYS)
    return metrics


def _labels(path: str, content: bytes) -> tuple[str, ...]:
    labels = _parsed(path, LABELS, content)
    if (
        not isinstance(labels, list)
        or not all(isinstance(label, str) for label in labels)
        or len(set(labels)) != len(labels)
    ):
        raise RunError(f"bundle {path!r}: {LABELS} is no list of different texts; export it again")
    return tuple(labels)


def _experiment(path: str, name: str, content: bytes, plugins: Any) -> Experiment:
    mapping = _parsed(path, name, content)
    if not isinstance(mapping, dict):
        raise RunError(f"bundle {path!r}: {name} holds no settings; export it again")
    if mapping.get("plugins"):
        raise RunError(
            f"bundle {path!r}: {name} names plugins, {mapping['plugins']!r}, and opening a "
            "bundle runs no code: export it again"
        )
    try:
        experiment = experiment_from(mapping, plugins=False)
    except (ConfigError, TypeError, AttributeError) as error:
        if isinstance(plugins, list) and plugins:
            files = ", ".join(map(str, plugins))
            cure = (
                f"it was trained with components of {files}, which a bundle does not hold: get the "
                f"file from whoever exported it, look at it, and give it with --plugin {plugins[0]}"
                f" (in Python: import it first)"
            )
        else:
            cure = "it was written by another version of raudio, or changed"
        raise RunError(f"bundle {path!r}: {name}: {one_line(error)}; {cure}") from error
    for setting in ("sample_rate", "clip_seconds"):
        if getattr(experiment.dataset, setting) is None:
            raise RunError(f"bundle {path!r}: {name} has no dataset.{setting}; export it again")
    return experiment


def _weights(path: str, name: str, content: bytes) -> dict[str, Tensor]:
    try:
        return restored(safetensors.torch.load(content))
    except (SafetensorError, KeyError, ValueError) as error:
        # A pickle starts with its protocol's opcode, PyTorch's files with that of a zip archive.
        pickled = content[:1] == b"\x80" or content[:2] == b"PK"
        what = "is a pickle, which could run code" if pickled else f"cannot be read ({error})"
        raise RunError(
            f"bundle {path!r}: {name} {what}; only safetensors are opened, export it again"
        ) from error


def one_line(error: BaseException) -> str:
    """An error's message on one line."""
    parts = [line.strip().removeprefix("- ") for line in str(error).splitlines()]
    return "; ".join(part for part in parts if part) or type(error).__name__
