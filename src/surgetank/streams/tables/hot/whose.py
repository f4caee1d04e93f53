"""Whose the rows of the journals are, in memory: an index in the file would cost each insert as much as the row does.

A journal only grows at its end, so that who reads looks at what came since the last reader. Whatever removes rows
counts that in `hot_tables.removals`, and what is known begins again.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from surgetank.streams.tables.definition import USER, Table
from surgetank.streams.tables.hot.journal import Numbers, journal_rows
from surgetank.streams.tables.hot.protocol import VERSION, Progress
from surgetank.streams.tables.hot.segments import Range

_MOST_PARTS = 64  # that are looked through one by one
_EVER = (1 << 63) - 1


@dataclass(slots=True)
class _Journal:
    """The rows of one table up to a version, in the order of their versions: their users' hashes. Two
    users may have one: who finds a row asks it for its user."""

    removals: int
    through: int = 0
    parts: list[tuple[Numbers, Numbers]] = field(default_factory=list)

    def add(self, versions: Numbers, hashes: Numbers) -> None:
        """Rows that come next."""
        self.parts.append((versions, hashes))
        self.through = int(versions[-1])
        if len(self.parts) > _MOST_PARTS:
            joined = [np.concatenate(each) for each in zip(*self.parts, strict=True)]
            self.parts = [(joined[0], joined[1])]


class Whose:
    """Knows of the journals of one file. For any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[int, _Journal] = {}

    def versions(
        self,
        connection: sqlite3.Connection,
        table: Table,
        user: str,
        progress: Mapping[int, Progress],
    ) -> Numbers | None:
        """The versions that may be a user's, in order; None where this snapshot is older than what is
        known."""
        parts = self._caught_up(connection, table, progress)
        if parts is None:
            return None
        mine = [versions[hashes == hash(user)] for versions, hashes in parts]
        return np.concatenate(mine) if mine else np.empty(0, np.int64)

    def users(
        self, connection: sqlite3.Connection, table: Table, progress: Mapping[int, Progress]
    ) -> Numbers | None:
        """The hash of each user who has rows; None as of `versions`."""
        parts = self._caught_up(connection, table, progress)
        if parts is None:
            return None
        found = [np.unique(hashes) for _, hashes in parts]
        return np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)

    def _caught_up(
        self, connection: sqlite3.Connection, table: Table, progress: Mapping[int, Progress]
    ) -> list[tuple[Numbers, Numbers]] | None:
        (removals,) = connection.execute(
            "SELECT removals FROM hot_tables WHERE table_id = ?", (table.id,)
        ).fetchone() or (0,)
        with self._lock:
            known = self._known.get(table.id)
            if known is not None and known.removals > removals:
                return None
            if known is None or known.removals < removals:
                known = self._known[table.id] = _Journal(removals)
            chosen = Range(known.through, _EVER)
            for part in journal_rows(connection, table, (), chosen, progress=progress):
                known.add(part.column(VERSION).to_numpy(), hashes_of(part.column(USER)))
            return list(known.parts)


def hashes_of(users: pa.ChunkedArray) -> Numbers:
    """The hash of each of these users, as `hash` has it in this process."""
    encoded: Any = users.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    names = np.array([hash(name) for name in encoded.dictionary.to_pylist()], np.int64)
    found: Numbers = names[encoded.indices.to_numpy()]
    return found
