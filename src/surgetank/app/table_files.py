"""Tables into files, and files into tables: `tank.tables.export_to`, `tank.tables.import_from`.

An export is one moment of the table, and its file is there when it is complete. An import goes through the file in
batches that are always the same and have a key each, so that an interrupted one is continued by the same call.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from surgetank.app.aside import file_aside, folder_aside, problems
from surgetank.exceptions import (
    BufferFull,
    Conflict,
    EntryRejected,
    InvalidRequest,
    StateCorrupt,
)
from surgetank.model import FlushJob
from surgetank.streams.tables.definition import NOBODY, USER, Kind, Table

if TYPE_CHECKING:
    import pyarrow as pa

    from surgetank.app.table_room import OpenTables
    from surgetank.streams.tables.exchange.reading import FileBatch, RowsFile
    from surgetank.streams.tables.insertion import BadRow as BadRow  # noqa: PLC0414 - given on
    from surgetank.streams.tables.insertion import Inserted
    from surgetank.streams.tables.reader import View
    from surgetank.streams.tables.sql.statements import TableName

ExportForm = Literal["parquet", "csv", "ndjson", "delta"]
ImportForm = Literal["parquet", "csv", "ndjson"]
Progress = Callable[[int, int], None]
_HOT_BYTES = (
    64 * 1024**2
)  # more than this is flushed before an export, which has hot rows in memory
_PIECE = 1024**2
_FLUSHES = 3  # in vain, until an import gives up
_EXPORTS = 3  # tries of one export
_LISTED = 1000
_ROW = re.compile(r"\$\[(\d+)\](.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TableExport:
    """What was exported: so many rows of the table as it was at `snapshot`. `stale`: the database
    was away, and rows in files are as they were known last."""

    table: str
    path: Path
    form: str
    rows: int
    bytes: int
    snapshot: int
    stale: bool


@dataclass(slots=True)
class TableImport:
    """What an import did so far: `rows` were new, `updated` and `ignored` had a key that was there,
    `repeated` were stored by an earlier call, `bad_rows` can't be stored, of which `bad` are the
    first 1,000. `job` is the flush at its end."""

    table: str
    path: Path
    form: str
    created: bool = False
    rows: int = 0
    updated: int = 0
    ignored: int = 0
    repeated: int = 0
    bad_rows: int = 0
    bad: list[BadRow] = field(default_factory=list)
    job: FlushJob | None = None

    def add(self, done: Inserted) -> None:
        """One batch more."""
        if done.repeated:
            self.repeated += done.rows
        else:
            self.rows, self.updated = self.rows + done.rows, self.updated + done.updated
            self.ignored += done.ignored
        self.bad_rows += done.bad_rows
        self.bad += done.bad[: max(0, _LISTED - len(self.bad))]


# -- out


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportWishes:
    """How a table is exported: the rows of one user, or all."""

    form: ExportForm
    user: str | None = None
    replace: bool = False
    progress: Progress | None = None


def export_table(
    tables: OpenTables, table: Table, target: Path, wishes: ExportWishes
) -> TableExport:
    """Write the table, or one user's rows of it, to a file (`delta`: a folder). It begins again where
    files of the table go while it is written."""
    from surgetank.streams.tables.exchange import outgoing  # noqa: PLC0415 - an extra

    if wishes.form not in outgoing.FORMS:
        raise InvalidRequest(
            f"{wishes.form!r:.80} is no form of a table.",
            remedy=f"use {', '.join(outgoing.FORMS)}.",
        )
    waiting = next((each for each in tables.hot.waiting() if each.table.id == table.id), None)
    if waiting is not None and waiting.bytes > _HOT_BYTES:
        tables.flusher.run("manual", partition=table.full_name)
    for _ in range(_EXPORTS):
        with suppress(_Rewritten):
            return _export(tables, table, target, wishes)
    raise Conflict(
        f"{table.full_name} was rewritten while it was exported, {_EXPORTS} times, and what it was is no longer"
        " kept.",
        remedy="export it again when nobody is being erased, or one user at a time.",
    )


def _export(tables: OpenTables, table: Table, target: Path, wishes: ExportWishes) -> TableExport:
    """One try of it. Raises `_Rewritten`: nothing is at the target then."""
    from surgetank.streams.tables.exchange import outgoing  # noqa: PLC0415 - an extra

    form, progress = wishes.form, wishes.progress
    aside = folder_aside if form == "delta" else file_aside
    counted = 0
    with ExitStack() as stack:
        path = stack.enter_context(aside(target, replace=wishes.replace))
        with tables.reader.view(table, user=wishes.user) as view:
            pass  # left at once: its rows stay readable, and an erasure waits for who has it open
        total = view.hot.num_rows + view.cold.rows

        def rows() -> Iterator[pa.RecordBatch]:
            nonlocal counted
            for batch in _scan(tables, view):
                counted += batch.num_rows
                if batch.num_rows:
                    yield outgoing.chosen(batch, table)
                if progress is not None:
                    progress(counted, max(total, counted))

        with problems(target):
            outgoing.WRITERS[form](table, rows(), path)
        size = sum(each.stat().st_size for each in _files(path))
    return TableExport(
        table=table.full_name,
        path=target,
        form=form,
        rows=counted,
        bytes=size,
        snapshot=view.cold.snapshot,
        stale=view.stale,
    )


def _files(path: Path) -> list[Path]:
    return [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]


class _Rewritten(Exception):
    """Files that a view shows are gone: a user was erased, and they were written without them."""


def _scan(tables: OpenTables, view: View) -> Iterator[pa.RecordBatch]:
    """The rows of a view. Files that were merged stay for days; one that an erasure wrote again goes after
    a quarter of an hour. Then the view has rows that nobody may be given any more: it is left."""
    try:
        yield from tables.reader.scan(view)
    except StateCorrupt as error:
        now = {file.path for file in tables.cold.live(view.table, stores=()).files}
        if any(file.path not in now for file in view.cold.files):
            raise _Rewritten from error
        raise


# -- in


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportWishes:
    """How a file is imported."""

    user: str | None = None
    user_column: str | None = None
    create: bool = False
    kind: Kind | None = None
    key: Sequence[str] = ()
    on_bad: Literal["refuse", "skip"] = "refuse"
    on_conflict: Literal["refuse", "nothing", "update"] = "refuse"
    again: str = ""
    bad: Callable[[BadRow], None] | None = None
    progress: Progress | None = None


class FileImport:
    """One import. `report` is right at any moment, also when it stopped."""

    def __init__(
        self, tables: OpenTables, name: TableName, file: RowsFile, wishes: ImportWishes
    ) -> None:
        self._tables, self._name, self._file, self._wishes = tables, name, file, wishes
        self.report = TableImport(str(name), file.path, file.form)

    def run(self) -> TableImport:
        """Import. Raises `EntryRejected` naming a row of the file, before anything is stored;
        `Conflict` for a PRIMARY KEY that is there, `BufferFull`."""
        digest = self._digest()
        column = self._wishes.user_column or self._own_column()
        table = self._table(column)
        self._check_users(table, column)
        if self._wishes.on_bad == "refuse":
            self._check(table, column)
        for number, batch in enumerate(self._file.batches(table, user_column=column)):
            self._insert(table, batch, f"import:{digest}:{number}")
            self._tell(batch)
        if table.kind is not Kind.STREAM:
            self.report.job = self._tables.flusher.run("manual", partition=table.full_name)
        return self.report

    def _digest(self) -> str:
        """What tells this import from others: the file, and how its rows are read."""
        wishes = self._wishes
        digest = hashlib.sha256(
            json.dumps([self._file.form, wishes.user_column, wishes.again]).encode()
        )
        for piece in self._file.read(_PIECE):
            digest.update(piece)
        return digest.hexdigest()[:40]

    def _own_column(self) -> str | None:
        """`_user`, as an export writes it."""
        if self._wishes.user is not None:
            return None
        return USER if USER in self._file.names() else None

    def _table(self, column: str | None) -> Table:
        from surgetank.streams.tables.exchange.inferring import columns_for  # noqa: PLC0415 - an extra
        from surgetank.streams.tables.sql.statements import CreateTable  # noqa: PLC0415

        catalog, name, wishes = self._tables.catalog, self._name, self._wishes
        found = catalog.find(name.namespace, name.name)
        if found is not None or not wishes.create:
            return found or catalog.get(name.namespace, name.name)
        kind = wishes.kind or Kind.USER
        wanted = CreateTable(
            table=name,
            columns=columns_for(self._file, without=column or USER),
            key=tuple(wishes.key),
            kind=kind,
        )
        catalog.create_namespace(name.namespace, actor="library", if_not_exists=True)
        made = self._tables.create(wanted, actor="library")
        self.report.created = True
        return made

    def _check_users(self, table: Table, column: str | None) -> None:
        wishes = self._wishes
        if not table.by_user and (wishes.user is not None or wishes.user_column is not None):
            raise InvalidRequest(
                f"{table.full_name} is a SHARED table: its rows are nobody's.",
                remedy="leave out whose they are.",
            )
        if wishes.user is not None and wishes.user_column is not None:
            raise InvalidRequest("Whose the rows are is said twice.", remedy="say it once.")
        named = wishes.user is not None or column is not None or self._file.form == "ndjson"
        if table.by_user and not named:
            raise InvalidRequest(
                f"Rows of {table.full_name} belong to users, and nobody is named.",
                remedy="name the user, or the column that has them (--user, --user-column).",
            )

    def _check(self, table: Table, column: str | None) -> None:
        """Nothing is stored of a file with a row that can't be."""
        from surgetank.streams.tables.exchange.reading import SOURCES  # noqa: PLC0415 - an extra

        source = SOURCES[self._file.form]
        for batch in self._file.batches(table, user_column=column):
            try:
                self._tables.ingest.bad_rows(
                    table, batch.rows, user=self._wishes.user, source=source, on_bad="refuse"
                )
            except EntryRejected as error:
                raise _moved(error, batch.first) from error

    def _insert(self, table: Table, batch: FileBatch, key: str) -> None:
        from surgetank.streams.tables.exchange.reading import SOURCES  # noqa: PLC0415 - an extra
        from surgetank.streams.tables.insertion import KeyTaken  # noqa: PLC0415
        from surgetank.streams.tables.sql.statements import OnConflict  # noqa: PLC0415

        wishes, source, left = self._wishes, SOURCES[self._file.form], _FLUSHES
        user = wishes.user if table.by_user else NOBODY
        while True:
            try:
                done = self._tables.ingest.insert(
                    table,
                    batch.rows,
                    user=user,
                    source=source,
                    on_bad=wishes.on_bad,
                    on_conflict=OnConflict(wishes.on_conflict),
                    key=key,
                    most_bad=batch.count,
                )
                break
            except BufferFull:
                left -= 1
                if not left or table.kind is Kind.STREAM:
                    raise
                self._tables.flusher.run("manual", partition=table.full_name)
            except EntryRejected as error:
                raise _moved(error, batch.first) from error
            except KeyTaken as error:
                raise error.moved(batch.first) from error
        if done.repeated and wishes.on_bad == "skip":
            bad = self._tables.ingest.bad_rows(
                table, batch.rows, user=user, source=source, on_bad="skip"
            )
            done = replace(done, bad=bad, bad_rows=len(bad))
        shown = [
            replace(each, index=each.index + batch.first, path=_path(each.path, batch.first))
            for each in done.bad
        ]
        self.report.add(replace(done, bad=tuple(shown)))
        for each in shown:
            if wishes.bad is not None:
                wishes.bad(each)

    def _tell(self, batch: FileBatch) -> None:
        if self._wishes.progress is not None:
            self._wishes.progress(batch.read, self._file.size)


def _path(path: str, first: int) -> str:
    found = _ROW.fullmatch(path)
    return path if found is None else f"$[{int(found[1]) + first}]{found[2]}"


def _moved(error: EntryRejected, first: int) -> EntryRejected:
    """The same of a row of the file."""
    return EntryRejected(
        partition=error.partition,
        path=_path(error.path, first),
        reason=error.reason,
        remedy=error.remedy,
    )
