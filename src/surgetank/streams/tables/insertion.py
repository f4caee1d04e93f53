"""One insert: which rows are new, which have a key that is there, hot or cold, and what becomes of those."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute

from surgetank.exceptions import Conflict, EntryRejected, InvalidRequest
from surgetank.streams.tables.cold.protocol import ColdTables
from surgetank.streams.tables.definition import NOBODY, SEQ, USER, Kind, Table
from surgetank.streams.tables.hot.columns import array_of, keeper
from surgetank.streams.tables.hot.protocol import (
    DELETED,
    DELETION_PARKED,
    Accepted,
    BatchKey,
    Change,
    ErasedSince,
    HotTables,
    Op,
)
from surgetank.streams.tables.keys import row_key
from surgetank.streams.tables.reader import TableReader
from surgetank.streams.tables.rows import Row
from surgetank.streams.tables.sql.statements import OnConflict
from surgetank.streams.tables.values import Source

pc: Any = pyarrow.compute  # its functions are made when it is imported
SEGMENT_ROWS = 2_000  # from here on a batch becomes a segment
_ATTEMPTS = 8
MOST_BAD = 1_000  # that are listed
OnBad = Literal["refuse", "skip"]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was not accepted, and why. `index` counts from 0 in what was given."""

    index: int
    path: str
    reason: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Inserted:
    """What an insert did. `rows` were new, `updated` had a key that was there, `ignored` too, with
    ON CONFLICT DO NOTHING. `repeated` tells that its idempotency key was known."""

    rows: int = 0
    updated: int = 0
    ignored: int = 0
    bad: tuple[BadRow, ...] = ()
    bad_rows: int = 0
    first: int = 0
    last: int = 0
    repeated: bool = False


class KeyTaken(Conflict):
    """A row whose PRIMARY KEY is there: `index` counts from 0 in what was given, `column` is the
    first of the key."""

    def __init__(self, index: int, column: str, why: str, remedy: str) -> None:
        super().__init__(f"Row {index}: {why}.", remedy=remedy)
        self.index, self.column, self.why = index, column, why

    def moved(self, by: int) -> KeyTaken:
        """The same, counted from before what was given."""
        return KeyTaken(self.index + by, self.column, self.why, self.remedy)


class Present:
    """What a table has already, hot or cold."""

    def __init__(self, hot: HotTables, cold: ColdTables) -> None:
        self.hot = hot
        self._cold = cold
        self._reader = TableReader(hot, cold)

    def known(
        self, table: Table, user: str, keys: Mapping[bytes, tuple[Any, ...]]
    ) -> dict[bytes, int]:
        """Of these keys those that have a row, hot or cold, and its `_seq`; `DELETION_PARKED` where its
        deletion could not be flushed."""
        hot = self.hot.known_keys(table, user, list(keys))
        found = {key: seq for key, seq in hot.items() if seq != DELETED}
        unknown = {values: key for key, values in keys.items() if key not in hot}
        if unknown and table.kind is not Kind.STREAM:
            cold = self._cold.known_keys(table, user, list(unknown))
            found |= {unknown[values]: seq for values, seq in cold.items()}
        return found

    def current(self, table: Table, user: str, seqs: Sequence[int]) -> dict[int, Row]:
        """The rows that have these `_seq` now, in stored form."""
        found: dict[int, Row] = {}
        with self._reader.view(table, user=user) as view:
            for part in self._reader.scan(view):
                chosen = part.filter(pc.is_in(part.column(SEQ), value_set=_numbers(seqs)))
                for row in chosen.to_pylist():
                    found[row[SEQ]] = tuple(row[column.name] for column in table.columns)
        return found


