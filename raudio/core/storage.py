"""Local paths and URIs through fsspec, and writing that is whole or not there at all.

What goes wrong at a store for a moment is tried again here, and nowhere else: s3fs and botocore,
which would each retry by themselves, are told not to. Endpoint, region, profile and keys of S3
come from the usual AWS_* variables and files; AWS_NO_SIGN_REQUEST=1 reads a public bucket without.
Google's and Azure's stores (gs://, abfs://) have their credentials as gcsfs and adlfs find them.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import fsspec

from raudio.core.errors import ConfigError
from raudio.core.units import Seconds, format_seconds

T = TypeVar("T")

#: How long an operation on a store is tried again after errors that may pass; see `patient`.
RETRY_SECONDS: Seconds = 60.0
#: The pause after the first try; each further one is twice as long, up to the longest.
FIRST_PAUSE: Seconds = 0.5
LONGEST_PAUSE: Seconds = 15.0
#: A store that sends nothing for so long has dropped the connection.
SILENCE: Seconds = 30.0
#: How often is looked, in a pause, whether there is reason to wait no longer.
_LOOK: Seconds = 1.0

#: Stores whose library is not part of the normal install: the extra that has it.
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure"}

# What is fetched at least of an object that is read in parts.
_BLOCK = 2**20

_patience: ContextVar[Seconds | None] = ContextVar("patience", default=None)
_heed: ContextVar[Callable[[], None]] = ContextVar("heed", default=lambda: None)

_log = logging.getLogger(__name__)

# What a request fails with is tried again here, or raised: gcsfs prints its traceback besides.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)


class StoreError(OSError):
    """A store that went on failing until the time for trying again was over."""


class Stat(NamedTuple):
    """A file in a listing: its bytes, and a text that changes when it does (time or ETag)."""

    size: int
    stamp: str


@contextlib.contextmanager
def patient(seconds: Seconds, heed: Callable[[], None] | None = None) -> Iterator[None]:
    """What this thread does with stores in the block is tried again for so long.

    Args:
        heed: called again and again while something is waited for, by whatever thread waits; what
            it raises ends the waiting. None: as around the block.
    """
    patience = _patience.set(seconds)
    heeded = _heed.set(heed or _heed.get())
    try:
        yield
    finally:
        _heed.reset(heeded)
        _patience.reset(patience)


def patience() -> Seconds:
    """How long what this thread does with a store is tried again."""
    given = _patience.get()
    return RETRY_SECONDS if given is None else given


def heed() -> Callable[[], None]:
    """What this thread is to call while it waits: see `patient`."""
    return _heed.get()


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a URI of another store than this machine's files."""
    text = os.fspath(path)
    return "://" in text and not text.startswith("file://")


def check_uri(path: str | os.PathLike[str], where: str = "") -> None:
    """Refuses what begins as a URI and names no bucket, or a file of this machine.

    Args:
        where: it was given: "run.dir=", say.

    Raises:
        ConfigError: it does.
    """
    text = os.fspath(path)
    scheme = re.match(r"(\w\w+):/", text)  # one letter is a disk
    if scheme and scheme[1] == "file":
        path = text[len(scheme[0]) :].lstrip("/")
        raise ConfigError(f"{where}{text!r} is on this machine: write its path, /{path}")
    if scheme and not re.match(r"\w+://[^/]", text):
        name = text[len(scheme[0]) :].lstrip("/") or "BUCKET/FOLDER"
        raise ConfigError(
            f"{where}{text!r} names no bucket, or has not two slashes; write {scheme[1]}://{name}"
        )


def absolute(path: str | os.PathLike[str]) -> str:
    """`path` as any process on the machine finds it."""
    return os.fspath(path) if is_remote(path) else str(Path(path).expanduser().resolve())


def join(base: str | os.PathLike[str], *parts: str) -> str:
    """`base` with `parts` below it, for paths and URIs alike."""
    return "/".join([os.fspath(base).rstrip("/"), *parts])


