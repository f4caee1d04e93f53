"""`tank.parked`: entries that the database refused (dead letters). They are kept, shown and tried
again."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable

from surgetank.buffer.protocol import Buffer
from surgetank.exceptions import ParkedNotFound
from surgetank.model import Entry, FlushJob, ParkedEntry


class Parked:
    """The parked entries of a buffer; `flush` tries what was put back into it."""

    def __init__(self, buffer: Buffer, flush: Callable[[], FlushJob]) -> None:
        self._buffer = buffer
        self._flush = flush

    def __call__(self) -> builtins.list[ParkedEntry]:
        """The same as `list`."""
        return self._buffer.parked()

    def list(self) -> builtins.list[ParkedEntry]:
        """Parked entries, oldest first."""
        return self._buffer.parked()

    def get(self, parked_id: int) -> ParkedEntry:
        """One of them: why it was refused. Raises `ParkedNotFound`."""
        for entry in self._buffer.parked():
            if entry.id == parked_id:
                return entry
        raise ParkedNotFound(
            f"There is no parked entry '{parked_id}'.",
            remedy="see `surgetank parked list` or GET /parked.",
        )

    def data(self, parked_id: int) -> Entry | None:
        """The records of one, with their values; None when it was unparked meanwhile."""
        return self._buffer.parked_entry(parked_id)

    def retry(self, ids: Iterable[int] | None = None) -> FlushJob | None:
        """Try parked entries again (all by default); None when there was nothing to try."""
        chosen = (
            builtins.list(ids) if ids is not None else [entry.id for entry in self._buffer.parked()]
        )
        return self._flush() if self._buffer.unpark(chosen) else None
