"""Preparing datasets: what comes out, what is recognised, what is refused, and interruptions."""

from __future__ import annotations

import csv
import dataclasses
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from numpy.typing import NDArray
from raylets import one_node

from raudio.audio.decode import decode
from raudio.config.schema import Dataset
from raudio.core.errors import ConfigError, DataError
from raudio.data.executors import Execution
from raudio.data.facts import clip_facts
from raudio.data.locate import locate
from raudio.data.manifest import Manifest, Skipped
from raudio.data.prepare import Options, encode_samples, plan, prepare
from raudio.data.rows import read_index, read_shard
from raudio.data.shards import Row, cut
from raudio.data.sources import read_source
from raudio.data.splits import Shares
from raudio.data.writer import Task, write_dataset

RATE = 8000


def sound(number: int, frames: int = 800, channels: int = 1) -> NDArray[np.int16]:
    """(T, C) noise, another for each number."""
    draw = np.random.default_rng(number)
    return draw.integers(-20000, 20000, (frames, channels), dtype=np.int16)


def write(path: Path, samples: NDArray[Any], rate: int = RATE, **how: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **how)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten clips of each of two classes, a folder a class."""
    source = tmp_path / "source"
    for number in range(20):
        write(source / ("cat", "dog")[number % 2] / f"{number:02d}.wav", sound(number))
    return source


def all_rows(manifest: Manifest) -> list[dict[str, Any]]:
    return [
        row
        for shard in manifest.shards
        for row in read_shard(manifest.shard_path(shard)).to_pylist()
    ]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def label_file(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(
                file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ","
            )
            writer.writeheader()
            writer.writerows(rows)
    return path


# --- what comes out ------------------------------------------------------------------------------


def test_a_folder_for_each_class(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    manifest = prepare(folder, tmp_path / "data", echo=said.append)
    assert manifest == Manifest.read(tmp_path / "data")
    assert manifest.labels == ("cat", "dog")
    assert {name: info.clips for name, info in manifest.splits.items()} == {
        "train": 16, "valid": 2, "test": 2,
    }  # fmt: skip
    assert manifest.splits["train"].class_counts == {"cat": 8, "dog": 8}
    assert manifest.splits["train"].seconds == pytest.approx(16 * 0.1)
    assert (manifest.seconds_min, manifest.seconds_p95, manifest.seconds_max) == (0.1, 0.1, 0.1)
    assert manifest.sample_rates == {RATE: 20}
    assert manifest.decoded_bytes(4000, "int16", ["train"]) == 16 * 400 * 2
    assert manifest.source == "source"
    assert any("folders' names" in text for text in said)

    rows = all_rows(manifest)
    assert sorted(row["clip_id"] for row in rows) == sorted(
        f"{('cat', 'dog')[n % 2]}/{n:02d}.wav" for n in range(20)
    )
    for row in rows:
        samples, rate = soundfile.read(folder / row["clip_id"], dtype="float32")
        wave, stored_rate = decode(row["audio"])
        assert row["audio"][:4] == b"fLaC"
        assert rate == stored_rate == row["sample_rate"]
        assert len(samples) == row["frames"]
        np.testing.assert_array_equal(wave, samples)  # lossless
        assert row["label"] == row["clip_id"].partition("/")[0]
        assert row["peak"] == pytest.approx(np.abs(samples).max())
        assert row["rms"] == pytest.approx(np.sqrt(np.mean(samples**2)), rel=1e-5)
    # The classes are mixed, so that neighbouring clips are not all of one.
    labels = [row["label"] for row in rows if row["split"] == "train"]
    assert sum(a != b for a, b in pairwise(labels)) >= 4


@pytest.mark.parametrize(
    ("name", "how", "channels", "tolerance"),
    [
        ("a.wav", {"subtype": "PCM_16"}, 2, 0),
        ("a.wav", {"subtype": "PCM_24"}, 1, 0),
        ("a.wav", {"subtype": "FLOAT"}, 2, 2**-23),
        ("a.wav", {"subtype": "ULAW"}, 1, 0),
        ("a.flac", {"subtype": "PCM_16"}, 3, 0),
        ("a.ogg", {}, 2, 1e-4),
        ("a.mp3", {}, 1, 1e-4),
    ],
)
def test_formats_and_channels(
    tmp_path: Path, name: str, how: dict[str, str], channels: int, tolerance: float
) -> None:
    source = tmp_path / "source"
    for number in range(12):
        samples = sound(number, 24000, channels) / 32768 / 2
        write(source / str(number % 2) / f"{number}{name}", samples, 16000, **how)
    manifest = prepare(source, tmp_path / "data")
    assert manifest.channels == {channels: 12}
    for row in all_rows(manifest)[:3]:
        samples, _ = soundfile.read(source / row["clip_id"], always_2d=True)
        stored, rate = soundfile.read(_file(tmp_path, row["audio"]), always_2d=True)
        assert rate == 16000
        assert stored.shape == samples.shape == (row["frames"], channels)
        np.testing.assert_allclose(stored, samples, atol=tolerance)


def _file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "content"
    path.write_bytes(content)
    return path


def test_other_storage(folder: Path, tmp_path: Path) -> None:
    as_is = prepare(folder, tmp_path / "source-format", options=Options(format="source"))
    for row in all_rows(as_is):
        assert row["audio"] == (folder / row["clip_id"]).read_bytes()
    slower = prepare(folder, tmp_path / "slow", options=Options(format="wav", sample_rate=4000))
    assert slower.sample_rates == {4000: 20}
    for row in all_rows(slower):
        assert row["audio"][:4] == b"RIFF"
        wave, _ = decode((folder / row["clip_id"]).read_bytes(), 4000)
        np.testing.assert_allclose(decode(row["audio"])[0], wave, atol=2**-14)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_label_files(folder: Path, tmp_path: Path, suffix: str) -> None:
    rows = [
        {
            "path": f"{('cat', 'dog')[n % 2]}/{n:02d}.wav",
            "class": f"c{n // 2 % 2}",
            "speaker": f"s{n % 5}",
            "note": f"n, {n}",
        }
        for n in range(20)
    ]
    said: list[str] = []
    manifest = prepare(
        folder,
        tmp_path / "data",
        labels=label_file(tmp_path / f"labels{suffix}", rows),
        echo=said.append,
    )
    assert manifest.labels == ("c0", "c1")
    stored = {row["clip_id"]: row for row in all_rows(manifest)}
    for row in rows:
        got = stored[row["path"]]
        assert (got["label"], got["group"], got["speaker"], got["note"]) == (
            row["class"], row["speaker"], row["speaker"], row["note"],
        )  # fmt: skip
    splits_of = {(row["group"], row["split"]) for row in stored.values()}
    assert len(splits_of) == 5  # no speaker straddles
    assert "labels from column 'class' (by its name)" in said


def test_metadata_keeps_types_and_gives_way_to_fixed_columns(folder: Path, tmp_path: Path) -> None:
    rows = [
        {"file": f"{('cat', 'dog')[n % 2]}/{n:02d}.wav", "category": n % 2, "label": f"old{n}",
         "age": n, "tags": ["a", "b"], "mixed": n if n % 2 else "text", "frames": 7}
        for n in range(20)
    ]  # fmt: skip
    manifest = prepare(
        folder,
        tmp_path / "data",
        labels=label_file(tmp_path / "labels.jsonl", rows),
        columns={"label": "category"},
    )
    assert manifest.labels == ("0", "1")
    stored = {row["clip_id"]: row for row in all_rows(manifest)}["dog/03.wav"]
    assert stored["label"] == "1"
    assert stored["source_label"] == "old3"
    assert stored["age"] == 3
    assert stored["tags"] == ["a", "b"]
    assert stored["mixed"] == "3"
    assert (stored["frames"], stored["source_frames"]) == (800, 7)


def test_paths_relative_to_the_label_file(folder: Path, tmp_path: Path) -> None:
    rows = [
        {"file": f"audio/{('cat', 'dog')[n % 2]}/{n:02d}.wav", "label": n % 2} for n in range(20)
    ]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "audio").symlink_to(folder)
    labels = label_file(tmp_path / "elsewhere" / "labels.csv", rows)
    assert prepare(folder, tmp_path / "data", labels=labels).clips == 20


# --- predefined splits ---------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["{split}/{label}", "{label}/{split}"])
def test_split_folders(tmp_path: Path, order: str) -> None:
    source = tmp_path / "source"
    for number in range(40):
        split = ("training", "training", "Validation", "test")[number // 2 % 4]
        place = order.format(split=split, label=("cat", "dog")[number % 2])
        write(source / place / f"{number}.wav", sound(number))
    manifest = prepare(source, tmp_path / "data")
    assert manifest.labels == ("cat", "dog")
    assert [info.clips for info in manifest.splits.values()] == [20, 10, 10]
    anew = prepare(source, tmp_path / "anew", columns={"split": "none"})
    assert anew.labels == ("cat", "dog")
    assert [info.clips for info in anew.splits.values()] == [32, 4, 4]


def test_a_class_named_test_is_no_split(tmp_path: Path) -> None:
    for number in range(20):
        write(tmp_path / "s" / ("test", "rest")[number % 2] / f"{number}.wav", sound(number))
    assert prepare(tmp_path / "s", tmp_path / "data").labels == ("rest", "test")


def _with_splits(folder: Path, splits: Callable[[int], str]) -> Path:
    rows = [
        {"file": f"{('cat', 'dog')[n % 2]}/{n:02d}.wav", "label": n % 2, "fold": splits(n)}
        for n in range(20)
    ]
    return label_file(folder.parent / "labels.csv", rows)


def test_predefined_without_valid(folder: Path, tmp_path: Path) -> None:
    labels = _with_splits(folder, lambda n: "test" if n >= 16 else "train")
    manifest = prepare(folder, tmp_path / "data", labels=labels)
    assert {name: info.clips for name, info in manifest.splits.items()} == {
        "train": 14, "valid": 2, "test": 4,
    }  # fmt: skip
    held = {row["clip_id"] for row in all_rows(manifest) if row["split"] == "test"}
    assert held == {f"{('cat', 'dog')[n % 2]}/{n:02d}.wav" for n in range(16, 20)}


def test_folds(folder: Path, tmp_path: Path) -> None:
    labels = _with_splits(folder, lambda n: str(n // 2 % 5 + 1))
    said: list[str] = []
    manifest = prepare(folder, tmp_path / "data", labels=labels, echo=said.append)
    by_fold = {(row["split"], int(row["clip_id"][4:6]) // 2 % 5 + 1) for row in all_rows(manifest)}
    assert by_fold == {("train", 1), ("train", 2), ("train", 3), ("valid", 4), ("test", 5)}
    assert any("5 is test, 4 valid" in text for text in said)


def test_a_column_of_other_values_is_not_taken_for_splits(folder: Path, tmp_path: Path) -> None:
    labels = _with_splits(folder, lambda n: "ab"[n % 2])
    said: list[str] = []
    manifest = prepare(folder, tmp_path / "data", labels=labels, echo=said.append)
    assert [info.clips for info in manifest.splits.values()] == [16, 2, 2]
    assert any("not taken for splits" in text for text in said)
    with pytest.raises(DataError, match="line 2: fold='a' is no split"):
        prepare(folder, tmp_path / "other", labels=labels, columns={"split": "fold"})


def test_the_same_file_twice_stays_in_one_split(folder: Path, tmp_path: Path) -> None:
    for path in list(folder.rglob("*.wav")):
        (path.parent / f"copy of {path.name}").write_bytes(path.read_bytes())
    rows = all_rows(prepare(folder, tmp_path / "data"))
    assert len({(row["content"], row["split"]) for row in rows}) == 20
    assert {row["split"] for row in rows} == {"train", "valid", "test"}


# --- the same bytes, whatever happens ------------------------------------------------------------


def _task(encode: Callable[[int], Row | Skipped], clips: int = 400, **how: Any) -> Task[int]:
    return Task(
        clips={("train", None): range(clips), ("valid", None): range(clips, clips + 20)},
        encode=encode,
        size=lambda _: 4000,
        key="0",
        metadata={},
        source="",
        licence="",
        made_with={},
        **{"skip_bad": True, **how},
    )


def _encode(number: int) -> Row | Skipped:
    if number == 7:
        return Skipped("7", "bad")
    samples = sound(number, 2000)
    return {
        "clip_id": str(number), "audio": encode_samples(samples, RATE, "wav"), "sample_rate": RATE,
        "frames": 2000, "channels": 1, "group": None, "label": str(number % 2),
        **clip_facts(samples[:, 0].astype(np.float32) / 32768, RATE),
    }  # fmt: skip


def threads(workers: int) -> Execution:
    return Execution(workers=workers)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A Ray of two CPUs for the tests of this module."""
    with one_node() as ray:
        yield ray


