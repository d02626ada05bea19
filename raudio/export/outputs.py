"""Where results are written: CSV, JSON lines or Parquet, gone on with after an interruption.

Rows are written as they come, and what is there is not computed again. Beside `labels.csv`, the
hidden file `.labels.csv.begun` says which bundle and options its rows are of: others are refused.
While results are written, its lock keeps other processes away.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from raudio.core.errors import ConfigError, RunError
from raudio.core.storage import is_remote
from raudio.export.predictor import Options, Result
from raudio.export.recordings import STDIN

SUFFIXES = (".csv", ".jsonl", ".parquet")
Row = dict[str, Any]

# Rows of a Parquet file that are written at once.
_ROW_GROUP = 4096


def check_out(option: str, path: str, suffixes: Sequence[str] = SUFFIXES) -> Path:
    """The file that an option names, when one can be written there.

    Raises:
        ConfigError: it can't.
    """
    kinds = f"{', '.join(suffixes[:-1])} or {suffixes[-1]}" if suffixes[1:] else suffixes[0]
    out = Path(path)
    if is_remote(path):
        raise ConfigError(f"{option} {path!r} is a URI; give a local file, and copy it then")
    if out.suffix.lower() not in suffixes:
        raise ConfigError(f"{option} {path!r}: give a name that ends in {kinds}")
    if not out.parent.is_dir():
        raise ConfigError(f"{option} {path!r}: there is no folder {str(out.parent)!r}")
    if out.is_dir():
        raise ConfigError(f"{option} {path!r} is a folder; give the name of a file")
    return out


def columns(labels: Sequence[str], options: Options) -> dict[str, pa.DataType]:
    """The columns of a table of results, of CSV and Parquet alike: name to type."""
    found = {"file": pa.string()}
    if options.windowed:
        found |= {"start": pa.float64(), "end": pa.float64()}
    found |= {"label": pa.string(), "score": pa.float32(), "error": pa.string()}
    if options.top is None:
        return found | {f"score_{label}": pa.float32() for label in labels}
    for place in range(2, min(options.top, len(labels)) + 1):
        found |= {f"label_{place}": pa.string(), f"score_{place}": pa.float32()}
    return found


def flat(result: Mapping[str, Any], options: Options) -> Row:
    """A result's mapping as a row of `columns`."""
    row = {name: value for name, value in result.items() if name != "scores"}
    scores = result.get("scores", {})
    if options.top is None:
        return row | {f"score_{label}": score for label, score in scores.items()}
    for place, (label, score) in enumerate(scores.items(), 1):
        if place > 1:
            row |= {f"label_{place}": label, f"score_{place}": score}
    return row


