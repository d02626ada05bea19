"""Label tables: what a row is about, what columns are taken for, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from raudio.core.errors import DataError
from raudio.data.sources import Event, Item, Source, check_events, read_item, read_source
from raudio.data.sources.item import merged

RATE = 8000
SECONDS = 4


def noise(number: int, channels: int = 1) -> NDArray[np.int16]:
    """(T, C) samples of recording `number`."""
    draw = np.random.default_rng(number)
    return draw.integers(-20000, 20000, (RATE * SECONDS, channels), dtype=np.int16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six recordings of four seconds, 0.flac to 5.flac."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(6):
        soundfile.write(source / f"{number}.flac", noise(number), RATE)
    return source


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def read(folder: Path, rows: list[dict[str, Any]], suffix: str = ".csv", **how: Any) -> Source:
    return read_source(folder, labels=write(folder.parent / f"labels{suffix}", rows), **how)


def samples(content: bytes) -> NDArray[np.int16]:
    wave, rate = soundfile.read(io.BytesIO(content), dtype="int16", always_2d=True)
    assert rate == RATE
    return wave


# --- segments ------------------------------------------------------------------------------------

SEGMENTS = [
    {"file": f"{n}.flac", "start": at, "end": at + 1.25, "label": "ab"[n % 2]}
    for n in range(6)
    for at in (0, 1.5)
]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_segments_are_parts_of_recordings(folder: Path, suffix: str) -> None:
    found = read(folder, SEGMENTS, suffix)
    assert [item.clip_id for item in found.items[:2]] == ["0.flac#0-1.25", "0.flac#1.5-2.75"]
    assert [item.label for item in found.items] == [row["label"] for row in SEGMENTS]
    for item, row in zip(found.items, SEGMENTS, strict=True):
        first, last = round(row["start"] * RATE), round(row["end"] * RATE)
        number = int(row["file"][0])
        np.testing.assert_array_equal(samples(read_item(item)), noise(number)[first:last])
        assert item.group == row["file"]  # parts of one recording stay together
    assert any("from 'start' to 'end'" in text for text in found.taken)
    whole = sum((folder / f"{n}.flac").stat().st_size for n in range(6))
    assert sum(item.size for item in found.items) == pytest.approx(whole, abs=12)


def test_items_can_be_pickled_and_read_from_any_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    item = read_source("source", labels=write(tmp_path / "labels.csv", SEGMENTS)).items[3]
    monkeypatch.chdir("/")
    same = pickle.loads(pickle.dumps(item))
    assert same == item
    np.testing.assert_array_equal(samples(read_item(same)), noise(1)[12000:22000])


def test_groups_of_segments(folder: Path) -> None:
    rows = [{**row, "speaker": "x"} for row in SEGMENTS]
    assert {item.group for item in read(folder, rows).items} == {"x"}
    assert {i.group for i in read(folder, SEGMENTS, columns={"group": "none"}).items} == {None}


def test_a_slice_is_not_cut_again(folder: Path) -> None:
    """UrbanSound8K's table: start and end are of a recording that is not there."""
    rows = [
        {"slice_file_name": f"{n}.flac", "start": 30, "end": 34, "class": "ab"[n % 2]}
        for n in range(6)
    ]
    found = read(folder, rows)
    assert [item.seconds for item in found.items] == [None] * 6
    assert found.items[0].metadata == {"start": "30", "end": "34"}


