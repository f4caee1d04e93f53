"""Hot and cold rows of tables in plain lists: as little as a reader and a statement need of either."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from surgetank.exceptions import Conflict
from surgetank.streams.tables.cold.protocol import ColdTable
from surgetank.streams.tables.definition import SEQ, USER, Table
from surgetank.streams.tables.hot.protocol import (
    DELETED,
    OP,
    VERSION,
    Accepted,
    Change,
    Op,
    Pending,
)
from surgetank.streams.tables.keys import row_key


class MemoryHot:
    """Accepted changes, in order."""

    def __init__(self) -> None:
        self.changes: list[tuple[int, Change]] = []
        self.refuse_times = 0  # accept fails so often with `Conflict` first

    def accept(
        self,
        table: Table,
        changes: Sequence[Change],
        *,
        unless_newer_than: int | None = None,
        **_: Any,
    ) -> Accepted:
        if self.refuse_times:
            self.refuse_times -= 1
            raise Conflict("changed meanwhile")
        concerned = {each.seq for each in changes if each.seq is not None}
        newest = max((v for v, each in self.changes if each.seq in concerned), default=0)
        if unless_newer_than is not None and newest > unless_newer_than:
            raise Conflict("changed meanwhile")
        first = len(self.changes) + 1
        for version, each in enumerate(changes, first):
            seq = version if each.seq is None else each.seq
            self.changes.append((version, Change(each.user, each.op, each.values, seq)))
        return Accepted(first, len(self.changes))

    def insert(self, table: Table, *rows: tuple[str, tuple[Any, ...]]) -> None:
        self.accept(table, [Change(user, Op.INSERT, values) for user, values in rows])

    def acks(self, table: Table) -> int:
        return 0

    def erasures(self) -> int:
        return 0

    def known_keys(self, table: Table, user: str, keys: Sequence[bytes]) -> dict[bytes, int]:
        encode = row_key(table)
        assert encode is not None
        found = {}
        for _, each in self.changes:
            if each.user == user and encode(each.values) in keys:
                deleted = each.op is Op.DELETE
                found[encode(each.values)] = DELETED if deleted else each.seq or 0
        return found

    @contextmanager
    def snapshot(self) -> Iterator[_Snapshot]:
        yield _Snapshot(list(self.changes))


class _Snapshot:
    def __init__(self, changes: list[tuple[int, Change]]) -> None:
        self._changes = changes

    def through(self, table: Table) -> int:
        return len(self._changes)

    def stores(self, table: Table) -> tuple[str, ...]:
        return ()

    def rows(
        self,
        table: Table,
        *,
        user: str | None = None,
        columns: Sequence[str] | None = None,
        **_: Any,
    ) -> pa.Table:
        mine = [(v, each) for v, each in self._changes if user is None or each.user == user]
        owner = {USER: pa.array([each.user for _, each in mine], pa.string())}
        shown = owner if table.by_user else {}
        shown[SEQ] = pa.array([each.seq for _, each in mine], pa.int64())
        shown[VERSION] = pa.array([v for v, _ in mine], pa.int64())
        shown[OP] = pa.array([int(each.op) for _, each in mine], pa.int8())
        for at, column in enumerate(table.columns):
            if columns is None or column.name in columns:
                values = [each.values[at] for _, each in mine]
                kind = column.type.arrow
                known = any(value is not None for value in values)
                shown[column.name] = (
                    pa.array(values, kind) if known else pa.nulls(len(values), kind)
                )
        return pa.table(shown)

    def pending(
        self, table: Table, *, user: str | None, columns: Sequence[str], **_: Any
    ) -> Pending:
        return Pending(self.rows(table, user=user, columns=columns))


class NoCold:
    """Nothing was flushed yet."""

    folder = Path("/nowhere")

    def live(self, table: Table, **_: Any) -> ColdTable:
        return ColdTable(0, (), {})

    def known_keys(
        self, table: Table, user: str, keys: Sequence[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], int]:
        return {}
