"""Fetching public data sets: miniatures, and what servers, archives and recipes get wrong."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from raudio.cli import main as cli
from raudio.core.errors import DataError
from raudio.data import download as downloading
from raudio.data import recipe as recipes
from raudio.data.download import download
from raudio.data.fetch import fetch
from raudio.data.manifest import Manifest
from raudio.data.rows import read_shard
from raudio.data.unpack import inside, unpack

RECIPES = Path(recipes.__file__).with_name("recipes")
MEGABYTE = 10**6

Files = dict[str, bytes]


# --- a server with faults ------------------------------------------------------------------------


class Fault(NamedTuple):
    """What a server does wrong on one request.

    Attributes:
        status: answered instead of the file.
        drop: bytes of the body after which the connection breaks.
        stall: the same, but it stays open and nothing more comes.
        ranges: whether a Range is honoured.
    """

    status: int = 0
    drop: int | None = None
    stall: int | None = None
    ranges: bool = True


class Seen(NamedTuple):
    path: str
    range: str | None
    if_range: str | None


class Server:
    """Serves `files` on the loopback; a request takes the first of `faults` with it."""

    def __init__(self) -> None:
        self.files: Files = {}
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.etags = True
        self.stopped = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.stopped.set()
        self._http.shutdown()
        self._http.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        given = request.headers["Range"]
        self.seen.append(Seen(request.path, given, request.headers["If-Range"]))
        fault = self.faults.pop(0) if self.faults else Fault()
        content = self.files.get(request.path.lstrip("/"))
        if fault.status or content is None:
            request.send_error(fault.status or 404)
            return
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        start = 0
        if given and fault.ranges and request.headers["If-Range"] in (None, tag):
            start = int(given.removeprefix("bytes=").removesuffix("-"))
        if start and start >= len(content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(content)}")
            request.end_headers()
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(content) - start))
        if self.etags:
            request.send_header("ETag", tag)
        request.end_headers()
        limit = fault.drop if fault.drop is not None else fault.stall
        end = len(content) if limit is None else start + limit
        request.wfile.write(content[start:end])
        request.wfile.flush()
        if fault.stall is not None:
            self.stopped.wait(30)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "BACK_OFF", (0.0, 0.0, 0.0))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for each test: they look into it."""
    monkeypatch.setenv("RAUDIO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fetch"


# --- archives ------------------------------------------------------------------------------------


def wav(number: int) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(number).integers(-9000, 9000, 200, dtype=np.int16)
    soundfile.write(buffer, noise, 8000, format="WAV")
    return buffer.getvalue()


def wavs(paths: list[str]) -> Files:
    return {path: wav(number) for number, path in enumerate(paths)}


def zipped(files: Files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return buffer.getvalue()


def tarred(files: Files) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        folders = {str(parent) for path in files for parent in Path(path).parents}
        for folder in sorted(folders):
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            archive.addfile(entry)
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def lines(*rows: str) -> bytes:
    return "".join(row + "\n" for row in rows).encode()


# --- miniatures: the file trees of the six archives, and what is to come of them -----------------


class Miniature(NamedTuple):
    """Archives by file name; and (label, split, group, some metadata) by clip."""

    archives: Files
    clips: dict[str, tuple[str, str | None, str | None, dict[str, Any]]]


def esc50() -> Miniature:
    top = "ESC-50-33c8ce9eb2cf0b1c2f8bcf322eb349b6be34dbb6"
    table = ["filename,fold,target,category,esc10,src_file,take"]
    clips = {}
    for fold in range(1, 6):
        for target, category, esc10 in ((0, "dog", "True"), (14, "chirping_birds", "False")):
            name = f"{fold}-10003{fold}-A-{target}.wav"
            table.append(f"{name},{fold},{target},{category},{esc10},10003{fold},A")
            split = {4: "valid", 5: "test"}.get(fold, "train")
            facts = {"fold": fold, "esc10": esc10, "src_file": f"10003{fold}"}
            clips[f"{top}/audio/{name}"] = (category, split, None, facts)
    files = {
        **wavs(list(clips)),
        f"{top}/README.md": b"ESC-50",
        f"{top}/meta/esc50.csv": lines(*table),
        f"{top}/meta/esc50-human.xlsx": b"PK",
    }
    return Miniature({"ESC-50.zip": zipped(files)}, clips)


def speech_commands() -> Miniature:
    clips = {}
    splits = {"0a7c2a8d": "train", "004ae714": "valid", "c50f55b8": "test"}
    for speaker, split in splits.items():
        for word in ("yes", "no"):
            for utterance in ("0", "1"):
                path = f"{word}/{speaker}_nohash_{utterance}.wav"
                clips[path] = (word, split, speaker, {"utterance": utterance})
    listed = {
        split: lines(*(path for path, clip in clips.items() if clip[1] == split))
        for split in ("valid", "test")
    }
    files = {
        **wavs(list(clips)),
        "_background_noise_/white_noise.wav": wav(99),
        "_background_noise_/README.md": b"noise",
        "validation_list.txt": listed["valid"],
        "testing_list.txt": listed["test"],
        "LICENSE": b"",
        ".DS_Store": b"",
    }
    content = tarred({f"./{path}": content for path, content in files.items()})
    return Miniature({"speech_commands_v0.02.tar.gz": content}, clips)


def fsdd() -> Miniature:
    top = "free-spoken-digit-dataset-1.0.10"
    clips = {}
    for speaker in ("theo", "lucas"):
        for digit in "07":
            for take, split in (("0", "test"), ("4", "test"), ("5", "valid"), ("9", "valid"),
                                ("10", "train"), ("49", "train")):  # fmt: skip
                path = f"{top}/recordings/{digit}_{speaker}_{take}.wav"
                clips[path] = (digit, split, None, {"speaker": speaker, "take": take})
    files = {**wavs(list(clips)), f"{top}/metadata.py": b"metadata = {}"}
    return Miniature({"free-spoken-digit-dataset-1.0.10.zip": zipped(files)}, clips)


def urbansound8k() -> Miniature:
    table = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
    clips = {}
    for fold in range(1, 11):
        for class_id, label in ((3, "dog_bark"), (8, "siren")):
            recording = str(100000 + 10 * fold + class_id)
            for piece in (0, 1):
                name = f"{recording}-{class_id}-0-{piece}.wav"
                table.append(f"{name},{recording},0.0,0.317551,1,{fold},{class_id},{label}")
                split = {9: "valid", 10: "test"}.get(fold, "train")
                facts = {"fold": fold, "salience": "1"}
                clips[f"UrbanSound8K/audio/fold{fold}/{name}"] = (label, split, recording, facts)
    files = {
        **wavs(list(clips)),
        "UrbanSound8K/metadata/UrbanSound8K.csv": lines(*table),
        "UrbanSound8K/UrbanSound8K_README.txt": b"",
        "UrbanSound8K/audio/.DS_Store": b"",
    }
    return Miniature({"UrbanSound8K.tar.gz": tarred(files)}, clips)


def emodb() -> Miniature:
    speakers = ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")
    clips = {}
    for speaker in speakers:
        for letter, label in (("W", "anger"), ("T", "sadness"), ("N", "neutral")):
            path = f"wav/{speaker}a01{letter}b.wav"
            clips[path] = (label, None, speaker, {"sentence": "a01", "version": "b"})
    files = {**wavs(list(clips)), "erkennung.txt": b"Satz", "lablaut/03a01Wb.lablaut": b""}
    return Miniature({"emodb.zip": zipped(files)}, clips)


def dcase2016_task1() -> Miniature:
    stem = "TUT-acoustic-scenes-2016"
    dev, held = f"{stem}-development", f"{stem}-evaluation"
    clips, meta, fold_lists = {}, [], {fold: [] for fold in range(1, 5)}
    for fold in range(1, 5):
        for letter, scene in (("a", "residential_area"), ("b", "beach")):
            for start in (0, 30):
                path = f"audio/{letter}00{fold}_{start}_{start + 30}.wav"
                meta.append(f"{path}\t{scene}")
                fold_lists[fold].append(f"{path}\t{scene}")
                split = "valid" if fold == 1 else "train"
                clips[f"{dev}/{path}"] = (
                    scene,
                    split,
                    f"{letter}00{fold}",
                    {"fold": fold},
                )
    failed = "audio/b003_30_60.wav"
    del clips[f"{dev}/{failed}"]
    setups = {
        f"{dev}/evaluation_setup/fold{fold}_{kind}.txt": lines(
            *(row if kind != "test" else row.partition("\t")[0] for row in rows)
        )
        for fold, rows in fold_lists.items()
        for kind in ("evaluate", "test")
    }
    answers = []
    for number, (letter, scene) in enumerate((("a", "residential_area"), ("b", "beach"))):
        answers.append(f"audio/{number}.wav\t{scene}\taudio/{letter}009_0_30.wav")
        clips[f"{held}/audio/{number}.wav"] = (scene, "test", f"{letter}009", {"fold": None})
    audio = [f"{dev}/{row.partition(chr(9))[0]}" for row in meta]
    held_audio = [f"{held}/audio/{number}.wav" for number in range(2)]
    sounds = wavs(audio + held_audio)
    archives = {
        f"{dev}.meta.zip": zipped({f"{dev}/meta.txt": lines(*meta), **setups}),
        f"{dev}.error.zip": zipped({f"{dev}/error.txt": lines(f"{failed}\t1.5\t3.0\tmobile")}),
        f"{held}.meta.zip": zipped({f"{held}/evaluation_setup/evaluate.txt": lines(*answers)}),
    }
    for kind, paths, count in ((dev, audio, 8), (held, held_audio, 3)):
        for number in range(count):
            share = {path: sounds[path] for path in paths[number::count]}
            archives[f"{kind}.audio.{number + 1}.zip"] = zipped(share | {f"{kind}/LICENSE": b""})
    return Miniature(archives, clips)


MINIATURES = {
    make.__name__: make
    for make in (esc50, speech_commands, fsdd, urbansound8k, emodb, dcase2016_task1)
}


def command(server: Server, name: str, out: Path, *options: str) -> Result:
    """`raudio data fetch` of a shipped recipe, its archives replaced by what the server has."""
    sums = [f"--checksum={n}={hashlib.sha256(c).hexdigest()}" for n, c in server.files.items()]
    arguments = ["data", "fetch", name, "--out", str(out), "--mirror", server.url, *sums, *options]
    return CliRunner().invoke(cli.app, arguments)


def all_rows(dataset: Path) -> dict[str, dict[str, Any]]:
    manifest = Manifest.read(str(dataset))
    return {
        row["clip_id"]: row
        for shard in manifest.shards
        for row in read_shard(manifest.shard_path(shard)).to_pylist()
    }


@pytest.mark.parametrize("name", MINIATURES)
def test_a_recipe_makes_a_dataset_of_its_archives(
    server: Server, tmp_path: Path, name: str
) -> None:
    miniature = MINIATURES[name]()
    server.files = miniature.archives
    result = command(server, name, tmp_path / "out")
    assert result.exit_code == 0, result.output + repr(result.exception)

    rows = all_rows(tmp_path / "out")
    assert set(rows) == set(miniature.clips)
    for clip_id, (label, split, group, metadata) in miniature.clips.items():
        row = rows[clip_id]
        got = (row["label"], row["group"], {key: row[key] for key in metadata})
        assert got == (label, group, metadata)
        assert split is None or row["split"] == split
    recipe = recipes.load(name)
    manifest = Manifest.read(str(tmp_path / "out"))
    assert manifest.licence == recipe.licence
    assert manifest.source == f"{recipe.title}, {recipe.page}"
    assert sorted(seen.path[1:] for seen in server.seen) == sorted(a.file for a in recipe.archives)
    splits = {(row["group"], row["split"]) for row in rows.values() if row["group"]}
    assert len(splits) == len({group for group, _ in splits}), "a group is in two splits"


def test_a_finished_archive_is_not_downloaded_again(
    server: Server, tmp_path: Path, cache: Path
) -> None:
    server.files = fsdd().archives
    assert command(server, "fsdd", tmp_path / "a").exit_code == 0
    assert command(server, "fsdd", tmp_path / "b", "--drop-archives").exit_code == 0
    assert len(server.seen) == 1
    files = {path.name for path in cache.rglob("*") if path.is_file()}
    assert files == {"free-spoken-digit-dataset-1.0.10.zip.sha256"}
    assert all_rows(tmp_path / "a") == all_rows(tmp_path / "b")


def test_archives_may_lie_in_a_folder(server: Server, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "mirror").mkdir()
    content = fsdd().archives["free-spoken-digit-dataset-1.0.10.zip"]
    with pytest.raises(DataError, match=r"no file 'free-spoken-digit-dataset-1.0.10.zip'"):
        fetch("fsdd", tmp_path / "out", mirror=str(tmp_path / "mirror"))
    file = tmp_path / "mirror" / "free-spoken-digit-dataset-1.0.10.zip"
    file.write_bytes(content)
    assert fetch("fsdd", tmp_path / "out", mirror=str(tmp_path / "mirror")).clips == 24
    assert file.read_bytes() == content
    assert not (cache / "fsdd" / file.name).exists()


def test_an_existing_dataset_is_refused_before_anything_is_downloaded(
    server: Server, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="exists"):
        fetch("fsdd", tmp_path, mirror=server.url)
    assert not server.seen


def test_a_faulty_recording_leaves_the_archive_and_no_dataset(
    server: Server, tmp_path: Path, cache: Path
) -> None:
    name, content = next(iter(fsdd().archives.items()))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    files["free-spoken-digit-dataset-1.0.10/recordings/0_theo_10.wav"] = b"no audio"
    server.files = {name: zipped(files)}
    result = command(server, "fsdd", tmp_path / "out")
    assert isinstance(result.exception, DataError)
    assert "0_theo_10.wav" in str(result.exception)
    assert not (tmp_path / "out").exists()
    assert (cache / "fsdd" / name).is_file()
    result = command(server, "fsdd", tmp_path / "out", "--skip-bad")
    assert result.exit_code == 0
    assert len(all_rows(tmp_path / "out")) == 23
    assert len(server.seen) == 1


# --- checksums -----------------------------------------------------------------------------------


def own(folder: Path, **archive: str) -> str:
    """A recipe of one's own: one archive of FSDD's form."""
    content = yaml.safe_load((RECIPES / "fsdd.yaml").read_text())
    content["name"] = "mine"
    content["archives"] = [archive]
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_an_archive_with_another_checksum_is_removed(
    server: Server, tmp_path: Path, cache: Path, kind: str
) -> None:
    content = next(iter(fsdd().archives.values()))
    good = hashlib.new(kind, content).hexdigest()
    recipe = own(tmp_path, url=f"{server.url}/a.zip", **{kind: good})
    server.files["a.zip"] = b"tampered"
    bad = hashlib.new(kind, b"tampered").hexdigest()
    with pytest.raises(DataError, match=f"{kind.upper()} {bad} is not {good}"):
        fetch(recipe, tmp_path / "out")
    assert not list((cache / "mine").iterdir())
    server.files["a.zip"] = content
    assert fetch(recipe, tmp_path / "out").clips == 24


def test_without_a_published_checksum_the_first_download_s_counts(
    server: Server, tmp_path: Path
) -> None:
    recipe = own(tmp_path, url=f"{server.url}/a.zip", checksum="none published")
    first = server.files["a.zip"] = next(iter(fsdd().archives.values()))
    said: list[str] = []
    fetch(recipe, tmp_path / "a", drop_archives=True, echo=said.append)
    sha = hashlib.sha256(first).hexdigest()
    assert any("publisher gives no checksum" in text and sha in text for text in said)

    other = server.files["a.zip"] = first + b"\0"
    changed = hashlib.sha256(other).hexdigest()
    with pytest.raises(DataError, match=f"{changed} is not {sha}, which the first download"):
        fetch(recipe, tmp_path / "b")
    assert fetch(recipe, tmp_path / "b", checksums=[changed]).clips == 24


def test_a_damaged_archive_in_the_cache_is_fetched_again(
    server: Server, tmp_path: Path, cache: Path
) -> None:
    content = server.files["a.zip"] = next(iter(fsdd().archives.values()))
    sha = hashlib.sha256(content).hexdigest()
    recipe = own(tmp_path, url=f"{server.url}/a.zip", sha256=sha)
    fetch(recipe, tmp_path / "a")
    (cache / "mine" / "a.zip").write_bytes(content[:-1])
    assert fetch(recipe, tmp_path / "b").clips == 24
    assert len(server.seen) == 2


@pytest.mark.parametrize(
    ("given_", "message"),
    [("abc", "64 hexadecimal"), (f"b.zip={'0' * 64}", "unknown archive 'b.zip'.*a.zip")],
)
def test_a_wrong_checksum_option_is_refused(tmp_path: Path, given_: str, message: str) -> None:
    recipe = own(tmp_path, url="http://127.0.0.1/a.zip", checksum="none published")
    with pytest.raises(DataError, match=message):
        fetch(recipe, tmp_path / "out", checksums=[given_])


# --- downloading ---------------------------------------------------------------------------------

CONTENT = np.random.default_rng(0).bytes(300_000)


def get(server: Server, target: Path, content: bytes = CONTENT) -> None:
    server.files["file"] = content
    download(f"{server.url}/file", target, accept=lambda path: None)
    assert target.read_bytes() == content
    assert os.listdir(target.parent) == [target.name]


def test_a_broken_connection_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.faults = [Fault(drop=100_000), Fault(drop=50_000)]
    get(server, tmp_path / "file")
    assert [seen.range for seen in server.seen] == [None, "bytes=100000-", "bytes=150000-"]
    assert server.seen[1].if_range == f'"{hashlib.md5(CONTENT).hexdigest()}"'


def test_a_connection_that_breaks_again_and_again_arrives(server: Server, tmp_path: Path) -> None:
    server.faults = [Fault(drop=30_000)] * 9  # more than there are attempts without progress
    get(server, tmp_path / "file")
    assert len(server.seen) == 10


def test_a_server_without_ranges_is_asked_for_all_of_it(server: Server, tmp_path: Path) -> None:
    server.faults = [Fault(drop=100_000), Fault(ranges=False)]
    get(server, tmp_path / "file")


def test_without_a_validator_bytes_are_not_mixed(server: Server, tmp_path: Path) -> None:
    server.etags = False
    server.faults = [Fault(drop=100_000)]
    get(server, tmp_path / "file")
    assert [seen.range for seen in server.seen] == [None, None]


def test_a_file_that_has_changed_is_downloaded_anew(server: Server, tmp_path: Path) -> None:
    server.faults = [Fault(drop=100_000), *[Fault(status=503)] * 4]
    server.files["file"] = CONTENT
    with pytest.raises(DataError, match="100000 bytes are here"):
        download(f"{server.url}/file", tmp_path / "file", accept=lambda path: None)
    get(server, tmp_path / "file", CONTENT[::-1])
    assert server.seen[-1].range == "bytes=100000-"


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.faults = [Fault(status=503)] * 2
    get(server, tmp_path / "file")
    assert len(server.seen) == 3


def test_a_complete_part_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    server.files["file"] = CONTENT
    (tmp_path / "file.part").write_bytes(CONTENT)
    (tmp_path / "file.part.validator").write_text(f'"{hashlib.md5(CONTENT).hexdigest()}"')
    get(server, tmp_path / "file")
    assert [seen.range for seen in server.seen] == ["bytes=300000-"]


@pytest.mark.parametrize(
    ("status", "requests", "message"),
    [(503, 4, "answers 503.*4 times in a row"), (404, 1, "answers 404.*--mirror")],
)
def test_a_server_that_refuses_is_one_message(
    server: Server, tmp_path: Path, status: int, requests: int, message: str
) -> None:
    server.faults = [Fault(status=status)] * 9
    with pytest.raises(DataError, match=re.escape(server.url) + f"/file.*{message}"):
        download(f"{server.url}/file", tmp_path / "file", accept=lambda path: None)
    assert len(server.seen) == requests
    assert not os.listdir(tmp_path)


def test_a_server_that_falls_silent_counts_as_lost(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "TIMEOUT", 0.2)
    server.faults = [Fault(stall=100_000)]
    get(server, tmp_path / "file")
    assert [seen.range for seen in server.seen] == [None, "bytes=100000-"]


def test_nobody_there_is_one_message(tmp_path: Path, server: Server) -> None:
    server.close()
    with pytest.raises(DataError, match=r"refused, 4 times in a row"):
        download(f"{server.url}/file", tmp_path / "file", accept=lambda path: None)


def test_a_killed_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.files["file"] = CONTENT
    server.faults = [Fault(stall=200_000)]
    code = (
        "from pathlib import Path; from raudio.data.download import download; "
        f"download({server.url + '/file'!r}, Path({str(tmp_path / 'file')!r}), accept=print)"
    )
    child = subprocess.Popen([sys.executable, "-c", code])
    part = tmp_path / "file.part"
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size > 100_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    have = part.stat().st_size
    assert 100_000 < have < len(CONTENT)
    assert not (tmp_path / "file").exists()
    get(server, tmp_path / "file")
    assert server.seen[-1].range == f"bytes={have}-"


def test_a_disk_without_room_is_one_message(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["file"] = CONTENT
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(DataError, match=r"the rest of file needs .* GB are free.*--cache"):
            download(f"{server.url}/file", tmp_path / "file", accept=lambda path: None)

    def full(response: Any) -> Iterator[bytes]:
        yield response.read1(1000)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(downloading, "_chunks", full)
        with pytest.raises(DataError, match=r"the disk of .* is full"):
            download(f"{server.url}/file", tmp_path / "file", accept=lambda path: None)
    assert not (tmp_path / "file").exists()
    get(server, tmp_path / "file")


# --- unpacking -----------------------------------------------------------------------------------


def tar_entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, link
        archive.addfile(entry)
    return buffer.getvalue()


def zip_link(name: str, target: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, target)
    return buffer.getvalue()


def encrypted() -> bytes:
    """A zip that says of its one entry that it is encrypted, in both of its headers."""
    content = bytearray(zipped({"a.wav": b"a"}))
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    return bytes(content)


OUTSIDE = ("../x.wav", "a/../../x.wav", "/tmp/x.wav", "..\\x.wav", "C:\\x.wav")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((zipped({name: b"x"}), "lies outside") for name in OUTSIDE),
        *((tar_entry(name), "lies outside") for name in OUTSIDE),
        (tar_entry("a", tarfile.SYMTYPE, "../.."), "'a' is a link or a device"),
        (tar_entry("a", tarfile.LNKTYPE, "../x"), "'a' is a link or a device"),
        (tar_entry("a", tarfile.CHRTYPE), "'a' is a link or a device"),
        (tar_entry("a", tarfile.FIFOTYPE), "'a' is a link or a device"),
        (zip_link("a", "/etc"), "'a' is a link or a device"),
        (encrypted(), "'a.wav' is encrypted"),
        (zipped({"a": b"x", "a/b": b"y"}), "cannot be unpacked: .*File exists"),
        (zipped({"zeros": bytes(2 * MEGABYTE)}), "at 'zeros' it exceeds .* unpacked_bytes"),
        (tarred({"zeros": bytes(2 * MEGABYTE)}), "at 'zeros' it exceeds .* unpacked_bytes"),
        (zipped({"a.wav": b"sound"}).replace(b"sound", b"soumd"), "is damaged"),
        (tarred({"a.wav": CONTENT})[:-1000], "is damaged"),
        (b"<html>not found</html>", "is neither a zip nor a tar"),
    ],
)  # fmt: skip
def test_a_hostile_or_damaged_archive_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "good").write_bytes(zipped({"good.wav": b"good"}))
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(DataError, match=message):
        unpack([tmp_path / "good", tmp_path / "bad"], tmp_path / "out", limit=MEGABYTE)
    assert sorted(os.listdir(tmp_path)) == ["bad", "good"]
    assert not Path("/tmp/x.wav").exists()