def test_same_bytes_with_any_number_of_threads(tmp_path: Path) -> None:
    one = write_dataset(tmp_path / "one", _task(_encode), execution=threads(1))
    write_dataset(tmp_path / "many", _task(_encode), execution=threads(3))
    assert files(tmp_path / "one") == files(tmp_path / "many")
    assert len(one.shards) > 3
    assert sum(shard.clips for shard in one.shards) == one.clips == 419
    assert one.skipped == (Skipped("7", "bad"),)
    # The clip that is left out makes its own shard smaller, and changes no other.
    assert [shard.clips for shard in one.shards][:3] == [65, 66, 66]


@pytest.mark.ray
def test_same_bytes_on_ray(ray: Any, folder: Path, tmp_path: Path) -> None:
    for number in range(30):
        write(folder / "cat" / f"more {number}.wav", sound(100 + number, 20000))
    (folder / "dog" / "bad.wav").write_text("this is no audio")
    said: list[tuple[int, int]] = []
    options = Options(skip_bad=True)
    local = prepare(folder, tmp_path / "local", options=options, execution=threads(1))
    prepare(
        folder, tmp_path / "ray", options=options,
        execution=Execution(ray_from=0, workers=2),
        progress=lambda done, total: said.append((done, total)),
    )  # fmt: skip
    assert files(tmp_path / "local") == files(tmp_path / "ray")
    assert len(local.shards) > 3
    assert [skipped.file for skipped in local.skipped] == ["dog/bad.wav"]
    assert said[-1] == (51, 51)
    assert len(said) == len(local.shards)
    with pytest.raises(DataError, match=r"dog/bad\.wav: can't be decoded .* --skip-bad") as caught:
        prepare(folder, tmp_path / "no", execution=Execution(ray_from=0))
    assert "RayTaskError" not in str(caught.value)


