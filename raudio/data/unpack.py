"""Unpacking archives that are not trusted: zip and tar, regular files alone.

No entry is written outside the target, no link or device is made, and no more bytes are written
than were declared beforehand.
"""

from __future__ import annotations

import gzip
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from raudio.core.errors import DataError
from raudio.data.download import check_space, disk_full

_CHUNK = 1 << 20
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,  # a compression that Python's zipfile doesn't know
)


def unpack(
    archives: Sequence[Path],
    folder: Path,
    *,
    limit: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Unpacks archives into the new `folder`, which is there whole or not at all.

    Args:
        archives: zip or tar (plain, gzip, bzip2, xz), told apart by content. Where two hold a file
            of one name, the later one's is kept.
        folder: must not exist.
        limit: most bytes that all of them together may unpack to.
        progress: told how many archives of how many are done.

    Raises:
        DataError: an archive is damaged, encrypted, or neither zip nor tar; an entry lies outside
            `folder`, or is a link or a device; they hold more than `limit` bytes; or the disk is
            full.
    """
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        left = limit
        for number, archive in enumerate(archives):
            progress(number, len(archives))
            with _damage(archive), disk_full(f"unpacking {archive.name}", folder.parent):
                left -= _unpack_one(archive, unfinished, left)
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def inside(name: str) -> PurePosixPath | None:
    """An archive's or a list's name as a path below some folder; None if it would leave it.

    Backslashes separate folders, too, as archives made on Windows have them.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name or re.match("[A-Za-z]:", name):
        return None
    return path


def _unpack_one(archive: Path, folder: Path, limit: int) -> int:
    """Bytes unpacked."""
    if tarfile.is_tarfile(archive):
        entries = _tar_entries(archive)
    elif zipfile.is_zipfile(archive):
        entries = _zip_entries(archive, folder, limit)
    else:
        raise DataError(
            f"{str(archive)!r} is neither a zip nor a tar archive; remove it and run the same "
            "command again, to download it anew"
        )
    written = 0
    for name, content in entries:
        path = inside(name)
        if path is None:
            raise DataError(
                f"{str(archive)!r} is refused: its entry {name!r} lies outside the folder it is "
                "unpacked into"
            )
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with content, target.open("wb") as file:
            while chunk := content.read(_CHUNK):
                written += len(chunk)
                if written > limit:
                    raise DataError(
                        f"{str(archive)!r} is refused: at {name!r} it exceeds the bytes that its "
                        "recipe declares as unpacked_bytes"
                    )
                file.write(chunk)
    return written


def _zip_entries(archive: Path, folder: Path, limit: int) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as file:
        entries = [entry for entry in file.infolist() if not entry.is_dir()]
        declared = sum(entry.file_size for entry in entries)
        check_space(folder, min(declared, limit), f"unpacked, {archive.name}")
        for entry in entries:
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise _no_file(archive, entry.filename)
            if entry.flag_bits & 0x1:
                raise DataError(f"{str(archive)!r} is refused: {entry.filename!r} is encrypted")
            yield entry.filename, file.open(entry)


def _tar_entries(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive) as file:
        for entry in file:
            if entry.isdir():
                continue
            content = file.extractfile(entry) if entry.isreg() else None
            if content is None:
                raise _no_file(archive, entry.name)
            yield entry.name, content


def _no_file(archive: Path, name: str) -> DataError:
    return DataError(
        f"{str(archive)!r} is refused: its entry {name!r} is a link or a device, not a file"
    )


@contextmanager
def _damage(archive: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise DataError(
            f"{str(archive)!r} is damaged ({error}); remove it and run the same command again, to "
            "download it anew"
        ) from error
    except OSError as error:
        raise DataError(f"{str(archive)!r} cannot be unpacked: {error}") from error
