"""A Hugging Face AudioFolder on disk: audio beside metadata.csv, .jsonl or .parquet, whose column
`file_name` has paths relative to it.

The layout: https://huggingface.co/docs/datasets/audio_dataset
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from raudio.core.storage import Stat, join
from raudio.data.sources.files import SPLIT_NAMES, Finder, is_audio, split_level
from raudio.data.sources.labels import LabelOptions, from_table
from raudio.data.sources.source import Source
from raudio.data.sources.tables import Row, Table, read_table, table_of

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_FILE = "file_name"


def read_metadata(folder: str, files: Mapping[str, Stat]) -> list[tuple[str, Table]]:
    """The metadata among `files` and the folder (inside `folder`) that each is about; none where
    `folder` is no AudioFolder."""
    found: list[tuple[str, Table]] = []
    for file in files:
        path = PurePosixPath(file)
        if path.name in _METADATA:
            table = read_table(join(folder, file))
            if _FILE in table.columns:
                found.append((path.parent.as_posix(), table))
    return found


def from_metadata(
    folder: str,
    files: Mapping[str, Stat],
    metadata: Sequence[tuple[str, Table]],
    options: LabelOptions,
) -> Source:
    """The recordings that `metadata` names; splits from folders train, valid and test.

    Raises:
        DataError: as `from_table`.
    """
    rows: list[Row] = []
    lines: list[str] = []
    for base, table in metadata:
        for row, line in zip(table.rows, table.lines, strict=True):
            name = PurePosixPath(base, str(row[_FILE] or "")).as_posix() if row[_FILE] else None
            rows.append({**row, _FILE: name})
            lines.append(line if len(metadata) == 1 else f"{table.name}, {line}")
    names = [str(row[_FILE]) for row in rows]
    level = split_level(names)
    has_splits = any("split" in row for row in rows) or "split" in options.columns
    if level is not None and not has_splits:
        for row, name in zip(rows, names, strict=True):
            row["split"] = SPLIT_NAMES[name.split("/")[level].lower()]
    finder = Finder([folder])
    table = table_of(metadata[0][1].name if len(metadata) == 1 else folder, rows, lines)
    found = from_table(folder, table, finder, options.filled(file=_FILE), looked=finder.looked)
    unlisted = sum(is_audio(name) for name in files) - len({item.path for item in found.items})
    more = f"; {unlisted} further audio files are left out" if unlisted else ""
    return found.saying(f"an AudioFolder: the recordings that its metadata list{more}")
