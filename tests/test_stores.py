"""Stores other than S3: Google's, on an emulator on loopback; what is not installed; passwords."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raudio.cli.main import app
from raudio.config import compose
from raudio.core import storage
from raudio.core.errors import ConfigError
from raudio.records import RECORDS
from raudio.search.mirror import Mirror
from raudio.training.keeper import Keeper

BUCKET = "gs://sounds"


@pytest.fixture(scope="module")
def google() -> Iterator[None]:
    """An empty Google Cloud Storage."""
    import fsspec
    from gcp_storage_emulator.server import create_server

    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="sounds")
    server.start()
    patch = pytest.MonkeyPatch()
    host, port = server._api._httpd.server_address
    patch.setenv("STORAGE_EMULATOR_HOST", f"http://{host}:{port}")
    patch.setenv("NO_GCE_CHECK", "true")
    fsspec.get_filesystem_class("gs").clear_instance_cache()
    try:
        yield
    finally:
        patch.undo()
        server.stop()


@pytest.mark.usefixtures("google")
def test_google_s_store_does_what_the_others_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"{BUCKET}/a/b.bin"
    assert not storage.exists(uri)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(uri)
    assert not [record for record in caplog.records if record.name.startswith("gcsfs")]
    storage.write_atomic(uri, b"0123456789")
    assert storage.read_bytes(uri) == b"0123456789"
    assert storage.read_bytes(uri, (2, 3)) == b"234"
    before = storage.stat(uri)
    storage.write_atomic(uri, b"another")
    assert storage.stat(uri).size == 7
    assert storage.stat(uri).stamp != before.stamp
    (tmp_path / "large").write_bytes(bytes(range(256)) * 2**12)
    storage.upload(tmp_path / "large", f"{BUCKET}/a/c/large")
    storage.copy(f"{BUCKET}/a/c/large", f"{BUCKET}/a/copy")
    storage.download(f"{BUCKET}/a/copy", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()
    assert set(storage.listing(f"{BUCKET}/a")) == {"b.bin", "c/large", "copy"}
    storage.remove_file(uri)
    storage.remove_file(uri)
    storage.remove(f"{BUCKET}/a")
    assert storage.listing(f"{BUCKET}/a") == {}


@pytest.mark.usefixtures("google")
def test_a_run_in_google_s_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAUDIO_CACHE", str(tmp_path))
    run = f"{BUCKET}/runs/a"
    with Keeper(f"{run}/trials/0000", 10.0) as keeper:
        keeper.save("last.pt", {"epoch": 1})
        assert keeper.wait()
        assert keeper.load() == {"epoch": 1}
    with Mirror(run, new=True, say=lambda text: None) as copy:
        (copy.folder / "trials").mkdir(parents=True)
        (copy.folder / RECORDS).write_text("{}\n")
        assert copy.checkpoints() == {"trials/0000/last.pt"}
        copy.remove("trials/0000/last.pt")
    assert set(storage.listing(run)) == {RECORDS}


@pytest.mark.parametrize(("uri", "extra"), [("gs://a/b", "gcs"), ("abfs://a@b/c", "azure")])
def test_what_is_not_installed_is_named(
    uri: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.registry import _registry

    for module in ("gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, module, None)
    for protocol in ("gs", "abfs"):
        monkeypatch.delitem(_registry, protocol, raising=False)
    with pytest.raises(OSError, match=rf"pip install 'raudio\[{extra}\]'"):
        storage.exists(uri)


class _AzureError(Exception):
    """As azure.core.exceptions.HttpResponseError."""

    def __init__(self, status_code: int) -> None:
        super().__init__(f"status {status_code}")
        self.status_code = status_code


class _GoogleError(Exception):
    """As gcsfs.retry.HttpError."""

    def __init__(self, code: object) -> None:
        super().__init__(f"code {code}")
        self.code = code


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (_AzureError(503), True),
        (_AzureError(429), True),
        (_AzureError(403), False),
        (_GoogleError("503"), True),
        (_GoogleError(500), True),
        (_GoogleError(404), False),
        (_GoogleError(None), False),
    ],
)
def test_which_of_their_errors_may_pass(error: Exception, passes: bool) -> None:
    assert storage._may_pass(error) is passes


@pytest.mark.parametrize("key", ["dataset.path", "run.dir"])
def test_a_password_in_a_uri_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} has a user or a password in it") as caught:
        compose.compose([f"{key}='https://ann:planted@host/data'"])
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "cure"),
    [
        ("s3://", "s3://BUCKET/FOLDER"),
        ("s3:///runs/a", "s3://runs/a"),
        ("s3:/bucket/a", "s3://bucket/a"),
        ("gs:/", "gs://BUCKET/FOLDER"),
    ],
)
def test_a_uri_without_a_bucket_is_no_folder_here(
    uri: str, cure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a run is named, nothing is made, and the cure is told."""
    monkeypatch.chdir(tmp_path)
    named = [["plan", f"run.dir={uri}"], ["search", f"dataset.path={uri}"], ["status", uri]]
    for words in [*named, *([["resume", uri]] if "://" in uri else [])]:
        done = CliRunner().invoke(app, words)
        assert isinstance(done.exception, ConfigError), (words, done.output)
        assert str(done.exception).endswith(
            f"names no bucket, or has not two slashes; write {cure}"
        )
        assert repr(uri) in str(done.exception)
    assert list(tmp_path.iterdir()) == []
    for fine in ("s3://bucket", "/tmp/x", "C:/x", "a:b", "hf://org/name"):
        storage.check_uri(fine)


@pytest.mark.parametrize(
    "words", [["plan", "run.dir={}"], ["plan", "dataset.path={}"], ["status", "{}"]]
)
def test_a_uri_of_this_machine_is_a_path(words: list[str], tmp_path: Path) -> None:
    given = f"file://{tmp_path / 'x'}"
    done = CliRunner().invoke(app, [word.format(given) for word in words])
    assert isinstance(done.exception, ConfigError), done.output
    assert f"{given!r} is on this machine: write its path, {tmp_path / 'x'}" in str(done.exception)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("run.dir=", "run.dir='' is empty; give a folder or"),
        ("cluster.address=", "cluster.address='' is empty; give auto, the HOST:PORT of"),
        ("run.patience=99999999999h", "run.patience='99999999999h' is more than a century"),
    ],
)
def test_what_can_be_no_place_and_no_time(setting: str, said: str) -> None:
    done = CliRunner().invoke(app, ["plan", setting])
    assert isinstance(done.exception, ConfigError), done.output
    assert str(done.exception).startswith(said)
