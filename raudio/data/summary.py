"""What the rows of a dataset come to: its manifest, and recordings that are in two splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raudio.core.errors import DataError
from raudio.data.facts import SILENT_PEAK
from raudio.data.manifest import Manifest, Shard, Skipped, SplitInfo


def summarise(
    path: str,
    rows: pa.Table,
    shards: Sequence[Shard],
    *,
    index_sha256: str,
    skipped: Sequence[Skipped],
    source: str,
    licence: str,
    made_with: Mapping[str, Any],
) -> Manifest:
    """The manifest of the dataset at `path` that holds `rows` in `shards`.

    Raises:
        DataError: there is not enough in it to train and to choose by.
    """
    if not rows.num_rows:
        raise DataError("no clip could be used, so there is no dataset; see the skipped files")
    seconds = rows["frames"].to_numpy() / rows["sample_rate"].to_numpy()
    of_split = rows["split"].to_numpy(zero_copy_only=False)
    classes = classes_of(rows)
    splits: dict[str, SplitInfo] = {}
    for split in dict.fromkeys(shard.split for shard in shards):
        chosen = np.flatnonzero(of_split == split)
        counts = Counter(label for index in chosen for label in classes[index])
        splits[split] = SplitInfo(
            clips=len(chosen),
            seconds=round(float(seconds[chosen].sum()), 6),
            class_counts={label: counts[label] for label in sorted(counts)},
        )
    labels = tuple(sorted({label for info in splits.values() for label in info.class_counts}))
    _check(rows, labels, list(splits), len(skipped))
    low, median, p95, high = np.quantile(seconds, [0, 0.5, 0.95, 1]).tolist()
    return Manifest(
        path=path,
        labels=labels,
        splits=splits,
        shards=tuple(shards),
        index_sha256=index_sha256,
        sample_rates=_counted(rows["sample_rate"]),
        channels=_counted(rows["channels"]),
        seconds_min=round(low, 6),
        seconds_median=round(median, 6),
        seconds_p95=round(p95, 6),
        seconds_max=round(high, 6),
        source=source,
        licence=licence,
        made_with=dict(made_with),
        skipped=tuple(skipped),
    )


def classes_of(rows: pa.Table) -> list[set[str]]:
    """The classes that each clip holds, by its `label`, `labels` or `events`."""
    columns = [name for name in ("label", "labels", "events") if name in rows.column_names]
    classes: list[set[str]] = []
    for row in rows.select(columns).to_pylist():
        found = {row["label"]} if row.get("label") is not None else set()
        found.update(row.get("labels") or ())
        found.update(event["label"] for event in row.get("events") or ())
        classes.append(found)
    return classes


def leaks(rows: pa.Table) -> list[tuple[str, str]]:
    """Pairs of clips (split/clip_id) that are the same recording in two splits.

    Of every recording that is in several splits the first pair, in the order of the rows. Silent
    clips are alike without being the same.
    """
    first: dict[str, tuple[str, str]] = {}
    found: dict[str, tuple[str, str]] = {}
    columns = [rows[name].to_pylist() for name in ("content", "peak", "split", "clip_id")]
    for content, peak, split, clip in zip(*columns, strict=True):
        if peak < SILENT_PEAK:
            continue
        known_split, known_clip = first.setdefault(content, (split, clip))
        if known_split != split and content not in found:
            found[content] = (f"{known_split}: {known_clip}", f"{split}: {clip}")
    return list(found.values())


def _check(rows: pa.Table, labels: Iterable[str], splits: Sequence[str], skipped: int) -> None:
    """A dataset has train and valid; where each clip has one class there are two classes."""
    several = {"labels", "events"} & set(rows.column_names)
    single = rows["label"].null_count < rows.num_rows
    enough = len(set(labels)) >= (2 if single and not several else 1 if several else 0)
    if not enough or not {"train", "valid"} <= set(splits):
        raise DataError(
            f"after leaving out {skipped} files, what is left has {len(set(labels))} classes and "
            f"the splits {', '.join(splits)}; a dataset needs two classes, train and valid"
        )


def _counted(column: pa.ChunkedArray) -> dict[int, int]:
    counts: Counter[int] = Counter(column.to_numpy().tolist())
    return {value: counts[value] for value in sorted(counts)}