def read_bytes(path: str | os.PathLike[str], span: tuple[int, int] | None = None) -> bytes:
    """The content of a file, wherever it is.

    Args:
        path: local path or URI.
        span: offset and size in bytes of the part that is wanted; None is the whole.

    Raises:
        OSError: as `open`; `StoreError` when the store does not recover.
    """
    fs, inner = filesystem(path)
    start, end = (None, None) if span is None else (span[0], sum(span))

    def read() -> bytes:
        content: bytes = fs.cat_file(inner, start=start, end=end)
        return content

    return _retrying("reading", path, read)


def open_bytes(path: str | os.PathLike[str]) -> IO[bytes]:
    """A file opened for reading, of which only what is asked for is fetched from a store.

    Raises:
        OSError: as `open`; reading raises what `read_bytes` does.
    """
    if not is_remote(path):
        return open(os.fspath(path).removeprefix("file://"), "rb")
    return io.BufferedReader(_Ranges(path), _BLOCK)


def write_atomic(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Writes a file so that a reader sees the old content or the new, never a part.

    On local storage: a temporary file beside it, flushed to the disk, then renamed over it. Object
    stores make an object visible only when its upload is complete.

    Raises:
        OSError: as `open`; `StoreError` when a store does not recover.
    """
    data = content.encode() if isinstance(content, str) else content
    if is_remote(path):
        fs, inner = filesystem(path)
        _retrying("writing", path, lambda: fs.pipe_file(inner, data))
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


def write_new(path: str | os.PathLike[str], content: bytes | str) -> bool:
    """Writes an object of a store unless there is one; returns whether it was written.

    Of several processes that try at once, one succeeds (S3: a conditional write).

    Raises:
        OSError: as `open`; `StoreError` when the store does not recover.
    """
    data = content.encode() if isinstance(content, str) else content
    fs, inner = filesystem(path)
    try:
        _retrying("writing", path, lambda: fs.pipe_file(inner, data, mode="create"))
    except FileExistsError:
        return False
    return True


def upload(path: Path, uri: str) -> None:
    """Copies a local file of any size into a store, where it appears when it is whole.

    Raises:
        OSError: as `write_atomic`.
    """
    fs, inner = filesystem(uri)
    _retrying("writing", uri, lambda: fs.put_file(str(path), inner))


def download(uri: str, path: Path) -> None:
    """Copies a file of any size out of a store; `path` is what it was, or whole.

    Raises:
        OSError: as `read_bytes`.
    """
    fs, inner = filesystem(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    try:
        _retrying("reading", uri, lambda: fs.get_file(inner, temporary))
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def listing(folder: str | os.PathLike[str]) -> dict[str, Stat]:
    """All files below a folder: path inside it, with forward slashes, to what is known of it.

    Sorted by path; empty when the folder is not there. Local links are followed; one that leads
    nowhere is listed as a file, which then cannot be read.

    Raises:
        OSError: the folder cannot be read; `StoreError` when a store does not recover.
    """
    if not is_remote(folder):
        return dict(sorted(_local_files(Path(folder))))
    fs, inner = filesystem(folder)
    base = inner.rstrip("/")
    found = _retrying("listing", folder, lambda: fs.find(base, detail=True))
    return {
        path[len(base) + 1 :]: Stat(int(facts["size"] or 0), _stamp(facts))
        for path, facts in sorted(found.items())
        if path.startswith(f"{base}/")
    }


def stat(path: str | os.PathLike[str]) -> Stat:
    """What a listing would say of one file.

    Raises:
        OSError: it is not there (FileNotFoundError), or that cannot be found out.
    """
    fs, inner = filesystem(path)
    facts = _retrying("looking for", path, lambda: fs.info(inner))
    return Stat(int(facts["size"] or 0), _stamp(facts))


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is a file, a folder or anything below it at `path`.

    Raises:
        OSError: that cannot be found out.
    """
    fs, inner = filesystem(path)
    return bool(_retrying("looking for", path, lambda: fs.exists(inner)))


def remove(path: str | os.PathLike[str]) -> None:
    """Removes a file or a folder with all that is in it; nothing there is fine too.

    Raises:
        OSError: it cannot be removed.
    """
    if not is_remote(path):
        target = Path(path)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        return
    fs, inner = filesystem(path)

    def delete() -> None:
        if fs.exists(inner):
            fs.rm(inner, recursive=True)

    _retrying("removing", path, delete)


def remove_file(path: str | os.PathLike[str]) -> None:
    """Removes a file, in a store with a single request; nothing there is fine too.

    Raises:
        OSError: it cannot be removed.
    """
    if not is_remote(path):
        Path(path).unlink(missing_ok=True)
        return
    fs, inner = filesystem(path)
    with contextlib.suppress(FileNotFoundError):
        _retrying("removing", path, lambda: fs.rm_file(inner))


def copy(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copies a file to another place in the same store, or on this machine's disks; `target` is
    what it was, or whole.

    Raises:
        OSError: there is no such file (FileNotFoundError), or it cannot be copied.
    """
    if not is_remote(source):
        write_atomic(target, Path(source).read_bytes())
        return
    fs, inner = filesystem(source)
    _retrying("copying", source, lambda: fs.cp_file(inner, filesystem(target)[1]))


def filesystem(path: str | os.PathLike[str]) -> tuple[Any, str]:
    """The fsspec file system of a path or URI, without retries of its own, and the path in it.

    Raises:
        OSError: there is no such kind of store, or its library is not installed.
    """
    text = os.fspath(path)
    on_s3 = text.startswith(("s3://", "s3a://"))
    options: dict[str, Any] = {}
    if on_s3:
        options = {
            "anon": os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in ("1", "true", "yes"),
            "use_listings_cache": False,  # other processes write there too
            "max_concurrency": 1,  # one request an object, without asking for its size first
            "config_kwargs": {
                "retries": {"total_max_attempts": 1},
                "connect_timeout": SILENCE,
                "read_timeout": SILENCE,
                "max_pool_connections": 64,
            },
        }
    protocol = text.partition("://")[0]
    if protocol in _EXTRAS:
        options = {"use_listings_cache": False}
    try:
        fs, inner = fsspec.core.url_to_fs(text, **options)
    except ImportError as error:
        if protocol not in _EXTRAS:
            raise OSError(str(error)) from error
        extra = f"raudio[{_EXTRAS[protocol]}]"
        raise OSError(
            f"{protocol}:// needs a library that is not installed: pip install '{extra}'"
        ) from error
    except ValueError as error:
        raise OSError(str(error)) from error
    if on_s3:
        fs.retries = 1
    return fs, inner


def cache_dir() -> Path:
    """Where raudio keeps what it can make again: $RAUDIO_CACHE, else ~/.cache/raudio."""
    return Path(os.environ.get("RAUDIO_CACHE") or Path.home() / ".cache" / "raudio").expanduser()


def cache_free() -> int:
    """Bytes free where the cache is, or will be.

    Raises:
        PermissionError: it cannot be written there.
    """
    cache = cache_dir()
    there = next(path for path in (cache, *cache.parents) if path.exists())
    if not os.access(there, os.W_OK):
        raise PermissionError(f"the cache {cache} can't be written; set RAUDIO_CACHE=FOLDER")
    return shutil.disk_usage(there).free


class _Ranges(io.RawIOBase):
    """An object as a file that can seek: every read is a request for that range."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        fs, inner = filesystem(path)
        self._path, self._position = path, 0
        self._size = int(_retrying("looking for", path, lambda: fs.size(inner)))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self._size - self._position)
        if size <= 0:
            return 0
        content = read_bytes(self._path, (self._position, size))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def _local_files(folder: Path) -> list[tuple[str, Stat]]:
    found: list[tuple[str, Stat]] = []
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(root))
        folders[:] = [f for f in folders if os.path.realpath(os.path.join(root, f)) not in seen]
        for name in names:
            path = Path(root, name)
            stat = path.stat() if path.exists() else path.lstat()
            inside = path.relative_to(folder).as_posix()
            found.append((inside, Stat(stat.st_size, str(stat.st_mtime_ns))))
    return found


