"""Where clips and their labels come from: a folder per class, or a label file.

Reads names only, no audio: everything that a label file or a folder can have wrong is found here,
before anything is written.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raudio.core.errors import DataError, closest, unknown
from raudio.core.storage import is_remote
from raudio.data.manifest import SPLITS, Skipped
from raudio.data.rows import RESERVED
from raudio.data.sources.item import Item

AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3",
    ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64",
)  # fmt: skip
LABEL_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")

#: What a column of a label file can be for, and the names it is recognised by, the likeliest first.
ROLES: dict[str, tuple[str, ...]] = {
    "file": (
        "file", "path", "filename", "file_name", "filepath", "file_path", "audio", "audio_file",
        "audio_path", "wav", "clip", "fname", "slice_file_name", "recording",
    ),
    "label": ("label", "class", "class_name", "category", "target", "labels"),
    "split": ("split", "subset", "partition", "set", "fold"),
    "group": (
        "group", "speaker", "speaker_id", "client_id", "site", "location", "session", "subject",
        "patient", "recording_id", "src_file", "fsid",
    ),
}  # fmt: skip
NOTHING = "none"

_SPLIT_NAMES = {
    "train": "train", "training": "train",
    "valid": "valid", "val": "valid", "validation": "valid", "dev": "valid", "development": "valid",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Recordings and labels, as found.

    Attributes:
        location: of the source: local path or URI.
        items: in the order of the label file, or by name.
        taken: what was taken for what, a sentence each.
        metadata: the further columns and their types.
        missing: files that the label file names and that are not there (only when skipping).
    """

    location: str
    items: tuple[Item, ...]
    taken: tuple[str, ...]
    metadata: Mapping[str, pa.DataType]
    missing: tuple[Skipped, ...] = ()

    def key(self, *options: object) -> str:
        """A hash of all items, their files' sizes and times, and `options`."""
        digest = hashlib.sha256(repr((self.location, self.missing, options)).encode())
        for item in self.items:
            digest.update(repr(item).encode())
        return digest.hexdigest()

    @property
    def name(self) -> str:
        """The last part of its location."""
        if is_remote(self.location):
            return self.location.rstrip("/").rpartition("/")[2]
        return Path(self.location).resolve().name


def read_source(
    source: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | None = None,
    columns: Mapping[str, str] | None = None,
    skip_missing: bool = False,
) -> Source:
    """The recordings below the folder `source` and their labels.

    Args:
        source: local folder. Without `labels` it holds a folder for each class; a level of folders
            named train, valid and test above or below the classes is taken as predefined splits.
        labels: CSV, TSV, JSONL or Parquet with a row for each recording; its paths are relative to
            `source` or to the label file.
        columns: role (file, label, split, group) to column; "none" takes no column for it. Roles
            not given are recognised by the names in `ROLES`.
        skip_missing: leave out files that the label file names and that are not there.

    Raises:
        DataError: no folder, no audio, an unknown column, a missing file, a row without a label, a
            recording twice, no data, or a single class.
    """
    given = dict(columns or {})
    for role in given:
        if role not in ROLES:
            raise DataError(f"columns: {unknown('role', role, ROLES)}")
    if is_remote(source):
        raise DataError(f"source {os.fspath(source)!r} is a URI; copy it to a local folder first")
    folder = Path(source).expanduser()
    if not folder.is_dir():
        cure = "give the folder that holds it" if folder.exists() else "give a folder of audio"
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"source {str(source)!r} {what}{closest_path(folder)}; {cure}")
    if labels is None:
        found = _from_folders(folder, given)
    else:
        found = _from_labels(folder, Path(labels).expanduser(), given, skip_missing)
    _check_classes(found, labels)
    return found


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


def duplicates(items: Sequence[Item]) -> list[str]:
    """For each item a name that those with the same bytes share."""
    sizes = [item.size for item in items]
    several = {size for size, count in Counter(sizes).items() if count > 1}
    names: list[str] = []
    for item, size in zip(items, sizes, strict=True):
        if size in several:
            with open(item.path, "rb") as file:
                names.append(hashlib.file_digest(file, "sha256").hexdigest())
        else:
            names.append(item.clip_id)
    return names


# --- a folder for each class -------------------------------------------------------------------


