"""What a source holds: its recordings and labels, as found."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from raudio.core.storage import is_remote
from raudio.data.manifest import Skipped
from raudio.data.sources.item import Item


@dataclass(frozen=True)
class Source:
    """Recordings and labels, as found.

    Attributes:
        location: local path or URI.
        items: in the order of the label file, or by name.
        taken: what was taken for what, a sentence each.
        metadata: the further columns and their types.
        missing: files that the label file names and that are not there (only when skipping).
        strict_groups: whether no group may straddle predefined splits: its column was named by the
            user, or is called "group".
        group_column, time_column: of the label file; None where it has none.
    """

    location: str
    items: tuple[Item, ...]
    taken: tuple[str, ...]
    metadata: Mapping[str, pa.DataType]
    missing: tuple[Skipped, ...] = ()
    strict_groups: bool = False
    group_column: str | None = None
    time_column: str | None = None

    @property
    def name(self) -> str:
        """The last part of its location."""
        if is_remote(self.location):
            return self.location.rstrip("/").rpartition("/")[2]
        return Path(self.location).resolve().name

    def key(self, *options: object) -> str:
        """A hash of all items, their files' stamps, and `options`."""
        digest = hashlib.sha256(repr((self.location, self.missing, options)).encode())
        for item in self.items:
            digest.update(repr(item).encode())
        return digest.hexdigest()

    def saying(self, sentence: str) -> Source:
        """With one more sentence in `taken`, at its beginning."""
        return replace(self, taken=(sentence, *self.taken))
