"""What can be named to be predicted for: files, folders, patterns, stores, lists, stdin."""

from __future__ import annotations

import functools
import http.server
import io
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from predict_kit import RATE, invoke, make_bundle, sound, write

from raudio.core.errors import DataError, UserError
from raudio.export.inputs import find
from raudio.export.predictor import Predictor, load
from raudio.export.recordings import StoredClip, ahead, name_of


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def model(bundle: Path) -> Predictor:
    return load(bundle)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    for seed, name in enumerate(("b/2.FLAC", "a/1.wav", "3.ogg", "a/[1].wav", ".hidden/4.wav")):
        write(folder / name, sound(900, seed=seed))
    (folder / "a" / "._1.wav").write_bytes(b"what a Mac leaves behind")
    (folder / "notes.txt").write_text("no audio")
    return folder


def names(*inputs: str | Path, **options: Any) -> list[str]:
    return [str(name_of(each)) for each in find(list(map(str, inputs)), **options)]


def files_of(done: Any) -> list[str]:
    assert done.exit_code == 0, done.output
    return [json.loads(line)["file"] for line in done.stdout.splitlines()]


def test_a_folder_is_its_audio_without_what_is_hidden(folder: Path) -> None:
    assert names(folder) == [f"{folder}/{n}" for n in ("3.ogg", "a/1.wav", "a/[1].wav", "b/2.FLAC")]
    assert names(folder, recursive=False) == [f"{folder}/3.ogg"]


def test_patterns(folder: Path) -> None:
    assert names(f"{folder}/a/*.wav") == [f"{folder}/a/1.wav", f"{folder}/a/[1].wav"]
    assert names(f"{folder}/a/[1].wav") == [f"{folder}/a/[1].wav"], "a file that is called so"
    assert names(f"{folder}/a/[12].wav") == [f"{folder}/a/1.wav"]
    assert names(f"{folder}/**/*.*") == names(folder)
    assert names(f"{folder}/*") == names(folder)
    assert names(f"{folder}/*", recursive=False) == names(folder)
    with pytest.raises(DataError, match=r"no audio matches '.*\.mp3'"):
        names(folder, f"{folder}/*.mp3")


def test_each_once_in_the_order_named(folder: Path) -> None:
    first = f"{folder}/b/2.FLAC"
    assert names(first, folder, first) == [first, *names(folder)[:-1]]


def test_the_command_and_its_lists(bundle: Path, folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(f"{folder}/b\n\n{folder}/3.ogg\n")
    expected = [f"{folder}/a/1.wav", f"{folder}/b/2.FLAC", f"{folder}/3.ogg"]
    arguments = (bundle, f"{folder}/a/1.wav", "--json", "--files-from")
    assert files_of(invoke(*arguments, listed)) == expected
    assert files_of(invoke(*arguments, "-", stdin=listed.read_bytes())) == expected
    assert files_of(invoke(bundle, folder, "--no-recursive", "--json")) == [f"{folder}/3.ogg"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "there are no INPUTS"),
        (["-", "--files-from", "-"], "standard input can't be"),
        (["--files-from", "{tmp}/none.txt"], "none.txt' cannot be read"),
        (["--files-from", "{tmp}/empty.txt"], "names nothing"),
        (["{tmp}/*.wav"], "no audio matches"),
    ],
)
def test_wrong_usage(bundle: Path, tmp_path: Path, arguments: list[str], match: str) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    done = invoke(bundle, *(argument.format(tmp=tmp_path) for argument in arguments))
    assert isinstance(done.exception, UserError)
    assert done.exception.args[0].count("\n") == 0
    with pytest.raises(UserError, match=match):
        raise done.exception


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3"])
def test_standard_input_is_one_recording(
    bundle: Path, model: Predictor, tmp_path: Path, format: str
) -> None:
    content = io.BytesIO()
    soundfile.write(content, sound(9000), RATE, format=format)
    done = invoke(bundle, "-", "--json", stdin=content.getvalue())
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["file"] == "-"
    path = tmp_path / f"x.{format.lower()}"
    path.write_bytes(content.getvalue())
    assert result["scores"] == model.predict(path)["scores"]
    assert model.predict(content.getvalue())["scores"] == result["scores"]


def test_standard_input_that_is_no_audio(bundle: Path) -> None:
    done = invoke(bundle, "-", stdin=b"")
    assert done.exit_code == 1
    assert "-: " in done.stderr
    assert "1 of 1" in done.stderr


def test_a_name_that_is_no_text(bundle: Path, tmp_path: Path) -> None:
    """On Linux a file's name is bytes."""
    raw = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    write(tmp_path / "x.wav", sound(900)).rename(os.fsdecode(raw))
    done = invoke(bundle, tmp_path, "--json")
    assert files_of(done) == [f"{tmp_path}/caf\\xe9.wav"]


