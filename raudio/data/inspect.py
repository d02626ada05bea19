"""What a dataset holds, and what is wrong with it: `raudio data inspect`.

Reads the shards' small columns; the audio was looked at when it was prepared.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raudio.core.errors import DataError
from raudio.core.units import Seconds, format_bytes, format_seconds
from raudio.data import rows
from raudio.data.manifest import Manifest, Shard, Skipped, SplitInfo

#: A clip whose loudest sample is below this (-60 dB of full scale) counts as silent.
SILENT_PEAK = 1e-3
#: A clip with at least so many samples at full scale counts as clipped: one or two are peaks.
CLIPPED_SAMPLES = 4
#: The largest class may have so many times the clips of the smallest before it is worth a word.
IMBALANCE = 10.0

_COLUMNS = ("clip_id", "split", "group", "label", "peak", "clipped", "content")
_SHOWN = 3
_SHOWN_CLASSES = 40


@dataclass(frozen=True)
class Repeated:
    """One recording (by its `content`) or one group, in several splits: its clips there."""

    name: str
    splits: list[str]
    clips: list[str]


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        dataset, source, licence: path, and what the manifest says.
        fingerprint: see `Manifest.fingerprint`.
        clips, seconds, bytes, shards: in all.
        labels: every class.
        splits: in numbers.
        imbalance: clips of train's largest class by those of its smallest.
        sample_rates, channels: Hz and count to clips.
        durations: min, median, p95 and max of the clips' seconds.
        silent: clips below -60 dB of full scale.
        clipped: clips with several samples at full scale.
        duplicates: recordings that are in more than one split; silent ones are not compared.
        straddling: groups that are in more than one split.
        skipped: files left out when it was prepared.
        errors: what makes results wrong or the dataset unusable.
        warnings: what to know.
    """

    dataset: str
    source: str
    licence: str
    fingerprint: str
    clips: int
    seconds: Seconds
    bytes: int
    shards: int
    labels: list[str]
    splits: dict[str, SplitInfo]
    imbalance: float
    sample_rates: dict[int, int]
    channels: dict[int, int]
    durations: dict[str, Seconds]
    silent: list[str] = field(default_factory=list)
    clipped: list[str] = field(default_factory=list)
    duplicates: list[Repeated] = field(default_factory=list)
    straddling: list[Repeated] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_mapping(self) -> dict[str, Any]:
        """The same as JSON types."""
        return dataclasses.asdict(self)


def inspect(manifest: Manifest) -> Inspection:
    """Reads a dataset through, checks every shard against the manifest, and lists what is odd."""
    tables: list[pa.Table] = []
    errors: list[str] = []
    for shard in manifest.shards:
        try:
            tables.append(_checked(manifest, shard))
        except DataError as error:
            errors.append(str(error))
    schema = pa.schema([(name, type_) for name, type_ in rows.COLUMNS if name in _COLUMNS])
    table = pa.concat_tables([schema.empty_table(), *tables])
    ids = _values(table, "clip_id")
    has_group = table["group"].is_valid().to_numpy()
    is_silent = _values(table, "peak") < SILENT_PEAK
    train = manifest.splits["train"].class_counts.values() if "train" in manifest.splits else ()
    found = Inspection(
        dataset=manifest.path,
        source=manifest.source,
        licence=manifest.licence,
        fingerprint=manifest.fingerprint,
        clips=manifest.clips,
        seconds=round(manifest.seconds, 3),
        bytes=sum(shard.bytes for shard in manifest.shards),
        shards=len(manifest.shards),
        labels=list(manifest.labels),
        splits=manifest.splits,
        imbalance=round(max(train) / min(train), 3) if train else 0.0,
        sample_rates=manifest.sample_rates,
        channels=manifest.channels,
        durations={
            "min": manifest.seconds_min,
            "median": manifest.seconds_median,
            "p95": manifest.seconds_p95,
            "max": manifest.seconds_max,
        },
        silent=ids[is_silent].tolist(),
        clipped=ids[_values(table, "clipped") >= CLIPPED_SAMPLES].tolist(),
        duplicates=_in_several_splits(table, "content", ~is_silent),
        straddling=_in_several_splits(table, "group", has_group),
        skipped=list(manifest.skipped),
    )
    return dataclasses.replace(found, errors=[*errors, *_errors(found)], warnings=_warnings(found))


def render(found: Inspection) -> RenderableType:
    """The inspection as text for a terminal."""
    parts: list[RenderableType] = [
        Text.assemble((found.dataset, "bold"), f"  from {found.source}"),
        Text(
            f"{found.clips} clips, {format_seconds(found.seconds)}, {len(found.labels)} classes, "
            f"{format_bytes(found.bytes)} in {found.shards} shards"
            + (f", licence {found.licence}" if found.licence else "")
        ),
        Text(f"sample rate: {_counted(found.sample_rates, ' Hz')}"),
        Text(f"channels: {_counted(found.channels)}"),
        Text("seconds a clip: " + ", ".join(f"{k} {v:.2f}" for k, v in found.durations.items())),
        _class_table(found),
    ]
    parts += [Text(f"warning: {text}", "yellow") for text in found.warnings]
    parts += [Text(f"error: {text}", "red") for text in found.errors]
    if not found.warnings and not found.errors:
        parts.append(Text("nothing is wrong with it", "green"))
    return Group(*parts)


