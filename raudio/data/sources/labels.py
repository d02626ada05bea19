"""From the rows of a table to items: a clip a row, a part of a recording a row, or events that make
one clip of all rows of a recording.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from raudio.core.errors import DataError
from raudio.data.manifest import Skipped
from raudio.data.rows import RESERVED
from raudio.data.sources.columns import Columns, fold_number, predefined_splits, recognise
from raudio.data.sources.item import Event, Item, checked_span, merged
from raudio.data.sources.source import Source
from raudio.data.sources.tables import Table, text

#: Gives a bare item for each name in the table's file column, or None where there is no such file.
Find = Callable[[Sequence[str]], list[Item | None]]

# Characters that often separate several labels in one cell.
_SEPARATORS = ";,|"


@dataclass(frozen=True)
class LabelOptions:
    """How a table is read.

    Attributes:
        columns: role (see `columns.ROLES`) to column, or "none"; others are recognised by name.
        label_separator: what stands between several labels of a clip; makes the data multi-label.
        skip_missing: leave out files that are not there.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    label_separator: str | None = None
    skip_missing: bool = False

    def filled(self, **columns: str | None) -> LabelOptions:
        """With columns for roles that have none yet."""
        usual = {role: column for role, column in columns.items() if column is not None}
        return replace(self, columns={**usual, **self.columns})


