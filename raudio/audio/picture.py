"""Pictures of waves and spectrograms as PNG (ISO/IEC 15948), without a plotting library.

H rows, W columns of pixels, T samples, F frames, N features a frame.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

#: (H, W, 3) red, green and blue.
Pixels: TypeAlias = NDArray[np.uint8]

_WHITE = 255
_INK = (38, 70, 120)
# Five colours of viridis, from the lowest value to the highest.
_SCALE = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]])


def waveform(wave: NDArray[np.float32], peak: float, width: int, height: int) -> Pixels:
    """From the least to the greatest sample of each column, `peak` from the middle to the edge.

    Args:
        wave: (T,), at least one sample.
        peak: above 0.
        width, height: of the picture.
    """
    starts = np.arange(width) * len(wave) // width
    low, high = (edge.reduceat(wave, starts) for edge in (np.minimum, np.maximum))
    middle = (height - 1) / 2
    top, bottom = (np.round(middle * (1 - value / peak)) for value in (high, low))
    row = np.arange(height)[:, None]
    inside = (row >= top.clip(0, height - 1)) & (row <= bottom.clip(0, height - 1))
    pixels = np.full((height, width, 3), _WHITE, np.uint8)
    pixels[inside] = _INK
    return pixels


def heatmap(
    features: NDArray[np.float32], low: float, high: float, width: int, height: int
) -> Pixels:
    """(F, N) values between `low` and `high` as colours: time to the right, features upwards."""
    frames = np.arange(width) * len(features) // width
    bands = np.arange(height)[::-1] * features.shape[1] // height
    value = (features[frames][:, bands].T - low) / max(high - low, 1e-12)
    place = value.clip(0, 1) * (len(_SCALE) - 1)
    channels = [np.interp(place, np.arange(len(_SCALE)), channel) for channel in _SCALE.T]
    return np.stack(channels, -1).round().astype(np.uint8)


def table(rows: Sequence[Sequence[Pixels]], gap: int = 8) -> Pixels:
    """Pictures in rows and columns, white between them."""
    return _joined([_joined(row, gap, axis=1) for row in rows], gap, axis=0)


def png(pixels: Pixels) -> bytes:
    """The picture's file: 8 bits a colour, no filter."""
    height, width, _ = pixels.shape
    # Each row begins with the number of its filter.
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _joined(pictures: Sequence[Pixels], gap: int, axis: int) -> Pixels:
    shape = list(pictures[0].shape)
    shape[axis] = gap
    between = np.full(shape, _WHITE, np.uint8)
    parts = [part for picture in pictures for part in (between, picture)]
    return np.concatenate(parts[1:], axis=axis)
