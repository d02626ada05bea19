"""Downloading one file over HTTP: resumed where it stopped, retried where that helps, verified.

A download is written to `FILE.part` and takes its name only when it is complete and its checksum is
right, so a file that has its name is finished.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import logging
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from raudio.core.errors import DataError

#: Waits in seconds before each further attempt; an attempt that got further starts them anew.
BACK_OFF = (1.0, 2.0, 4.0, 8.0, 16.0)
#: Seconds without a byte after which a connection counts as lost.
TIMEOUT = 30.0

_CHUNK = 1 << 20
# Answers that another attempt may change, and the one that says there is no such part.
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_UNSATISFIABLE = 416

_log = logging.getLogger(__name__)

Bytes = Callable[[int, int], None]


def download(
    url: str,
    target: Path,
    *,
    accept: Callable[[Path], None],
    size: int = 0,
    progress: Bytes = lambda done, total: None,
) -> None:
    """Downloads `url` to `target`, going on from `target`.part where an earlier call stopped.

    Bytes that are already here are kept only if the server says that its file is still the same
    (If-Range with its ETag or date, RFC 9110); else the download starts anew.

    Args:
        url: http or https.
        target: the file; its folder is made.
        accept: given the complete download before it gets its name; raises to refuse it, and then
            it is removed.
        size: bytes of the file, where known; for servers that don't say.
        progress: told how many bytes of how many are here; of 0 when nobody knows.

    Raises:
        DataError: the server refuses, cannot be reached in several attempts, or the disk is full.
            What has arrived stays for the next call.
    """
    part = target.with_name(target.name + ".part")
    furthest, failures = _size(part), 0
    with _writable(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                _attempt(url, part, size, progress)
                break
            except _LostError as lost:
                if _size(part) > furthest:
                    furthest, failures = _size(part), 0
                if failures == len(BACK_OFF):
                    raise DataError(
                        f"{url} cannot be downloaded: {lost}, {failures + 1} times in a row "
                        f"({_size(part)} bytes are here and kept); check the connection and run "
                        "the same command again, or give a mirror with --mirror"
                    ) from lost
                pause = BACK_OFF[failures]
                _log.warning("downloading %s: %s; trying again in %.0f s", url, lost, pause)
                time.sleep(pause)
                failures += 1
        try:
            accept(part)
        except DataError:
            _discard(part)
            raise
        os.replace(part, target)
        _discard(part)


def digests(path: Path) -> Mapping[str, str]:
    """The SHA-256 and the MD5 of a file, in hexadecimal, by name."""
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in ("sha256", "md5")}
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            for each in hashes.values():
                each.update(chunk)
    return {name: each.hexdigest() for name, each in hashes.items()}


def check_space(folder: Path, needed: int, what: str) -> None:
    """Whether `needed` bytes more fit on the disk of `folder`.

    Raises:
        DataError: they don't.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{what} needs {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free in "
            f"{str(folder)!r}; make room, or use another disk with --cache DIR"
        )


@contextmanager
def disk_full(what: str, folder: Path) -> Iterator[None]:
    """A disk that fills up meanwhile becomes a `DataError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"{what}: the disk of {str(folder)!r} is full; make room and run the same command "
                "again, or use another disk with --cache DIR"
            ) from error
        raise


class _LostError(Exception):
    """An attempt failed in a way that another may not; the text says how."""


def _attempt(url: str, part: Path, size: int, progress: Bytes) -> None:
    """Downloads what is missing.

    Raises:
        _LostError: what has arrived until then is in `part`.
        DataError: another attempt would not help.
        OSError: `part` cannot be written.
    """
    have = _size(part)
    validator = _validator(part)
    headers = {"User-Agent": "raudio", "Accept-Encoding": "identity"}
    if have and validator.exists():
        headers |= {"Range": f"bytes={have}-", "If-Range": validator.read_text()}
    try:
        response = _open(url, headers)
    except urllib.error.HTTPError as error:
        if error.code == _UNSATISFIABLE and error.headers["Content-Range"] == f"bytes */{have}":
            return  # it was complete when the earlier call stopped
        _discard(part)
        raise _LostError(f"the server answers {error.code} {error.reason}") from error
    with response:
        start = 0
        if response.status == http.client.PARTIAL_CONTENT:
            start = have
            if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                _discard(part)
                raise _LostError("the server sent another part than it was asked for")
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else size
        if not start:
            _discard(part)
            _note_validator(response.headers, validator)
        check_space(part.parent, total - start, f"the rest of {part.stem}")
        done = start
        with part.open("ab") as file:
            for chunk in _chunks(response):
                file.write(chunk)
                done += len(chunk)
                progress(done, total)
        if length and done < total:
            raise _LostError(f"the connection broke at byte {done} of {total}")


def _open(url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
    """The answer to a request.

    Raises:
        _LostError: none came, or one that another attempt may change.
        urllib.error.HTTPError: 416, no such part.
        DataError: the server refuses.
    """
    request = urllib.request.Request(url, headers=dict(headers))
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == _UNSATISFIABLE:
            raise
        answer = f"the server answers {error.code} {error.reason}"
        if error.code in _PASSING:
            raise _LostError(answer) from error
        raise DataError(
            f"{url} cannot be downloaded: {answer}; see whether the data set's page names a new "
            "address, and give a mirror, or a folder with the archives, with --mirror"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise _LostError(_reason(error)) from error
    return response


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read1(_CHUNK):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _LostError(_reason(error)) from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", error)) or type(error).__name__


@contextmanager
def _writable(part: Path) -> Iterator[None]:
    try:
        with disk_full(f"downloading {part.stem}", part.parent):
            yield
    except OSError as error:
        raise DataError(
            f"{str(part)!r} cannot be written ({error.strerror}); use another folder with "
            "--cache DIR"
        ) from error


def _note_validator(headers: http.client.HTTPMessage, file: Path) -> None:
    """Keeps what tells a later call whether the file is still the same; a weak ETag can't."""
    tag = headers.get("ETag", "")
    if value := tag if tag.startswith('"') else headers.get("Last-Modified", ""):
        file.write_text(value)


def _validator(part: Path) -> Path:
    return part.with_name(part.name + ".validator")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validator(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
