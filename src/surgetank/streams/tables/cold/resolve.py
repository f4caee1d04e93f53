"""What a group of changes comes to: rows to write, and sequences whose rows in files are to be deleted. Pure.

A row's identity is its `_seq`: an UPDATE or DELETE names that of the row that it changes. Of each the
newest change decides. What was inserted in the group itself is in no file yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from surgetank.streams.tables.definition import SEQ, USER, Table
from surgetank.streams.tables.hot.protocol import OP, VERSION, Op, Progress

pc: Any = pyarrow.compute  # its functions are made when it is imported


@dataclass(frozen=True, slots=True)
class Resolved:
    """`rows` are to be written; rows with the sequences `gone`, of `users` (in order), are to be
    deleted where they are now. `changes` is how many changes there were."""

    rows: pa.Table
    gone: np.ndarray[Any, np.dtype[np.int64]]
    users: tuple[str, ...]
    changes: int


def outstanding(table: Table, rows: pa.Table, done: Progress, wanted: Progress) -> pa.Table:
    """The changes that are not in the manifest yet (`done`), and are to be (`wanted`)."""
    versions = rows.column(VERSION).to_numpy()
    keep = (versions > done.through) & (versions <= wanted.through)
    if table.by_user:
        for user in {*done.held, *wanted.held}:
            mine = pc.equal(rows.column(USER), user).to_numpy(zero_copy_only=False)
            after = versions > done.held.get(user, done.through)
            until = versions <= wanted.held.get(user, wanted.through)
            keep = np.where(mine, after & until, keep)
    return rows if bool(keep.all()) else rows.filter(pa.array(keep))


def resolve(table: Table, rows: pa.Table) -> Resolved:
    """Reduce changes to the newest of each row."""
    ops = rows.column(OP).to_numpy()
    if bool(np.all(ops == Op.INSERT)):
        return Resolved(rows, np.empty(0, np.int64), (), rows.num_rows)
    seqs, versions = rows.column(SEQ).to_numpy(), rows.column(VERSION).to_numpy()
    order = np.lexsort((versions, seqs))
    last = np.ones(len(order), dtype=bool)
    last[:-1] = seqs[order][1:] != seqs[order][:-1]
    newest = order[last]
    stay = np.sort(newest[ops[newest] != Op.DELETE])
    changed = np.unique(seqs[ops != Op.INSERT])
    gone = np.setdiff1d(changed, seqs[ops == Op.INSERT])
    users: tuple[str, ...] = ()
    if table.by_user:
        touched = rows.column(USER).filter(pa.array(np.isin(seqs, gone)))
        users = tuple(sorted(name.as_py() for name in touched.unique()))
    return Resolved(rows.take(pa.array(stay)), gone, users, rows.num_rows)


def merged(before: Progress, wanted: Progress) -> Progress:
    """The progress afterwards: never less than before."""
    through = max(before.through, wanted.through)
    held: Mapping[str, int] = {
        user: at
        for user in {*before.held, *wanted.held}
        if (at := max(before.held.get(user, before.through), wanted.held.get(user, wanted.through)))
        < through
    }
    return Progress(through, held)