def _from_folders(folder: Path, columns: Mapping[str, str]) -> Source:
    if further := sorted(set(columns) - {"split"}) or (
        ["split"] if columns.get("split", NOTHING) != NOTHING else []
    ):
        raise DataError(
            f"--{further[0]}-column={columns[further[0]]!r} names a column, and there is no label "
            "file: give one with --labels FILE"
        )
    files = sorted(_audio_files(folder))
    if not files:
        raise DataError(
            f"no audio in {str(folder)!r}: none of its files ends in "
            f"{', '.join(AUDIO_SUFFIXES)}{_label_file_hint(folder)}"
        )
    if loose := [file for file in files if len(file.parts) == 1]:
        raise DataError(
            f"{len(loose)} audio files lie directly in {str(folder)!r} (such as "
            f"{loose[0].name!r}), so their class is unknown: put each class into a folder of its "
            f"own, or give a label file with --labels FILE{_label_file_hint(folder)}"
        )
    level = _split_level(files)
    items: list[Item] = []
    for file in files:
        parts = list(file.parts[:-1])
        split = None if level is None else _SPLIT_NAMES[parts.pop(level).lower()]
        if not parts:
            raise DataError(
                f"{file.as_posix()!r} in {str(folder)!r} lies in the split {split!r} but in no "
                "class: put each class into a folder of its own"
            )
        items.append(
            Item(
                file.as_posix(), str(folder / file), parts[0], split=split, **_facts(folder / file)
            )
        )
    taken = ["labels from the folders' names"]
    if level is not None and columns.get("split") == NOTHING:
        items = [replace(item, split=None) for item in items]
    elif level is not None:
        taken.append("splits from the folders " + ", ".join(_split_folders(files, level)))
    return Source(str(folder), tuple(items), tuple(taken), {})


def _audio_files(folder: Path) -> Iterator[Path]:
    """Paths of audio files inside `folder`, through links, without hidden ones."""
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(root))
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name != "__MACOSX"
            and os.path.realpath(os.path.join(root, name)) not in seen
        ]
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in AUDIO_SUFFIXES:
                yield Path(root, name).relative_to(folder)


def _split_level(files: Sequence[Path]) -> int | None:
    """0 or 1 when the folders of that level are all named like splits, and one of them is train."""
    for level in (0, 1):
        names = {f.parts[level].lower() if len(f.parts) > level + 1 else "" for f in files}
        if names <= set(_SPLIT_NAMES) and "train" in {_SPLIT_NAMES[name] for name in names}:
            return level
    return None


def _split_folders(files: Sequence[Path], level: int) -> list[str]:
    return sorted({file.parts[level] for file in files})


def _label_file_hint(folder: Path) -> str:
    here = sorted(p for p in folder.iterdir() if p.suffix.lower() in LABEL_SUFFIXES)
    return f"; there is {here[0]} (in a search: dataset.labels={here[0]})" if here else ""


# --- a label file ------------------------------------------------------------------------------


def _from_labels(
    folder: Path, file: Path, columns: Mapping[str, str], skip_missing: bool
) -> Source:
    rows, lines = _read_rows(file)
    names = list(rows[0])
    roles, how = _roles(file, names, columns)
    taken = [f"{role}s from column {column!r}{how[role]}" for role, column in roles.items()]
    split_of, note = _split_values(file, rows, lines, roles, "split" in columns)
    if note:
        taken = [text for text in taken if not text.startswith("splits ")] + [note]
    if not split_of:
        roles.pop("split", None)

    metadata_names = {
        name: f"source_{name}" if name in RESERVED else name
        for name in names
        if name not in (roles["file"], roles["label"], roles.get("split"))
        and not (name == "group" and roles.get("group") == name)
    }
    types, values = _metadata(rows, metadata_names)
    items: list[Item] = []
    missing: list[Skipped] = []
    known: dict[str, str] = {}
    for index, (row, line) in enumerate(zip(rows, lines, strict=True)):
        named = _text(row[roles["file"]])
        label = row[roles["label"]]
        if named is None or _text(label) is None:
            role = "file" if named is None else "label"
            raise DataError(f"{file}, {line}: column {roles[role]!r} is empty; give the {role}")
        if isinstance(label, list | dict):
            raise DataError(
                f"{file}, {line}: {roles['label']}={label!r} is no single label; one label a clip"
            )
        path = _locate(folder, file.parent, named)
        if path is None:
            missing.append(Skipped(named, f"missing ({line} of {file.name})"))
            continue
        clip_id = _clip_id(folder, path)
        if clip_id in known:
            raise DataError(
                f"{file}, {line}: {named!r} is there twice (first in {known[clip_id]}); "
                "one row a recording"
            )
        known[clip_id] = line
        items.append(
            Item(
                clip_id=clip_id,
                path=str(path),
                label=str(_text(label)),
                split=split_of[_text(row[roles["split"]]) or ""] if split_of else None,
                group=_text(row[roles["group"]]) if "group" in roles else None,
                metadata={name: column[index] for name, column in values.items()},
                where=f"{line} of {file.name}",
                **_facts(path),
            )
        )
    if missing and not skip_missing:
        first = folder / missing[0].file
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(
            f"{file}: {missing[0].file!r}{more} of {len(rows)} files: {missing[0].reason}; looked "
            f"in {str(folder)!r} and beside the label file{closest_path(first)}; correct the "
            "path, or leave such rows out with --skip-bad"
        )
    if not items:
        raise DataError(f"{file}: none of its {len(rows)} files is there; correct the paths")
    return Source(str(folder), tuple(items), tuple(taken), types, tuple(missing))