def _stamp(facts: dict[str, Any]) -> str:
    for name in ("ETag", "LastModified", "mtime", "created"):
        if facts.get(name):
            return str(facts[name]).strip('"')
    return ""


# --- what may pass, and what will not ------------------------------------------------------------


def _retrying(doing: str, path: str | os.PathLike[str], call: Callable[[], T]) -> T:
    """What `call` returns: called again, after ever longer pauses, while its error may pass."""
    started, patient_for = time.monotonic(), patience()
    for attempt in itertools.count():
        try:
            return call()
        except Exception as error:
            if not _may_pass(error):
                raise _readable(error) from error
            # Jitter keeps many tasks from coming back at the same moment; no result depends on it.
            pause = random.uniform(0.5, 1) * min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt)
            waited = time.monotonic() - started
            reason = str(error) or type(error).__name__
            if waited + pause > patient_for:
                raise StoreError(
                    f"{reason} (given up after {attempt + 1} tries in {format_seconds(waited)})"
                ) from error
            _log.warning("%s %s: %s; trying again in %.1f s", doing, os.fspath(path), reason, pause)
            _rest(pause)
    raise AssertionError("unreachable")


def _rest(pause: Seconds) -> None:
    until = time.monotonic() + pause
    while (left := until - time.monotonic()) > 0:
        heed()()
        time.sleep(min(left, _LOOK))


