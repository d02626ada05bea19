"""From recordings and labels to a dataset: `raudio data prepare`.

Every recording is decoded once, so that one which cannot be is found here and not in a trial.
Local threads do the work; see `raudio.data.writer` for what is promised of the result.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import soundfile
import soxr
from numpy.typing import NDArray

from raudio.audio.decode import decode, info
from raudio.core.errors import DataError, unknown
from raudio.core.seeding import key
from raudio.data.facts import clip_facts
from raudio.data.manifest import SPLITS, Manifest, Skipped
from raudio.data.sources import DEEP, Item, Source, check_events, read_item, read_source
from raudio.data.split_source import SPLIT_BY, split_source
from raudio.data.splits import EIGHTY_TEN_TEN, Shares
from raudio.data.writer import Echo, Progress, Row, Task, check_new, silent, write_dataset

FORMATS = ("flac", "wav", "source")


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
        shard_mb: megabytes of audio a shard; small datasets get smaller shards.
        skip_bad: leave out files that are missing or cannot be decoded, and list them in the
            manifest, instead of stopping.
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
    workers: int | None = None,
    echo: Echo = silent,
    progress: Progress | None = None,
) -> Manifest:
    """Makes a dataset at `out` from the recordings below `source`.

    Args:
        source: folder of audio, tars or manifests, local or a URI: see `sources.read_source`.
        out: the dataset's folder, which must not exist.
        labels: label file (CSV, TSV, JSONL, Parquet), local or a URI.
        columns: role (file, label, split, group, ...) to column of the label file, "none" for no
            column; what is not given is recognised by name.
        label_separator: what stands between several labels of a clip; makes the data multi-label.
        options: see `Options`.
        workers: threads; None is one a CPU. The result does not depend on it.
        echo: told what was taken for what.
        progress: told how many clips of how many are done.

    Raises:
        DataError: wrong options, unusable input (see `sources.read_source`), a recording that
            cannot be decoded, or an `out` that exists. Nothing is left behind.
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
    return write_dataset(target, task, workers=workers, echo=echo, progress=progress)


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
    clips: dict[str, list[Item]] = {split: [] for split in SPLITS}
    for item in items:
        assert item.split is not None
        clips[item.split].append(item)
    for members in clips.values():
        # Not by class: a window of neighbouring shards is to hold all classes.
        members.sort(key=lambda item: (key(options.seed, "order", item.clip_id), item.clip_id))
    labels = sorted({label for item in items for label in item.classes})
    shown = ", ".join(labels[:12]) + (", ..." if len(labels) > 12 else "")
    return Task(
        clips=clips,
        encode=_Encoder(options),
        clip_id=lambda item: item.clip_id,
        key=found.key(options),
        metadata=found.metadata,
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
        total_bytes=sum(item.size for item in items),
        skipped=found.missing,
    )


class _Encoder:
    """An item to its row; safe to call from several threads."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def __call__(self, item: Item) -> Row | Skipped:
        try:
            content = read_item(item)
            row = encode_clip(content, self._options.format, self._options.sample_rate, item.name)
            if item.events is not None:
                seconds = row["frames"] / row["sample_rate"]
                row["events"] = [
                    event._asdict() for event in check_events(item.events, seconds, item.name)
                ]
        except DataError as error:
            if self._options.skip_bad:
                return Skipped(item.clip_id, str(error))
            raise DataError(f"{error}; or leave such files out with --skip-bad") from error
        return {
            **(item.metadata or {}),
            **row,
            "clip_id": item.clip_id,
            "group": item.group,
            "label": item.label,
            "labels": item.labels,
            "fold": item.fold,
        }


def encode_clip(content: bytes, format: str, sample_rate: int | None, where: str) -> Row:
    """The columns of a row that follow from a file's bytes.

    Args:
        content: the encoded file.
        format: see `Options`.
        sample_rate: to resample to, in Hz; None keeps the file's.
        where: what messages call the file.

    Raises:
        DataError: it cannot be decoded, is empty, holds samples that are not finite, or cannot be
            stored as `format`.
    """
    wave, rate = decode(content, where=where)
    header = info(content, where=where)
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