class Batch:
    """One insert: how it is to be done, and which rows were refused."""

    def __init__(
        self,
        present: Present,
        table: Table,
        *,
        user: str | None,
        source: Source,
        on_bad: OnBad,
        on_conflict: OnConflict,
        updates: Sequence[str],
        most_bad: int = MOST_BAD,
        unless_erased_since: int | None = None,
    ) -> None:
        self.table, self.user, self.source, self.on_bad = table, user, source, on_bad
        self._most_bad, self._erased_since = most_bad, unless_erased_since
        self._present, self._on_conflict = present, on_conflict
        self._key = row_key(table)
        if on_conflict is not OnConflict.REFUSE and self._key is None:
            raise InvalidRequest(
                f"{table.full_name} has no PRIMARY KEY, so ON CONFLICT says nothing.",
                remedy="leave it out.",
            )
        names = [column.name for column in table.columns]
        self._at_key = [names.index(name) for name in table.key]
        self._set = [names.index(_column(table, name)) for name in updates]
        self._bad: list[BadRow] = []
        self._bad_rows = 0
        self._repeated: list[BadRow] = []  # rows whose key is there, of this attempt

    @property
    def owner(self) -> str:
        """Who the idempotency key belongs to."""
        return self.user or NOBODY

    @property
    def bad(self) -> tuple[BadRow, ...]:
        """The rows that were refused so far."""
        return tuple(self._bad)

    def refuse(self, index: int, error: EntryRejected) -> None:
        """A row that can't be stored."""
        if self.on_bad == "refuse":
            raise error
        self._bad_rows += 1
        if len(self._bad) < self._most_bad:
            self._bad.append(BadRow(index, error.path, error.reason, error.remedy))

    def accept(self, rows: list[tuple[int, str, Row]], named: BatchKey | None) -> Inserted:
        """Accept what was read."""
        for attempt in range(1, _ATTEMPTS + 1):
            acks = self._present.hot.acks(self.table) if self._key is not None else None
            erasures = self._erasures()
            inserts, updates, ignored = self._decided(rows)
            changes = [*updates, *inserts]
            if not changes:
                return self._done(None, 0, 0, ignored)
            try:
                accepted = self._accept(changes, updates, named, acks, erasures)
            except Conflict as error:
                # Rows were flushed or keys taken meanwhile: what is there is asked again.
                if self._is_over(error, attempt):
                    raise
                continue
            return self._done(accepted, len(inserts), len(updates), ignored)
        raise AssertionError  # the last attempt raised

    def accept_arrow(self, rows: pa.Table, named: BatchKey | None) -> Inserted:
        """Accept rows that are in the table's form: INSERT without ON CONFLICT."""
        for attempt in range(1, _ATTEMPTS + 1):
            acks = None
            if self._key is not None:
                acks = self._present.hot.acks(self.table)
                self._decided(stored(self.table, rows, self._at_key))
            kept = self._without_repeated(rows)
            if not kept.num_rows:
                return self._done(None, 0, 0, 0)
            try:
                accepted = self._present.hot.accept_arrow(
                    self.table,
                    kept,
                    batch=named,
                    unless_acked_since=acks,
                    unless_erased_since=self._erased_since,
                )
            except Conflict as error:
                if self._is_over(error, attempt):
                    raise
                continue
            return self._done(accepted, kept.num_rows, 0, 0)
        raise AssertionError  # the last attempt raised

    def _erasures(self) -> int | None:
        """Since when nobody may be erased: rows that others are merged into are read now."""
        if self._erased_since is not None or not self._set:
            return self._erased_since
        return self._present.hot.erasures()

    def _is_over(self, error: Conflict, attempt: int) -> bool:
        """Whether to ask again what is there leads to nothing: rows that the caller read stay as they
        are."""
        given = isinstance(error, ErasedSince) and self._erased_since is not None
        return given or self._key is None or attempt == _ATTEMPTS

    def _without_repeated(self, rows: pa.Table) -> pa.Table:
        if not self._repeated:
            return rows
        gone = {each.index for each in self._repeated}
        return rows.filter(pa.array([at not in gone for at in range(rows.num_rows)]))

    def _accept(
        self,
        changes: list[Change],
        updates: list[Change],
        named: BatchKey | None,
        acks: int | None,
        erasures: int | None,
    ) -> Accepted:
        hot, table = self._present.hot, self.table
        if len(changes) >= SEGMENT_ROWS and not updates:
            return hot.accept_arrow(
                table,
                _as_arrow(table, changes),
                batch=named,
                unless_acked_since=acks,
                unless_erased_since=erasures,
            )
        return hot.accept(
            table,
            changes,
            batch=named,
            unless_acked_since=acks,
            unless_erased_since=erasures,
        )

    def _done(self, accepted: Accepted | None, rows: int, updated: int, ignored: int) -> Inserted:
        return Inserted(
            rows=rows,
            updated=updated,
            ignored=ignored,
            bad=tuple(sorted([*self._bad, *self._repeated], key=lambda each: each.index))[
                : self._most_bad
            ],
            bad_rows=self._bad_rows + len(self._repeated),
            first=accepted.first if accepted is not None else 0,
            last=accepted.last if accepted is not None else 0,
            repeated=accepted.repeated if accepted is not None else False,
        )

    def _decided(
        self, rows: Sequence[tuple[int, str, Row]]
    ) -> tuple[list[Change], list[Change], int]:
        """What becomes of each row: inserts, updates, and how many are left out."""
        if self._key is None:
            return [Change(user, Op.INSERT, values) for _, user, values in rows], [], 0
        by_user: dict[str, dict[bytes, tuple[int, Row]]] = {}
        ignored = 0
        self._repeated = []
        for index, user, values in rows:
            mine, key = by_user.setdefault(user, {}), self._key(values)
            if key in mine and self._on_conflict is OnConflict.REFUSE:
                self._refuse_taken(index, user, values)
            elif key in mine and self._on_conflict is OnConflict.NOTHING:
                ignored += 1
            elif key in mine:
                mine[key] = (index, self._merged(mine[key][1], values))
            else:
                mine[key] = (index, values)
        inserts: list[Change] = []
        updates: list[Change] = []
        for user, mine in by_user.items():
            known = self._present.known(
                self.table,
                user,
                {key: self._values_of(values) for key, (_, values) in mine.items()},
            )
            current = (
                self._present.current(self.table, user, list(known.values()))
                if known and self._set and self._on_conflict is OnConflict.UPDATE
                else {}
            )
            for key, (index, values) in mine.items():
                seq = known.get(key)
                if seq is None:
                    inserts.append(Change(user, Op.INSERT, values))
                elif seq == DELETION_PARKED:
                    self._refuse_parked(index, user, values)
                elif self._on_conflict is OnConflict.REFUSE:
                    self._refuse_taken(index, user, values)
                elif self._on_conflict is OnConflict.NOTHING:
                    ignored += 1
                else:
                    before = current.get(seq)
                    new = values if before is None else self._merged(before, values)
                    updates.append(Change(user, Op.UPDATE, new, seq))
        return inserts, updates, ignored

    def _merged(self, before: Row, given: Row) -> Row:
        """The row that ON CONFLICT DO UPDATE makes."""
        if not self._set:
            return given
        return tuple(
            new if at in self._set else old
            for at, (old, new) in enumerate(zip(before, given, strict=True))
        )

    def _values_of(self, values: Row) -> tuple[Any, ...]:
        return tuple(values[at] for at in self._at_key)

    def _refuse_taken(self, index: int, user: str, values: Row) -> None:
        """A row whose key is there. Raises `Conflict` where bad rows are not left out."""
        has = f"has a row with the PRIMARY KEY {self._shown(values)} already"
        remedy = "choose another key, or use ON CONFLICT DO UPDATE or DO NOTHING."
        self._refuse_key(index, user, has, remedy)

    def _refuse_parked(self, index: int, user: str, values: Row) -> None:
        has = f"has a row with the PRIMARY KEY {self._shown(values)} whose deletion is parked: it could not be flushed"
        self._refuse_key(index, user, has, "retry or discard it first (`surgetank parked list`).")

    def _refuse_key(self, index: int, user: str, has: str, remedy: str) -> None:
        column, why = self.table.key[0], f"{self.table.partition(user)!r} {has}"
        if self.on_bad == "skip":
            self._repeated.append(BadRow(index, f"$[{index}].{column}", why, remedy))
            return
        raise KeyTaken(index, column, why, remedy)

    def _shown(self, values: Row) -> str:
        return ", ".join(
            f"{name} = {value!r:.60}"
            for name, value in zip(self.table.key, self._values_of(values), strict=True)
        )


