"""From recordings and labels to a dataset: `raudio data prepare`.

Every recording is decoded once, so that one which cannot be is found here and not in a trial.
See `raudio.data.writer` for what is promised of the result.
"""

from __future__ import annotations

import io
import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import soundfile
import soxr
from numpy.typing import NDArray

from raudio.audio.decode import decode, info
from raudio.core.errors import DataError, unknown
from raudio.core.seeding import key
from raudio.core.storage import StoreError
from raudio.data.executors import Execution
from raudio.data.facts import clip_facts
from raudio.data.manifest import FORMAT_VERSION, SPLITS, Manifest, Skipped
from raudio.data.shards import Row
from raudio.data.sources import DEEP, Item, Source, check_events, read_item, read_source
from raudio.data.split_source import SPLIT_BY, split_source
from raudio.data.splits import EIGHTY_TEN_TEN, Shares
from raudio.data.writer import Echo, Progress, Task, check_new, silent, write_dataset

FORMATS = ("flac", "wav", "source")

_LARGEST_CLIP = 2**30
# Decoded and stored without loss, these take about so many times their bytes.
_LOSSY = frozenset({".mp3", ".ogg", ".oga", ".opus"})
_LOSSY_GROWTH = 6


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a dataset is made.

    Attributes:
        shares: of train, valid and test, where splits are not predefined.
        split_by: random (stratified by class, no group straddling) or time (the oldest clips in
            train, the newest in test), where splits are not predefined.
        folds: makes so many folds instead, at least 3, kept as the column `fold`; the last is test,
            the one before valid.
        allow_leaks: predefined splits may share groups or recordings.
        format: of the stored audio: flac (lossless, 16 or 24 bits), wav (the same, uncompressed)
            or source (the files as they are).
        sample_rate: to resample to, in Hz; None keeps each file's.
        shard_mb: megabytes of audio a shard, roughly; small datasets get smaller shards.
        skip_bad: leave out files that are missing or cannot be decoded, and list them in the
            manifest; else there is no dataset when there are any.
        seed: of the splits and of the order of the clips.
        licence: of the recordings, for the manifest.
        source: where the recordings came from, for the manifest; empty: the folder's name.
    """

    shares: Shares = EIGHTY_TEN_TEN
    split_by: str = "random"
    folds: int | None = None
    allow_leaks: bool = False
    format: str = "flac"
    sample_rate: int | None = None
    shard_mb: int = 64
    skip_bad: bool = False
    seed: int = 0
    licence: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise DataError(unknown("format", self.format, FORMATS))
        if self.split_by not in SPLIT_BY:
            raise DataError(f"split_by: {unknown('way', self.split_by, SPLIT_BY)}")
        if self.folds is not None and not 3 <= self.folds <= 100:
            raise DataError(
                f"folds={self.folds} is outside 3 to 100: one is test, one valid, the rest train"
            )
        if self.folds is not None and self.split_by != "random":
            raise DataError(f"folds={self.folds} are made at random; leave split_by out")
        if self.format == "source" and self.sample_rate is not None:
            raise DataError(
                f"sample_rate={self.sample_rate} with format=source: files that are kept as they "
                "are cannot be resampled; use format=flac"
            )
        if self.sample_rate is not None and not 1000 <= self.sample_rate <= 384_000:
            raise DataError(f"sample_rate={self.sample_rate} is outside 1000 to 384000 Hz")
        if not 1 <= self.shard_mb <= 1000:
            raise DataError(f"shard_mb={self.shard_mb} is outside 1 to 1000 MB")


def prepare(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | None = None,
    columns: Mapping[str, str] | None = None,
    label_separator: str | None = None,
    options: Options | None = None,
    execution: Execution | None = None,
    echo: Echo = silent,
    progress: Progress | None = None,
) -> Manifest:
    """Makes a dataset at `out` from the recordings below `source`.

    Args:
        source: folder of audio, tars or manifests, local or a URI: see `sources.read_source`.
        out: the dataset's folder, local or a URI, which must not exist.
        labels: label file (CSV, TSV, JSONL, Parquet), local or a URI.
        columns: role (file, label, split, group, ...) to column of the label file, "none" for no
            column; what is not given is recognised by name.
        label_separator: what stands between several labels of a clip; makes the data multi-label.
        options: see `Options`.
        execution: who does it: threads, or Ray; the result does not depend on it.
        echo: told what was taken for what.
        progress: told how many clips of how many are done.

    Raises:
        DataError: wrong options, unusable input (see `sources.read_source`), an `out` that exists
            or cannot be written, recordings that cannot be used (all of them, named at the end),
            or one that is in two predefined splits. There is no dataset then; see `write_dataset`.
    """
    target = check_new(out)
    chosen = options or Options()
    found = read_source(
        source,
        labels=labels,
        columns=columns,
        label_separator=label_separator,
        skip_missing=chosen.skip_bad,
    )
    task = plan(found, chosen)
    for sentence in task.taken:
        echo(sentence)
    return write_dataset(target, task, execution=execution, echo=echo, progress=progress)


def plan(found: Source, options: Options) -> Task[Item]:
    """Splits and order of the clips; nothing is read but what tells duplicates apart.

    Raises:
        DataError: the splits cannot be filled, or predefined ones lack `train`.
    """
    items, how, warnings = split_source(
        found,
        shares=options.shares,
        split_by=options.split_by,
        folds=options.folds,
        allow_leaks=options.allow_leaks,
        seed=options.seed,
    )
    if options.format == "source" and (part := next((i for i in items if i.is_part), None)):
        raise DataError(
            f"format=source with clips that are parts of recordings ({part.clip_id!r}): there is "
            "no file to keep as it is; use format=flac"
        )
    counts = Counter(item.split for item in items)
    sizes = ", ".join(f"{split} {counts[split]}" for split in SPLITS if counts[split])
    clips: dict[tuple[str, int | None], list[Item]] = defaultdict(list)
    for item in items:
        assert item.split is not None
        clips[item.split, item.fold].append(item)
    for members in clips.values():
        # Not by class: a window of neighbouring shards is to hold all classes.
        members.sort(key=lambda item: (key(options.seed, "order", item.clip_id), item.clip_id))
    labels = sorted({label for item in items for label in item.classes})
    shown = ", ".join(labels[:12]) + (", ..." if len(labels) > 12 else "")
    return Task(
        clips=clips,
        encode=partial(_encode, format=options.format, sample_rate=options.sample_rate),
        size=partial(_planned_bytes, format=options.format),
        key=repr((FORMAT_VERSION, options.format, options.sample_rate)),
        metadata=found.metadata,
        optional=[
            name
            for name in ("labels", "events", "fold")
            if any(getattr(item, name) is not None for item in items)
        ],
        taken=(
            *found.taken,
            f"{len(labels)} classes: {shown}",
            f"splits {how}: {sizes}",
            *(f"warning: {warning}" for warning in warnings),
        ),
        source=options.source or found.name,
        licence=options.licence,
        made_with={**asdict(options), "shares": list(options.shares), "splits": how},
        shard_bytes=options.shard_mb * 10**6,
        source_bytes=sum(item.size for item in items),
        skipped=found.missing,
        skip_bad=options.skip_bad,
        # Splits that were made here keep the same file in one of them.
        allow_leaks=options.allow_leaks or all(item.split is None for item in found.items),
    )


def _planned_bytes(item: Item, format: str) -> int:
    """What a clip will take in a shard, roughly: known without reading it."""
    suffix = Path(item.clip_id.partition("#")[0]).suffix.lower()
    grows = format != "source" and suffix in _LOSSY
    return item.size * (_LOSSY_GROWTH if grows else 1)


def _encode(item: Item, *, format: str, sample_rate: int | None) -> Row | Skipped:
    """An item to its row, or why it cannot be used."""
    try:
        row = encode_clip(read_item(item), format, sample_rate, item.name)
        if len(row["audio"]) > _LARGEST_CLIP:
            raise DataError(
                f"{item.name}: {len(row['audio'])} bytes encoded are more than a clip can have; "
                "cut it into pieces"
            )
        if item.events is not None:
            seconds = row["frames"] / row["sample_rate"]
            events = check_events(item.events, seconds, item.name)
            row["events"] = [event._asdict() for event in events]
    except StoreError as error:  # says nothing of the recording
        raise DataError(f"{item.name}: cannot be read: {error}") from error
    except DataError as error:
        return Skipped(item.clip_id, str(error))
    return {
        **(item.metadata or {}),
        **row,
        "clip_id": item.clip_id,
        "group": item.group,
        "label": item.label,
        "labels": item.labels,
    }


def encode_clip(content: bytes, format: str, sample_rate: int | None, where: str) -> Row:
    """The columns of a row that follow from a file's bytes.

    Args:
        content: the encoded file.
        format: see `Options`.
        sample_rate: to resample to, in Hz; None keeps the file's.
        where: what messages call the file.

    Raises:
        DataError: it cannot be decoded, is empty, cut off, holds samples that are not finite, or
            cannot be stored as `format`.
    """
    wave, rate = decode(content, where=where)
    header = info(content, where=where)
    if header.cut:
        raise DataError(
            f"{where}: is cut off: its header tells of more samples than the {header.frames} that "
            "are there; copy it again whole, or remove it"
        )
    facts = clip_facts(wave, rate)
    if format == "source":
        stored, frames = content, len(wave)
    else:
        if sample_rate in (None, rate) and header.subtype not in DEEP:
            samples, _ = soundfile.read(io.BytesIO(content), dtype="int16", always_2d=True)
        else:
            samples, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
            if sample_rate not in (None, rate):
                samples = soxr.resample(samples, rate, sample_rate, quality="HQ")
                rate = int(sample_rate or rate)
        frames = len(samples)
        stored = encode_samples(samples, rate, format, deep=header.subtype in DEEP, where=where)
    return {
        "audio": stored,
        "sample_rate": rate,
        "frames": frames,
        "channels": header.channels,
        **facts,
    }


def encode_samples(
    samples: NDArray[Any],
    sample_rate: int,
    format: str,
    *,
    deep: bool = False,
    where: str = "",
) -> bytes:
    """(T, C) samples, int16 or float32, as a FLAC or WAV file of 16 bits (24 when `deep`).

    Raises:
        DataError: the format cannot hold them.
    """
    buffer = io.BytesIO()
    try:
        soundfile.write(
            buffer,
            samples,
            sample_rate,
            format=format.upper(),
            subtype="PCM_24" if deep else "PCM_16",
        )
    except (soundfile.SoundFileError, ValueError) as error:
        raise DataError(
            f"{where}: {samples.shape[1]} channels at {sample_rate} Hz cannot be stored as "
            f"{format} ({error}); use --format source"
        ) from error
    return buffer.getvalue()
