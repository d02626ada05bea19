"""The rows of a dataset: one clip each, in Parquet shards.

| column | type | meaning |
| --- | --- | --- |
| clip_id | string | unique in the dataset: the file's path inside its source |
| audio | binary | the encoded file (FLAC by default) |
| sample_rate, frames, channels | int32, int64, int32 | of `audio`; frames are samples a channel |
| split | string | train, valid or test; the same for all rows of a shard |
| group | string or null | speaker, site, ...: what must not straddle splits |
| label | string or null | the class, of data with one class a clip |
| peak, rms | float32 | largest and root mean square value of the mono samples, full scale is 1 |
| clipped | int32 | samples at full scale |
| content | string | hash of the decoded samples: equal for the same sound |
| dc | float32 | mean of the samples |
| silence | float32 | share of the clip, in frames of 20 ms, below -60 dB of full scale |
| snr | float32 or null | estimate in dB; null for digital silence, as is the bandwidth |
| speech | float32 | estimate of how much it is like speech, 0 to 1 |
| bandwidth | float32 or null | highest frequency in Hz that has power |
| labels | list of string | the classes, of multi-label data; there alone |
| events | list of {label, onset, offset} | in seconds, by onset; where the data has them |
| fold | int32 | of a cross-validation; where there are folds, and the same for a whole shard |

and any further column of the label file, as metadata, with its own name.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raudio.core import storage
from raudio.core.errors import DataError, OutOfReachError
from raudio.data.manifest import INDEX, Manifest, Shard

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
#: Columns that a dataset has where its data do.
OPTIONAL: dict[str, pa.DataType] = {
    "labels": pa.list_(pa.string()),
    "events": EVENTS,
    "fold": pa.int32(),
}
RESERVED = frozenset({*(name for name, _ in COLUMNS), *OPTIONAL})


def schema(metadata: Mapping[str, pa.DataType], optional: Collection[str] = ()) -> pa.Schema:
    """The columns of every shard of a dataset.

    Args:
        metadata: further columns and their types; they come last, sorted by name.
        optional: those of `OPTIONAL` that the dataset has.
    """
    assert not RESERVED & set(metadata), "a metadata column takes the name of a fixed one"
    own = [(name, type_) for name, type_ in OPTIONAL.items() if name in optional]
    further = [(name, metadata[name]) for name in sorted(metadata)]
    return pa.schema([*COLUMNS, *own, *further])


def shard_file(split: str, number: int) -> str:
    """A shard's path inside its dataset."""
    return f"shards/{split}-{number:05d}.parquet"


def to_table(rows: Sequence[Mapping[str, Any]], columns: pa.Schema) -> pa.Table:
    """Rows as a table of exactly `columns`: what a row lacks is null."""
    return pa.Table.from_pylist(list(rows), schema=columns)


def write_shard(
    folder: str | os.PathLike[str], file: str, rows: pa.Table, fold: int | None = None
) -> Shard:
    """Writes rows of one split and fold as `file` in `folder`: whole or not at all.

    The same rows give the same bytes.

    Raises:
        OSError: it cannot be written.
    """
    others = [name for name in rows.column_names if name != "audio"]
    # Encoded audio does not get smaller; and statistics of it would copy clips to the footer.
    content = _parquet(
        rows,
        row_group_size=rows.num_rows,
        compression={"audio": "none", **dict.fromkeys(others, "zstd")},
        use_dictionary=False,
        write_statistics=[n for n in others if pa.types.is_primitive(rows.schema.field(n).type)],
    )
    storage.write_atomic(storage.join(folder, file), content)
    frames = rows["frames"].to_numpy()
    seconds = frames / rows["sample_rate"].to_numpy()
    return Shard(
        file=file,
        split=rows["split"][0].as_py(),
        fold=fold,
        clips=rows.num_rows,
        frames=int(frames.sum()),
        seconds=round(float(seconds.sum()), 6),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def write_index(folder: str | os.PathLike[str], rows: pa.Table) -> str:
    """Writes the rows of all shards, in order and without `audio`; returns the file's SHA-256.

    Raises:
        OSError: it cannot be written.
    """
    content = _parquet(rows, compression="zstd")
    storage.write_atomic(storage.join(folder, INDEX), content)
    return hashlib.sha256(content).hexdigest()


def read_index(manifest: Manifest, columns: Iterable[str] | None = None) -> pa.Table:
    """The rows of all shards of a dataset, in order, without `audio`.

    Args:
        manifest: of the dataset.
        columns: names; None is all. Those that the dataset lacks are left out.

    Raises:
        DataError: the index is missing, damaged or another than the manifest's.
    """
    path = storage.join(manifest.path, INDEX)
    content = read_content(path, manifest.index_sha256, what="index")
    with _readable(f"index {path}"):
        names = pq.read_schema(io.BytesIO(content)).names
        wanted = names if columns is None else [name for name in columns if name in names]
        return pq.read_table(io.BytesIO(content), columns=wanted)


def read_content(path: str, sha256: str | None = None, *, what: str = "shard") -> bytes:
    """The bytes of a dataset's file.

    Args:
        path: local path or URI.
        sha256: what the manifest says of it; None skips the check.
        what: messages call it.

    Raises:
        DataError: it is missing, cannot be read, or is another than the manifest's;
            OutOfReachError: its store does not recover.
    """
    with _reaching(path, what):
        content = storage.read_bytes(path)
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(
            f"{what} {path} is not the one that the dataset's manifest lists (its SHA-256 differs, "
            f"it has {len(content)} bytes); prepare the dataset again, or copy it again whole"
        )
    return content


def check_size(path: str, size: int) -> None:
    """Refuses a shard of another size than the manifest says, without reading it.

    Raises:
        DataError: so it is, or it is missing or out of reach.
    """
    with _reaching(path, "shard"):
        found = storage.stat(path).size
    if found != size:
        raise DataError(
            f"shard {path} has {found} bytes, and the dataset's manifest lists {size}; prepare the "
            "dataset again, or copy it again whole"
        )


def read_shard(
    source: str | io.BytesIO, columns: Iterable[str] | None = None, *, where: str = ""
) -> pa.Table:
    """A shard's table, or some columns of it.

    Args:
        source: path or URI, or the file's content.
        columns: names; None is all.
        where: what messages call it, when `source` is content.

    Raises:
        DataError: the shard is missing or damaged.
    """
    content = io.BytesIO(read_content(source)) if isinstance(source, str) else source
    with _readable(f"shard {where or source}"):
        return pq.read_table(content, columns=None if columns is None else list(columns))


@contextmanager
def _reaching(path: str, what: str) -> Iterator[None]:
    """What keeps the file from being read becomes a `DataError`."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{what} {path} is missing; prepare the dataset again") from None
    except storage.StoreError as error:
        raise OutOfReachError(f"{what} {path} cannot be read: {error}") from error
    except OSError as error:
        raise DataError(f"{what} {path} cannot be read: {error}") from error


def _parquet(rows: pa.Table, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, store_schema=True, **options)
    return buffer.getvalue()


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """What is wrong with the content of the file `name` becomes a `DataError`."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name} is damaged ({error}); prepare the dataset again") from error
