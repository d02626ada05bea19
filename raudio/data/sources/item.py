"""One recording, or a part of one, that is to become a clip; and reading it."""

from __future__ import annotations

import io
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import soundfile

from raudio.core import storage
from raudio.core.errors import DataError
from raudio.core.units import Seconds

# Encodings of more than 16 bits; the codecs that throw information away have less than 16.
DEEP = frozenset({"PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAC_20", "ALAC_24", "ALAC_32"})

#: An end may lie this far behind the recording's own: tables round.
END_TOLERANCE: Seconds = 0.1


class Event(NamedTuple):
    """A class is heard from `onset` to `offset`, in seconds from the clip's start."""

    label: str
    onset: Seconds
    offset: Seconds


@dataclass(frozen=True)
class Item:
    """One recording, or a part of one, that is to become a clip. Can be pickled.

    Attributes:
        clip_id: its path inside the source, with forward slashes; of a part, `file#start-end`.
        path: local path or URI of the file that holds the encoded audio.
        label: its class, of data with one label a clip; else None.
        labels: its classes, of multi-label data; may be empty.
        events: of event data, merged and sorted by onset; may be empty.
        split: train, valid or test where that was predefined.
        fold: of a cross-validation.
        group: speaker, site, ...: what must not straddle splits.
        metadata: the label file's other columns.
        where: its line in the label file, for messages; empty without one.
        span: offset and size in bytes of the encoded audio inside `path` (a member of a tar); None
            is the whole file.
        seconds: start and end of the clip inside the recording; an end of None is the recording's.
        channel: of the recording, from 0; None is all.
        size: bytes that are read for it, roughly: for planning shards.
        stamp: changes when the file does (a time or an ETag).
    """

    clip_id: str
    path: str
    label: str | None = None
    labels: tuple[str, ...] | None = None
    events: tuple[Event, ...] | None = None
    split: str | None = None
    fold: int | None = None
    group: str | None = None
    metadata: Mapping[str, Any] | None = None
    where: str = ""
    span: tuple[int, int] | None = None
    seconds: tuple[Seconds, Seconds | None] | None = None
    channel: int | None = None
    size: int = 0
    stamp: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """Every class that the clip has, once, sorted; whatever kind of labels that are."""
        if self.events is not None:
            return tuple(sorted({event.label for event in self.events}))
        if self.labels is not None:
            return tuple(sorted(set(self.labels)))
        return () if self.label is None else (self.label,)

    @property
    def is_part(self) -> bool:
        """Whether the clip is less than the recording: some seconds, or one channel."""
        return self.seconds is not None or self.channel is not None

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.path} ({self.where})" if self.where else self.path


def merged(events: Iterable[Event]) -> tuple[Event, ...]:
    """The events with those of one class that overlap or touch made one; by onset, then class."""
    of_label: dict[str, list[Event]] = defaultdict(list)
    for event in sorted(events, key=lambda event: event.onset):
        done = of_label[event.label]
        if done and event.onset <= done[-1].offset:
            done[-1] = done[-1]._replace(offset=max(done[-1].offset, event.offset))
        else:
            done.append(event)
    every = [event for done in of_label.values() for event in done]
    return tuple(sorted(every, key=lambda event: (event.onset, event.label, event.offset)))


def read_item(item: Item) -> bytes:
    """The encoded audio of `item`.

    A whole recording comes as it is stored. A part comes as WAV (16 bits, or float where the
    recording has more than 16), and of the recording only that part is decoded.

    Raises:
        DataError: it cannot be read or decoded, or the part lies outside the recording.
        StoreError: its store is out of reach; that says nothing of the recording.
    """
    try:
        if not item.is_part:
            return _read_bytes(item)
        with _opened(item) as source, soundfile.SoundFile(source) as file:
            return _part(item, file)
    except soundfile.SoundFileRuntimeError as error:
        reason = getattr(error, "error_string", "") or str(error)
        raise DataError(f"{item.name}: can't be decoded ({reason.strip().rstrip('.')})") from error
    except storage.StoreError:
        raise
    except OSError as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"{item.name}: cannot be read ({reason})") from error


def _read_bytes(item: Item) -> bytes:
    content = storage.read_bytes(item.path, item.span)
    if item.span is not None and len(content) < item.span[1]:
        raise OSError(f"it ends inside the member at byte {item.span[0]}")
    return content


@contextmanager
def _opened(item: Item) -> Iterator[str | IO[bytes]]:
    """What soundfile reads the recording from, without fetching it whole where that is possible."""
    if item.span is not None:
        yield io.BytesIO(_read_bytes(item))
    elif storage.is_remote(item.path):
        with storage.open_bytes(item.path) as file:
            yield file
    else:
        yield os.fspath(item.path).removeprefix("file://")


def _part(item: Item, file: soundfile.SoundFile) -> bytes:
    start, end = item.seconds or (0.0, None)
    rate, length = file.samplerate, file.frames
    if end is not None and end > length / rate + END_TOLERANCE:
        raise DataError(
            f"{item.name}: the clip ends at {end:g} s, and the recording at {length / rate:.6g} s; "
            "correct the table, or if its times are of another recording: --start-column none"
        )
    first = round(start * rate)
    last = length if end is None else min(length, round(end * rate))
    if first >= last:
        raise DataError(
            f"{item.name}: the clip from {start:g} s has no samples in a recording of "
            f"{length / rate:.6g} s; correct the table"
        )
    if item.channel is not None and item.channel >= file.channels:
        raise DataError(f"{item.name}: channel {item.channel} of a recording of {file.channels}")
    deep = file.subtype in DEEP
    file.seek(first)
    samples = file.read(last - first, dtype="float32" if deep else "int16", always_2d=True)
    if item.channel is not None:
        samples = samples[:, item.channel : item.channel + 1]
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="FLOAT" if deep else "PCM_16")
    return buffer.getvalue()


def check_events(events: Iterable[Event], seconds: Seconds, where: str) -> tuple[Event, ...]:
    """The events of a clip that lasts `seconds`, cut at its end where a table has rounded up.

    Raises:
        DataError: an event ends more than `END_TOLERANCE` behind the clip, or starts behind it.
    """
    kept: list[Event] = []
    for event in events:
        if event.offset > seconds + END_TOLERANCE or event.onset >= seconds:
            raise DataError(
                f"{where}: the event {event.label!r} from {event.onset:g} to {event.offset:g} s "
                f"lies outside the recording, which lasts {seconds:.6g} s; correct the table"
            )
        kept.append(event._replace(offset=min(event.offset, seconds)))
    return tuple(kept)


def checked_span(
    start: Any, end: Any, *, names: tuple[str, str], where: str, empty: bool = False
) -> tuple[Seconds, Seconds]:
    """Two cells of a table as a time span in seconds.

    Args:
        start, end: numbers, or texts of numbers.
        names: of their columns.
        where: the row, for messages.
        empty: whether the span may have no length.

    Raises:
        DataError: one is no number, is not finite or negative, or the end is before the start.
    """
    numbers: list[float] = []
    for value, name in zip((start, end), names, strict=True):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number) or number < 0:
            raise DataError(
                f"{where}: {name}={value!r} is no time; give seconds from the recording's start"
            )
        numbers.append(number)
    first, last = numbers
    if last < first or (last == first and not empty):
        raise DataError(
            f"{where}: {names[1]}={last:g} is not after {names[0]}={first:g}; correct the row"
        )
    return first, last
