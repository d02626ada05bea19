"""Writing a dataset: whole or not at all, the same bytes every time, and on after a kill.

Everything is written to a hidden folder beside the dataset's, which gets the dataset's name at the
end. Clips are encoded by threads (the codecs release Python's lock) and written in order, so the
bytes do not depend on how many threads there are. Memory: one shard, and a few clips a thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from raudio.core import machine, storage
from raudio.core.errors import DataError
from raudio.data import rows
from raudio.data.manifest import MANIFEST, SPLITS, Manifest, Shard, Skipped, SplitInfo

T = TypeVar("T")
R = TypeVar("R")

Row = dict[str, Any]
Echo = Callable[[str], None]
#: Told how many clips of how many are done.
Progress = Callable[[int, int], None]

#: A dataset smaller than this many full shards gets smaller ones, so that several processes can
#: decode it and a few of them shuffle well.
_WISHED_SHARDS = 16
_SMALLEST_SHARD = 2**18
_LARGEST_CLIP = 2**30


def silent(_: str) -> None:
    """Says nothing."""


@dataclass(frozen=True)
class Task(Generic[T]):
    """What to write.

    Attributes:
        clips: split to clips, in the order to be written.
        encode: a clip to its row (all columns but `split`), or why it is left out. Called by
            several threads at once.
        clip_id: of a clip, as its row has it.
        key: names the work: only what was written under the same key is gone on with.
        metadata: further columns of the rows and their types.
        taken: what was taken for what, a sentence each; for the manifest and the user.
        source, licence, made_with, skipped: for the manifest.
        shard_bytes: of audio after which a shard is full.
        total_bytes: of all audio, roughly.
    """

    clips: Mapping[str, Sequence[T]]
    encode: Callable[[T], Row | Skipped]
    clip_id: Callable[[T], str]
    key: str
    metadata: Mapping[str, pa.DataType]
    source: str
    licence: str
    made_with: Mapping[str, Any]
    taken: Sequence[str]
    shard_bytes: int
    total_bytes: int
    skipped: Sequence[Skipped] = ()


def check_new(out: str | os.PathLike[str]) -> Path:
    """`out` as the path of a dataset to be.

    Raises:
        DataError: it exists, or is a URI.
    """
    if storage.is_remote(out):
        raise DataError(
            f"out {os.fspath(out)!r} is a URI; write to a local folder and copy it there "
            "(training reads datasets from URIs)"
        )
    path = Path(out).expanduser()
    if path.exists():
        raise DataError(f"out {str(path)!r} exists; give a new folder, or remove this one first")
    return path


def write_dataset(
    out: Path,
    task: Task[T],
    *,
    reuse: bool = False,
    workers: int | None = None,
    echo: Echo = silent,
    progress: Progress | None = None,
) -> Manifest:
    """Encodes the clips of `task` into a dataset at `out`.

    Args:
        out: folder that is to be the dataset.
        task: the clips, and how to encode them.
        reuse: when another process has made `out` meanwhile, take that.
        workers: threads; None is one a CPU.
        echo, progress: told what happens.

    Raises:
        DataError: `out` exists or cannot be written, or whatever encoding raises. Nothing is left.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _alone(out, echo):
            if out.exists():
                if reuse:
                    return Manifest.read(out)
                check_new(out)
            partial = out.parent / f".{out.name}.{task.key[:12]}.partial"
            try:
                manifest = _write(partial, out, task, workers, echo, progress)
                os.rename(partial, out)
            except Exception:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            for stale in out.parent.glob(f".{out.name}.*.partial"):
                shutil.rmtree(stale, ignore_errors=True)
    except OSError as error:
        raise DataError(f"cannot write {str(out)!r}: {error}") from error
    return manifest