def _read_rows(file: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of a label file, and what messages call each ("line 7")."""
    if not file.is_file():
        raise DataError(f"label file {str(file)!r} does not exist{closest_path(file)}")
    suffix = file.suffix.lower()
    if suffix not in LABEL_SUFFIXES:
        raise DataError(
            f"label file {str(file)!r} ends in {suffix or 'nothing'!r}; "
            f"one of {', '.join(LABEL_SUFFIXES)} can be read"
        )
    rows: list[dict[str, Any]] = []
    lines: list[str] = []
    try:
        if suffix == ".parquet":
            rows = pq.read_table(file).to_pylist()
            lines = [f"row {number}" for number in range(1, len(rows) + 1)]
        elif suffix in (".jsonl", ".ndjson"):
            for number, text in enumerate(file.read_text("utf-8-sig").splitlines(), start=1):
                if text.strip():
                    rows.append(_json_row(text, f"{file}, line {number}"))
                    lines.append(f"line {number}")
            names = list(dict.fromkeys(name for row in rows for name in row))
            rows = [{name: row.get(name) for name in names} for row in rows]
        else:
            rows, lines = _read_csv(file)
    except UnicodeDecodeError as error:
        raise DataError(
            f"label file {str(file)!r} is not UTF-8 text ({error}); convert it"
        ) from None
    except (pa.ArrowException, csv.Error, OSError) as error:
        raise DataError(f"label file {str(file)!r} cannot be read: {error}") from error
    if not rows:
        raise DataError(f"label file {str(file)!r} has no rows; give one a recording")
    return rows, lines


def _json_row(text: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}); one object a line") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: {text[:40]!r} is not an object; one object a line")
    return row


def _read_csv(file: Path) -> tuple[list[dict[str, Any]], list[str]]:
    with file.open(newline="", encoding="utf-8-sig") as stream:
        first = stream.readline()
        stream.seek(0)
        delimiter = max(",\t;|", key=first.count)
        reader = csv.DictReader(stream, delimiter=delimiter)
        names = list(reader.fieldnames or [])
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise DataError(f"{file}: two columns are named {twice[0]!r}; rename one")
        rows: list[dict[str, Any]] = []
        lines: list[str] = []
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{file}, line {reader.line_num}: not as many fields as the {len(names)} "
                    f"columns {', '.join(names)}; quote fields that hold {delimiter!r}"
                )
            rows.append(row)
            lines.append(f"line {reader.line_num}")
    return rows, lines


def _roles(
    file: Path, names: Sequence[str], columns: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Role to column, and how each was known."""
    roles: dict[str, str] = {}
    how: dict[str, str] = {}
    lower = {name.strip().lower(): name for name in reversed(names)}
    for role, known in ROLES.items():
        if role in columns:
            if columns[role] in names:
                roles[role], how[role] = columns[role], ""
            elif columns[role] != NOTHING or role in ("file", "label"):
                raise DataError(
                    f"{file}: --{role}-column: {unknown('column', columns[role], names)}"
                )
        else:
            free = [lower[n] for n in known if n in lower and lower[n] not in roles.values()]
            if free:
                roles[role], how[role] = free[0], " (by its name)"
    for role in ("file", "label"):
        if role not in roles:
            raise DataError(
                f"{file}: no column is recognised as the {role}; its columns are "
                f"{', '.join(names)}: say which with --{role}-column NAME"
            )
    return roles, how


def _split_values(
    file: Path,
    rows: Sequence[Mapping[str, Any]],
    lines: Sequence[str],
    roles: Mapping[str, str],
    asked: bool,
) -> tuple[dict[str, str], str]:
    """The values of the split column and the splits they mean, and a sentence if that needs one.

    Numbers are folds of a cross-validation: the last is test, the one before valid. A column that
    was only recognised by its name is left alone when its values are neither.
    """
    if "split" not in roles:
        return {}, ""
    column = roles["split"]
    values = [_text(row[column]) or "" for row in rows]
    meant = {value: _SPLIT_NAMES.get(value.lower(), "") for value in dict.fromkeys(values)}
    if all(meant.values()) and "train" in meant.values():
        return meant, ""
    if all(value.isdigit() for value in meant) and len(meant) >= len(SPLITS):
        folds = sorted(meant, key=int)
        of_fold = {**dict.fromkeys(folds, "train"), folds[-2]: "valid", folds[-1]: "test"}
        return (
            of_fold,
            f"splits from the folds in column {column!r}: {folds[-1]} is test, {folds[-2]} valid",
        )
    bad = next((value for value, split in meant.items() if not split), None)
    if bad is None:
        problem = f"column {column!r} has no train among its values {', '.join(meant)}"
    else:
        problem = (
            f"{lines[values.index(bad)]}: {column}={bad!r} is no split"
            f"{closest(bad, _SPLIT_NAMES)}; write train, valid or test"
        )
    if asked:
        raise DataError(f"{file}, {problem}; or make splits anew with --split-column none")
    return {}, f"column {column!r} not taken for splits ({problem})"


def _metadata(
    rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]
) -> tuple[dict[str, pa.DataType], dict[str, list[Any]]]:
    """Types and values of the further columns; values of mixed types become JSON text."""
    types: dict[str, pa.DataType] = {}
    values: dict[str, list[Any]] = {}
    for name, stored in names.items():
        column = [row[name] for row in rows]
        try:
            array = pa.array(column)
        except pa.ArrowException:
            array = pa.array([json.dumps(value, default=str) for value in column])
            column = array.to_pylist()
        types[stored] = pa.string() if pa.types.is_null(array.type) else array.type
        values[stored] = column
    return types, values