def _checked(manifest: Manifest, shard: Shard) -> pa.Table:
    """A shard's small columns, after its bytes and rows were compared with the manifest."""
    content = rows.read_content(manifest.shard_path(shard))
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        raise DataError(
            f"{shard.file} has changed since it was written ({len(content)} bytes, {shard.bytes} "
            "expected, by SHA-256); copy it again or prepare the dataset again"
        )
    return rows.read_shard(io.BytesIO(content), _COLUMNS, where=shard.file)


def _values(table: pa.Table, column: str) -> Any:
    return table[column].to_numpy(zero_copy_only=False)


def _in_several_splits(table: pa.Table, column: str, chosen: Any) -> list[Repeated]:
    places: dict[str, list[int]] = defaultdict(list)
    names = _values(table, column)
    for index in np.flatnonzero(chosen):
        places[names[index]].append(int(index))
    ids, splits = _values(table, "clip_id"), _values(table, "split")
    repeated = (
        Repeated(name, list(dict.fromkeys(splits[where].tolist())), ids[where].tolist())
        for name, where in places.items()
    )
    return sorted((r for r in repeated if len(r.splits) > 1), key=lambda r: r.name)


def _errors(found: Inspection) -> list[str]:
    errors = [
        f"there is no split {name!r}" for name in ("train", "valid") if name not in found.splits
    ]
    if "train" in found.splits:
        untrained = sorted(set(found.labels) - set(found.splits["train"].class_counts))
        if untrained:
            errors.append(f"no clip of {_some(untrained)} is in train: it can't be learnt")
    if found.duplicates:
        first = found.duplicates[0]
        errors.append(
            f"{_number(found.duplicates, 'recording')} in more than one split, such as "
            f"{_some(first.clips)} in {' and '.join(first.splits)}: what is measured is too good"
        )
    return errors


def _warnings(found: Inspection) -> list[str]:
    warnings: list[str] = []
    if found.straddling:
        warnings.append(
            f"{_number(found.straddling, 'group')} in more than one split "
            f"({_some([group.name for group in found.straddling])}): the measured quality is for "
            "groups that training has heard, not for new ones"
        )
    if found.silent:
        warnings.append(f"{_number(found.silent, 'clip')} silent: {_some(found.silent)}")
    if found.clipped:
        warnings.append(f"{_number(found.clipped, 'clip')} clipped: {_some(found.clipped)}")
    if found.imbalance > IMBALANCE:
        warnings.append(
            f"train's largest class has {found.imbalance:.0f} times the clips of its smallest; "
            "task.class_weights=balanced weighs them equally"
        )
    for split, info in found.splits.items():
        lacking = sorted(set(found.labels) - set(info.class_counts))
        if split != "train" and lacking:
            warnings.append(f"{split} has no clip of {_some(lacking)}")
    if "test" not in found.splits:
        warnings.append("there is no split 'test': nothing is left to measure the final model with")
    if len(found.sample_rates) > 1:
        warnings.append(
            f"several sample rates ({_counted(found.sample_rates, ' Hz')}): if they go with the "
            "class, a model can learn the rate instead of the sound"
        )
    if found.skipped:
        warnings.append(
            f"{_number(found.skipped, 'file')} left out when it was prepared: "
            f"{_some([skipped.file for skipped in found.skipped])}"
        )
    return warnings


def _class_table(found: Inspection) -> Table:
    """Clips by class and split; of many classes only the largest."""
    table = Table("class", *found.splits, box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    totals = {
        label: sum(info.class_counts.get(label, 0) for info in found.splits.values())
        for label in found.labels
    }
    shown = found.labels
    if len(shown) > _SHOWN_CLASSES:
        shown = sorted(shown, key=lambda label: (-totals[label], label))[:_SHOWN_CLASSES]
    for label in shown:
        counts = [str(info.class_counts.get(label, 0)) for info in found.splits.values()]
        table.add_row(Text(label), *counts)
    if rest := len(found.labels) - len(shown):
        table.add_row(f"({rest} smaller classes)")
    clips = [str(info.clips) for info in found.splits.values()]
    table.add_row("all clips", *clips, style="bold")
    seconds = [format_seconds(info.seconds) for info in found.splits.values()]
    table.add_row("length", *seconds, style="bold")
    return table


def _counted(counts: dict[int, int], unit: str = "") -> str:
    return ", ".join(f"{value}{unit} ({count} clips)" for value, count in counts.items())


def _number(things: list[Any], what: str) -> str:
    return f"1 {what} is" if len(things) == 1 else f"{len(things)} {what}s are"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
