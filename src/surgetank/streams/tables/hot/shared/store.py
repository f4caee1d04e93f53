"""The hot rows of tables of several hosts: each host has a replica, and a log in Redis has what is
done to them.

    hot = SharedHotTables(path, SharedLog(address), location, max_bytes=..., row_max_bytes=...)

What changes rows is a step of the log: accepted when it is there, as safe as the buffer's own
entries, and done by every host in the order of the log. So a key is unique on all hosts, an UPDATE
meets rows of any host, one host flushes at a time, and a host that is lost takes no row with it.
Who reads does all steps first that are in the log by then. The rows of a batch are a file in the
storage of tables, which hosts share; the log has its name."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from surgetank.exceptions import BufferUnavailable, ConfigurationError, SurgetankError
from surgetank.model import FailureGroup, ParkedEntry, PartitionState, StreamDepth
from surgetank.sqlite.shared import SharedFile
from surgetank.streams.tables.definition import Kind, Table
from surgetank.streams.tables.hot.accepting import Accepting
from surgetank.streams.tables.hot.counting import waits
from surgetank.streams.tables.hot.definitions import definition_of
from surgetank.streams.tables.hot.layout import Layout
from surgetank.streams.tables.hot.protocol import (
    Accepted,
    Acked,
    BatchKey,
    Held,
    HotSnapshot,
    Progress,
    Refused,
    TableLease,
    Waiting,
)
from surgetank.streams.tables.hot.putting import KeyTaken, Rows, Stored, Unless
from surgetank.streams.tables.hot.reading import Snapshots
from surgetank.streams.tables.hot.segment_files import SharedSegments
from surgetank.streams.tables.hot.shared import forms
from surgetank.streams.tables.hot.shared.applying import Applying
from surgetank.streams.tables.hot.shared.copies import Copies
from surgetank.streams.tables.hot.shared.log import SharedLog
from surgetank.streams.tables.hot.shared.replica import ReplicaFile
from surgetank.streams.tables.hot.store import MAX_BYTES, ROW_MAX_BYTES
from surgetank.streams.tables.hot.tallies import Tallies
from surgetank.streams.tables.hot.upkeep import without
from surgetank.telemetry import log

_COPY_STEPS = 5000  # after which the log begins with another copy
_COPY_S = 600.0
_ORPHAN_S = 3600.0  # longer than any call takes between a file and its step


class SharedHotTables:
    """`HotTables` on a log that hosts share. Raises `BufferUnavailable` while the server is
    away."""

    def __init__(
        self,
        path: Path,
        shared: SharedLog,
        location: Any,
        *,
        max_bytes: int = MAX_BYTES,
        row_max_bytes: int = ROW_MAX_BYTES,
        before_write: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
        on_problem: Callable[[SurgetankError], None] = lambda _: None,
    ) -> None:
        self._log = shared
        self._segments = SharedSegments(location)
        self._file = ReplicaFile(
            Path(path), self._segments, max_bytes=max_bytes, before_write=before_write, clock=clock,
            define=lambda text: int(self._do("define", text)),
        )  # fmt: skip
        self._copies = Copies(self._file, location)
        self._applying = Applying(shared, self._file, self._copies, on_problem)
        self._do = self._applying.do
        self._steps = self._applying.steps
        self._accepting = Accepting(
            self._file, _Appending(self._file, self._applying), row_max_bytes=row_max_bytes
        )
        self.accept, self.accept_arrow = self._accepting.accept, self._accepting.accept_arrow
        self.too_large, self.large_rows = self._accepting.too_large, self._accepting.large_rows
        self._snapshots, self._tallies = Snapshots(self._file), Tallies(self._file)
        self._copied_at = time.monotonic()
        self._copying = threading.Lock()
        self.path = self._file.path

    # -- reading: after all that is in the log by now

    def repeated(self, table: Table, batch: BatchKey) -> Accepted | None:
        """See `HotTables.repeated`."""
        self._applying.catch_up()
        return self._accepting.repeated(table, batch)

    def acks(self, table: Table) -> int:
        """See `HotTables.acks`."""
        self._applying.catch_up()
        return self._accepting.acks(table)

    def erasures(self) -> int:
        """See `HotTables.erasures`."""
        self._applying.catch_up()
        return self._accepting.erasures()

    @contextmanager
    def snapshot(self) -> Iterator[HotSnapshot]:
        """See `HotTables.snapshot`."""
        self._applying.catch_up()
        with self._snapshots.snapshot() as found:
            yield found

    def known_keys(self, table: Table, user: str, keys: Sequence[bytes]) -> Mapping[bytes, int]:
        """See `HotTables.known_keys`."""
        self._applying.catch_up()
        return self._accepting.known_keys(table, user, keys)

    def waiting(self) -> list[Waiting]:
        """See `HotTables.waiting`."""
        self._applying.catch_up()
        return self._tallies.waiting()

    def progress(self, table: Table) -> Mapping[str, Progress]:
        """See `HotTables.progress`."""
        self._applying.catch_up()
        return self._tallies.progress(table)

    def depth(self) -> StreamDepth:
        """See `HotTables.depth`."""
        self._applying.catch_up()
        return self._tallies.depth()

    def states(self, *, failing: bool = False, limit: int = 1000) -> list[PartitionState]:
        """See `HotTables.states`."""
        self._applying.catch_up()
        return self._tallies.states(failing=failing, limit=limit)

    def failures(self, *, limit: int = 1000) -> list[FailureGroup]:
        """See `HotTables.failures`."""
        self._applying.catch_up()
        return self._tallies.failures(limit=limit)

    def parked(self) -> list[ParkedEntry]:
        """See `HotTables.parked`."""
        self._applying.catch_up()
        return self._steps.parking.parked()

    def parked_row(self, parked_id: int) -> tuple[str, Mapping[str, Any]] | None:
        """See `HotTables.parked_row`."""
        self._applying.catch_up()
        return self._steps.parking.parked_row(parked_id)

    def tables(self) -> list[int]:
        """See `HotTables.tables`."""
        self._applying.catch_up()
        return self._steps.upkeep.tables()

    def take(
        self, lease: TableLease, *, after: int = 0, max_bytes: int = 40 * 1024**2
    ) -> tuple[pa.Table, int]:
        """See `HotTables.take`."""
        self._applying.catch_up()
        return self._steps.flushing.take(lease, after=after, max_bytes=max_bytes)

    # -- steps

    def lease(
        self, table: Table, *, owner: str, ttl_s: float, force: bool = False
    ) -> TableLease | None:
        """See `HotTables.lease`."""
        self._applying.catch_up()
        if not self._steps.leases.is_due(table, force=force):
            return None
        found = self._do("lease", self._file.number_of(table), owner, ttl_s, force)
        return None if found is None else forms.lease_of(found)

    def renew(self, lease: TableLease, *, ttl_s: float) -> None:
        """See `HotTables.renew`."""
        self._do("renew", forms.kept_lease(lease), ttl_s)

    def release(self, lease: TableLease) -> None:
        """See `HotTables.release`."""
        self._do("release", forms.kept_lease(lease))

    def fail(self, lease: TableLease, held: Held) -> None:
        """See `HotTables.fail`."""
        self._do("fail", forms.kept_lease(lease), forms.kept_held(held))

    def retry_now(self, table: Table | None = None) -> int:
        """See `HotTables.retry_now`."""
        return int(self._do("retry", None if table is None else self._file.number_of(table)))

    def ack(
        self,
        lease: TableLease,
        through: int,
        *,
        held: Mapping[str, Held] | None = None,
        refused: Sequence[Refused] = (),
    ) -> Acked:
        """See `HotTables.ack`."""
        kept = forms.kept_helds(held), forms.kept_refused(refused)
        return forms.acked_of(self._do("ack", forms.kept_lease(lease), through, *kept))

    def unpark(self, parked_ids: Sequence[int]) -> list[int]:
        """See `HotTables.unpark`."""
        return list(self._do("unpark", list(parked_ids)))

    def discard_parked(self, parked_ids: Sequence[int]) -> None:
        """See `HotTables.discard_parked`."""
        self._do("discard", list(parked_ids))

    def forget_table(self, table_id: int) -> None:
        """See `HotTables.forget_table`."""
        self._do("forget", table_id)

    def erase_user(self, user: str) -> int:
        """See `HotTables.erase_user`. Other hosts do it when they next read, or in their upkeep."""
        while (erased := self._erase(user)) is None:
            pass  # a segment with rows of the user was accepted meanwhile
        self._steps.upkeep.remove_bytes()
        with self._file.transaction() as connection:
            connection.execute("UPDATE hot_replica SET scrubs = 0")
        # The log and the copies have rows of the user, too: it begins with what is left.
        self._do("pass")
        self._copy()
        return erased

    def _erase(self, user: str) -> int | None:
        self._applying.catch_up()
        with self._file.read() as connection:
            concerned = self._steps.upkeep.files_with(connection, user)
        rewritten = {
            name: without(self._segments, table, segment, user)
            for name, (table, segment) in concerned.items()
        }
        kept = {
            name: None if each is None else [each.file, each.size]
            for name, each in rewritten.items()
        }
        done: list[int] | None = self._do("erase", user, kept)
        if done is None:
            self._segments.remove([each.file for each in rewritten.values() if each is not None])
            return None
        return done[0]

    # -- upkeep

    def maintain(self) -> None:
        """See `HotTables.maintain`."""
        self._applying.catch_up()
        self._applying.scrub()
        if self._steps.upkeep.is_something_over():
            self._do("expire")
        self._file.tidy()
        _, at = self._log.copy()
        steps = self._file.where().n - at
        if steps >= _COPY_STEPS or (steps > 0 and time.monotonic() - self._copied_at > _COPY_S):
            self._copy()
            self._sweep()

    def _copy(self) -> None:
        """Let the log begin with this replica's state. What was before it is not needed any
        more."""
        with self._copying:
            self._copied_at = time.monotonic()
            name, at = self._copies.make()
            before, taken = self._log.keep_copy(name, at)
            gone = before if taken else name
            try:
                if gone:
                    self._copies.remove(gone)
            except SurgetankError:
                log.warning("table_copy_left", name=gone)

    def _sweep(self) -> None:
        """Remove files of segments that no step after the newest copy needs."""
        try:
            old = self._segments.older(_ORPHAN_S)
        except SurgetankError:
            return
        with self._file.read() as connection:
            named = {name for (name,) in connection.execute("SELECT file FROM hot_segments")}
        gone = [name for name in old if name not in named]
        if gone:
            self._segments.remove(gone)
            with self._file.transaction() as connection:
                connection.executemany(
                    "DELETE FROM hot_retired WHERE file = ?", [(name,) for name in gone]
                )
            self._file.mapped.forget()

    def close(self) -> None:
        """See `HotTables.close`."""
        self._log.close()
        self._file.close()


class _Appending:
    """What a call accepts becomes a step (`Puts`)."""

    def __init__(self, file: ReplicaFile, applying: Applying) -> None:
        self._file, self._do = file, applying.do
        self._unsure: set[str] = set()  # segments that may be in the log

    def put(self, layout: Layout, rows: Rows, unless: Unless) -> Accepted:
        number = self._file.number_of(layout.table)
        kept = forms.kept_rows(rows), forms.kept_unless(unless)
        return forms.accepted_of(self._do("put", number, *kept, grows=True))

    def put_segment(self, layout: Layout, stored: Stored, unless: Unless) -> Accepted:
        number = self._file.number_of(layout.table)
        kept = forms.kept_segment(stored), forms.kept_unless(unless)
        self._unsure.add(stored.file)
        try:
            accepted = forms.accepted_of(self._do("segment", number, *kept, grows=True))
        except (KeyTaken, SurgetankError) as error:
            if not isinstance(error, BufferUnavailable):  # then it may be in the log
                self._unsure.discard(stored.file)
            raise
        self._unsure.discard(stored.file)
        return accepted

    def may_name(self, file: str) -> bool:
        return file in self._unsure


def refuse_waiting(file: SharedFile) -> None:
    """Raise `ConfigurationError` where rows wait in the file of this host that had the hot rows
    before hosts shared them: nobody would flush them."""
    with file.read() as connection:
        there = connection.execute(
            "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'hot_tables'"
        ).fetchone()
        if not there:
            return
        kept = connection.execute("SELECT definition FROM hot_tables WHERE dropped = 0").fetchall()
        tables = [definition_of(text) for (text,) in kept]
        flushed = [table for table in tables if table.kind is not Kind.STREAM]
        waiting = sum(waits(connection, table.id).changes for table in flushed)
        (parked,) = connection.execute("SELECT count(*) FROM hot_parked").fetchone()
    if waiting or parked:
        raise ConfigurationError(
            f"{waiting} rows of tables wait in {file.path}, and {parked} are parked there: that file is not used "
            "where hosts share the rows that wait.",
            remedy="flush them first: with SURGETANK_BUFFER_URL or SURGETANK_TABLES_URL as it was, run "
            "`surgetank flush` (and retry or discard what is parked).",
        )