def _text(value: Any) -> str | None:
    """A cell as text; None when it is empty."""
    if value is None or value != value:  # NaN, which data frames write for nothing
        return None
    return str(value).strip() or None


def _facts(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return {"size": stat.st_size, "stamp": str(stat.st_mtime_ns)}


def _locate(folder: Path, beside: Path, named: str) -> Path | None:
    path = Path(named).expanduser()
    for candidate in (folder / path, beside / path):
        if candidate.is_file():
            return candidate
    return None


def _clip_id(folder: Path, path: Path) -> str:
    """`path` inside `folder`; as it is when it lies outside."""
    full = Path(os.path.abspath(path))
    base = Path(os.path.abspath(folder))
    return (full.relative_to(base) if full.is_relative_to(base) else full).as_posix()


def _check_classes(source: Source, labels: str | os.PathLike[str] | None) -> None:
    classes = {label for item in source.items for label in item.classes}
    if len(classes) > 1:
        return
    only = next(iter(classes))
    if labels is not None:
        cure = f"check the label column ({source.taken[1]})"
    else:
        inner = Path(source.location) / only
        deeper = [p for p in inner.iterdir() if p.is_dir()] if inner.is_dir() else []
        cure = "put each class into a folder of its own, or give a label file with --labels FILE"
        if len(deeper) > 1:
            cure = f"if the classes are the folders in it, give {str(inner)!r}; else " + cure
        cure += _label_file_hint(Path(source.location))
    raise DataError(
        f"all {len(source.items)} clips of {source.location!r} have the label {only!r}, and a "
        f"classifier needs at least two: {cure}"
    )