def test_archives_unpack_into_one_folder_within_their_common_limit(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({"x/a.wav": b"a" * 60, "LICENSE": b"old"}))
    (tmp_path / "b.tar.gz").write_bytes(tarred({"./x/b.wav": b"b" * 60, "LICENSE": b"new"}))
    both = [tmp_path / "a.zip", tmp_path / "b.tar.gz"]
    unpack(both, tmp_path / "out", limit=126)
    found = {p.name: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert found == {"a.wav": b"a" * 60, "b.wav": b"b" * 60, "LICENSE": b"new"}
    with pytest.raises(DataError, match="exceeds"):
        unpack(both, tmp_path / "again", limit=125)


@given(st.text("a./\\:C\0 ", max_size=12))
def test_a_name_is_refused_or_stays_below_its_folder(name: str) -> None:
    path = inside(name)
    if path is not None:
        full = os.path.normpath(f"/base/folder/{path}")
        assert full == "/base/folder" or full.startswith("/base/folder/")


# --- recipes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_shipped_recipe_is_named_like_its_file_and_complete(file: Path) -> None:
    recipe = recipes.load(file.stem)
    assert recipe.name == file.stem
    assert recipe.citation
    unpublished = {a.file for a in recipe.archives if a.checksum}
    assert unpublished <= {"free-spoken-digit-dataset-1.0.10.zip", "emodb.zip"}


def edited(edit: Callable[[dict[str, Any]], Any], folder: Path) -> str:
    content = yaml.safe_load((RECIPES / "fsdd.yaml").read_text())
    edit(content)
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda r: r.update(licens="x"), "unknown key 'licens' .closest: 'licence'"),
        (lambda r: r.pop("licence"), "the key 'licence' is missing"),
        (lambda r: r.update(name="../x"), "name '../x'"),
        (lambda r: r.update(unpacked_bytes="much"), "unpacked_bytes='much' should be int"),
        (lambda r: r.update(clips="all"), "clips='all' should be"),
        (lambda r: r["archives"][0].update(md5="0" * 32), "one of sha256, md5"),
        (lambda r: r["archives"][0].pop("checksum"), "one of sha256, md5.*not none"),
        (lambda r: r["archives"][0].update(checksum="unsure"), "one of sha256, md5"),
        (lambda r: r["archives"][0].update(url="file:///etc/passwd"), "http"),
        (lambda r: r["archives"][0].update(file="../a.zip"), "no file's name"),
        (lambda r: r["clips"][0].update(table="t.csv"), "a table or files"),
        (lambda r: r["clips"][0].update(python="x"), "unknown key 'python'"),
        (lambda r: r["clips"][0].update(match={"path": "("}), "match '[(]': missing"),
        (lambda r: r["clips"][0]["columns"].pop("label"), "lack 'label'"),
        (lambda r: r["clips"][0]["columns"].update(x={"of": "{take}"}), "column x: give values"),
        (lambda r: r["clips"][0]["columns"]["split"].update({"else": "x"}), "unknown key 'else'"),
    ],
)
def test_a_faulty_recipe_is_one_message(
    tmp_path: Path, edit: Callable[[dict[str, Any]], Any], message: str
) -> None:
    with pytest.raises(DataError, match=f"mine.yaml.*{message}"):
        recipes.load(edited(edit, tmp_path))


