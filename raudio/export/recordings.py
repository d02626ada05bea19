"""Recordings as they come, to samples as a model takes them: any format, rate and channel count.

NumPy, soundfile and soxr only. T samples.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from queue import Full, Queue
from typing import Any, TypeAlias, TypeVar

import numpy as np
import soxr
from numpy.typing import NDArray

from raudio.audio.decode import Source, blocks
from raudio.core import storage
from raudio.core.errors import ConfigError, DataError
from raudio.core.secrets import without_credentials
from raudio.core.storage import is_remote
from raudio.core.units import Seconds

T = TypeVar("T")
S = TypeVar("S")

#: What is written for standard input, and what results call it.
STDIN = "-"

#: Length of the pieces that a recording is read in: what bounds memory, whatever its length.
PIECE: Seconds = 30.0
# More channels than a chunk has: its axes were taken for each other.
_MOST_CHANNELS = 64
# Pieces of a recording that wait to be computed, and recordings a worker that are begun ahead.
_PIECES_AHEAD, _RECORDINGS_AHEAD = 2, 8


@dataclass(frozen=True)
class Encoded:
    """A recording that results call by another name than its path.

    Attributes:
        name: what results call it.
        source: the content or local path of an encoded file.
    """

    name: str
    source: Source


@dataclass(frozen=True)
class StoredClip:
    """A clip of a dataset.

    Attributes:
        name: what results call it.
        shard: path or URI of its shard.
        row: its place there.
    """

    name: str
    shard: str
    row: int


@dataclass(frozen=True)
class Decoded:
    """A recording that the caller decodes.

    Attributes:
        name: what results call it.
        pieces: its samples, mono and at the rate that this is called with, piece by piece.
    """

    name: str
    pieces: Callable[[int], Iterator[NDArray[np.float32]]]


#: A recording: path or URI of a file, content of one, or samples (T,) or (T, channels), as
#: soundfile reads them.
Recording: TypeAlias = (
    str | os.PathLike[str] | bytes | Encoded | StoredClip | Decoded | NDArray[Any]
)


def is_one(recording: Any) -> bool:
    """Whether it is a recording, not several."""
    # A tensor is known by what it can, so that none is imported here.
    single = (str, os.PathLike, bytes, Encoded, StoredClip, Decoded, np.ndarray)
    return isinstance(recording, single) or hasattr(recording, "__array__")


def name_of(recording: Recording) -> str | None:
    """What results call a recording; None for content and samples.

    A path as it was given, without the password of a URI; bytes in it that are no UTF-8 are written
    as `\\xff`.
    """
    if isinstance(recording, (Encoded, StoredClip, Decoded)):
        return recording.name
    if isinstance(recording, (str, os.PathLike)):
        return without_credentials(os.fsencode(recording).decode(errors="backslashreplace"))
    return None


def pieces(
    recording: Recording, sample_rate: int | None, target: int
) -> Iterator[NDArray[np.float32]]:
    """The samples of a recording, mono and at `target` Hz, in pieces of bounded length.

    They are those of `raudio.audio.decode.decode`, to the last bit: soxr gives for a stream what it
    gives for the whole.

    Args:
        recording: a file in a store is copied to this machine's disk for the time it is read.
        sample_rate: of samples, in Hz; files know their own.
        target: rate to resample to, in Hz.

    Raises:
        DataError: it can't be read, is empty or holds samples that are not finite.
        ConfigError: samples without `sample_rate`, or not audio at all.
    """
    given = False
    for piece in _pieces(recording, sample_rate, target):
        if piece.size:
            given = True
            yield piece
    if not given:
        name = name_of(recording) or "the recording"
        raise DataError(f"{name}: nothing is left of it at {target} Hz; remove it")


def _pieces(
    recording: Recording, sample_rate: int | None, target: int
) -> Iterator[NDArray[np.float32]]:
    if isinstance(recording, bytes):
        yield from blocks(recording, target, PIECE)
    elif isinstance(recording, Encoded):
        yield from blocks(recording.source, target, PIECE, where=recording.name)
    elif isinstance(recording, Decoded):
        yield from recording.pieces(target)
    elif isinstance(recording, StoredClip):
        audio = _shard(recording.shard)[recording.row].as_py()
        yield from blocks(audio, target, PIECE, where=recording.name)
    elif isinstance(recording, (str, os.PathLike)):
        with _on_disk(os.fspath(recording)) as path:
            yield from blocks(path, target, PIECE, where=name_of(recording) or "")
    else:
        wave = mono(recording)
        if not wave.size:
            raise DataError("the recording is empty (0 samples)")
        resampler = Resampler(sample_rate, target)
        step = max(1, round(PIECE * resampler.rate))
        for start in range(0, len(wave), step):
            yield resampler.push(wave[start : start + step])
        yield resampler.close()


class Resampler:
    """Samples at one rate to samples at another, chunk by chunk; chunks may have any length.

    Args:
        rate: of the samples that come, in Hz.
        target: of those that are given, in Hz.

    Raises:
        ConfigError: there is no such rate.
    """

    def __init__(self, rate: int | None, target: int) -> None:
        if rate is None or not rate > 0:
            raise ConfigError(
                f"sample_rate={rate!r}: give the rate of the samples in Hz, predict(samples, 16000)"
            )
        self.rate = rate
        self._stream: Any = None
        if rate != target:
            self._stream = soxr.ResampleStream(rate, target, 1, dtype="float32", quality="HQ")

    def push(self, wave: NDArray[np.float32]) -> NDArray[np.float32]:
        """What there is of the result after (T,) further samples."""
        if self._stream is None:
            return wave
        resampled: NDArray[np.float32] = self._stream.resample_chunk(wave)
        return resampled

    def close(self) -> NDArray[np.float32]:
        """The rest."""
        nothing = np.zeros(0, np.float32)
        if self._stream is None:
            return nothing
        resampled: NDArray[np.float32] = self._stream.resample_chunk(nothing, last=True)
        return resampled


def mono(samples: Any, chunk: bool = False) -> NDArray[np.float32]:
    """(T,) float32 samples, full scale at 1, of an array or tensor (T,) or (T, channels).

    Args:
        samples: floats, or integers of which the largest is full scale.
        chunk: they are a part, which may have fewer samples than channels.

    Raises:
        DataError: they are not finite.
        ConfigError: they are no audio.
    """
    array = np.asarray(samples)
    if array.dtype.kind == "i":
        array = array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max + 1.0)
    elif array.dtype.kind != "f":
        raise ConfigError(f"samples of type {array.dtype} are no audio; give floats or integers")
    if array.ndim == 2:
        if array.shape[1] > (_MOST_CHANNELS if chunk else array.shape[0]):
            raise ConfigError(
                f"samples of shape {array.shape}: give (samples, channels), that is samples.T"
            )
        array = array.mean(axis=1)
    if array.ndim != 1:
        raise ConfigError(f"samples of shape {array.shape}: give (samples,) or (samples, channels)")
    wave = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(wave).all():
        raise DataError("the recording holds samples that are NaN or infinite")
    return wave


@contextmanager
def _on_disk(path: str) -> Iterator[str]:
    """The local path of a file, wherever it is."""
    if not is_remote(path):
        yield path.removeprefix("file://")
        return
    # The name's ending says what MP3 and the like are.
    with tempfile.TemporaryDirectory(prefix="raudio-") as folder:
        copy = Path(folder) / f"recording{Path(path).suffix}"
        try:
            storage.download(path, copy)
        except OSError as error:
            reason = without_credentials(f"{path}: cannot be read: {error}")
            raise DataError(reason) from error
        yield str(copy)


@lru_cache(maxsize=2)
def _shard(path: str) -> Any:
    """The column `audio` of a dataset's shard; recordings come in its order, so few are kept."""
    from raudio.data.rows import read_shard

    return read_shard(path, ["audio"])["audio"].combine_chunks()


