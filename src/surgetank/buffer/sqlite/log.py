"""The log of the SQLite buffer: an append is one short transaction, about 25 microseconds.

Concurrent appenders commit together: each puts its request in a queue, and whoever holds the write
lock commits all that wait (group commit). With `durability="power"` one fsync then serves them all.
How one append is inserted is in `append.py`.
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from surgetank.buffer.limits import BufferLimits
from surgetank.buffer.log import Guard
from surgetank.buffer.sqlite.append import Inserter, Request
from surgetank.buffer.sqlite.backlog import SQLiteBacklog
from surgetank.buffer.sqlite.binding import note_destination
from surgetank.buffer.sqlite.buffer_file import BufferFile
from surgetank.buffer.sqlite.chain import Load, Memory
from surgetank.buffer.sqlite.ids import SLOTS
from surgetank.buffer.sqlite.read import SQLiteSnapshot
from surgetank.buffer.sqlite.writers import outdated
from surgetank.exceptions import BufferFull, BufferProblem, BufferUnavailable, EntryRejected
from surgetank.model import Record
from surgetank.sqlite.file import is_busy, translate

_GROUP = 256  # requests committed together, at most


class SQLiteLog:
    """The role `Log`. `last_words` are streams that are accepted even when the file was deleted or
    its disk is full; `destination` is the database that the buffer belongs to from its first entry
    on."""

    def __init__(
        self,
        file: BufferFile,
        inserter: Inserter,
        *,
        memory: Memory,
        load: Load,
        backlog: SQLiteBacklog,
        last_words: frozenset[str],
        destination: str | None,
    ) -> None:
        self._file = file
        self._inserter = inserter
        self._memory = memory
        self._load = load
        self._backlog = backlog
        self._last_words = last_words
        self._destination = destination
        self._begun = False
        self.waiting: deque[Request] = deque()

    @property
    def _limits(self) -> BufferLimits:
        return self._inserter.limits

    def append(
        self,
        stream: str,
        partition: str,
        records: Sequence[Record],
        *,
        guard: Guard | None = None,
        start_guarding: bool = False,
        ask_guards: bool = False,
        wait: bool = True,
        fence: int | None = None,
        tenant: str = "",
    ) -> int:
        request = _request(stream, partition, records, guard, fence)
        request.tenant = tenant
        request.start_guarding, request.ask_guards = start_guarding, ask_guards
        deadline: float | None = None
        while True:
            self._submit(request)
            if request.error is not None:
                raise request.error
            if not request.full:
                if not request.accepted:
                    raise _interrupted()
                if request.outdated:
                    raise outdated(partition)
                return request.seq
            if deadline is None:
                self._refuse_hopeless(request, wait=wait)
                deadline = time.monotonic() + self._limits.block_timeout_s
            self._wait_for_space(request, deadline)

    def try_append(
        self,
        stream: str,
        partition: str,
        records: Sequence[Record],
        *,
        guard: Guard | None = None,
        fence: int | None = None,
        tenant: str = "",
    ) -> int | None:
        request = _request(stream, partition, records, guard, fence)
        request.tenant = tenant
        self._file.refuse_fork()
        if not self._file.try_lock():
            return None
        try:
            if not self._commit_without_waiting(request):
                return None
        finally:
            self._file.lock.release()
        if request.full:
            raise self._full(request, waited=None)
        if request.outdated:
            raise outdated(partition)
        return request.seq

    @contextmanager
    def snapshot(self) -> Iterator[SQLiteSnapshot]:
        file = self._file
        with file.read() as connection:
            yield SQLiteSnapshot(
                connection,
                file.clock(),
                file.checker,
                self._memory.recall,
                self._load,
                file.auditor.audit,
            )

    # -- committing

    def _commit_without_waiting(self, request: Request) -> bool:
        """Commit one append alone; False if another process holds the file just now."""
        with self._file.hurried():
            try:
                self._begun = False
                self._commit([request])
            except sqlite3.Error as error:
                if is_busy(error):
                    return False
                raise self._refusal(error, request) from error
            except UnicodeEncodeError as error:
                raise self._refusal(error, request) from error
        return True

    def _submit(self, request: Request) -> None:
        self._file.refuse_fork()
        request.done = request.full = request.accepted = False
        self.waiting.append(request)
        try:
            with self._file.lock:
                while not request.done and self.waiting:
                    self._commit_group()
        except BaseException:  # KeyboardInterrupt: who was told so must not find it accepted later
            with suppress(ValueError, IndexError):
                self.waiting.remove(request)
            raise

    def _commit_group(self) -> None:
        group: list[Request] = []
        self._begun = False
        try:
            while self.waiting and len(group) < _GROUP:
                group.append(self.waiting.popleft())
            self._commit(group)
            self._accept(group)
        except (
            sqlite3.OperationalError,
            BufferProblem,
        ) as error:  # the file's fault: the same for all
            self._refuse(group, error)
        except Exception as error:
            if self._begun:  # a signal handler's exception that came after the commit
                self._accept(group)
                raise
            if len(group) == 1:
                self._refuse(group, error)
            else:  # one append's data: it must not take its neighbours with it
                for request in group:
                    self._commit_alone(request)
        except BaseException:  # KeyboardInterrupt
            if self._begun and not self._file.in_transaction():
                self._accept(group)  # it came after the commit
            raise
        finally:
            for request in group:
                request.done = True

    def _commit(self, group: Sequence[Request]) -> None:
        file = self._file
        try:
            if file.identity.missing() is not None:
                self._refuse_lost(group)
            connection = file.begin()
            self._begun = True
            short = file.reserve.is_short()
            for request in group:
                if short and request.stream not in self._last_words:
                    request.full = True
                else:
                    self._inserter.insert(connection, request, file.clock())
            # what is accepted first says where all of it is meant to go
            if self._destination is not None:
                note_destination(connection, self._destination, len(group), file.clock())
            connection.execute("COMMIT")
            self._destination = None
            self._memory.committed()
            file.reserve.spent(sum(request.size for request in group))
        except BaseException as error:
            if isinstance(error, sqlite3.Error) or file.in_transaction():
                self._begun = False
                file.roll_back()
            file.disk_hit(error)
            raise

    def _refuse_lost(self, group: Sequence[Request]) -> None:
        """Raise unless all of it is about to be flushed by this very process."""
        problem = self._file.identity.problem()
        if problem is not None and any(request.stream not in self._last_words for request in group):
            raise problem

    @staticmethod
    def _accept(group: Sequence[Request]) -> None:
        for request in group:
            request.accepted = True

    def _commit_alone(self, request: Request) -> None:
        try:
            request.full, request.seq = False, 0
            self._begun = False
            self._commit([request])
            request.accepted, request.error = True, None
        except Exception as error:  # noqa: BLE001 - handed to the append that it belongs to
            self._refuse([request], error)

    # -- refusing

    def _refuse(self, group: Sequence[Request], error: BaseException) -> None:
        for request in group:
            request.error = self._refusal(error, request)

    def _refusal(self, error: BaseException, request: Request) -> Exception:
        if isinstance(error, sqlite3.Error):
            return translate(error, self._file.path)
        if isinstance(error, UnicodeEncodeError):
            return EntryRejected(
                partition=request.partition, path="$", reason=f"a name that is not valid text "
                f"({error.reason})",
                remedy="use names without lone surrogates",
            )  # fmt: skip
        assert isinstance(error, Exception)
        return error

    def _refuse_hopeless(self, request: Request, *, wait: bool) -> None:
        limits = self._limits
        if not wait or request.size > limits.max_bytes or limits.when_full == "reject":
            raise self._full(request, waited=None)

    def _full(self, request: Request, *, waited: float | None) -> BufferFull:
        depth = self._backlog.depth()
        if depth.disk_full:
            return BufferFull(
                f"The disk that holds the buffer {self._file.path} is full ({depth.disk_free} "
                f"bytes are free, what Surgetank keeps for flushing not counted); what was written "
                f"for {request.partition!r} was not accepted.",
                remedy="free some space on it, or move SURGETANK_HOME to a larger disk. What waits "
                "is flushed meanwhile (`surgetank flush`), which makes room too.",
            )
        wait = f" after waiting {waited:.0f} s" if waited is not None else ""
        return BufferFull(
            f"The buffer is at its limit{wait}: {depth.entries} of {depth.max_entries} entries, "
            f"{depth.bytes} of {depth.max_bytes} bytes; {request.size} bytes for "
            f"{request.partition!r} were not accepted.",
            remedy="see `surgetank status` for why it doesn't drain (is the database up?), or "
            "raise SURGETANK_BUFFER_MAX_BYTES / SURGETANK_BUFFER_MAX_ENTRIES.",
        )

    def _wait_for_space(self, request: Request, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._full(request, waited=self._limits.block_timeout_s)
        self._file.wait_for_space(left)


def _request(
    stream: str,
    partition: str,
    records: Sequence[Record],
    guard: Guard | None,
    fence: int | None,
) -> Request:
    # no row to be found by, or rows that take the next entry's ids
    if not 0 < len(records) < SLOTS:
        raise EntryRejected(
            partition=partition, path="$", reason=f"an entry of {len(records)} records",
            remedy=f"write between 1 and {SLOTS - 1} values at once",
        )  # fmt: skip
    return Request(stream, partition, records, guard, fence=fence)


def _interrupted() -> BufferUnavailable:
    return BufferUnavailable("The append was interrupted and not accepted.", remedy="append again.")
