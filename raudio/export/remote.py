"""Bundles elsewhere: on the Hugging Face Hub (hf://org/name), in a store (s3://), on the web.

What is fetched is kept in the cache, in a folder named by the hash of the bundle's checksums, so
that the same bundle is fetched once from wherever it is, and a changed one is another. Of what lies
at a URI only what the checksums list is fetched.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from raudio.core import storage
from raudio.core.errors import ConfigError, RunError
from raudio.core.extras import require
from raudio.core.storage import cache_dir, is_remote
from raudio.export.bundle import CHECKSUMS, TEXT_LIMIT, checked_sums, read_bundle

_HUB = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?/?")


def shown(uri: str) -> str:
    """A URI as it may be printed: without a user's name and password."""
    return re.sub(r"^(\w+://)[^/@]*@", r"\1", uri)


# --- loading -----------------------------------------------------------------------------------


def fetched(uri: str) -> Path:
    """The folder in the cache with the bundle's files, fetched first where it has to be.

    Raises:
        ConfigError: the URI cannot be one of a bundle, or a library is not installed.
        RunError: it is out of reach, or there is no bundle.
    """
    download = _from_hub(uri) if uri.startswith("hf://") else _from_store(uri)
    cache = cache_dir() / "bundles"
    cache.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=cache, prefix="."))
    try:
        _attempt(uri, download, CHECKSUMS, temporary)
        content = (temporary / CHECKSUMS).read_bytes()
        if len(content) > TEXT_LIMIT:
            raise RunError(f"bundle {shown(uri)!r}: {CHECKSUMS} is too large to be one")
        sums = checked_sums(shown(uri), content)
        folder = cache / hashlib.sha256(content).hexdigest()[:32]
        if not _is_whole(folder, sums):
            for name in sums:
                _attempt(uri, download, name, temporary)
            for path in temporary.iterdir():  # the Hub's client leaves notes of its own
                if path.name not in (*sums, CHECKSUMS):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            shutil.rmtree(folder, ignore_errors=True)
            temporary.chmod(0o755)
            with contextlib.suppress(OSError):  # another process was faster
                temporary.rename(folder)
        return folder
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_whole(folder: Path, sums: Mapping[str, str]) -> bool:
    """Whether a folder of the cache holds what the checksums list."""
    try:
        for name, expected in sums.items():
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    return False
    except OSError:
        return False
    return {path.name for path in folder.iterdir()} == {*sums, CHECKSUMS}


def _attempt(uri: str, download: Callable[[str, Path], None], name: str, folder: Path) -> None:
    try:
        download(name, folder)
    except FileNotFoundError as error:
        what = "no bundle there" if name == CHECKSUMS else f"{name} is missing"
        raise RunError(f"bundle {shown(uri)!r}: {what}; give the folder that holds it") from error
    except OSError as error:
        raise RunError(f"bundle {shown(uri)!r} cannot be read: {_reason(error)}") from error


def _from_store(uri: str) -> Callable[[str, Path], None]:
    if re.match(r"https?://(www\.)?huggingface\.co/", uri):
        raise ConfigError(f"{shown(uri)!r} is a page of the Hub; write hf://org/name")

    def download(name: str, folder: Path) -> None:
        storage.download(storage.join(uri, name), folder / name)

    return download


def _from_hub(uri: str) -> Callable[[str, Path], None]:
    repository, revision = _repository(uri)
    hub: Any = require("huggingface_hub", "hub")
    api = hub.HfApi()
    try:
        # One commit for all files, whatever is pushed in the meantime.
        commit = api.model_info(repository, revision=revision).sha
    except (OSError, ValueError) as error:
        raise RunError(f"bundle {uri!r} cannot be read: {_hub_reason(error)}") from error

    def download(name: str, folder: Path) -> None:
        try:
            api.hf_hub_download(repository, name, revision=commit, local_dir=folder)
        except hub.errors.LocalEntryNotFoundError as error:  # not reached, nor downloaded before
            raise OSError(_reason(error)) from error
        except hub.errors.EntryNotFoundError as error:
            raise FileNotFoundError(name) from error

    return download


