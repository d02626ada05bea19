"""`raudio data`: what inspect finds, what its exit status says, and the commands themselves."""

from __future__ import annotations

import base64
import csv
import io
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.console import Console
from typer.testing import CliRunner

from raudio.cli.data import app
from raudio.core.errors import DataError
from raudio.data.inspect import Inspection, inspect
from raudio.data.inspect.text import bar, render
from raudio.data.prepare import Options, prepare
from raudio.data.rows import read_index, write_index

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
    found = inspect(prepare(tmp_path / "s", tmp_path / "d", options=Options(allow_leaks=True)))
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
    assert (
        [
            error
            for error in found.errors
            if "no clip of 1 class is in train, such as unheard" in error
        ]
        == found.errors
        != []
    )
    assert found.imbalance == pytest.approx(52 / 2)
    straddling = {
        row.split(",")[3]
        for row in rows[1:]
        if row.endswith(tuple(f",valid,{r.split(',')[3]}" for r in rows[1:]))
    }
    assert {group.name for group in found.straddling} == straddling
    text = " ".join(found.warnings)
    for part in ("groups in more than one split", "26 times", "valid has no clip of 1 class"):
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
    problem, *_ = found.problems
    assert (problem.code, problem.count) == ("damaged-shard", 36)
    assert "train-00000.parquet is not the one" in problem.examples[0]
    assert "missing" in problem.examples[1]
    assert CliRunner().invoke(app, ["inspect", str(tmp_path / "d")]).exit_code == 1


def test_many_classes_are_shown_in_part(tmp_path: Path) -> None:
    for number in range(60 * 4):
        _write(tmp_path / "s" / f"class{number % 60:02d}" / f"{number}.wav", _noise(number, 100))
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(_inspected(tmp_path / "s", tmp_path / "d")))
    text = console.export_text()
    assert "(20 classes between)" in text
    assert "240 clips" in text


def test_lengths_against_a_clip_length(tmp_path: Path) -> None:
    for number in range(40):
        _write(tmp_path / "s" / ("cat", "dog")[number % 2] / f"{number}.wav",
               _noise(number, 800 if number < 30 else 2400))  # fmt: skip
    manifest = prepare(tmp_path / "s", tmp_path / "d")
    found = inspect(manifest, clip_seconds=0.2)
    assert (found.padded, found.cut) == (0.75, 0.25)
    assert found.padding == pytest.approx(30 * 0.1 / (40 * 0.2))
    assert found.histogram["counts"][0] == 30
    assert found.histogram["counts"][-1] == 10
    assert sum(found.histogram["counts"]) == 40
    assert (found.histogram["edges"][0], found.histogram["edges"][-1]) == (0.1, 0.3)
    # What a search would take: the 95th percentile.
    assert inspect(manifest).clip_seconds == 0.3


def test_the_cheap_look_sees_the_same_and_reads_no_shard_whole(tmp_path: Path) -> None:
    _good(tmp_path / "s")
    _write(tmp_path / "s" / "cat" / "silent.wav", _noise(1) * 1e-4)
    manifest = prepare(tmp_path / "s", tmp_path / "d")
    whole = inspect(manifest)
    assert inspect(manifest, verify=False) == whole
    shard = tmp_path / "d" / manifest.shards[0].file
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1  # in the audio, which is nearly all of it
    shard.write_bytes(content)
    assert inspect(manifest, verify=False) == whole
    assert inspect(manifest).problems[0].code == "damaged-shard"


def test_a_dataset_without_measures(tmp_path: Path) -> None:
    _good(tmp_path / "s")
    manifest = prepare(tmp_path / "s", tmp_path / "d")
    index = read_index(manifest).drop_columns(["dc", "silence", "snr", "speech", "bandwidth"])
    manifest = replace(manifest, index_sha256=write_index(tmp_path / "d", index))
    found = inspect(manifest, verify=False)
    assert [problem.code for problem in found.problems] == ["not-measured"]
    assert list(found.measures) == ["level"]
    assert json.dumps(found.to_mapping(), allow_nan=False)


@given(st.floats(0, 1e6), st.floats(1e-3, 1e6))
def test_bars_are_as_long_as_their_values(value: float, largest: float) -> None:
    value = min(value, largest)
    drawn = bar(value, largest, width=20)
    eighths = sum(8 - "█▉▊▋▌▍▎▏".index(block) for block in drawn)
    assert (eighths > 0) == (value > 0)
    assert eighths == pytest.approx(160 * value / largest, abs=1)


# --- the page ------------------------------------------------------------------------------------

HOSTILE = "<script src='https://evil.example/x.js'>alert(1)</script>\"'&\x1b[31m"


class _Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag == name]


def test_the_page_of_a_hostile_dataset(tmp_path: Path) -> None:
    # The label and the file's name would run code, if they were taken for HTML.
    name = "<img src=x onerror=alert(1)>.wav"
    lines = [["file", "label", "split"]]
    for number in range(40):
        file = name if number == 4 else f"{number}.wav"
        wave = _noise(number, 5 * RATE)
        _write(tmp_path / "s" / file, np.clip(8 * wave, -1, 1) if number == 4 else wave)
        split = ("train", "train", "train", "valid", "test")[number // 2 % 5]
        lines.append([file, ("cat", HOSTILE)[number % 2], split])
    with open(tmp_path / "l.csv", "w", newline="") as file_:
        csv.writer(file_).writerows(lines)
    manifest = prepare(tmp_path / "s", tmp_path / "d", labels=tmp_path / "l.csv")
    done = CliRunner().invoke(
        app, ["inspect", str(tmp_path / "d"), "--html", str(tmp_path / "x.html")]
    )
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.stdout
    assert "alert(1)" in done.stdout

    text = (tmp_path / "x.html").read_text()
    page = _Page(text)
    assert HOSTILE in page.text  # as text
    assert name in page.text
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "link", "iframe", "object"})
    for _, attributes in page.tags:
        assert not any(attribute.startswith("on") for attribute in attributes)
        for attribute in ("src", "href", "data", "srcset", "action"):
            assert (attributes.get(attribute) or "data:").startswith("data:")
    assert "url(" not in text
    assert "@import" not in text
    policy = [m["content"] for m in page.all("meta") if m.get("http-equiv")]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; media-src data:"]
    assert "prefers-color-scheme: dark" in text

    (player,) = page.all("audio")
    assert player["aria-label"] == name
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    content = base64.b64decode((player["src"] or "").removeprefix("data:audio/flac;base64,"))
    heard, rate = soundfile.read(io.BytesIO(content))
    (row,) = [
        row
        for shard in manifest.shards
        for row in pq.read_table(tmp_path / "d" / shard.file).to_pylist()
        if row["clip_id"] == name
    ]
    stored, _ = soundfile.read(io.BytesIO(row["audio"]))
    assert (rate, len(heard)) == (RATE, 4 * RATE)
    np.testing.assert_allclose(heard, stored[: 4 * RATE], atol=1e-4)


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    _good(tmp_path / "s")
    prepare(tmp_path / "s", tmp_path / "d")
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "d"), "--html", str(tmp_path)])
    assert isinstance(done.exception, DataError)
    assert "cannot be written" in str(done.exception)


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
    longer = runner.invoke(app, ["inspect", str(tmp_path / "d"), "--clip-seconds", "1", "--json"])
    assert longer.exit_code == 0  # a warning
    assert [problem["code"] for problem in json.loads(longer.stdout)["problems"]] == ["padding"]
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
