"""Checks of splits: what is missing, and what training hears of what it is measured on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raudio.data.inspect.problem import ERROR, WARNING, Look, Mask, Problem, number, of_names


@dataclass(frozen=True)
class Repeated:
    """One recording (by its `content`) or one group, in several splits: its clips there."""

    name: str
    splits: list[str]
    clips: list[str]


def duplicates(look: Look) -> list[Repeated]:
    """Recordings that are in more than one split; silent ones are not compared."""
    return [
        _repeated(row) for row in _same(look, "content", ~look.silent) if len(row["splits"]) > 1
    ]


def straddling(look: Look) -> list[Repeated]:
    """Groups that are in more than one split."""
    same = _same(look, "group", np.ones(len(look.ids), bool))
    return [_repeated(row) for row in same if len(row["splits"]) > 1]


def missing_splits(look: Look) -> Iterator[Problem]:
    """No train, valid or test."""
    for split in ("train", "valid"):
        if split not in look.manifest.splits:
            yield of_names(
                ERROR,
                "missing-split",
                f"there is no split {split!r}",
                (),
                "a search trains on train and compares trials on valid",
                "prepare it again with both",
                count=look.manifest.clips,
            )
    if "test" not in look.manifest.splits:
        yield of_names(
            WARNING,
            "no-test-split",
            "there is no split 'test'",
            (),
            "nothing is left to measure the final model with: the best of many trials looks better "
            "on valid than it is",
            "prepare it again with --splits 80/10/10",
            count=0,
        )


def leaked_recordings(look: Look) -> Iterator[Problem]:
    """The same samples in several splits."""
    found = duplicates(look)
    if found:
        clips = [clip for each in found for clip in each.clips]
        splits = list(dict.fromkeys(split for each in found for split in each.splits))
        yield of_names(
            ERROR,
            "duplicate-across-splits",
            f"{number(len(found), 'recording')} in more than one split ({', '.join(splits)})",
            clips,
            "the model is measured on what it was trained on: the result is too good",
            "remove the copies, or give them one group and prepare it again",
            count=len(clips),
            clips=clips,
        )


def leaked_groups(look: Look) -> Iterator[Problem]:
    """Groups that straddle splits."""
    found = straddling(look)
    if found:
        yield of_names(
            WARNING,
            "group-across-splits",
            f"{number(len(found), 'group')} in more than one split",
            [each.name for each in found],
            "the result is for groups that training has heard, not for new ones",
            "prepare it again with --split-column none and the group's column",
            count=sum(len(each.clips) for each in found),
        )


def repeated_recordings(look: Look) -> Iterator[Problem]:
    """The same samples several times in one split, or under several labels."""
    same = list(_same(look, "content", ~look.silent))
    within = [row["clips"] for row in same if len(row["splits"]) == 1]
    if within:
        clips = [clip for each in within for clip in each]
        yield of_names(
            WARNING,
            "duplicate-in-split",
            f"{number(len(within), 'recording')} several times in one split",
            clips,
            "each copy counts as a clip of its own",
            "remove the copies and prepare it again",
            count=len(clips),
            clips=clips,
        )
    unlike = [row for row in same if len(row["labels"]) > 1]
    if unlike:
        clips = [clip for row in unlike for clip in row["clips"]]
        yield of_names(
            WARNING,
            "conflicting-labels",
            f"{number(len(unlike), 'recording')} under several labels",
            [f"{row['clips'][0]} ({' and '.join(row['labels'])})" for row in unlike],
            "at most one of them is right, and no model can get both",
            "correct the labels",
            count=len(clips),
            clips=clips,
        )


def _same(look: Look, column: str, chosen: Mask) -> Iterable[dict[str, Any]]:
    """Values that several clips have: `name`, `clips`, `splits`, `labels`, sorted by name."""
    table = look.table.select(list(dict.fromkeys([column, "clip_id", "split", "label"])))
    table = table.filter(pa.array(chosen))
    counts = table[column].value_counts()  # few values repeat: only those are gathered
    often = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    often = often.filter(pc.fill_null(pc.not_equal(often, ""), False))
    table = table.filter(pc.is_in(table[column], often))
    lists = [(name, "list") for name in ("clip_id", "split", "label")]
    groups = table.group_by(column, use_threads=False).aggregate(lists).sort_by(column)
    for row in groups.to_pylist():
        yield {
            "name": row[column],
            "clips": row["clip_id_list"],
            "splits": list(dict.fromkeys(row["split_list"])),
            "labels": sorted({label for label in row["label_list"] if label is not None}),
        }


def _repeated(row: dict[str, Any]) -> Repeated:
    return Repeated(row["name"], row["splits"], row["clips"])
