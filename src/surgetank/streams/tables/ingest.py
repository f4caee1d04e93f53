"""Inserting: rows of Python, JSON, SQL or Arrow are checked, given their defaults, and accepted together.

    ingest = TableIngest(hot, cold)
    ingest.insert(table, [{"sku": "a-1"}], user="ann")

A batch is accepted or refused as one; with `on_bad="skip"` the rows that can't be stored are listed, and the others
accepted. Up to some thousand rows become typed rows, more become a segment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from surgetank.encode import jsontext
from surgetank.exceptions import EntryRejected
from surgetank.streams.tables import arrows, insertion
from surgetank.streams.tables.arrows import Unreadable
from surgetank.streams.tables.cold.protocol import ColdTables
from surgetank.streams.tables.definition import NOBODY, USER, Table
from surgetank.streams.tables.hot.protocol import BatchKey, Change, HotTables, Op
from surgetank.streams.tables.insertion import BadRow, Batch, Inserted, OnBad, Present, stored
from surgetank.streams.tables.rows import Row, RowForm, utc_now
from surgetank.streams.tables.sql.statements import OnConflict
from surgetank.streams.tables.values import Source


def ndjson(data: bytes | Iterable[bytes]) -> Iterator[Any]:
    """The rows of lines of JSON; empty lines are none."""
    lines = data.splitlines() if isinstance(data, bytes) else data
    for line in lines:
        if not line.strip():
            continue
        try:
            yield jsontext.loads(line)
        except (ValueError, RecursionError) as error:
            yield Unreadable(f"no JSON: {str(error)[:200]}")


class TableIngest:
    """Inserts into tables. For any number of threads. Whose rows they are is the caller's to decide:
    `user` None means that each row names its own in `_user`."""

    def __init__(
        self, hot: HotTables, cold: ColdTables, *, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._present, self._now = Present(hot, cold), now
        self._forms: dict[int, RowForm] = {}  # by table, of the newest schema that was used

    def insert(
        self,
        table: Table,
        rows: Any,
        *,
        user: str | None = None,
        source: Source = Source.PYTHON,
        columns: Sequence[str] | None = None,
        on_bad: OnBad = "refuse",
        on_conflict: OnConflict = OnConflict.REFUSE,
        updates: Sequence[str] = (),
        key: str | None = None,
        most_bad: int = insertion.MOST_BAD,
        unless_erased_since: int | None = None,
    ) -> Inserted:
        """Insert rows: mappings, sequences of values (of `columns`, or of all), or Arrow. `key` is an
        idempotency key, `updates` the columns that ON CONFLICT DO UPDATE sets (none: all),
        `most_bad` how many rows that are left out are listed, `unless_erased_since` is what
        `HotTables.erasures` was when the rows were read.

        Raises `EntryRejected` naming the row's index, column and reason; `Conflict` for a PRIMARY KEY
        that is there, hot or cold, and for a key that was used for other rows; `BufferFull`.
        """
        if (
            type(rows) is list
            and len(rows) == 1
            and type(rows[0]) is dict
            and (user is not None or not table.by_user)
            and not (table.key or key is not None or on_bad == "skip")
            and unless_erased_since is None
            and on_conflict is OnConflict.REFUSE
        ):
            return self._insert_one(table, rows[0], user if table.by_user else NOBODY, source)
        batch = Batch(
            self._present,
            table,
            user=user if table.by_user else NOBODY,
            source=source,
            on_bad=on_bad,
            on_conflict=on_conflict,
            updates=updates,
            most_bad=most_bad,
            unless_erased_since=unless_erased_since,
        )
        if arrows.is_arrow(rows):
            given = arrows.as_table(rows)
            named = None if key is None else BatchKey(key, _arrow_digest(given), batch.owner)
            if (known := self._repeated(table, named)) is not None:
                return known
            shaped = self._shaped(table, given, batch)
            if (
                shaped is not None
                and on_conflict is OnConflict.REFUSE
                and given.num_rows >= insertion.SEGMENT_ROWS
            ):
                return batch.accept_arrow(shaped, named)
            if shaped is not None:
                return batch.accept(stored(table, shaped, range(len(table.columns))), named)
            rows = list(arrows.single(given))
        else:
            rows = list(rows)
            named = None if key is None else BatchKey(key, _digest(rows, columns), batch.owner)
            if (known := self._repeated(table, named)) is not None:
                return known
        return batch.accept(self._read(batch, rows, columns), named)

    def _insert_one(
        self, table: Table, row: dict[str, Any], user: str | None, source: Source
    ) -> Inserted:
        """One row where nothing is to be found out: what most inserts are, without what others
        need."""
        assert user is not None
        values = self._form(table).read(row, user=user, source=source, index=0)
        accepted = self._present.hot.accept(table, (Change(user, Op.INSERT, values),))
        return Inserted(1, first=accepted.first, last=accepted.last)

    def bad_rows(
        self, table: Table, rows: Any, *, user: str | None, source: Source, on_bad: OnBad
    ) -> tuple[BadRow, ...]:
        """The rows that `insert` would refuse for what is in them. Nothing is stored. Raises
        `EntryRejected` for the first one, unless `on_bad` is "skip"."""
        batch = Batch(
            self._present,
            table,
            user=user if table.by_user else NOBODY,
            source=source,
            on_bad=on_bad,
            on_conflict=OnConflict.REFUSE,
            updates=(),
            most_bad=len(rows),
        )
        if arrows.is_arrow(rows):
            given = arrows.as_table(rows)
            if self._shaped(table, given, batch) is not None:
                return ()
            rows = list(arrows.single(given))
        self._read(batch, rows, None)
        return batch.bad

    def _repeated(self, table: Table, batch: BatchKey | None) -> Inserted | None:
        known = None if batch is None else self._present.hot.repeated(table, batch)
        if known is None:
            return None
        return Inserted(known.rows, first=known.first, last=known.last, repeated=True)

    def _shaped(self, table: Table, given: pa.Table, batch: Batch) -> pa.Table | None:
        """None where single rows are to be left out: they are found one by one."""
        try:
            rows = arrows.shaped(table, given, batch.user, self._now, batch.source)
            for error in self._present.hot.large_rows(table, rows):
                raise error
            return rows
        except EntryRejected:
            if batch.on_bad == "skip":
                return None
            raise

    def _read(
        self, batch: Batch, rows: Iterable[Any], columns: Sequence[str] | None
    ) -> list[tuple[int, str, Row]]:
        form, table = self._form(batch.table), batch.table
        names = [column.name for column in table.columns] if columns is None else list(columns)
        read: list[tuple[int, str, Row]] = []
        for index, given in enumerate(rows):
            try:
                user, row = _owner(batch, given, index)
                if isinstance(row, (tuple, list)):
                    values = form.values(names, row, user=user, source=batch.source, index=index)
                else:
                    values = form.read(row, user=user, source=batch.source, index=index)
                large = self._present.hot.too_large(table, user, values, index)
                if large is not None:
                    raise large
                read.append((index, user, values))
            except EntryRejected as error:
                batch.refuse(index, error)
        return read

    def _form(self, table: Table) -> RowForm:
        """Compiled once: that takes longer than a row."""
        known = self._forms.get(table.id)
        if known is None or not (known.table is table or known.table == table):
            known = self._forms[table.id] = RowForm(table, now=self._now)
        return known


def _owner(batch: Batch, row: Any, index: int) -> tuple[str, Any]:
    """Whose row it is, and the row without that."""
    table = batch.table
    if isinstance(row, Unreadable):
        raise EntryRejected(
            partition=table.partition(batch.owner), path=f"$[{index}]", reason=row.reason
        )
    if batch.user is not None:
        return batch.user, row
    user = row.get(USER) if isinstance(row, Mapping) else None
    if not isinstance(user, str) or not user:
        raise EntryRejected(
            partition=table.full_name,
            path=f"$[{index}].{USER}",
            reason="nobody is named whose row it is",
            remedy=f"give a user, or a text as {USER} in each row.",
        )
    return user, {name: value for name, value in row.items() if name != USER}


def _digest(rows: Sequence[Any], columns: Sequence[str] | None) -> bytes:
    """Of rows as they were given: the same rows give the same one, before any default."""
    digest = hashlib.sha256(jsontext.dumps(list(columns or ())))
    for row in rows:
        digest.update(jsontext.dumps(row if not isinstance(row, Unreadable) else row.reason))
        digest.update(b"\n")
    return digest.digest()


def _arrow_digest(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows.combine_chunks())
    return hashlib.sha256(sink.getvalue()).digest()