# --- pushing -----------------------------------------------------------------------------------


def push(bundle: str | os.PathLike[str], uri: str, *, private: bool = False) -> str:
    """Copies a bundle, having opened it, to where others can load it from; there it is whole or not
    at all.

    Args:
        bundle: its folder, or a URI.
        uri: `hf://org/name[@branch]`, where it becomes the newest commit of a repository that is
            made if there is none; or a folder of a store, where nothing may be.
        private: whether a new repository on the Hub is.

    Returns:
        Where it is: on the Hub, with its commit.

    Raises:
        ConfigError: a URI that nothing can be pushed to, or a library is not installed.
        RunError: the bundle is none, or it cannot be written there.
    """
    check_target(uri)
    opened = read_bundle(bundle)
    if uri.startswith("hf://"):
        return _to_hub(opened.folder, sorted([*opened.sums, CHECKSUMS]), uri, private)
    _to_store(opened.folder, [*opened.sums, CHECKSUMS], uri)
    return uri


def check_target(uri: str) -> None:
    """Refuses what no bundle can be pushed to.

    Raises:
        ConfigError, RunError: as `push`.
    """
    if uri.startswith("hf://"):
        _repository(uri)
        require("huggingface_hub", "hub")
    elif not is_remote(uri):
        raise ConfigError(
            f"{uri!r} is no URI; push to hf://org/name or to a store, as s3://bucket/folder, and "
            "copy a bundle to another folder as you would any folder"
        )
    elif uri.startswith(("http://", "https://")):
        raise ConfigError(
            f"{shown(uri)!r}: nothing can be pushed to the web; give hf://org/name or a store, as "
            "s3://bucket/folder"
        )
    else:
        try:
            there = storage.exists(uri)
        except OSError as error:
            raise RunError(f"cannot write {shown(uri)!r}: {_reason(error)}") from error
        if there:
            raise RunError(f"{shown(uri)!r} exists already; remove it, or give another place")


def _to_store(folder: Path, names: list[str], uri: str) -> None:
    """Copies files to a store, the checksums last: without them nothing there is a bundle."""
    try:
        for name in names:
            storage.upload(folder / name, storage.join(uri, name))
    except BaseException as error:
        with contextlib.suppress(OSError):  # out of reach: what is there lacks its checksums
            storage.remove(uri)
        if isinstance(error, OSError):
            raise RunError(f"cannot write {shown(uri)!r}: {_reason(error)}") from error
        raise


def _to_hub(folder: Path, names: list[str], uri: str, private: bool) -> str:
    repository, revision = _repository(uri)
    hub: Any = require("huggingface_hub", "hub")
    api = hub.HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            allow_patterns=names,
            # Members and graphs of an earlier bundle.
            delete_patterns=["weights*.safetensors", "experiment*.json", "model.onnx", "model.pt2"],
            commit_message="A bundle of raudio",
        )
    except (OSError, ValueError) as error:
        raise RunError(f"cannot write {uri!r}: {_hub_reason(error)}") from error
    return f"hf://{repository}@{commit.oid}"


# --- the Hub -----------------------------------------------------------------------------------


def _repository(uri: str) -> tuple[str, str | None]:
    """The repository's id, and the revision; None: the default branch."""
    match = _HUB.fullmatch(uri)
    if match is None:
        raise ConfigError(f"{shown(uri)!r}: a place on the Hub is hf://org/name[@revision]")
    return match[1], match[2]


def _hub_reason(error: Exception) -> str:
    """Why the Hub refused; its errors name addresses and never a token."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return (
            f"the Hub answers {status}: there is none, or you may not; log in with `hf auth "
            "login`, or set HF_TOKEN"
        )
    if status == 404:
        return "the Hub has no such repository or revision"
    return _reason(error)


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
