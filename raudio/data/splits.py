"""Splits that nobody made beforehand: stratified by class, and by group where there are groups.

Deterministic: a clip's split depends on the seed and the set of clips, not on their order. Every
class is in `train`, and no group straddles two splits.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from raudio.core.errors import DataError
from raudio.core.seeding import key


class Shares(NamedTuple):
    """Shares of the clips; they add up to 1, and `test` may be 0."""

    train: float = 0.8
    valid: float = 0.1
    test: float = 0.1

    @classmethod
    def parse(cls, text: str) -> Shares:
        """From a text such as "80/10/10" or "0.7/0.15/0.15" (any three numbers, by their ratio).

        Raises:
            DataError: it is no such text, or leaves `train` or `valid` without clips.
        """
        try:
            numbers = [float(part) for part in text.split("/")]
        except ValueError:
            numbers = []
        if len(numbers) != 3 or min(numbers) < 0 or not numbers[0] or not numbers[1]:
            raise DataError(
                f"splits {text!r} are not three shares; write train/valid/test such as 80/10/10, "
                "with more than 0 for train and valid"
            )
        return cls(*(number / sum(numbers) for number in numbers))


EIGHTY_TEN_TEN = Shares()


def assign(
    clip_ids: Sequence[str],
    labels: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    same: Sequence[str] | None = None,
    shares: Shares = EIGHTY_TEN_TEN,
    seed: int = 0,
) -> list[str]:
    """The split of each clip.

    Args:
        clip_ids: unique names.
        labels: the class of each clip.
        groups: what must not straddle splits (speaker, site), or None.
        same: without groups: clips of equal value stay together (the same recording twice).
        shares: of the splits.
        seed: another seed, another draw.

    Without groups each class is within two clips of its shares; with groups as near as moving
    whole groups greedily allows.

    Raises:
        DataError: there are too few clips or groups to fill the splits.
    """
    units = _units(clip_ids, groups if groups is not None else same, labels, seed)
    names = [name for name, share in zip(Shares._fields, shares, strict=True) if share]
    if len(units) < len(names):
        what = f"{len(units)} groups" if groups is not None else f"{len(units)} clips"
        cure = "give more" if groups is None else "split without groups: --group-column none"
        raise DataError(f"{what} cannot fill the splits {', '.join(names)}; {cure}")
    choose = _grouped if groups is not None else _stratified
    unit_splits = _cover_train(units, choose(units, shares))
    splits = [""] * len(clip_ids)
    for unit, split in zip(units, unit_splits, strict=True):
        for clip in unit.clips:
            splits[clip] = split
    if absent := [name for name in names if name not in splits]:
        cure = (
            "some class is in one group alone; split without groups: --group-column none"
            if groups is not None
            else "give more clips a class"
        )
        raise DataError(
            f"the split {absent[0]!r} would be empty, because train needs every class: {cure}"
        )
    return splits


def carve_valid(
    clip_ids: Sequence[str],
    labels: Sequence[str],
    splits: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    share: float = 1 / 9,
    seed: int = 0,
) -> list[str]:
    """Predefined `splits` without `valid`: takes `share` of `train` for it, as `assign` would.

    Raises:
        DataError: `train` has too few clips or groups.
    """
    train = [index for index, split in enumerate(splits) if split == "train"]
    inner = assign(
        [clip_ids[i] for i in train],
        [labels[i] for i in train],
        groups=None if groups is None else [groups[i] for i in train],
        shares=Shares(1 - share, share, 0),
        seed=seed,
    )
    result = list(splits)
    for index, split in zip(train, inner, strict=True):
        result[index] = split
    return result


class _Unit(NamedTuple):
    """Clips that stay together."""

    clips: list[int]
    labels: Counter[str]


def _units(
    clip_ids: Sequence[str], together: Sequence[str] | None, labels: Sequence[str], seed: int
) -> list[_Unit]:
    """Units in an order drawn by the seed."""
    names = clip_ids if together is None else together
    members: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        members[name].append(index)
    order = sorted(members, key=lambda name: (key(seed, "split", name), name))
    return [_Unit(members[n], Counter(labels[i] for i in members[n])) for n in order]


def _stratified(units: Sequence[_Unit], shares: Shares) -> list[str]:
    """Class by class; what a class is rounded down by is made up by the next."""
    total = sum(len(unit.clips) for unit in units)
    test_total = max(1, round(shares.test * total)) if shares.test else 0
    held_total = test_total + max(1, round(shares.valid * total))
    by_class: dict[str, list[int]] = defaultdict(list)
    for index, unit in enumerate(units):
        by_class[min(unit.labels)].append(index)

    splits = ["train"] * len(units)
    seen = given_held = given_test = 0
    # The smallest classes first: clips that they must keep for train come from larger ones.
    for _, members in sorted(by_class.items(), key=lambda item: (len(item[1]), item[0])):
        seen += sum(len(units[index].clips) for index in members)
        held = math.floor(held_total * seen / total + 0.5) - given_held
        test = math.floor(test_total * seen / total + 0.5) - given_test
        taken = taken_test = 0
        for index in members[1:]:  # the first stays in train
            if taken >= held:
                break
            size = len(units[index].clips)
            splits[index] = "test" if taken_test < test else "valid"
            taken += size
            taken_test += size if splits[index] == "test" else 0
        given_held += taken
        given_test += taken_test
    return splits


def _grouped(units: Sequence[_Unit], shares: Shares) -> list[str]:
    """Largest group first, each to the split whose class counts it brings nearest its shares."""
    classes = sorted({label for unit in units for label in unit.labels})
    counts = np.array([[unit.labels[c] for c in classes] for unit in units], dtype=np.float64)
    relative = counts / counts.sum(axis=0)  # (units, classes): share of a class in each group
    names = [name for name, share in zip(Shares._fields, shares, strict=True) if share]
    target = np.array([share for share in shares if share])[:, None]
    filled = np.zeros((len(names), len(classes)))
    used: set[int] = set()

    splits = [""] * len(units)
    order = sorted(range(len(units)), key=lambda index: -len(units[index].clips))
    for position, index in enumerate(order):
        change = (filled + relative[index] - target) ** 2 - (filled - target) ** 2
        cost = change.sum(axis=1)
        if len(order) - position <= len(names) - len(used):
            cost[list(used)] = np.inf  # the groups left just suffice to fill the empty splits
        choice = int(np.argmin(cost))
        used.add(choice)
        filled[choice] += relative[index]
        splits[index] = names[choice]
    return splits


def _cover_train(units: Sequence[_Unit], splits: list[str]) -> list[str]:
    """Moves the smallest unit of each class that `train` lacks into it."""
    result = list(splits)
    covered = {
        c for unit, s in zip(units, result, strict=True) if s == "train" for c in unit.labels
    }
    for label in sorted({c for unit in units for c in unit.labels}):
        if label in covered:
            continue
        having = [index for index, unit in enumerate(units) if label in unit.labels]
        smallest = min(having, key=lambda index: len(units[index].clips))
        result[smallest] = "train"
        covered |= set(units[smallest].labels)
    return result
