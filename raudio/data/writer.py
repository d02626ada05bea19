"""Writing a dataset: whole or not at all, the same bytes every time, and on after a kill.

A local dataset is made in a hidden folder beside its own, which gets its name at the end. Object
stores cannot rename: there the shards are written in their place, and the manifest last. Either way
what a preparation has finished stays when it ends early, and the next one goes on from there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow as pa

from raudio.core import storage
from raudio.core.errors import DataError
from raudio.data import rows, shards
from raudio.data.executors import Execution
from raudio.data.manifest import INDEX, MANIFEST, Manifest, Skipped
from raudio.data.shards import PARTS, Part, Row, Work
from raudio.data.summary import leaks, summarise

T = TypeVar("T")

Echo = Callable[[str], None]
#: Told how many clips of how many are done.
Progress = Callable[[int, int], None]

#: A dataset smaller than this many full shards gets smaller ones, so that several processes can
#: decode it and a few of them shuffle well.
_WISHED_SHARDS = 16
_SMALLEST_SHARD = 2**18
#: So many unusable files are named in a message; more are listed in a file.
_NAMED = 20
_BAD_FILES = "bad-files.txt"


def silent(_: str) -> None:
    """Says nothing."""


@dataclass(frozen=True, kw_only=True)
class Task(Generic[T]):
    """What to write.

    Attributes:
        clips: split and fold (None where there are no folds) to clips, in the order to be written.
        encode: a clip to its row, see `Work.encode`. Goes to other processes.
        size: of a clip: the bytes that it is expected to take in a shard.
        key: names what shapes a row besides the clip, see `Work.key`.
        metadata: further columns of the rows and their types.
        optional: those of `rows.OPTIONAL` that the rows have.
        taken: what was taken for what, a sentence each; for the manifest and the user.
        source, licence, made_with: for the manifest.
        shard_bytes: of audio after which a shard is full.
        source_bytes: of all recordings.
        skipped: files that were found unusable before.
        skip_bad: leave out what cannot be used; else there is no dataset then.
        allow_leaks: a recording in two splits is worth a sentence; else there is no dataset then.
    """

    clips: Mapping[tuple[str, int | None], Sequence[T]]
    encode: Callable[[T], Row | Skipped]
    size: Callable[[T], int]
    key: str
    metadata: Mapping[str, pa.DataType]
    optional: Sequence[str] = ()
    taken: Sequence[str] = ()
    source: str
    licence: str
    made_with: Mapping[str, Any]
    shard_bytes: int = 64 * 10**6
    source_bytes: int = 0
    skipped: Sequence[Skipped] = ()
    skip_bad: bool = False
    allow_leaks: bool = True


def check_new(out: str | os.PathLike[str]) -> str:
    """`out` as the local path or URI of a dataset to be.

    Raises:
        DataError: it exists, or cannot be written to. A URI may hold an unfinished preparation.
    """
    if not storage.is_remote(out):
        path = Path(out).expanduser()
        if path.exists():
            raise DataError(
                f"out {str(path)!r} exists; give a new folder, or remove this one first"
            )
        return str(path)
    target = os.fspath(out).rstrip("/")
    if target.startswith(("http://", "https://")):
        raise DataError(f"out {target!r} cannot be written to; give a local folder or s3://...")
    try:
        taken = storage.exists(target) and not storage.exists(storage.join(target, PARTS))
    except OSError as error:
        raise DataError(f"out {target!r} cannot be reached: {error}") from error
    if taken:
        raise DataError(f"out {target!r} exists; give a new folder, or remove this one first")
    return target


def write_dataset(
    out: str | os.PathLike[str],
    task: Task[T],
    *,
    reuse: bool = False,
    execution: Execution | None = None,
    echo: Echo = silent,
    progress: Progress | None = None,
) -> Manifest:
    """Encodes the clips of `task` into a dataset at `out`.

    Args:
        out: local path or URI of the folder that is to be the dataset.
        task: the clips, and how to encode them.
        reuse: when another process has made the local folder `out` meanwhile, take that.
        execution: who does it.
        echo, progress: told what happens.

    Raises:
        DataError: `out` exists or cannot be written, or there are clips that cannot be used, or
            recordings in two splits, where the task does not allow that. There is no dataset then;
            finished shards are kept for the next preparation of `out`.
    """
    target = os.fspath(out)
    remote = storage.is_remote(target)
    path = Path(target)
    work = Work(
        folder=target if remote else str(path.parent / f".{path.name}.partial"),
        encode=task.encode,
        columns=rows.schema(task.metadata, task.optional),
        key=task.key,
    )
    alone = _claimed(work, task) if remote else _locked(path, echo)
    try:
        with alone:
            if not remote and path.exists() and reuse:
                return Manifest.read(target)
            check_new(target)
            try:
                return _write(target, work, task, execution or Execution(), echo, progress)
            except (DataError, OSError) as error:
                what = "" if isinstance(error, DataError) else f"cannot write {target!r}: "
                raise DataError(f"{what}{error}{_kept(work.folder)}") from error
    except OSError as error:
        raise DataError(f"cannot write {target!r}: {error}") from error


def _write(
    target: str,
    work: Work[T],
    task: Task[T],
    execution: Execution,
    echo: Echo,
    progress: Progress | None,
) -> Manifest:
    clips = [clip for members in task.clips.values() for clip in members]
    expected = sum(map(task.size, clips))
    limit = min(task.shard_bytes, max(_SMALLEST_SHARD, expected // _WISHED_SHARDS))
    plans = shards.cut(task.clips, task.size, limit)
    before = shards.finished(work, plans)
    done = sum(len(plan.clips) for plan in plans if plan.file in before)
    if before:
        echo(f"going on after {len(before)} of {len(plans)} shards that are there already")
    missing = [plan for plan in plans if plan.file not in before]
    for count in execution.run(work, missing, task.source_bytes):
        done += count
        if progress:
            progress(done, len(clips))

    parts = [part for part in shards.read_parts(work.folder, plans) if part is not None]
    assert len(parts) == len(plans), "a shard that was just made has no part"
    bad = [skipped for part in parts for skipped in part.skipped]
    if bad and not task.skip_bad:
        raise DataError(_unusable(bad, len(clips), work.folder))
    manifest = _index(target, work, task, parts, bad, echo)
    _publish(target, work.folder, manifest)
    return manifest


def _index(
    target: str,
    work: Work[T],
    task: Task[T],
    parts: Sequence[Part],
    bad: Sequence[Skipped],
    echo: Echo,
) -> Manifest:
    """Writes the index of the shards; returns their manifest."""
    table = pa.concat_tables([part.rows for part in parts])
    if found := leaks(table):
        one, other = found[0]
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        leak = f"the same recording is in two splits ({one} and {other}{more})"
        if not task.allow_leaks:
            raise DataError(
                f"{leak}: what is measured would be too good; correct the splits, or accept it "
                "with --allow-leaks"
            )
        echo(f"warning: {leak}: what is measured is too good")
    manifest = summarise(
        target,
        table,
        [part.shard for part in parts if part.shard],
        index_sha256="",
        skipped=[*task.skipped, *bad],
        source=task.source,
        licence=task.licence,
        made_with={**task.made_with, "taken": list(task.taken)},
    )
    return replace(manifest, index_sha256=rows.write_index(work.folder, table))


def _publish(target: str, folder: str, manifest: Manifest) -> None:
    """Makes a dataset of what is in `folder`."""
    own = {INDEX, *(shard.file for shard in manifest.shards)}
    for file in storage.listing(folder):
        if file not in own and not file.startswith(f"{PARTS}/"):
            storage.remove(storage.join(folder, file))  # of a preparation with other options
    storage.write_atomic(storage.join(folder, MANIFEST), manifest.to_json())
    if folder != target:
        os.rename(folder, target)
    storage.remove(storage.join(target, PARTS))


def _unusable(bad: Sequence[Skipped], clips: int, folder: str) -> str:
    """The message that names all files that cannot be used."""
    if len(bad) == 1:
        return f"{bad[0].reason}; or leave such files out with --skip-bad"
    lines = [
        f"{len(bad)} of {clips} clips cannot be used; mend or remove their files, or leave them "
        "out with --skip-bad:",
        *(f"  {each.reason}" for each in bad[:_NAMED]),
    ]
    if len(bad) > _NAMED:
        file = storage.join(folder, _BAD_FILES)
        storage.write_atomic(file, "".join(f"{each.reason}\n" for each in bad))
        lines.append(f"  and {len(bad) - _NAMED} more; all of them are listed in {file}")
    return "\n".join(lines)


def _kept(folder: str) -> str:
    """What a preparation that failed has to say of the work that it leaves; nothing if it has none.

    An empty folder is removed.
    """
    with contextlib.suppress(OSError):
        if any(file.endswith(".parquet") for file in storage.listing(folder)):
            return f"\n(finished shards are kept in {folder}; the next try goes on from there)"
        storage.remove(folder)
    return ""


@contextlib.contextmanager
def _locked(out: Path, echo: Echo) -> Iterator[None]:
    """Only one process at a time makes `out`; another waits, and sees what the first has made."""
    out.parent.mkdir(parents=True, exist_ok=True)
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


@contextlib.contextmanager
def _claimed(work: Work[T], task: Task[T]) -> Iterator[None]:
    """In a store, which has no locks: only one work at a time makes the dataset in a folder.

    Another preparation of the same clips with the same options may run beside, and comes to the
    same bytes: of each object the last one written stays. One of other clips or options is refused,
    and so it is after a kill, until the claim of the killed one is removed.
    """
    digest = hashlib.sha256(repr((work.key, task.clips, task.made_with, task.licence)).encode())
    claim, own = storage.join(work.folder, PARTS, "claim"), digest.hexdigest()
    if not storage.write_new(claim, own) and storage.read_bytes(claim).decode() != own:
        raise DataError(
            f"a preparation of other recordings or with other options is at work in "
            f"{work.folder!r}, or was killed there: wait for it, give another folder, or remove "
            f"{claim} if none is running"
        )
    try:
        yield
    except BaseException:
        storage.remove(claim)
        raise
