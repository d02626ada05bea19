"""A run in a store, as a local folder: copies of its files in the cache, brought up to date."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
from collections.abc import Callable
from pathlib import Path

from raudio.core import storage
from raudio.core.errors import RunError
from raudio.core.storage import cache_dir, is_remote

#: What a folder of copies keeps of the store's stamps.
_STAMPS = ".stamps.json"


def copies_of(uri: str) -> Path:
    """The folder in the cache for copies of a run in a store."""
    key = hashlib.sha256(uri.rstrip("/").encode()).hexdigest()[:12]
    return cache_dir() / "runs" / f"{posixpath.basename(uri.rstrip('/'))}-{key}"


def local_run(
    run: str | os.PathLike[str], wanted: Callable[[str], bool] = lambda file: True
) -> Path:
    """A run as a local folder, to read: itself, or the copy of a run in a store.

    Args:
        run: path or URI.
        wanted: which of its files (path inside the run, with forward slashes) are to be there.

    Raises:
        RunError: the store cannot be read.
    """
    storage.check_uri(run)
    if not is_remote(run):
        return Path(run)
    folder = copies_of(os.fspath(run)) / "read"
    fetch(os.fspath(run), folder, wanted)
    return folder


def fetch(uri: str, folder: Path, wanted: Callable[[str], bool] = lambda file: True) -> None:
    """Brings the wanted files in `folder` up to date with those below `uri`, each atomically.

    Raises:
        RunError: the store cannot be read.
    """
    try:
        found = {file: stat for file, stat in storage.listing(uri).items() if wanted(file)}
        stamps = folder / _STAMPS
        have: dict[str, str] = json.loads(stamps.read_text()) if stamps.exists() else {}
        for file, stat in found.items():
            if have.get(file) != stat.stamp or not (folder / file).exists():
                storage.download(storage.join(uri, file), folder / file)
                have[file] = stat.stamp
        for file in [file for file in have if wanted(file) and file not in found]:
            (folder / file).unlink(missing_ok=True)
            del have[file]
        folder.mkdir(parents=True, exist_ok=True)
        storage.write_atomic(stamps, json.dumps(have))
    except OSError as error:
        raise RunError(f"run {uri!r} cannot be read: {error}") from error
