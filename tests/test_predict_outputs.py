"""What `raudio predict` writes, and goes on with: after a kill at any moment, and never with what
is another's.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from predict_kit import LABELS, RATE, invoke, make_bundle, sound, write

from raudio.core.errors import UserError
from raudio.export.outputs import Output
from raudio.export.predictor import Options, Predictor, Result, load

ROOT = Path(__file__).parents[1]
KINDS = ("csv", "jsonl", "parquet")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def model(bundle: Path) -> Predictor:
    return load(bundle)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(6):
        write(tmp_path / "in" / f"{number}, où, 鳥.wav", sound(3000 + 900 * number, seed=number))
    return tmp_path / "in"


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of results, numbers as numbers, without what is empty."""
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row |= {f"score_{label}": score for label, score in row.pop("scores", {}).items()}
        return rows
    if path.suffix == ".parquet":
        found = pq.read_table(path).to_pylist()
        return [{name: value for name, value in row.items() if value is not None} for row in found]
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    texts = ("file", "label", "error", "label_2")
    return [
        {name: value if name in texts else float(value) for name, value in row.items() if value}
        for row in found
    ]


def expected(model: Predictor, folder: Path, **options: Any) -> list[dict[str, Any]]:
    rows = []
    for path in sorted(folder.iterdir()):
        found = model.predict(path, **options)
        for row in found if isinstance(found, list) else [found]:
            scores = row.pop("scores")
            rows.append(row | {f"score_{label}": score for label, score in scores.items()})
    return rows