def _may_pass(error: Exception) -> bool:
    """Whether trying again can help: the store is overloaded, or the connection was lost."""
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    status = _http_status(error)
    if status is not None:
        return status in (408, 429) or (status >= 500 and status != 501)
    return any(
        name
        in {
            "azure.core.exceptions.ServiceRequestError",
            "azure.core.exceptions.ServiceResponseError",
            "google.auth.exceptions.TransportError",
            "requests.exceptions.ConnectionError",
            "aiohttp.client_exceptions.ClientConnectionError",
            "aiohttp.client_exceptions.ClientPayloadError",
            "botocore.exceptions.ConnectionError",
            "botocore.exceptions.HTTPClientError",
            "botocore.exceptions.IncompleteReadError",
            "botocore.parsers.ResponseParserError",
        }
        for name in _type_names(error)
    )


def _http_status(error: BaseException) -> int | None:
    """What the server answered, as gcsfs, botocore, aiohttp and azure have it, or s3fs in an
    error's cause."""
    if str(code := getattr(error, "code", None)).isdecimal():
        return int(str(code))
    for each in (error, error.__cause__):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            status = getattr(each, "status", None) or getattr(each, "status_code", None)
        if isinstance(status, int):
            return status
    return None


def _readable(error: Exception) -> Exception:
    """Errors of the stores' libraries as `OSError`; others as they are."""
    names = _type_names(error)
    if "botocore.exceptions.NoCredentialsError" in names:
        return PermissionError(
            "no credentials for S3: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY; for a public bucket AWS_NO_SIGN_REQUEST=1"
        )
    of_libraries = ("botocore.", "aiohttp.", "azure.", "gcsfs.", "google.")
    if not isinstance(error, OSError) and any(name.startswith(of_libraries) for name in names):
        return OSError(str(error) or type(error).__name__)
    return error


def _type_names(error: BaseException) -> list[str]:
    """The error's class and those it derives from: named, so that no library is imported here."""
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]
