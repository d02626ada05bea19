"""Recipes of public data sets: what to download, and what each recording's label is.

A recipe is a YAML file, data and not code. Its vocabulary is closed: an unknown key is an error.

    name: esc50                      # as in `raudio data fetch esc50`
    title, about, page, citation, licence: texts for people and for the manifest
    unpacked_bytes: 1_000_000_000    # most that its archives may unpack to, all together
    archives:                        # each zip or tar
      - url: https://...
        file: ESC-50.zip             # its name here and on a mirror; none: the URL's last part
        bytes: 645832161             # its size, if known
        sha256: ...                  # or md5, where the publisher gives no other,
        checksum: none published     # or this, where there is none: then the first download counts
    clips:                           # parts of the data set, each with its own rules
      - folder: ESC-50-master        # where all its paths begin; none: in the unpacked folder
        table: meta/esc50.csv        # a row a recording (comma or tab), or ...
        header: [path, scene]        # ... with names of its columns, if it has none, or ...
        files: audio/*.wav           # ... a pattern: a row a file, with the one column `path`
        leave_out:                   # recordings that are no clips
          files: [noise/*]           # those whose path fits a pattern
          listed: [error.txt]        # those that a list names
        match: {path: '(?P<a>.)...'}  # a column's whole text, taken apart: a column a named group
        columns:                     # of the dataset: file and label, split, group, and metadata
          file: audio/{filename}     # text with columns in braces
          label: "{category}"
          split: {of: "{fold}", values: {4: valid, 5: test}, default: train}
          fold: {lists: {1: fold1.txt, 2: fold2.txt}, default: ""}

`file` may name the table's own columns alone. `values` gives text for text. `lists` gives the name
of the list that the clip's path is in: lists are text files with a path in the first of their
tab-separated columns. Without `default`, a clip that none fits is an error.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from raudio.core.errors import DataError, unknown
from raudio.data.unpack import inside

#: What `checksum:` says of an archive whose publisher gives none.
UNPUBLISHED = "none published"

_FOLDER = Path(__file__).with_name("recipes")
_BRACES = re.compile(r"\{(\w+)\}")
_DIGESTS = {"sha256": 64, "md5": 32}

Row = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One file to download; see the module's text."""

    url: str
    file: str = ""
    bytes: int = 0
    sha256: str = ""
    md5: str = ""
    checksum: str = ""

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise DataError(f"url {self.url!r} does not begin with http:// or https://")
        if not self.file:
            object.__setattr__(self, "file", unquote(urlsplit(self.url).path).rpartition("/")[2])
        if inside(self.file) is None or Path(self.file).name != self.file:
            raise DataError(f"file {self.file!r} of {self.url} is no file's name")
        given = [name for name in (*_DIGESTS, "checksum") if getattr(self, name)]
        if len(given) != 1 or self.checksum not in ("", UNPUBLISHED):
            raise DataError(
                f"{self.file}: give one of sha256, md5, or 'checksum: {UNPUBLISHED}', and not "
                f"{' and '.join(given) or 'none'}"
            )
        for name, length in _DIGESTS.items():
            value = getattr(self, name)
            if value and not re.fullmatch(rf"[0-9a-f]{{{length}}}", value):
                raise DataError(f"{self.file}: {name} {value!r} is not {length} hexadecimal digits")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a column of the dataset follows from a row; see the module's text."""

    of: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    lists: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None


