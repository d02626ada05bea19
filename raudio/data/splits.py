"""Splits that nobody made beforehand: stratified by class, and by group where there are groups; k
folds; or by time.

Deterministic: a clip's split depends on the seed and the set of clips, not on their order. No group
straddles two splits; every class is in `train`, except where time decides.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np

from raudio.core.errors import DataError
from raudio.core.seeding import key

#: The class of a clip, or its classes (of multi-label data and events); a clip may have none.
Labels: TypeAlias = str | Collection[str]

# Clips without a class are spread over the splits like those of a class.
_NO_CLASS = ""


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
    labels: Sequence[Labels],
    *,
    groups: Sequence[str] | None = None,
    same: Sequence[str] | None = None,
    shares: Shares = EIGHTY_TEN_TEN,
    seed: int = 0,
) -> list[str]:
    """The split of each clip.

    Args:
        clip_ids: unique names.
        labels: the class or classes of each clip.
        groups: what must not straddle splits (speaker, site), or None.
        same: clips of equal value stay together too (the same recording twice), or None.
        shares: of the splits.
        seed: another seed, another draw.

    Without groups each class of single-label data is within two clips of its shares; with groups or
    several labels a clip as near as moving units of clips greedily allows.

    Raises:
        DataError: there are too few clips or groups to fill the splits.
    """
    units = _units(clip_ids, labels, groups, same, seed)
    names = [name for name, share in zip(Shares._fields, shares, strict=True) if share]
    _check_enough(units, len(names), f"fill the splits {', '.join(names)}", groups)
    if groups is None and all(len(unit.labels) == 1 for unit in units):
        unit_splits = _stratified(units, shares)
    else:
        chosen = _balanced(units, [share for share in shares if share])
        unit_splits = [names[number] for number in chosen]
    unit_splits = _cover_train(units, unit_splits)
    splits = _of_clips(units, unit_splits, len(clip_ids))
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


def assign_folds(
    clip_ids: Sequence[str],
    labels: Sequence[Labels],
    folds: int,
    *,
    groups: Sequence[str] | None = None,
    same: Sequence[str] | None = None,
    seed: int = 0,
) -> list[int]:
    """The fold of each clip, from 0: stratified k folds, grouped where there are groups.

    Args: as of `assign`; `folds` is how many, at least 3. Without groups each class of single-label
    data has the same number of clips in each fold, give or take one. Fold 0 takes a clip more of
    each class that would otherwise not be in train (see `fold_splits`).

    Raises:
        DataError: there are fewer clips or groups than folds.
    """
    units = _units(clip_ids, labels, groups, same, seed)
    _check_enough(units, folds, f"fill {folds} folds", groups)
    if groups is None and all(len(unit.labels) == 1 for unit in units):
        # Dealt like cards, class by class: the next class goes on where the last one ended.
        order = sorted(range(len(units)), key=lambda index: min(units[index].labels))
        unit_folds = [0] * len(units)
        for turn, index in enumerate(order):
            unit_folds[index] = turn % folds
    else:
        unit_folds = _balanced(units, [1 / folds] * folds)
    before = fold_splits(unit_folds, folds)
    after = _cover_train(units, before)
    unit_folds = [
        fold if old == new else 0 for fold, old, new in zip(unit_folds, before, after, strict=True)
    ]
    return _of_clips(units, unit_folds, len(clip_ids))


def fold_splits(of_clip: Sequence[int], folds: int) -> list[str]:
    """Splits from folds: the last is test, the one before valid, the others are train."""
    names = {folds - 1: "test", folds - 2: "valid"}
    return [names.get(fold, "train") for fold in of_clip]


def assign_by_time(
    times: Sequence[float],
    *,
    together: Sequence[str] | None = None,
    shares: Shares = EIGHTY_TEN_TEN,
) -> list[str]:
    """The split of each clip: the oldest in train, the newest in test.

    Args:
        times: of the clips, in any unit.
        together: clips of equal value stay in one split (group); such clips count as old as their
            newest. Clips of one time stay together as well.
        shares: of the splits; each cut is at the time that comes nearest them.

    Raises:
        DataError: there are too few times to fill the splits.
    """
    names = [name for name, share in zip(Shares._fields, shares, strict=True) if share]
    newest: dict[str, float] = {}
    of_clip = list(together) if together is not None else [str(i) for i in range(len(times))]
    for name, time in zip(of_clip, times, strict=True):
        newest[name] = max(time, newest.get(name, time))
    counts = Counter(newest[name] for name in of_clip)
    moments = sorted(counts)
    if len(moments) < len(names):
        raise DataError(
            f"{len(moments)} different times cannot fill the splits {', '.join(names)}; give more, "
            "or split without time: --split-by random"
        )
    ends = list(accumulate(counts[moment] for moment in moments))
    wanted = accumulate(share * len(times) for share in shares if share)
    split_of: dict[float, str] = {}
    first = 0
    for left, (name, want) in enumerate(zip(names, wanted, strict=True), start=1 - len(names)):
        # At least one moment for this split, and one for each that is left.
        possible = range(first, len(moments) + left) if left else [len(moments) - 1]
        last = min(possible, key=lambda index: (abs(ends[index] - want), index))
        split_of.update(dict.fromkeys(moments[first : last + 1], name))
        first = last + 1
    return [split_of[newest[name]] for name in of_clip]


def carve_valid(
    clip_ids: Sequence[str],
    labels: Sequence[Labels],
    splits: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    same: Sequence[str] | None = None,
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
        same=None if same is None else [same[i] for i in train],
        shares=Shares(1 - share, share, 0),
        seed=seed,
    )
    result = list(splits)
    for index, split in zip(train, inner, strict=True):
        result[index] = split
    return result


def join_parts(*parts: Sequence[str]) -> list[str]:
    """A name for each clip, equal for clips that any of `parts` puts together, also by way of
    others: the connected components."""
    of_part: dict[tuple[int, str], int] = {}
    parent = list(range(len(parts[0])))

    def root(clip: int) -> int:
        while parent[clip] != clip:
            parent[clip] = parent[parent[clip]]
            clip = parent[clip]
        return clip

    for number, part in enumerate(parts):
        for clip, name in enumerate(part):
            other = of_part.setdefault((number, name), clip)
            parent[root(clip)] = root(other)
    # Named by their smallest name, so that the order of the clips does not matter.
    names: dict[int, str] = {}
    for clip, name in enumerate(parts[0]):
        names[root(clip)] = min(name, names.get(root(clip), name))
    return [names[root(clip)] for clip in range(len(parts[0]))]


class _Unit(NamedTuple):
    """Clips that stay together."""

    clips: list[int]
    labels: Counter[str]


def _units(
    clip_ids: Sequence[str],
    labels: Sequence[Labels],
    groups: Sequence[str] | None,
    same: Sequence[str] | None,
    seed: int,
) -> list[_Unit]:
    """Units in an order drawn by the seed."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(join_parts(groups or clip_ids, same or clip_ids)):
        members[name].append(index)
    order = sorted(members, key=lambda name: (key(seed, "split", name), name))
    return [
        _Unit(members[n], Counter(c for i in members[n] for c in _set(labels[i]))) for n in order
    ]


