"""A cache of derived data: files named by a hash of all that decides their bytes, of limited size.

Every process of a machine shares it, and so do later searches. What is in it can be made again: a
file that is missing, damaged or has no room costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from raudio.core.storage import cache_dir

T = TypeVar("T")


def content_key(**parts: Any) -> str:
    """A hash of named JSON values: equal parts, in any order, give equal keys."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Cache:
    """Files by key, the least recently used removed when they take more than the limit.

    Files are written whole under another name and then renamed; a file that is removed while a
    process has it mapped stays readable to that process.

    Args:
        folder: where the files are; made when the first is written.
        limit: bytes that all files may take together; 0 keeps nothing.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit

    def fetch(self, key: str, read: Callable[[Path], T], write: Callable[[Path], None]) -> T | None:
        """What `read` makes of the file of `key`, which `write` makes first where there is none.

        Args:
            key: of `content_key`.
            read: from a path to the content; whatever it raises says that the file is damaged.
            write: writes the content to a path.

        Returns:
            What `read` gave; None when there is no room for the file.
        """
        path = self._path(key)
        for _ in range(2):
            try:
                content = read(path)
                os.utime(path)  # used now
                return content
            except Exception:  # not there, or damaged
                with contextlib.suppress(OSError):
                    path.unlink()
            if not self._write(path, write):
                return None
        raise AssertionError(f"{path} can't be read back")

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def _write(self, path: Path, write: Callable[[Path], None]) -> bool:
        """Whether the file is there now."""
        if self.limit <= 0:
            return False
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".")
            os.close(descriptor)
            temporary = Path(name)
            write(temporary)
            if temporary.stat().st_size > self.limit:
                return False
            self._make_room(temporary.stat().st_size)
            os.replace(temporary, path)
        except OSError:  # a full disk, a folder that can't be written to
            return False
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
        return True

    def _make_room(self, size: int) -> None:
        """Removes what was not used for longest until `size` bytes fit."""
        files = []
        for entry in self.folder.glob("??/[!.]*"):
            try:
                stat = entry.stat()
            except FileNotFoundError:  # another process makes room too
                continue
            files.append((stat.st_mtime_ns, stat.st_size, entry))
        excess = sum(size for _, size, _ in files) + size - self.limit
        for _, freed, entry in sorted(files):
            if excess <= 0:
                return
            entry.unlink(missing_ok=True)
            excess -= freed


def derived_cache(limit: int) -> Cache:
    """The cache of decoded clips and features on this machine, of at most `limit` bytes."""
    return Cache(cache_dir() / "derived", limit)
