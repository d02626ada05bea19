"""Several datasets as one: the union of their labels and of each of their splits."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from raudio.config.axes import text
from raudio.data.clips import stored_tables
from raudio.data.manifest import SPLITS, Manifest, Shard, SplitInfo


@dataclass(frozen=True)
class Joined(Manifest):
    """The manifest of several datasets; its shards' `file` is their whole path.

    Attributes:
        owners: which dataset each shard is of, from 0.
        prefixes: of each dataset's clip_ids.
        members: the datasets.
    """

    owners: tuple[int, ...] = ()
    prefixes: tuple[str, ...] = ()
    members: tuple[Manifest, ...] = ()

    def to_mapping(self) -> dict[str, Any]:
        """As any manifest's: reading it again gives one of the same fingerprint."""
        mapping = super().to_mapping()
        del mapping["owners"], mapping["prefixes"], mapping["members"]
        return mapping

    def shard_path(self, shard: Shard) -> str:
        """Path or URI of a shard's file."""
        return shard.file

    def dataset_of(self, shard: Shard) -> int:
        """See `Manifest`."""
        return self._owner[shard.file]

    def prefix_of(self, shard: Shard) -> str:
        """See `Manifest`."""
        return self.prefixes[self.dataset_of(shard)]

    def rows_of(self, shard: Shard) -> tuple[Manifest, int]:
        """See `Manifest`."""
        return self.members[self.dataset_of(shard)], self._first_row[shard.file]

    def anywhere(self) -> Manifest:
        """Itself: its shards' paths are such already."""
        return self

    @cached_property
    def _first_row(self) -> dict[str, int]:
        return {
            member.anywhere().shard_path(shard): member.first_rows[shard.file]
            for member in self.members
            for shard in member.shards
        }

    @cached_property
    def _owner(self) -> dict[str, int]:
        return {shard.file: owner for shard, owner in zip(self.shards, self.owners, strict=True)}


def joined(manifests: Sequence[Manifest]) -> Manifest:
    """One manifest of several datasets; of one, its own.

    Where two of them have a `clip_id` in common, all clip_ids get the number of their dataset
    before them: "1/", "2/".

    Raises:
        DataError: a shard is missing or damaged.
    """
    if len(manifests) == 1:
        return manifests[0]
    shards, owners = [], []
    for split in SPLITS:
        for number, manifest in enumerate(manifests):
            for shard in manifest.shards:
                if shard.split == split:
                    path = manifest.anywhere().shard_path(shard)
                    shards.append(dataclasses.replace(shard, file=path))
                    owners.append(number)
    ids, seconds = _ids_and_seconds(manifests)
    splits = [name for name in SPLITS if any(name in manifest.splits for manifest in manifests)]
    clash = len(set().union(*ids)) < sum(map(len, ids))
    return Joined(
        path=text([manifest.path for manifest in manifests]),
        labels=tuple(sorted({label for manifest in manifests for label in manifest.labels})),
        splits={
            name: _added(each.splits[name] for each in manifests if name in each.splits)
            for name in splits
        },
        shards=tuple(shards),
        index_sha256="",  # it has its members' indexes
        sample_rates=_sum(manifest.sample_rates for manifest in manifests),
        channels=_sum(manifest.channels for manifest in manifests),
        seconds_min=float(seconds.min()),
        seconds_median=float(np.median(seconds)),
        seconds_p95=float(np.quantile(seconds, 0.95)),
        seconds_max=float(seconds.max()),
        source="; ".join(dict.fromkeys(m.source for m in manifests if m.source)),
        licence="; ".join(dict.fromkeys(m.licence for m in manifests if m.licence)),
        made_with={"joined": [manifest.made_with for manifest in manifests]},
        skipped=tuple(skipped for manifest in manifests for skipped in manifest.skipped),
        owners=tuple(owners),
        members=tuple(manifests),
        prefixes=tuple(f"{n + 1}/" if clash else "" for n in range(len(manifests))),
    )


def _ids_and_seconds(manifests: Sequence[Manifest]) -> tuple[list[set[str]], np.ndarray[Any, Any]]:
    """The clip_ids of each dataset, and the lengths of all clips."""
    ids: list[set[str]] = []
    seconds = []
    for manifest in manifests:
        tables = stored_tables(manifest)
        ids.append({clip for table in tables for clip in table["clip_id"].to_pylist()})
        seconds += [t["frames"].to_numpy() / t["sample_rate"].to_numpy() for t in tables]
    return ids, np.concatenate(seconds)


def _added(infos: Iterable[SplitInfo]) -> SplitInfo:
    found = list(infos)
    return SplitInfo(
        clips=sum(info.clips for info in found),
        seconds=sum(info.seconds for info in found),
        class_counts=dict(sorted(_sum(info.class_counts for info in found).items())),
    )


def _sum(counts: Iterable[dict[Any, int]]) -> dict[Any, int]:
    total: Counter[Any] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)
