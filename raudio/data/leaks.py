"""Leaks: the same group, or the same recording, in two splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence

from raudio.core.storage import is_remote, read_bytes
from raudio.data.sources import Item

#: Bytes from the middle that are read first of files of equal size, to see whether they differ.
_PIECE = 2**12


def duplicates(items: Sequence[Item]) -> list[str]:
    """For each item a name that those with the same bytes share.

    Files of equal size are read, as far as it takes; those of a store are told by their ETags.
    Parts of recordings are not compared, nor what is empty or cannot be read: that is found out
    when it is decoded.
    """
    names = [item.clip_id for item in items]
    local: list[int] = []
    for index, item in enumerate(items):
        if item.is_part or not item.size:
            continue
        if not is_remote(item.path):
            local.append(index)
        elif item.stamp and item.span is None:
            names[index] = f"stored {item.size} {item.stamp}"
    candidates = _alike(local, lambda index: str(items[index].size))
    candidates = _alike(candidates, lambda index: _hash(items[index], _PIECE))
    for index in candidates:
        names[index] = f"content {_hash(items[index], items[index].size)}"
    return names


def _alike(indices: Sequence[int], facts: Callable[[int], str]) -> list[int]:
    """Those whose fact another one shares."""
    known = {index: facts(index) for index in indices}
    counts = Counter(known.values())
    return [index for index in indices if counts[known[index]] > 1]


def _hash(item: Item, length: int) -> str:
    """Of so many bytes of a whole recording, from its middle; its name where it can't be read."""
    start = 0 if item.span is None else item.span[0]
    length = min(length, item.size)
    try:
        content = read_bytes(item.path, (start + (item.size - length) // 2, length))
    except OSError:
        return item.clip_id
    return hashlib.sha256(content).hexdigest()


def straddling(parts: Sequence[str], splits: Sequence[str]) -> dict[str, tuple[int, int]]:
    """What is in more than one split.

    Args:
        parts: for each clip what it belongs to: a group, or the name of its content.
        splits: of each clip.

    Returns:
        For each such part the numbers of two of its clips that are in different splits.
    """
    first: dict[str, int] = {}
    found: dict[str, tuple[int, int]] = {}
    for index, (part, split) in enumerate(zip(parts, splits, strict=True)):
        other = first.setdefault(part, index)
        if splits[other] != split:
            found.setdefault(part, (other, index))
    return found