def _column(table: Table, name: str) -> str:
    column = table.column(name)
    if column is None or column.name in table.key:
        why = "has no such column" if column is None else "has it in its PRIMARY KEY"
        raise InvalidRequest(
            f"ON CONFLICT can't set {name!r:.80}: {table.full_name} {why}.", remedy="leave it out."
        )
    return column.name


def stored(table: Table, rows: pa.Table, wanted: Collection[int]) -> list[tuple[int, str, Row]]:
    """Of rows in the table's form those columns, and users; other values are None."""
    count = rows.num_rows
    users = rows.column(USER).to_pylist() if table.by_user else [NOBODY] * count
    columns = [
        rows.column(column.name).to_pylist() if at in wanted else [None] * count
        for at, column in enumerate(table.columns)
    ]
    return [
        (index, user, tuple(values))
        for index, (user, *values) in enumerate(zip(users, *columns, strict=True))
    ]


def _as_arrow(table: Table, changes: Sequence[Change]) -> pa.Table:
    made: dict[str, Any] = {}
    if table.by_user:
        made[USER] = pa.array([change.user for change in changes], pa.string())
    for at, column in enumerate(table.columns):
        keep, values = keeper(column.type), [change.values[at] for change in changes]
        kept = values if keep is None else [None if v is None else keep(v) for v in values]
        made[column.name] = array_of(column.type, kept)
    return pa.table(made)


def _numbers(values: Sequence[int]) -> pa.Array:
    return pa.array(values, pa.int64())
