"""Datasets in a bucket: made from one, killed and gone on with, fed from, and read while it fails.

The bucket is moto's, on loopback.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import flaky
import numpy as np
import pytest
import soundfile
from flaky import Fault
from raylets import one_node
from typer.testing import CliRunner

from raudio import checkpoint
from raudio.cli.main import app
from raudio.config.validate import dump_yaml
from raudio.core import storage
from raudio.core.errors import DataError, OutOfReachError, PreemptedError
from raudio.data.clips import load_clips, stored_tables
from raudio.data.executors import Execution
from raudio.data.manifest import Manifest
from raudio.data.pipeline import materialise, resident_clips
from raudio.data.prepare import Options, prepare
from raudio.records import EXPERIMENT_YAML, LAST
from raudio.search import runner
from raudio.search.job import check
from raudio.training.loop import Report
from raudio.training.worker import Data, Keeping, Place, train_here

RATE = 8000


@pytest.fixture(scope="module")
def front() -> Iterator[flaky.Proxy]:
    with flaky.s3() as front:
        yield front


@pytest.fixture(autouse=True)
def store(front: flaky.Proxy, monkeypatch: pytest.MonkeyPatch) -> flaky.Proxy:
    for name, value in flaky.environment(front).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.01)
    front.reset()
    return front


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of two classes, a megabyte in all."""
    folder = tmp_path_factory.mktemp("source")
    for number in range(40):
        path = folder / ("cat", "dog")[number % 2] / f"{number:02d}.wav"
        path.parent.mkdir(exist_ok=True)
        draw = np.random.default_rng(number)
        soundfile.write(path, draw.integers(-9999, 9999, 13000, np.int16), RATE)
    return folder