def equal(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> bool:
    assert [row["file"] for row in found] == [row["file"] for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            approx = isinstance(value, float)
            assert one[name] == (pytest.approx(value, abs=1e-6) if approx else value)
    return True


def refused(done: Any, match: str) -> None:
    assert isinstance(done.exception, UserError), done.output
    with pytest.raises(UserError, match=match):
        raise done.exception


# --- what is written ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"window": 0.25, "stride": 0.2}])
def test_every_kind_holds_the_same(
    bundle: Path, model: Predictor, folder: Path, tmp_path: Path, kind: str, options: Any
) -> None:
    arguments = [f"--{name}={value}" for name, value in options.items()]
    out = tmp_path / f"out.{kind}"
    done = invoke(bundle, folder, "--out", out, *arguments)
    assert done.exit_code == 0, done.output
    assert equal(read(out), expected(model, folder, **options))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f".out.{kind}.begun",
        "in",
        out.name,
    ]


def test_a_parquet_file_tells_its_types_and_what_it_is_of(
    bundle: Path, model: Predictor, folder: Path, tmp_path: Path
) -> None:
    write(tmp_path / "in" / "x.wav", np.zeros(0))
    done = invoke(bundle, folder, "--out", tmp_path / "out.parquet", "--top", "2")
    assert done.exit_code == 1
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.names == ["file", "label", "score", "error", "label_2", "score_2"]
    assert [str(table.schema.field(name).type) for name in ("label", "score_2")] == [
        "string",
        "float",
    ]
    told = json.loads(table.schema.metadata[b"raudio"])
    assert told == model.told(Options(top=2))
    assert told["_path"] == str(bundle)
    row = table.to_pylist()[0]
    best = model.predict(row["file"], top=2)
    assert row["label"] == best["label"]
    assert list(best["scores"].items())[1] == (row["label_2"], pytest.approx(row["score_2"]))
    assert "is empty" in table["error"][-1].as_py()


def test_top_and_threshold_on_the_screen_and_in_a_table(
    bundle: Path, model: Predictor, folder: Path, tmp_path: Path
) -> None:
    done = invoke(bundle, folder, "--top", "3", "--threshold", "0.999")
    lines = done.stdout.splitlines()[1:]
    for line, row in zip(lines, expected(model, folder), strict=True):
        ranked = sorted(((row[f"score_{label}"], label) for label in LABELS), reverse=True)
        texts = [f"{score:.3f}" for score, _ in ranked]
        name, label, first, *others = line.removeprefix(row["file"]).split("  ")[1:] or [""]
        assert [name.strip() or label.strip(), first] != ["", ""]
        assert "  -" in line
        assert all(text in line for text in texts)
        assert others or first
    out = tmp_path / "out.csv"
    invoke(bundle, folder, "--threshold", "0.999", "--out", out)
    assert all("label" not in row and row["score"] < 0.999 for row in read(out))
    done = invoke(bundle, folder, "--window", "0.25", "--json", "--top", "1")
    row = json.loads(done.stdout.splitlines()[0])
    assert (row["start"], row["end"], len(row["scores"])) == (0.0, 0.25, 1)
    done = invoke(bundle, folder, "--window", "0.25")
    head, first, *_ = done.stdout.splitlines()
    assert head.split() == ["file", "start", "end", "label", "score", "next"]
    assert first.split()[-6:-4] == ["0.00", "0.25"]


@pytest.mark.parametrize("windows", [(), ("--window", "0.25")])
def test_embeddings(
    bundle: Path, model: Predictor, folder: Path, tmp_path: Path, windows: tuple[str, ...]
) -> None:
    write(tmp_path / "in" / "broken.wav", np.zeros(0))
    path = tmp_path / "e.parquet"
    done = invoke(bundle, folder, "--embeddings", path, *windows)
    assert done.exit_code == 1
    assert len(done.stdout.splitlines()) > 6, "the labels are shown as well"
    table = pq.read_table(path)
    assert table.schema.names == ["file", *(("start", "end") if windows else ()), "embedding"]
    size = len(model.embed(sound(900), RATE))
    assert str(table.schema.field("embedding").type) == f"fixed_size_list<element: float>[{size}]"
    told = json.loads(table.schema.metadata[b"raudio"])
    assert told["bundle"] == model.told(Options())["bundle"]
    found = np.stack(table["embedding"].to_numpy(zero_copy_only=False))
    window = 0.25 if windows else None
    wanted = [model.embed(p, window=window) for p in sorted(folder.glob("*鳥.wav"))]
    np.testing.assert_allclose(found, np.concatenate(list(map(np.atleast_2d, wanted))), atol=1e-5)
    refused(invoke(bundle, folder, "--embeddings", path), "exists already")
    assert not list(tmp_path.glob(".e.parquet*"))


def test_embeddings_of_everything_beside_an_output_that_is_gone_on_with(
    bundle: Path, folder: Path, tmp_path: Path
) -> None:
    out, vectors = tmp_path / "out.csv", tmp_path / "e.parquet"
    files = sorted(folder.iterdir())
    assert invoke(bundle, *files[:2], "--out", out).exit_code == 0
    assert invoke(bundle, *files, "--out", out, "--embeddings", vectors).exit_code == 0
    assert [row["file"] for row in read(out)] == list(map(str, files))
    assert pq.read_table(vectors)["file"].to_pylist() == list(map(str, files))


# --- going on ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options", [(), pytest.param(("--window", "0.25"), marks=pytest.mark.slow)]
)
def test_rows_that_are_there_are_kept_and_the_rest_is_computed(
    bundle: Path,
    model: Predictor,
    folder: Path,
    tmp_path: Path,
    kind: str,
    options: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / f"out.{kind}"
    files = sorted(folder.iterdir())
    invoke(bundle, *files[:4], "--out", out, *options)
    heard: list[str] = []
    results = Predictor.results

    def watched(self: Predictor, recordings: Any, *arguments: Any, **more: Any) -> Any:
        heard.extend(recordings)
        return results(self, recordings, *arguments, **more)

    monkeypatch.setattr(Predictor, "results", watched)
    done = invoke(bundle, *files, "--out", out, *options)
    assert done.exit_code == 0, done.output
    assert heard == list(map(str, files[4:]))
    assert "4 recordings are in" in done.stderr
    heard.clear()
    assert invoke(bundle, *files, "--out", out, *options).exit_code == 0
    assert heard == []
    monkeypatch.undo()
    window = {"window": 0.25} if options else {}
    assert equal(read(out), expected(model, folder, **window))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [pytest.param(None, marks=pytest.mark.slow), 0.25])
