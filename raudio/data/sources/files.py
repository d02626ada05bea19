"""The files of a source, on this machine or in a store: all there are, or those a table names."""

from __future__ import annotations

import difflib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path

from raudio.core import storage
from raudio.core.errors import DataError
from raudio.core.storage import Stat, is_remote
from raudio.data.sources.item import Item

AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3",
    ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64",
)  # fmt: skip

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "valid": "valid", "val": "valid", "validation": "valid", "dev": "valid", "development": "valid",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip

#: Web servers list no folders; their files are asked for one by one, so many at once.
_REQUESTS = 16


def is_audio(name: str) -> bool:
    """Whether a file of this name is taken for audio."""
    return name.lower().endswith(AUDIO_SUFFIXES)


def list_files(folder: str) -> dict[str, Stat]:
    """All files below a folder, sorted: path inside it to size and stamp; hidden ones left out.

    Raises:
        DataError: it cannot be listed.
    """
    try:
        found = storage.listing(folder)
    except OSError as error:
        raise DataError(f"{folder!r} cannot be listed: {error}") from error
    return {name: stat for name, stat in found.items() if not _hidden(name)}


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


class Finder:
    """Finds the files that a table names.

    Args:
        folders: local paths or URIs in which relative paths are looked for, in that order. A clip
            is named by its path inside the first.
    """

    def __init__(self, folders: Sequence[str]) -> None:
        self._folders = list(dict.fromkeys(folders))

    def __call__(self, names: Sequence[str]) -> list[Item | None]:
        """For each name a bare item (no label), or None where no such file is."""
        wanted = {name: self._candidates(name) for name in dict.fromkeys(names)}
        known = _stats(path for paths in wanted.values() for path in paths)
        found: dict[str, Item | None] = {}
        for name, paths in wanted.items():
            path = next((path for path in paths if path in known), None)
            if path is None:
                found[name] = None
            else:
                size, stamp = known[path]
                found[name] = Item(self._clip_id(path), path, size=size, stamp=stamp)
        return [found[name] for name in names]

    def looked(self, name: str) -> str:
        """Where it has looked for a file that is not there, for messages."""
        if is_remote(name):
            return repr(name)
        places = " and ".join(repr(folder) for folder in self._folders)
        first = self._candidates(name)[0]
        return places + ("" if is_remote(first) else closest_path(Path(first)))

    def _candidates(self, name: str) -> list[str]:
        if is_remote(name):
            return [name]
        path = name.removeprefix("file://")
        if os.path.isabs(path) or path.startswith("~"):
            return [os.path.expanduser(path)]
        paths = dict.fromkeys((path, path.replace("\\", "/")))  # a table written on Windows
        return [_join(folder, path) for path in paths for folder in self._folders]

    def _clip_id(self, path: str) -> str:
        """`path` inside the first folder; as it is when it lies outside."""
        base = self._folders[0].rstrip("/")
        if not is_remote(path) and not is_remote(base):
            path, base = os.path.abspath(path), os.path.abspath(base)
        inside = path.removeprefix(f"{base}/")
        return Path(inside).as_posix() if not is_remote(inside) else inside


def _join(folder: str, path: str) -> str:
    if not is_remote(folder):
        return os.path.join(folder, path)
    return storage.join(folder, Path(path).as_posix())


def _stats(paths: Iterable[str]) -> dict[str, Stat]:
    """Size and stamp of the files among `paths` that are there."""
    known: dict[str, Stat] = {}
    single: list[str] = []
    of_folder: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        if path.startswith(("http://", "https://")):
            single.append(path)
        elif is_remote(path):
            of_folder[path.rpartition("/")[0]].append(path)
        elif os.path.isfile(path):
            stat = os.stat(path)
            known[path] = Stat(stat.st_size, str(stat.st_mtime_ns))
    # A store is asked for a folder at once: for a thousand files it would be a thousand questions.
    for folder, members in of_folder.items():
        listed = list_files(folder)
        for path in members:
            if (stat_of := listed.get(path.rpartition("/")[2])) is not None:
                known[path] = stat_of
    with ThreadPoolExecutor(_REQUESTS) as pool:
        for path, found in zip(single, pool.map(_ask, single), strict=True):
            if found is not None:
                known[path] = found
    return known


def _ask(path: str) -> Stat | None:
    try:
        return storage.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be reached: {error}") from error


def split_level(files: Iterable[str]) -> int | None:
    """0 or 1 when the folders of that level are all named like splits, and one of them is train."""
    folders = [file.lower().split("/")[:-1] for file in files]
    for level in (0, 1):
        names = {parts[level] if len(parts) > level else "" for parts in folders}
        if names <= set(SPLIT_NAMES) and "train" in {SPLIT_NAMES[name] for name in names}:
            return level
    return None


def splits_by_name(files: Sequence[str]) -> Mapping[str, str] | None:
    """The split of each file when all their names tell one (cuts_train.jsonl.gz, dev/00.tar), and
    one of them is train; else None. The folder that all are in tells nothing."""
    folders = [file.split("/")[:-1] for file in files]
    shared = takewhile(lambda names: len(set(names)) == 1, zip(*folders, strict=False))
    start = sum(len(names[0]) + 1 for names in shared)
    splits: dict[str, str] = {}
    for file in files:
        words = set(re.split(r"[/._-]", file[start:].lower()))
        told = {SPLIT_NAMES[word] for word in words & set(SPLIT_NAMES)}
        if len(told) != 1:
            return None
        splits[file] = told.pop()
    return splits if "train" in splits.values() else None


def closest_path(path: Path) -> str:
    """` (closest: 'data/fsdd')` when something there resembles `path`, which is not there."""
    if path.exists():
        return ""
    parent = path.absolute()
    while not parent.exists():
        missing, parent = parent, parent.parent
    try:
        names = os.listdir(parent)
    except OSError:
        return ""
    matches = difflib.get_close_matches(missing.name, names, n=1, cutoff=0.5)
    if not matches:
        return ""
    match = parent / matches[0]
    shown = match if path.is_absolute() else Path(os.path.relpath(match))
    return f" (closest: {str(shown)!r})"