class Output:
    """A file of results; a context manager.

    Args:
        path: ends in one of `SUFFIXES`.
        begun: what `Predictor.told` gave.
        labels: of the bundle.
        options: what is asked of each recording.
    """

    def __init__(
        self, path: Path, begun: Mapping[str, Any], labels: Sequence[str], options: Options
    ) -> None:
        self.path = path
        self._begun = dict(begun)
        self._options = options
        self._columns = columns(labels, options)
        suffix = path.suffix.lower()
        self._parquet = suffix == ".parquet"
        # Parquet can't be appended to: its rows are kept as JSON lines until all are there.
        self._rows = path.with_name(f".{path.name}.jsonl") if self._parquet else path
        self._format: _Format = _Csv(list(self._columns)) if suffix == ".csv" else _JsonLines()
        self._note = _Note(path.with_name(f".{path.name}.begun"), path)
        self.done: Collection[str] = ()

    def __enter__(self) -> Output:
        """Takes the lock, and looks what is there; `done` names the recordings that are.

        Raises:
            RunError: the file is another's, of another bundle or other options, or in use.
            ConfigError: it cannot be written.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(self._note)
                there = self.path.exists() or self._rows.exists()
                self._note.check(self._begun, there)
                complete = there and self._note.is_complete()
                if self._parquet and not self._rows.exists() and self.path.exists():
                    self._thaw()
                self.done = self._go_on(complete) if self._rows.exists() else ()
                self._file = stack.enter_context(self._rows.open("a", newline="", encoding="utf-8"))
                if not self._file.tell():
                    self._file.write(self._format.head())
            except OSError as error:
                raise ConfigError(f"{str(self.path)!r} cannot be written: {error}") from error
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._stack:
            self._file.close()
            if kind is None:
                if self._parquet:
                    self._freeze()
                self._note.complete()

    def write(self, result: Result) -> None:
        """Appends a result, unless its recording is `done`; it is in the file when this returns."""
        if result.name in self.done:
            return
        mapping = result.mapping()
        wanted = mapping if self.path.suffix.lower() == ".jsonl" else flat(mapping, self._options)
        try:
            self._file.write(self._format.dump(wanted))
            self._file.flush()
        except OSError as error:
            raise RunError(
                f"{str(self.path)!r} cannot be written: {error}; what is there stays, and the same "
                "command goes on"
            ) from error

    def _go_on(self, complete: bool) -> set[str]:
        """Drops what is not whole, and what is to be tried again; the recordings that are left.

        Args:
            complete: the last process that wrote came to its end.
        """
        names: dict[str, None] = {}
        again: set[str] = set()
        torn = False
        for row in self._read():
            if row is None:
                torn = True
                break
            names[row["file"]] = None
            if row.get("error"):
                again.add(row["file"])
        # Whether a recording has further parts is known when the next one begins, or at the end.
        if names and self._options.windowed and not complete:
            again.add(next(reversed(names)))
        if torn or again:
            self._keep(again)
        # What came through standard input another time is another recording.
        return set(names) - again - {STDIN}

    def _keep(self, dropped: Collection[str]) -> None:
        """Writes the rows anew, but for those of the dropped recordings and what is torn."""
        with _whole(self._rows) as temporary:
            file = io.TextIOWrapper(temporary, "utf-8", newline="")
            file.write(self._format.head())
            for row in self._read():
                if row is not None and row["file"] not in dropped:
                    file.write(self._format.dump(row))
            file.flush()
            file.detach()

    def _read(self) -> Iterator[Row | None]:
        """The rows; a last one that is not whole is None.

        Raises:
            RunError: something else stands in the file.
        """
        with self._rows.open("rb") as raw:
            if not raw.seek(0, os.SEEK_END):
                return
            raw.seek(-1, os.SEEK_END)
            torn = raw.read(1) != b"\n"
        # A last row may end within a character.
        with self._rows.open(encoding="utf-8", errors="replace", newline="") as file:
            before: tuple[int, Row | None] | None = None
            for number, row in enumerate(self._format.load(file), 1):
                if before is not None:
                    yield self._sound(*before)
                before = number, row
            if before is not None:
                yield None if torn else self._sound(*before)

    def _sound(self, number: int, row: Row | None) -> Row:
        if row is None:
            raise RunError(
                f"{str(self.path)!r}: row {number} is none of raudio predict's; remove the file, "
                "or give another --out"
            )
        return row

    # Parquet.

    def _freeze(self) -> None:
        """The rows as Parquet."""
        told = {"raudio": json.dumps(self._begun, ensure_ascii=False)}
        schema = pa.schema(list(self._columns.items()), metadata=told)
        with _whole(self.path) as file, pq.ParquetWriter(file, schema, compression="zstd") as out:
            rows: list[Row] = []
            for row in self._read():
                rows.append(row or {})
                if len(rows) == _ROW_GROUP:
                    out.write_table(pa.Table.from_pylist(rows, schema))
                    rows = []
            out.write_table(pa.Table.from_pylist(rows, schema))
        self._rows.unlink()

    def _thaw(self) -> None:
        """The rows of a Parquet file that is whole, to be gone on with."""
        try:
            with _whole(self._rows) as file, pq.ParquetFile(self.path) as parquet:
                for batch in parquet.iter_batches(_ROW_GROUP):
                    for row in batch.to_pylist():
                        text = {name: value for name, value in row.items() if value is not None}
                        file.write(self._format.dump(text).encode())
        except pa.ArrowException as error:
            raise RunError(
                f"{str(self.path)!r} is damaged ({error}); remove it, or give another --out"
            ) from error


class Embeddings:
    """A Parquet file of vectors, there when it is whole; a context manager.

    Columns: `file`, `start` and `end` of parts, `embedding` as a list of fixed size. What the
    vectors are of stands in the schema's metadata.

    Args:
        path: must not exist.
        begun: as for `Output`.
        options: what is asked of each recording.
    """

    def __init__(self, path: Path, begun: Mapping[str, Any], options: Options) -> None:
        self.path = path
        self._begun = begun
        self._windowed = options.windowed
        self._rows: list[Row] = []
        self._writer: Any = None
        self.count = 0

    def __enter__(self) -> Embeddings:
        """Begins nothing yet.

        Raises:
            RunError: the file is there already.
        """
        if os.path.lexists(self.path):
            raise RunError(f"{str(self.path)!r} exists already; remove it, or give another name")
        self._stack = ExitStack()
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._flush()
        self._stack.__exit__(*error)

    def write(self, result: Result) -> None:
        """Takes a result; one without a vector is left out."""
        if result.embedding is None:
            return
        row: Row = {"file": result.name, "embedding": result.embedding}
        if result.part is not None:
            row |= {"start": result.part[0], "end": result.part[1]}
        self._rows.append(row)
        self.count += 1
        if len(self._rows) == _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            size = len(self._rows[0]["embedding"])
            names = {"file": pa.string()}
            if self._windowed:
                names |= {"start": pa.float64(), "end": pa.float64()}
            names["embedding"] = pa.list_(pa.float32(), size)
            told = {"raudio": json.dumps(self._begun, ensure_ascii=False)}
            self._schema = pa.schema(list(names.items()), metadata=told)
            file = self._stack.enter_context(_whole(self.path))
            writer = pq.ParquetWriter(file, self._schema, compression="zstd")
            self._writer = self._stack.enter_context(writer)
        self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows = []


# --- the kinds of text -------------------------------------------------------------------------


class _Format(Protocol):
    """Rows as text, each ending with a line's end."""

    def head(self) -> str:
        """What stands before the first row."""

    def dump(self, row: Mapping[str, Any]) -> str:
        """A row."""

    def load(self, file: IO[str]) -> Iterator[Row | None]:
        """The rows of a file; None in the place of what is none."""


