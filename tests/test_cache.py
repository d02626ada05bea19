"""The content-addressed cache: what is kept, what goes, and what never breaks a caller."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raudio.data.cache import Cache, content_key, derived_cache


class Store:
    """A cache of files of one letter each, that counts how often each was made."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.cache = Cache(folder, limit)
        self.made: list[str] = []
        self.clock = 1_000_000_000

    def get(self, name: str, size: int = 10) -> bytes | None:
        def write(path: Path) -> None:
            self.made.append(name)
            path.write_bytes(name.encode() * size)

        found = self.cache.fetch(content_key(name=name), Path.read_bytes, write)
        if found is not None:  # uses a second apart, whatever the file system's clock can tell
            self.clock += 1
            os.utime(self.cache._path(content_key(name=name)), (self.clock, self.clock))
        return found

    def files(self) -> list[Path]:
        return [path for path in self.cache.folder.rglob("*") if path.is_file()]


def test_a_file_is_made_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache", 100)
    assert [store.get("a"), store.get("a")] == [b"a" * 10] * 2
    other = Store(tmp_path / "cache", 100)  # a later process
    assert other.get("a") == b"a" * 10
    assert (store.made, other.made) == (["a"], [])


def test_the_least_recently_used_goes_when_there_is_no_room(tmp_path: Path) -> None:
    store = Store(tmp_path, 30)
    for name in "abcad":  # b is the oldest when d comes
        store.get(name)
    assert sum(path.stat().st_size for path in store.files()) <= 30
    store.made.clear()
    for name in "acd":
        store.get(name)
    assert store.made == []
    store.get("b")
    assert store.made == ["b"]


@pytest.mark.parametrize("limit", [0, 9])
def test_what_does_not_fit_is_not_kept(tmp_path: Path, limit: int) -> None:
    store = Store(tmp_path, limit)
    assert store.get("a") is None
    assert store.files() == []


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 100)

    def read(path: Path) -> bytes:
        content = path.read_bytes()
        assert content == b"good", content
        return content

    key = content_key(name="x")
    assert cache.fetch(key, read, lambda path: path.write_bytes(b"good") and None) == b"good"
    cache._path(key).write_bytes(b"bad")
    assert cache.fetch(key, read, lambda path: path.write_bytes(b"good") and None) == b"good"


def test_a_full_disk_costs_nothing_but_time(tmp_path: Path) -> None:
    def full(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    cache = Cache(tmp_path / "cache", 100)
    assert cache.fetch(content_key(name="x"), Path.read_bytes, full) is None
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    blocked = tmp_path / "file"
    blocked.touch()
    under_a_file = Cache(blocked / "cache", 100)
    assert under_a_file.fetch(content_key(name="x"), Path.read_bytes, full) is None


def test_a_bug_in_writing_is_not_hidden(tmp_path: Path) -> None:
    def broken(path: Path) -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError, match="bug"):
        Cache(tmp_path, 100).fetch(content_key(name="x"), Path.read_bytes, broken)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.slow
def test_processes_that_make_the_same_file_at_once_all_get_it(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from raudio.data.cache import Cache\n"
        "def write(path): path.write_bytes(b'a' * 10**6); time.sleep(0.2)\n"
        "got = Cache(Path(sys.argv[1]), 10**7).fetch('ab' * 32, Path.read_bytes, write)\n"
        "assert got == b'a' * 10**6"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_the_key_depends_on_names_and_values_alone() -> None:
    assert content_key(a=1, b="x") == content_key(b="x", a=1)
    different = [content_key(a=1), content_key(a=2), content_key(b=1), content_key(a="1")]
    assert len(set(different)) == 4


def test_it_lies_in_the_users_cache(cache: Path) -> None:
    derived = derived_cache(1_500_000_000)
    assert (derived.folder, derived.limit) == (cache / "derived", 1_500_000_000)
