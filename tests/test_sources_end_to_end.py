"""From sources of every kind of labels to datasets, by the command line; and what a search says."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from raudio.cli.data import app
from raudio.core.errors import ConfigError
from raudio.data.manifest import Manifest
from raudio.data.rows import read_shard
from raudio.search.job import check

RATE = 8000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten recordings of a second, and a table of two parts of each."""
    (tmp_path / "rec").mkdir()
    for n in range(10):
        wave = np.random.default_rng(n).integers(-20000, 20000, RATE, dtype=np.int16)
        soundfile.write(tmp_path / "rec" / f"{n}.wav", wave, RATE)
    return tmp_path


def table(folder: Path, start: str, end: str, late: float = 0) -> Path:
    """u is heard from 0 to 0.4 s, v from 0.5 to 0.9 s, in all recordings."""
    rows = [
        f"{n}.wav,{at},{at + 0.4 + late},{label}\n"
        for n in range(10)
        for label, at in (("u", 0), ("v", 0.5))
    ]
    path = folder / "labels.csv"
    path.write_text(f"file,{start},{end},label\n{''.join(rows)}")
    return path


def prepare(source: Path, *options: str) -> tuple[Path, str]:
    """The dataset, and what the command said when it failed."""
    out = source.parent / "out"
    arguments = ["prepare", str(source), "--out", str(out), *options]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code == 0) == out.exists()
    return out, "" if result.exception is None else str(result.exception)


def rows_of(out: Path) -> list[dict[str, Any]]:
    manifest = Manifest.read(out)
    shards = [read_shard(manifest.shard_path(shard)) for shard in manifest.shards]
    return [row for shard in shards for row in shard.to_pylist()]


def test_segments_in_folds(folder: Path) -> None:
    labels = str(table(folder, "from", "to"))
    columns = ["--start-column", "from", "--end-column", "to"]
    out, _ = prepare(folder / "rec", "--labels", labels, *columns, "--folds", "5")
    rows = rows_of(out)
    assert len(rows) == 20
    assert {row["frames"] for row in rows} == {3200}
    assert {(row["fold"], row["split"]) for row in rows} == {
        (0, "train"), (1, "train"), (2, "train"), (3, "valid"), (4, "test"),
    }  # fmt: skip
    assert len({(row["group"], row["fold"]) for row in rows}) == 10
    check([f"dataset.path={out}"], echo=str)


def test_events_are_prepared_and_no_classifier_is_searched_for_them(folder: Path) -> None:
    out, _ = prepare(folder / "rec", "--labels", str(table(folder, "onset", "offset")))
    manifest = Manifest.read(out)
    assert (manifest.clips, manifest.labels) == (10, ("u", "v"))
    assert manifest.splits["train"].class_counts == {"u": 8, "v": 8}
    for row in rows_of(out):
        assert row["label"] is None
        assert row["events"] == [
            {"label": "u", "onset": 0.0, "offset": 0.4},
            {"label": "v", "onset": 0.5, "offset": 0.9},
        ]
    with pytest.raises(ConfigError, match=r"classification needs one label a clip.* has events"):
        check([f"dataset.path={out}"], echo=str)


def test_an_event_behind_the_end_is_named(folder: Path) -> None:
    labels = table(folder, "onset", "offset", late=0.5)
    _, error = prepare(folder / "rec", "--labels", str(labels))
    for part in ("line 2 to line 3 of labels.csv", "'v' from 0.5 to 1.4 s", "lasts 1 s"):
        assert part in error
    table(folder, "onset", "offset", late=0.15)  # 0.05 s too late: rounded
    out, _ = prepare(folder / "rec", "--labels", str(labels))
    assert rows_of(out)[0]["events"][1] == {"label": "v", "onset": 0.5, "offset": 1.0}


def test_several_labels_are_prepared_and_no_classifier_is_searched_for_them(folder: Path) -> None:
    path = folder / "labels.csv"
    cells = ["u", "u;v", "", "v", "u;v"] * 2
    path.write_text("file,label\n" + "".join(f"{n}.wav,{cell}\n" for n, cell in enumerate(cells)))
    out, _ = prepare(folder / "rec", "--labels", str(path), "--label-separator", ";")
    rows = {row["clip_id"]: row for row in rows_of(out)}
    assert [rows[f"{n}.wav"]["labels"] for n in range(5)] == [["u"], ["u", "v"], [], ["v"],
                                                              ["u", "v"]]  # fmt: skip
    with pytest.raises(ConfigError, match=r"one label a clip.* has several labels a clip"):
        check([f"dataset.path={out}"], echo=str)


def test_a_tar(folder: Path) -> None:
    with tarfile.open(folder / "0.tar", "w") as tar:
        for n in range(10):
            tar.add(folder / "rec" / f"{n}.wav", f"{n}.wav")
            info = tarfile.TarInfo(f"{n}.cls")
            info.size = 1
            tar.addfile(info, io.BytesIO(str(n % 2).encode()))
    out, _ = prepare(folder / "0.tar", "--sample-rate", "4000")
    assert Manifest.read(out).labels == ("0", "1")
    assert {row["sample_rate"] for row in rows_of(out)} == {4000}