def _set(labels: Labels) -> Collection[str]:
    return {labels} if isinstance(labels, str) else set(labels) or {_NO_CLASS}


def _check_enough(
    units: Sequence[_Unit], needed: int, purpose: str, groups: Sequence[str] | None
) -> None:
    if len(units) < needed:
        what = f"{len(units)} groups" if groups is not None else f"{len(units)} clips"
        cure = "give more" if groups is None else "split without groups: --group-column none"
        raise DataError(f"{what} cannot {purpose}; {cure}")


_T = TypeVar("_T")


def _of_clips(units: Sequence[_Unit], values: Sequence[_T], clips: int) -> list[_T]:
    """What the units have, for each clip."""
    of_clip = {i: value for unit, value in zip(units, values, strict=True) for i in unit.clips}
    return [of_clip[index] for index in range(clips)]


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


def _balanced(units: Sequence[_Unit], shares: Sequence[float]) -> list[int]:
    """Largest unit first, each to the part whose class counts it brings nearest its share."""
    classes = sorted({label for unit in units for label in unit.labels})
    number = {label: index for index, label in enumerate(classes)}
    totals = np.zeros(len(classes))
    for unit in units:
        for label, count in unit.labels.items():
            totals[number[label]] += count
    target = np.array(shares)[:, None]
    filled = np.zeros((len(shares), len(classes)))
    used: set[int] = set()

    parts = [0] * len(units)
    order = sorted(range(len(units)), key=lambda index: -len(units[index].clips))
    for position, index in enumerate(order):
        labels = units[index].labels
        mine = [number[label] for label in labels]
        relative = np.array(list(labels.values())) / totals[mine]  # the unit's share of each class
        after = filled[:, mine] + relative
        cost = ((after - target) ** 2 - (filled[:, mine] - target) ** 2).sum(axis=1)
        if len(order) - position <= len(shares) - len(used):
            cost[list(used)] = np.inf  # the units left just suffice to fill the empty parts
        parts[index] = choice = int(np.argmin(cost))
        used.add(choice)
        filled[choice, mine] = after[choice]
    return parts


def _cover_train(units: Sequence[_Unit], splits: list[str]) -> list[str]:
    """Moves the smallest unit of each class that `train` lacks into it."""
    result = list(splits)
    covered = {
        c for unit, s in zip(units, result, strict=True) if s == "train" for c in unit.labels
    }
    for label in sorted({c for unit in units for c in unit.labels} - {_NO_CLASS}):
        if label in covered:
            continue
        having = [index for index, unit in enumerate(units) if label in unit.labels]
        smallest = min(having, key=lambda index: len(units[index].clips))
        result[smallest] = "train"
        covered |= set(units[smallest].labels)
    return result