# --- datasets and stores -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from raudio.data.prepare import Options, prepare

    folder = tmp_path_factory.mktemp("made")
    source, out = folder / "source", folder / "data"
    for number in range(24):
        label = ("up", "down")[number % 2]
        write(source / label / f"{number}.wav", sound(700 + 30 * number, seed=number))
    prepare(source, out, options=Options(format="source"))
    return out


def test_a_dataset_is_its_clips(model: Predictor, dataset: Path) -> None:
    found = find([str(dataset)])
    source = dataset.parent / "source"
    assert len(found) == 24
    assert len({each.shard for each in found if isinstance(each, StoredClip)}) >= 3
    results = model.predict(found, workers=2)
    for result in results:
        clip = Path(result["file"]).relative_to(dataset)
        assert result["scores"] == pytest.approx(model.predict(source / clip)["scores"], abs=1e-6)


def test_a_dataset_with_a_shard_that_is_gone(model: Predictor, dataset: Path) -> None:
    found = find([str(dataset)])
    gone = next(each.shard for each in found if isinstance(each, StoredClip))
    content = Path(gone).read_bytes()
    Path(gone).unlink()
    try:
        results = model.predict(found, workers=0)
    finally:
        Path(gone).write_bytes(content)
    for result, clip in zip(results, found, strict=True):
        assert ("error" in result) == (clip.shard == gone)  # type: ignore[union-attr]


@pytest.fixture
def web(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_files_on_the_web(model: Predictor, folder: Path, web: str) -> None:
    assert names(f"{web}/a/1.wav?x=*", f"{web}/sound") == [f"{web}/a/1.wav?x=*", f"{web}/sound"]
    assert names(f"{web}/b/") == [f"{web}/b/2.FLAC"]
    good, bad = model.predict([f"{web}/b/2.FLAC", f"{web}/missing.wav"])
    assert good["scores"] == model.predict(folder / "b" / "2.FLAC")["scores"]
    assert bad["error"].startswith(f"{web}/missing.wav: cannot be read")
    (secret,) = model.predict([f"{web}/missing.wav".replace("://", "://me:secret@")])
    assert secret["file"] == f"{web}/missing.wav".replace("://", "://***@")
    assert "secret" not in str(secret)


def test_a_bucket(model: Predictor, folder: Path) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    store.put(f"{folder}/", "/in/", recursive=True)
    try:
        found = names("memory://in")
        assert found == [f"memory://in/{n}" for n in ("3.ogg", "a/1.wav", "a/[1].wav", "b/2.FLAC")]
        assert names("memory://in/*/?.*") == [found[1], found[3]]
        assert names("memory://in/", recursive=False) == [f"memory://in/{'3.ogg'}"]
        results = model.predict(found)
        local = model.predict([str(Path(folder, *name.split("/")[3:])) for name in found])
        assert [r["scores"] for r in results] == [r["scores"] for r in local]
    finally:
        store.rm("/in", recursive=True)


# --- decoding ahead ----------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_work_ahead_keeps_the_order_and_what_it_raises(workers: int) -> None:
    def work(job: int) -> Iterator[int]:
        yield from range(job)
        if job % 5 == 3:
            raise DataError(f"job {job}")

    for job, results in ahead(range(40), work, workers):
        assert [next(results) for _ in range(job)] == list(range(job))
        if job % 5 == 3:
            with pytest.raises(DataError, match=f"^job {job}$"):
                next(results)
        else:
            assert list(results) == []


def test_any_format_that_soundfile_writes(model: Predictor, tmp_path: Path) -> None:
    wave = sound(9000)
    expected = model.predict(write(tmp_path / "x.wav", wave))["scores"]
    kinds = [
        ("AIFF", "PCM_24"), ("AU", "FLOAT"), ("CAF", "PCM_16"), ("W64", "PCM_32"), ("WAV", "ALAW"),
        ("WAV", "DOUBLE"), ("WAV", "MS_ADPCM"), ("WAVEX", "PCM_U8"), ("FLAC", "PCM_24"),
        ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"), ("RF64", "PCM_16"),
    ]  # fmt: skip
    for format, subtype in kinds:
        path = tmp_path / f"{format}-{subtype}"
        soundfile.write(path, wave, RATE, format=format, subtype=subtype)
        lossy = subtype in ("ALAW", "MS_ADPCM", "PCM_U8", "VORBIS", "MPEG_LAYER_III")
        found = model.predict(path)["scores"]
        assert found == pytest.approx(expected, abs=0.05 if lossy else 1e-4), (format, subtype)
    opus = tmp_path / "x.opus"
    soundfile.write(opus, np.repeat(wave, 6), 48000, format="OGG", subtype="OPUS")
    assert model.predict(opus)["label"]
