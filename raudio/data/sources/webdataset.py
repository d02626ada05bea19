"""WebDataset: tars whose members KEY.wav, KEY.cls, KEY.txt, KEY.json, ... make one sample.

The format: https://github.com/webdataset/webdataset
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from raudio.core.errors import DataError
from raudio.data.sources.columns import ROLES
from raudio.data.sources.files import AUDIO_SUFFIXES, Finder, splits_by_name
from raudio.data.sources.item import Item
from raudio.data.sources.labels import LabelOptions, from_table
from raudio.data.sources.source import Source
from raudio.data.sources.tables import Row, json_object, table_of
from raudio.data.sources.tars import Member, read_members

_KEY = "__key__"
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")


def is_pattern(location: str) -> bool:
    """Whether `location` means tars: one, or several by braces."""
    return location.lower().endswith((".tar", ".tar.gz", ".tgz"))


def expand(pattern: str) -> list[str]:
    """The paths that a pattern with `{000..019}` or `{a,b}` stands for; itself without braces."""
    parts: list[list[str]] = []
    last = 0
    for match in _RANGE.finditer(pattern):
        first, end, names = match.groups()
        parts.append([pattern[last : match.start()]])
        if names is None:
            numbers = range(int(first), int(end) + 1)
            parts.append([str(number).zfill(len(first)) for number in numbers])
        else:
            parts.append(names.split(","))
        last = match.end()
    parts.append([pattern[last:]])
    return ["".join(choice) for choice in itertools.product(*parts)]


def from_tars(location: str, tars: Sequence[str], options: LabelOptions) -> Source:
    """The samples of `tars`: clips named `TAR/MEMBER`, read in place.

    The label is KEY.cls, or a recognised key of KEY.json, or KEY.txt; `--label-column` names "cls",
    "txt" or a key of the JSON object instead, whose other keys become metadata.

    Raises:
        DataError: a tar is missing, damaged or compressed, a sample has two recordings or no label.
    """
    if not tars:
        raise DataError(f"{location!r} stands for no tar; write ranges as {{000..019}}")
    files = Finder([""])(tars)
    if absent := [tar for tar, file in zip(tars, files, strict=True) if file is None]:
        raise DataError(f"{len(absent)} of {len(tars)} tars are not there, such as {absent[0]!r}")
    names = _names(location, tars)
    splits = None if "split" in options.columns else splits_by_name(names)
    rows: list[Row] = []
    items: dict[str, Item] = {}
    for tar, name, file in zip(tars, names, files, strict=True):
        assert file is not None
        for row, member in _samples(tar):
            clip_id = f"{name}/{member.name}"
            items[clip_id] = Item(
                clip_id=clip_id,
                path=tar,
                span=(member.offset, member.size),
                size=member.size,
                stamp=file.stamp,
            )
            rows.append({_KEY: clip_id, **({"split": splits[name]} if splits else {}), **row})
    if not rows:
        raise DataError(
            f"no audio in the tars of {location!r}: no member ends in {', '.join(AUDIO_SUFFIXES)}"
        )
    table = table_of(location, rows, [row[_KEY] for row in rows])
    found = from_table(
        location,
        table,
        lambda wanted: [items[name] for name in wanted],
        options.filled(file=_KEY, label=_label(table.columns)),
    )
    return found.saying(f"WebDataset: {len(rows)} samples in {len(tars)} tars")


def _label(columns: Sequence[str]) -> str | None:
    """The column of the labels; None where those of the JSON objects are to be looked through."""
    if "cls" in columns:
        return "cls"
    if "txt" in columns and not set(columns) & set(ROLES["label"]):
        return "txt"
    return None


def _names(location: str, tars: Sequence[str]) -> list[str]:
    """What clips call each tar: its path inside the folder, or its last part if that is enough."""
    inside = [tar.removeprefix(f"{location.rstrip('/')}/") for tar in tars]
    last = [PurePosixPath(tar).name for tar in tars]
    if inside == list(tars) and len(set(last)) == len(last):
        return last
    return inside


def _samples(tar: str) -> list[tuple[Row, Member]]:
    """What the other members of each recording say, and the recording."""
    rows: dict[str, Row] = {}
    audio: dict[str, Member] = {}
    for member in read_members(tar, lambda name: name.lower().endswith((".cls", ".txt", ".json"))):
        key = member.key
        where = f"{tar}, member {member.name!r}"
        if member.suffix in AUDIO_SUFFIXES:
            if key in audio:
                raise DataError(
                    f"{where}: {audio[key].name!r} is a recording of the same key; one a sample"
                )
            audio[key] = member
        elif member.suffix in (".cls", ".txt", ".json"):
            assert member.content is not None
            try:
                content = member.content.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: is not UTF-8 text ({error})") from None
            row = rows.setdefault(key, {})
            if member.suffix == ".json":
                # Members of their own go before keys of the object.
                rows[key] = {**json_object(content, where), **row}
            else:
                row[member.suffix[1:]] = content.strip()
    return [(rows.get(key, {}), member) for key, member in audio.items()]
