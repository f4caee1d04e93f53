"""The rows of a table as they are now: what is hot, over what is in files.

The order makes it one moment: hot rows first, then the manifest. What the manifest has already is dropped from the
hot rows, so that no row is there twice and none is missing while a flush commits. A row is known by its `_seq`: of
several hot changes the newest counts, and a row in a file that was changed since is hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from surgetank.streams.tables.cold.protocol import ColdTable, ColdTables
from surgetank.streams.tables.definition import HIDDEN, SEQ, USER, Kind, Table
from surgetank.streams.tables.hot.protocol import (
    OP,
    ORIGIN_SHIFT,
    VERSION,
    HotTables,
    Op,
    Progress,
)

pc: Any = pyarrow.compute  # its functions are made when it is imported
_Mask = np.ndarray[Any, np.dtype[np.bool_]]
_FEW = 65_536  # rows of a batch
_AFTER_ALL = (1 << 63) - (1 << ORIGIN_SHIFT)  # and a parked row's number: after all versions
_NO_FILES = ColdTable(0, (), {})


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A table at one moment: hot rows that are visible, and the files with the `_seq` of those rows
    in them that are not. `through` is the newest change that is in it, `acks` how often changes had
    been acknowledged before; `stale` tells that the database is away, and the files are those that
    were mirrored last."""

    table: Table
    user: str | None
    columns: tuple[str, ...]
    hot: pa.Table
    hidden: pa.Array
    cold: ColdTable
    through: int
    acks: int

    @property
    def stale(self) -> bool:
        """Whether the files may be older than they are in the database."""
        return self.cold.stale

    @property
    def schema(self) -> pa.Schema:
        """Of all rows: hidden columns that were asked for, and the columns."""
        return self.hot.schema


class TableReader:
    """Reads tables for those who may: whose rows they are is the caller's to decide."""

    def __init__(self, hot: HotTables, cold: ColdTables) -> None:
        self._hot = hot
        self._cold = cold

    @contextmanager
    def view(
        self,
        table: Table,
        *,
        user: str | None = None,
        columns: Sequence[str] | None = None,
        hidden: Sequence[str] = HIDDEN,
    ) -> Iterator[View]:
        """The table now, of one user or of all, with these columns, `hidden` ones first. What it
        shows can be read until it is left.

        Raises `ColdStateUnavailable` where the database is away and its files were never seen.
        """
        names = tuple(each.name for each in table.columns) if columns is None else tuple(columns)
        first = tuple(name for name in hidden if name != USER or table.by_user)
        owner = user if table.by_user else None
        acks = self._hot.acks(table)
        with self._hot.snapshot() as snapshot:
            stores = snapshot.stores(table)
            pending = snapshot.pending(table, user=owner, columns=names, hidden=first)
            cold = (
                _NO_FILES
                if table.kind is Kind.STREAM
                else self._cold.live(table, stores=stores, user=owner)
            )
            visible, changed = merged(pending.changes, cold.progress)
            own = visible.select([*first, *names])
            seqs = np.asarray(changed.to_numpy(), np.int64)
            inserted = (each.rows(cold.progress.get(each.store), seqs) for each in pending.inserted)
            filled = [own] if own.num_rows else []
            filled += [rows for rows in inserted if rows is not None]
            yield View(
                table=table,
                user=owner,
                columns=names,
                hot=pa.concat_tables(filled) if filled else own,
                hidden=changed,
                cold=cold,
                through=snapshot.through(table),
                acks=acks,
            )

    def scan(self, view: View) -> Iterator[pa.RecordBatch]:
        """All rows of a view, some thousand at a time."""
        hot = view.hot
        if hot.num_rows <= _FEW:
            hot = hot.combine_chunks()  # of many inserts
        yield from hot.to_batches(max_chunksize=_FEW)
        if not view.cold.files:
            return
        names = view.schema.names
        needed = (SEQ, *names) if len(view.hidden) else names
        for batch in self._cold.scan(
            view.table, view.cold, user=view.user, columns=view.columns, hidden=needed
        ):
            kept = batch
            if len(view.hidden):
                kept = batch.filter(pc.invert(pc.is_in(batch.column(SEQ), value_set=view.hidden)))
            yield kept if kept.schema.names == names else kept.select(names)

    def read(
        self, table: Table, *, user: str | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """All rows, in memory."""
        with self.view(table, user=user, columns=columns) as view:
            return pa.Table.from_batches(list(self.scan(view)), view.schema)


def merged(changes: pa.Table, progress: Mapping[str, Progress]) -> tuple[pa.Table, pa.Array]:
    """Of hot changes those rows that are visible, without version and kind of change, and the
    `_seq` of rows that are not to be taken from files."""
    done = covered(changes, progress)
    pending = changes.filter(pa.array(~done)) if done.any() else changes
    plain = pending.drop_columns([OP, VERSION])
    changed = pc.not_equal(pending.column(OP), int(Op.INSERT))
    if not pc.any(changed).as_py():
        return plain, pa.array([], pa.int64())
    hidden = pc.unique(pending.column(SEQ).filter(changed))
    touched = pc.is_in(pending.column(SEQ), value_set=hidden)
    order = _order(pending)
    several = pa.table([pending.column(SEQ), order], [SEQ, VERSION]).filter(touched)
    newest = several.group_by(SEQ).aggregate([(VERSION, "max")])
    kept = pc.and_(
        pc.is_in(order, value_set=newest.column(f"{VERSION}_max")),
        pc.not_equal(pending.column(OP), int(Op.DELETE)),
    )
    return plain.filter(pc.or_(pc.invert(touched), kept)), hidden


def _order(changes: pa.Table) -> pa.Array:
    """Numbers that grow with each change of a row. What is parked of one is its newest change: it can
    be before another one of that row in a flush that ended half way."""
    versions = changes.column(VERSION).to_numpy()
    parked = versions < (1 << ORIGIN_SHIFT)
    return pa.array(np.where(parked, versions + _AFTER_ALL, versions))


def covered(changes: pa.Table, progress: Mapping[str, Progress]) -> _Mask:
    """Which of the changes the manifest has."""
    versions = changes.column(VERSION).to_numpy()
    there: _Mask = np.zeros(len(versions), dtype=bool)
    for store, reached in progress.items():
        first = int(store, 16) << ORIGIN_SHIFT
        newest = max((reached.through, *reached.held.values()))
        mine = (versions >= first) & (versions <= newest)  # its numbers are those from `first` on
        if not mine.any():
            continue
        done = versions <= reached.through
        if reached.held and USER in changes.column_names:
            for user, through in reached.held.items():
                theirs = pc.equal(changes.column(USER), user).to_numpy(zero_copy_only=False)
                done = np.where(theirs, versions <= through, done)
        elif reached.held:
            done = versions <= next(iter(reached.held.values()))  # a SHARED table has one user
        there |= mine & done
    return there