def test_an_unknown_recipe_names_the_closest() -> None:
    with pytest.raises(DataError, match=r"unknown data set 'esc5' .closest: 'esc50'"):
        recipes.load("esc5")
    with pytest.raises(DataError, match=r"recipe 'none\.yaml' does not exist"):
        recipes.load("none.yaml")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda part: part.update(files="wav/*.wav"), "hold no files 'wav/"),
        (lambda part: part.update(match={"path": "x"}), "'recordings/0_.*' does not match 'x'"),
        (lambda part: part["columns"].update(label="{digits}"), "unknown column 'digits' .closest"),
        (lambda part: part["columns"]["split"].pop("default"), "no split: '10' is none of 0, 1"),
        (lambda part: part["columns"].update(file="../{path}"), "lies outside"),
        (lambda part: part.update(leave_out={"files": ["*"]}), "leaves out every recording"),
        (lambda part: part.update(leave_out={"listed": ["gone.txt"]}), "gone.txt cannot be read"),
    ],
)
def test_a_recipe_that_does_not_fit_its_archives_is_one_message(
    tmp_path: Path, edit: Callable[[dict[str, Any]], Any], message: str
) -> None:
    miniature = fsdd()
    (tmp_path / "a.zip").write_bytes(next(iter(miniature.archives.values())))
    unpack([tmp_path / "a.zip"], tmp_path / "unpacked", limit=MEGABYTE)
    recipe = recipes.load(edited(lambda content: edit(content["clips"][0]), tmp_path))
    with pytest.raises(DataError, match=message):
        recipes.label_rows(recipe, tmp_path / "unpacked")


