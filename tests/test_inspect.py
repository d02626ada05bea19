"""`raudio data`: what inspect finds, what its exit status says, and the commands themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from rich.console import Console
from typer.testing import CliRunner

from raudio.cli.data import app
from raudio.core.errors import DataError
from raudio.data.inspect import Inspection, inspect, render
from raudio.data.prepare import Options, prepare

RATE = 8000


def _write(path: Path, wave: NDArray[np.float64], rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate)


def _noise(number: int, frames: int = 800) -> NDArray[np.float64]:
    return np.random.default_rng(number).uniform(-0.5, 0.5, frames)


def _good(source: Path) -> None:
    for number in range(40):
        _write(source / ("cat", "dog")[number % 2] / f"{number}.wav", _noise(number))


def _inspected(source: Path, out: Path) -> Inspection:
    return inspect(prepare(source, out))


def test_a_good_dataset(tmp_path: Path) -> None:
    _good(tmp_path / "s")
    found = _inspected(tmp_path / "s", tmp_path / "d")
    assert (found.errors, found.warnings) == ([], [])
    assert found.clips == 40
    assert found.seconds == pytest.approx(4.0)
    assert found.imbalance == 1
    assert found.durations == {"min": 0.1, "median": 0.1, "p95": 0.1, "max": 0.1}


def test_odd_clips(tmp_path: Path) -> None:
    _good(tmp_path / "s")
    _write(tmp_path / "s" / "cat" / "silent.wav", _noise(1) * 1e-3)
    _write(tmp_path / "s" / "cat" / "loud.wav", np.clip(_noise(2) * 4, -1, 1))
    _write(tmp_path / "s" / "dog" / "fast.wav", _noise(3, 1600), 2 * RATE)
    # One sample at full scale is a peak, not clipping.
    _write(tmp_path / "s" / "dog" / "peak.wav", np.append(_noise(4) * 0.5, 1.0))
    found = _inspected(tmp_path / "s", tmp_path / "d")
    assert found.silent == ["cat/silent.wav"]
    assert found.clipped == ["cat/loud.wav"]
    assert found.sample_rates == {RATE: 43, 2 * RATE: 1}
    assert found.errors == []
    text = " ".join(found.warnings)
    for part in ("silent", "clipped", "sample rates"):
        assert part in text


def test_the_same_recording_in_two_splits(tmp_path: Path) -> None:
    for split, count in (("train", 16), ("valid", 4)):
        for number in range(count):
            wave = _noise(number if split == "train" else 100 + number)
            _write(tmp_path / "s" / split / ("cat", "dog")[number % 2] / f"{number}.wav", wave)
    # The same samples in another container, so other bytes: only the content tells.
    samples, _ = soundfile.read(tmp_path / "s" / "train" / "cat" / "0.wav", dtype="int16")
    soundfile.write(tmp_path / "s" / "valid" / "cat" / "again.flac", samples, RATE)
    found = _inspected(tmp_path / "s", tmp_path / "d")
    assert [(set(r.splits), set(r.clips)) for r in found.duplicates] == [
        ({"train", "valid"}, {"train/cat/0.wav", "valid/cat/again.flac"})
    ]
    assert len(found.errors) == 1
    assert "train/cat/0.wav" in found.errors[0]
    assert any("no split 'test'" in text for text in found.warnings)


def test_classes_and_groups(tmp_path: Path) -> None:
    rows = ["file,label,split,speaker"]
    for number in range(60):
        label = "rare" if number in (5, 25) else "often"
        split = "valid" if number % 10 == 9 else "train"
        if number == 39:
            label = "unheard"
        _write(tmp_path / "s" / f"{number}.wav", _noise(number))
        rows.append(f"{number}.wav,{label},{split},{number % 7 if number < 50 else 'only'}")
    labels = tmp_path / "s" / "labels.csv"
    labels.write_text("\n".join(rows))
    found = inspect(prepare(tmp_path / "s", tmp_path / "d", labels=labels))
    assert [error for error in found.errors if "unheard is in train" in error] == found.errors != []
    assert found.imbalance == pytest.approx(52 / 2)
    straddling = {
        row.split(",")[3]
        for row in rows[1:]
        if row.endswith(tuple(f",valid,{r.split(',')[3]}" for r in rows[1:]))
    }
    assert {group.name for group in found.straddling} == straddling
    text = " ".join(found.warnings)
    for part in ("groups are in more than one split", "26 times", "valid has no clip of rare"):
        assert part in text


def test_a_damaged_shard_and_a_missing_one(tmp_path: Path) -> None:
    _good(tmp_path / "s")
    manifest = prepare(tmp_path / "s", tmp_path / "d")
    train, valid = (tmp_path / "d" / manifest.shards_of(s)[0].file for s in ("train", "valid"))
    content = bytearray(train.read_bytes())
    content[len(content) // 2] ^= 1
    train.write_bytes(content)
    valid.unlink()
    found = inspect(manifest)
    assert len(found.errors) == 2
    assert "train-00000.parquet has changed" in found.errors[0]
    assert "missing" in found.errors[1]
    assert CliRunner().invoke(app, ["inspect", str(tmp_path / "d")]).exit_code == 1


def test_many_classes_are_shown_in_part(tmp_path: Path) -> None:
    for number in range(60 * 4):
        _write(tmp_path / "s" / f"class{number % 60:02d}" / f"{number}.wav", _noise(number, 100))
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(_inspected(tmp_path / "s", tmp_path / "d")))
    text = console.export_text()
    assert "(20 smaller classes)" in text
    assert "240 clips" in text


# --- commands ------------------------------------------------------------------------------------


def test_prepare_inspect_and_synth(tmp_path: Path) -> None:
    _good(tmp_path / "s")
    runner = CliRunner()
    made = runner.invoke(
        app,
        ["prepare", str(tmp_path / "s"), "--out", str(tmp_path / "d"), "--splits", "50/25/25",
         "--licence", "CC0-1.0", "--json"],
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    manifest = json.loads(made.stdout)
    assert {name: split["clips"] for name, split in manifest["splits"].items()} == {
        "train": 20, "valid": 10, "test": 10,
    }  # fmt: skip
    assert manifest["licence"] == "CC0-1.0"
    assert "folders' names" in made.stderr

    looked = runner.invoke(app, ["inspect", str(tmp_path / "d"), "--json"])
    assert looked.exit_code == 0
    assert json.loads(looked.stdout)["fingerprint"]
    shown = runner.invoke(app, ["inspect", str(tmp_path / "d")])
    assert shown.exit_code == 0
    for part in ("40 clips", "cat", "dog", "8000 Hz", "nothing is wrong"):
        assert part in shown.stdout

    synth = runner.invoke(app, ["synth", str(tmp_path / "y"), "--clips", "100"])
    assert synth.exit_code == 0, synth.output
    assert "100 clips" in synth.stdout


def test_columns_reach_prepare(tmp_path: Path) -> None:
    _good(tmp_path / "s")
    rows = [f"{('cat', 'dog')[n % 2]}/{n}.wav;{n % 2};{n % 8}" for n in range(40)]
    (tmp_path / "l.csv").write_text("\n".join(["a;b;c", *rows]))
    arguments = ["prepare", str(tmp_path / "s"), "--labels", str(tmp_path / "l.csv")]
    named = ["--file-column", "a", "--label-column", "b", "--group-column", "c"]
    done = CliRunner().invoke(app, [*arguments, *named, "--out", str(tmp_path / "d"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["labels"] == ["0", "1"]
    failed = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "e")])
    assert isinstance(failed.exception, DataError)
    assert not (tmp_path / "e").exists()


def test_skipped_files_are_named(tmp_path: Path) -> None:
    _good(tmp_path / "s")
    (tmp_path / "s" / "cat" / "0.wav").write_bytes(b"RIFF")
    manifest = prepare(tmp_path / "s", tmp_path / "d", options=Options(skip_bad=True))
    found = inspect(manifest)
    assert [skipped.file for skipped in found.skipped] == ["cat/0.wav"]
    assert any("left out" in text and "cat/0.wav" in text for text in found.warnings)


@pytest.mark.parametrize("command", ["prepare", "inspect", "synth"])
def test_help_has_an_example(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    assert f"Example: raudio data {command}" in " ".join(shown.stdout.split())
