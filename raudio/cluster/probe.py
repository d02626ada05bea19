"""What one node of a cluster has and can reach: an actor that is sent there as it stands here.

It is pickled with its code (`survey` sees to that), so a node without raudio, or with another
version, can say so. Nothing is raised: what goes wrong is part of the answer.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

#: What was asked for, or why there is none.
Answer = tuple[Any, str | None]


class Probe:
    """On one node.

    Args:
        patience: seconds for which a store is tried again.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience

    def facts(self, packages: Sequence[str]) -> dict[str, Any]:
        """Versions, and free bytes in the cache's folder and in shared memory (None: unknown)."""
        return {
            "versions": {
                "python": ".".join(platform.python_version_tuple()[:2]),
                **{name: _version(name) for name in packages},
            },
            "cache_free_bytes": _answer(_cache_free)[0],
            "shared_memory_bytes": _answer(_shared_free)[0],
        }

    def clock(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def read(self, files: Sequence[tuple[str, bytes]]) -> Answer:
        """Whether files can be read, and begin as they should."""

        def read() -> None:
            storage = self._storage()
            for path, beginning in files:
                found = storage.read_bytes(path, (0, len(beginning)))
                if found != beginning:
                    raise ValueError(f"{path} begins with {found!r}, not {beginning!r}")

        return _answer(read)

    def write(self, folder: str, name: str) -> Answer:
        """Writes a file into a folder; whether the folder around that one had to be made."""

        def write() -> bool:
            storage = self._storage()
            parent = Path(folder).parent
            made = not storage.is_remote(folder) and not parent.exists()
            storage.write_atomic(storage.join(folder, name), name)
            return made

        return _answer(write)

    def seen(self, folder: str) -> Answer:
        """Name -> content of the files in a folder."""

        def seen() -> dict[str, str]:
            storage = self._storage()
            return {
                name: storage.read_bytes(storage.join(folder, name)).decode()
                for name in storage.listing(folder)
            }

        return _answer(seen)

    def remove(self, folder: str, made: bool) -> Answer:
        """Removes a folder, and the one around it if it was made for it and holds nothing else."""

        def remove() -> None:
            self._storage().remove(folder)
            parent = Path(folder).parent
            if made and parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()

        return _answer(remove)

    def _storage(self) -> Any:
        from raudio.core import storage

        storage.RETRY_SECONDS = self._patience
        return storage


def gpus_seen() -> Answer:
    """How many GPUs PyTorch sees; to be asked where Ray has given one."""

    def seen() -> int:
        import torch

        return int(torch.cuda.device_count()) if torch.cuda.is_available() else 0

    return _answer(seen)


def _cache_free() -> int:
    from raudio.core.storage import cache_free

    return cache_free()


def _shared_free() -> int | None:
    from raudio.core.machine import shared_memory_free

    return shared_memory_free()


def _answer(ask: Callable[[], Any]) -> Answer:
    try:
        return ask(), None
    except Exception as error:
        return None, f"{type(error).__name__}: {error}".splitlines()[0]


def _version(name: str) -> str:
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return "none"
