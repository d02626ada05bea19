"""Randomness by address: every draw is a function of a seed and of what it is drawn for.

Nothing here keeps state. A draw for a clip depends on (seed, stream, epoch, clip) alone, so it is
the same whatever the batch size, the order, the number of workers, or where a run was interrupted.

Shapes: N clips, K numbers a clip.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def key(*parts: int | str) -> int:
    """A 63-bit seed from any parts, by BLAKE2b: equal parts give equal seeds on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: int | str) -> np.random.Generator:
    """A NumPy generator seeded by `key(*parts)`."""
    return np.random.Generator(np.random.PCG64(key(*parts)))


def clip_keys(clip_ids: Sequence[str]) -> NDArray[np.uint64]:
    """(N,) keys of clips, to be computed once and handed to `uniforms`."""
    return np.array([key("clip", clip_id) for clip_id in clip_ids], dtype=np.uint64)


def numbered(clips: NDArray[np.uint64], numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """(N,) keys of the `numbers`-th time that each clip is drawn; number 0 has the clip's own."""
    others = _mix(clips + _GOLDEN * numbers.astype(np.uint64))
    keys: NDArray[np.uint64] = np.where(numbers == 0, clips, others)
    return keys


def uniforms(clips: NDArray[np.uint64], count: int, *address: int | str) -> NDArray[np.float64]:
    """(N, K) numbers in [0, 1), each a function of `address` (seed, stream, epoch) and its clip.

    Counter-based: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", OOPSLA 2014) over the clip's key mixed with the address.
    """
    base = np.uint64(key(*address))
    state = _mix(clips[:, None] ^ base) + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64)[None]
    draws: NDArray[np.float64] = (_mix(state) >> np.uint64(11)) * np.float64(2**-53)
    return draws


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
