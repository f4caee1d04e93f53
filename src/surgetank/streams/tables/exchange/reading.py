"""Rows of a file, in batches that are always the same for the same file: Parquet, CSV, lines of JSON.

A batch is bounded in rows and bytes, whatever the file is like, and knows the number of its first row, so that a row
that can't be stored is named by where it is in the file.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from surgetank.encode import jsontext
from surgetank.exceptions import Conflict, InvalidRequest
from surgetank.streams.tables.arrows import Unreadable
from surgetank.streams.tables.definition import USER, Table
from surgetank.streams.tables.types import ColumnType
from surgetank.streams.tables.values import Source

FORMS = ("parquet", "csv", "ndjson")
_SUFFIXES = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
}
_ROWS, _BYTES = 20_000, 32 * 1024**2  # of a batch
_LINE = 64 * 1024**2  # the longest line
SOURCES: Mapping[str, Source] = {"parquet": Source.PYTHON, "csv": Source.SQL, "ndjson": Source.JSON}


@dataclass(frozen=True, slots=True)
class FileBatch:
    """Some rows: Arrow, or mappings. `first` is the number of the first one in the file, from 0;
    `read` is how much of the file was read, in bytes."""

    first: int
    rows: Any
    count: int
    read: int


def form_of(path: Path, form: str | None) -> str:
    """The form of a file, by its name where nothing is said. Raises `InvalidRequest`."""
    found = form or _SUFFIXES.get(path.suffix.lower())
    if found not in FORMS:
        raise InvalidRequest(
            f"What {path.name[:200]!r} is can't be told from its name.",
            remedy=f"say it: {', '.join(FORMS)}.",
        )
    return found


class RowsFile:
    """A file of rows. It is opened once: a file that is put under its name later is another."""

    def __init__(self, path: Path, form: str) -> None:
        self.path, self.form = path, form
        with _problems(path):
            self._file = path.open("rb")
        self._state = os.fstat(self._file.fileno())

    def __enter__(self) -> RowsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def size(self) -> int:
        """How long it is."""
        return self._state.st_size

    def read(self, most: int) -> Iterator[bytes]:
        """All of it, in pieces."""
        self._file.seek(0)
        with _problems(self.path):
            while piece := self._file.read(most):
                yield piece
        self._check()

    def names(self) -> list[str]:
        """The columns, by what the file says of them; none for lines of JSON."""
        with _problems(self.path):
            self._file.seek(0)
            match self.form:
                case "parquet":
                    return list(pq.ParquetFile(self._file).schema_arrow.names)
                case "csv":
                    return _csv_names(self._file, self.path)
        return []

    def schema(self) -> pa.Schema:
        """The schema of a Parquet file."""
        with _problems(self.path):
            self._file.seek(0)
            return pq.ParquetFile(self._file).schema_arrow

    def batches(self, table: Table, *, user_column: str | None = None) -> Iterator[FileBatch]:
        """The rows for a table. The values of `user_column` become `_user`. Raises
        `InvalidRequest` for what can't be read, `Conflict` for a file that is changed meanwhile."""
        self._file.seek(0)
        with _problems(self.path):
            match self.form:
                case "parquet":
                    made = self._parquet(user_column)
                case "csv":
                    made = self._csv(table, user_column)
                case _:
                    made = self._ndjson(user_column)
            for batch in made:
                self._check()
                yield batch

    def _check(self) -> None:
        now = os.fstat(self._file.fileno())
        before = self._state
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise Conflict(
                f"{self.path} was changed while it was read.",
                remedy="import a copy that nobody writes to; what was stored stays.",
            )

    def _parquet(self, user_column: str | None) -> Iterator[FileBatch]:
        file = pq.ParquetFile(self._file)
        total, first = file.metadata.num_rows, 0
        groups = [file.metadata.row_group(at) for at in range(file.metadata.num_row_groups)]
        each = max((g.total_byte_size / max(1, g.num_rows) for g in groups), default=1)
        at_once = max(1, min(_ROWS, int(_BYTES / max(1.0, each))))
        for batch in file.iter_batches(batch_size=at_once, use_threads=False):
            rows = pa.Table.from_batches([batch])
            if user_column is not None:
                rows = rows.rename_columns(_renamed(rows.column_names, user_column))
            read = self.size * (first + batch.num_rows) // max(1, total)
            yield FileBatch(first, rows, batch.num_rows, read)
            first += batch.num_rows

    def _ndjson(self, user_column: str | None) -> Iterator[FileBatch]:
        def rows() -> Iterator[tuple[Any, int]]:
            while line := self._file.readline(_LINE):
                size = len(line)
                if size == _LINE and not line.endswith(b"\n"):
                    while (rest := self._file.readline(_LINE)) and not rest.endswith(b"\n"):
                        pass
                    yield Unreadable(f"a line longer than {_LINE >> 20} MB"), size
                    continue
                if line.strip():
                    yield _of_line(line, user_column), size

        yield from _batched(rows(), self._file.tell)

    def _csv(self, table: Table, user_column: str | None) -> Iterator[FileBatch]:
        names = _csv_names(self._file, self.path)
        shown = _renamed(names, user_column) if user_column is not None else names
        kinds = [None if (found := table.column(name)) is None else found.type for name in shown]
        forms = [_from_text(kind) for kind in kinds]
        self._file.seek(0)

        def rows() -> Iterator[tuple[Any, int]]:
            for cells in _csv_rows(self._file, names):
                if isinstance(cells, Unreadable):
                    yield cells, 0
                    continue
                size = sum(len(cell) for cell in cells if cell is not None)
                yield _of_cells(shown, forms, cells), size

        yield from _batched(rows(), self._file.tell)


