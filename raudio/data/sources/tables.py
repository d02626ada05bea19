"""Tables that label recordings: CSV, TSV, JSONL or Parquet, from a path or a URI, to rows."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raudio.core import storage
from raudio.core.errors import DataError
from raudio.core.storage import is_remote
from raudio.data.sources.files import closest_path

LABEL_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows that all have the same columns.

    Attributes:
        name: what messages call it: path or URI of its file.
        rows: column to cell.
        lines: what messages call each row ("line 7").
    """

    name: str
    rows: list[Row]
    lines: list[str]

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in their order."""
        return list(self.rows[0])

    def where(self, index: int) -> str:
        """A row and its file, for messages about the clip: "line 7 of labels.csv"."""
        return f"{self.lines[index]} of {self.name.rpartition('/')[2]}"


def table_of(name: str, rows: list[Row], lines: list[str]) -> Table:
    """A table of rows that need not all have the same columns; what a row lacks is None."""
    names = dict.fromkeys(name for row in rows for name in row)
    return Table(name, [{name: row.get(name) for name in names} for row in rows], lines)


def read_table(file: str) -> Table:
    """The table in a file, which may be a URI.

    Raises:
        DataError: it is missing, of another kind, damaged, or has no rows.
    """
    if not is_remote(file) and not Path(file).is_file():
        raise DataError(f"label file {file!r} does not exist{closest_path(Path(file))}")
    suffix = Path(file).suffix.lower()
    if suffix not in LABEL_SUFFIXES:
        raise DataError(
            f"label file {file!r} ends in {suffix or 'nothing'!r}; "
            f"one of {', '.join(LABEL_SUFFIXES)} can be read"
        )
    try:
        content = storage.read_bytes(file)
        if suffix == ".parquet":
            rows = pq.read_table(io.BytesIO(content)).to_pylist()
            table = Table(file, rows, [f"row {number}" for number in range(1, len(rows) + 1)])
        elif suffix in (".jsonl", ".ndjson"):
            table = _read_jsonl(file, content.decode("utf-8-sig"))
        else:
            table = _read_csv(file, content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"label file {file!r} is not UTF-8 text ({error}); convert it") from None
    except FileNotFoundError:
        raise DataError(f"label file {file!r} does not exist") from None
    except (pa.ArrowException, csv.Error, OSError) as error:
        raise DataError(f"label file {file!r} cannot be read: {error}") from error
    if not table.rows:
        raise DataError(f"label file {file!r} has no rows; give one a recording")
    return table


def text(value: Any) -> str | None:
    """A cell as text; None when it is empty."""
    if value is None or value != value:  # NaN, which data frames write for nothing
        return None
    return str(value).strip() or None


def json_object(content: str, where: str) -> Row:
    """A JSON object.

    Raises:
        DataError: it is none.
    """
    try:
        row = json.loads(content)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}); one object a line") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: {content[:40]!r} is not an object; one object a line")
    return row


def _read_jsonl(file: str, content: str) -> Table:
    rows: list[Row] = []
    lines: list[str] = []
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            rows.append(json_object(line, f"{file}, line {number}"))
            lines.append(f"line {number}")
    return table_of(file, rows, lines)


def _read_csv(file: str, content: str) -> Table:
    stream = io.StringIO(content, newline="")
    first = stream.readline()
    stream.seek(0)
    delimiter = max(",\t;|", key=first.count)
    reader = csv.DictReader(stream, delimiter=delimiter)
    names = list(reader.fieldnames or [])
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{file}: two columns are named {twice[0]!r}; rename one")
    rows: list[Row] = []
    lines: list[str] = []
    for row in reader:
        if None in row or None in row.values():
            raise DataError(
                f"{file}, line {reader.line_num}: not as many fields as the {len(names)} "
                f"columns {', '.join(names)}; quote fields that hold {delimiter!r}"
            )
        rows.append(row)
        lines.append(f"line {reader.line_num}")
    return Table(file, rows, lines)