def from_table(
    location: str,
    table: Table,
    find: Find,
    options: LabelOptions,
    *,
    looked: Callable[[str], str] = repr,
) -> Source:
    """The clips that the rows of `table` are about.

    Args:
        location: of the source.
        table: with a column of files and one of labels; see `columns.ROLES` for what else it may
            have. Its cells of labels hold one, a list, or several with a separator between.
        find: tells which files are there.
        options: how the table is read.
        looked: where the file of a name was looked for, for messages.

    Raises:
        DataError: unusable columns, a missing file, an empty or several labels, a time that is
            none, the same clip twice, or rows of one recording that contradict each other.
    """
    known = recognise(table.name, table.columns, options.columns)
    clips = _Clips(table, known, options.label_separator)
    found = find([clips.file(rows[0]) for rows in clips.rows])
    pairs = [(rows, item) for rows, item in zip(clips.rows, found, strict=True) if item]
    missing = tuple(
        Skipped(clips.file(rows[0]), f"missing ({table.where(rows[0])})")
        for rows, item in zip(clips.rows, found, strict=True)
        if item is None
    )
    if missing and not options.skip_missing:
        raise DataError(_missing_message(table, missing, len(found), looked))
    if not pairs:
        raise DataError(f"{table.name}: none of its {len(found)} files is there; correct the paths")
    items = [clips.item(rows, item) for rows, item in pairs]
    _check_unique(table, [rows[0] for rows, _ in pairs], items)
    shares = Counter((item.path, item.span) for item in items)
    return Source(
        location,
        tuple(replace(item, size=item.size // shares[item.path, item.span]) for item in items),
        clips.taken,
        clips.metadata_types,
        missing,
        strict_groups="group" in known and ("group" in known.named or known["group"] == "group"),
        group_column=known.names.get("group"),
        time_column=clips.stored_name(known["time"]) if "time" in known else None,
    )


class _Clips:
    """What each clip's rows say of it.

    Attributes:
        rows: numbers of the rows of each clip; more than one for events alone.
        taken: what was taken for what, a sentence each.
        metadata_types: the further columns and their types.
    """

    def __init__(self, table: Table, columns: Columns, separator: str | None) -> None:
        self._table = table
        self._columns = columns
        self._separator = separator
        self._check_filled("file")
        cells = [row[columns["label"]] for row in table.rows]
        lists = any(isinstance(cell, list) for cell in cells)
        self._many = columns.kind != "events" and (lists or separator is not None)
        if columns.kind != "events" and not self._many:
            self._check_filled("label")
        if bad := [i for i, c in enumerate(cells) if isinstance(c, list | dict) and not self._many]:
            raise DataError(
                f"{table.name}, {table.lines[bad[0]]}: {columns['label']}={cells[bad[0]]!r} is no "
                "single label; one label a clip"
            )
        self.rows = self._by_clip()
        self._splits, self._fold_role, split_note = predefined_splits(table, columns)
        self._stored = {
            name: f"source_{name}" if name in RESERVED else name
            for name in table.columns
            if name not in self._consumed()
        }
        dropped = self._drop_inconstant()
        self.metadata_types, self._metadata = _metadata(table, self._stored)
        self.taken = self._sentences(cells, split_note, dropped)

    def file(self, row: int) -> str:
        """The file that a row names."""
        return text(self._table.rows[row][self._columns["file"]]) or ""

    def stored_name(self, column: str) -> str:
        """The name of a metadata column in the dataset."""
        return self._stored.get(column, column)

    def item(self, rows: Sequence[int], found: Item) -> Item:
        """The item of a clip, from its rows and the file that was found."""
        first = rows[0]
        label, labels, events = self._labels(rows)
        seconds, clip_id = found.seconds, found.clip_id
        if self._columns.kind == "segments":
            start, end = self._span(first, "start", "end")
            seconds, clip_id = (start, end), f"{clip_id}#{_number(start)}-{_number(end)}"
        group = found.clip_id if self._recordings_are_groups else self._said(rows, "group")
        where = self._table.where(first)
        if len(rows) > 1:
            where = f"{self._table.lines[first]} to {self._table.where(rows[-1])}"
        split = self._splits.get(self._said(rows, "split") or "")
        fold = self._said(rows, self._fold_role) if self._fold_role else None
        return Item(
            clip_id=clip_id,
            path=found.path,
            label=label,
            labels=labels,
            events=events,
            split=split,
            fold=None if fold is None else fold_number(fold),
            group=group,
            metadata={name: values[first] for name, values in self._metadata.items()},
            where=where,
            span=found.span,
            seconds=seconds,
            channel=found.channel,
            size=found.size,
            stamp=found.stamp,
        )

    @property
    def _recordings_are_groups(self) -> bool:
        """Parts of one recording sound alike: they stay in one split unless a column says more."""
        return (
            self._columns.kind == "segments"
            and "group" not in self._columns
            and "group" not in self._columns.refused
        )

    def _by_clip(self) -> list[list[int]]:
        numbers = range(len(self._table.rows))
        if self._columns.kind != "events":
            return [[number] for number in numbers]
        of_file: dict[str, list[int]] = {}
        for number in numbers:
            of_file.setdefault(self.file(number), []).append(number)
        return list(of_file.values())

    def _check_filled(self, role: str) -> None:
        column = self._columns[role]
        empty = [i for i, row in enumerate(self._table.rows) if text(row[column]) is None]
        if empty:
            more = f" (and in {len(empty) - 1} more rows)" if len(empty) > 1 else ""
            raise DataError(
                f"{self._table.name}, {self._table.lines[empty[0]]}: column {column!r} is "
                f"empty{more}; give the {role}"
            )

    def _labels(
        self, rows: Sequence[int]
    ) -> tuple[str | None, tuple[str, ...] | None, tuple[Event, ...] | None]:
        column = self._columns["label"]
        cell = self._table.rows[rows[0]][column]
        if self._columns.kind == "events":
            events = [event for row in rows if (event := self._event(row)) is not None]
            return None, None, merged(events)
        if not self._many:
            return text(cell), None, None
        parts = cell if isinstance(cell, list) else [cell]
        if self._separator is not None and not isinstance(cell, list):
            parts = (text(cell) or "").split(self._separator)
        names = {name for part in parts if (name := text(part)) is not None}
        return None, tuple(sorted(names)), None

    def _event(self, row: int) -> Event | None:
        """The row's event; None where its label, onset and offset are empty: nothing is heard."""
        cells = [self._table.rows[row][self._columns[r]] for r in ("label", "onset", "offset")]
        label = text(cells[0])
        if label is not None:
            return Event(label, *self._span(row, "onset", "offset"))
        if any(text(cell) is not None for cell in cells[1:]):
            raise DataError(
                f"{self._table.name}, {self._table.lines[row]}: column {self._columns['label']!r} "
                "is empty, but the row has times; give the label, or empty the times of a "
                "recording without events"
            )
        return None

    def _span(self, row: int, first: str, last: str) -> tuple[float, float]:
        names = self._columns[first], self._columns[last]
        cells = self._table.rows[row]
        where = f"{self._table.name}, {self._table.lines[row]}"
        return checked_span(cells[names[0]], cells[names[1]], names=names, where=where)

    def _said(self, rows: Sequence[int], role: str) -> str | None:
        """What all rows of the clip say."""
        if role not in self._columns:
            return None
        column = self._columns[role]
        first = text(self._table.rows[rows[0]][column])
        for row in rows[1:]:
            if (other := text(self._table.rows[row][column])) != first:
                raise DataError(
                    f"{self._table.name}, {self._table.lines[row]}: {column}={other!r}, and "
                    f"{self._table.lines[rows[0]]} has {first!r} for the same recording "
                    f"{self.file(row)!r}; give all its rows one {role}"
                )
        return first

    def _consumed(self) -> set[str]:
        """Columns whose cells the dataset's fixed columns hold."""
        columns = self._columns
        roles = {"file", "label", "start", "end", "onset", "offset"}
        roles |= {"split"} if self._splits else set()
        roles |= {self._fold_role} if self._fold_role else set()
        consumed = {columns[role] for role in roles if role in columns}
        if "group" in columns and columns["group"] == "group":
            consumed.add("group")
        return consumed

    def _drop_inconstant(self) -> list[str]:
        """Of events: takes out metadata that differs between the rows of a recording."""
        dropped = [
            name
            for name in self._stored
            if any(
                text(self._table.rows[row][name]) != text(self._table.rows[rows[0]][name])
                for rows in self.rows
                for row in rows[1:]
            )
        ]
        for name in dropped:
            del self._stored[name]
        return dropped

    def _sentences(
        self, cells: Sequence[Any], split_note: str, dropped: Sequence[str]
    ) -> tuple[str, ...]:
        columns = self._columns
        taken = [columns.taken("label")]
        if columns.kind == "events":
            taken.append(
                f"events from {columns['onset']!r} to {columns['offset']!r}: a clip for each of "
                f"{len(self.rows)} recordings, those of one class that overlap made one"
            )
        if columns.kind == "segments":
            taken.append(
                f"a clip for each row: its recording from {columns['start']!r} to "
                f"{columns['end']!r} seconds"
            )
        for column in columns.unpaired:
            taken.append(
                f"column {column!r} not taken for a time: a start and an end need each other"
            )
        if self._many:
            taken.append("several labels a clip")
        elif columns.kind != "events":
            for mark in _SEPARATORS:
                if sum(mark in str(cell) for cell in cells) * 2 > len(cells):
                    taken.append(
                        f"most labels hold {mark!r}: if it separates several, give "
                        f"--label-separator '{mark}'"
                    )
        if split_note:
            taken.append(split_note)
        elif self._splits:
            taken.append(columns.taken("split"))
        if "group" in columns:
            taken.append(columns.taken("group"))
        elif self._recordings_are_groups:
            taken.append("groups are the recordings that the clips are parts of")
        if dropped:
            taken.append(
                f"left out, because they differ within a recording: {', '.join(map(repr, dropped))}"
            )
        return tuple(taken)


def _number(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


def _missing_message(
    table: Table, missing: Sequence[Skipped], files: int, looked: Callable[[str], str]
) -> str:
    first = ", ".join(f"{skipped.file!r}: {skipped.reason}" for skipped in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return (
        f"{table.name}: {len(missing)} of {files} files are not there: {first}{more}; looked in "
        f"{looked(missing[0].file)}; correct the path, or leave such rows out with --skip-bad"
    )


def _check_unique(table: Table, rows: Sequence[int], items: Sequence[Item]) -> None:
    known: dict[str, int] = {}
    for row, item in zip(rows, items, strict=True):
        if (first := known.setdefault(item.clip_id, row)) != row:
            raise DataError(
                f"{table.name}, {table.lines[row]}: {item.clip_id!r} is there twice (first in "
                f"{table.lines[first]}); one row a clip"
            )


def _metadata(
    table: Table, stored: Mapping[str, str]
) -> tuple[dict[str, pa.DataType], dict[str, list[Any]]]:
    """Types and values of the further columns; values of mixed types become JSON text."""
    types: dict[str, pa.DataType] = {}
    values: dict[str, list[Any]] = {}
    for name, stored_name in stored.items():
        column = [row[name] for row in table.rows]
        try:
            array = pa.array(column)
        except pa.ArrowException:
            array = pa.array([json.dumps(value, default=str) for value in column])
            column = array.to_pylist()
        types[stored_name] = pa.string() if pa.types.is_null(array.type) else array.type
        values[stored_name] = column
    return types, values
