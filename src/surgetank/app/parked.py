"""`tank.parked`: entries that the database refused (dead letters). They are kept, shown and tried
again."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from surgetank.app.stored_threads import StoredThreads
from surgetank.buffer.coordination import Parking
from surgetank.buffer.log import Log
from surgetank.encode import jsontext
from surgetank.exceptions import Conflict, DatabaseUnavailable, ParkedNotFound
from surgetank.model import Entry, FlushJob, ParkedEntry
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.needed import is_deletion, who_needs
from surgetank.streams.checkpoints.raw import RawCheckpoint
from surgetank.streams.stream import THREAD, Streams
from surgetank.telemetry import log
from surgetank.workflows.audit import Audit

_MOST_READ = 2**31
_MOST_NAMED = 100  # numbers of entries in one row of the audit


@dataclass(frozen=True, slots=True)
class ParkedRecord:
    """A record of a parked entry, as people can read it. `begins` is a user's data."""

    key: str
    bytes: int
    begins: str


class LogWithParking(Log, Parking, Protocol):
    """Parked entries, and the log to which they go back."""


class Parked:
    """The parked entries of a buffer; `flush` tries what was put back into it. What people do about
    them is in the audit."""

    def __init__(
        self,
        buffer: LogWithParking,
        streams: Streams,
        flush: Callable[[], FlushJob],
        *,
        audit: Audit,
        stored: Callable[[], StoredThreads],
        changed: Callable[[], None],
    ) -> None:
        self._buffer = buffer
        self._streams = streams
        self._flush = flush
        self._audit = audit
        self._stored = stored
        self._changed = changed

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

    def retry(
        self, ids: Iterable[int] | None = None, *, by: str = "application"
    ) -> FlushJob | None:
        """Try parked entries again (all by default); None when there was nothing to try. `by` is who
        does it, for the audit."""
        chosen = (
            builtins.list(ids) if ids is not None else [entry.id for entry in self._buffer.parked()]
        )
        there = self._those(chosen)
        entries = [
            (parked, self._buffer.parked_entry(parked.id))
            for parked in there
            if self._on_unpark(parked.stream) is not None
        ]
        if not self._buffer.unpark(chosen):
            return None
        try:
            self._note("parked_retried", there, by)
        except DatabaseUnavailable as error:  # nothing is lost by it: they wait in the buffer again
            log.warning("not_in_audit", action="parked_retried", by=by, error=error.what)
        for parked, entry in entries:
            on_unpark = self._on_unpark(parked.stream)
            if on_unpark is not None and entry is not None:
                on_unpark(self._buffer, parked.partition, [entry])
        return self._flush()

    def discard(self, ids: Iterable[int], *, by: str = "application") -> builtins.list[ParkedEntry]:
        """Remove parked entries for good; returns those that were there. It can't be undone:
        `surgetank parked export` keeps a copy.

        Nothing is removed when it raises: `DatabaseUnavailable` (it is in the audit before it is done),
        `Conflict` for steps whose values later ones need, and for deletions.
        """
        found = self._those(ids)
        if found:
            self._check_not_needed(found)
            self._note("parked_discarded", found, by)
            self._buffer.discard_parked([entry.id for entry in found])
            log.warning("parked_discarded", entries=len(found), by=by)
            self._changed()  # nobody needs to be told of them any more
        return found

    def _check_not_needed(self, found: Sequence[ParkedEntry]) -> None:
        threads: dict[str, builtins.list[Entry]] = {}
        for parked in found:
            entry = (
                self._buffer.parked_entry(parked.id) if parked.stream == envelope.STREAM else None
            )
            if entry is None:
                continue
            if is_deletion(entry):
                raise Conflict(
                    f"The parked entry {parked.id} deletes something of thread {parked.partition!r}, "
                    f"which would be there again.",
                    remedy="mend the reason and try it again: `surgetank parked retry`.",
                )
            threads.setdefault(parked.partition, []).append(entry)
        for thread_id, entries in threads.items():
            needs = who_needs(entries, partial(self._newest, thread_id))
            if needs is not None:
                raise Conflict(
                    f"The checkpoint {needs.checkpoint_id} of thread {thread_id!r} needs values of what would "
                    f"be discarded.",
                    remedy="mend the reason and try it again: `surgetank parked retry`; or delete the thread.",
                )

    def _newest(self, thread_id: str, ns: str) -> Iterable[RawCheckpoint]:
        return self._stored().history(thread_id, ns, limit=_MOST_READ, channels=())

    def _those(self, ids: Iterable[int]) -> builtins.list[ParkedEntry]:
        wanted = set(ids)
        return [entry for entry in self._buffer.parked() if entry.id in wanted]

    def _note(self, action: str, entries: Sequence[ParkedEntry], by: str) -> None:
        """A row for each stream and thread. Of other partitions no name is written: it may be a
        user's, and a row of the audit stays as it is when the user is erased."""
        rows: dict[tuple[str, str | None], builtins.list[int]] = {}
        for entry in entries:
            stream = self._streams.get(entry.stream)
            thread = entry.partition if stream is not None and stream.subject == THREAD else None
            rows.setdefault((entry.stream, thread), []).append(entry.id)
        for (name, thread), numbers in rows.items():
            detail = {"stream": name, "entries": len(numbers), "ids": numbers[:_MOST_NAMED]}
            self._audit.note(action, by, thread_id=thread, detail=detail)

    def _on_unpark(self, stream: str) -> Callable[[Log, str, Sequence[Entry]], None] | None:
        known = self._streams.get(stream)
        return known.on_unpark if known is not None else None