def ahead(
    jobs: Iterable[S], work: Callable[[S], Iterator[T]], workers: int
) -> Iterator[tuple[S, Iterator[T]]]:
    """Each job with what `work` gives for it, in order, while further ones are worked on.

    The results of a job are to be taken, to their end, before the next job is. What is held is
    bounded: a few jobs a worker, a few results each. `jobs` is taken from by the thread that
    iterates.

    Args:
        jobs: as many as there are; they may be endless.
        work: called in a thread. What it raises, iterating the job's results raises.
        workers: threads; 0: it is called when its results are asked for.
    """
    if workers == 0:
        yield from ((job, work(job)) for job in jobs)
        return
    stop = threading.Event()
    waiting: deque[tuple[S, Queue[Any]]] = deque()
    rest = iter(jobs)
    with ThreadPoolExecutor(workers, thread_name_prefix="raudio-decode") as pool:
        try:
            while True:
                while len(waiting) < _RECORDINGS_AHEAD * workers:
                    try:
                        job = next(rest)
                    except StopIteration:
                        break
                    queue: Queue[Any] = Queue(_PIECES_AHEAD)
                    waiting.append((job, queue))
                    pool.submit(_fill, queue, work, job, stop)
                if not waiting:
                    return
                job, queue = waiting.popleft()
                yield job, _taken(queue)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _fill(
    queue: Queue[Any], work: Callable[[S], Iterator[T]], job: S, stop: threading.Event
) -> None:
    """Puts (thing, None) for each result, and (None, how it ended) behind them."""

    def put(thing: T | None, end: BaseException | None) -> bool:
        while not stop.is_set():
            with suppress(Full):
                queue.put((thing, end), timeout=0.1)
                return True
        return False

    try:
        for result in work(job):
            if not put(result, None):
                return
    except BaseException as error:
        put(None, error)
    else:
        put(None, StopIteration())


def _taken(queue: Queue[Any]) -> Iterator[Any]:
    while True:
        thing, end = queue.get()
        if end is None:
            yield thing
        elif isinstance(end, StopIteration):
            return
        else:
            raise end
