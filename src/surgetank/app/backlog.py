"""What waits in an engine: the entries of the buffer and the hot rows of tables, as one backlog.

Who reports, shows or repeats uses this; who writes and flushes uses the buffer, or the store of tables, itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, cast

from surgetank.buffer.binding import Bindable
from surgetank.buffer.coordination import Attempts, Backlog, Parking
from surgetank.buffer.jobs import JobLog
from surgetank.buffer.log import Log
from surgetank.buffer.tallies import Tallies
from surgetank.buffer.upkeep import Upkeep
from surgetank.encode import jsontext
from surgetank.model import (
    BufferDepth,
    Entry,
    FailureGroup,
    ParkedEntry,
    PartitionState,
    Record,
)
from surgetank.streams.tables.definition import STREAM

if TYPE_CHECKING:
    from surgetank.streams.tables.hot.protocol import HotTables


class Waiting(Log, Tallies, Attempts, Backlog, Parking, JobLog, Bindable, Upkeep, Protocol):
    """What is asked of the backlog by those who report, show and repeat."""


def backlog_of(buffer: Waiting, tables: Callable[[], HotTables | None]) -> Waiting:
    """The buffer with what waits of tables. `tables` gives their store, None while there is none."""
    return cast("Waiting", _Backlog(buffer, tables))


class _Backlog:
    """Answers of the buffer, and of the store of tables for the stream `tables`."""

    def __init__(self, buffer: Waiting, tables: Callable[[], HotTables | None]) -> None:
        self._buffer, self._tables = buffer, tables

    def __getattr__(self, name: str) -> Any:
        return getattr(self._buffer, name)  # all that is not about what waits

    def states(
        self, stream: str | None = None, *, failing: bool = False, limit: int = 1000
    ) -> list[PartitionState]:
        """Partitions that wait; see `Backlog.states`."""
        found = (
            self._buffer.states(stream, failing=failing, limit=limit) if stream != STREAM else []
        )
        hot = self._hot(stream)
        if hot is not None and len(found) < limit:
            found += hot.states(failing=failing, limit=limit - len(found))
        return found

    def state(self, stream: str, partition: str) -> PartitionState | None:
        """One partition; see `Backlog.state`."""
        if stream != STREAM:
            return self._buffer.state(stream, partition)
        states = hot.states() if (hot := self._hot(stream)) is not None else []
        return next((state for state in states if state.partition == partition), None)

    def failures(self, *, limit: int = 1000) -> list[FailureGroup]:
        """What failed, counted; see `Backlog.failures`."""
        hot = self._tables()
        found = self._buffer.failures(limit=limit)
        return found if hot is None else [*found, *hot.failures(limit=limit)]

    def last_seq(self, stream: str, partition: str | None = None) -> int:
        """For tables 1 where something waits: their rows are counted by table, not by partition."""
        if stream != STREAM:
            return self._buffer.last_seq(stream, partition)
        hot = self._tables()
        return int(
            hot is not None
            and any(
                partition is None or waits.table.full_name == _table_of(partition)
                for waits in hot.waiting()
            )
        )

    def depth(self) -> BufferDepth:
        """How full the buffer is. Tables have limits of their own, and are one more stream."""
        depth, hot = self._buffer.depth(), self._tables()
        return depth if hot is None else replace(depth, streams=(*depth.streams, hot.depth()))

    def parked(
        self, *, stream: str | None = None, partition: str | None = None
    ) -> list[ParkedEntry]:
        """Parked entries and rows."""
        found = self._buffer.parked(stream=stream, partition=partition)
        hot = self._hot(stream)
        if hot is None:
            return found
        rows = [row for row in hot.parked() if partition in (None, row.partition)]
        return sorted([*found, *rows], key=lambda entry: entry.parked_at)

    def parked_entry(self, parked_id: int) -> Entry | None:
        """A parked entry, or row: its columns are its records, as JSON."""
        if parked_id >= 0:
            return self._buffer.parked_entry(parked_id)
        hot = self._tables()
        found = hot.parked_row(parked_id) if hot is not None else None
        if hot is None or found is None:
            return None
        parked = next((row for row in hot.parked() if row.id == parked_id), None)
        if parked is None:
            return None
        _, row = found
        records = tuple(Record(name.encode(), _shown(value)) for name, value in row.items())
        return Entry(STREAM, parked.partition, parked.seq, records, parked.accepted_at)

    def unpark(self, parked_ids: Iterable[int]) -> list[int]:
        """Put entries and rows back."""
        ids = list(parked_ids)
        back = self._buffer.unpark([one for one in ids if one >= 0])
        rows, hot = [one for one in ids if one < 0], self._tables()
        return [*back, *hot.unpark(rows)] if rows and hot is not None else back

    def discard_parked(self, parked_ids: Iterable[int]) -> None:
        """Remove entries and rows for good."""
        ids = list(parked_ids)
        self._buffer.discard_parked([one for one in ids if one >= 0])
        rows, hot = [one for one in ids if one < 0], self._tables()
        if rows and hot is not None:
            hot.discard_parked(rows)

    def retry_now(
        self, stream: str | None = None, partition: str | None = None, *, spread_s: float = 0.0
    ) -> int:
        """What waits for its next attempt is due."""
        count = (
            self._buffer.retry_now(stream, partition, spread_s=spread_s) if stream != STREAM else 0
        )
        hot = self._hot(stream)
        if hot is None:
            return count
        named = _table_of(partition) if partition is not None else None
        for waits in hot.waiting():
            if named in (None, waits.table.full_name):
                count += hot.retry_now(waits.table)
        return count

    def _hot(self, stream: str | None) -> HotTables | None:
        return self._tables() if stream in (None, STREAM) else None


def _table_of(partition: str) -> str:
    """The table of a partition (`Table.partition`)."""
    return partition.partition("/")[0]


def _shown(value: Any) -> bytes:
    return value if isinstance(value, bytes) else jsontext.dumps(value)
