"""Looks now and then whether copies still show what the database has, and removes those that don't.

A thread that another buffer wrote to, pruned or deleted has a copy here that nobody may have looked
at since. One that is newer than the database is kept: a database that went back gets it put back
(`restore_lost`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from surgetank.buffer.coordination import Backlog
from surgetank.buffer.copies import CopyStore
from surgetank.streams.checkpoints.cold.reader import Cold
from surgetank.streams.checkpoints.copies.layout import Mark
from surgetank.streams.checkpoints.envelope import STREAM

_EVERY_S = 60.0
_PAGE = 1000
_PAGES = 20  # in one look, at most: the rest has its turn next time


def is_stale(copied: bytes, current: bytes | None, *, deleted: bool) -> bool:
    """Whether a copy shows something that is no longer so. `current` is the thread's mark, None
    when it isn't there."""
    if current is None:
        return deleted
    mine, theirs = Mark.unpack(copied), Mark.unpack(current)
    if mine.incarnation == theirs.incarnation and theirs.revision < mine.revision:
        return False  # the database went back
    return mine != theirs


class CheckedCopies(CopyStore, Backlog, Protocol):
    """Copies, and whether something of their partition waits."""


class CopyCheck:
    """Goes through all copies, some at a time."""

    def __init__(self, buffer: CheckedCopies, cold: Cold, *, clock: Callable[[], float]) -> None:
        self._buffer = buffer
        self._cold = cold
        self._clock = clock
        self._checked_at = clock()
        self._after = ""

    def run_if_due(self) -> int:
        """Look, if it is time; returns how many copies were removed. Raises what the database
        raises."""
        if 0 <= self._clock() - self._checked_at < _EVERY_S:
            return 0
        return self.run()

    def run(self) -> int:
        """Look at the next copies."""
        self._checked_at = self._clock()
        removed = 0
        for _ in range(_PAGES):
            page = dict(self._buffer.copies(STREAM, after=self._after, limit=_PAGE))
            removed += self._check(page)
            self._after = max(page, default="") if len(page) == _PAGE else ""
            if not self._after:
                break
        return removed

    def _check(self, page: dict[str, bytes]) -> int:
        marks = self._cold.marks(list(page)) if page else None
        if marks is None:
            return 0
        missing = [name for name in page if name not in marks]
        deleted = self._cold.deleted(missing) if missing else set()
        stale = {
            name: mark
            for name, mark in page.items()
            if is_stale(mark, marks.get(name), deleted=name in deleted)
            and self._buffer.state(STREAM, name) is None  # else it is being written to just now
        }
        return self._buffer.drop_copies(STREAM, stale)