@dataclass(frozen=True, kw_only=True)
class LeaveOut:
    """Recordings that are no clips; see the module's text."""

    files: Sequence[str] = ()
    listed: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some of the clips, and the rules for their columns; see the module's text."""

    columns: Mapping[str, str | Rule]
    folder: str = ""
    table: str = ""
    header: Sequence[str] = ()
    files: str = ""
    leave_out: LeaveOut = LeaveOut()
    match: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.table) == bool(self.files):
            raise DataError("clips: give each part a table or files, one of the two")
        wanted = {"file", "label"} if self.table else {"label"}
        if missing := sorted(wanted - set(self.columns)):
            raise DataError(f"clips: columns lack {missing[0]!r}")
        for pattern in self.match.values():
            try:
                re.compile(pattern)
            except re.error as error:
                raise DataError(f"clips: match {pattern!r}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A public data set; see the module's text."""

    name: str
    title: str
    about: str
    page: str
    citation: str
    licence: str
    unpacked_bytes: int
    archives: Sequence[Archive]
    clips: Sequence[Part]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise DataError(f"name {self.name!r}: use letters, digits, '_', '-' and '.'")


def names() -> dict[str, str]:
    """The recipes that come with raudio: name -> one line."""
    found = {path.stem: load(path.stem) for path in sorted(_FOLDER.glob("*.yaml"))}
    return {name: f"{recipe.about} ({recipe.licence})" for name, recipe in found.items()}


def load(name: str) -> Recipe:
    """A recipe, by the name of one that comes with raudio or by the path of a file.

    Raises:
        DataError: there is none, or it is not of the form above.
    """
    own = name.endswith((".yaml", ".yml"))
    path = Path(name).expanduser() if own else _FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = [file.stem for file in _FOLDER.glob("*.yaml")]
        raise DataError(
            f"recipe {name!r} does not exist"
            if own
            else f"{unknown('data set', name, known)}; or give the path of a recipe of your own"
        )
    try:
        return _recipe(yaml.safe_load(path.read_text("utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, DataError) as error:
        raise DataError(f"recipe {str(path)!r}: {error}") from error


# --- reading -----------------------------------------------------------------------------------


def _recipe(content: Any) -> Recipe:
    given = _keys(content, Recipe, "the recipe")
    given["archives"] = [Archive(**_keys(e, Archive, "archives")) for e in given["archives"]]
    given["clips"] = [_part(entry) for entry in given["clips"]]
    return Recipe(**given)


def _part(content: Any) -> Part:
    given = _keys(content, Part, "clips")
    if "leave_out" in given:
        given["leave_out"] = LeaveOut(**_keys(given["leave_out"], LeaveOut, "leave_out"))
    given["columns"] = {str(name): _rule(str(name), r) for name, r in given["columns"].items()}
    return Part(**given)


def _rule(column: str, content: Any) -> str | Rule:
    if not isinstance(content, dict):
        return str(content)
    given = _keys(content, Rule, f"column {column}")
    if ("values" in given) == ("lists" in given):
        raise DataError(f"column {column}: give values (with of), or lists")
    for key in {"values", "lists"} & set(given):  # YAML takes a key such as 1 for a number
        given[key] = {str(name): str(value) for name, value in given[key].items()}
    return Rule(**given)


def _keys(content: Any, kind: type, where: str) -> dict[str, Any]:
    """A mapping with all of the keys that `kind` needs, and none that it doesn't know."""
    if not isinstance(content, dict):
        raise DataError(f"{where}: {content!r} is not a mapping of keys to values")
    known = [entry.name for entry in fields(kind)]
    for key in content:
        if key not in known:
            raise DataError(f"{where}: {unknown('key', str(key), known)}")
    for entry in fields(kind):
        needed = entry.default is MISSING and entry.default_factory is MISSING
        if needed and content.get(entry.name) in (None, "", [], {}):
            raise DataError(f"{where}: the key {entry.name!r} is missing or empty")
        value = content.get(entry.name)
        if entry.name in content and not isinstance(value, _kind(str(entry.type))):
            raise DataError(f"{where}: {entry.name}={value!r} should be {entry.type}")
    return dict(content)


def _kind(annotation: str) -> type | tuple[type, ...]:
    """What YAML must have given for a field of this type."""
    kinds = {"int": int, "str": str, "str | None": str, "LeaveOut": dict}
    return kinds.get(annotation) or (dict if annotation.startswith("Mapping") else list)


# --- the label table ---------------------------------------------------------------------------


def label_rows(recipe: Recipe, folder: Path) -> list[dict[str, str]]:
    """The dataset's columns of each clip: file (inside `folder`), label, and what else there is.

    Raises:
        DataError: a file, column or text is not there, or none of the rules fits it.
    """
    rows = []
    for part in recipe.clips:
        base = folder / _below(part.folder)
        lists = {name: _listed(base, name) for name in _lists(part)}
        left_out = {path for name in part.leave_out.listed for path in lists[name]}
        found = _table(base, part) if part.table else _files(base, part.files)
        for row in found:
            template = part.columns.get("file", "{path}")
            path = str(_below(_value("file", template, row, "", lists)))
            if path in left_out or any(fnmatchcase(path, p) for p in part.leave_out.files):
                continue
            row = row | _matched(part.match, row)
            columns = {c: _value(c, r, row, path, lists) for c, r in part.columns.items()}
            rows.append(columns | {"file": str(PurePosixPath(part.folder, path))})
    if not rows:
        raise DataError(f"recipe {recipe.name}: it leaves out every recording")
    return rows


def _value(
    column: str, rule: str | Rule, row: Row, path: str, lists: Mapping[str, frozenset[str]]
) -> str:
    """A column's text for one row; see `Rule`."""
    if isinstance(rule, str):
        return _filled(rule, row)
    if rule.values:
        text = _filled(rule.of, row)
        found = rule.values.get(text, rule.default)
        why = f"{text!r} is none of {', '.join(rule.values)}"
    else:
        inside_of = [name for name, file in rule.lists.items() if path in lists[file]]
        found = inside_of[0] if inside_of else rule.default
        why = f"it is in none of {', '.join(rule.lists.values())}"
    if found is None:
        raise DataError(f"{path}: no {column}: {why}; correct the recipe, or give it a default")
    return found


def _filled(template: str, row: Row) -> str:
    def column(found: re.Match[str]) -> str:
        if found[1] not in row:
            raise DataError(f"{template!r}: {unknown('column', found[1], row)}")
        return row[found[1]]

    return _BRACES.sub(column, template)


def _matched(patterns: Mapping[str, str], row: Row) -> dict[str, str]:
    groups: dict[str, str] = {}
    for column, pattern in patterns.items():
        text = _filled(f"{{{column}}}", row)
        match = re.fullmatch(pattern, text)
        if match is None:
            raise DataError(
                f"{column} {text!r} does not match {pattern!r}; correct the recipe, or leave such "
                "files out in it"
            )
        groups |= match.groupdict("")
    return groups


def _files(base: Path, pattern: str) -> list[dict[str, str]]:
    found = sorted(p.relative_to(base).as_posix() for p in base.glob(str(_below(pattern))))
    if not found:
        raise DataError(f"the archives hold no files {pattern!r}; correct the recipe")
    return [{"path": path} for path in found]


def _table(base: Path, part: Part) -> list[dict[str, str]]:
    """The rows of a table: commas separate the columns of .csv, tabs those of any other."""
    lines = _text(base, part.table).splitlines()
    read = csv.reader(lines, delimiter="," if part.table.endswith(".csv") else "\t")
    filled = [(number, row) for number, row in enumerate(read, start=1) if row]
    header = list(part.header) or filled.pop(0)[1]
    for number, row in filled:
        if len(row) != len(header):
            raise DataError(
                f"{part.table}, line {number}: {len(row)} columns, and not {len(header)}: "
                f"{', '.join(header)}"
            )
    return [dict(zip(header, row, strict=True)) for _, row in filled]


def _lists(part: Part) -> set[str]:
    rules = [rule for rule in part.columns.values() if isinstance(rule, Rule)]
    return {*part.leave_out.listed, *(file for rule in rules for file in rule.lists.values())}


def _listed(base: Path, name: str) -> frozenset[str]:
    paths = [line.partition("\t")[0].strip() for line in _text(base, name).splitlines()]
    return frozenset(path for path in paths if path)


def _text(base: Path, name: str) -> str:
    try:
        return (base / _below(name)).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name} cannot be read from the archives ({error})") from error


def _below(name: str) -> PurePosixPath:
    path = inside(name)
    if path is None:
        raise DataError(f"{name!r} lies outside the data set")
    return path
