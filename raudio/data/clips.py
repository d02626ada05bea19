"""Decoded clips: shards become Arrow tables of samples, and tables become views of the samples.

Neither torch nor Ray: the tasks that decode run this module alone.

Shapes: N clips, T samples of one clip.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raudio.audio.decode import Precision, decode, decode_window, to_precision
from raudio.core import seeding
from raudio.core.errors import DataError
from raudio.data.manifest import Manifest
from raudio.data.rows import FACTS, read_content, read_index, read_shard

#: The column of the samples; a name that no metadata column of a dataset has.
WAVE = "__wave__"

# What describes the stored file and not the decoded clip.
_OF_THE_FILE = frozenset(
    {"audio", "sample_rate", "frames", "channels", "split", "fold", *(name for name, _ in FACTS)}
)
_TYPES: dict[str, type[np.int16] | type[np.float32]] = {"int16": np.int16, "float32": np.float32}


def decode_shard(
    path: str,
    *,
    sample_rate: int,
    precision: Precision,
    sha256: str | None = None,
    prefix: str = "",
) -> pa.Table:
    """Reads a shard and decodes its clips: mono, at one rate.

    Args:
        path: the shard's file, a local path or a URI.
        sample_rate: in Hz, to resample to.
        precision: of the samples in the result, "int16" or "float32".
        sha256: what the manifest says of the file; None skips the check.
        prefix: of every `clip_id` in the result.

    Returns:
        A table of one chunk: `clip_id`, `group`, `label` and the metadata as stored, and `WAVE`
        (large list of int16 or float32).

    Raises:
        DataError: the shard is missing, damaged or another than the manifest's, or a clip can't be
            decoded; the message names the shard and the clip.
    """
    table = _checked(path, sha256)
    waves = []
    for clip, audio in zip(table["clip_id"].to_pylist(), table["audio"], strict=True):
        wave, _ = decode(audio.as_py(), sample_rate, where=_where(path, clip))
        waves.append(to_precision(wave, precision))
    table = of_the_clip(table, prefix)
    return table.append_column(WAVE, wave_lists(waves, _TYPES[precision])).combine_chunks()


def decode_windows(
    path: str,
    rows: NDArray[np.int64],
    starts: NDArray[np.int64],
    frames: NDArray[np.int64],
    *,
    sample_rate: int,
    precision: Precision,
    sha256: str | None = None,
) -> pa.Table:
    """Reads a shard and decodes windows of its clips, and little more than these.

    Args:
        path, sample_rate, precision, sha256: as `decode_shard`.
        rows: (I,) the clip of each window, ascending; one that comes several times is decoded once,
            as a whole.
        starts, frames: (I,) of each window in its decoded clip.

    Returns:
        A table of `WAVE`, in one chunk.

    Raises:
        DataError: as `decode_shard`, or a clip is shorter than its row says.
    """
    table = _checked(path, sha256)
    waves = []
    for items in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows)) + 1):
        if not len(items):
            continue
        row = int(rows[items[0]])
        where = _where(path, table["clip_id"][row].as_py())
        audio = table["audio"][row].as_py()
        whole = decode(audio, sample_rate, where=where)[0] if len(items) > 1 else None
        for start, length in zip(starts[items].tolist(), frames[items].tolist(), strict=True):
            if whole is None:
                wave = decode_window(audio, start, length, sample_rate, where=where)
            else:
                wave = whole[start : start + length]
            if len(wave) < length:
                raise DataError(
                    f"{where}: ends {length - len(wave)} samples before the length that its row "
                    "says; prepare the dataset again"
                )
            waves.append(to_precision(wave, precision))
    return pa.table({WAVE: wave_lists(waves, _TYPES[precision])})


def cut_windows(
    table: pa.Table,
    rows: NDArray[np.int64],
    starts: NDArray[np.int64],
    frames: NDArray[np.int64],
) -> pa.Table:
    """What `decode_windows` gives, from the table that `decode_shard` gave."""
    clips = waves_of(table)
    windows = zip(rows.tolist(), starts.tolist(), frames.tolist(), strict=True)
    waves = [clips[row][start : start + length] for row, start, length in windows]
    dtype = table[WAVE].type.value_type.to_pandas_dtype()
    return pa.table({WAVE: wave_lists(waves, dtype)})


def of_the_clip(table: pa.Table, prefix: str = "") -> pa.Table:
    """A shard's rows without what describes the stored file; `prefix` before every `clip_id`."""
    table = table.drop_columns([name for name in table.column_names if name in _OF_THE_FILE])
    return prefixed(table, prefix)


def prefixed(table: pa.Table, prefix: str) -> pa.Table:
    """The same rows with `prefix` before every `clip_id`."""
    if prefix:
        ids = pc.binary_join_element_wise(prefix, table["clip_id"], "")
        table = table.set_column(table.column_names.index("clip_id"), "clip_id", ids)
    return table


