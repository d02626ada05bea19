"""Local paths and URIs through fsspec, and writing that is whole or not there at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import fsspec

from raudio.core.errors import RunError


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a URI of another store than this machine's files."""
    text = os.fspath(path)
    return "://" in text and not text.startswith("file://")


def join(base: str | os.PathLike[str], *parts: str) -> str:
    """`base` with `parts` below it, for paths and URIs alike."""
    return "/".join([os.fspath(base).rstrip("/"), *parts])


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The whole content of a file, wherever it is."""
    with fsspec.open(os.fspath(path), "rb") as file:
        content: bytes = file.read()
    return content


def write_atomic(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Writes a file so that a reader sees the old content or the new, never a part.

    On local storage: a temporary file beside it, flushed to the disk, then renamed over it. Object
    stores make an object visible only when its upload is complete.
    """
    data = content.encode() if isinstance(content, str) else content
    if is_remote(path):
        with fsspec.open(os.fspath(path), "wb") as remote:
            remote.write(data)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def local_run(path: str | os.PathLike[str]) -> Path:
    """A run folder as a local path.

    Raises:
        RunError: it is a URI; checkpoints of running trials are kept on a local or shared disk.
    """
    if is_remote(path):
        raise RunError(
            f"run folder {os.fspath(path)!r} is a URI; a run lives on a local or shared disk "
            "(dataset.path may be a URI): give run.dir=FOLDER"
        )
    return Path(path)


def cache_dir() -> Path:
    """Where raudio keeps what it can make again: $RAUDIO_CACHE, else ~/.cache/raudio."""
    return Path(os.environ.get("RAUDIO_CACHE") or Path.home() / ".cache" / "raudio").expanduser()