def test_an_end_may_round_up(folder: Path) -> None:
    rows = [{**row, "end": 4.09} for row in SEGMENTS]
    content = read_item(read(folder, rows).items[1])
    np.testing.assert_array_equal(samples(content), noise(0)[12000:])
    late = read(folder, [{**row, "end": 4.2} for row in SEGMENTS]).items[1]
    with pytest.raises(DataError, match=r"line 3 of labels.csv.*ends at 4.2 s.*at 4 s"):
        read_item(late)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("a.wav", {"subtype": "PCM_24"}),
        ("a.wav", {"subtype": "FLOAT"}),
        ("a.ogg", {}),
        ("a.mp3", {}),
    ],
)
def test_parts_of_any_format(tmp_path: Path, name: str, how: dict[str, str]) -> None:
    wave = noise(3, 2) / 40000
    soundfile.write(tmp_path / name, wave, RATE, **how)
    whole, _ = soundfile.read(tmp_path / name, always_2d=True)
    item = Item("x", str(tmp_path / name), seconds=(1.0, 1.5), channel=1)
    part, _ = soundfile.read(io.BytesIO(read_item(item)), always_2d=True)
    assert part.shape == (4000, 1)
    np.testing.assert_allclose(part[:, 0], whole[8000:12000, 1], atol=2**-14)


def test_a_part_is_read_without_the_rest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_frames: list[int] = []
    original = soundfile.SoundFile.read

    def counting(self: Any, frames: int = -1, *args: Any, **kwargs: Any) -> Any:
        read_frames.append(frames)
        return original(self, frames, *args, **kwargs)

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    read_item(Item("x", str(folder / "0.flac"), seconds=(1.0, 1.5)))
    assert read_frames == [4000]


# --- events --------------------------------------------------------------------------------------


def events(*rows: tuple[int, Any, Any, str], **further: Any) -> list[dict[str, Any]]:
    return [
        {"file": f"{n}.flac", "onset": onset, "offset": offset, "label": label, **further}
        for n, onset, offset, label in rows
    ]


def test_events_make_one_clip_a_recording(folder: Path) -> None:
    rows = events(
        (0, 2, 3, "b"), (1, 0.5, 1, "a"), (0, 0.5, 1.5, "a"), (0, 1, 2, "a"), (2, "", "", ""),
        (0, 3, 3.5, "a"), site="s",
    )  # fmt: skip
    rows[0]["certainty"] = 1
    rows = [{**row, "certainty": index} for index, row in enumerate(rows)]
    found = read(folder, rows)
    assert [item.clip_id for item in found.items] == ["0.flac", "1.flac", "2.flac"]
    one, two, three = found.items
    # 0.5 to 1.5 and 1 to 2 of one class overlap.
    assert one.events == (Event("a", 0.5, 2.0), Event("b", 2.0, 3.0), Event("a", 3.0, 3.5))
    assert two.events == (Event("a", 0.5, 1.0),)
    assert three.events == ()
    assert (one.label, one.labels, one.classes, one.group) == (None, None, ("a", "b"), "s")
    assert one.metadata == {"site": "s"}
    assert one.where == "line 2 to line 7 of labels.csv"
    assert any("'certainty'" in text for text in found.taken)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 30), st.integers(1, 9)), max_size=12)
)
def test_merged_events_cover_the_same_time_once(drawn: list[tuple[str, int, int]]) -> None:
    given_events = [Event(label, onset, onset + length) for label, onset, length in drawn]
    got = merged(given_events)
    assert list(got) == sorted(got, key=lambda event: (event.onset, event.label))
    for label in "ab":
        covered = {t for e in given_events if e.label == label for t in range(e.onset, e.offset)}
        mine = [e for e in got if e.label == label]
        assert sorted(t for e in mine for t in range(int(e.onset), int(e.offset))) == sorted(
            covered
        )
        assert all(one.offset < two.onset for one, two in pairwise(mine))


def test_onset_and_offset_as_segments_when_asked(folder: Path) -> None:
    rows = events((0, 0, 1, "a"), (0, 1, 2, "b"))
    found = read(folder, rows, columns={"start": "onset", "end": "offset"})
    assert [(item.label, item.seconds) for item in found.items] == [
        ("a", (0.0, 1.0)), ("b", (1.0, 2.0)),
    ]  # fmt: skip


