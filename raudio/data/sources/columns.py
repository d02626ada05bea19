"""What the columns of a table are for: named by the user, or recognised by usual names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raudio.core.errors import DataError, closest, unknown
from raudio.data.manifest import SPLITS
from raudio.data.sources.files import SPLIT_NAMES
from raudio.data.sources.tables import Table, text

#: What a column can be for, and the names it is recognised by, the likeliest first.
ROLES: dict[str, tuple[str, ...]] = {
    "file": (
        "file", "path", "filename", "file_name", "filepath", "file_path", "audio", "audio_file",
        "audio_path", "wav", "clip", "fname", "slice_file_name", "recording", "uri", "url",
    ),
    "label": (
        "label", "class", "class_name", "category", "target", "labels", "event_label", "event",
    ),
    "split": ("split", "subset", "partition", "set", "fold"),
    "fold": ("fold",),
    "group": (
        "group", "speaker", "speaker_id", "client_id", "site", "location", "session", "subject",
        "patient", "recording_id", "src_file", "fsid",
    ),
    "start": (
        "start", "begin", "start_time", "begin_time", "start_seconds", "start_time_seconds",
        "begin time (s)",
    ),
    "end": (
        "end", "stop", "end_time", "stop_time", "end_seconds", "end_time_seconds", "end time (s)",
    ),
    "onset": ("onset", "onset_time", "event_onset"),
    "offset": ("offset", "offset_time", "event_offset"),
    "time": (
        "time", "timestamp", "datetime", "date", "recorded_at", "recorded", "created_at",
        "recording_date", "date_recorded",
    ),
}  # fmt: skip
#: Says of a role that no column has it.
NOTHING = "none"

#: Pairs of roles that say which part of a recording a row is about, and what a row then is.
SPANS = {("onset", "offset"): "events", ("start", "end"): "segments"}

# UrbanSound8K's table gives the start and end of a slice inside a recording that the data set does
# not hold; the files of this column are the slices.
_CUT_ALREADY = "slice_file_name"

_FOLD = re.compile(r"(?:fold[ _-]?)?([0-9]+)(?:\.0)?", re.IGNORECASE)


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are for.

    Attributes:
        names: role to column.
        named: the roles that the user has named a column for.
        refused: the roles that the user wants no column for.
        unpaired: columns that tell a start without an end, or the other way round.
        kind: of the rows: "clips" (one recording each), "segments" (a part of one each) or "events"
            (a class is heard in a part of one).
    """

    names: Mapping[str, str]
    named: frozenset[str]
    refused: frozenset[str]
    unpaired: tuple[str, ...]
    kind: str

    def __contains__(self, role: str) -> bool:
        return role in self.names

    def __getitem__(self, role: str) -> str:
        return self.names[role]

    def taken(self, role: str) -> str:
        """The sentence that says which column was taken."""
        how = "" if role in self.named else " (by its name)"
        return f"{role}s from column {self[role]!r}{how}"


def check_roles(columns: Mapping[str, str]) -> None:
    """Raises `DataError` unless all keys are roles."""
    for role in columns:
        if role not in ROLES:
            raise DataError(f"columns: {unknown('role', role, ROLES)}")


def recognise(table: str, columns: Sequence[str], given: Mapping[str, str]) -> Columns:
    """What `columns` are for.

    Args:
        table: what messages call it.
        columns: their names.
        given: role to column, or to "none" where no column has the role.

    Raises:
        DataError: a named column is not there, no file or label column is known, or a pair such as
            start and end lacks one.
    """
    names: dict[str, str] = {}
    for role, column in given.items():
        if column in columns:
            names[role] = column
        elif column != NOTHING or role in ("file", "label"):
            raise DataError(f"{table}: --{role}-column: {unknown('column', column, columns)}")
    named = frozenset(names)
    refused = frozenset(given) - named
    lower = {name.strip().lower(): name for name in reversed(columns)}
    for role, usual in ROLES.items():
        if role not in given:
            free = [lower[n] for n in usual if n in lower and lower[n] not in names.values()]
            if free:
                names[role] = free[0]
    for role in ("file", "label"):
        if role not in names:
            raise DataError(
                f"{table}: no column is recognised as the {role}; its columns are "
                f"{', '.join(columns)}: say which with --{role}-column NAME"
            )
    kind = _kind(table, names, named)
    unpaired: list[str] = []
    for pair, meant in SPANS.items():
        if kind != meant:
            left = [names.pop(role) for role in pair if role in names]
            unpaired += left if len(left) == 1 else []
    return Columns(names, named, refused, tuple(unpaired), kind)