def _batched(rows: Iterable[tuple[Any, int]], tell: Callable[[], int]) -> Iterator[FileBatch]:
    first, waiting, size = 0, list[Any](), 0
    for row, length in rows:
        waiting.append(row)
        size += length
        if len(waiting) >= _ROWS or size >= _BYTES:
            yield FileBatch(first, waiting, len(waiting), tell())
            first, waiting, size = first + len(waiting), [], 0
    if waiting:
        yield FileBatch(first, waiting, len(waiting), tell())


def _renamed(names: Sequence[str], user_column: str) -> list[str]:
    if user_column not in names:
        raise InvalidRequest(
            f"The file has no column {user_column[:80]!r}.",
            remedy=f"its columns are {', '.join(names)[:400]}.",
        )
    return [USER if name == user_column else name for name in names]


def _of_line(line: bytes, user_column: str | None) -> Any:
    try:
        row = jsontext.loads(line)
    except (ValueError, RecursionError) as error:
        return Unreadable(f"no JSON: {str(error)[:200]}")
    if not isinstance(row, dict):
        return Unreadable("it is no JSON object")
    if user_column is not None and user_column in row:
        row[USER] = row.pop(user_column)
    return row


# -- CSV


def _csv_names(file: IO[bytes], path: Path) -> list[str]:
    head = file.read(_LINE // 64)
    try:
        text = head.decode("utf-8-sig", "surrogateescape")  # what follows the line is read later
        names = next(csv.reader(io.StringIO(text, newline=""), strict=True), [])
        "".join(names).encode()
    except (UnicodeEncodeError, csv.Error) as error:
        raise InvalidRequest(
            f"The first line of {path} can't be read ({error}).",
            remedy="it has the names of the columns, in UTF-8.",
        ) from error
    if not names or len(set(names)) != len(names) or not all(names):
        raise InvalidRequest(
            f"The first line of {path} has no names of columns, or one twice.",
            remedy="write a line of names.",
        )
    return names


def _csv_rows(file: IO[bytes], names: Sequence[str]) -> Iterator[list[bytes | None] | Unreadable]:
    """Cells as they are; None where there is nothing, not even quotes."""
    refused: dict[int, Unreadable] = {}

    def refuse(row: Any) -> str:
        refused[row.number] = Unreadable(
            f"it has {row.actual_columns} values, and there are {row.expected_columns} columns"
        )
        return "skip"

    numbers = [str(at) for at in range(len(names))]
    reader = pyarrow.csv.open_csv(
        _AsText(file),
        read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=_BYTES, column_names=numbers),
        parse_options=pyarrow.csv.ParseOptions(
            newlines_in_values=True, invalid_row_handler=refuse, ignore_empty_lines=len(names) > 1
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(numbers, pa.binary()), strings_can_be_null=True, null_values=[""],
            quoted_strings_can_be_null=False, check_utf8=False,
        ),
    )  # fmt: skip
    at = 1  # the line of names is the first row
    for batch in reader:
        for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            while at in refused:
                yield refused.pop(at)
                at += 1
            if at > 1:
                yield [None if cell is None else cell.decode().encode("latin-1") for cell in cells]
            at += 1
    yield from (refused[number] for number in sorted(refused))


class _AsText(io.RawIOBase):
    """Any bytes as UTF-8, a character each: the reader of CSV gives up at a row that is none."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes."""
        piece = self._file.read(size if size < 0 else max(1, size // 2))
        return piece.decode("latin-1").encode()


def _of_cells(
    names: Sequence[str], forms: Sequence[Callable[[str], Any]], cells: Sequence[bytes | None]
) -> Any:
    try:
        return {
            name: None if cell is None else form(cell.decode())
            for name, form, cell in zip(names, forms, cells, strict=True)
        }
    except UnicodeDecodeError as error:
        return Unreadable(f"no UTF-8: {error.reason}")


def _from_text(kind: ColumnType | None) -> Callable[[str], Any]:
    """A cell as `Source.SQL` reads it."""
    if kind is None:
        return str
    if kind.is_list:
        item = _from_json(kind.item)
        return lambda text: _list_of(text, item)
    return _bytes_of if kind.name == "BYTES" else str


def _list_of(text: str, item: Callable[[Any], Any]) -> Any:
    try:
        values = jsontext.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(values, list):
        return text
    return [None if value is None else item(value) for value in values]


def _from_json(kind: ColumnType) -> Callable[[Any], Any]:
    """A value of JSON as `Source.SQL` reads it."""
    if kind.name == "JSON":
        return lambda value: jsontext.dumps_clean(value).decode()
    if kind.name == "BYTES":
        return lambda value: _bytes_of(value) if isinstance(value, str) else value
    return lambda value: value


def _bytes_of(text: str) -> Any:
    """Base64, as it is exported."""
    if text.startswith("\\x"):
        return text
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return text


@contextmanager
def _problems(path: Path) -> Iterator[None]:
    try:
        yield
    except InvalidRequest:
        raise
    except (OSError, pa.ArrowException, ValueError) as error:
        raise InvalidRequest(
            f"{path} can't be read ({str(error)[:300]}).",
            remedy="look whether it is complete, and of the form that its name says.",
        ) from error
