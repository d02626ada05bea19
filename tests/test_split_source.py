"""The splits of a source: predefined ones and their leaks, by time, in folds."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raudio.core.errors import DataError
from raudio.data.sources import Item, Source, read_source
from raudio.data.split_source import Split, split_source
from raudio.data.splits import EIGHTY_TEN_TEN


def source(tmp_path: Path, rows: list[dict[str, Any]], **columns: str) -> Source:
    """The source of a table whose files hold, as text, what its column `holds` says (by default
    their own names: no two are alike)."""
    table = []
    for number, row in enumerate(rows):
        name = f"{number}.wav"
        (tmp_path / name).write_text(str(row.pop("holds", name)))
        table.append({"file": name, "label": "ab"[number % 2], **row})
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "labels.parquet")
    return read_source(tmp_path, labels=tmp_path / "labels.parquet", columns=columns)


def split(found: Source, **how: Any) -> Split:
    return split_source(found, **{"shares": EIGHTY_TEN_TEN, **how})


def of_items(result: Split) -> list[str | None]:
    return [item.split for item in result.items]


SPLITS = ["train"] * 6 + ["valid"] * 2 + ["test"] * 2


def rows(**columns: list[Any]) -> list[dict[str, Any]]:
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


# --- leaks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "named", "strict"),
    [("group", False, True), ("speaker", True, True), ("speaker", False, False)],
)
def test_a_group_in_two_predefined_splits(
    tmp_path: Path, column: str, named: bool, strict: bool
) -> None:
    groups = ["x", "y", "z", "z", "z", "z", "x", "v", "w", "w"]
    given = {"group": column} if named else {}
    found = source(tmp_path, rows(split=SPLITS, **{column: groups}), **given)
    if strict:
        with pytest.raises(DataError) as caught:
            split(found)
        for part in ("1 of 5 groups", f"column {column!r}", "'x'", "'0.wav' in train",
                     "'6.wav' in valid", "--allow-leaks", "--split-column none"):  # fmt: skip
            assert part in str(caught.value), str(caught.value)
    result = split(found, allow_leaks=strict)
    assert of_items(result) == SPLITS
    (warning,) = result.warnings
    assert "'x'" in warning
    assert ("--group-column speaker" in warning) == (not strict)


def test_the_same_bytes_in_two_predefined_splits(tmp_path: Path) -> None:
    holds = ["same", *"12345", "same", *"789"]
    found = source(tmp_path, rows(split=SPLITS, holds=holds))
    with pytest.raises(
        DataError, match=r"/0.wav .*in train and .*/6.wav .*in valid.*--allow-leaks"
    ):
        split(found)
    (warning,) = split(found, allow_leaks=True).warnings
    assert "same bytes" in warning
    holds = ["same", "same", *"1234567", "8"]  # twice in train is no leak
    (tmp_path / "b").mkdir()
    assert split(source(tmp_path / "b", rows(split=SPLITS, holds=holds))).warnings == ()


def test_files_that_differ_at_their_ends_are_not_equal(tmp_path: Path) -> None:
    middle = "m" * 100_000
    holds = [f"{middle}{n}" for n in range(9)] + [f"{middle}0"]
    made = of_items(split(source(tmp_path, rows(holds=holds))))
    assert made[0] == made[9]
    assert Counter(made) == {"train": 8, "valid": 1, "test": 1}


def test_copies_keep_groups_together(tmp_path: Path) -> None:
    """Group 0 and group 9 hold the same recording, so they go to one split."""
    holds = ["same", *map(str, range(1, 19)), "same"]
    groups = [str(n // 2) for n in range(20)]
    for seed in range(5):
        made = of_items(split(source(tmp_path, rows(holds=holds, group=groups)), seed=seed))
        assert made[0] == made[1] == made[18] == made[19]
        assert set(made) == {"train", "valid", "test"}


def test_stored_copies_are_told_by_their_etags() -> None:
    items = [
        Item(f"{n}", f"s3://b/{n}", "ab"[n % 2], size=9, stamp="e" if n in (0, 9) else str(n),
             split=SPLITS[n])
        for n in range(10)
    ]  # fmt: skip
    with pytest.raises(DataError, match="s3://b/0 in train and s3://b/9 in test"):
        split(Source("s3://b", tuple(items), (), {}))


# --- new splits ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "times",
    [
        list(range(10)),
        [f"{n}.5" for n in range(10)],
        [f"2024-05-0{n + 1}" if n < 9 else "2024-05-10T01:00Z" for n in range(10)],
        [date(2024, 5, n + 1) for n in range(10)],
        [datetime(2024, 5, n + 1, tzinfo=UTC) for n in range(10)],
    ],
)
def test_by_time(tmp_path: Path, times: list[Any]) -> None:
    order = [3, 9, 0, 5, 1, 8, 2, 7, 4, 6]
    found = source(tmp_path, rows(recorded_at=[times[n] for n in order]))
    result = split(found, split_by="time")
    assert of_items(result) == [{8: "valid", 9: "test"}.get(n, "train") for n in order]
    assert result.how == "by time"


def test_by_time_says_what_train_lacks(tmp_path: Path) -> None:
    labels = ["a", "b"] * 4 + ["new", "a"]
    found = source(tmp_path, rows(time=list(range(10)), label=labels))
    (warning,) = split(found, split_by="time").warnings
    assert warning.endswith(": new")


@pytest.mark.parametrize("grouped", [False, True])
def test_folds(tmp_path: Path, grouped: bool) -> None:
    table = rows(group=[str(n // 2) for n in range(20)]) if grouped else [{} for _ in range(20)]
    result = split(source(tmp_path, table), folds=5)
    assert Counter(item.fold for item in result.items) == dict.fromkeys(range(5), 4)
    names = {3: "valid", 4: "test"}
    assert all(item.split == names.get(item.fold or 0, "train") for item in result.items)
    if grouped:
        assert len({(item.group, item.fold) for item in result.items}) == 10


@pytest.mark.parametrize(
    ("columns", "how", "message"),
    [
        ({"split": SPLITS}, {"folds": 5}, "--folds 5 makes splits.*--split-column none"),
        ({"split": SPLITS}, {"split_by": "time"}, "--split-by time makes splits"),
        ({}, {"split_by": "time"}, "--time-column NAME"),
        ({"time": ["x"] * 10}, {"split_by": "time"}, r"row 1 of .*time='x' is no time"),
        ({"time": [None, *range(9)]}, {"split_by": "time"}, "time=None is no time"),
        ({"time": [1] * 10}, {"split_by": "time"}, "1 different times cannot fill"),
        ({"split": ["valid"] * 5 + ["test"] * 5}, {}, "has no train among its values valid, test"),
    ],
)
def test_refused(
    tmp_path: Path, columns: dict[str, list[Any]], how: dict[str, Any], message: str
) -> None:
    table = rows(**columns) if columns else [{} for _ in range(10)]
    named = {"split": "split"} if "valid" in columns.get("split", [])[:1] else {}
    with pytest.raises(DataError, match=message):
        split(source(tmp_path, table, **named), **how)
