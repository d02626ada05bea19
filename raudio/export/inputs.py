"""What a person names to be predicted for, to recordings: files, folders, patterns, URIs, datasets.

| named | means |
| --- | --- |
| a file | itself, whatever its name ends in |
| a folder | the audio in it and below it; hidden files are left out |
| a dataset | its clips, of all splits |
| a pattern (`*`, `?`, `[a-z]`, `**`) | the audio and the folders that it matches |
| a URI | one of these in a store; a web address is a folder where it ends in `/`, else a file |
| `-` | standard input: the content of one encoded file |
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fsspec.utils import glob_translate

from raudio.core import storage
from raudio.core.errors import DataError, closest
from raudio.core.storage import is_remote
from raudio.data.manifest import MANIFEST, Manifest
from raudio.data.sources.files import AUDIO_SUFFIXES, is_audio, list_files
from raudio.export.recordings import STDIN, Encoded, Recording, StoredClip, name_of


def find(inputs: Sequence[str], *, recursive: bool = True) -> list[Recording]:
    """The recordings that `inputs` name, in order, each once; those of a folder by name.

    A file that isn't there is left in, to be reported when its turn comes; when there is nothing
    else, something wrong was named. Standard input is not read yet.

    Args:
        inputs: see the table above.
        recursive: also the folders below a folder.

    Raises:
        DataError: nothing of what was named is there, there is no audio, or a folder, a dataset or
            a store cannot be read.
    """
    found: list[Recording] = []
    for name in inputs:
        found += _of(name, recursive)
    found = list({name_of(recording): recording for recording in found}.values())
    if not found:
        raise DataError(
            f"no audio in {', '.join(map(str, inputs))}: no file ends in "
            f"{', '.join(sorted(AUDIO_SUFFIXES))}"
        )
    if not any(map(_may_be_there, found)):
        first = str(name_of(found[0]))
        parent = Path(first).parent
        near = closest(first, map(str, parent.iterdir())) if parent.is_dir() else ""
        raise DataError(f"no such file: {first!r}{near}; give recordings or folders of them")
    return found


def listed(lines: Iterable[str]) -> list[str]:
    """The inputs of a list, one a line; blank lines are skipped."""
    return [line.rstrip("\r\n") for line in lines if line.strip()]


def read_stdin(path: Path) -> Encoded:
    """Copies standard input to `path`, as a recording called `-`.

    Raises:
        DataError: it is a terminal.
    """
    if sys.stdin.isatty():
        raise DataError("- is standard input, and that is the terminal; pipe a recording into it")
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return Encoded(STDIN, path)


def _of(name: str, recursive: bool) -> list[Recording]:
    if name == STDIN:
        return [Encoded(STDIN, STDIN)]
    # In a web address a question mark begins what is asked for, and servers list no folders.
    if name.startswith(("http://", "https://")):
        is_file = is_audio(name.partition("?")[0]) or not name.endswith("/")
        return [name] if is_file else _in_folder(name, recursive)
    path = name.removeprefix("file://")
    if not is_remote(path):
        if os.path.isdir(path):
            return _in_folder(path, recursive)
        if os.path.exists(path):
            return [path]
    if glob.has_magic(path):
        return _matching(path, recursive)
    return (_in_folder(path, recursive) or [path]) if _may_be_folder(path) else [path]


def _may_be_folder(path: str) -> bool:
    return is_remote(path) and not is_audio(path)


def _in_folder(folder: str, recursive: bool) -> list[Recording]:
    files = list_files(folder)
    if MANIFEST in files:
        return list(_clips(folder))
    inside = (file for file in files if is_audio(file) and (recursive or "/" not in file))
    return [_below(folder, file) for file in inside]


def _below(folder: str, file: str) -> str:
    return storage.join(folder, file) if is_remote(folder) else str(Path(folder, file))


def _matching(pattern: str, recursive: bool) -> list[Recording]:
    """The audio that a pattern matches, and that in the local folders that it matches."""
    found: list[Recording] = []
    if is_remote(pattern):
        parts = pattern.split("/")
        first = next(place for place, part in enumerate(parts) if glob.has_magic(part))
        base, wanted = "/".join(parts[:first]), re.compile(glob_translate("/".join(parts[first:])))
        found += [_below(base, file) for file in list_files(base) if wanted.match(file)]
        found = [file for file in found if is_audio(str(file))]
    else:
        for match in sorted(glob.glob(pattern, recursive=True)):
            if not os.path.isdir(match):
                found += [match] if is_audio(match) else []
            elif "**" not in pattern:  # which matches what is below by itself
                found += _in_folder(match, recursive)
    if not found:
        raise DataError(f"no audio matches {pattern!r}")
    return found


def _clips(dataset: str) -> Iterator[Recording]:
    from raudio.data.rows import read_index

    manifest = Manifest.read(dataset)
    names = iter(read_index(manifest, ["clip_id"])["clip_id"].to_pylist())
    for shard in manifest.shards:
        for row in range(shard.clips):
            yield StoredClip(storage.join(dataset, next(names)), manifest.shard_path(shard), row)


def _may_be_there(recording: Recording) -> bool:
    return not isinstance(recording, str) or is_remote(recording) or os.path.exists(recording)