@pytest.fixture(scope="module")
def local(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The dataset of `folder`, made locally."""
    return prepare(folder, tmp_path_factory.mktemp("local") / "data")


@pytest.fixture(scope="module")
def made(front: flaky.Proxy, folder: Path) -> str:
    """The same in the bucket, made from the bucket."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in flaky.environment(front).items():
            patch.setenv(name, value)
        for path in folder.rglob("*.wav"):
            file = path.relative_to(folder).as_posix()
            storage.write_atomic(f"s3://sounds/source/{file}", path.read_bytes())
        prepare("s3://sounds/source", "s3://sounds/data")
    return "s3://sounds/data"


def content(folder: str) -> dict[str, bytes]:
    return {file: storage.read_bytes(f"{folder}/{file}") for file in storage.listing(folder)}


def comparable(folder: str) -> dict[str, bytes]:
    """A dataset's files, without what the manifest says of its source."""
    files = content(folder)
    manifest = json.loads(files.pop("dataset.json"))
    manifest["source"] = ""
    return {**files, "dataset.json": json.dumps(manifest).encode()}


def test_from_a_bucket_to_a_bucket(made: str, local: Manifest) -> None:
    assert comparable(made) == comparable(local.path)
    assert not [file for file in storage.listing(made) if file.startswith(".")]
    with pytest.raises(DataError, match="'s3://sounds/data' exists"):
        prepare("s3://sounds/source", made)
    with pytest.raises(DataError, match="cannot be written to"):
        prepare("s3://sounds/source", "http://127.0.0.1/x")


def test_to_a_bucket_that_is_not_there(folder: Path) -> None:
    with pytest.raises(DataError, match="'s3://nothing/data'"):
        prepare(folder, "s3://nothing/data")


def test_commands_read_a_bucket(made: str) -> None:
    done = CliRunner().invoke(app, ["data", "inspect", made, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["clips"] == 40
    done = CliRunner().invoke(app, ["plan", f"dataset.path={made}"])
    assert done.exit_code == 0, done.output
    assert "train" in done.stdout


def test_rows_and_clips_from_a_bucket(made: str, local: Manifest, store: flaky.Proxy) -> None:
    remote = Manifest.read(made)
    store.reset()
    assert stored_tables(remote, "train") == stored_tables(local, "train")
    assert [path for _, path in store.requests] == ["/sounds/data/index.parquet"]
    clips = [load_clips(m, "valid", sample_rate=RATE, precision="int16") for m in (remote, local)]
    assert clips[0].rows == clips[1].rows
    for position in range(len(clips[0])):
        np.testing.assert_array_equal(clips[0].wave(position), clips[1].wave(position))


# --- interruptions -------------------------------------------------------------------------------

_KILLED = """
import os, signal, sys
from raudio.data import prepare as module
from raudio.data.executors import Execution
def kill(done, total):
    if done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)
module.prepare(sys.argv[1], sys.argv[2], execution=Execution(workers=1), progress=kill)
"""


@pytest.mark.slow
def test_goes_on_after_a_kill(folder: Path, local: Manifest, store: flaky.Proxy) -> None:
    out = "s3://sounds/killed"
    run = subprocess.run([sys.executable, "-c", _KILLED, folder, out], check=False)
    assert run.returncode == -signal.SIGKILL
    with pytest.raises(DataError, match="not a dataset"):
        Manifest.read(out)
    finished = [file for file in storage.listing(out) if file.startswith("shards/")]
    assert 1 <= len(finished) < len(local.shards)
    # Other options are another work: it would write other bytes to the same places.
    with pytest.raises(DataError, match=r"other options .* remove s3://sounds/killed/\.parts/cl"):
        prepare(folder, out, options=Options(seed=1))
    store.reset()
    prepare(folder, out)
    written = [path for method, path in store.requests if method == "PUT"]
    assert not [file for file in finished if f"/sounds/killed/{file}" in written]
    assert content(out) == content(local.path)


def test_bad_files_are_mended_and_the_work_kept(
    folder: Path, tmp_path: Path, local: Manifest, store: flaky.Proxy
) -> None:
    source, out = tmp_path / folder.name, "s3://sounds/mended"
    for path in folder.rglob("*.wav"):
        target = source / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (source / "dog" / "03.wav").write_bytes(b"x" * (source / "dog" / "03.wav").stat().st_size)
    with pytest.raises(DataError, match=r"03\.wav: can't be decoded.*\n.*kept in s3://sounds/mend"):
        prepare(source, out)
    (source / "dog" / "03.wav").write_bytes((folder / "dog" / "03.wav").read_bytes())
    store.reset()
    prepare(source, out)
    shards = [p for method, p in store.requests if method == "PUT" and "/shards/" in p]
    assert len(shards) == 1
    assert content(out) == content(local.path)


# --- a store that fails --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["503", "reset"])
def test_a_dataset_is_made_while_the_store_fails(
    made: str, local: Manifest, store: flaky.Proxy, kind: str
) -> None:
    """Each kind of request fails twice on its way: for a recording, a shard, a part, at the end."""
    store.reset(
        Fault(kind, times=2, method="GET", path="/cat/04"),
        Fault(kind, times=2, method="PUT", path="/shards/train-00001"),
        Fault(kind, times=2, method="PUT", path="/.parts/train-00000"),
        Fault(kind, times=2, method="GET", path="/.parts/"),
        Fault(kind, times=2, method="PUT", path="/index.parquet"),
        Fault(kind, times=2, method="PUT", path="/dataset.json"),
        Fault(kind, times=1, method="DELETE"),
        Fault(kind, times=1, method="POST"),
    )
    prepare("s3://sounds/source", f"s3://sounds/while-{kind}")
    assert comparable(f"s3://sounds/while-{kind}") == comparable(local.path)


@pytest.mark.slow
def test_a_store_that_does_not_recover(
    made: str, store: flaky.Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.1)
    out = "s3://sounds/never"
    store.reset(Fault("503", times=1000, method="PUT", path="/shards/valid"))
    with pytest.raises(DataError, match=r"cannot write .*valid-00000\.parquet: .*given up after"):
        prepare("s3://sounds/source", out)
    with pytest.raises(DataError, match="not a dataset"):
        Manifest.read(out)
    # A recording out of reach is no bad file: leaving it out would make another dataset.
    store.reset(Fault("503", times=1000, method="GET", path="/cat/04"))
    with pytest.raises(DataError, match=r"/cat/04\.wav: cannot be read: .*given up after"):
        prepare("s3://sounds/source", "s3://sounds/nor-this", options=Options(skip_bad=True))
    store.reset()
    prepare("s3://sounds/source", out)
    assert content(out) == content(made)


@pytest.mark.parametrize("kind", ["503", "cut", "reset"])
def test_a_dataset_is_read_while_the_store_fails(
    made: str, local: Manifest, store: flaky.Proxy, kind: str
) -> None:
    store.reset(
        Fault(kind, times=2, path="dataset.json"),
        Fault(kind, times=2, path="index.parquet"),
        Fault(kind, times=2, path="valid-00000.parquet"),
    )
    remote = Manifest.read(made)
    assert sum(map(len, stored_tables(remote, "train"))) == local.splits["train"].clips
    assert len(load_clips(remote, "valid", sample_rate=RATE, precision="int16")) == 4


def test_shards_that_are_damaged_or_gone(made: str, local: Manifest) -> None:
    copy = "s3://sounds/damaged"
    for file, data in content(made).items():
        storage.write_atomic(f"{copy}/{file}", data)
    remote = Manifest.read(copy)
    shard = remote.shard_path(remote.shards_of("valid")[0])
    whole = storage.read_bytes(shard)
    for damaged in (whole[:1000], whole[:-9] + b"x" + whole[-8:]):
        storage.write_atomic(shard, damaged)
        with pytest.raises(DataError, match=r"^shard s3.*valid-00000\.parquet is not the one"):
            load_clips(remote, "valid", sample_rate=RATE, precision="int16")
    storage.remove(shard)
    with pytest.raises(DataError, match=r"^shard s3.*valid-00000\.parquet is missing"):
        load_clips(remote, "valid", sample_rate=RATE, precision="int16")


@pytest.mark.parametrize("file", ["dataset.json", "index.parquet"])
def test_a_store_that_fails_before_a_search_has_begun(
    made: str, store: flaky.Proxy, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """Its endpoint may be mistyped: nobody waits half an hour for that."""
    store.reset(Fault("503", times=3, path=file))
    assert check([f"dataset.path={made}"], echo=str).manifest.clips == 40
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.2)
    store.reset(Fault("503", times=10**6, path=file))
    done = CliRunner().invoke(app, ["plan", f"dataset.path={made}"])
    assert isinstance(done.exception, OutOfReachError)
    message = str(done.exception)
    assert made in message
    assert re.search(r"reduce your request rate.*given up after \d+ tries in 0\.\d s", message)


# --- with Ray ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray(front: flaky.Proxy) -> Iterator[Any]:
    """A Ray of two CPUs whose workers reach the bucket."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in flaky.environment(front).items():
            patch.setenv(name, value)
        with one_node() as ray:
            yield ray


@pytest.mark.ray
@pytest.mark.slow
def test_ray_makes_it_in_a_bucket(ray: Any, made: str) -> None:
    prepare("s3://sounds/source", "s3://sounds/by-ray", execution=Execution(ray_from=0))
    assert content("s3://sounds/by-ray") == content(made)


@pytest.mark.ray
@pytest.mark.slow
def test_clips_decoded_by_ray_from_a_bucket(ray: Any, made: str, local: Manifest) -> None:
    refs = materialise(Manifest.read(made), ["train"], sample_rate=RATE, precision="int16")
    got = resident_clips(refs["train"])
    expected = load_clips(local, "train", sample_rate=RATE, precision="int16")
    assert got.rows == expected.rows
    for position in range(len(expected)):
        np.testing.assert_array_equal(got.wave(position), expected.wave(position))


@contextmanager
def away(store: flaky.Proxy, path: str, seconds: float) -> Iterator[None]:
    """The store answers no request of `path` for so long."""
    store.reset(Fault("503", times=10**6, path=path))
    back = threading.Timer(seconds, store.reset)
    back.start()
    try:
        yield
    finally:
        back.cancel()
        store.reset()


@pytest.mark.ray
def test_tasks_wait_for_a_store_as_long_as_their_driver(
    ray: Any, made: str, store: flaky.Proxy
) -> None:
    manifest = Manifest.read(made)
    settings: Any = {"splits": ["train"], "sample_rate": RATE, "precision": "int16"}
    message = (
        r"^shard s3://.*train-0000.\.parquet cannot be read: .*given up after \d+ tries in 0\."
    )
    began = time.monotonic()
    with (
        away(store, "/shards/train", 60),
        storage.patient(0.9),
        pytest.raises(OutOfReachError, match=message),
    ):
        materialise(manifest, **settings)
    assert time.monotonic() - began < 30
    with away(store, "/shards/train", 3), storage.patient(60):
        refs = materialise(manifest, **settings)
    assert len(resident_clips(refs["train"])) == manifest.splits["train"].clips


@pytest.mark.ray
@pytest.mark.parametrize(
    ("feed", "kind", "cure"),
    [
        pytest.param("resident", "", "", id="resident"),  # before the first trial
        pytest.param(  # after the steps of its first epoch
            "streamed",
            "store: ",
            "; when the store can be used again, resume the run, perhaps with a longer "
            "run.patience",
            id="streamed",
        ),
    ],
)
def test_a_search_whose_dataset_is_out_of_reach_stops_and_goes_on(
    ray: Any, made: str, store: flaky.Proxy, tmp_path: Path, feed: str, kind: str, cure: str
) -> None:
    settings = (
        f"dataset.path={made}", f"dataset.feed={feed}", "dataset.cache_limit=0", "model=cnn",
        "model.width=4", "model.depth=2", "features.n_mels=16", "training.epochs=2",
        "run.patience=2s", "run.export=false",
    )  # fmt: skip
    run = tmp_path / "run"
    with away(store, "/shards/valid", 60):
        found = runner.train(*settings, f"run.dir={run}", quiet=True)
    assert found.state == "failed"
    assert found.history.reason is not None
    assert re.fullmatch(
        rf"{kind}shard s3://.*valid-00000\.parquet cannot be read: .*given up after \d+ tries in "
        rf"[12]\.\d s\){re.escape(cure)}",
        found.history.reason,
    )
    with away(store, "/shards/train", 3):
        found = runner.resume(run, "run.patience=1m", quiet=True)
    assert found.state == "completed"
    whole = runner.train(*settings, f"run.dir={tmp_path / 'whole'}", quiet=True)
    losses = [
        [report.metrics["valid/loss"] for report in result.history.trials["0000"].reports]
        for result in (found, whole)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2


@pytest.mark.ray
@pytest.mark.parametrize(
    ("waits_for", "step"), [("/shards/train", 0), ("/shards/valid", 4), ("/trial/last.pt", 0)]
)
def test_a_trial_that_waits_for_a_store_heeds_a_notice(
    ray: Any,
    made: str,
    store: flaky.Proxy,
    monkeypatch: pytest.MonkeyPatch,
    waits_for: str,
    step: int,
    tmp_path: Path,
) -> None:
    """It leaves what it has, and another goes on from there."""
    settings = (
        "dataset.feed=streamed", "dataset.cache_limit=0", "model=cnn", "model.width=4",
        "model.depth=2", "features.n_mels=16", "training.epochs=1", "training.batch_size=8",
    )  # fmt: skip
    job = check([f"dataset.path={made}", *settings], single=True, echo=str)
    trial = "s3://sounds/trial" if "trial" in waits_for else str(tmp_path)
    storage.write_atomic(storage.join(trial, EXPERIMENT_YAML), dump_yaml(job.experiment))
    reports: list[Report] = []
    deadline: list[float] = []

    def train() -> None:
        train_here(
            job.experiment,
            Data(job.manifest, refs=None),
            place=Place(),
            keeping=Keeping(trial, patience=600.0),
            goal=job.goal,
            report=reports.append,
        )

    notices = nullcontext(lambda: deadline[0] if deadline else None)
    monkeypatch.setattr("raudio.training.worker.noticing", lambda *_: notices)
    coming = threading.Timer(6, lambda: deadline.append(time.time() + 60))
    coming.start()
    with away(store, waits_for, 45), pytest.raises(PreemptedError):
        train()
    assert deadline
    last = storage.join(trial, LAST)
    assert checkpoint.load(last)["step"] == step if step else not storage.exists(last)
    deadline.clear()
    train()
    assert [report.epoch for report in reports] == [1]


@pytest.mark.ray
def test_a_search_that_waits_for_its_data_says_so_and_ends_in_time(
    ray: Any,
    made: str,
    store: flaky.Proxy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("raudio.search.resident._SAID_AFTER", 1.0)
    settings = ("dataset.cache_limit=0", "run.patience=1h", "search.time_budget=5s")
    with away(store, "/shards/train", 90):
        found = runner.search(f"dataset.path={made}", *settings, f"run.dir={tmp_path / 'run'}")
        assert store.faults, "it was waited for"
    assert (found.state, found.history.reason) == ("completed", "time budget of 5.0 s")
    assert not found.history.trials
    said = capsys.readouterr().err.replace("\n", " ")
    assert re.search(
        rf"waiting since \d\d:\d\d:\d\d for {made} to be decoded; where it cannot be read, it is "
        r"tried again for 1 h 0 min \(run\.patience\)",
        said,
    )
