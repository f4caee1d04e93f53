"""`tank.parked`: entries that the database refused (dead letters). They are kept, shown and tried
again."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from surgetank.buffer.coordination import Parking
from surgetank.buffer.log import Log
from surgetank.encode import jsontext
from surgetank.exceptions import ParkedNotFound
from surgetank.model import Entry, FlushJob, ParkedEntry
from surgetank.streams.stream import Streams


@dataclass(frozen=True, slots=True)
class ParkedRecord:
    """A record of a parked entry, as people can read it. `begins` is a user's data."""

    key: str
    bytes: int
    begins: str


class LogWithParking(Log, Parking, Protocol):
    """Parked entries, and the log to which they go back."""


class Parked:
    """The parked entries of a buffer; `flush` tries what was put back into it."""

    def __init__(
        self, buffer: LogWithParking, streams: Streams, flush: Callable[[], FlushJob]
    ) -> None:
        self._buffer = buffer
        self._streams = streams
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

    def records(self, parked_id: int) -> builtins.list[ParkedRecord]:
        """The records of one, with how they begin; empty when it was unparked meanwhile."""
        entry = self.data(parked_id)
        return [
            ParkedRecord(
                key=record.key.replace(b"\x00", b" ").decode(errors="replace"),
                bytes=len(record.value),
                begins=jsontext.preview(record.value),
            )
            for record in (entry.records if entry else ())
        ]

    def retry(self, ids: Iterable[int] | None = None) -> FlushJob | None:
        """Try parked entries again (all by default); None when there was nothing to try."""
        chosen = (
            builtins.list(ids) if ids is not None else [entry.id for entry in self._buffer.parked()]
        )
        wanted = set(chosen)
        entries = [
            (parked, self._buffer.parked_entry(parked.id))
            for parked in self._buffer.parked()
            if parked.id in wanted and self._on_unpark(parked.stream) is not None
        ]
        if not self._buffer.unpark(chosen):
            return None
        for parked, entry in entries:
            on_unpark = self._on_unpark(parked.stream)
            if on_unpark is not None and entry is not None:
                on_unpark(self._buffer, parked.partition, [entry])
        return self._flush()

    def _on_unpark(self, stream: str) -> Callable[[Log, str, Sequence[Entry]], None] | None:
        known = self._streams.get(stream)
        return known.on_unpark if known is not None else None
