"""Splits: shares, groups, and what must hold for any clips."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raudio.core.errors import DataError
from raudio.data.splits import Shares, assign, carve_valid


def _clips(**sizes: int) -> tuple[list[str], list[str]]:
    ids = [f"{label}/{number}" for label, size in sizes.items() for number in range(size)]
    return ids, [clip_id.partition("/")[0] for clip_id in ids]


def _counts(labels: list[str], splits: list[str]) -> dict[tuple[str, str], int]:
    return Counter(zip(labels, splits, strict=True))


def test_ten_clips_a_class_are_eight_one_one() -> None:
    ids, labels = _clips(a=10, b=10, c=10)
    counts = _counts(labels, assign(ids, labels))
    for label in "abc":
        assert [counts[label, split] for split in Shares._fields] == [8, 1, 1]


def test_shares_of_other_splits() -> None:
    ids, labels = _clips(a=200, b=100)
    counts = _counts(labels, assign(ids, labels, shares=Shares.parse("60/30/10")))
    assert [counts["a", split] for split in Shares._fields] == [120, 60, 20]
    assert [counts["b", split] for split in Shares._fields] == [60, 30, 10]


def test_ten_equal_groups_are_eight_one_one_and_stay_whole() -> None:
    ids = [f"{number}" for number in range(100)]
    labels = [str(number % 2) for number in range(100)]
    groups = [f"g{number // 10}" for number in range(100)]
    splits = assign(ids, labels, groups=groups)
    of_group = dict(zip(groups, splits, strict=True))
    assert Counter(of_group.values()) == {"train": 8, "valid": 1, "test": 1}
    assert all(of_group[g] == s for g, s in zip(groups, splits, strict=True))


def test_three_groups_fill_three_splits_with_the_largest_in_train() -> None:
    ids = [str(number) for number in range(60)]
    groups = ["large"] * 40 + ["b"] * 10 + ["c"] * 10
    labels = [str(number % 2) for number in range(60)]
    of_group = dict(zip(groups, assign(ids, labels, groups=groups), strict=True))
    assert of_group["large"] == "train"
    assert {of_group["b"], of_group["c"]} == {"valid", "test"}


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=6),
    seed=st.integers(0, 5),
    rotate=st.integers(0, 50),
)
def test_stratified_for_any_class_sizes(sizes: list[int], seed: int, rotate: int) -> None:
    ids, labels = _clips(**{f"c{i}": size for i, size in enumerate(sizes)})
    if sum(sizes) < 3 or sum(size - 1 for size in sizes) < 2:
        return  # cannot fill three splits with every class in train
    splits = assign(ids, labels, seed=seed)
    counts = _counts(labels, splits)
    assert {label for label, split in counts if split == "train"} == set(labels)
    assert set(splits) == set(Shares._fields)
    whole = max(sum(sizes), 10)
    for label, size in Counter(labels).items():
        held = counts[label, "valid"] + counts[label, "test"]
        assert held <= 0.2 * size * whole / sum(sizes) + 2 + sizes.count(1)
    # The order in which clips are listed does not matter.
    turn = rotate % len(ids)
    turned = assign(ids[turn:] + ids[:turn], labels[turn:] + labels[:turn], seed=seed)
    assert dict(zip(ids[turn:] + ids[:turn], turned, strict=True)) == dict(
        zip(ids, splits, strict=True)
    )


@settings(max_examples=60, deadline=None)
@given(
    clips=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=1, max_size=80),
    seed=st.integers(0, 5),
)
def test_no_group_straddles_and_train_has_every_class(
    clips: list[tuple[int, int]], seed: int
) -> None:
    ids = [str(number) for number in range(len(clips))]
    labels = [f"c{label}" for label, _ in clips]
    groups = [f"g{group}" for _, group in clips]
    try:
        splits = assign(ids, labels, groups=groups, seed=seed)
    except DataError:
        # Only where it cannot be done: fewer groups than splits, or classes tied to groups.
        of_class = {label: {g for c, g in zip(labels, groups, strict=True) if c == label}
                    for label in labels}  # fmt: skip
        assert len(set(groups)) < 3 or any(len(having) <= 2 for having in of_class.values())
        return
    assert len(set(zip(groups, splits, strict=True))) == len(set(groups))
    in_train = {label for label, split in zip(labels, splits, strict=True) if split == "train"}
    assert in_train == set(labels)


def test_seeds_differ() -> None:
    ids, labels = _clips(a=50, b=50)
    assert assign(ids, labels, seed=0) == assign(ids, labels, seed=0)
    assert assign(ids, labels, seed=0) != assign(ids, labels, seed=1)


def test_the_same_recording_stays_in_one_split() -> None:
    ids, labels = _clips(a=40, b=40)
    same = [f"{label}{index % 20}" for index, label in enumerate(labels)]  # each recording twice
    splits = assign(ids, labels, same=same)
    assert len(set(zip(same, splits, strict=True))) == len(set(same))
    assert set(splits) == set(Shares._fields)


def test_carve_valid_takes_from_train_alone() -> None:
    ids, labels = _clips(a=50, b=50)
    given = ["test" if index % 10 == 0 else "train" for index in range(100)]
    splits = carve_valid(ids, labels, given)
    assert Counter(splits) == {"train": 80, "valid": 10, "test": 10}
    assert all((a == "test") == (b == "test") for a, b in zip(splits, given, strict=True))
    assert _counts(labels, splits)["a", "valid"] == 5


@pytest.mark.parametrize(
    ("ids", "labels", "groups", "message"),
    [
        (["1", "2"], ["a", "b"], None, "2 clips cannot fill"),
        (["1", "2", "3"], ["a", "b", "a"], ["x", "x", "y"], "2 groups cannot fill"),
        (["1", "2", "3"], ["a", "b", "c"], None, "train needs every class"),
        (["1", "2", "3"], ["a", "b", "c"], ["x", "y", "z"], "--group-column none"),
    ],
)
def test_what_cannot_be_split(
    ids: list[str], labels: list[str], groups: list[str] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        assign(ids, labels, groups=groups)


@pytest.mark.parametrize("text", ["80/20", "a/b/c", "0/50/50", "80/0/20", "80/-10/30", ""])
def test_shares_that_are_none(text: str) -> None:
    with pytest.raises(DataError, match="80/10/10"):
        Shares.parse(text)
