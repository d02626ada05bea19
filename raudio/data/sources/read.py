"""Which kind of source it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from raudio.core.errors import DataError
from raudio.core.storage import is_remote, join
from raudio.data.sources import audiofolder, lhotse, webdataset
from raudio.data.sources.columns import check_roles, recognise
from raudio.data.sources.files import Finder, closest_path, is_audio, list_files
from raudio.data.sources.folders import from_folders, label_file_hint
from raudio.data.sources.labels import LabelOptions, from_table
from raudio.data.sources.source import Source
from raudio.data.sources.tables import read_table


def read_source(
    source: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | None = None,
    columns: Mapping[str, str] | None = None,
    label_separator: str | None = None,
    skip_missing: bool = False,
) -> Source:
    """The recordings of `source` and their labels.

    Args:
        source: local path or URI (s3://, ...) of one of these:

            - with `labels`: the folder that the label file's relative paths start from;
            - a folder with a folder for each class; a level of folders named train, valid and test
              above or below the classes is taken as predefined splits;
            - a Hugging Face AudioFolder: a folder with metadata.csv, .jsonl or .parquet in it, or
              in its folders train, valid and test;
            - WebDataset: a .tar, a folder of them, or a pattern such as `data/{000..019}.tar`;
            - lhotse: a manifest of cuts (.jsonl.gz), a folder of manifests (cuts, or recordings
              with supervisions), or a Shar folder.
        labels: CSV, TSV, JSONL or Parquet, local or a URI, with a row for each recording, each part
            of one (start, end) or each event in one (onset, offset). Its paths are URIs, or
            relative to `source` or to the label file.
        columns: role (see `columns.ROLES`) to column; "none" takes no column for it. Roles not
            given are recognised by the names in `ROLES`.
        label_separator: what stands between several labels of a clip; makes the data multi-label.
        skip_missing: leave out files that the label file names and that are not there.

    Raises:
        DataError: nothing is there, no audio, an unknown column, a missing file, a row that cannot
            be used, a clip twice, or too few classes.
        ConfigError: the source needs a library that is not installed.
    """
    given = dict(columns or {})
    check_roles(given)
    location = os.fspath(source).removeprefix("file://")
    if not is_remote(location):
        location = str(Path(location).expanduser())
    options = LabelOptions(given, label_separator, skip_missing)
    if labels is not None:
        found = _from_labels(location, os.fspath(labels).removeprefix("file://"), options)
    elif webdataset.is_pattern(location):
        found = webdataset.from_tars(location, webdataset.expand(location), options)
    elif lhotse.is_manifest(location):
        found = lhotse.from_manifests(location, [location], options)
    else:
        found = _from_folder(location, options)
    _check_classes(found)
    # Workers that read the items run in other folders.
    return replace(found, items=tuple(replace(i, path=_absolute(i.path)) for i in found.items))


def _absolute(path: str) -> str:
    return path if is_remote(path) else os.path.abspath(path)


def is_source_file(location: str) -> bool:
    """Whether `location` is a source that is no folder: a tar, a pattern of tars, a manifest."""
    return webdataset.is_pattern(location) or lhotse.is_manifest(location)


def _from_labels(location: str, file: str, options: LabelOptions) -> Source:
    if not is_remote(location):
        _check_folder(location)
    if not is_remote(file):
        file = str(Path(file).expanduser())
    finder = Finder([location, file.rpartition("/")[0] or "."])
    table = read_table(file)
    found = from_table(location, table, finder, options, looked=finder.looked)
    return found.saying(recognise(file, table.columns, options.columns).taken("file"))


def _from_folder(location: str, options: LabelOptions) -> Source:
    if not is_remote(location):
        _check_folder(location)
    files = list_files(location)
    if not files and is_remote(location):
        raise DataError(f"source {location!r} does not exist or is empty; correct the URI")
    if lhotse.is_shar(files):
        return lhotse.from_shar(location, files, options)
    if manifests := lhotse.manifests(files):
        return lhotse.from_manifests(location, [join(location, m) for m in manifests], options)
    if metadata := audiofolder.read_metadata(location, files):
        return audiofolder.from_metadata(location, files, metadata, options)
    tars = [join(location, name) for name in files if webdataset.is_pattern(name)]
    if tars and not any(is_audio(name) for name in files):
        return webdataset.from_tars(location, tars, options)
    return from_folders(location, files, options)


def _check_folder(location: str) -> None:
    folder = Path(location)
    if not folder.is_dir():
        cure = "give the folder that holds it" if folder.exists() else "give a folder of audio"
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"source {location!r} {what}{closest_path(folder)}; {cure}")


def _check_classes(source: Source) -> None:
    """Raises `DataError` when there is nothing to tell apart."""
    classes = {label for item in source.items for label in item.classes}
    one_each = source.items[0].label is not None
    if len(classes) > (1 if one_each else 0):
        return
    said = next((text for text in source.taken if text.startswith("labels from")), "")
    if not one_each:
        raise DataError(
            f"none of the {len(source.items)} clips of {source.location!r} has a label ({said}); "
            "correct the table"
        )
    only = next(iter(classes))
    if "column" in said:
        cure = f"check the label column ({said})"
    else:
        files = list_files(source.location)
        inner = join(source.location, only)
        deeper = {
            name.split("/")[1]
            for name in files
            if name.startswith(f"{only}/") and name.count("/") > 1
        }
        cure = "put each class into a folder of its own, or give a label file with --labels FILE"
        if len(deeper) > 1:
            cure = f"if the classes are the folders in it, give {inner!r}; else " + cure
        cure += label_file_hint(source.location, files)
    raise DataError(
        f"all {len(source.items)} clips of {source.location!r} have the label {only!r}, and a "
        f"classifier needs at least two: {cure}"
    )