def test_a_table_with_a_short_row_is_one_message(tmp_path: Path) -> None:
    folder = tmp_path / "UrbanSound8K" / "metadata"
    folder.mkdir(parents=True)
    (folder / "UrbanSound8K.csv").write_text("slice_file_name,fold\na.wav,1\nb.wav\n")
    with pytest.raises(DataError, match=r"UrbanSound8K.csv, line 3: 1 columns, and not 2"):
        recipes.label_rows(recipes.load("urbansound8k"), tmp_path)


def test_the_rules_of_fsdd_give_the_labels_of_the_real_one(fsdd: Path, tmp_path: Path) -> None:
    folder = tmp_path / "free-spoken-digit-dataset-1.0.10" / "recordings"
    folder.mkdir(parents=True)
    with (fsdd / "labels.csv").open() as file:
        expected = {(r["file"], r["label"], r["speaker"], r["split"]) for r in csv.DictReader(file)}
    for name, *_ in expected:
        (folder.parent / name).touch()
    rows = recipes.label_rows(recipes.load("fsdd"), tmp_path)
    got = {(r["file"].split("/", 1)[1], r["label"], r["speaker"], r["split"]) for r in rows}
    assert got == expected


def test_the_list_names_every_recipe_and_its_licence() -> None:
    result = CliRunner().invoke(cli.app, ["data", "fetch"])
    assert result.exit_code == 0
    for name in MINIATURES:
        assert re.search(rf"^{name} .*{re.escape(recipes.load(name).licence)}", result.output, re.M)