def test_events_at_the_end_of_a_clip() -> None:
    inside = (Event("a", 0, 1), Event("b", 3, 4.05))
    assert check_events(inside, 4.0, "x") == (Event("a", 0, 1), Event("b", 3, 4.0))
    for late in (Event("a", 3, 4.2), Event("a", 4.0, 4.05)):
        with pytest.raises(DataError, match=r"row 7: the event 'a' .* lasts 4 s"):
            check_events([late], 4.0, "row 7")


# --- several labels ------------------------------------------------------------------------------


def test_lists_of_labels(folder: Path) -> None:
    lists = [["a", "b"], ["b"], [], ["b", "a", "a"], ["c"], ["a"]]
    rows = [{"file": f"{n}.flac", "labels": names} for n, names in enumerate(lists)]
    for suffix in (".jsonl", ".parquet"):
        found = read(folder, rows, suffix)
        assert [item.labels for item in found.items] == [
            ("a", "b"), ("b",), (), ("a", "b"), ("c",), ("a",),
        ]  # fmt: skip
        assert {item.label for item in found.items} == {None}


def test_separated_labels(folder: Path) -> None:
    cells = ["a; b", "b", "", "b;a;", "c;a", "a;c"]
    rows = [{"file": f"{n}.flac", "tags": cell} for n, cell in enumerate(cells)]
    found = read(folder, rows, columns={"label": "tags"}, label_separator=";")
    assert [item.labels for item in found.items] == [
        ("a", "b"), ("b",), (), ("a", "b"), ("a", "c"), ("a", "c"),
    ]  # fmt: skip
    rows = [{**row, "tags": row["tags"] or "z"} for row in rows]
    single = read(folder, rows, columns={"label": "tags"})
    assert single.items[0].label == "a; b"
    assert any("--label-separator ';'" in text for text in single.taken)


# --- columns -------------------------------------------------------------------------------------


def test_folds_are_kept(folder: Path) -> None:
    rows = [{"file": f"{n}.flac", "label": n % 2, "fold": n % 3 + 1} for n in range(6)]
    assert [(i.fold, i.split) for i in read(folder, rows).items] == [
        (1, "train"), (2, "valid"), (3, "test"), (1, "train"), (2, "valid"), (3, "test"),
    ]  # fmt: skip
    rows = [{**row, "split": "train" if row["fold"] < 3 else "test"} for row in rows]
    assert [(i.fold, i.split) for i in read(folder, rows).items][:3] == [
        (1, "train"), (2, "train"), (3, "test"),
    ]  # fmt: skip
    anew = read(folder, rows, columns={"split": "none"}).items
    assert {(item.fold, item.split) for item in anew} == {(None, None)}
    assert anew[0].metadata is not None
    assert len(anew[0].metadata) == 2  # fold and split, now of no meaning to us