class _JsonLines:
    def head(self) -> str:
        return ""

    def dump(self, row: Mapping[str, Any]) -> str:
        return json.dumps(row, ensure_ascii=False) + "\n"

    def load(self, file: IO[str]) -> Iterator[Row | None]:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            yield row if isinstance(row, dict) and isinstance(row.get("file"), str) else None


class _Csv:
    def __init__(self, names: list[str]) -> None:
        self._names = names

    def head(self) -> str:
        return self._line(self._names)

    def dump(self, row: Mapping[str, Any]) -> str:
        return self._line([row.get(name, "") for name in self._names])

    def load(self, file: IO[str]) -> Iterator[Row | None]:
        rows = csv.reader(file)
        try:
            if next(rows, None) != self._names:
                yield None
            for row in rows:
                whole = len(row) == len(self._names)
                yield dict(zip(self._names, row, strict=True)) if whole else None
        except csv.Error:
            yield None

    @staticmethod
    def _line(values: Sequence[Any]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        return text.getvalue()


# --- what the rows are of ----------------------------------------------------------------------


class _Note:
    """What a file's rows depend on, in a file beside it that is locked while they are written.

    Its first line is that, its last one the size of the file when all was there.
    """

    def __init__(self, path: Path, of: Path) -> None:
        self._path, self._of = path, of

    def __enter__(self) -> _Note:
        self._file = self._path.open("a+", encoding="utf-8", errors="replace")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise RunError(
                f"{str(self._of)!r} is being written by another raudio predict; wait for it, or "
                "give another --out"
            ) from None
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()

    def check(self, begun: Mapping[str, Any], there: bool) -> None:
        """Refuses rows of anything but `begun`; notes it where there are no rows yet."""
        lines = self._lines()
        if not there:
            self._file.truncate(0)
            self._append(dict(begun))
            return
        if not lines:
            self._path.unlink()
            raise RunError(
                f"{str(self._of)!r} exists already, and no {self._path.name!r} says what it is of; "
                "remove it, or give another --out"
            )
        others = [
            f"{name}={lines[0].get(name)!r} instead of {value!r}"
            for name, value in begun.items()
            if not name.startswith("_") and lines[0].get(name) != value
        ]
        if others:
            raise RunError(
                f"{str(self._of)!r} was begun with another bundle or other options "
                f"({', '.join(others)}); give these again, or another --out"
            )

    def is_complete(self) -> bool:
        """Whether the last process that wrote came to its end; from now on this one writes."""
        size = self._lines()[-1].get("_bytes")
        if size is not None:
            self._append({"_bytes": None})
        return self._of.exists() and size == self._of.stat().st_size

    def complete(self) -> None:
        """Notes that all is there."""
        self._append({"_bytes": self._of.stat().st_size})

    def _append(self, line: Row) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()

    def _lines(self) -> list[Row]:
        self._file.seek(0)
        found = []
        for line in self._file:
            try:
                found.append(json.loads(line))
            except ValueError:
                break
        return [line for line in found if isinstance(line, dict)]


@contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when it is written, flushed to the disk."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
