"""Public data sets from the web to a dataset: `raudio data fetch`.

What a data set is, its recipe says; see `raudio.data.recipe`. Archives are kept in the cache:

    fetch/NAME/FILE           a finished, verified archive
    fetch/NAME/FILE.part      one that is being downloaded
    fetch/NAME/FILE.sha256    its checksum, in the format of sha256sum
    fetch/NAME/unpacked-KEY/  until the dataset is made
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from raudio.core import storage
from raudio.core.errors import DataError, unknown
from raudio.data.download import digests, download
from raudio.data.executors import Execution
from raudio.data.manifest import Manifest
from raudio.data.prepare import Options, prepare
from raudio.data.recipe import Archive, Recipe, label_rows, load
from raudio.data.unpack import unpack

Progress = Callable[[int, int], None]
Echo = Callable[[str], None]

_LABELS = "labels.jsonl"


@contextmanager
def _unseen(what: str) -> Iterator[Progress]:
    yield lambda done, total: None


def fetch(
    name: str,
    out: str | os.PathLike[str] | None = None,
    *,
    mirror: str | None = None,
    checksums: Sequence[str] = (),
    cache: str | os.PathLike[str] | None = None,
    drop_archives: bool = False,
    options: Options | None = None,
    execution: Execution | None = None,
    echo: Echo = lambda text: None,
    stage: Callable[[str], AbstractContextManager[Progress]] = _unseen,
) -> Manifest:
    """Downloads, verifies, unpacks and prepares a public data set.

    An interrupted call is gone on with by the same call: archives and their parts, what was
    unpacked, and the shards that were prepared are kept until the dataset is there.

    Args:
        name: of a recipe that comes with raudio, or a recipe's path.
        out: the dataset's folder, which must not exist; None is data/NAME.
        mirror: where the archives are instead of at the recipe's addresses, by their file names:
            the beginning of a URL, or a local folder.
        checksums: "FILE=SHA256" (of the only archive, "SHA256"), to be taken instead of the
            recipe's checksum or of the one of an earlier download.
        cache: folder for archives; None is raudio's cache.
        drop_archives: remove the archives once the dataset is made.
        options: how it is prepared; the licence and the source are the recipe's.
        execution: see `prepare`.
        echo: told what is done.
        stage: given the name of a stage, a context that is told how much of how much is done.

    Raises:
        DataError: no such recipe, `out` exists, an archive cannot be had or does not have its
            checksum (it is removed), holds what no data set holds (see `unpack`), or cannot be
            prepared. No dataset is left behind.
    """
    recipe = load(name)
    out = Path("data", recipe.name) if out is None else out
    if storage.exists(os.path.expanduser(out)):
        raise DataError(f"out {os.fspath(out)!r} exists; give a new folder, or remove this one")
    folder = Path(cache or storage.cache_dir() / "fetch").expanduser() / recipe.name
    expected = _expected(recipe, checksums)
    echo(f"{recipe.title}: {recipe.page}; licence: {recipe.licence}; cite {recipe.citation}")

    found: list[Path] = []
    sums: list[str] = []
    for archive in recipe.archives:
        path = _archive(archive, folder, mirror, expected.get(archive.file), echo, stage)
        found.append(path)
        sums.append(_pinned(folder, archive.file))

    key = hashlib.sha256("".join(sums).encode()).hexdigest()[:16]
    unpacked = folder / f"unpacked-{key}"
    if not unpacked.is_dir():
        with stage("unpacking") as progress:
            unpack(found, unpacked, limit=recipe.unpacked_bytes, progress=progress)
    rows = label_rows(recipe, unpacked)
    labels = folder / _LABELS
    storage.write_atomic(labels, "".join(json.dumps(row) + "\n" for row in rows))
    have = {column for row in rows for column in row}
    chosen = options or Options()
    with stage("preparing") as progress:
        manifest = prepare(
            unpacked,
            out,
            labels=labels,
            columns={r: r if r in have else "none" for r in ("file", "label", "split", "group")},
            options=replace(
                chosen, licence=recipe.licence, source=f"{recipe.title}, {recipe.page}"
            ),
            execution=execution,
            echo=echo,
            progress=progress,
        )
    shutil.rmtree(unpacked)
    labels.unlink()
    if drop_archives:
        for archive in recipe.archives:
            (folder / archive.file).unlink(missing_ok=True)
    return manifest


def _expected(recipe: Recipe, checksums: Sequence[str]) -> dict[str, str]:
    """The SHA-256 that the caller wants, by archive."""
    files = [archive.file for archive in recipe.archives]
    wanted: dict[str, str] = {}
    for text in checksums:
        file, _, value = text.rpartition("=")
        if not file and len(files) == 1:
            file = files[0]
        if not re.fullmatch("[0-9a-f]{64}", value):
            raise DataError(f"checksum {value!r} is not the 64 hexadecimal digits of a SHA-256")
        if file not in files:
            raise DataError(f"checksum {text!r}: {unknown('archive', file, files)}")
        wanted[file] = value
    return wanted


def _archive(
    archive: Archive,
    folder: Path,
    mirror: str | None,
    expected: str | None,
    echo: Echo,
    stage: Callable[[str], AbstractContextManager[Progress]],
) -> Path:
    """A verified archive: the cache's, a local mirror's, or a new download."""

    def accept(path: Path) -> None:
        _verify(archive, path, folder, expected, echo)

    target = folder / archive.file
    if target.exists():
        try:
            accept(target)
        except DataError as error:
            target.unlink()
            echo(f"{error}; removed from the cache, and fetched again")
        else:
            echo(f"{archive.file}: in the cache")
            return target
    if mirror is not None and "://" not in mirror:
        local = Path(mirror).expanduser() / archive.file
        if not local.is_file():
            raise DataError(f"mirror {mirror!r} has no file {archive.file!r}; put it there")
        accept(local)
        return local
    url = archive.url if mirror is None else f"{mirror.rstrip('/')}/{quote(archive.file)}"
    echo(f"{archive.file}: downloading {url}")
    with stage(f"downloading {archive.file}") as progress:
        download(url, target, accept=accept, size=archive.bytes, progress=progress)
    return target


def _verify(archive: Archive, path: Path, folder: Path, expected: str | None, echo: Echo) -> None:
    """Checks an archive's checksum, and keeps its SHA-256 for later downloads.

    Raises:
        DataError: it is another one.
    """
    got = digests(path)
    pin = _pin(folder, archive.file)
    if expected:
        kind, wanted, whose = "sha256", expected, "--checksum"
    elif archive.sha256:
        kind, wanted, whose = "sha256", archive.sha256, "the recipe"
    elif archive.md5:
        kind, wanted, whose = "md5", archive.md5, "the recipe"
    elif pin.exists():
        kind, wanted, whose = "sha256", _pinned(folder, archive.file), "the first download"
    else:
        kind, wanted, whose = "sha256", got["sha256"], "this download"
        echo(
            f"{archive.file}: its publisher gives no checksum. That of this first download is "
            f"taken from now on: SHA-256 {wanted}"
        )
    if got[kind] != wanted:
        raise DataError(
            f"{path.name}: {kind.upper()} {got[kind]} is not {wanted}, which {whose} gives: the "
            "file is damaged or another one. Try again; if you know that it was changed on "
            f"purpose, give --checksum {archive.file}={got['sha256']}"
        )
    pin.parent.mkdir(parents=True, exist_ok=True)
    storage.write_atomic(pin, f"{got['sha256']}  {archive.file}\n")


def _pin(folder: Path, file: str) -> Path:
    return folder / f"{file}.sha256"


def _pinned(folder: Path, file: str) -> str:
    return _pin(folder, file).read_text().split()[0]