def _write(
    partial: Path,
    out: Path,
    task: Task[T],
    workers: int | None,
    echo: Echo,
    progress: Progress | None,
) -> Manifest:
    (partial / "shards").mkdir(parents=True, exist_ok=True)
    columns = rows.schema(task.metadata)
    limit = min(task.shard_bytes, max(_SMALLEST_SHARD, task.total_bytes // _WISHED_SHARDS))
    total = sum(len(members) for members in task.clips.values())
    done = 0
    shards: list[Shard] = []
    skipped = list(task.skipped)
    threads = workers or machine.cpus()
    with ThreadPoolExecutor(threads) as pool:
        for split in SPLITS:
            before, written = _written(partial, split)
            if before:
                shards += before
                done += len(written)
                echo(f"going on after {len(before)} shards of {split} that are there already")
            clips = task.clips.get(split, ())
            waiting = [clip for clip in clips if task.clip_id(clip) not in written]
            number, filled = len(before), 0
            shard: list[Row] = []
            for row in _in_order(pool, task.encode, waiting, ahead=4 * threads):
                done += 1
                if progress:
                    progress(done, total)
                if isinstance(row, Skipped):
                    skipped.append(row)
                    continue
                if len(row["audio"]) > _LARGEST_CLIP:
                    raise DataError(
                        f"{row['clip_id']!r} is longer than a dataset's clip can be "
                        f"({len(row['audio'])} bytes encoded); cut it into pieces"
                    )
                shard.append({**row, "split": split})
                filled += len(row["audio"])
                if filled >= limit:
                    file = rows.shard_file(split, number)
                    shards.append(rows.write_shard(partial, file, shard, columns))
                    number, filled, shard = number + 1, 0, []
            if shard:
                file = rows.shard_file(split, number)
                shards.append(rows.write_shard(partial, file, shard, columns))
    manifest = _manifest(partial, out, shards, skipped, task)
    storage.write_atomic(partial / MANIFEST, manifest.to_json())
    return manifest


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int
) -> Iterator[R]:
    """`map` by threads, at most `ahead` results ahead of who takes them."""
    running: deque[Future[R]] = deque()
    try:
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) >= ahead:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()


def _written(partial: Path, split: str) -> tuple[list[Shard], set[str]]:
    """Shards of an interrupted preparation, and the clips in them."""
    shards: list[Shard] = []
    ids: set[str] = set()
    while (partial / (file := rows.shard_file(split, len(shards)))).is_file():
        shards.append(rows.shard_facts(partial, file))
        table = rows.read_shard(str(partial / file), ["clip_id"])
        ids.update(table["clip_id"].to_numpy(zero_copy_only=False).tolist())
    return shards, ids


def _manifest(
    partial: Path, out: Path, shards: Sequence[Shard], skipped: Sequence[Skipped], task: Task[Any]
) -> Manifest:
    """What the written shards hold, read back from them."""
    tables = [
        rows.read_shard(
            str(partial / s.file), ["split", "label", "frames", "sample_rate", "channels"]
        )
        for s in shards
    ]
    if not tables:
        raise DataError("no clip could be used, so there is no dataset; see the skipped files")
    table = pa.concat_tables(tables)
    seconds = table["frames"].to_numpy() / table["sample_rate"].to_numpy()
    labels = table["label"].to_numpy(zero_copy_only=False)
    of_split = table["split"].to_numpy(zero_copy_only=False)
    splits: dict[str, SplitInfo] = {}
    for split in dict.fromkeys(shard.split for shard in shards):
        chosen = of_split == split
        counts = Counter(labels[chosen].tolist())
        splits[split] = SplitInfo(
            clips=int(chosen.sum()),
            seconds=round(float(seconds[chosen].sum()), 6),
            class_counts={label: counts[label] for label in sorted(counts)},
        )
    low, median, p95, high = np.quantile(seconds, [0, 0.5, 0.95, 1]).tolist()
    rates: Counter[int] = Counter(table["sample_rate"].to_numpy().tolist())
    channels: Counter[int] = Counter(table["channels"].to_numpy().tolist())
    if len(set(labels.tolist())) < 2 or not {"train", "valid"} <= set(splits):
        raise DataError(
            f"after leaving out {len(skipped)} files, what is left has {len(set(labels))} classes "
            f"and the splits {', '.join(splits)}; a dataset needs two classes, train and valid"
        )
    return Manifest(
        path=str(out),
        labels=tuple(sorted(set(labels.tolist()))),
        splits=splits,
        shards=tuple(shards),
        sample_rates={rate: rates[rate] for rate in sorted(rates)},
        channels={count: channels[count] for count in sorted(channels)},
        seconds_min=round(low, 6),
        seconds_median=round(median, 6),
        seconds_p95=round(p95, 6),
        seconds_max=round(high, 6),
        source=task.source,
        licence=task.licence,
        made_with={**task.made_with, "taken": list(task.taken)},
        skipped=tuple(skipped),
    )


@contextlib.contextmanager
def _alone(out: Path, echo: Echo) -> Iterator[None]:
    """Only one process at a time makes `out`; another waits, and sees what the first has made."""
    path = out.parent / f".{out.name}.lock"
    said = False
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file may be one that its former holder has removed: then it locks nobody out.
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                break
        except FileNotFoundError:
            pass
        except BlockingIOError:
            if not said:
                echo(f"waiting for another process that is making {str(out)!r}")
                said = True
            time.sleep(0.2)
        os.close(descriptor)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