def test_shards_are_cut_by_planned_size_and_hold_one_fold() -> None:
    plans = cut(
        {("valid", 3): "xy", ("train", 2): "fgh", ("train", 0): "abcde"},
        size=lambda clip: {"c": 30}.get(clip, 5),
        limit=10,
    )
    assert [(plan.file, plan.fold, "".join(plan.clips)) for plan in plans] == [
        ("shards/train-00000.parquet", 0, "ab"),
        ("shards/train-00001.parquet", 0, "c"),
        ("shards/train-00002.parquet", 0, "de"),
        ("shards/train-00003.parquet", 2, "fg"),
        ("shards/train-00004.parquet", 2, "h"),
        ("shards/valid-00000.parquet", 3, "xy"),
    ]


def _stats(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in folder.glob("shards/*.parquet"):
        stat = path.stat()
        found[path.name] = (stat.st_ino, stat.st_mtime_ns)
    return found


_KILLED = """
import os, signal, sys
from raudio.data import prepare as module
from raudio.data.executors import Execution
count = 0
def counting(done, total):
    global count
    count += 1
    if count == 4:
        os.kill(os.getpid(), signal.SIGKILL)
module.prepare(sys.argv[1], sys.argv[2], execution=Execution(workers=1), progress=counting)
"""


@pytest.mark.slow
def test_goes_on_after_a_kill(folder: Path, tmp_path: Path) -> None:
    for number in range(60):
        write(folder / "cat" / f"more {number}.wav", sound(100 + number, 20000))
    whole = prepare(folder, tmp_path / "whole")
    run = subprocess.run([sys.executable, "-c", _KILLED, folder, tmp_path / "data"], check=False)
    assert run.returncode == -signal.SIGKILL
    assert not (tmp_path / "data").exists()
    before = _stats(tmp_path / ".data.partial")
    assert 4 <= len(before) < len(whole.shards)
    said: list[str] = []
    prepare(folder, tmp_path / "data", echo=said.append)
    after = _stats(tmp_path / "data")
    assert {name: after[name] for name in before} == before
    assert files(tmp_path / "whole") == files(tmp_path / "data")
    assert any(f"going on after {len(before)} of {len(whole.shards)} shards" in s for s in said)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "source", "whole"]