def test_whatever_is_cut_off_is_computed_again(
    model: Predictor,
    folder: Path,
    tmp_path: Path,
    kind: str,
    window: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file as a killed process leaves it: cut anywhere in its last rows, or at its start."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    options = Options(window=window)
    files = sorted(folder.iterdir())
    told, out = model.told(options), tmp_path / f"out.{kind}"
    results = list(model.results(files, options=options))
    whole = tmp_path / "whole" / out.name
    whole.parent.mkdir()
    output = Output(whole, told, LABELS, options)
    output.__enter__()
    for result in results:
        output.write(result)
    output.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    rows = whole if kind != "parquet" else whole.with_name(f".{whole.name}.jsonl")
    content = rows.read_bytes()
    wanted = expected(model, folder, window=window)
    size = len(content.splitlines(keepends=True)[-1])
    end = len(content)
    name = content.rindex("鳥".encode())  # its bytes, too
    for cut in (*range(end - size - 9, end, 9), end - size, name + 1, end - 1, end, 0, 1, 30):
        (tmp_path / rows.name).write_bytes(content[:cut])
        shutil.copy(whole.with_name(f".{out.name}.begun"), tmp_path)
        with Output(out, told, LABELS, options) as output:
            left = [path for path in files if str(path) not in output.done]
            finished = content[:cut].count(b"\n") - (kind == "csv")
            if window is None:
                assert len(output.done) == max(0, finished)
            for result in results:
                if files[result.position] in left:
                    output.write(result)
        assert equal(read(out), wanted)
        out.unlink()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [(), pytest.param(("--window", "0.25"), marks=pytest.mark.slow)])
def test_what_could_not_be_used_is_tried_again(
    bundle: Path, model: Predictor, folder: Path, tmp_path: Path, kind: str, window: Any
) -> None:
    out, late = tmp_path / f"out.{kind}", folder / "late.wav"
    shutil.copy(folder / "0, où, 鳥.wav", tmp_path / "keep.wav")
    (folder / "0, où, 鳥.wav").write_bytes(b"broken")
    files = sorted(folder.iterdir())
    done = invoke(bundle, *files, late, "--out", out, *window)
    assert done.exit_code == 1
    assert "2 of 7 recordings could not be used" in done.stderr
    assert sum("error" in row for row in read(out)) == 2
    shutil.copy(tmp_path / "keep.wav", folder / "0, où, 鳥.wav")
    shutil.copy(tmp_path / "keep.wav", late)
    assert invoke(bundle, *files, late, "--out", out, *window).exit_code == 0
    wanted = expected(model, folder, **({"window": 0.25} if window else {}))
    assert equal(sorted(read(out), key=lambda row: (row["file"], row.get("start"))), wanted)


