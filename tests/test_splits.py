"""Splits: shares, groups, and what must hold for any clips."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raudio.core.errors import DataError
from raudio.data.splits import (
    Shares,
    assign,
    assign_by_time,
    assign_folds,
    carve_valid,
    fold_splits,
    join_parts,
)


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


def test_several_labels_keep_their_shares_in_every_split() -> None:
    # Every combination of three classes, none of them too, a hundred times each.
    sets = [tuple(c for c, bit in zip("abc", f"{n % 8:03b}", strict=True) if bit == "1")
            for n in range(800)]  # fmt: skip
    splits = assign([str(n) for n in range(800)], sets)
    for label in "abc":
        counts = Counter(s for s, labels in zip(splits, sets, strict=True) if label in labels)
        assert counts["train"] == pytest.approx(320, abs=4)
        assert counts["valid"] == pytest.approx(40, abs=4)
    empty = Counter(s for s, labels in zip(splits, sets, strict=True) if not labels)
    assert empty["valid"] + empty["test"] == pytest.approx(20, abs=4)


def test_clips_without_a_class_need_not_be_in_train() -> None:
    # Six recordings of a site each: the first has no event, the others have both classes.
    sets = [(), *[("a", "b")] * 5]
    splits = assign([str(n) for n in range(6)], sets, groups=[str(n) for n in range(6)])
    assert set(splits) == {"train", "valid", "test"}


def test_rare_classes_of_several_are_in_train() -> None:
    sets = [("a",), ("a", "b"), ("b",), ("a", "rare")] + [("a",), ("b",), ()] * 10
    splits = assign([str(n) for n in range(len(sets))], sets)
    assert splits[3] == "train"
    assert set(splits) == {"train", "valid", "test"}


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(3, 40), min_size=2, max_size=5),
    folds=st.integers(3, 6),
    rotate=st.integers(0, 50),
)
def test_folds_have_equal_parts_of_each_class(sizes: list[int], folds: int, rotate: int) -> None:
    ids, labels = _clips(**{f"c{i}": size for i, size in enumerate(sizes)})
    got = assign_folds(ids, labels, folds)
    of_class = Counter(zip(labels, got, strict=True))
    for label, size in zip(sorted(set(labels)), sizes, strict=True):
        counts = [of_class[label, fold] for fold in range(folds)]
        assert sum(counts) == size
        assert max(counts) - min(counts) <= 1
    turn = rotate % len(ids)
    turned = assign_folds(ids[turn:] + ids[:turn], labels[turn:] + labels[:turn], folds)
    assert turned == got[turn:] + got[:turn]


def test_a_class_of_few_clips_is_in_the_folds_that_train() -> None:
    ids, labels = _clips(a=10, b=1, c=1, d=1, e=1)
    splits = fold_splits(assign_folds(ids, labels, 5), 5)
    assert {label for label, s in zip(labels, splits, strict=True) if s == "train"} == set("abcde")
    assert set(splits) == {"train", "valid", "test"}


def test_no_group_straddles_folds() -> None:
    ids = [str(n) for n in range(200)]
    labels = [str(n % 2) for n in range(200)]
    groups = [f"g{n // 10}" for n in range(200)]
    got = assign_folds(ids, labels, 4, groups=groups)
    assert len(set(zip(groups, got, strict=True))) == 20
    assert Counter(got) == dict.fromkeys(range(4), 50)
    with pytest.raises(DataError, match="2 groups cannot fill 4 folds"):
        assign_folds(ids[:20], labels[:20], 4, groups=groups[:20])


def test_by_time_the_oldest_train_and_the_newest_test() -> None:
    times = [float(n * 37 % 100) for n in range(100)]
    splits = assign_by_time(times)
    oldest = [splits[times.index(t)] for t in sorted(times)]
    assert oldest == ["train"] * 80 + ["valid"] * 10 + ["test"] * 10


def test_by_time_ties_and_groups_are_not_cut() -> None:
    # Four days of five clips: 60/20/20 wants 12, 4 and 4.
    times = [float(n // 5) for n in range(20)]
    assert assign_by_time(times, shares=Shares.parse("60/20/20")) == (
        ["train"] * 10 + ["valid"] * 5 + ["test"] * 5
    )
    together = ["x" if n in (0, 19) else str(n) for n in range(20)]
    splits = assign_by_time(times, together=together, shares=Shares.parse("60/20/20"))
    assert splits[0] == splits[19] == "test"
    with pytest.raises(DataError, match="2 different times cannot fill"):
        assign_by_time([1.0, 1.0, 2.0])


@settings(max_examples=60, deadline=None)
@given(
    times=st.lists(st.integers(0, 20), min_size=3, max_size=60),
    groups=st.lists(st.integers(0, 30), min_size=60, max_size=60),
    test=st.sampled_from([0, 1, 3]),
)
def test_by_time_for_any_times(times: list[int], groups: list[int], test: int) -> None:
    together = [f"g{group}" for group in groups[: len(times)]]
    newest = {g: max(t for t, o in zip(times, together, strict=True) if o == g) for g in together}
    shares = Shares.parse(f"8/1/{test}")
    wanted = [name for name, share in zip(Shares._fields, shares, strict=True) if share]
    if len(set(newest.values())) < len(wanted):
        return
    splits = assign_by_time([float(t) for t in times], together=together, shares=shares)
    assert set(splits) == set(wanted)
    spans = [
        [newest[g] for g, s in zip(together, splits, strict=True) if s == name] for name in wanted
    ]
    assert all(max(old) < min(new) for old, new in pairwise(spans))


def test_what_is_joined_by_way_of_others() -> None:
    groups = ["a", "a", "b", "b", "c", "d"]
    same = ["1", "2", "2", "3", "4", "4"]
    assert join_parts(groups, same) == ["a", "a", "a", "a", "c", "c"]
    turned = join_parts(groups[::-1], same[::-1])
    assert turned == ["c", "c", "a", "a", "a", "a"]


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
