"""Local paths and a store that fails: what is tried again, for how long, what is left."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flaky
import fsspec
import pytest
from flaky import Fault

from raudio.core import storage
from raudio.core.storage import StoreError

CONTENT = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def front() -> Iterator[flaky.Proxy]:
    with flaky.s3() as front:
        yield front


@pytest.fixture
def store(front: flaky.Proxy, monkeypatch: pytest.MonkeyPatch) -> flaky.Proxy:
    for name, value in flaky.environment(front).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.01)
    front.reset()
    return front


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is logged: taken before what other tests' libraries have made of the logging."""
    lines: list[str] = []
    monkeypatch.setattr(storage._log, "warning", lambda text, *a: lines.append(text % a))
    return lines


@pytest.fixture
def base(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A folder on each kind of storage."""
    if request.param == "local":
        return str(tmp_path / "folder")
    if request.param == "s3":
        request.getfixturevalue("store")
    return {"s3": "s3://sounds", "memory": "memory:/"}[request.param] + f"/{tmp_path.name}"


@pytest.mark.parametrize("base", ["local", "memory", "s3"], indirect=True)
def test_the_same_everywhere(base: str) -> None:
    file = storage.join(base, "a", "b.bin")
    assert not storage.exists(base)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(file)
    storage.write_atomic(file, b"old")
    storage.write_atomic(file, CONTENT)
    storage.write_atomic(storage.join(base, "text"), "täxt")
    assert storage.read_bytes(file) == CONTENT
    assert storage.read_bytes(file, (10, 300)) == CONTENT[10:310]
    assert storage.exists(base)
    assert storage.exists(file)
    assert not storage.exists(base + "x")
    found = storage.listing(base)
    assert [(name, stat.size) for name, stat in found.items()] == [("a/b.bin", 10240), ("text", 5)]
    storage.remove(storage.join(base, "a"))
    storage.remove(storage.join(base, "nothing"))
    assert list(storage.listing(base)) == ["text"]
    storage.remove(base)
    assert storage.listing(base) == {}


@pytest.mark.parametrize("base", ["local", "s3"], indirect=True)
def test_a_stamp_changes_with_the_content(base: str) -> None:
    file = storage.join(base, "x")
    storage.write_atomic(file, b"one")
    first = storage.listing(base)["x"]
    assert storage.listing(base)["x"] == first
    storage.write_atomic(file, b"two")
    assert storage.listing(base)["x"].stamp != first.stamp


@pytest.mark.parametrize("base", ["local", "s3"], indirect=True)
def test_reading_in_parts(base: str) -> None:
    storage.write_atomic(storage.join(base, "x"), CONTENT)
    with storage.open_bytes(storage.join(base, "x")) as file:
        assert file.seek(-6, os.SEEK_END) == len(CONTENT) - 6
        assert file.read() == CONTENT[-6:]
        file.seek(5)
        assert (file.read(7), file.tell()) == (CONTENT[5:12], 12)
        assert file.read() == CONTENT[12:]
        assert file.read() == b""


def test_only_what_is_read_is_fetched(store: flaky.Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_BLOCK", 64)
    storage.write_atomic("s3://sounds/parts", CONTENT)
    store.reset()
    with storage.open_bytes("s3://sounds/parts") as file:
        file.seek(1000)
        file.read(10)
    assert [method for method, _ in store.requests] == ["HEAD", "GET"]


@pytest.mark.parametrize("kind", ["503", "cut", "reset"])
def test_reading_is_tried_again(store: flaky.Proxy, said: list[str], kind: str) -> None:
    storage.write_atomic("s3://sounds/x", CONTENT)
    store.reset(Fault(kind, times=2, method="GET"))
    assert storage.read_bytes("s3://sounds/x") == CONTENT
    assert [method for method, _ in store.requests] == ["GET"] * 3  # and nobody else tries again
    # A connection kept open that turns out to be closed is opened anew by the HTTP client itself.
    assert len(said) == (1 if kind == "reset" else 2)
    assert all("reading s3://sounds/x" in text and "trying again" in text for text in said)


@pytest.mark.parametrize("kind", ["503", "reset"])
def test_writing_is_tried_again(store: flaky.Proxy, kind: str) -> None:
    storage.write_atomic("s3://sounds/x", b"old")
    store.reset(Fault(kind, times=2, method="PUT"))
    storage.write_atomic("s3://sounds/x", CONTENT)
    assert [method for method, _ in store.requests] == ["PUT"] * 3
    assert storage.read_bytes("s3://sounds/x") == CONTENT


def test_listing_is_tried_again(store: flaky.Proxy) -> None:
    storage.write_atomic("s3://sounds/listed/x", CONTENT)
    store.reset(Fault("503", times=1), Fault("cut", times=1))
    assert list(storage.listing("s3://sounds/listed")) == ["x"]


@pytest.mark.slow
def test_a_slow_store_is_waited_for(store: flaky.Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_atomic("s3://sounds/x", CONTENT)
    store.reset(Fault("delay", seconds=0.3))
    assert storage.read_bytes("s3://sounds/x") == CONTENT
    assert len(store.requests) == 1
    monkeypatch.setattr(storage, "SILENCE", 0.25)
    store.reset(Fault("delay", seconds=1.0))
    assert storage.read_bytes("s3://sounds/x") == CONTENT
    assert len(store.requests) == 2


def test_the_time_is_bounded(
    store: flaky.Proxy, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.5)
    store.reset(Fault("503", times=1000))
    with pytest.raises(StoreError, match=r"reduce your request rate.*given up after \d+ tries"):
        storage.read_bytes("s3://sounds/x")
    asked = len(store.requests)
    assert 3 <= asked <= 12  # ever longer pauses
    assert len(said) == asked - 1


def test_a_patient_block_waits_longer_or_less(
    store: flaky.Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.0)
    storage.write_atomic("s3://sounds/x", CONTENT)
    store.reset(Fault("503", times=4))
    with storage.patient(60.0):
        assert storage.read_bytes("s3://sounds/x") == CONTENT
    store.reset(Fault("503", times=1))
    with pytest.raises(StoreError, match=r"given up after 1 tries in 0\.\d s"):
        storage.read_bytes("s3://sounds/x")


def test_who_waits_heeds_what_it_is_to_heed(store: flaky.Proxy) -> None:
    class NoticeError(Exception): ...

    def heed() -> None:
        if len(store.requests) > 2:
            raise NoticeError

    storage.write_atomic("s3://sounds/x", CONTENT)
    store.reset(Fault("503", times=10**6))
    with storage.patient(60.0, heed), storage.patient(60.0), pytest.raises(NoticeError):
        storage.read_bytes("s3://sounds/x")
    assert len(store.requests) == 3
    store.reset(Fault("503", times=4))
    with storage.patient(60.0):
        assert storage.read_bytes("s3://sounds/x") == CONTENT


@pytest.mark.parametrize(("kind", "error"), [("403", PermissionError), ("", FileNotFoundError)])
def test_what_will_not_pass_is_not_tried_again(
    store: flaky.Proxy, kind: str, error: type[OSError]
) -> None:
    store.reset(*[Fault(kind, times=9)] if kind else [])
    with pytest.raises(error):
        storage.read_bytes("s3://sounds/nothing/there")
    assert len(store.requests) == 1


def test_nobody_there(monkeypatch: pytest.MonkeyPatch, store: flaky.Proxy) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.1)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:9"):
        storage.read_bytes("s3://sounds/x")
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.mark.slow
def test_no_credentials(monkeypatch: pytest.MonkeyPatch, store: flaky.Proxy) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    storage_class = fsspec.get_filesystem_class("s3")
    storage_class.clear_instance_cache()
    with pytest.raises(PermissionError, match="AWS_PROFILE"):
        storage.read_bytes("s3://sounds/x")
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "1")
    assert storage.filesystem("s3://sounds/x")[0].anon
    storage_class.clear_instance_cache()


def test_a_store_that_does_not_exist() -> None:
    with pytest.raises(OSError, match="nowhere"):
        storage.read_bytes("nowhere://x")


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_atomic(tmp_path / "x", b"old")

    def full(_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        storage.write_atomic(tmp_path / "x", CONTENT)
    assert caught.value.errno == errno.ENOSPC
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_local_errors_are_not_tried_again(said: list[str]) -> None:
    with pytest.raises(NotADirectoryError):
        storage.read_bytes(Path(__file__) / "x")
    assert not said
