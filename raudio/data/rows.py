"""The rows of a dataset: one clip each, in Parquet shards.

| column | type | meaning |
| --- | --- | --- |
| clip_id | string | unique in the dataset: the file's path inside its source |
| audio | binary | the encoded file (FLAC by default) |
| sample_rate, frames, channels | int32, int64, int32 | of `audio`; frames are samples a channel |
| split | string | train, valid or test; the same for all rows of a shard |
| group | string or null | speaker, site, ...: what must not straddle splits |
| label | string | the class |
| peak, rms | float32 | largest and root mean square value of the mono samples, full scale is 1 |
| clipped | int32 | samples at full scale |
| content | string | hash of the decoded samples: equal for the same sound |
| dc | float32 | mean of the samples |
| silence | float32 | share of the clip, in frames of 20 ms, below -60 dB of full scale |
| snr | float32 or null | estimate in dB; null for digital silence, as is the bandwidth |
| speech | float32 | estimate of how much it is like speech, 0 to 1 |
| bandwidth | float32 or null | highest frequency in Hz that has power |
| events | list of {label, onset, offset} | where the data has them; in seconds |

and any further column of the label file, as metadata, with its own name.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from raudio.core import storage
from raudio.core.errors import DataError
from raudio.data.manifest import Shard

EVENTS = pa.list_(
    pa.struct([("label", pa.string()), ("onset", pa.float64()), ("offset", pa.float64())])
)
#: What `raudio.data.facts` measures.
FACTS: tuple[tuple[str, pa.DataType], ...] = (
    ("peak", pa.float32()),
    ("rms", pa.float32()),
    ("clipped", pa.int32()),
    ("content", pa.string()),
    ("dc", pa.float32()),
    ("silence", pa.float32()),
    ("snr", pa.float32()),
    ("speech", pa.float32()),
    ("bandwidth", pa.float32()),
)
COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    ("clip_id", pa.string()),
    ("audio", pa.binary()),
    ("sample_rate", pa.int32()),
    ("frames", pa.int64()),
    ("channels", pa.int32()),
    ("split", pa.string()),
    ("group", pa.string()),
    ("label", pa.string()),
    *FACTS,
)
RESERVED = frozenset(name for name, _ in COLUMNS)


def schema(metadata: Mapping[str, pa.DataType]) -> pa.Schema:
    """The columns of every shard of a dataset: the fixed ones, then `metadata` sorted by name."""
    assert not RESERVED & set(metadata), "a metadata column takes the name of a fixed one"
    further = [(name, metadata[name]) for name in sorted(metadata)]
    return pa.schema([*COLUMNS, *further])


def shard_file(split: str, number: int) -> str:
    """A shard's path inside its dataset."""
    return f"shards/{split}-{number:05d}.parquet"


def write_shard(
    folder: str | os.PathLike[str],
    file: str,
    rows: Sequence[Mapping[str, Any]],
    columns: pa.Schema,
) -> Shard:
    """Writes rows of one split as `file` in `folder`: whole or not at all, same rows same bytes."""
    table = pa.Table.from_pylist(list(rows), schema=columns)
    others = [name for name in columns.names if name != "audio"]
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        row_group_size=len(rows),
        # Encoded audio does not get smaller; and statistics of it would copy clips to the footer.
        compression={"audio": "none", **dict.fromkeys(others, "zstd")},
        use_dictionary=False,
        write_statistics=[n for n in others if pa.types.is_primitive(columns.field(n).type)],
        store_schema=True,
    )
    content = buffer.getvalue()
    storage.write_atomic(storage.join(folder, file), content)
    return _facts(file, table.drop_columns(["audio"]), content)


def shard_facts(folder: str | os.PathLike[str], file: str) -> Shard:
    """What a manifest says of a shard that is already there.

    Raises:
        DataError: it cannot be read.
    """
    content = read_content(storage.join(folder, file))
    table = read_shard(io.BytesIO(content), ["split", "frames", "sample_rate"], where=file)
    return _facts(file, table, content)


def read_content(path: str) -> bytes:
    """The bytes of a shard's file.

    Raises:
        DataError: it is missing or cannot be read.
    """
    try:
        return storage.read_bytes(path)
    except FileNotFoundError:
        raise DataError(f"shard {path} is missing; prepare the dataset again") from None
    except OSError as error:
        raise DataError(f"shard {path} cannot be read: {error}") from error


def read_shard(
    source: str | io.BytesIO, columns: Iterable[str] | None = None, *, where: str = ""
) -> pa.Table:
    """A shard's table, or some columns of it; only those are read from the store.

    Args:
        source: path or URI, or the file's content.
        columns: names; None is all.
        where: what messages call it, when `source` is content.

    Raises:
        DataError: the shard is missing or damaged.
    """
    wanted = None if columns is None else list(columns)
    with _readable(where or str(source)):
        if isinstance(source, str):
            fs, inner = fsspec.core.url_to_fs(source)
            with fs.open(inner, "rb") as file:
                return pq.read_table(file, columns=wanted)
        return pq.read_table(source, columns=wanted)


def shard_columns(path: str) -> list[str]:
    """Names of a shard's columns; nothing but its footer is read.

    Raises:
        DataError: the shard is missing or damaged.
    """
    with _readable(path):
        fs, inner = fsspec.core.url_to_fs(path)
        with fs.open(inner, "rb") as file:
            return list(pq.read_schema(file).names)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """What goes wrong in reading the shard `name` becomes a `DataError`."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"shard {name} is missing; prepare the dataset again") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"shard {name} is damaged ({error}); prepare the dataset again") from error


def _facts(file: str, table: pa.Table, content: bytes) -> Shard:
    frames = table["frames"].to_numpy()
    seconds = frames / table["sample_rate"].to_numpy()
    return Shard(
        file=file,
        split=table["split"][0].as_py(),
        clips=table.num_rows,
        frames=int(frames.sum()),
        seconds=round(float(seconds.sum()), 6),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
