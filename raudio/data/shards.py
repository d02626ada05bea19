"""A dataset's shards as independent pieces of work, planned up front.

Which clips a shard holds follows from the clips and the options alone, so any process may make it,
in any order, and comes to the same bytes; a clip that cannot be used makes its shard smaller, and
changes no other. Beside the dataset's shards, in `.parts`, each leaves its part of the index and
what it left out: what a preparation has to show for its work until it is finished.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from raudio.core import storage
from raudio.core.errors import DataError
from raudio.data import rows
from raudio.data.manifest import SPLITS, Shard, Skipped

T = TypeVar("T")

Row = dict[str, Any]

#: Folder of the parts, inside the dataset's.
PARTS = ".parts"
_NOTE = b"raudio"
_READERS = 16


@dataclass(frozen=True)
class Plan(Generic[T]):
    """One shard to be made.

    Attributes:
        file: its path inside the dataset.
        split, fold: that all its clips belong to.
        clips: in order. Their `repr` tells clips apart, and says whether a file has changed.
    """

    file: str
    split: str
    fold: int | None
    clips: tuple[T, ...]


@dataclass(frozen=True)
class Work(Generic[T]):
    """What all shards of a dataset have in common; goes to every process that makes one.

    Attributes:
        folder: local path or URI that the shards are written to.
        encode: a clip to its row (all columns but `split` and `fold`), or why it is left out.
            Called by several threads at once.
        columns: of the shards.
        key: names what shapes a row besides the clip: a shard made under another is made anew.
    """

    folder: str
    encode: Callable[[T], Row | Skipped]
    columns: pa.Schema
    key: str

    def key_of(self, plan: Plan[T]) -> str:
        """A hash of all that decides a shard's bytes."""
        text = repr((self.key, self.columns.to_string(), plan))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Part:
    """What is known of a finished shard.

    Attributes:
        key: see `Work.key_of`.
        shard: for the manifest; None when no clip of it could be used: then there is no file.
        skipped: clips that could not be used.
        rows: the others' columns without `audio`.
    """

    key: str
    shard: Shard | None
    skipped: tuple[Skipped, ...]
    rows: pa.Table


def cut(
    clips: Mapping[tuple[str, int | None], Sequence[T]], size: Callable[[T], int], limit: int
) -> list[Plan[T]]:
    """Cuts the clips of each split and fold, in their order, into shards.

    Args:
        clips: (split, fold) to clips.
        size: bytes that a clip is expected to take.
        limit: of bytes after which a shard is full.
    """
    plans: list[Plan[T]] = []
    for split in SPLITS:
        number = 0
        for fold in sorted(
            (f for s, f in clips if s == split), key=lambda f: -1 if f is None else f
        ):
            for members in _filled(clips[split, fold], size, limit):
                plans.append(Plan(rows.shard_file(split, number), split, fold, tuple(members)))
                number += 1
    return plans


def _filled(clips: Iterable[T], size: Callable[[T], int], limit: int) -> Iterable[list[T]]:
    members: list[T] = []
    filled = 0
    for clip in clips:
        members.append(clip)
        filled += size(clip)
        if filled >= limit:
            yield members
            members, filled = [], 0
    if members:
        yield members


def make(work: Work[T], plan: Plan[T]) -> int:
    """Encodes the clips of one shard, writes it, then its part; returns how many clips it had.

    Memory: a few times the shard.

    Raises:
        DataError: it cannot be written, or whatever encoding raises.
    """
    encoded: list[Row] = []
    skipped: list[Skipped] = []
    for clip in plan.clips:
        row = work.encode(clip)
        if isinstance(row, Skipped):
            skipped.append(row)
        else:
            encoded.append({**row, "split": plan.split, "fold": plan.fold})
    table = rows.to_table(encoded, work.columns)
    try:
        shard = None
        if encoded:
            shard = rows.write_shard(work.folder, plan.file, table, plan.fold)
        part = Part(work.key_of(plan), shard, tuple(skipped), table.drop_columns(["audio"]))
        _write_part(storage.join(work.folder, _part_file(plan.file)), part)
    except OSError as error:
        where = storage.join(work.folder, plan.file)
        raise DataError(f"cannot write {where}: {error.strerror or error}") from error
    return len(plan.clips)


def finished(work: Work[T], plans: Sequence[Plan[T]]) -> set[str]:
    """The files of those shards of an interrupted preparation that need not be made again.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        there = storage.listing(work.folder)
    except OSError as error:
        raise DataError(f"{work.folder!r} cannot be read: {error}") from error
    begun = [plan for plan in plans if _part_file(plan.file) in there]
    done: set[str] = set()
    for plan, part in zip(begun, read_parts(work.folder, begun), strict=True):
        if part is None or part.key != work.key_of(plan):
            continue
        if part.shard is None or (plan.file in there and there[plan.file].size == part.shard.bytes):
            done.add(plan.file)
    return done


def read_parts(folder: str, plans: Sequence[Plan[Any]]) -> list[Part | None]:
    """The part that each shard has left; None when what is there is none.

    Raises:
        DataError: one is missing, or cannot be read.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(lambda plan: _read_part(folder, plan.file), plans))


def _read_part(folder: str, file: str) -> Part | None:
    content = rows.read_content(storage.join(folder, _part_file(file)), what="part")
    try:
        table = pq.read_table(io.BytesIO(content))
        note = json.loads(table.schema.metadata[_NOTE])
        return Part(
            note["key"],
            Shard(**note["shard"]) if note["shard"] else None,
            tuple(Skipped(**each) for each in note["skipped"]),
            table.replace_schema_metadata(None),
        )
    except (pa.ArrowException, KeyError, TypeError, ValueError):
        return None


def _write_part(path: str, part: Part) -> None:
    note = {
        "key": part.key,
        "shard": asdict(part.shard) if part.shard else None,
        "skipped": [asdict(each) for each in part.skipped],
    }
    buffer = io.BytesIO()
    pq.write_table(part.rows.replace_schema_metadata({_NOTE: json.dumps(note)}), buffer)
    storage.write_atomic(path, buffer.getvalue())


def _part_file(file: str) -> str:
    return f"{PARTS}/{file.rpartition('/')[2]}"