def bad(name: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows that cannot be used, and columns that are named for them."""
    segments = [dict(row) for row in SEGMENTS]
    sounds = events((0, 0, 1, "a"), (0, 1, 2, "b"), (1, 1, 2, "a"))
    match name:
        case "negative":
            segments[2]["start"] = -1
        case "backwards":
            segments[2].update(start=2, end=1.5)
        case "empty time":
            segments[2]["end"] = ""
        case "nan":
            sounds[1]["offset"] = "nan"
        case "event backwards":
            sounds[1].update(onset=2, offset=2)
        case "event without label":
            sounds[1]["label"] = ""
        case "same part twice":
            segments.append(dict(segments[2]))
        case "two splits":
            splits = ["train", "test", "train"]
            sounds = [{**row, "split": s} for row, s in zip(sounds, splits, strict=True)]
        case "start alone":
            return segments, {"start": "start", "end": "none"}
        case "both":
            both = [{**row, "onset": 0, "offset": 1} for row in segments]
            return both, {"start": "start", "onset": "onset"}
        case "column":
            return segments, {"start": "strat"}
        case "missing":
            for index in range(2, 10):
                segments[index]["file"] = f"no{index}.flac"
        case "empty labels":
            for index in (3, 5):
                segments[index]["label"] = ""
        case "no events":
            sounds = events((0, "", "", ""), (1, "", "", ""))
    of_events = name in ("nan", "event backwards", "event without label", "two splits", "no events")
    return (sounds if of_events else segments), {}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("negative", ["line 4", "start='-1' is no time"]),
        ("backwards", ["line 4", "end=1.5 is not after start=2"]),
        ("empty time", ["line 4", "end='' is no time"]),
        ("nan", ["line 3", "offset='nan' is no time"]),
        ("event backwards", ["line 3", "offset=2 is not after onset=2"]),
        ("event without label", ["line 3", "'label' is empty, but the row has times"]),
        ("same part twice", ["line 14", "'1.flac#0-1.25' is there twice (first in line 4)"]),
        ("two splits", ["line 3", "split='test'", "line 2 has 'train'", "'0.flac'"]),
        ("start alone", ["--start-column='start' without a column for the end", "--end-column"]),
        ("both", ["name one pair"]),
        ("column", ["--start-column", "'strat'", "closest: 'start'"]),
        ("missing", ["8 of 12 files are not there", "'no2.flac'", "line 4 of", "and 5 more"]),
        ("empty labels", ["line 5", "'label' is empty (and in 1 more rows)"]),
        ("no events", ["none of the 2 clips", "has a label"]),
    ],
)
def test_refused(folder: Path, name: str, parts: list[str]) -> None:
    rows, columns = bad(name)
    with pytest.raises(DataError) as caught:
        read(folder, rows, columns=columns)
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_of_windows(folder: Path) -> None:
    (folder.parent / "more" / "deep").mkdir(parents=True)
    (folder / "0.flac").rename(folder.parent / "more" / "deep" / "0.flac")
    rows = [{"file": r"deep\0.flac", "label": "a"}, {"file": r".\deep\0.flac", "label": "b"}]
    source = read(folder.parent / "more", [rows[0], {"file": "../source/1.flac", "label": "b"}])
    assert source.items[0].clip_id == "deep/0.flac"
    with pytest.raises(DataError, match=r"line 3: 'deep/0.flac' is there twice"):
        read(folder.parent / "more", rows)


@pytest.mark.parametrize("write_fold", ["{}", "{}.0", "fold{}", "Fold {}", "fold_{}"])
def test_how_folds_are_written(folder: Path, write_fold: str) -> None:
    rows = [
        {"file": f"{n}.flac", "label": n % 2, "fold": write_fold.format(n // 2 + 9)}
        for n in range(6)
    ]
    items = read(folder, rows).items
    assert [item.split for item in items] == ["train"] * 2 + ["valid"] * 2 + ["test"] * 2
    assert [item.fold for item in items] == [9, 9, 10, 10, 11, 11]


def test_two_folds_are_too_few(folder: Path) -> None:
    rows = [{"file": f"{n}.flac", "label": n % 2, "fold": n // 3} for n in range(6)]
    assert any("has 2 folds, and 3 are needed" in text for text in read(folder, rows).taken)


@pytest.mark.parametrize("other", ["", "holdout"])
def test_splits_of_which_one_is_none(folder: Path, other: str) -> None:
    """Splits that someone made are not thrown away for one cell."""
    splits = ["train", "train", "train", "valid", "test", other]
    rows = [{"file": f"{n}.flac", "label": n % 2, "split": splits[n]} for n in range(6)]
    with pytest.raises(
        DataError, match=f"line 7: split='{other}' is no split.*--split-column none"
    ):
        read(folder, rows)
    source = read(folder, rows, columns={"split": "none"})
    assert {item.split for item in source.items} == {None}


def test_a_start_without_an_end_is_told(folder: Path) -> None:
    rows = [{"file": f"{n}.flac", "label": n % 2, "start": n} for n in range(6)]
    source = read(folder, rows)
    assert any("'start' not taken for a time" in text for text in source.taken)
    assert source.metadata["start"] == pa.string()
