"""Encoded audio to samples: any format, rate and channel count that libsndfile reads (WAV, FLAC,
OGG, MP3, ...) to mono float32 at one rate.

NumPy, soundfile and soxr only: decoding runs in workers that have no need of torch.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from raudio.core.errors import DataError
from raudio.core.units import Seconds

#: An encoded file: its content or its local path.
Source: TypeAlias = bytes | str | Path
#: How decoded samples are kept in memory.
Precision: TypeAlias = Literal["int16", "float32"]

# libsndfile tells "unknown" by a count near 2**63 (a FLAC written to a pipe), and can't seek then.
_UNKNOWN_FRAMES = 1 << 62
_READ_FRAMES = 1 << 22
_INT16_SCALE = 32767.0

# WAV and AIFF: the bytes of samples by the header, and those that are there. What is written to a
# pipe says as many as 32 bits can hold, more or less; and some recorders are a few bytes off.
_SHORTER = re.compile(r"^ *(?:data|SSND) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN_BYTES = 0x7FFF0000
_COMPLETE = 0.99

# Where libsndfile seeks to the very sample, without having decoded what is before it.
_EXACT_FORMATS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC")
_EXACT_SUBTYPES = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")
# Samples of the lower rate that the resampler's filter reaches on either side. At 128 what is left
# of the missing samples is below 1e-6 (measured, soxr HQ, up and down); twice that to be safe.
_FILTER_REACH = 256


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an encoded file says.

    Attributes:
        sample_rate: in Hz, as stored.
        frames: samples a channel, as stored.
        channels: as stored.
        format: libsndfile's name of the container ("WAV", "FLAC", "OGG", "MP3").
        subtype: libsndfile's name of the encoding ("PCM_16", "VORBIS").
        cut: whether a WAV or AIFF file ends before the samples that its header tells of.
    """

    sample_rate: int
    frames: int
    channels: int
    format: str
    subtype: str
    cut: bool


def info(source: Source, *, where: str = "") -> AudioInfo:
    """Reads the header alone.

    Args:
        source: content or local path of an encoded file.
        where: what messages call it; empty: its path.

    Raises:
        DataError: it does not exist or is not audio that libsndfile reads.
    """
    with _opened(source, where) as (file, _):
        return AudioInfo(
            sample_rate=file.samplerate,
            frames=file.frames,
            channels=file.channels,
            format=file.format,
            subtype=file.subtype,
            cut=_is_cut(file),
        )


def decode(
    source: Source, sample_rate: int | None = None, *, where: str = ""
) -> tuple[NDArray[np.float32], int]:
    """Decodes a whole file to (T,) mono float32 samples, full scale at 1.

    Args:
        source: content or local path of an encoded file.
        sample_rate: rate to resample to (soxr, high quality), in Hz; None keeps the file's.
        where: what messages call the file; empty: its path.

    Returns:
        The samples (the mean of the channels) and their rate.

    A file cut off in the middle gives the samples that are there, unless its format can't be read
    any more then (FLAC).

    Raises:
        DataError: the file does not exist, can't be decoded, is empty or holds samples that are not
            finite.
    """
    with _opened(source, where) as (file, name):
        rate = file.samplerate
        wave = _whole(_mono_pieces(file, name, _READ_FRAMES))
    if sample_rate is not None and sample_rate != rate:
        wave = soxr.resample(wave, rate, sample_rate, quality="HQ")
        if not wave.size:
            raise DataError(f"{name}: nothing is left of it at {sample_rate} Hz; remove the file")
        rate = sample_rate
    return wave, rate


def decode_window(
    source: Source, start: int, frames: int, sample_rate: int | None = None, *, where: str = ""
) -> NDArray[np.float32]:
    """The samples `start` to `start + frames` of `decode`, by decoding little more than these.

    The part that is read starts where the two rates have a sample in common, and is longer than the
    window by what the resampler's filter reaches: the samples are those of `decode`, but for the
    rounding of float32 (at most 1 step of int16). Formats that don't seek to the sample (MP3, OGG,
    ADPCM) are decoded whole.

    Args:
        source: content or local path of an encoded file.
        start, frames: of the window, in samples at the rate that is resampled to.
        sample_rate: that rate, in Hz; None: the file's own.
        where: what messages call the file; empty: its path.

    Returns:
        (frames,) samples; fewer where the file ends before.

    Raises:
        DataError: as `decode`, as far as the part that is read shows it.
    """
    assert start >= 0, start
    assert frames >= 1, frames
    with _opened(source, where) as (file, name):
        rate = file.samplerate
        target = sample_rate or rate
        if not _seeks_exactly(file):
            wave, skipped = _whole(_mono_pieces(file, name, _READ_FRAMES)), 0
        else:
            first, last, skipped = _needed(start, frames, rate, target)
            file.seek(min(first, file.frames))
            wave = _whole(_mono_pieces(file, name, _READ_FRAMES, last - first))
    if target != rate:
        wave = soxr.resample(wave, rate, target, quality="HQ")
    return wave[start - skipped : start - skipped + frames]


def resampled_frames(frames: Any, rate: Any, sample_rate: int) -> Any:
    """Samples that `decode` gives of a file of `frames` at `rate` Hz: of numbers, or of arrays.

    As soxr computes it, in double precision and in this order: what is half a sample by the exact
    ratio is rounded up or down.
    """
    return np.floor(frames / (rate / sample_rate) + 0.5).astype(np.int64)


