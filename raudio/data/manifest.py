"""The manifest of a dataset: what is in its shards, in one small JSON file beside them.

A dataset is a folder (local or URI) of `shards/{split}-00000.parquet`, `index.parquet` (all rows
without their audio) and `dataset.json`, made by `raudio data prepare`. The manifest is written
last: a folder without one is no dataset.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raudio.core import storage
from raudio.core.errors import DataError, OutOfReachError, unknown
from raudio.core.units import Hertz, Seconds

#: Raised when a reader of the old format could no longer read the new one, or the other way round.
FORMAT_VERSION = 2
MANIFEST = "dataset.json"
INDEX = "index.parquet"
SPLITS = ("train", "valid", "test")

#: Of a decoded sample, by `dataset.precision`.
SAMPLE_BYTES = {"int16": 2, "float32": 4}


@dataclass(frozen=True)
class SplitInfo:
    """One split in numbers: clips, seconds, and clips that hold each class (only those it has)."""

    clips: int
    seconds: Seconds
    class_counts: dict[str, int]


@dataclass(frozen=True)
class Shard:
    """One Parquet file of clips.

    Attributes:
        file: its path inside the dataset, such as `shards/train-00000.parquet`.
        split: the split that all its clips belong to.
        fold: the fold of a cross-validation that they belong to, where there are folds.
        clips: rows.
        frames: samples a channel, at the stored rates, summed over the clips.
        seconds: the clips' lengths, summed.
        bytes: size of the file.
        sha256: of the file.
    """

    file: str
    split: str
    fold: int | None
    clips: int
    frames: int
    seconds: Seconds
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Skipped:
    """A file that could not be used and was left out because the user asked for that."""

    file: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """What a dataset holds.

    Attributes:
        path: the dataset's folder or URI; where it was read from, not part of the file.
        labels: every class, sorted; the order of a classifier's outputs.
        splits: `train`, `valid`, `test` (those there are) in numbers.
        shards: in order: by split, then by number.
        index_sha256: of `index.parquet`.
        sample_rates: stored rate in Hz to clips.
        channels: stored channels to clips.
        seconds_min, seconds_median, seconds_p95, seconds_max: lengths of the clips of all splits.
        source: where the recordings came from.
        licence: of the recordings, as far as it was said.
        made_with: the options of the preparation.
        skipped: files left out, with the reason.
    """

    path: str
    labels: tuple[str, ...]
    splits: dict[str, SplitInfo]
    shards: tuple[Shard, ...]
    index_sha256: str
    sample_rates: dict[int, int]
    channels: dict[int, int]
    seconds_min: Seconds
    seconds_median: Seconds
    seconds_p95: Seconds
    seconds_max: Seconds
    source: str
    licence: str
    made_with: dict[str, Any]
    skipped: tuple[Skipped, ...] = ()
    format_version: int = FORMAT_VERSION

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Manifest:
        """The manifest of the dataset at `path`, a local folder or a URI.

        Raises:
            DataError: there is no dataset at `path`, it cannot be read, its manifest is damaged, or
                another version of raudio wrote it; OutOfReachError: its store does not recover.
        """
        text = os.fspath(path)
        try:
            content = storage.read_bytes(storage.join(text, MANIFEST))
        except (FileNotFoundError, NotADirectoryError):
            raise DataError(
                f"{text!r} is not a dataset: it has no {MANIFEST}; "
                f"make one with: raudio data prepare FOLDER --out {text}"
            ) from None
        except storage.StoreError as error:
            raise OutOfReachError(f"cannot read the dataset at {text!r}: {error}") from error
        except (OSError, ValueError, ImportError) as error:
            raise DataError(f"cannot read the dataset at {text!r}: {error}") from error
        try:
            return _from_json(text, json.loads(content))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{storage.join(text, MANIFEST)} is damaged ({type(error).__name__}: {error}); "
                "prepare the dataset again"
            ) from error

    def to_mapping(self) -> dict[str, Any]:
        """What the file holds, as JSON types."""
        mapping = dataclasses.asdict(self)
        del mapping["path"]
        for name in ("sample_rates", "channels"):
            mapping[name] = {str(key): count for key, count in mapping[name].items()}
        return mapping

    def to_json(self) -> str:
        """The file's text: the same manifest gives the same bytes."""
        return json.dumps(self.to_mapping(), indent=1, ensure_ascii=False) + "\n"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the labels and the shards' hashes: equal when the data is equal."""
        digest = hashlib.sha256(json.dumps(self.labels).encode())
        for shard in self.shards:
            digest.update(f"\n{shard.split} {shard.sha256}".encode())
        return digest.hexdigest()

    @property
    def clips(self) -> int:
        """Clips of all splits."""
        return sum(split.clips for split in self.splits.values())

    @property
    def seconds(self) -> Seconds:
        """Length of all clips together."""
        return sum(split.seconds for split in self.splits.values())

    @property
    def sample_rate(self) -> int:
        """The rate in Hz that most clips have; of several such the highest."""
        return max(self.sample_rates, key=lambda rate: (self.sample_rates[rate], rate))

    def shards_of(self, split: str) -> tuple[Shard, ...]:
        """The shards of a split, in order.

        Raises:
            DataError: the dataset has no such split.
        """
        if split not in self.splits:
            raise DataError(f"dataset {self.path!r}: {unknown('split', split, self.splits)}")
        return tuple(shard for shard in self.shards if shard.split == split)

    def rows_of(self, shard: Shard) -> tuple[Manifest, int]:
        """The dataset whose index has the rows of a shard, and the number of the first there."""
        return self, self.first_rows[shard.file]

    @cached_property
    def first_rows(self) -> dict[str, int]:
        """Shard's file to the number of its first row in the index."""
        first, numbers = 0, {}
        for shard in self.shards:
            numbers[shard.file] = first
            first += shard.clips
        return numbers

    def shard_path(self, shard: Shard) -> str:
        """Path or URI of a shard's file."""
        return storage.join(self.path, shard.file)

    def dataset_of(self, shard: Shard) -> int:
        """Which of several joined datasets a shard is of, from 0; see `raudio.data.join`."""
        return 0

    def prefix_of(self, shard: Shard) -> str:
        """What is put before the `clip_id`s of a shard's rows."""
        return ""

    def anywhere(self) -> Manifest:
        """The same, with a path that any process of the machine finds, in whatever folder it is."""
        return dataclasses.replace(self, path=storage.absolute(self.path))

    def decoded_bytes(
        self, sample_rate: Hertz, precision: str, splits: Iterable[str] | None = None
    ) -> int:
        """Memory that the mono samples of `splits` (default: all) take.

        Args:
            sample_rate: that they are resampled to.
            precision: "int16" or "float32".
            splits: names of splits; those the dataset lacks count nothing.
        """
        names = self.splits if splits is None else set(splits)
        seconds = sum(info.seconds for name, info in self.splits.items() if name in names)
        return round(seconds * sample_rate) * SAMPLE_BYTES[precision]


def _from_json(path: str, content: Mapping[str, Any]) -> Manifest:
    version = int(content["format_version"])
    if version != FORMAT_VERSION:
        update = "update raudio, or " if version > FORMAT_VERSION else ""
        raise DataError(
            f"dataset {path!r} has format {version}, and this raudio reads format "
            f"{FORMAT_VERSION}: {update}prepare the dataset again"
        )
    known = {field.name for field in dataclasses.fields(Manifest)} - {"path"}
    values = {name: value for name, value in content.items() if name in known}
    values["labels"] = tuple(values["labels"])
    values["splits"] = {name: SplitInfo(**info) for name, info in values["splits"].items()}
    values["shards"] = tuple(Shard(**shard) for shard in values["shards"])
    values["skipped"] = tuple(Skipped(**skipped) for skipped in values["skipped"])
    for name in ("sample_rates", "channels"):
        values[name] = {int(key): int(count) for key, count in values[name].items()}
    return Manifest(path=path, **values)
