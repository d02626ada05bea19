"""Decoded shards, kept on this machine's disk: made once, for all trials and for later searches.

Neither torch nor Ray.
"""

from __future__ import annotations

import functools
from pathlib import Path

import pyarrow as pa
import soundfile
import soxr

from raudio.audio.decode import Precision
from raudio.config.schema import Dataset
from raudio.core.units import parse_bytes
from raudio.data.cache import content_key, derived_cache
from raudio.data.clips import decode_shard, prefixed
from raudio.data.manifest import Manifest
from raudio.data.rows import check_size

#: Counts changes of what decoding gives for the same file.
_VERSION = 1


def room_for_decoded(settings: Dataset, manifest: Manifest, sample_rate: int) -> int:
    """The limit of the cache in bytes, or 0 where the decoded dataset is larger than it: an epoch
    would then remove each shard before the next epoch reads it.

    Args:
        settings: `cache_limit` and `precision` decide.
        manifest: of the dataset.
        sample_rate: in Hz, that clips are decoded to.

    Raises:
        ConfigError: `cache_limit` is not a size.
    """
    limit = parse_bytes(settings.cache_limit, "dataset.cache_limit")
    return limit if manifest.decoded_bytes(sample_rate, settings.precision) <= limit else 0


def kept_shard(
    path: str,
    *,
    sample_rate: int,
    precision: Precision,
    sha256: str,
    size: int,
    limit: int,
    prefix: str = "",
) -> pa.Table | None:
    """What `decode_shard` gives, mapped from the cache, where it is put first if it is not there.

    Args:
        path, sample_rate, precision, sha256, prefix: as `decode_shard`.
        size: what the manifest says of the file, in bytes. It is looked at each time: a dataset
            that has gone or was cut off is told, whatever the cache holds of it.
        limit: of the cache, in bytes.

    Returns:
        The table; None when the cache has no room for it.

    Raises:
        DataError: as `decode_shard`.
    """
    if limit <= 0:
        return None
    check_size(path, size)
    key = content_key(
        what="decoded clips",
        version=_VERSION,
        shard=sha256,
        sample_rate=sample_rate,
        precision=precision,
        soundfile=soundfile.__libsndfile_version__,
        soxr=soxr.__version__,
    )
    write = functools.partial(
        _write, source=path, sample_rate=sample_rate, precision=precision, sha256=sha256
    )
    table = derived_cache(limit).fetch(key, _read, write)
    return None if table is None else prefixed(table, prefix)


def _read(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _write(path: Path, *, source: str, sample_rate: int, precision: Precision, sha256: str) -> None:
    table = decode_shard(source, sample_rate=sample_rate, precision=precision, sha256=sha256)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