def blocks(
    source: Source, sample_rate: int | None, seconds: Seconds, *, where: str = ""
) -> Iterator[NDArray[np.float32]]:
    """The samples of `decode`, in pieces of equal length (the last may be shorter).

    Memory is bounded by the piece, not by the file: for recordings of hours.

    Args:
        source: content or local path of an encoded file.
        sample_rate: rate to resample to, in Hz; None keeps the file's.
        seconds: length of a piece.
        where: what messages call the file; empty: its path.

    Raises:
        DataError: as `decode`, when the piece in question is reached.
    """
    assert seconds > 0, seconds
    with _opened(source, where) as (file, name):
        rate = file.samplerate
        target = sample_rate or rate
        pieces = _mono_pieces(file, name, max(1, round(seconds * rate)))
        if target != rate:
            pieces = _resampled(pieces, rate, target)
        yield from _of_length(pieces, max(1, round(seconds * target)))


def to_precision(
    wave: NDArray[np.float32], precision: Precision
) -> NDArray[np.int16] | NDArray[np.float32]:
    """(T,) float32 samples as they are kept in memory; int16 is rounded, clipped at full scale."""
    if precision == "float32":
        return wave
    assert precision == "int16", precision
    scaled = np.rint(wave * np.float32(_INT16_SCALE))
    samples: NDArray[np.int16] = np.clip(scaled, -_INT16_SCALE, _INT16_SCALE).astype(np.int16)
    return samples


def from_precision(wave: NDArray[np.int16] | NDArray[np.float32]) -> NDArray[np.float32]:
    """The float32 samples of what `to_precision` gave; float32 comes back without a copy."""
    if wave.dtype == np.int16:
        return np.multiply(wave, np.float32(1 / _INT16_SCALE), dtype=np.float32)
    assert wave.dtype == np.float32, wave.dtype
    return wave  # type: ignore[return-value]


@contextmanager
def _opened(source: Source, where: str) -> Iterator[tuple[soundfile.SoundFile, str]]:
    """The open file and its name for messages; libsndfile's errors become `DataError`."""
    if isinstance(source, bytes):
        name = where or f"audio of {len(source)} bytes"
        handle: io.BytesIO | bytes = io.BytesIO(source)
    else:
        handle = os.fsencode(source)  # a name may hold bytes that are no text
        name = where or os.fspath(source)
        if not os.path.isfile(handle):
            raise DataError(f"{name}: no such audio file")
    try:
        with soundfile.SoundFile(handle) as file:
            if file.frames >= _UNKNOWN_FRAMES:
                raise DataError(
                    f"{name}: its header doesn't say how long it is (it was written to a pipe?); "
                    "convert it to a file of known length, such as WAV"
                )
            yield file, name
    except soundfile.SoundFileRuntimeError as error:
        reason = getattr(error, "error_string", "") or str(error)
        raise DataError(
            f"{name}: can't be decoded ({reason.strip().rstrip('.')}); "
            "convert it to WAV or FLAC, or remove it"
        ) from error


def _is_cut(file: soundfile.SoundFile) -> bool:
    """As libsndfile's log tells it: "data : 64000 (should be 31978)"."""
    match = _SHORTER.search(file.extra_info)
    if match is None or int(match[1]) >= _UNKNOWN_BYTES:
        return False
    return int(match[2]) < _COMPLETE * int(match[1])


def _seeks_exactly(file: soundfile.SoundFile) -> bool:
    return file.format in _EXACT_FORMATS and file.subtype.startswith(_EXACT_SUBTYPES)


def _needed(start: int, frames: int, rate: int, target: int) -> tuple[int, int, int]:
    """What to read for a window: first and last (excluded) sample at the file's `rate`, and the
    sample at `target` that the first one is."""
    if rate == target:
        return start, start + frames, start
    common = math.gcd(rate, target)
    up, down = target // common, rate // common  # samples after which the rates meet again
    reach = math.ceil(_FILTER_REACH * target / min(rate, target))
    periods = max(0, start - reach) // up
    last = -(-(start + frames + reach) * down // up)
    return periods * down, last, periods * up


def _whole(pieces: Iterator[NDArray[np.float32]]) -> NDArray[np.float32]:
    held = list(pieces)
    return held[0] if len(held) == 1 else np.concatenate(held)


def _mono_pieces(
    file: soundfile.SoundFile, name: str, frames: int, most: int | None = None
) -> Iterator[NDArray[np.float32]]:
    """Pieces of up to `frames` samples at the file's own rate, checked; at least one.

    From where the file is, to its end or up to `most` samples.
    """
    expected = file.frames - file.tell()
    expected = expected if most is None else min(expected, most)
    total = 0
    while True:
        piece = file.read(min(frames, expected - total), dtype="float32", always_2d=True)
        if not len(piece):
            break
        mono = piece[:, 0] if piece.shape[1] == 1 else piece.mean(axis=1)
        if not np.isfinite(mono).all():
            raise DataError(f"{name}: holds samples that are NaN or infinite; remove it")
        total += len(mono)
        yield mono
        if total >= expected:
            break
    if not total:
        raise DataError(f"{name}: is empty (0 samples); remove it")


def _resampled(
    pieces: Iterator[NDArray[np.float32]], rate: int, target: int
) -> Iterator[NDArray[np.float32]]:
    stream = soxr.ResampleStream(rate, target, num_channels=1, dtype="float32", quality="HQ")
    for piece in pieces:
        yield stream.resample_chunk(piece)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _of_length(pieces: Iterator[NDArray[np.float32]], length: int) -> Iterator[NDArray[np.float32]]:
    """The same samples cut into pieces of `length`; the last may be shorter, none is empty."""
    held: list[NDArray[np.float32]] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += len(piece)
        if count < length:
            continue
        wave = np.concatenate(held)
        whole = count - count % length
        yield from np.split(wave[:whole], whole // length)
        held, count = [wave[whole:]], count - whole
    if count:
        yield np.concatenate(held)
