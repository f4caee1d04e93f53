"""What a transaction did, counted per thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from surgetank.model import Fork, Replacement
from surgetank.streams.checkpoints.cold.chains import Thread
from surgetank.streams.checkpoints.copies.layout import Mark

_NOTHING: Mapping[bytes, bytes] = MappingProxyType({})


@dataclass(slots=True)
class Tally:
    """Rows, bytes and replaced values of one thread, and what the buffer is to note with it."""

    rows: int = 0
    size: int = 0
    replaced: tuple[Replacement, ...] = ()
    forget: tuple[bytes, ...] = ()
    deletion_notes: Mapping[bytes, bytes] = field(default_factory=lambda: _NOTHING)
    hidden: Mapping[bytes, bytes] = field(default_factory=lambda: _NOTHING)
    before: Mark | None = None  # of the thread, when it was first touched; None: it was not there
    thread: Thread | None = None  # as it was touched last; None: untouched, or deleted since
    fork: Fork | None = None
    _touched: bool = False

    def touched(self, thread: Thread) -> None:
        """The thread was locked or made."""
        if not self._touched and thread.revision > 1:
            self.before = Mark(thread.incarnation, thread.revision - 1, thread.checkpoint_id or "")
        self._touched = True
        self.thread = thread

    @property
    def after(self) -> Mark | None:
        """The thread's mark after the transaction; None when it is not there or was not touched."""
        thread = self.thread
        return (
            Mark(thread.incarnation, thread.revision, thread.checkpoint_id or "")
            if thread
            else None
        )

    def count(self, size: int) -> None:
        """One more row."""
        self.rows += 1
        self.size += size