def test_what_has_changed_since_is_made_anew(tmp_path: Path) -> None:
    def failing(number: int) -> Row | Skipped:
        if number == 300:
            raise DataError("clip 300 is bad")
        return _encode(number)

    with pytest.raises(DataError, match=r"clip 300 is bad\n.*shards are kept in .*partial"):
        write_dataset(tmp_path / "data", _task(failing), execution=threads(1))
    assert not (tmp_path / "data").exists()
    seen: list[int] = []

    def counting(number: int) -> Row | Skipped:
        seen.append(number)
        return _encode(number)

    # One shard is half gone, and one is of a file that has changed: its part has another key.
    kept = sorted((tmp_path / ".data.partial" / "shards").iterdir())
    kept[1].write_bytes(kept[1].read_bytes()[:1000])
    (tmp_path / ".data.partial" / ".parts" / kept[2].name).write_bytes(b"no part")
    (tmp_path / ".data.partial" / "shards" / "train-00099.parquet").write_bytes(b"of another plan")
    write_dataset(tmp_path / "data", _task(counting))
    assert set(range(66)).isdisjoint(seen)
    assert set(range(66, 198)) <= set(seen)
    write_dataset(tmp_path / "whole", _task(_encode))
    assert files(tmp_path / "whole") == files(tmp_path / "data")
    seen.clear()
    write_dataset(tmp_path / "other", dataclasses.replace(_task(counting), key="1"))
    assert len(seen) == 420