def _kind(table: str, names: Mapping[str, str], named: frozenset[str]) -> str:
    asked = [kind for pair, kind in SPANS.items() if named & set(pair)]
    if len(asked) > 1:
        raise DataError(
            f"{table}: --start-column and --end-column make a clip of each row, --onset-column and "
            "--offset-column make events of a recording's rows; name one pair"
        )
    for pair, kind in SPANS.items():
        if asked and kind != asked[0]:
            continue
        lacking = [role for role in pair if role not in names]
        if not lacking and (asked or names["file"].lower() != _CUT_ALREADY):
            return kind
        if asked:
            there = next(role for role in pair if role in named)
            raise DataError(
                f"{table}: --{there}-column={names[there]!r} without a column for the "
                f"{lacking[0]}; name it with --{lacking[0]}-column NAME"
            )
    return "clips"


def predefined_splits(table: Table, columns: Columns) -> tuple[dict[str, str], str | None, str]:
    """What the values of the split column mean, the role whose column has the folds, and a sentence
    where that needs one.

    Numbers are folds of a cross-validation: the last is test, the one before valid. A column that
    was only recognised by its name is left alone when none of its values is a split or a number.

    Raises:
        DataError: a column that was named for splits, or that has some, holds something else.
    """
    if "split" not in columns:
        return {}, None, ""
    column = columns["split"]
    values = [text(row[column]) or "" for row in table.rows]
    meant = {value: SPLIT_NAMES.get(value.lower(), "") for value in dict.fromkeys(values)}
    if all(meant.values()) and "train" in meant.values():
        return meant, "fold" if _has_folds(table, columns) else None, ""
    number = {value: fold_number(value) for value in meant}
    folds = sorted({fold for fold in number.values() if fold is not None})
    if None not in number.values() and len(folds) >= len(SPLITS):
        *_, valid, test = folds
        held_out: dict[int | None, str] = {valid: "valid", test: "test"}
        of_fold = {value: held_out.get(fold, "train") for value, fold in number.items()}
        note = f"splits from the folds in column {column!r}: {test} is test, {valid} valid"
        return of_fold, "split", note
    bad = next((value for value, split in meant.items() if not split), None)
    if folds and None not in number.values():
        problem = f"column {column!r} has {len(folds)} folds, and {len(SPLITS)} are needed"
    elif bad is None:
        problem = f"column {column!r} has no train among its values {', '.join(meant)}"
    else:
        problem = (
            f"{table.lines[values.index(bad)]}: {column}={bad!r} is no split"
            f"{closest(bad, SPLIT_NAMES)}; write train, valid or test"
        )
    if "split" in columns.named or any(meant.values()):
        raise DataError(f"{table.name}, {problem}; or make splits anew with --split-column none")
    return {}, None, f"column {column!r} not taken for splits ({problem})"


def _has_folds(table: Table, columns: Columns) -> bool:
    """Whether the fold column holds numbers; clips that are in no fold have none."""
    if "fold" not in columns:
        return False
    values = {value for row in table.rows if (value := text(row[columns["fold"]])) is not None}
    return bool(values) and all(fold_number(value) is not None for value in values)


def fold_number(value: str) -> int | None:
    """The number of a fold: of "3", "3.0" (as data frames write it) or "fold3"; else None."""
    match = _FOLD.fullmatch(value)
    return int(match[1]) if match else None
