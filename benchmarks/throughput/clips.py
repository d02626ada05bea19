"""The clips that are measured on: short ones (S), long ones to resample (L), and their formats.

The raudio dataset of a set is what the others are made of: its training clips' encoded bytes, as
they were, in each contender's own format.
"""

from __future__ import annotations

import csv
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import soundfile

from raudio.data.manifest import Manifest
from raudio.data.prepare import Options, prepare
from raudio.data.synth import synth

FSDD = Path(__file__).parents[3] / "shared" / "data" / "fsdd"
LONG_RATE, LONG_SECONDS = 44_100, 10.0
_LABELS = ("high", "low", "middle", "wide")
_FORMAT = Options(format="source")


@dataclass(frozen=True)
class Clip:
    """A training clip: its place in the split, label and encoded bytes."""

    number: int
    label: str
    audio: bytes

    @property
    def suffix(self) -> str:
        """Of a file with these bytes."""
        return {b"RIFF": "wav", b"fLaC": "flac"}[self.audio[:4]]


def training_shards(dataset: str) -> list[str]:
    """The Parquet files of the training split."""
    manifest = Manifest.read(dataset)
    return [manifest.shard_path(shard) for shard in manifest.shards_of("train")]


def training_audio(dataset: str) -> Iterator[Clip]:
    """The training clips in the order of the split."""
    number = 0
    for path in training_shards(dataset):
        for batch in pq.ParquetFile(path).iter_batches(64, columns=["audio", "label"]):
            for row in batch.to_pylist():
                yield Clip(number, row["label"], row["audio"])
                number += 1


# --- data sets -----------------------------------------------------------------------------------


def short_clips(out: Path, embedded: int) -> tuple[Manifest, str]:
    """FSDD, where it lies beside the repository, or else embedded data; and how it is called.

    Args:
        out: the dataset's folder.
        embedded: clips of the embedded data to take even where FSDD is; 0: none.
    """
    if not embedded and (FSDD / "labels.csv").is_file():
        return prepare(FSDD, out, labels=FSDD / "labels.csv", options=_FORMAT), "FSDD"
    return synth(out, **({"clips": embedded} if embedded else {})), "the embedded data"


def long_clips(out: Path, source: Path, clips: int, copies: int = 1) -> tuple[Manifest, str]:
    """FLAC files of 10 s in stereo, made here; and how they are called.

    Args:
        out: the dataset's folder.
        source: folder for the files; those that it has already are taken as they are.
        clips: files to make for the training split. A tenth as many are made for the others.
        copies: names that each training file goes by: more clips at no cost in disk.
    """
    source.mkdir(exist_ok=True)
    rows = []
    for number in range(clips + max(2, clips // 10)):
        split = "train" if number < clips else "valid"
        path = source / f"{number:05d}.flac"
        if not path.exists():
            _write_sound(path, number)
        for copy in range(copies if split == "train" else 1):
            name = f"{number:05d}-{copy}.flac" if copy else path.name
            if copy and not (source / name).exists():
                os.link(path, source / name)
            rows.append((name, _LABELS[number % len(_LABELS)], split))
    labels = source / "labels.csv"
    with labels.open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "split"), *rows])
    made = prepare(source, out, labels=labels, options=_FORMAT)
    return made, f"{LONG_SECONDS:g} s FLAC clips, {LONG_RATE} Hz, stereo"


def _write_sound(path: Path, seed: int) -> None:
    """A chord that swells and fades over noise of its own band: about as hard for FLAC as music."""
    random = np.random.default_rng(seed)
    samples = round(LONG_SECONDS * LONG_RATE)
    time = np.arange(samples) / LONG_RATE
    tone = np.zeros(samples)
    for pitch in random.uniform(80, 4000, 6):
        swell = 1 + np.sin(2 * np.pi * (random.uniform(0.1, 2) * time + random.uniform()))
        tone += swell * np.sin(2 * np.pi * pitch * time) / 24
    noise = random.normal(scale=10 ** random.uniform(-3, -1.5), size=(samples, 2))
    stereo = np.clip(tone[:, None] * random.uniform(0.5, 1, 2) + noise, -1, 1)
    soundfile.write(path, stereo, LONG_RATE, format="FLAC", subtype="PCM_16")


# --- formats -------------------------------------------------------------------------------------


def _write_files(dataset: str, folder: Path, clips: int) -> None:
    for clip in training_audio(dataset):
        (folder / f"{clip.number:06d}.{clip.suffix}").write_bytes(clip.audio)


def _write_tars(dataset: str, folder: Path, clips: int) -> None:
    size = _shard_size(clips)
    audio = training_audio(dataset)
    for shard in range(0, clips, size):
        with tarfile.open(folder / f"{shard // size:05d}.tar", "w") as tar:
            for _, clip in zip(range(size), audio, strict=False):
                for suffix, content in (("audio", clip.audio), ("cls", clip.label.encode())):
                    member = tarfile.TarInfo(f"{clip.number:06d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def _write_shar(dataset: str, folder: Path, clips: int) -> None:
    from lhotse import Recording
    from lhotse.audio.backend import LibsndfileBackend, audio_backend
    from lhotse.shar import SharWriter

    suffix = next(training_audio(dataset)).suffix  # lossless, the samples stay the same
    fields = {"recording": suffix}
    with (
        audio_backend(LibsndfileBackend()),
        SharWriter(str(folder), fields=fields, shard_size=_shard_size(clips)) as writer,
    ):
        for clip in training_audio(dataset):
            writer.write(Recording.from_bytes(clip.audio, f"{clip.number:06d}").to_cut())


def _shard_size(clips: int) -> int:
    """Clips a shard: at least eight shards, so that two workers have about as much to do."""
    return max(1, min(250, clips // 8))


#: Writes the training clips of a dataset, so many, into a new folder.
FORMATS: dict[str, Callable[[str, Path, int], None]] = {
    "files": _write_files,
    "tars": _write_tars,
    "shar": _write_shar,
}
