"""Sources that are no plain label file: WebDataset, lhotse, AudioFolder, stores. Their own writers
make them where that is installed."""

from __future__ import annotations

import functools
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from raudio.core.errors import DataError
from raudio.data.sources import Item, Source, read_item, read_source

RATE = 8000


def noise(number: int, channels: int = 1) -> NDArray[np.int16]:
    """(T, C) samples of recording `number`: a second."""
    draw = np.random.default_rng(number)
    return draw.integers(-20000, 20000, (RATE, channels), dtype=np.int16)


def encoded(number: int, channels: int = 1, format: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(number, channels), RATE, format=format)
    return buffer.getvalue()


def samples(item: Item) -> NDArray[np.int16]:
    wave, _ = soundfile.read(io.BytesIO(read_item(item)), dtype="int16", always_2d=True)
    return wave


def labels_of(found: Source) -> dict[str, Any]:
    return {item.clip_id: item.label for item in found.items}


# --- WebDataset ----------------------------------------------------------------------------------


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_webdataset_as_its_own_writer_makes_it(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    (tmp_path / "data").mkdir()
    with webdataset.ShardWriter(str(tmp_path / "data" / "%03d.tar"), maxcount=4, verbose=0) as out:
        for n in range(10):
            fields = {"wav": encoded(n), "cls": n % 3, "json": {"speaker": f"s{n}", "n": n}}
            out.write({"__key__": f"k{n}", **fields})
    found = read_source(tmp_path / "data")
    assert labels_of(found) == {f"{n // 4:03d}.tar/k{n}.wav": str(n % 3) for n in range(10)}
    for n, item in enumerate(found.items):
        np.testing.assert_array_equal(samples(item), noise(n))
        assert (item.group, item.metadata) == (f"s{n}", {"speaker": f"s{n}", "n": n})
        assert item.size == len(encoded(n))
    pattern = read_source(f"{tmp_path}/data/{{000..002}}.tar")
    assert labels_of(pattern) == labels_of(found)
    one = read_source(tmp_path / "data" / "001.tar")
    assert [item.clip_id for item in one.items] == [f"001.tar/k{n}.wav" for n in range(4, 8)]


def test_labels_in_text_and_json_members_and_splits_by_name(tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        members: dict[str, bytes] = {}
        for n in range(4):
            members[f"./a/x.{n}.flac"[2:].replace("x.", "x")] = encoded(n, format="FLAC")
            members[f"a/x{n}.txt"] = b"a text\n"
            members[f"a/x{n}.json"] = json.dumps({"label": "uv"[n % 2], "txt": "other"}).encode()
        write_tar(tmp_path / f"my-{split}-00.tar", members)
    found = read_source(tmp_path)
    assert {item.label for item in found.items} == {"u", "v"}
    assert found.items[0].clip_id == "my-dev-00.tar/a/x0.flac"
    assert {item.split for item in found.items} == {"train", "valid", "test"}
    assert found.items[0].split == "valid"
    assert found.items[0].metadata == {"txt": "a text"}
    members = {f"{n}.wav": encoded(n) for n in range(4)}
    members |= {f"{n}.txt": b"uv"[n % 2 : n % 2 + 1] for n in range(4)}
    found = read_source(write_tar(tmp_path / "text.tar", members))
    assert [item.label for item in found.items] == ["u", "v", "u", "v"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gz.tar.gz", "is compressed"),
        ("missing.tar", "1 of 1 tars are not there"),
        ("{0..2}.tar", "3 of 3 tars are not there"),
        ("cut.tar", "cannot be read as a tar"),
        ("twice.tar", "'0.flac' is a recording of the same key"),
        ("unlabelled.tar", r"1.wav: column 'cls' is empty"),
        ("silent.tar", "no audio in the tars"),
        ("list.tar", r"'0.json'.*is not an object"),
    ],
)
def test_tars_that_are_refused(tmp_path: Path, name: str, message: str) -> None:
    good = {"0.wav": encoded(0), "0.cls": b"0", "1.wav": encoded(1), "1.cls": b"1"}
    write_tar(tmp_path / "gz.tar.gz", good)
    content = write_tar(tmp_path / "cut.tar", good).read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: len(content) // 3])
    write_tar(tmp_path / "twice.tar", {"0.flac": b"", **good})
    write_tar(tmp_path / "unlabelled.tar", {k: v for k, v in good.items() if k != "1.cls"})
    write_tar(tmp_path / "silent.tar", {"0.cls": b"0"})
    write_tar(tmp_path / "list.tar", {**good, "0.json": b"[1]"})
    with pytest.raises(DataError, match=message):
        read_source(tmp_path / name)


# --- lhotse --------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[Path, Any, Any]:
    """A folder, and lhotse's recordings and supervisions of the stereo files in it."""
    lhotse = pytest.importorskip("lhotse")
    folder = tmp_path / "corpus"
    folder.mkdir()
    recordings, segments = [], []
    for n in range(6):
        path = folder / f"r{n}.wav"
        path.write_bytes(encoded(n, channels=2))
        recordings.append(lhotse.Recording.from_file(path))
        for part in range(2):
            segments.append(
                lhotse.SupervisionSegment(
                    id=f"s{n}-{part}",
                    recording_id=f"r{n}",
                    start=0.5 * part,
                    duration=0.25,
                    channel=part,
                    speaker=f"p{n % 3}",
                    text="words",
                    custom={"mood": "uv"[part]},
                )
            )
    return (
        folder,
        lhotse.RecordingSet.from_recordings(recordings),
        lhotse.SupervisionSet.from_segments(segments),
    )


def check_parts(found: Source) -> None:
    assert len(found.items) == 12
    for item in found.items:
        n, part = int(item.clip_id[1]), int(item.clip_id[-1])
        first = 4000 * part
        np.testing.assert_array_equal(samples(item)[:, 0], noise(n, 2)[first : first + 2000, part])
        assert (item.label, item.group) == ("uv"[part], f"p{n % 3}")


def test_recordings_with_supervisions(corpus: tuple[Path, Any, Any]) -> None:
    folder, recordings, supervisions = corpus
    recordings.to_file(folder / "my_recordings_all.jsonl.gz")
    supervisions.to_file(folder / "my_supervisions_all.jsonl.gz")
    check_parts(read_source(folder, columns={"label": "mood"}))
    check_parts(
        read_source(folder / "my_recordings_all.jsonl.gz", columns={"label": "mood"}),
    )
    speakers = read_source(folder, columns={"label": "speaker"})
    assert {item.label for item in speakers.items} == {"p0", "p1", "p2"}
    assert {item.group for item in speakers.items} == {f"r{n}" for n in range(6)}
    with pytest.raises(DataError, match=r"as the label.*text, speaker, mood"):
        read_source(folder)


def test_cuts(corpus: tuple[Path, Any, Any]) -> None:
    lhotse = pytest.importorskip("lhotse")
    folder, recordings, supervisions = corpus
    whole = lhotse.CutSet.from_manifests(recordings, supervisions)
    trimmed = whole.trim_to_supervisions(keep_overlapping=False)
    trimmed.to_file(folder / "cuts.jsonl")
    found = read_source(folder, columns={"label": "mood"})
    check_parts(found)
    # lhotse's own reading of the cuts.
    for cut, item in zip(trimmed, found.items, strict=True):
        assert cut.id == item.clip_id
        np.testing.assert_allclose(samples(item)[:, 0] / 32768, cut.load_audio()[0], atol=1e-6)
    (folder / "cuts.jsonl").unlink()
    for split, cuts in zip(("train", "dev"), trimmed.split(2), strict=True):
        cuts.to_file(folder / f"my_cuts_{split}.jsonl.gz")
    assert {i.split for i in read_source(folder, columns={"label": "mood"}).items} == {
        "train", "valid",
    }  # fmt: skip


def test_shar(corpus: tuple[Path, Any, Any], tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    _, recordings, supervisions = corpus
    cuts = lhotse.CutSet.from_manifests(recordings, supervisions)
    shar = tmp_path / "shar"
    shar.mkdir()
    cuts = cuts.trim_to_supervisions(keep_overlapping=False)
    cuts.to_shar(shar, fields={"recording": "flac"}, shard_size=5)
    found = read_source(shar, columns={"label": "mood"})
    check_parts(found)
    for cut, item in zip(lhotse.CutSet.from_shar(in_dir=shar), found.items, strict=True):
        assert cut.id == item.clip_id
        np.testing.assert_allclose(samples(item)[:, 0] / 32768, cut.load_audio()[0], atol=1e-6)
    (shar / "recording.000001.tar").unlink()
    with pytest.raises(DataError, match=r"recording.000001.tar' are not there"):
        read_source(shar, columns={"label": "mood"})


def test_cuts_that_are_refused(corpus: tuple[Path, Any, Any]) -> None:
    lhotse = pytest.importorskip("lhotse")
    folder, recordings, supervisions = corpus
    cuts = lhotse.CutSet.from_manifests(recordings, supervisions)
    mixed = cuts[0].mix(cuts[1])
    lhotse.CutSet.from_cuts([mixed]).to_file(folder / "cuts.jsonl.gz")
    with pytest.raises(DataError, match="MixedCut without a recording of its own"):
        read_source(folder, columns={"label": "mood"})
    lhotse.CutSet.from_cuts([cuts[0].perturb_speed(1.1)]).to_file(folder / "cuts.jsonl.gz")
    with pytest.raises(DataError, match="transforms"):
        read_source(folder, columns={"label": "mood"})
    (folder / "cuts.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"lhotse manifest .* cannot be read"):
        read_source(folder, columns={"label": "mood"})


# --- AudioFolder ---------------------------------------------------------------------------------


def write_audio(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(number))


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize("in_each", [True, False], ids=["in each split", "at the root"])
def test_audiofolder(tmp_path: Path, suffix: str, in_each: bool) -> None:
    source = tmp_path / "hf"
    rows: dict[str, list[dict[str, str]]] = {}
    for n in range(12):
        split = ("train", "train", "validation", "test")[n // 2 % 4]
        write_audio(source / split / "audio" / f"{n}.wav", n)
        base = split if in_each else "."
        name = f"audio/{n}.wav" if in_each else f"{split}/audio/{n}.wav"
        rows.setdefault(base, []).append({"file_name": name, "label": "uv"[n % 2]})
    write_audio(source / "train" / "unlisted.wav", 99)
    for base, table in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in table)
        if suffix == "csv":
            text = "".join(f"{r['file_name']},{r['label']}\n" for r in table)
            text = f"file_name,label\n{text}"
        (source / base / f"metadata.{suffix}").write_text(text)
    found = read_source(source)
    assert len(found.items) == 12
    for item in found.items:
        n = int(Path(item.path).stem)
        split = ("train", "train", "valid", "test")[n // 2 % 4]
        assert (item.label, item.split) == ("uv"[n % 2], split)
        np.testing.assert_array_equal(samples(item), noise(n))
    assert "1 further audio files are left out" in found.taken[0]
    # The splits and files that Hugging Face's own loader finds.
    datasets = pytest.importorskip("datasets")
    theirs = datasets.load_dataset_builder(
        "audiofolder", data_dir=str(source), cache_dir=str(tmp_path / "cache")
    ).config.data_files
    listed = {item.path for item in found.items}
    for name, split in (("train", "train"), ("validation", "valid"), ("test", "test")):
        mine = {item.path for item in found.items if item.split == split}
        assert mine == {str(path) for path in theirs[name]} & listed


# --- stores --------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[Any]:
    store = fsspec.filesystem("memory")
    for n in range(6):
        store.pipe(f"/bucket/{('cat', 'dog')[n % 2]}/{n}.wav", encoded(n))
    yield store
    store.rm("/bucket", recursive=True)


def test_a_folder_in_a_store(memory: Any) -> None:
    found = read_source("memory://bucket")
    assert labels_of(found) == {f"{('cat', 'dog')[n % 2]}/{n}.wav": ("cat", "dog")[n % 2]
                                for n in (0, 2, 4, 1, 3, 5)}  # fmt: skip
    for item in found.items:
        np.testing.assert_array_equal(samples(item), noise(int(item.path[-5])))
    with pytest.raises(DataError, match="memory://nothing' does not exist or is empty"):
        read_source("memory://nothing")


def test_uris_in_a_label_file_that_is_in_a_store(memory: Any, tmp_path: Path) -> None:
    write_audio(tmp_path / "local.wav", 9)
    rows = "".join(f"memory://bucket/{('cat', 'dog')[n % 2]}/{n}.wav,{n % 2}\n" for n in range(4))
    rows += f"{tmp_path}/local.wav,1\ncat/4.wav,0\n"
    memory.pipe("/bucket/labels.csv", f"uri,label\n{rows}".encode())
    found = read_source("memory://bucket", labels="memory://bucket/labels.csv")
    assert [item.label for item in found.items] == ["0", "1", "0", "1", "1", "0"]
    assert [item.clip_id for item in found.items][::5] == ["cat/0.wav", "cat/4.wav"]
    for item, n in zip(found.items, (0, 1, 2, 3, 9, 4), strict=True):
        np.testing.assert_array_equal(samples(item), noise(n))
    memory.pipe("/bucket/labels.csv", b"uri,label\ncat/0.wav,0\ncat/1.wav,1\n")
    with pytest.raises(DataError, match=r"1 of 2 files are not there: 'cat/1.wav'"):
        read_source("memory://bucket", labels="memory://bucket/labels.csv")


def test_a_tar_in_a_store(memory: Any, tmp_path: Path) -> None:
    members = {f"{n}.wav": encoded(n) for n in range(4)}
    members |= {f"{n}.cls": str(n % 2).encode() for n in range(4)}
    memory.pipe("/bucket/tars/0.tar", write_tar(tmp_path / "0.tar", members).read_bytes())
    found = read_source("memory://bucket/tars")
    for n, item in enumerate(found.items):
        assert (item.clip_id, item.label) == (f"0.tar/{n}.wav", str(n % 2))
        np.testing.assert_array_equal(samples(item), noise(n))


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a web server of tmp_path/web."""
    handler = functools.partial(Quiet, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_files_on_the_web(web: str, tmp_path: Path) -> None:
    for n in range(4):
        write_audio(tmp_path / "web" / f"{n}.wav", n)
    rows = "".join(f"{web}/{n}.wav,{n % 2}\n" for n in range(4))
    (tmp_path / "web" / "labels.csv").write_text(f"url,label\n{rows}")
    found = read_source(tmp_path, labels=f"{web}/labels.csv")
    for n, item in enumerate(found.items):
        assert item.path == f"{web}/{n}.wav"
        np.testing.assert_array_equal(samples(item), noise(n))
    (tmp_path / "web" / "2.wav").unlink()
    with pytest.raises(DataError, match=r"1 of 4 files are not there: '.*/2.wav'"):
        read_source(tmp_path, labels=f"{web}/labels.csv")
