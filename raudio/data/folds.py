"""The folds of a cross-validation: which one is valid is a view of the dataset, not a new dataset.

All clips of a shard are of one fold, so that a view tells the shards other splits and nothing is
stored or decoded again: both feeds, class counts and fingerprint follow from its manifest.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from raudio.core.errors import DataError
from raudio.data.clips import stored_tables
from raudio.data.manifest import Manifest, SplitInfo
from raudio.data.summary import classes_of


def folds_of(manifest: Manifest) -> tuple[int, ...]:
    """The folds that take turns as valid: those of all clips outside the test split, ascending.

    Raises:
        DataError: there are fewer than two, a clip is in none, or a fold is partly test.
    """
    searched = [shard for shard in manifest.shards if shard.split != "test"]
    cure = "prepare it again with: raudio data prepare --folds K"
    lacking = sum(shard.clips for shard in searched if shard.fold is None)
    folds = sorted({shard.fold for shard in searched if shard.fold is not None})
    if len(folds) < 2:
        raise DataError(
            f"dataset {manifest.path!r} has no folds outside its test split to take turns as "
            f"valid; {cure}"
        )
    if lacking:
        raise DataError(
            f"dataset {manifest.path!r}: {lacking} clips of train and valid are in no fold; {cure}"
        )
    tested = {shard.fold for shard in manifest.shards if shard.split == "test"}
    if mixed := [fold for fold in folds if fold in tested]:
        raise DataError(
            f"dataset {manifest.path!r}: fold {mixed[0]} has clips of test and of other splits, "
            f"and nothing of a test fold may be trained on; {cure}"
        )
    return tuple(folds)


def on_fold(manifest: Manifest, fold: int | None) -> Manifest:
    """The dataset with `fold` as its valid split and the other folds as train; test stays test.

    Args:
        manifest: of the dataset, or another such view of it.
        fold: one of `folds_of`; None: the splits as they are.

    Raises:
        DataError: as `folds_of`, there is no such fold, or the index is missing or damaged.
    """
    if fold is None:
        return manifest
    folds = folds_of(manifest)
    if fold not in folds:
        raise DataError(
            f"dataset.fold={fold}: dataset {manifest.path!r} has no such fold outside its test "
            f"split; give one of {', '.join(map(str, folds))}"
        )
    shards = []
    for shard in manifest.shards:
        split = shard.split
        if split != "test":
            split = "valid" if shard.fold == fold else "train"
        shards.append(dataclasses.replace(shard, split=split))
    view = dataclasses.replace(manifest, shards=tuple(shards))
    splits = {name: _info(view, name) for name in ("train", "valid")}
    rest = {name: info for name, info in manifest.splits.items() if name not in splits}
    return dataclasses.replace(view, splits={**splits, **rest})


def blocks_on_fold(
    blocks: Mapping[str, Sequence[Any]], manifest: Manifest, view: Manifest
) -> dict[str, list[Any]]:
    """What was decoded of each shard, by split, arranged by the splits of a view of the dataset.

    Args:
        blocks: of train and valid, in the order of `manifest`.
        manifest: of the dataset.
        view: as `on_fold` gives it.
    """
    of_file = {
        shard.file: block
        for split, own in blocks.items()
        for shard, block in zip(manifest.shards_of(split), own, strict=True)
    }
    return {split: [of_file[shard.file] for shard in view.shards_of(split)] for split in blocks}


def _info(manifest: Manifest, split: str) -> SplitInfo:
    counts = Counter(
        label
        for table in stored_tables(manifest, split)
        for classes in classes_of(table)
        for label in classes
    )
    shards = manifest.shards_of(split)
    return SplitInfo(
        clips=sum(shard.clips for shard in shards),
        seconds=round(sum(shard.seconds for shard in shards), 6),
        class_counts=dict(sorted(counts.items())),
    )