def _checked(path: str, sha256: str | None) -> pa.Table:
    """A shard's table, if its file is the one that the manifest lists."""
    content = read_content(path, sha256)
    return read_shard(io.BytesIO(content), where=path)


def _where(path: str, clip: str) -> str:
    return f"shard {path}, clip {clip!r}"


def wave_lists(waves: Sequence[NDArray[Any]], dtype: Any) -> pa.LargeListArray:
    """The column `WAVE` of a table: the samples of each row."""
    offsets = np.cumsum([0, *map(len, waves)], dtype=np.int64)
    # The empty array in front decides the type of a table without rows.
    samples = pa.array(np.concatenate([np.empty(0, dtype), *waves]))
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), samples)


def waves_of(table: pa.Table) -> list[NDArray[Any]]:
    """The samples of each row of a table with a column `WAVE`: views, not to be written to."""
    waves: list[NDArray[Any]] = []
    for chunk in table[WAVE].chunks:
        samples = chunk.values.to_numpy(zero_copy_only=True)
        bounds = chunk.offsets.to_pylist()
        waves += [samples[low:high] for low, high in pairwise(bounds)]
    return waves


class Clips:
    """The decoded clips of a split (or of some of its shards), as views of their tables.

    Attributes:
        tables: one a shard, as `decode_shard` gives them; the samples stay where they are.
        lengths: (N,) samples of each clip.
        shard_sizes: clips of each table.
    """

    def __init__(self, tables: Sequence[pa.Table]) -> None:
        self.tables = tuple(tables)
        self.shard_sizes = tuple(table.num_rows for table in self.tables)
        self._samples: list[NDArray[Any]] = []
        starts, lengths, sources = [], [], []
        for table in self.tables:
            chunk: Any  # pa.LargeListArray
            for chunk in table[WAVE].chunks:
                offsets = chunk.offsets.to_numpy(zero_copy_only=True)
                starts.append(offsets[:-1])
                lengths.append(np.diff(offsets))
                sources.append(np.full(len(chunk), len(self._samples)))
                self._samples.append(chunk.values.to_numpy(zero_copy_only=True))
        none = np.empty(0, np.int64)
        self.lengths: NDArray[np.int64] = np.concatenate([none, *lengths])
        self._starts: NDArray[np.int64] = np.concatenate([none, *starts])
        self._sources: NDArray[np.int64] = np.concatenate([none, *sources])

    @classmethod
    def from_tables(cls, tables: Sequence[pa.Table]) -> Clips:
        """The clips of tables in order, without a copy of their samples."""
        return cls(tables)

    def __len__(self) -> int:
        return len(self.lengths)

    def wave(self, position: int) -> NDArray[np.int16] | NDArray[np.float32]:
        """(T,) samples of a clip: a view, not to be written to."""
        start = self._starts[position]
        samples = self._samples[self._sources[position]]
        view: NDArray[np.int16] = samples[start : start + self.lengths[position]]
        return view

    @cached_property
    def ids(self) -> list[str]:
        """Every clip's `clip_id`."""
        return [str(clip) for table in self.tables for clip in table["clip_id"].to_pylist()]

    @cached_property
    def keys(self) -> NDArray[np.uint64]:
        """(N,) what random draws for a clip are addressed by, see `raudio.core.seeding`."""
        return seeding.clip_keys(self.ids)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Every clip's columns without the samples: what a task encodes its targets from."""
        return [row for table in self.tables for row in table.drop_columns([WAVE]).to_pylist()]


def stored_tables(manifest: Manifest, split: str | None = None) -> list[pa.Table]:
    """Every shard's columns of a split (None: of all), read without its audio.

    Raises:
        DataError: there is no such split, or the index is missing or damaged.
    """
    indexes: dict[str, pa.Table] = {}
    tables = []
    for shard in manifest.shards if split is None else manifest.shards_of(split):
        owner, first = manifest.rows_of(shard)
        if owner.path not in indexes:
            indexes[owner.path] = read_index(owner)
        tables.append(indexes[owner.path].slice(first, shard.clips))
    return tables


def load_clips(manifest: Manifest, split: str, *, sample_rate: int, precision: Precision) -> Clips:
    """Decodes a whole split in this process, without Ray.

    Raises:
        DataError: there is no such split, or as `decode_shard`.
    """
    return Clips.from_tables(
        [
            decode_shard(
                manifest.shard_path(shard),
                sample_rate=sample_rate,
                precision=precision,
                sha256=shard.sha256,
                prefix=manifest.prefix_of(shard),
            )
            for shard in manifest.shards_of(split)
        ]
    )
