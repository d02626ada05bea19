"""The clips that the best trial got most wrong: to hear, and to see as spectrograms.

Shapes: T samples of one clip, F frames, N frequency bins.
"""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from raudio.audio.decode import decode
from raudio.config.validate import experiment_from
from raudio.core.errors import DataError
from raudio.core.units import Hertz, Seconds
from raudio.data.folds import on_fold
from raudio.data.locate import locate
from raudio.data.manifest import Manifest, Shard
from raudio.data.rows import read_shard
from raudio.report.run import Run

#: What can be heard of a clip, from its beginning.
EXCERPT: Seconds = 8.0
#: Rate in Hz that an excerpt is kept at, at most: the page is to stay small.
RATE = 16_000

_WINDOW, _HOP = 0.025, 0.010  # seconds
_ROWS, _COLUMNS = 96, 320  # of a picture, at most
_DECIBELS = 80.0
#: Colours of a spectrogram from silence to the loudest, dark to light (after "magma").
_COLOURS = ((0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191))


@dataclass(frozen=True)
class Excerpt:
    """The beginning of a clip.

    Attributes:
        clip: its id.
        group: speaker, site, or nothing.
        seconds: length of the whole clip.
        audio: the excerpt as a FLAC file.
        picture: its spectrogram as a PNG file.
    """

    clip: str
    group: str
    seconds: Seconds
    audio: bytes
    picture: bytes


def excerpts(run: Run, wrong: list[dict[str, Any]]) -> list[Excerpt]:
    """The clips that `wrong` names by their position in the valid split.

    Raises:
        UserError: the dataset is not there any more, or has changed since.
    """
    experiment = run.configured("experiment")
    if not experiment:
        raise DataError("the run does not say where its dataset is")
    trial = run.history.trials.get(str(run.bundle.get("trial")))
    own = (run.experiment(trial) if trial else {}).get("dataset", {})  # its fold may be its own
    manifest = on_fold(locate(experiment_from(experiment).dataset), own.get("fold"))
    if manifest.fingerprint != run.bundle.get("dataset"):
        raise DataError(f"dataset {manifest.path!r} has changed since the run")
    return of_shards(manifest, manifest.shards_of("valid"), [int(one["clip"]) for one in wrong])


def of_shards(
    manifest: Manifest, shards: Sequence[Shard], positions: Sequence[int]
) -> list[Excerpt]:
    """The clips at these positions, counted over the shards.

    Raises:
        DataError: there is no such clip, or it can't be decoded.
    """
    return [_excerpt(manifest, shards, position) for position in positions]


def as_uri(kind: str, content: bytes) -> str:
    """A file as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _excerpt(manifest: Manifest, shards: Sequence[Shard], position: int) -> Excerpt:
    start = 0
    for shard in shards:
        if position < start + shard.clips:
            path = manifest.shard_path(shard)
            table = read_shard(path, ["clip_id", "group", "audio", "sample_rate"])
            (row,) = table.slice(position - start, 1).to_pylist()
            rate = min(RATE, int(row["sample_rate"]))
            where = f"shard {path}, clip {row['clip_id']!r}"
            wave, _ = decode(row["audio"], rate, where=where)
            part = wave[: round(EXCERPT * rate)]
            file = io.BytesIO()
            soundfile.write(file, part, rate, format="FLAC", subtype="PCM_16")
            picture = png(spectrogram(part, rate))
            group = str(row["group"] or "")
            return Excerpt(row["clip_id"], group, len(wave) / rate, file.getvalue(), picture)
        start += shard.clips
    raise DataError(f"dataset {manifest.path!r} has no clip {position} there")


def spectrogram(wave: NDArray[np.float32], sample_rate: Hertz) -> NDArray[np.uint8]:
    """(N, F) power in dB below the loudest, 0 to 255; low frequencies at the bottom.

    Args:
        wave: (T,) samples.
        sample_rate: in Hz.
    """
    window, hop = round(_WINDOW * sample_rate), round(_HOP * sample_rate)
    padded = np.pad(wave.astype(np.float64), (0, max(0, window - len(wave))))
    hop = max(hop, -(-(len(padded) - window + 1) // _COLUMNS))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]  # (F, window)
    size = 1 << (window - 1).bit_length()
    power = np.abs(np.fft.rfft(frames * np.hanning(window), size)) ** 2  # (F, N)
    step = -(-power.shape[1] // _ROWS)
    starts = np.arange(0, power.shape[1], step)
    power = np.maximum.reduceat(power, starts, axis=1)
    level = 10 * np.log10(np.maximum(power, 1e-12))
    level = np.clip((level - level.max()) / _DECIBELS + 1, 0, 1)
    shown: NDArray[np.uint8] = np.rint(level.T[::-1] * 255).astype(np.uint8)
    return shown


def png(levels: NDArray[np.uint8]) -> bytes:
    """A picture of (rows, columns) levels as a PNG file with a palette (ISO/IEC 15948)."""
    rows, columns = levels.shape
    anchors = np.linspace(0, 255, len(_COLOURS))
    palette = np.stack(
        [np.interp(np.arange(256), anchors, channel) for channel in zip(*_COLOURS, strict=True)], 1
    )
    lines = np.pad(levels, ((0, 0), (1, 0)))  # each line begins with its filter: none
    header = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"PLTE", np.rint(palette).astype(np.uint8).tobytes()),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
