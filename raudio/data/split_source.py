"""The splits of a source: predefined ones checked, or new ones made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time
from typing import Any, NamedTuple

from raudio.core.errors import DataError
from raudio.data.leaks import duplicates, straddling
from raudio.data.sources import Item, Source
from raudio.data.splits import (
    Shares,
    assign,
    assign_by_time,
    assign_folds,
    carve_valid,
    fold_splits,
    join_parts,
)

SPLIT_BY = ("random", "time")


class Split(NamedTuple):
    """A source's items, all with a split.

    Attributes:
        items: in the source's order; with their fold, where there are folds.
        how: the splits were found.
        warnings: a sentence each.
    """

    items: tuple[Item, ...]
    how: str
    warnings: tuple[str, ...]


def split_source(
    found: Source,
    *,
    shares: Shares,
    split_by: str = "random",
    folds: int | None = None,
    allow_leaks: bool = False,
    seed: int = 0,
) -> Split:
    """The split of each item.

    Args:
        found: the source; splits that it has are kept, and `valid` is taken from train where it
            lacks that.
        shares: of new splits.
        split_by: "random" (stratified, no group straddling), or "time": the oldest in train, the
            newest in test.
        folds: makes so many folds instead; the last is test, the one before valid.
        allow_leaks: predefined splits may share groups or recordings.
        seed: of new splits.

    Raises:
        DataError: the splits cannot be filled; predefined ones lack train, leak, or are to be made
            anew though they are there.
    """
    items = found.items
    groups: list[str] | None = None
    if any(item.group for item in items):
        groups = [f"group {item.group}" if item.group else item.clip_id for item in items]
    same = duplicates(items)
    given = [item.split for item in items if item.split]
    if given:
        assert len(given) == len(items), "a source gives all clips a split, or none"
        if folds is not None or split_by != "random":
            option = f"--folds {folds}" if folds is not None else f"--split-by {split_by}"
            raise DataError(
                f"{option} makes splits, and the source has some already; to make them anew add "
                "--split-column none"
            )
        warnings = _check_leaks(found, groups, same, given, allow_leaks)
        splits, how = _predefined(items, groups, same, given, shares, seed)
        return Split(_with(items, splits), how, warnings)
    ids = [item.clip_id for item in items]
    labels = [item.classes for item in items]
    grouped = ", by group" if groups else ""
    if folds is not None:
        of_fold = assign_folds(ids, labels, folds, groups=groups, same=same, seed=seed)
        items = tuple(replace(i, fold=fold) for i, fold in zip(items, of_fold, strict=True))
        how = f"from {folds} folds made at random, stratified{grouped} ({folds - 1} is test, "
        how += f"{folds - 2} valid)"
        return Split(_with(items, fold_splits(of_fold, folds)), how, ())
    if split_by == "time":
        together = join_parts(groups or ids, same)
        splits = assign_by_time(_times(found), together=together, shares=shares)
        return Split(_with(items, splits), f"by time{grouped}", _unseen(items, splits))
    splits = assign(ids, labels, groups=groups, same=same, shares=shares, seed=seed)
    return Split(_with(items, splits), f"made at random, stratified{grouped}", ())


def _with(items: Sequence[Item], splits: Sequence[str]) -> tuple[Item, ...]:
    return tuple(replace(item, split=split) for item, split in zip(items, splits, strict=True))


def _predefined(
    items: Sequence[Item],
    groups: Sequence[str] | None,
    same: Sequence[str],
    given: Sequence[str],
    shares: Shares,
    seed: int,
) -> tuple[list[str], str]:
    if "train" not in given:
        raise DataError(
            f"the predefined splits are {', '.join(sorted(set(given)))}, and none is train; "
            "correct them, or make splits anew with --split-column none"
        )
    if "valid" in given:
        return list(given), "as predefined"
    if groups and straddling(groups, given):
        groups = None  # the test split shares groups with train, and valid is to resemble it
    train, valid, _ = shares
    carved = carve_valid(
        [item.clip_id for item in items],
        [item.classes for item in items],
        given,
        groups=groups,
        same=same,
        share=valid / (train + valid),
        seed=seed,
    )
    return carved, "as predefined, with valid taken from train"


def _check_leaks(
    found: Source,
    groups: Sequence[str] | None,
    same: Sequence[str],
    given: Sequence[str],
    allow: bool,
) -> tuple[str, ...]:
    """Warnings of leaks that are allowed."""
    cure = "make splits anew with --split-column none, or allow it with --allow-leaks"
    warnings: list[str] = []
    if leaks := straddling(same, given):
        one, two = next(iter(leaks.values()))
        message = (
            f"{len(leaks)} recordings are in more than one split with the same bytes, such as "
            f"{found.items[one].name} in {given[one]} and {found.items[two].name} in {given[two]}"
        )
        if not allow:
            raise DataError(f"{message}: remove one of them, {cure}")
        warnings.append(message)
    if groups and (leaks := straddling(groups, given)):
        column = found.group_column
        one, two = next(iter(leaks.values()))
        message = (
            f"{len(leaks)} of {len(set(groups))} groups"
            + (f" (column {column!r})" if column else "")
            + f" are in more than one split, such as {found.items[one].group!r} with "
            f"{found.items[one].clip_id!r} in {given[one]} and {found.items[two].clip_id!r} in "
            f"{given[two]}"
        )
        if not allow and found.strict_groups:
            raise DataError(f"{message}: correct the splits, {cure}")
        if not allow and column:
            message += f"; to refuse that: --group-column {column}"
        warnings.append(message)
    return tuple(warnings)


def _unseen(items: Sequence[Item], splits: Sequence[str]) -> tuple[str, ...]:
    """A warning of classes that came up after the time of train."""
    seen = {c for i, s in zip(items, splits, strict=True) if s == "train" for c in i.classes}
    late = sorted({label for item in items for label in item.classes} - seen)
    return (f"classes that train has no clip of: {', '.join(late)}",) if late else ()


def _times(found: Source) -> list[float]:
    """When each item was recorded, as a number."""
    column = found.time_column
    if column is None:
        raise DataError("--split-by time needs a column of times; name it with --time-column NAME")
    values = [(item.metadata or {}).get(column) for item in found.items]
    return [_moment(v, column, i.name) for v, i in zip(values, found.items, strict=True)]


def _moment(value: Any, column: str, where: str) -> float:
    """A number as it is, an ISO date or time in seconds; without a zone it is taken for UTC."""
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    try:
        number = float(value) if not isinstance(value, datetime) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if math.isfinite(number):
        return number
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        raise DataError(
            f"{where}: {column}={value!r} is no time; write a number or an ISO date such as "
            "2024-05-31 or 2024-05-31T14:00"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()