@pytest.mark.parametrize(
    "kind", ["csv", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("jsonl", "parquet"))]
)
def test_what_is_anothers_is_refused_and_left_as_it_is(
    bundle: Path, folder: Path, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / f"out.{kind}"
    assert invoke(bundle, folder, "--out", out, "--top", "2").exit_code == 0
    before, rows = out.read_bytes(), read(out)
    refused(
        invoke(bundle, folder, "--out", out), "begun with another bundle.*top=2 instead of None"
    )
    refused(invoke(bundle, folder, "--out", out, "--top=2", "--stride=0.5"), "stride=None instead")
    other = make_bundle(tmp_path / "other", seed=1)
    refused(invoke(other, folder, "--out", out, "--top", "2"), "bundle='[0-9a-f]{64}' instead of")
    moved = shutil.copytree(bundle, tmp_path / "moved")
    assert invoke(moved, folder, "--out", out, "--top", "2").exit_code == 0
    assert read(out) == rows
    before = out.read_bytes()
    (tmp_path / f".out.{kind}.begun").unlink()
    refused(invoke(bundle, folder, "--out", out, "--top", "2"), "exists already, and no '.out")
    assert out.read_bytes() == before
    assert not (tmp_path / f".out.{kind}.begun").exists()
    out.unlink()
    assert invoke(bundle, folder, "--out", out).exit_code == 0


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_rows_that_are_none_are_not_gone_on_with(
    bundle: Path, folder: Path, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / f"out.{kind}"
    invoke(bundle, folder, "--out", out)
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join([*lines[:3], "my own note\n", *lines[3:]]))
    refused(invoke(bundle, folder, "--out", out), r"row [34] is none of raudio predict's")
    assert "my own note\n" in out.read_text()


def test_two_at_once(bundle: Path, model: Predictor, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    with Output(out, model.told(Options()), LABELS, Options()) as output:
        output.write(Result(0, "a", prediction={"label": "up", "score": 1.0, "scores": {}}))
        refused(invoke(bundle, folder, "--out", out), "being written by another raudio predict")
    assert [row["file"] for row in read(out)] == ["a"]


def test_a_full_disk_is_told_and_what_is_there_stays(model: Predictor) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    output = Output(Path("x.csv"), {}, LABELS, Options())
    output._file = full.open("w")
    with pytest.raises(UserError, match=r"No space left.*goes on"):
        output.write(Result(0, "a", prediction={"label": "up", "score": 1.0, "scores": {}}))
    with contextlib.suppress(OSError):
        output._file.close()


def test_standard_input_is_another_recording_each_time(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    for seed in (1, 2):
        content = write(tmp_path / "x.wav", sound(900, seed=seed)).read_bytes()
        assert invoke(bundle, "-", "--out", out, stdin=content).exit_code == 0
    first, second = read(out)
    assert first["file"] == second["file"] == "-"
    assert first != second


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--out", "s3://b/x.csv"], "is a URI"),
        (["--out", "{tmp}/a.csv"], "is a folder"),
        (["--embeddings", "{tmp}/e.csv"], r"ends in \.parquet"),
        (["--embeddings", "{tmp}/no/e.parquet"], "there is no folder"),
        (["--window", "-1"], "window=-1.0"),
        (["--out", "{tmp}/x.csv", "--stride", "9"], "stride=9 is longer"),
        (["--out", "{tmp}/x.csv", "--ray", "--address", "127.0.0.1:1"], "no Ray cluster answers"),
    ],
)
def test_wrong_usage_leaves_nothing(
    bundle: Path, folder: Path, tmp_path: Path, arguments: list[str], match: str
) -> None:
    (tmp_path / "a.csv").mkdir()
    refused(invoke(bundle, folder, *(each.format(tmp=tmp_path) for each in arguments)), match)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "in"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_gone_on_with(bundle: Path, model: Predictor, tmp_path: Path, kind: str) -> None:
    folder, out = tmp_path / "in", tmp_path / f"out.{kind}"
    for number in range(400):
        write(folder / f"{number:03d}.wav", sound(2000 + 40 * number, seed=number))
    rows = out if kind != "parquet" else tmp_path / f".{out.name}.jsonl"
    command = [
        sys.executable, "-m", "raudio.cli.main", "predict", str(bundle), str(folder),
        "--out", str(out), "--batch-size", "4", "--window", "0.2",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for target in (3_000, 20_000):
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stderr=subprocess.PIPE
        ) as process:
            while not rows.exists() or rows.stat().st_size < target:
                assert process.poll() is None, process.stderr
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
    before = rows.stat().st_size
    assert before >= 20_000
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert "recordings are in" in done.stderr
    assert equal(read(out), expected(model, folder, window=0.2))


_MEASURED = """
import sys
from pathlib import Path
import raudio.cli.main as main
sys.argv = ["raudio", "predict", *sys.argv[1:]]
try:
    main.main()
except SystemExit as error:
    assert not error.code
# Not getrusage, which begins with what the process that started this one takes.
status = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in status if line.startswith("VmHWM:")), file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "minutes"),
    [
        pytest.param("flac", 180, marks=pytest.mark.long),
        ("wav", 60),
        pytest.param("mp3", 30, marks=pytest.mark.long),
        pytest.param("ogg", 30, marks=pytest.mark.long),
        ("flac", 30),  # soonest written of those that are no plain samples
    ],
)
def test_hours_of_stereo_take_little_memory(
    bundle: Path, tmp_path: Path, kind: str, minutes: int
) -> None:
    """And every second of them is heard: the parts reach from the start to the end."""
    rate, path = 44100, tmp_path / f"long.{kind}"
    second = np.random.default_rng(0).normal(0, 60, (rate, 2)).astype(np.int16)
    with soundfile.SoundFile(path, "w", rate, 2) as file:
        for number in range(
            60 * minutes
        ):  # libsndfile's Vorbis crashes when given a minute at once
            file.write(np.roll(second, 991 * number, axis=0))
        file.write(second[: rate // 2])
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(bundle), str(path), "--window=60", "--json"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["start"] for row in rows[:-1]] == [60.0 * number for number in range(minutes)]
    assert rows[-1]["end"] == pytest.approx(60 * minutes + 0.5, abs=0.1)
    assert rows[-1]["end"] - rows[-1]["start"] == pytest.approx(60)
    memory = int(done.stderr.splitlines()[-1]) * 1024
    print(f"{kind}: {minutes} minutes in {memory / 1e6:.0f} MB")
    assert memory < 1e9