def test_two_at_once_make_it_once(tmp_path: Path) -> None:
    encoded: list[int] = []

    def counting(number: int) -> Row | Skipped:
        encoded.append(number)
        return _encode(number)

    got: list[Manifest] = []

    def work() -> None:
        got.append(write_dataset(tmp_path / "data", _task(counting), reuse=True))

    workers = [threading.Thread(target=work) for _ in range(3)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
    assert max(Counter(encoded).values()) == 1
    assert len({manifest.fingerprint for manifest in got}) == 1
    assert len(got) == 3


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many files are written until the disk is full; each try goes on from the last."""
    write_dataset(tmp_path / "whole", _task(_encode, clips=100))
    fsync, room = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    # To be written: three shards and a part after each, the index, the manifest.
    for tries, space in enumerate((0, 1, 2, 3, 2, 0, 1)):
        room = space
        with pytest.raises(DataError, match="No space left on device") as caught:
            write_dataset(tmp_path / "data", _task(_encode, clips=100), execution=threads(1))
        assert ("finished shards are kept" in str(caught.value)) == (tries > 0)
        assert not (tmp_path / "data").exists()
        # Nothing half-written: each file is whole, and none is temporary.
        for path in (p for p in tmp_path.rglob("*") if p.is_file() and "whole" not in p.parts):
            assert pq.ParquetFile(path).metadata.num_rows
    room = 100
    write_dataset(tmp_path / "data", _task(_encode, clips=100))
    assert files(tmp_path / "data") == files(tmp_path / "whole")


# --- the index -----------------------------------------------------------------------------------


def test_the_index_has_all_rows_without_audio(folder: Path, tmp_path: Path) -> None:
    manifest = prepare(folder, tmp_path / "data")
    expected = [{k: v for k, v in row.items() if k != "audio"} for row in all_rows(manifest)]
    assert read_index(manifest).to_pylist() == expected
    assert read_index(manifest, ["label", "nothing"]).column_names == ["label"]
    path = tmp_path / "data" / "index.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"index .* is not the one"):
        read_index(manifest)
    path.unlink()
    with pytest.raises(DataError, match=r"index .* is missing"):
        read_index(manifest)


def test_several_labels_count_for_each_class(folder: Path, tmp_path: Path) -> None:
    rows = [
        {"file": f"{('cat', 'dog')[n % 2]}/{n:02d}.wav", "label": "a;b" if n % 4 == 0 else "b",
         "split": "train" if n < 16 else "valid"}
        for n in range(20)
    ]  # fmt: skip
    manifest = prepare(
        folder, tmp_path / "data", labels=label_file(tmp_path / "l.csv", rows), label_separator=";"
    )
    assert manifest.labels == ("a", "b")
    assert manifest.splits["train"].class_counts == {"a": 4, "b": 16}
    first = next(row for row in all_rows(manifest) if row["clip_id"] == "cat/00.wav")
    assert (first["label"], first["labels"]) == (None, ["a", "b"])


def test_fingerprint_follows_the_data(folder: Path, tmp_path: Path) -> None:
    first = prepare(folder, tmp_path / "a")
    assert prepare(folder, tmp_path / "b").fingerprint == first.fingerprint
    write(folder / "cat" / "00.wav", sound(99))
    assert prepare(folder, tmp_path / "c").fingerprint != first.fingerprint


# --- bad input -----------------------------------------------------------------------------------


def _bad(name: str) -> Callable[[Path], dict[str, Any]]:
    """What to do to the folder of a good dataset, and the arguments that then fail."""

    def rows(folder: Path, change: Callable[[list[dict[str, Any]]], Any]) -> Path:
        table = [
            {"file": f"{('cat', 'dog')[n % 2]}/{n:02d}.wav", "label": n % 2} for n in range(20)
        ]
        change(table)
        return label_file(folder.parent / "labels.csv", table)

    def make(folder: Path) -> dict[str, Any]:
        if name == "no audio":
            (folder.parent / "empty").mkdir()
            return {"source": folder.parent / "empty"}
        if name == "missing folder":
            return {"source": folder.parent / "sourc"}
        if name == "loose files":
            write(folder / "x.wav", sound(1))
        if name == "one class":
            for path in (folder / "dog").iterdir():
                path.unlink()
        if name == "one folder too high":
            return {"source": folder.parent}
        if name == "missing file":
            return {"labels": rows(folder, lambda t: t[3].update(file="dog/033.wav"))}
        if name == "unknown column":
            return {"labels": rows(folder, len), "columns": {"label": "lable"}}
        if name == "unrecognised":
            labels = rows(folder, len)
            labels.write_text(labels.read_text().replace("label", "quux"))
            return {"labels": labels}
        if name == "empty label":
            return {"labels": rows(folder, lambda t: t[3].update(label=""))}
        if name == "twice":
            return {"labels": rows(folder, lambda t: t.append(t[3]))}
        if name == "one label":
            return {"labels": rows(folder, lambda t: [r.update(label="x") for r in t])}
        if name == "no label file":
            rows(folder, len)
            return {"labels": folder.parent / "labls.csv"}
        if name == "no rows":
            (folder.parent / "labels.csv").write_text("file,label\n")
            return {"labels": folder.parent / "labels.csv"}
        if name == "ragged":
            (folder.parent / "labels.csv").write_text("file,label\ncat/00.wav,a,b\n")
            return {"labels": folder.parent / "labels.csv"}
        if name == "not json":
            (folder.parent / "labels.jsonl").write_text('{"file": 1}\n{"file"\n')
            return {"labels": folder.parent / "labels.jsonl"}
        if name == "kind of file":
            (folder.parent / "labels.xlsx").write_text("")
            return {"labels": folder.parent / "labels.xlsx"}
        if name == "column without file":
            return {"columns": {"label": "class"}}
        if name == "out exists":
            return {"out": folder}
        return {}

    return make


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("no audio", ["no audio in", "/empty'", ".wav"]),
        ("missing folder", ["/sourc' does not exist", "closest: '", "/source'"]),
        ("loose files", ["1 audio files lie directly", "'x.wav'", "--labels"]),
        ("one class", ["all 10 clips", "label 'cat'", "at least two"]),
        ("one folder too high", ["label 'source'", "if the classes are the folders in it"]),
        ("missing file", ["'dog/033.wav'", "line 5 of labels.csv", "closest: '", "/dog/03.wav'"]),
        ("unknown column", ["--label-column", "'lable'", "closest: 'label'", "file, label"]),
        ("unrecognised", ["as the label", "file, quux", "--label-column NAME"]),
        ("empty label", ["line 5", "'label' is empty"]),
        ("twice", ["line 22", "'dog/03.wav' is there twice", "line 5"]),
        ("one label", ["all 20 clips", "label 'x'", "column 'label'"]),
        ("no label file", ["labls.csv' does not exist", "closest: '", "labels.csv'"]),
        ("no rows", ["labels.csv' has no rows"]),
        ("ragged", ["line 2", "2 columns file, label"]),
        ("not json", ["line 2", "not JSON"]),
        ("kind of file", [".xlsx", ".csv, .tsv"]),
        ("column without file", ["--label-column='class'", "--labels FILE"]),
        ("out exists", ["exists; give a new folder"]),
    ],
)
def test_bad_input(folder: Path, tmp_path: Path, name: str, parts: list[str]) -> None:
    arguments = {"source": folder, "out": tmp_path / "data", **_bad(name)(folder)}
    before = files(tmp_path)
    with pytest.raises(DataError) as caught:
        prepare(**arguments)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    assert files(tmp_path) == before
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("count", [1, 5, 25])
def test_all_bad_files_are_named(folder: Path, tmp_path: Path, count: int) -> None:
    for number in range(count):
        (folder / "dog" / f"bad{number:02d}.wav").write_text("this is no audio")
    write(folder / "cat" / "empty.wav", sound(0, 0))
    if count == 1:
        (folder / "cat" / "empty.wav").unlink()
    with pytest.raises(DataError, match="can't be decoded") as caught:
        prepare(folder, tmp_path / "data")
    message = str(caught.value)
    assert "--skip-bad" in message
    assert not (tmp_path / "data").exists()
    bad = [f"dog/bad{number:02d}.wav" for number in range(count)]
    if count == 1:
        assert "dog/bad00.wav: can't be decoded" in message
    elif count == 5:
        assert "6 of 26 clips cannot be used" in message
        assert "cat/empty.wav: is empty" in message
        assert all(name in message for name in bad)
    else:
        file = re.search(r"and 6 more; all of them are listed in (\S+)", message)
        assert file
        listed = Path(file.group(1)).read_text().splitlines()
        assert len(listed) == 26
        assert sum(name in message for name in bad) in (19, 20)
        assert all(any(name in line for line in listed) for name in bad)

    # With them left out all finished shards are good as they are.
    before = _stats(tmp_path / ".data.partial")
    skipping = prepare(folder, tmp_path / "skipping", options=Options(skip_bad=True))
    manifest = prepare(folder, tmp_path / "data", options=Options(skip_bad=True))
    assert len(manifest.skipped) == (count if count == 1 else count + 1)
    assert _stats(tmp_path / "data") == before
    assert manifest.fingerprint == skipping.fingerprint
    assert files(tmp_path / "data") == files(tmp_path / "skipping")


def test_mended_files_are_taken(folder: Path, tmp_path: Path) -> None:
    (folder / "dog" / "03.wav").write_text("this is no audio")
    (folder / "dog" / "bad.wav").write_text("this is no audio")
    with pytest.raises(DataError, match="2 of 21 clips"):
        prepare(folder, tmp_path / "data")
    write(folder / "dog" / "03.wav", sound(3))
    (folder / "dog" / "bad.wav").unlink()
    assert prepare(folder, tmp_path / "data").clips == 20
    prepare(folder, tmp_path / "anew")
    assert files(tmp_path / "data") == files(tmp_path / "anew")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["anew", "data", "source"]


def test_a_recording_in_two_predefined_splits(folder: Path, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for path in (folder / name).iterdir():
            split = "valid" if path.stem > "14" else "train"
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            path.rename(folder / split / name / path.name)
        (folder / name).rmdir()
    # The same samples in another container: the bytes do not tell.
    write(folder / "valid" / "cat" / "again.flac", sound(0))
    write(folder / "valid" / "cat" / "silent.wav", sound(0) * 0)
    write(folder / "train" / "cat" / "silent.flac", sound(0) * 0)
    with pytest.raises(DataError, match=r"cat/00\.wav and .*cat/again\.flac\).*--allow-leaks"):
        prepare(folder, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    said: list[str] = []
    options = Options(allow_leaks=True)
    assert prepare(folder, tmp_path / "data", options=options, echo=said.append).clips == 23
    assert any("warning: the same recording is in two splits (train" in text for text in said)
    options = Options(split_by="random")
    anew = prepare(folder, tmp_path / "anew", columns={"split": "none"}, options=options)
    assert anew.clips == 23


@pytest.mark.parametrize("format", ["WAV", "AIFF"])
def test_a_recording_that_is_cut_off_is_named(folder: Path, tmp_path: Path, format: str) -> None:
    """Its decoder gives what is there, without a word."""
    path = folder / "dog" / f"cut.{format.lower()}"
    content = write(path, sound(50, 8000)).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"cut\.\w+: is cut off: .* more samples than the 39\d\d "):
        prepare(folder, tmp_path / "data")
    manifest = prepare(folder, tmp_path / "data", options=Options(skip_bad=True))
    assert [skipped.file for skipped in manifest.skipped] == [f"dog/{path.name}"]


@pytest.mark.parametrize("claimed", [0x7FFFF000, 0xFFFFFFFF])
def test_a_wav_that_was_written_to_a_pipe_is_whole(
    folder: Path, tmp_path: Path, claimed: int
) -> None:
    path = write(folder / "dog" / "piped.wav", sound(50, 8000))
    content = path.read_bytes()
    path.write_bytes(content[:40] + claimed.to_bytes(4, "little") + content[44:])
    manifest = prepare(folder, tmp_path / "data")
    assert {row["clip_id"]: row["frames"] for row in all_rows(manifest)}["dog/piped.wav"] == 8000


def test_a_dataset_that_lost_its_manifest(folder: Path, tmp_path: Path) -> None:
    prepare(folder, tmp_path / "data")
    (tmp_path / "data" / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"has index\.parquet and no dataset\.json"):
        locate(Dataset(path=str(tmp_path / "data")))


def test_links_to_nowhere_and_empty_files_are_bad_files(folder: Path, tmp_path: Path) -> None:
    """Several of a kind, and in two splits: that they are alike is no leak."""
    for split in ("train", "test"):
        (folder / split).mkdir()
        for name in ("cat", "dog"):
            write(folder / split / name / "good.wav", sound(len(split) + len(name) * ord(name[0])))
            (folder / split / name / "link.wav").symlink_to("/nowhere/0.wav")
            (folder / split / name / "empty.wav").touch()
    for name in ("cat", "dog"):
        (folder / name).rename(folder / "train" / name / "more")
    with pytest.raises(DataError, match="8 of 32 clips cannot be used"):
        prepare(folder, tmp_path / "data")
    manifest = prepare(folder, tmp_path / "data", options=Options(skip_bad=True))
    assert len(manifest.skipped) == 8
    assert manifest.clips == 24


def test_skip_bad_lists_what_it_leaves_out(folder: Path, tmp_path: Path) -> None:
    (folder / "dog" / "03.wav").write_text("this is no audio")
    rows = [
        {"file": f"{('cat', 'dog')[n % 2]}/{n:02d}.wav", "label": n % 2} for n in range(21)
    ]  # the last is not there
    manifest = prepare(
        folder,
        tmp_path / "data",
        labels=label_file(tmp_path / "labels.csv", rows),
        options=Options(skip_bad=True),
    )
    assert manifest.clips == 19
    assert {skipped.file for skipped in manifest.skipped} == {"cat/20.wav", "dog/03.wav"}
    assert any("can't be decoded" in skipped.reason for skipped in manifest.skipped)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "flak"}, "closest: 'flac'"),
        ({"format": "source", "sample_rate": 8000}, "cannot be resampled"),
        ({"sample_rate": 10}, "sample_rate=10 "),
        ({"shard_mb": 0}, "shard_mb=0 "),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Options(**options)


# --- locate --------------------------------------------------------------------------------------


def test_locate_prepares_a_plain_folder_once(folder: Path, cache: Path) -> None:
    said: list[str] = []
    first = locate(Dataset(path=str(folder)), said.append)
    assert Path(first.path).is_relative_to(cache)
    text = "\n".join(said)
    assert "preparing it into" in text
    assert "labels from the folders' names" in text
    assert "sample rate 8000 Hz (20 of 20 clips" in text
    assert "clip length 0.1 s" in text
    assert "train 16, valid 2, test 2" in text

    said.clear()
    again = locate(Dataset(path=str(folder)), said.append)
    assert again == first
    assert "prepared before" in said[0]

    write(folder / "cat" / "00.wav", sound(50))  # as many bytes as before
    changed = locate(Dataset(path=str(folder)))
    assert changed.fingerprint != first.fingerprint
    assert changed.clips == 20


def test_locate_prepares_a_tar(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "sounds.tar", "w") as tar:
        for path in sorted(folder.rglob("*.wav")):
            tar.add(path, path.name)
            info = tarfile.TarInfo(f"{path.stem}.cls")
            info.size = len(path.parent.name)
            tar.addfile(info, io.BytesIO(path.parent.name.encode()))
    made = locate(Dataset(path=str(tmp_path / "sounds.tar")))
    assert (made.labels, made.clips) == (("cat", "dog"), 20)
    with pytest.raises(DataError, match="tars are not there"):
        locate(Dataset(path=str(tmp_path / "sound.tar")))


def test_locate_datasets(folder: Path, tmp_path: Path) -> None:
    made = prepare(folder, tmp_path / "data")
    assert locate(Dataset(path=str(tmp_path / "data"))) == made
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "data"), "/locate/data", recursive=True)
    remote = locate(Dataset(path="memory://locate/data"))
    assert remote.fingerprint == made.fingerprint
    assert len(all_rows(remote)) == 20


@pytest.mark.slow
def test_locate_the_embedded_data() -> None:
    embedded = locate(Dataset(path="synth"))
    assert locate(Dataset(path="synth")) == embedded
    assert len(embedded.labels) >= 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "{}/sorce"}, r"dataset.path=.*closest: '.*/source'"),
        ({"path": "{}/labels.csv"}, r"dataset.path=FOLDER dataset.labels="),
        ({"path": "synth", "labels": "x.csv"}, "leave dataset.labels out"),
        ({"path": "{}"}, r"label 'source'.*raudio data prepare"),
        ({"path": "memory://nothing/here"}, "is not a dataset"),
        ({"path": "nowhere://x"}, "cannot read the dataset"),
    ],
)
def test_locate_refuses(folder: Path, settings: dict[str, str], message: str) -> None:
    (folder.parent / "labels.csv").write_text("file,label\n")
    given = {name: value.format(folder.parent) for name, value in settings.items()}
    with pytest.raises(DataError, match=message):
        locate(Dataset(**given))


def test_a_damaged_manifest(folder: Path, tmp_path: Path) -> None:
    prepare(folder, tmp_path / "data")
    path = tmp_path / "data" / "dataset.json"
    text = path.read_text()
    path.write_text(text[:100])
    with pytest.raises(DataError, match="damaged"):
        Manifest.read(tmp_path / "data")
    for version, cure in ((99, "update raudio, or prepare"), (1, "format 2: prepare the dataset")):
        path.write_text(text.replace('"format_version": 2', f'"format_version": {version}'))
        with pytest.raises(DataError, match=cure):
            Manifest.read(tmp_path / "data")


# --- real speech ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_fsdd(fsdd: Path, tmp_path: Path) -> None:
    manifest = prepare(fsdd, tmp_path / "fsdd", labels=fsdd / "labels.csv")
    assert manifest.labels == tuple("0123456789")
    assert {name: info.clips for name, info in manifest.splits.items()} == {
        "train": 2400, "valid": 300, "test": 300,
    }  # fmt: skip
    with (fsdd / "labels.csv").open() as file:
        expected = {row["file"]: row for row in csv.DictReader(file)}
    for row in all_rows(manifest):
        wanted = expected[row["clip_id"]]
        assert (row["label"], row["group"], row["speaker"], row["split"]) == (
            wanted["label"], wanted["speaker"], wanted["speaker"], wanted["split"],
        )  # fmt: skip
    anew = plan(
        read_source(fsdd, labels=fsdd / "labels.csv", columns={"split": "none"}),
        Options(shares=Shares.parse("60/20/20")),
    )
    speakers = {(item.group, split) for (split, _), items in anew.clips.items() for item in items}
    assert Counter(split for _, split in speakers) == {"train": 4, "valid": 1, "test": 1}


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAUDIO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ConfigError, match=r"cache '.*/file/cache/datasets' .* set RAUDIO_CACHE"):
        locate(Dataset())
