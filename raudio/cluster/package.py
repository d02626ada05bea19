"""What a submitted job takes along: the files of its working directory, as one archive, and raudio.

Left out is what `.gitignore` and `.rayignore` name, as Ray reads them, and what no job needs: the
repository's own folder, virtual environments, caches, runs, and large amounts of audio.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raudio.cluster.secret_files import looks_secret
from raudio.core.errors import ConfigError
from raudio.data.manifest import MANIFEST
from raudio.data.sources.files import AUDIO_SUFFIXES
from raudio.records import RECORDS

#: Most bytes of a package: those of a message to Ray's head.
LIMIT = 512 << 20
#: Most bytes of recordings and datasets that are sent unasked.
_LITTLE_AUDIO = 20_000_000
#: In the package: what the job is told, which nobody else may read.
JOB = "raudio-job.json"
#: In the package: files from elsewhere.
_ELSEWHERE = "raudio-files"

_REPOSITORIES = {".git", ".hg", ".svn"}
_CACHES = {"__pycache__", "node_modules", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".tox"}
_CACHES |= {".ipynb_checkpoints", ".cache", ".eggs"}
_TRACKED = {"wandb", "mlruns", "lightning_logs"}

_log = logging.getLogger(__name__)


@dataclass
class Package:
    """Files to be sent.

    Attributes:
        files: name in the package, with forward slashes -> the file.
        left_out: what was not taken -> why.
    """

    files: dict[str, Path] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Of all files, as they are."""
        return sum(file.stat().st_size for file in self.files.values())

    def add(self, file: Path, folder: Path) -> str:
        """Takes a file that the job needs, from wherever it is; its name in the package.

        Args:
            file: whole path.
            folder: the working directory, whole.
        """
        if file.is_relative_to(folder):
            name = file.relative_to(folder).as_posix()
        else:
            number = 1
            while self.files.get(name := f"{_ELSEWHERE}/{number}/{file.name}", file) != file:
                number += 1
        self.files[name] = file
        return name


def collect(folder: Path, *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Package:
    """What of a working directory is sent.

    Args:
        folder: the working directory.
        include: files and folders in it that are sent although they would be left out.
        exclude: patterns of what is left out, as `.gitignore` has them.

    Raises:
        ConfigError: there is no such folder, or no such file to include.
    """
    from ray._private.runtime_env.packaging import _get_excludes

    folder = folder.resolve()
    if not folder.is_dir():
        raise ConfigError(f"--working-dir {folder}: no such folder")
    unwanted = _get_excludes(folder, list(exclude))
    found, audio = Package(), Package()
    for path, why in _walk(folder, [unwanted], found.left_out):
        (audio if why else found).files[path.relative_to(folder).as_posix()] = path
    for name in include:
        path = (folder / name).resolve()
        if not path.exists() or not path.is_relative_to(folder):
            raise ConfigError(f"--include {name}: there is no such file or folder in {folder}")
        inside = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
        for each in inside:
            if not unwanted(each):
                found.files[each.relative_to(folder).as_posix()] = each
    if audio.bytes <= _LITTLE_AUDIO:
        found.files |= audio.files
    else:
        places = Counter(name.split("/")[0] for name in audio.files if name not in found.files)
        for place, count in places.items():
            found.left_out[place] = f"{count} files of recordings or datasets"
    return found


def _walk(
    folder: Path, excluded: list[Any], left_out: dict[str, str]
) -> Iterator[tuple[Path, str]]:
    """(file, "audio" or "") of what is below a folder."""
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    seen: set[str] = set()

    def walk(inside: Path, excluded: list[Any], kind: str) -> Iterator[tuple[Path, str]]:
        seen.add(os.path.realpath(inside))
        ignored = get_excludes_from_ignore_files(inside, include_gitignore=True, logger=_log)
        excluded = [*excluded, *ignored]
        try:
            inner = sorted(inside.iterdir())
        except OSError as error:
            left_out[inside.relative_to(folder).as_posix()] = f"cannot be read: {error.strerror}"
            return
        for path in inner:
            name = path.relative_to(folder).as_posix()
            if any(matches(path) for matches in excluded):
                continue
            if path.is_file():
                yield path, kind or ("audio" if path.suffix.lower() in AUDIO_SUFFIXES else "")
            elif path.is_dir() and os.path.realpath(path) not in seen:
                if (why := _useless(path)) is not None:
                    left_out[name] = why
                else:
                    yield from walk(path, excluded, kind or _dataset(path))

    yield from walk(folder, excluded, "")


def _dataset(folder: Path) -> str:
    return "audio" if (folder / MANIFEST).is_file() else ""


def _useless(folder: Path) -> str | None:
    """Why no job needs a folder; None: it may."""
    for names, why in ((_REPOSITORIES, "a repository"), (_CACHES, "a cache"), (_TRACKED, "runs")):
        if folder.name in names:
            return why
    if (folder / "pyvenv.cfg").is_file():
        return "a virtual environment"
    if (folder / "CACHEDIR.TAG").is_file():
        return "a cache"
    return "a run" if (folder / RECORDS).is_file() else None


def check(package: Package, allowed: Collection[str]) -> None:
    """Refuses what must not be sent, or cannot be.

    Args:
        allowed: files that are sent although they look like secrets, by their names in the package.

    Raises:
        ConfigError: files look like secrets, or are too many bytes: all of them in one message.
    """
    found = {}
    for name, file in sorted(package.files.items()):
        try:
            why = None if name in allowed else looks_secret(name, file)
        except OSError as error:
            raise ConfigError(
                f"{name} cannot be read ({error.strerror}); leave it out with --exclude {name}"
            ) from error
        if why is not None:
            found[name] = why
    if found:
        listed = ", ".join(f"{name} ({why})" for name, why in found.items())
        raise ConfigError(
            f"these look like secrets, and nothing was sent: {listed}; leave them out with "
            "--exclude PATTERN or a .rayignore, or send one all the same with --allow-secret FILE"
        )
    if package.bytes > LIMIT:
        sizes: Counter[str] = Counter()
        for name, file in package.files.items():
            sizes[name.split("/")[0]] += file.stat().st_size
        listed = ", ".join(f"{name} ({size >> 20} MiB)" for name, size in sizes.most_common(3))
        raise ConfigError(
            f"{package.bytes >> 20} MiB would be sent, and Ray takes {LIMIT >> 20} at most; the "
            f"largest: {listed}; leave some out with --exclude PATTERN or a .rayignore, and put "
            "data into a store"
        )


def write(package: Package, archive: Path, job: Mapping[str, Any]) -> None:
    """Writes the archive: the same bytes for the same files.

    Args:
        job: what the job is told, in the file `JOB`.
    """
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for name, file in sorted(package.files.items()):
            if name != JOB:
                _put(out, name, file.read_bytes(), file.stat().st_mode)
        _put(out, JOB, json.dumps(job).encode(), 0o600)


def _put(out: zipfile.ZipFile, name: str, content: bytes, mode: int) -> None:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (mode & 0o777) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    out.writestr(entry, content)


def copy_raudio(folder: Path) -> Path:
    """This raudio as an importable package in a folder, as its wheel has it."""
    source = Path(__file__).parents[1]
    copy = folder / "raudio"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for beside in ("search_spaces", "clusters"):
        if not (copy / beside).exists() and (source.parent / beside).is_dir():
            shutil.copytree(source.parent / beside, copy / beside)
    return copy
